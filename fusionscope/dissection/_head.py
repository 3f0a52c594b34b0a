"""The discrepancy ratio, where the head is one linear layer over the modalities' features side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope.batch import Batch, unwrap
from fusionscope.dissection._fill import fill_in
from fusionscope.dissection._ranks import gathered
from fusionscope.dissection._reuse import Version
from fusionscope.dissection._sources import Source
from fusionscope.dissection._step import Step, attempt
from fusionscope.measures import PairedScores, resolve_score
from fusionscope.measures.functional import percentile_interval


class Head:
    """``ρ_m = s_m / mean_{n≠m} s_n`` with ``s_m = Σ softmax(W_m φ_m + b/M)[y]``: the part of the logits that comes
    from the columns of one modality (OGM-GE, arXiv 2203.15332; for M > 2 against the mean of the others).

    The head is the linear layer whose output is the prediction; which of its inputs belongs to which modality is found
    by replacing each modality in the first batch of all (on every rank the same one), and again for inputs that were
    constant there (a dead ReLU) and are not in a later batch. ``reason`` says why there is no ratio.
    """

    def __init__(self, main: Source, first: Batch, *, alpha: float, seed: int) -> None:
        self.main, self.first, self.seed = main, first, seed
        self.layer: nn.Linear | None = None
        self.owner = torch.zeros(0, dtype=torch.int64)  # of each input the modality's place, -1 where it has not moved
        self.still = torch.zeros(0)  # the inputs of the first sample, what those hold that have not moved
        self.reason = ""
        self.begun = False
        score = resolve_score(_share, "classification")
        self.table = PairedScores(main.modalities, score=score, alpha=alpha, seed=seed)

    def feed(self, step: Step) -> None:
        """Split the logits of one batch."""
        if not self.begun:
            self.begun = True
            self.reason = self._begin(step)
        if self.reason or self.layer is None:
            return
        features, _ = _passing(step, self.layer, step.batch, step.real())
        if features.ndim != 2:
            self.reason = "the last linear layer is not called in every batch"
            return
        if ((self.owner < 0) & (features != self.still).any(0)).any():
            self.reason = self._split(step, self.layer, features)
            if self.reason:
                return
        names = self.main.modalities
        bias = 0.0 if self.layer.bias is None else self.layer.bias / len(names)
        for place, modality in enumerate(names):
            columns = self.owner == place
            logits = features[:, columns] @ self.layer.weight[:, columns].T + bias
            self.table.update(modality, logits, step.batch.target, step.batch.group, step.ids)

    def _begin(self, step: Step) -> str:
        """Find the head in the first batch of all, of which nothing is kept for reuse."""
        first = self.first.to(step.prediction.device)
        prediction, reason = attempt(lambda: step.predict(first, dict.fromkeys(self.main.modalities)))
        if prediction is None:
            return reason
        return self._find(replace(step, batch=first, index=0, start=0, prediction=prediction))

    def _find(self, step: Step) -> str:
        anew = dict.fromkeys(self.main.modalities)
        for module in unwrap(self.main.model).modules():
            if isinstance(module, nn.Linear) and module.out_features == step.prediction.shape[1]:
                features, output = _passing(step, module, step.batch, anew)
                if output.shape == step.prediction.shape and torch.equal(output, step.prediction):
                    self.layer = module
                    return self._split(step, module, features)
        return "the prediction is not the output of one linear layer"

    def _split(self, step: Step, layer: nn.Linear, features: Tensor) -> str:
        """Find the modality of each input that moves in this batch, and say why there is none."""
        if features.ndim != 2:
            return "the last linear layer is called for several places of a sample"
        if not len(self.owner):
            self.owner = torch.full_like(features[0], -1, dtype=torch.int64)
            self.still = features[0].clone()
        names = self.main.modalities
        for place, modality in enumerate(names):
            filled = fill_in(step.batch, [modality], "resample", seed=self.seed, index=step.index)
            found, reason = attempt(lambda b=filled: _passing(step, layer, b, dict.fromkeys(names))[0])
            if found is None:
                return reason
            moved = (found != features).any(0)
            if (moved & (self.owner >= 0) & (self.owner != place)).any():
                return (
                    "the inputs of the last linear layer mix the modalities, so the logits cannot be split by modality"
                )
            self.owner[moved] = place
        for place, modality in enumerate(names):
            if not (self.owner == place).any():
                return f"no input of the last linear layer depends on {modality} alone"
        return ""

    def ratios(self) -> list[dict[str, Any]]:
        """Return a row per modality."""
        names = self.main.modalities
        nan = float("nan")
        # All ranks have to agree before the table is computed together; one without a batch knows no reason.
        reasons = gathered([self.reason] if self.begun else [])
        reason = next(filter(None, reasons), "" if reasons else "no batch was seen")
        reason = reason or ("there is one modality only" if len(names) < 2 else "")
        if reason:
            return [{"modality": m, "value": nan, "low": nan, "high": nan, "reason": reason} for m in names]
        found = self.table.compute()
        rows = []
        for i, modality in enumerate(names):
            rest = [j for j in range(len(names)) if j != i]
            draws = found.draws[:, i] / found.draws[:, rest].mean(1)
            low, high = map(float, percentile_interval(draws, found.alpha))
            value = float(found.values[i] / found.values[rest].mean())
            rows.append(
                {"modality": modality, "value": value, "low": low, "high": high, "reason": str(found.reason[i])}
            )
        return rows


def _share(output: Tensor, target: Tensor) -> Tensor:
    """The probability of the label."""
    picked = output.double().softmax(1).gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    return torch.where(target >= 0, picked, torch.nan)


def _passing(step: Step, layer: nn.Linear, batch: Batch, versions: Mapping[str, Version]) -> tuple[Tensor, Tensor]:
    """Input and output of a layer's last call; without entries if it is not called."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(module: nn.Module, args: tuple, keywords: dict[str, Any], output: Tensor) -> None:
        seen.append((args[0] if args else keywords["input"], output))

    handle = layer.register_forward_hook(look, with_kwargs=True)
    try:
        step.predict(batch, versions)
    finally:
        handle.remove()
    return seen[-1] if seen else (torch.zeros(0), torch.zeros(0))

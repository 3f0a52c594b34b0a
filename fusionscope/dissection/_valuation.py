"""Samples on which a modality hurts: its own value against those of other samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fusionscope._nest import map_tensors
from fusionscope.batch import Batch
from fusionscope.dissection._ranks import gathered
from fusionscope.dissection._step import Step, attempt
from fusionscope.dissection._task import Task
from fusionscope.measures.functional import benjamini_hochberg, mean_test

TESTED = 8  # one sample in so many is tested
DRAWN = 6
ABOUT = ("group", "label", "predicted")
MEASURED = ("sample", "effect", "worse", "p", "modality", "donors")


class Valuation:
    """For samples that the model tells badly: does a modality's own value do worse than those of other samples?

    Tested are the samples of each batch to whose truth the model gives least probability, an eighth of it. The test
    takes ``donors`` values from other samples and asks whether the model gives the truth more probability with them on
    average than with the sample's own value (``mean_test``, which holds for any distribution). Discoveries are
    controlled over all tests (Benjamini and Hochberg on inverse e-values).

    The probability of the truth is that of the label (dense: mean over places; several labels: mean over labels); of a
    number the likelihood ``exp(-(y - ŷ)²/(2 var y))`` relative to its peak, ``var y`` of the first batch of all.
    ``effect = log(own) - log(mean of others)``, in nats; all in logarithms, since a sure model gives the truth a
    probability that no number holds.
    """

    def __init__(
        self, task: Task, modalities: tuple[str, ...], first: Any, *, donors: int, alpha: float, seed: int
    ) -> None:
        self.modalities, self.donors, self.alpha, self.seed = modalities, donors, alpha, seed
        self.task = task
        self.spread = _spread(first) if task.kind == "regression" else torch.ones(1)
        self.found: list[dict[str, Any]] = []
        self.drawn: dict[str, list[tuple[float, float, int, Batch]]] = {m: [] for m in modalities}
        self.failed: dict[str, str] = {}
        if not self.spread.isfinite().any():
            self.failed = dict.fromkeys(modalities, "the target does not vary in the first batch")

    def feed(self, step: Step) -> None:
        """Test the samples of one batch."""
        own = self._truth(step.prediction, step.batch.target)
        worst = torch.argsort(own)[: max(step.batch.size // TESTED, 1)]
        for modality in self.modalities:
            if modality not in self.failed:
                self._test(step, modality, own, worst[own[worst].isfinite()])

    def _test(self, step: Step, modality: str, own: Tensor, rows: Tensor) -> None:
        size, count = step.batch.size, min(self.donors, step.batch.size - 1)
        if not len(rows) or count < 1:
            return
        generator = torch.Generator().manual_seed((self.seed * 1000003 + step.index) & 0x7FFFFFFF)
        shifts = torch.stack([torch.randperm(size - 1, generator=generator)[:count] + 1 for _ in rows])
        given = (rows.cpu()[:, None] + shifts) % size
        every = step.batch.take(rows.repeat_interleave(count))
        donated = step.batch.take(given.flatten().to(rows.device))
        asked = every.with_inputs(**{modality: donated.inputs[modality]})
        found, reason = attempt(lambda: torch.cat(list(self._chunks(step, asked))))
        if found is None:
            self.failed[modality] = reason
            return
        values = found.view(len(rows), count)
        gain = values - own[rows, None]
        worse = (gain > 0).sum(1)
        effect = math.log(count) - gain.logsumexp(1)
        p = mean_test(gain.exp().cpu().numpy(), np.ones(len(rows)))
        sample, effect = step.start + rows.cpu().numpy(), effect.cpu().numpy()
        about = {name: np.array([step.about(row)[name] for row in rows.tolist()]) for name in ABOUT}
        numbers = {"sample": sample, "effect": effect, "worse": worse.cpu().numpy(), "p": p}
        self.found.append(about | numbers | {"modality": modality, "donors": count})
        for row, key in zip(rows.tolist(), zip(p.tolist(), effect.tolist(), sample.tolist(), strict=True), strict=True):
            self._keep(modality, key, step.batch, row)

    def _chunks(self, step: Step, asked: Batch) -> Any:
        for at in torch.arange(asked.size).split(step.batch.size):
            part = asked.take(at.to(step.prediction.device))
            yield self._truth(step.predict(part, dict.fromkeys(self.modalities)), part.target)

    def _truth(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The logarithm of the probability of the truth ``[B]``, in float64."""
        if self.task.kind == "regression":
            y, guess = (t.double().reshape(len(target), -1) for t in (target, prediction))
            return -((y - guess) ** 2 / (2 * self.spread.to(y.device))).mean(1)
        known = ~target.isnan() if target.is_floating_point() else target >= 0
        if self.task.kind == "multilabel":
            logs = torch.nn.functional.logsigmoid(torch.where(target == 1, prediction, -prediction).double())
        else:
            logs = prediction.double().log_softmax(1).gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
        logs, known = (t.reshape(len(target), -1) for t in (logs.where(known, -torch.inf), known))
        return logs.logsumexp(1) - known.sum(1).double().log()

    def _keep(self, modality: str, key: tuple[float, float, int], batch: Batch, row: int) -> None:
        kept = self.drawn[modality]
        if not np.isfinite(key[1]) or (len(kept) == DRAWN and key > kept[-1][:3]):
            return
        one = batch.take(torch.tensor([row]))
        kept.append((*key, one.map(lambda t: t.detach().cpu().clone())))
        kept.sort(key=lambda entry: entry[:3])
        del kept[DRAWN:]

    def results(self) -> tuple[pd.DataFrame, dict[str, dict[str, Any]], list[str]]:
        """Return the tested samples of all ranks with their q, inputs to draw by sample, and notes."""
        parts = [pd.DataFrame(part) for part in gathered(self.found)]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*ABOUT, *MEASURED])
        drawn: dict[str, dict[str, Any]] = {}
        for modality in self.modalities:
            best = sorted(gathered(self.drawn[modality]), key=lambda entry: entry[:3])[:DRAWN]
            for _, _, sample, one in best:
                drawn[str(sample)] = {m: map_tensors(lambda t: t[0], nest) for m, nest in one.inputs.items()}
        table["q"] = benjamini_hochberg(table["p"].to_numpy(dtype=np.float64))
        table["hurts"] = (table["q"] <= self.alpha) & (table["effect"] < 0)
        failed = dict(gathered(list(self.failed.items())))
        return table, drawn, [f"no sample of {m} could be valued: {reason}" for m, reason in failed.items()]


def _spread(target: Tensor) -> Tensor:
    """The variance of each number that is to be told, over the samples where all are known; inf where it is 0."""
    y = target.double().reshape(len(target), -1)
    known = y[~y.isnan().any(1)]
    spread = known.var(0) if len(known) > 1 else torch.zeros_like(y[0])
    return spread.where(spread > 0, torch.inf)

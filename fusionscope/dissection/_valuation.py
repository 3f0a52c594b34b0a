"""Samples on which a modality hurts: its own value against those of other samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusionscope._nest import map_tensors
from fusionscope.batch import Batch
from fusionscope.dissection._fill import fill_in
from fusionscope.dissection._ranks import gathered
from fusionscope.dissection._step import Step, attempt
from fusionscope.measures import resolve_score
from fusionscope.measures.functional import benjamini_hochberg, sign_test

TESTED = 8  # one sample in so many is tested, those that lost most
DRAWN = 6
SECOND = 0x5EED


class Valuation:
    """For samples that one replacement seemed to help: does the modality's own value really do worse than others?

    The first replacement only chooses whom to test (the eighth of each batch that gained most). The test takes
    ``donors`` further values from other samples, drawn independently of the first, and counts how many give the true
    label a higher likelihood than the sample's own; under "the own value is as good as a random other one" that is at
    most half of them (``sign_test``). Discoveries are controlled over all tests by Benjamini and Hochberg's procedure.
    """

    def __init__(self, modalities: tuple[str, ...], kind: str, classes: int, *, donors: int, alpha: float, seed: int):
        self.modalities, self.donors, self.alpha, self.seed = modalities, donors, alpha, seed
        self.score = resolve_score("neg_mse" if kind == "regression" else "loglik", kind, classes)
        self.rows: list[dict[str, Any]] = []
        self.drawn: dict[str, list[tuple[float, float, int, Batch]]] = {m: [] for m in modalities}
        self.failed: dict[str, str] = {}

    def feed(self, step: Step) -> None:
        """Test the samples of one batch."""
        own = self._values(step.prediction, step.batch.target)
        for modality in self.modalities:
            if modality in self.failed:
                continue
            filled = fill_in(step.batch, [modality], "resample", seed=self.seed ^ SECOND, index=step.index)
            replaced, reason = attempt(lambda filled=filled, m=modality: step.predict(filled, step.real(m)))
            if replaced is None:
                self.failed[modality] = reason
                continue
            gain = self._values(replaced, step.batch.target) - own
            order = torch.argsort(gain, descending=True)[: max(step.batch.size // TESTED, 1)]
            self._test(step, modality, own, order[gain[order] > 0])

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
        worse = (values > own[rows, None]).sum(1).cpu()
        effect = (own[rows] - values.mean(1)).cpu()
        p = sign_test(worse.numpy(), np.full(len(rows), count))
        for i, row in enumerate(rows.tolist()):
            said = step.about(row) | {
                "sample": step.start + row,
                "modality": modality,
                "effect": float(effect[i]),
                "worse": int(worse[i]),
                "donors": count,
                "p": float(p[i]),
            }
            self.rows.append(said)
            self._keep(modality, said, step.batch, row)

    def _chunks(self, step: Step, asked: Batch) -> Any:
        for at in torch.arange(asked.size).split(step.batch.size):
            part = asked.take(at.to(step.prediction.device))
            yield self._values(step.predict(part, dict.fromkeys(self.modalities)), part.target)

    def _values(self, prediction: Tensor, target: Tensor) -> Tensor:
        sums = self.score.statistics(prediction, target)
        return torch.as_tensor(self.score.value(sums.cpu().numpy())).to(prediction.device)

    def _keep(self, modality: str, said: Mapping[str, Any], batch: Batch, row: int) -> None:
        if not np.isfinite(said["effect"]):
            return
        kept = self.drawn[modality]
        one = batch.take(torch.tensor([row]))
        kept.append((said["p"], said["effect"], said["sample"], one.map(lambda t: t.detach().cpu().clone())))
        kept.sort(key=lambda entry: entry[:3])
        del kept[DRAWN:]

    def results(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], list[str]]:
        """Return the tested samples of all ranks with their q, inputs to draw by sample, and notes."""
        rows = sorted(gathered(self.rows), key=lambda row: (row["sample"], self.modalities.index(row["modality"])))
        drawn: dict[str, dict[str, Any]] = {}
        for modality in self.modalities:
            best = sorted(gathered(self.drawn[modality]), key=lambda entry: entry[:3])[:DRAWN]
            for _, _, sample, one in best:
                drawn[str(sample)] = {m: map_tensors(lambda t: t[0], nest) for m, nest in one.inputs.items()}
        q = benjamini_hochberg(np.array([row["p"] for row in rows]))
        for row, value in zip(rows, q, strict=True):
            row |= {"q": float(value), "hurts": bool(value <= self.alpha and row["effect"] < 0)}
        failed = dict(gathered(list(self.failed.items())))
        return rows, drawn, [f"no sample of {m} could be valued: {reason}" for m, reason in failed.items()]

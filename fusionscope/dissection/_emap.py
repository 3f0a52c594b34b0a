"""EMAP: the best additive approximation of the model, from all pairs of samples of a subsample."""

from __future__ import annotations

import torch
from torch import Tensor

from fusionscope._nest import tensors
from fusionscope.batch import Batch
from fusionscope.dissection._sources import Source
from fusionscope.dissection._step import attempt
from fusionscope.dissection._task import Task
from fusionscope.errors import InputError
from fusionscope.measures import Emap, EmapResult, Score, sample_hash
from fusionscope.tracing import rng_state

PAIRED, PAIRED_DENSE = 64, 16


class Additive:
    """Keeps the inputs of the samples with the smallest hashes, and at the end runs the model on all pairs of them.

    A pair takes one modality from one sample and the rest from the other: the square of their number in forward rows
    per modality. Every rank sees every batch, so all do the same.
    """

    def __init__(self, main: Source, task: Task, score: Score, *, alpha: float, seed: int) -> None:
        self.main, self.task, self.score, self.alpha, self.seed = main, task, score, alpha, seed
        self.most = PAIRED_DENSE if task.kind == "dense" else PAIRED
        self.keys = torch.zeros(0, dtype=torch.int64)
        self.kept: Batch | None = None
        self.reason = ""

    def see(self, batch: Batch, index: int) -> None:
        """Look at one batch; keep its samples if their hashes are among the smallest."""
        keys = sample_hash(batch.size, index, self.seed)
        near = keys.argsort()[: self.most]
        if self.reason or (len(self.keys) == self.most and not bool((keys[near] < self.keys.max()).any())):
            return
        try:
            some = batch.take(near.to(_device(batch))).clone()
            whole = some if self.kept is None else self.kept.join(some)
        except InputError as error:
            self.reason = f"samples of different batches cannot be paired: {error}"
            return
        keys = torch.cat([self.keys, keys[near]])
        order = keys.argsort()[: self.most]
        self.keys, self.kept = keys[order], whole.take(order.to(_device(batch)))

    @torch.no_grad()
    def compute(self, rows: int, device: torch.device) -> list[tuple[str, EmapResult | str]]:
        """Return for each modality the result against the rest, or why there is none; ``rows`` per forward."""
        if self.kept is None or self.reason or self.kept.size < 4:
            return [(m, self.reason or "fewer than 4 samples") for m in self.main.modalities]
        if self.score.metric is not None:
            return [(m, "a torchmetrics score has no values per sample") for m in self.main.modalities]
        found: list[tuple[str, EmapResult | str]] = []
        kept = self.kept.to(device)
        for modality in self.main.modalities:
            emap = Emap(kept.size, score=self.score, alpha=self.alpha, seed=self.seed, sync_on_compute=False).to(device)
            for left in torch.arange(kept.size, device=device).split(max(rows // kept.size, 1)):
                logits, reason = attempt(lambda left=left, m=modality: self._pairs(kept, left, m))
                if logits is None:
                    emap.fail(reason)
                    break
                emap.update(left, logits, kept.target[left], None if kept.group is None else kept.group[left])
            found.append((modality, emap.compute()))
        return found

    def _pairs(self, kept: Batch, left: Tensor, modality: str) -> Tensor:
        """Outputs ``[left, N, ...]`` with ``modality`` from the left sample and the rest from each of the N."""
        N = kept.size
        right = kept.take(torch.arange(N, device=left.device).repeat(len(left)))
        taken = kept.take(left.repeat_interleave(N)).inputs[modality]
        asked = right.with_inputs(**{modality: taken})
        output = self.main.adapter.output(self.main.run(asked, rng_state()))
        return self.task.prediction(output, asked.target).unflatten(0, (len(left), N))


def _device(batch: Batch) -> torch.device:
    return tensors(batch.inputs)[0][1].device

"""Perceptual scores: what permuting one modality over the samples of a batch costs."""

from __future__ import annotations

from typing import Literal

from fusionscope.batch import Batch
from fusionscope.dissection._step import Step, attempt
from fusionscope.measures import PerceptualScore, Score
from fusionscope.measures.functional import permute_within

Kind = Literal["any", "within class", "across classes"]
KINDS: tuple[Kind, ...] = ("any", "within class", "across classes")
REPEATS = 10


class Perception:
    """Runs the model with one modality permuted, for each kind of permutation and each repeat."""

    def __init__(self, modalities: tuple[str, ...], kind: str, score: Score, *, alpha: float, seed: int) -> None:
        kinds = KINDS if kind == "classification" else KINDS[:1]
        self.table = PerceptualScore(modalities, kinds=kinds, repeats=REPEATS, score=score, alpha=alpha, seed=seed)
        self.modalities, self.kinds, self.seed = modalities, kinds, seed

    def feed(self, step: Step) -> None:
        """Run all permutations of one batch."""
        about = step.batch.target, step.batch.group, step.ids
        self.table.update(None, step.prediction, *about)
        for modality in self.modalities:
            for kind in self.kinds:
                for repeat in range(REPEATS):
                    condition = modality, kind, repeat
                    changed, stayed = self._permuted(step, *condition)
                    found, reason = attempt(lambda b=changed, m=modality: step.predict(b, step.real(m)))
                    if found is None:
                        self.table.fail(condition, reason)
                    else:
                        self.table.update(condition, found, *about, stayed=stayed)

    def _permuted(self, step: Step, modality: str, kind: Kind, repeat: int) -> tuple[Batch, int]:
        seed = ((self.seed * 31 + step.index) * 31 + self.modalities.index(modality)) * 31 + repeat
        labels = step.batch.target if kind != "any" else step.ids
        order, stayed = permute_within(labels, seed & 0x7FFFFFFF, kind)
        moved = step.batch.take(order.to(step.prediction.device)).inputs[modality]
        return step.batch.with_inputs(**{modality: moved}), stayed

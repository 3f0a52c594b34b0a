"""How the modalities learn: what is recorded of them while a model trains, and the tables made of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fusionscope._files import atomic_folder

from ._checkpoints import evenly, thin
from ._dynamics_probe import Probe, labels_of, named_targets
from ._dynamics_tables import COLUMNS, Rows, gallery, gram, projections, shown, similarities, write_csv
from ._dynamics_views import Views, undisturbed
from ._dynamics_weights import Owners, chosen, owners, total_norm
from ._modulation import TASKS, discrepancy_ratios, rightness
from ._scores import METRIC, Scores

SCHEMA = 1
CHOSEN = 4
COSINES = 20  # about so many epochs whose gradients are compared
STEPS = 50  # most steps of an epoch whose gradients are measured
QUANTITIES = {
    "gradient norm": "Euclidean norm of the training loss's gradient over the weights that serve this modality alone, "
    "before clipping; mean and standard deviation over the epoch's steps (50 of them at most)",
    "gradient cosine": "cosine, over the weights that both modalities reach, between the gradients of the loss on some "
    "of the probe with one of the two modalities alone",
    "discrepancy": "rho_m = s_m / (mean of s_n over the other modalities), s_m = the sum over the probe of the right "
    "class's softmax probability with modality m alone (of dense targets, over pixels); above 1, m does better alone "
    "than the others do",
    "value": "the task's metric on the probe with this modality alone; without a modality: with all",
    "instance gate": "i in (0, 1) of a contextual calibration, 0.88 at initialisation; over the probe's samples",
    "dimension gate": "g in (-1, 1) of a contextual calibration, 0 at initialisation; over samples and channels",
    "similarity to final": "linear CKA (unbiased) of the modality's features on the probe, averaged over time or "
    "space, with those at the last epoch; no unit",
}


class Recorder:
    """Record how the modalities learn.

    Per epoch and modality: the gradient norm of its own weights, the cosine between modalities' gradients on shared
    weights, the discrepancy ratio, the score from that modality alone, the gates of calibrations, the similarity of its
    features to their last state, and at about four epochs (the first and last among them) the features themselves.
    :data:`QUANTITIES` defines each. The discrepancy ratio is that of OGM-GE, arXiv:2203.15332, read off the model's
    prediction with other modalities taken away (not off the halves of a linear head, so that it holds for any head),
    against the mean of the others where there are more than two: both are ours.

    A modality is taken away by ``present``, where ``predict`` or ``outputs`` of the model has that parameter, else
    other samples' values of the probe stand for it.

    Nothing of the training changes: weights, gradients, buffers, modes and random generators stay as they are.

    Args:
        model: the model that trains, unwrapped: ``outputs(inputs)`` and ``loss(outputs, target, criterion)``.
        task: as of :class:`Scores`.
        modalities: their names.
        axes: of each modality, as ``"NCHW"``.
        classes: the classes' names, if any.
        criterion: ``(prediction, target) -> scalar``, as the training's.
        probe: from :func:`probe_of`, on the model's device.
        epochs: how many epochs the training takes at most.
        steps: how many steps one has.
        split: what the probe was taken from, for the record.
        data_range: as of :class:`Scores`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        task: str,
        modalities: Sequence[str],
        axes: Mapping[str, str],
        classes: Sequence[str],
        criterion: Callable[[Tensor, Tensor], Tensor],
        probe: Probe,
        epochs: int,
        steps: int = 1,
        split: str = "val",
        data_range: float = 1.0,
    ):
        began = time.perf_counter()
        self.model, self.task, self.modalities, self.classes = model, task, tuple(modalities), tuple(classes)
        self.criterion, self.probe, self.epochs, self.split = criterion, probe, epochs, split
        self.data_range = data_range
        self.every = max(1, math.ceil(steps / STEPS))
        self.rows = Rows()
        self.features: dict[int, dict[str, Tensor]] = {}
        self.grams: dict[int, dict[str, Tensor]] = {}
        self.count = 0
        device = probe.target.device
        kind = torch.float32 if device.type == "mps" else torch.float64
        # per modality: how many finite norms, their sum, the sum of their squares
        self.sums = torch.zeros(len(self.modalities), 3, dtype=kind, device=device)
        with undisturbed(model):
            few = {m: x[:2] for m, x in probe.inputs.items()}
            told = cast(Any, model).outputs(few)
            needed = any(f"{m} features" not in told for m in self.modalities)
            self.owners: Owners = owners(model, probe.inputs, probe.target, axes, needed)
        self.views = Views(model, self.modalities, self.owners.taps)
        self._bind()
        self.seconds = time.perf_counter() - began

    def step(self, scale: float | Tensor = 1.0) -> None:
        """Read the gradients, between backward and clipping; ``scale`` is what they are multiplied by."""
        self.count += 1
        if (self.count - 1) % self.every:
            return
        began = time.perf_counter()
        for sums, entries in zip(self.sums, self.own, strict=True):
            norm = total_norm(entries)
            if norm is not None:
                norm = (norm / scale).to(sums.dtype)
                good = norm.isfinite()  # with mixed precision, steps whose gradients overflow are left out
                norm = torch.where(good, norm, 0.0)
                sums += torch.stack([good.to(sums.dtype), norm, norm.square()])
        self.seconds += time.perf_counter() - began

    def epoch(self, epoch: int) -> None:
        """Measure on the probe, after an epoch; 0 is before the first."""
        began = time.perf_counter()
        if epoch:
            self._norms(epoch)
        with undisturbed(self.model):
            self._forward(epoch)
            if len(self.modalities) > 1 and epoch % max(1, math.ceil(self.epochs / COSINES)) == 0:
                self._cosines(epoch)
        self.features = thin(self.features, epoch, self.epochs, CHOSEN)
        self.seconds += time.perf_counter() - began

    def state_dict(self) -> dict[str, Any]:
        """All that was recorded; keys are strings."""
        return {
            "rows": self.rows.state_dict(),
            "features": {str(e): dict(found) for e, found in self.features.items()},
            "grams": {str(e): dict(found) for e, found in self.grams.items()},
            "sums": self.sums.clone(),
            "count": self.count,
            "owners": self.owners.state_dict(),
            "probe": self.probe.index.clone(),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from another recorder of the same model and probe."""
        self.rows.load_state_dict(state["rows"])
        self.features = {int(e): dict(found) for e, found in state["features"].items()}
        self.grams = {int(e): dict(found) for e, found in state["grams"].items()}
        self.sums.copy_(state["sums"])
        self.count, self.seconds = int(state["count"]), float(state["seconds"])
        self.owners.load_state_dict(state["owners"])
        self._bind()

    def write(self, folder: str | Path) -> None:
        """Write the tables, whole or not at all, in place of what ``folder`` held."""
        began = time.perf_counter()
        rows = Rows()
        rows.rows = list(self.rows.rows)
        if self.grams:
            similarities(self.grams, rows)
        rows.rows.sort(key=lambda row: (row["epoch"], list(QUANTITIES).index(row["quantity"])))
        epochs = [e for e in evenly(max(self.features, default=0), CHOSEN) if e in self.features]
        kept = {e: self.features[e] for e in epochs if self.features[e]}
        index, target = self.probe.index.tolist(), self.probe.target.cpu()
        points: list[dict[str, Any]] = []
        units: list[dict[str, Any]] = []
        if kept:
            points = projections(kept, index, named_targets(target, self.task, self.classes))
            units = gallery(kept, index, labels_of(target, self.task))
        with atomic_folder(folder) as out:
            write_csv(out / "dynamics.csv", COLUMNS, rows.rows)
            write_csv(out / "projection.csv", ("epoch", "modality", "sample", "label", "x", "y"), points)
            write_csv(out / "gallery.csv", ("epoch", "modality", "unit", "place", "sample", "activation"), units)
            np.savez_compressed(out / "pictures.npz", **shown(units, self.probe.inputs, index))
            self.seconds += time.perf_counter() - began
            text = json.dumps(self._about(epochs), indent=2)
            (out / "about.json").write_text(text + "\n", encoding="utf-8")

    def _about(self, epochs: list[int]) -> dict[str, Any]:
        ways = {
            "encode": "taken for absent behind their encoders (present)",
            "present": "taken for absent (present)",
            "others": "replaced by other samples' values",
        }
        return {
            "schema": SCHEMA,
            "metric": METRIC[self.task],
            "task": self.task,
            "modalities": list(self.modalities),
            "probe": {"split": self.split, "size": len(self.probe), "gradients": self.probe.gradients},
            "epochs": epochs,
            "measured_steps": f"every {self.every}" if self.every > 1 else "all",
            "others_are": ways[self.views.how],
            "weights": {
                "found": self.owners.found,
                "own": {m: len(entries) for m, entries in self.owners.own.items()},
                "shared": len(self.owners.shared),
            },
            "quantities": QUANTITIES,
            "seconds": round(self.seconds, 3),
        }

    def _bind(self) -> None:
        self.own = [chosen(self.model, self.owners.own.get(m, ())) for m in self.modalities]
        named = dict(self.model.named_parameters())
        self.shared = [(named[name], frozenset(who)) for name, who in self.owners.shared.items()]
        # whether a gradient of shared weights must pass the encoders
        self.early = any(name.startswith("encoders.") for name in self.owners.shared)

    def _norms(self, epoch: int) -> None:
        found = self.sums.tolist()
        self.sums.zero_()
        self.count = 0
        for m, entries, (n, total, squares) in zip(self.modalities, self.own, found, strict=True):
            if not n:
                reason = (
                    "no gradient reached its weights" if entries else f"no weights of its own ({self.owners.found})"
                )
                self.rows.add(epoch, "gradient norm", m, math.nan, reason=reason)
                continue
            mean = total / n
            std = math.sqrt(max(squares / n - mean**2, 0.0))
            self.rows.add(epoch, "gradient norm", m, mean, std=std, count=int(n))

    def _forward(self, epoch: int) -> None:
        inputs = self.probe.inputs
        whole, alone, features, gates = self.views.all(inputs)
        self._ratios(epoch, alone)
        for m, prediction in [("", whole), *alone.items()]:
            self.rows.add(epoch, "value", m, self._score(prediction), count=len(self.probe))
        several = len({place for place, _ in gates}) > 1
        for (place, m), gate in gates.items():
            for name in ("instance", "dimension"):
                x = getattr(gate, name).double()
                mean, std = float(x.mean()), float(x.std(correction=0))
                self.rows.add(epoch, f"{name} gate", m, mean, other=place if several else "", std=std, count=x.numel())
        for m in self.modalities:
            if m not in features:
                reason = f"its features cannot be read off the model ({self.owners.found})"
                self.rows.add(epoch, "similarity to final", m, math.nan, reason=reason)
        self.features[epoch] = {m: x.cpu() for m, x in features.items()}
        self.grams[epoch] = {m: gram(x) for m, x in self.features[epoch].items()}

    def _score(self, prediction: Tensor) -> float:
        scores = Scores(self.task, self.classes, self.probe.target.device, data_range=self.data_range)
        scores.update(prediction.float(), self.probe.target, torch.zeros(()))
        return float(cast(float, scores.compute()[METRIC[self.task]]))

    def _ratios(self, epoch: int, alone: Mapping[str, Tensor]) -> None:
        if len(alone) < 2:
            return
        if self.task not in TASKS:
            for m in alone:
                reason = f"defined for a choice among classes, not for {self.task}"
                self.rows.add(epoch, "discrepancy", m, math.nan, reason=reason)
            return
        target = self.probe.target
        count = int((target >= 0).sum()) if self.task == "dense" else len(target)
        sums = rightness(torch.stack([x.float() for x in alone.values()]), target, self.task).double()
        for m, ratio in zip(alone, discrepancy_ratios(sums).tolist(), strict=True):
            reason = "" if math.isfinite(ratio) else "the others alone give the right classes no probability"
            self.rows.add(epoch, "discrepancy", m, math.nan if reason else ratio, count=count, reason=reason)

    def _cosines(self, epoch: int) -> None:
        pairs = list(combinations(self.modalities, 2))
        if not self.shared:
            for m, n in pairs:
                reason = f"no weights that both reach ({self.owners.found})"
                self.rows.add(epoch, "gradient cosine", m, math.nan, other=n, reason=reason)
            return
        few = self.probe.gradients
        inputs, target = {m: x[:few] for m, x in self.probe.inputs.items()}, self.probe.target[:few]
        with torch.enable_grad():
            losses = self.views.losses(inputs, target, self.criterion, not self.early)
            grads = {m: self._gradients(loss) for m, loss in zip(self.modalities, losses, strict=True)}
        for m, n in pairs:
            both = [
                (a, b)
                for (_, who), a, b in zip(self.shared, grads[m], grads[n], strict=True)
                if {m, n} <= who and a is not None and b is not None
            ]
            value, reason = _cosine(both)
            self.rows.add(epoch, "gradient cosine", m, value, other=n, count=few, reason=reason)

    def _gradients(self, loss: Tensor) -> Sequence[Tensor | None]:
        if not loss.requires_grad:
            return (None,) * len(self.shared)
        return torch.autograd.grad(loss, [p for p, _ in self.shared], allow_unused=True)


def _cosine(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, str]:
    """Over the parameters that both reach: where one of the two gradients is zero throughout, it does not."""
    sums = [torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()]) for a, b in pairs]
    if not sums:
        return math.nan, "no weights that both reach"
    table = torch.stack(sums).cpu().double()
    dot, mine, theirs = table[(table[:, 1:] > 0).all(1)].sum(0).tolist()
    size = math.sqrt(mine) * math.sqrt(theirs)
    return (dot / size, "") if size > 0 else (math.nan, "the gradients reach no weights in common")

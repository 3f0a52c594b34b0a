"""What pairs of taps say about the label and about the model's prediction: partial information decomposition."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fusionscope.errors import InputError

from ._pairs import check_reduced, check_taps
from ._samples import mix, sample_hash
from ._subsample import Subsample
from .functional._broja import UNITS
from .functional._cka import check_word
from .functional._pid_batch import batch_decomposition
from .functional._pid_features import Decomposition, decompose, discretise, label_codes, nothing, usual_bins
from .functional._resampling import bound_rank

Array = np.ndarray
Side = tuple[str, ...]
ABOUT = ("label", "prediction")
PLACES = 4


@dataclass(frozen=True)
class InformationRow:
    """One atom of one pair: see ``Decomposition`` for the numbers; ``side_a`` and ``side_b`` are taps."""

    side_a: Side
    side_b: Side
    about: str
    estimator: str
    atom: str
    value: float
    shuffled: float
    shuffled_high: float
    corrected: float
    low: float
    high: float
    gap: float
    samples: int
    bins: tuple[int, int]
    reason: str


@dataclass(frozen=True, eq=False)
class InformationResult:
    """All decompositions, and the rows that they are made from.

    ``features`` are ``[n, D]`` per tap; ``labels`` and ``predictions`` ``[n, K]`` (class numbers, or numbers; NaN where
    there is none), ``groups`` ``[n]``. ``samples`` of the data were seen, ``used`` rows of them are kept.
    """

    rows: tuple[InformationRow, ...]
    features: dict[str, Float64[Array, "n D"]]
    labels: Float64[Array, "n K"]
    predictions: Float64[Array, "n K2"]
    groups: Int64[Array, "n"]
    used: int
    samples: int
    batches: int
    unit: str


class RowContext(NamedTuple):
    """Which rows of a batch may be kept: their samples, places (shares of the location axes), labels and groups."""

    size: int
    picked: Int64[Tensor, "m"]
    keys: Int64[Tensor, "m"]
    places: Float64[Tensor, "m axes"]
    target: Float64[Tensor, "m K"]
    group: Int64[Tensor, "m"]


class Broja(Subsample):
    """Redundancy, unique parts and synergy of pairs of taps, about the label and about the model's prediction.

    The rows are samples (features averaged over locations); for labels per location, 4 random locations of each sample
    (samples that a tap's own location axes do not fit count by their average), which are one group. Of these the
    ``samples`` with the smallest hashes are kept: a random subsample that depends on ``seed`` and on each row's place
    in the run only, and merges exactly. ``functional.cvx_decomposition`` or ``functional.batch_decomposition``
    decomposes them. A side of several taps is their concatenation, each tap's rows brought to length 1 first.

    Numbers as labels (regression) are cut into 5 quantile bins. In bits or nats.

    Memory: ``8 · samples · units`` bytes of all taps together. Time of ``compute``: each side is clustered once;
    each pair and target takes ``1 + shuffles`` convex programmes (20 clusters, 10 classes: some 0.2 s each; 27
    classes: 1 s). With "batch" each shuffle trains all networks again.

    Args:
        taps: names.
        pairs: pairs of sides, each a tap or several; all pairs of taps if none are given.
        classes: number of classes; 0 for numbers as labels.
        about: "label", "prediction" or both.
        samples: rows that are kept.
        bins: most clusters of a side.
        shuffles: of the labels, for the null.
        estimator: "cvx" or "batch".
        alpha: of the intervals.
        seed: of the subsample, clusters, shuffles and networks.
        unit: "bits" or "nats".
        workers: threads for the programmes.

    Raises:
        InputError: settings out of range, unknown or missing taps, labels that are not what ``classes`` says.

    >>> import torch
    >>> metric, x = Broja(["a", "b"], classes=2), torch.randint(0, 2, (2, 200))
    >>> context = metric.context(200, x[0] ^ x[1], 0)
    >>> metric.update({t: metric.reduce(v[:, None], context, t) for t, v in zip("ab", x.float())}, context)
    >>> {row.atom: round(row.corrected, 1) + 0 for row in metric.compute().rows if row.about == "label"}["S"]
    1.0
    """

    parts = ("vectors", "groups")
    groups: Tensor

    def __init__(
        self,
        taps: Iterable[str],
        pairs: Sequence[tuple[Sequence[str], Sequence[str]]] | None = None,
        classes: int = 0,
        *,
        about: Sequence[str] = ABOUT,
        samples: int = 4096,
        bins: int = 20,
        shuffles: int = 20,
        estimator: str = "cvx",
        alpha: float = 0.05,
        seed: int = 0,
        unit: str = "bits",
        workers: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.taps, self.about = check_taps(taps), tuple(about)
        if pairs is None:
            pairs = [((a,), (b,)) for i, a in enumerate(self.taps) for b in self.taps[i + 1 :]]
        self.pairs = tuple((side(a), side(b)) for a, b in pairs)
        for tap in {tap for pair in self.pairs for sides in pair for tap in sides}:
            check_word("taps of pairs", tap, self.taps)
        for word in self.about:
            check_word("about", word, ABOUT)
        check_word("estimator", estimator, ("cvx", "batch"))
        check_word("unit", unit, tuple(UNITS))
        if classes < 0 or samples < 2 or bins < 2 or shuffles < 0 or workers < 1:
            raise InputError(
                "expected classes >= 0, samples >= 2, bins >= 2, shuffles >= 0 and workers >= 1, got "
                f"{classes}, {samples}, {bins}, {shuffles} and {workers}"
            )
        if shuffles:
            bound_rank(shuffles, alpha)
        self.classes, self.bins, self.shuffles, self.estimator = classes, bins, shuffles, estimator
        self.alpha, self.seed, self.unit, self.workers = alpha, seed, unit, workers
        self.tick: Callable[[], object] = no_tick  # called after each decomposition
        self._start(len(self.taps) + len(ABOUT), samples)
        self.add_state("groups", torch.zeros(0, dtype=torch.int64), "sum")

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        names = ("taps", "pairs", "about", "classes", "samples", "bins", "shuffles", "estimator", "alpha", "seed")
        return {name: getattr(self, name) for name in (*names, "unit")}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> RowContext:
        """Return which rows of a batch may be kept, with their labels."""
        dense = target is not None and target.ndim > (2 if target.is_floating_point() else 1)
        if target is not None and (len(target) != size or (self.classes and target.is_floating_point())):
            raise InputError(
                f"expected labels [{size}, ...], integers for {self.classes} classes, got {target.dtype} of shape "
                f"{tuple(target.shape)}; give classes=0 where labels are numbers"
            )
        each = PLACES if dense else 1
        rows, keys = self._picked(sample_hash(size * each, index, self.seed))
        picked = rows // each
        axes = target.ndim - 1 if dense and target is not None else 0
        hashed = keys.cpu().numpy().view(np.uint64)
        shares = [(mix(hashed, self.seed + 1 + axis) >> np.uint64(11)) * 2.0**-53 for axis in range(axes)]
        places = torch.from_numpy(np.stack(shares, 1) if shares else np.zeros((len(keys), 0))).to(self.device)
        own = torch.arange(size) + (index << 32) if group is None else group.detach().long()
        known = torch.full((len(rows), 1), torch.nan, dtype=torch.float64, device=self.device)
        if target is not None:
            known = self._labels(target.detach(), picked, places)
        return RowContext(size, picked, keys, places, known, own.to(self.device)[picked])

    def _labels(self, values: Tensor, picked: Tensor, places: Tensor) -> Float64[Tensor, "m K"]:
        """Return the labels of rows ``[m, K]``, NaN where there is none."""
        rows = take(values.to(self.device), picked, places).double()
        rows = rows.flatten(1) if rows.ndim > 1 else rows[:, None]
        return rows if values.is_floating_point() else rows.masked_fill(rows < 0, torch.nan)

    def _reduce(self, features: Tensor, context: RowContext, tap: str) -> Tensor:
        picked, places = context.picked.to(features.device), context.places.to(features.device)
        if places.shape[1] and features.ndim - 2 == places.shape[1]:
            return take(features.movedim(1, -1), picked, places).double()
        x = features[picked]
        return x.flatten(2).mean(2, dtype=torch.float64) if x.ndim > 2 else x.double()

    def update(self, reduced: dict[str, Tensor], context: RowContext, prediction: Tensor | None = None) -> None:
        """Add one batch.

        Args:
            reduced: what ``reduce`` returned, for every tap.
            context: of the batch.
            prediction: the model's output: logits ``[B, K, ...]`` or class numbers ``[B, ...]``, or numbers.

        Raises:
            InputError: other taps, or another number of predictions.
        """
        check_reduced(reduced, self.taps)
        guess = torch.full((len(context.keys), 1), torch.nan, dtype=torch.float64)
        if prediction is not None:
            if len(prediction) != context.size:
                raise InputError(f"expected predictions of {context.size} samples, got {tuple(prediction.shape)}")
            value = prediction.detach()
            if self.classes and value.is_floating_point():
                bad = value.isnan().any(1)
                value = value.argmax(1).double().masked_fill(bad, torch.nan)
            guess = self._labels(value, context.picked, context.places)
        columns = [*(reduced[tap] for tap in self.taps), context.target, guess]
        self._add_rows([*self.taps, *ABOUT], context.keys, columns, context.group)
        self.tally += torch.tensor([context.size, 1], device=self.device)

    def compute(self) -> InformationResult:
        """Return every decomposition; what cannot be decomposed has a reason."""
        self._halves.clear()  # the result looks at the rows
        samples, batches = (int(v) for v in self.tally)
        columns = [c.cpu().numpy() for c in self.vectors.split(self.widths.tolist(), 1)]
        features = dict(zip(self.taps, columns, strict=False))
        targets = dict(zip(ABOUT, columns[len(self.taps) :], strict=True))
        groups = self.groups.cpu().numpy()
        codes: dict[tuple[Side, int], Array] = {}
        rows: list[InformationRow] = []
        for a, b in self.pairs:
            for about in self.about:
                found = self._decompose(features, (a, b), targets[about], about, groups, codes, batches)
                rows += self._rows(found, a, b, about)
                self.tick()
        return InformationResult(
            tuple(rows), features, *targets.values(), groups, len(groups), samples, batches, self.unit
        )

    def _decompose(
        self,
        features: dict[str, Array],
        pair: tuple[Side, Side],
        target: Array,
        about: str,
        groups: Array,
        codes: dict[tuple[Side, int], Array],
        batches: int,
    ) -> Decomposition:
        labels = np.zeros(0, dtype=np.int64)
        if len(target):
            labels = np.where(np.isfinite(target[:, 0]), target[:, 0], -1).astype(np.int64)
            labels = labels if self.classes else label_codes(target)
        known = labels >= 0
        reason = "" if batches else "no batch was seen"
        if not reason and not known.any():
            reason = f"no row has a finite {about}"
        for which in pair:
            bad = [tap for tap in which if not np.isfinite(features[tap]).all()]
            if bad and not reason:
                reason = f"features of {', '.join(bad)} are not finite"
        if reason:
            return nothing(reason, int(known.sum()), (0, 0), self.estimator, self.unit)
        common: dict[str, Any] = {"group": groups, "shuffles": self.shuffles, "alpha": self.alpha, "seed": self.seed}
        if self.estimator == "batch":
            sides = [joined(features, which) for which in pair]
            return batch_decomposition(*sides, labels, unit=self.unit, **common)
        bins = usual_bins(int(known.sum()), len(np.unique(labels[known])), self.bins)
        for which in pair:
            if (which, bins) not in codes:
                codes[which, bins] = discretise(joined(features, which), bins, seed=self.seed)
        a, b = (codes[which, bins] for which in pair)
        return decompose(a, b, labels, unit=self.unit, workers=self.workers, **common)

    def _rows(self, found: Decomposition, a: Side, b: Side, about: str) -> list[InformationRow]:
        numbers = zip(
            found.atoms,
            *(
                getattr(found, name).tolist()
                for name in ("value", "shuffled", "shuffled_high", "corrected", "low", "high")
            ),
            strict=True,
        )
        rest = (found.gap, found.samples, found.bins, found.reason)
        return [InformationRow(a, b, about, found.estimator, *row, *rest) for row in numbers]


def no_tick() -> None:
    """Do nothing (a lambda could not be pickled)."""


def side(taps: str | Sequence[str]) -> Side:
    """Return one side of a pair as a tuple of taps."""
    return (taps,) if isinstance(taps, str) else tuple(taps)


def take(values: Tensor, picked: Tensor, places: Tensor) -> Tensor:
    """Return ``values[sample, place...]``, a place given as shares of the axes that follow the sample axis."""
    size = torch.tensor(values.shape[1 : 1 + places.shape[1]], device=places.device)
    at = (places * size).long().unbind(1)
    return values[(picked.to(values.device), *(i.to(values.device) for i in at))]


def joined(features: dict[str, Array], taps: Side) -> Float64[Array, "n D"]:
    """Return the features of one side; each of several taps counts alike (rows of length 1, or one unit of sd 1)."""
    if len(taps) == 1:
        return features[taps[0]]
    parts = []
    for tap in taps:
        x = features[tap]
        scale = np.linalg.norm(x, axis=1, keepdims=True) if x.shape[1] > 1 else np.full((len(x), 1), x.std())
        x = x if x.shape[1] > 1 else x - x.mean()
        parts.append(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0))
    return np.concatenate(parts, 1)

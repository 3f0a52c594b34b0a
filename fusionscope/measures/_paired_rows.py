"""What a paired table of scores holds, and how its samples are brought into order."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from fusionscope.errors import InputError, did_you_mean

from .functional._resampling import percentile_interval
from .functional._scores import Score

Array = np.ndarray
NONE = -(2**63)  # no group, no sample number


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Scores per class ``[S, C]``: ``reason`` explains a NaN; each class was in so many ``samples`` and ``groups``."""

    values: Float64[Array, "S C"]
    draws: Float64[Array, "R S C"] = field(repr=False)
    low: Float64[Array, "S C"]
    high: Float64[Array, "S C"]
    reason: Shaped[Array, "S C"]
    samples: Int64[Array, "C"]
    groups: Int64[Array, "C"]

    def __len__(self) -> int:
        """Number of classes (of labels, of output dimensions)."""
        return len(self.samples)


@dataclass(frozen=True, eq=False)
class PairedResult:
    """Scores of ``S`` conditions, those that were scored or failed; row ``r`` of all ``draws`` has the same groups.

    ``each`` holds the score of every sample on its own (NaN where it has none), ``sample`` their numbers, ``group``
    their groups if they have any; ``classes`` is None for a score without values per class.
    """

    conditions: tuple[str, ...]
    values: Float64[Array, "S"]
    draws: Float64[Array, "R S"] = field(repr=False)
    low: Float64[Array, "S"]
    high: Float64[Array, "S"]
    reason: Shaped[Array, "S"]
    score: str
    samples: int
    groups: int
    alpha: float
    each: Float64[Array, "S N"] = field(repr=False)
    sample: Int64[Array, "N"] = field(repr=False)
    group: Int64[Array, "N"] | None = field(repr=False)
    classes: ClassScores | None = field(repr=False)

    def index(self, condition: str) -> int:
        """Return the place of a condition.

        Raises:
            InputError: it was neither scored nor failed.
        """
        if condition not in self.conditions:
            raise InputError(
                f"expected one of the scored conditions {list(self.conditions)}, got {condition!r}."
                + did_you_mean(condition, self.conditions)
            )
        return self.conditions.index(condition)

    def drops(self, reference: str) -> tuple[Float64[Array, "S"], Float64[Array, "S"], Float64[Array, "S"]]:
        """Return ``V(reference) - V(condition)`` of every condition, and the ends of its paired interval."""
        top = self.index(reference)
        with np.errstate(invalid="ignore"):
            drop = self.values[top] - self.values
            low, high = percentile_interval(self.draws[:, [top]] - self.draws, self.alpha)
        return drop, np.where(np.isfinite(drop), low, np.nan), np.where(np.isfinite(drop), high, np.nan)


@dataclass(frozen=True, eq=False)
class Rows:
    """Statistics of all samples under the conditions that did not fail, in the order of the bootstrap's groups."""

    table: Float64[Array, "S G K"]
    parts: list[tuple[Array, Array]] | None  # per class: its groups [g], their statistics [S, g, K]
    each: Float64[Array, "S N"]
    bad: Int64[Array, "S"]
    bad_of_class: Int64[Array, "S C"]
    samples_of_class: Int64[Array, "C"]
    groups_of_class: Int64[Array, "C"]
    sample: Int64[Array, "N"]
    group: Int64[Array, "N"] | None


def ordered(
    keys: Array, stats: Array, good: Sequence[int], score: Score, shown: Sequence[str], word: str = "condition"
) -> Rows:
    """Bring samples and groups into an order that does not depend on arrival.

    Raises:
        InputError: conditions were scored on different samples.
    """
    places = [keys[:, 0] == c for c in good]
    shared = keys[places[0], 1:]
    for name, place in zip(shown, places, strict=True):
        for column, what in enumerate(("groups", "sample numbers", "classes")):
            if (keys[place, column + 1] != shared[:, column]).any():
                raise InputError(
                    f"expected the same {what} in every {word}, got others for {name}; score all {word}s of a batch "
                    "on the same samples in the same order"
                )
    table = np.stack([stats[place] for place in places])
    group, sample, label = shared.T
    for column, what in ((group, "groups"), (sample, "sample numbers")):
        if len(np.unique(column == NONE)) > 1:
            raise InputError(f"expected {what} for all samples or for none, got both; give them in every update")
    grouped = bool((group != NONE).all())
    numbers = np.arange(len(sample)) if (sample == NONE).all() else sample
    numbered = np.argsort(numbers, kind="stable")
    each = np.stack([score.value(rows) for rows in table])[:, numbered]
    if grouped:
        order = np.argsort(group, kind="stable")
    else:  # equal samples of equal class may change places
        flat = np.ascontiguousarray(table.swapaxes(0, 1)).reshape(table.shape[1], -1)
        flat = np.concatenate([flat, label[:, None].astype(np.float64)], 1)
        order = flat.view(f"V{flat.shape[1] * 8}").ravel().argsort(kind="stable")
    table, label = table[:, order], label[order]
    unit = np.unique(group[order], return_inverse=True)[1] if grouped else np.arange(len(label))
    bad = np.isnan(table).any(-1)
    parts = None
    here = np.zeros((len(label), 0), dtype=bool)
    if score.class_of is not None:
        here = label[:, None] == np.arange(label.max() + 1 if len(label) else 0)
        parts = [_group_sums(table[:, chosen], unit[chosen]) for chosen in here.T]
    elif score.by_class is not None:
        with np.errstate(invalid="ignore"):
            here = np.any([score.by_class(rows)[1] > 0 for rows in table], 0)
    groups_of_class = np.array([len(np.unique(unit[chosen])) for chosen in here.T], dtype=np.int64)
    return Rows(
        _group_sums(table, unit)[1] if grouped else table,
        parts,
        each,
        bad.sum(1),
        bad.astype(np.int64) @ here.astype(np.int64),
        here.sum(0),
        groups_of_class,
        numbers[numbered],
        group[numbered] if grouped else None,
    )


def spread(found: Array, place: Array, S: int) -> Array:
    """Put columns where their conditions are among all that are shown."""
    out = np.full((len(found), S), np.nan)
    out[:, place] = found
    return out


def _group_sums(table: Array, unit: Array) -> tuple[Array, Array]:
    """Return the units that are there, and their sums ``[S, units, K]``."""
    ids, inverse = np.unique(unit, return_inverse=True)
    if len(ids) == len(unit):
        return ids, table[:, np.argsort(inverse)]
    sums = np.zeros((len(table), len(ids), table.shape[2]))
    np.add.at(sums.swapaxes(0, 1), inverse, table.swapaxes(0, 1))
    return ids, sums


def explain(value: float, draws: Array, note: str) -> str:
    if np.isnan(value):
        return "the score is not defined"
    if np.isinf(value):
        return "the score is infinite"
    lost = int(np.isnan(draws).sum())
    if lost and lost < len(draws):
        note = "; ".join(filter(None, [note, f"the score is not defined in {lost} of {len(draws)} resamples"]))
    return note

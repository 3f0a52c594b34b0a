"""What each modality contributes to a model's score, and what modalities gain together, from the table V(S)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from scipy.stats import t

from fusionscope.errors import InputError

from ._coalitions import CoalitionTable, RemovalResult
from .functional._discoveries import benjamini_hochberg
from .functional._games import combine, sample_valuation, shapley_weights
from .functional._resampling import percentile_interval

Array = np.ndarray
FEW = 5  # groups with a class, below which its p-value would be a guess


@dataclass(frozen=True)
class ContributionRow:
    """The contribution of one modality to the score of all data (``concept`` "") or of one class.

    ``shapley``, ``alone = V({m}) - V(none)`` and ``last = V(all) - V(all without m)`` are in the unit of the score,
    ``share = shapley/V(all)``. ``p``: of "``last`` is not below 0", the score does not rise without the modality;
    ``q``: the false discovery rate over classes and modalities at which it is rejected; ``hurts``: q is at most alpha.
    It is told by ``last``, since on the class that a constant prediction always names ``V(none)`` is 1 by construction.
    """

    metric: str
    concept: str
    modality: str
    shapley: float
    low: float
    high: float
    share: float
    share_low: float
    share_high: float
    alone: float
    last: float
    last_low: float
    last_high: float
    p: float
    q: float
    hurts: bool
    reason: str


@dataclass(frozen=True)
class ContributionResult:
    """Rows of all data first, then of the classes in their order; ``sampling_error`` is 0 where all subsets are known.

    ``sampling_error [M]``: the standard error that comes from scoring only some subsets, for all data.
    """

    rows: tuple[ContributionRow, ...]
    modalities: tuple[str, ...]
    metric: str
    samples: int
    groups: int
    alpha: float
    sampling_error: Float64[Array, "M"] = field(repr=False)

    def __getitem__(self, where: str | tuple[str, str]) -> ContributionRow:
        """Return the row of ``modality`` or ``(modality, concept)``."""
        modality, concept = (where, "") if isinstance(where, str) else where
        for row in self.rows:
            if (row.modality, row.concept) == (modality, concept):
                return row
        raise InputError(f"expected a modality of {list(self.modalities)} and a known concept, got {where!r}")


@dataclass(frozen=True)
class ValuationResult:
    """What each modality is worth for each sample, in units of modalities (``sample_valuation``).

    ``sample`` numbers the columns; NaN where a prediction is not known, where ``reason`` says why none is.
    """

    modalities: tuple[str, ...]
    values: Float64[Array, "M N"]
    sample: Int64[Array, "N"]
    group: Int64[Array, "N"] | None
    reason: str


@dataclass(frozen=True, eq=False)
class Game:
    """V of subsets on all data (cell 0) and per class, with bootstrap draws; reasons where a value is missing."""

    modalities: tuple[str, ...]
    masks: tuple[int, ...]
    names: tuple[str, ...]
    values: Float64[Array, "S cells"]
    draws: list[Array]  # per cell [R, S]
    reason: Array  # [S, cells] of str
    groups: Int64[Array, "cells"]
    place: dict[int, int]

    @classmethod
    def of(cls, result: RemovalResult) -> "Game":
        """Lay out a table of subsets."""
        paired, classes = result.paired, result.paired.classes
        bits = {name: 1 << i for i, name in enumerate(result.modalities)}
        masks = tuple(sum(bits[name] for name in row.subset) for row in result.rows)
        values, reason = paired.values[:, None], paired.reason[:, None]
        draws, groups = [paired.draws], np.array([paired.groups])
        if classes is not None:
            values = np.concatenate([values, classes.values], 1)
            reason = np.concatenate([reason, classes.reason], 1)
            draws += list(np.moveaxis(classes.draws, 2, 0))
            groups = np.concatenate([groups, classes.groups])
        names = ("", *map(str, range(len(groups) - 1)))
        place = {mask: s for s, mask in enumerate(masks)}
        return cls(result.modalities, masks, names, values, draws, reason, groups, place)

    def row(self, mask: int) -> int:
        """Return the row of a subset, -1 where it was not scored."""
        return self.place.get(mask, -1)

    def written(self, mask: int) -> str:
        """Return a subset as text."""
        return "+".join(name for i, name in enumerate(self.modalities) if mask >> i & 1) or "none"

    def missing(self, mask: int, cell: int) -> str:
        """Say why V of a subset is not known ("" where it is)."""
        s = self.row(mask)
        if s < 0:
            return f"V({self.written(mask)}) was not scored"
        if np.isfinite(self.values[s, cell]):
            return ""
        return f"V({self.written(mask)}): {self.reason[s, cell]}"

    def weights(self, full: Float64[Array, "rows masks"]) -> tuple[Float64[Array, "rows S"], Bool[Array, "rows"]]:
        """Bring weights over all subsets to the scored ones, and say which rows need one that was not scored."""
        lost = np.delete(full, list(self.masks), 1)
        return full[:, list(self.masks)], (lost != 0).any(1)

    def lacking(self, full: Shaped[Array, "masks"], cell: int) -> str:
        """Say which needed values are not known (the first, and how many more)."""
        if not self.masks:
            return "no batch was seen"
        told = [why for mask in np.flatnonzero(full)[::-1] if (why := self.missing(int(mask), cell))]
        return told[0] + (f"; and {len(told) - 1} more" if len(told) > 1 else "") if told else ""

    def note(self, cell: int) -> str:
        """Say why there is no interval ("" where there is)."""
        notes = [str(self.reason[s, cell]) for s in range(len(self.masks)) if np.isfinite(self.values[s, cell])]
        return next((note for note in notes if note), "")


def contributions(result: RemovalResult) -> ContributionResult:
    """Return the Shapley value of every modality, on all data and per class, with intervals from the table's bootstrap.

    Where a modality *hurts* a class (Shapley value below 0) is a t-test with the bootstrap's standard error
    (``sd · sqrt(G/(G-1))``) and G - 1 degrees of freedom, G groups having the class; its p is at least ``2^-k``, k of
    the groups being those whose outcome changes with the modality at all, the least p that any test of signs can have.
    Classes and modalities are corrected together (Benjamini-Hochberg). A class of fewer than 5 groups has no p.

    Where only the prefixes of some orders were scored, values are means over these orders, and the standard error of
    this sampling (pairs of an order and its reverse count as one) widens intervals and p.

    >>> import torch
    >>> from fusionscope.measures import resolve_score
    >>> table = CoalitionTable(["rgb", "depth"], score=resolve_score("accuracy", "classification", 2))
    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> for subset in [("rgb", "depth"), ("rgb",), ("depth",), ()]:  # the label is what rgb shows
    ...     table.update(subset, torch.eye(2)[labels * ("rgb" in subset)], labels)
    >>> [(row.modality, row.shapley, row.share) for row in contributions(table.compute()).rows if not row.concept]
    [('rgb', 0.5, 0.5), ('depth', 0.0, 0.0)]
    """
    game = Game.of(result)
    weights, orders = _weights(game, result)
    extra = _sampling_error(game, orders)
    rows = [row for c in range(len(game.names)) for row in _of_cell(result, game, c, weights, extra[c], len(orders))]
    q = np.full(len(rows), np.nan)
    of_class = [k for k, row in enumerate(rows) if row.concept]
    q[of_class] = benjamini_hochberg(np.array([rows[k].p for k in of_class]))
    told = [replace(row, q=float(one), hurts=bool(one <= result.alpha)) for row, one in zip(rows, q, strict=True)]
    shape = (game.modalities, result.score, result.samples, result.groups, result.alpha)
    return ContributionResult(tuple(told), *shape, extra[0])


def _of_cell(
    result: RemovalResult,
    game: Game,
    cell: int,
    weights: Float64[Array, "M masks"],
    extra: Float64[Array, "M"],
    orders: int,
) -> list[ContributionRow]:
    """Rows of all modalities, on all data or for one class."""
    M, full, alpha = len(game.modalities), 2 ** len(game.modalities) - 1, result.alpha
    scored, lost = game.weights(weights)
    phi = np.where(lost, np.nan, combine(scored, game.values[:, cell]))
    draws = combine(scored, game.draws[cell])
    low, high = _widened(phi, draws, extra, orders, alpha)
    top = game.row(full)
    whole = float(game.values[top, cell]) if top >= 0 else float("nan")
    share, share_low, share_high = np.full((3, M), np.nan)
    if whole > 0:
        Z = game.draws[cell][:, [top]]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.where(Z > 0, draws / Z, np.nan)
        share = phi / whole
        share_low, share_high = _widened(share, ratios, extra / whole, orders, alpha)
    moved = result.moved[:, min(cell, result.moved.shape[1] - 1)]
    rows = []
    for m, name in enumerate(game.modalities):
        p, steps = float("nan"), [(1 << m, 0), (full, full ^ (1 << m))]
        ends = [game.row(mask) for mask in steps[1]]
        last = _step(game, *steps[1], cell)
        why, (last_low, last_high) = "", np.full(2, np.nan)
        if np.isfinite(last):
            drop = game.draws[cell][:, ends[0]] - game.draws[cell][:, ends[1]]
            p, why = _hurts(last, drop, int(game.groups[cell]), int(moved[m]))
            last_low, last_high = percentile_interval(drop, alpha)
        if np.isfinite(phi[m]):
            reasons = [_sampled(result, extra[m]), game.note(cell), why]
            if np.isfinite(whole) and whole <= 0:
                reasons.append("no share: V of all modalities is not above 0")
        else:
            reasons = [game.lacking(weights[m], cell)]
        if result.permutations is not None:
            reasons += [game.missing(mask, cell) for pair in steps for mask in pair if game.row(mask) < 0]
        numbers = (
            phi[m],
            low[m],
            high[m],
            share[m],
            share_low[m],
            share_high[m],
            *(_step(game, *s, cell) for s in steps),
            last_low,
            last_high,
        )
        told = "; ".join(dict.fromkeys(filter(None, reasons)))
        rows.append(
            ContributionRow(
                result.score,
                game.names[cell],
                name,
                *map(float, numbers),
                p=p,
                q=float("nan"),
                hurts=False,
                reason=told,
            )
        )
    return rows


def _weights(game: Game, result: RemovalResult) -> tuple[Array, list[Array]]:
    """Weights of the Shapley values over all masks; and those of each independent order (or pair), if sampled."""
    M = len(game.modalities)
    if result.permutations is None:
        return shapley_weights(M), []
    place = {name: i for i, name in enumerate(game.modalities)}
    found = []
    for order in result.permutations:
        weights, mask = np.zeros((M, 2**M)), 0
        for name in order:
            weights[place[name], mask] -= 1
            mask |= 1 << place[name]
            weights[place[name], mask] += 1
        found.append(weights)
    mean = np.sum(found, 0) / len(found)
    orders = result.permutations
    paired = len(orders) % 2 == 0 and all(a == b[::-1] for a, b in zip(orders[::2], orders[1::2], strict=True))
    if paired:
        found = [(a + b) / 2 for a, b in zip(found[::2], found[1::2], strict=True)]
    return mean, found


def _sampling_error(game: Game, orders: list[Array]) -> Float64[Array, "cells M"]:
    cells, M = len(game.names), len(game.modalities)
    if not orders:
        return np.zeros((cells, M))
    if len(orders) < 2:
        return np.full((cells, M), np.nan)
    each = np.stack([combine(game.weights(one)[0], game.values.T) for one in orders])
    return each.std(0, ddof=1) / np.sqrt(len(orders))


def _sampled(result: RemovalResult, error: float) -> str:
    M, orders = len(result.modalities), result.permutations
    if orders is None:
        return ""
    part = f"from {len(orders)} orders, {len(result.rows)} of {2**M} subsets"
    if np.isnan(error):
        return f"{part}; no interval: one order (and its reverse) tells no standard error of sampling"
    return f"{part}; standard error of sampling {error:.2g}, included in the interval"


def _widened(
    value: Float64[Array, "M"], draws: Float64[Array, "R M"], extra: Float64[Array, "M"], orders: int, alpha: float
) -> tuple[Array, Array]:
    """Percentile interval of the draws, widened by the standard error of a mean over orders."""
    low, high = percentile_interval(draws, alpha)
    if (extra != 0).any():
        reach = t.isf(alpha / 2, orders - 1) * extra
        low, high = value - np.hypot(value - low, reach), value + np.hypot(high - value, reach)
    known = np.isfinite(value)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def _step(game: Game, a: int, b: int, cell: int) -> float:
    s, r = game.row(a), game.row(b)
    if s < 0 or r < 0:
        return float("nan")
    with np.errstate(invalid="ignore"):
        step = game.values[s, cell] - game.values[r, cell]
    return step if np.isfinite(step) else float("nan")


def _hurts(value: float, draws: Float64[Array, "R"], groups: int, moved: int) -> tuple[float, str]:
    """One-sided p of "not below 0", and why there is none."""
    if groups < FEW:
        return float("nan"), f"no p: fewer than {FEW} groups"
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2:
        return float("nan"), "no p: no resamples"
    error = draws.std(ddof=1) * np.sqrt(groups / (groups - 1))
    if error <= 1e-12 * max(abs(value), 1e-300):
        p = 0.0 if value < 0 else 1.0
    else:
        p = float(t.cdf(value / error, groups - 1))
    return max(p, 2.0**-moved), ""


def valuations(result: RemovalResult) -> ValuationResult:
    """Return what each modality is worth for each sample: see ``sample_valuation``. Needs an accuracy table."""
    paired = result.paired
    bits = [frozenset(row.subset) for row in result.rows]
    each = {s: np.where(np.isnan(v), np.nan, v == 1) for s, v in zip(bits, paired.each, strict=True) if s}
    unknown = [row for row in result.rows if row.subset and np.isnan(row.value)]
    reason = ""
    if result.score != "accuracy":
        reason = f"samples are valued by whether they are right, and the score is {result.score}"
    elif not paired.each.shape[1]:
        reason = "no batch was seen"
    elif len(each) < 2 ** len(result.modalities) - 1:
        reason = "not all subsets were scored"
    elif unknown:
        reason = f"V({'+'.join(unknown[0].subset)}): {unknown[0].reason}"
    nothing = np.full((len(result.modalities), paired.each.shape[1]), np.nan)
    known = not reason or reason.startswith("V(")
    values = np.stack(list(_in_order(sample_valuation(each), result.modalities))) if known else nothing
    return ValuationResult(result.modalities, values, paired.sample, paired.group, reason)


def _in_order(table: dict[Any, Array], names: Iterable[str]) -> Iterator[Array]:
    return (table[name] for name in names)


class Shapley(CoalitionTable):
    """A ``CoalitionTable`` whose result is every modality's contribution: see ``contributions``.

    >>> from fusionscope.measures import resolve_score
    >>> Shapley(["rgb", "depth"], score=resolve_score("accuracy", "classification", 2)).compute().rows[0].reason
    'no batch was seen'
    """

    def compute(self) -> ContributionResult:
        """Return Shapley values, on all data and per class."""
        return contributions(super().compute())


class SampleValuation(CoalitionTable):
    """A ``CoalitionTable`` of accuracies whose result is what each modality is worth for each sample.

    >>> from fusionscope.measures import resolve_score
    >>> SampleValuation(["rgb", "depth"], score=resolve_score("accuracy", "classification", 2)).compute().reason
    'no batch was seen'
    """

    def compute(self) -> ValuationResult:
        """Return the valuation of all samples."""
        return valuations(super().compute())

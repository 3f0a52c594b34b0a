"""What modalities gain together, from the table V(S): SHAPE's cooperation, interaction indices, InterSHAP."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from fusionscope.errors import InputError

from ._coalitions import CoalitionTable, RemovalResult
from ._games import ContributionResult, Game, contributions
from .functional._games import (
    MOST_COOPERATING,
    combine,
    cooperation_weights,
    interaction_matrix,
    interaction_share,
    interaction_weights,
)
from .functional._resampling import percentile_interval

Array = np.ndarray


@dataclass(frozen=True)
class CooperationRow:
    """One index of one subset of modalities; ``kind`` is "cooperation", "interaction" or "intershap"."""

    metric: str
    kind: str
    subset: tuple[str, ...]
    value: float
    low: float
    high: float
    reason: str


@dataclass(frozen=True)
class CooperationResult:
    """Cooperation of all subsets of two modalities or more, interaction of all pairs, and the share of interaction."""

    rows: tuple[CooperationRow, ...]
    modalities: tuple[str, ...]
    metric: str
    samples: int
    groups: int
    alpha: float

    def __getitem__(self, where: tuple[str, Iterable[str]]) -> CooperationRow:
        """Return the row of ``(kind, subset)``."""
        kind, subset = where
        for row in self.rows:
            if row.kind == kind and frozenset(row.subset) == frozenset(subset):
                return row
        raise InputError(f"expected a kind and subset of {[(r.kind, r.subset) for r in self.rows]}, got {where!r}")


@dataclass(frozen=True)
class ShapeResult:
    """SHAPE's scores of a table: what each modality contributes, and what they gain together."""

    contribution: ContributionResult
    cooperation: CooperationResult


def cooperations(result: RemovalResult) -> CooperationResult:
    """Return what modalities gain together, on all data, with intervals from the table's bootstrap.

    - "cooperation": SHAPE's ``C_A/Z`` of every subset A of two or more (``shape_scores``), a share of ``Z = V(all)``;
      of up to 10 modalities, and not where Z is not above 0.
    - "interaction": the Shapley interaction index of every pair, both halves together, in the unit of the score.
    - "intershap": the share of interaction (``intershap``). A noisy V makes it larger, and its draws never reach 0;
      where the intervals of all pairs' interactions hold 0, so does its own.

    Where only some subsets were scored (``permutations``), there is no value, and the reason says so.

    >>> import torch
    >>> from fusionscope.measures import resolve_score
    >>> table = CoalitionTable(["a", "b"], score=resolve_score("accuracy", "classification", 2))
    >>> a, b = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    >>> for subset, guess in {("a", "b"): a ^ b, ("a",): a, ("b",): b, (): 0 * a}.items():
    ...     table.update(subset, torch.eye(2)[guess], a ^ b)
    >>> [(row.kind, row.value) for row in cooperations(table.compute()).rows]
    [('cooperation', 0.5), ('interaction', 0.5), ('intershap', 1.0)]
    """
    game = Game.of(result)
    names, M = game.modalities, len(game.modalities)
    top, full = game.row(2**M - 1), 2**M - 1
    Z = game.values[top, 0] if top >= 0 else np.nan
    shape = (names, result.score, result.samples, result.groups, result.alpha)
    if M < 2 or result.permutations is not None:
        return CooperationResult(_unknown(result) if M > 1 else (), *shape)
    V, draws = _dense(game)
    rows: list[CooperationRow] = []

    def add(kind: str, mask: int, needed: Array, value: float, each: Array, note: str = "") -> tuple[float, float]:
        reason = "" if np.isfinite(value) or note else game.lacking(needed, 0)
        if not reason:
            reason = "; ".join(filter(None, [note, game.note(0)]))
        low, high = percentile_interval(each, result.alpha) if np.isfinite(value) else (np.nan, np.nan)
        subset = tuple(name for i, name in enumerate(names) if mask >> i & 1)
        rows.append(CooperationRow(result.score, kind, subset, float(value), float(low), float(high), reason))
        return float(low), float(high)

    if M <= MOST_COOPERATING:
        masks, weights = cooperation_weights(M)
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = np.where(draws[:, [full]] > 0, draws[:, [full]], np.nan)
            each = combine(weights, draws) / whole
        share = combine(weights, V) / (Z if Z > 0 else np.nan)
        note = "no share: V of all modalities is not above 0" if Z <= 0 else ""
        for k in sorted(range(len(masks)), key=lambda k: (-masks[k].bit_count(), masks[k])):
            needed = (weights[k] != 0) | (np.arange(2**M) == full)
            add("cooperation", masks[k], needed, share[k], each[:, k], note)
    pairs, weights = interaction_weights(M)
    value, each = combine(weights, V), combine(weights, draws)
    ends = [add("interaction", 1 << i | 1 << j, weights[k], value[k], each[:, k]) for k, (i, j) in enumerate(pairs)]
    matrix = interaction_matrix(V)
    index = interaction_share(matrix)
    each = interaction_share(interaction_matrix(draws))
    none = all(low <= 0 <= high for low, high in ends)
    note = "the interactions may all be 0" if none else ""
    if np.isfinite(matrix).all() and not np.isfinite(index):
        note = "V is the same for all subsets"
    add("intershap", full, np.ones(2**M), float(index), each, note)
    if none and np.isfinite(index):
        rows[-1] = replace(rows[-1], low=0.0)
    return CooperationResult(tuple(rows), *shape)


def _unknown(result: RemovalResult) -> tuple[CooperationRow, ...]:
    """Rows without values, where only some subsets were scored."""
    names, nan = result.modalities, float("nan")
    pairs = [("interaction", pair) for pair in itertools.combinations(names, 2)]
    why = f"needs the score of all {2 ** len(names)} subsets, {len(result.rows)} were scored"
    kinds = [("cooperation", names), *pairs, ("intershap", names)]
    return tuple(CooperationRow(result.score, kind, subset, nan, nan, nan, why) for kind, subset in kinds)


def _dense(game: Game) -> tuple[Array, Array]:
    """V and its draws over all masks, NaN where a subset was not scored."""
    size = 2 ** len(game.modalities)
    V, draws = np.full(size, np.nan), np.full((len(game.draws[0]), size), np.nan)
    V[list(game.masks)], draws[:, list(game.masks)] = game.values[:, 0], game.draws[0]
    return V, draws


class ShapeScores(CoalitionTable):
    """A ``CoalitionTable`` whose result is SHAPE's contribution and cooperation (arXiv 2205.00302).

    >>> from fusionscope.measures import resolve_score
    >>> scores = ShapeScores(["rgb", "depth"], score=resolve_score("accuracy", "classification", 2)).compute()
    >>> scores.cooperation["cooperation", {"rgb", "depth"}].reason
    'no batch was seen'
    """

    def compute(self) -> ShapeResult:
        """Return contributions and cooperations."""
        table = super().compute()
        return ShapeResult(contributions(table), cooperations(table))


class InterShap(CoalitionTable):
    """A ``CoalitionTable`` whose result is how much modalities interact: see ``cooperations``.

    >>> from fusionscope.measures import resolve_score
    >>> shares = InterShap(["rgb", "depth"], score=resolve_score("accuracy", "classification", 2)).compute()
    >>> [row.kind for row in shares.rows]
    ['interaction', 'intershap']
    """

    def compute(self) -> CooperationResult:
        """Return interactions of pairs, and their share."""
        found = cooperations(super().compute())
        rows = tuple(row for row in found.rows if row.kind != "cooperation")
        return replace(found, rows=rows)

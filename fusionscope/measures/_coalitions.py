"""The table V(S): a model's score with each subset of its modalities present."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64, Num, Shaped
from torch import Tensor

from fusionscope.errors import InputError, did_you_mean

from ._paired import PairedScores
from ._paired_rows import PairedResult, Rows

Array = np.ndarray
Permutations = Sequence[Sequence[str]]
MOST = 16  # modalities


@dataclass(frozen=True)
class RemovalRow:
    """One subset: its score and the drop from all modalities, each with its interval; ``reason`` explains a NaN."""

    subset: tuple[str, ...]
    value: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float
    reason: str

    @property
    def n_present(self) -> int:
        """Number of modalities present."""
        return len(self.subset)


@dataclass(frozen=True, eq=False)
class RemovalResult:
    """Rows of all scored subsets, all modalities first, then by falling size; and how they were made.

    ``paired`` holds the same scores with their bootstrap draws, per class and per sample, conditions in the order of
    the rows; ``moved`` counts, overall and per class, the groups whose outcome changes where a modality is added.
    ``permutations``: the orders whose prefixes were scored, None where all subsets were.
    """

    rows: tuple[RemovalRow, ...]
    modalities: tuple[str, ...]
    score: str
    empty: str
    samples: int
    groups: int
    alpha: float
    resamples: int
    permutations: tuple[tuple[str, ...], ...] | None
    paired: PairedResult = field(repr=False)
    moved: Int64[Array, "M C1"] = field(repr=False)

    @property
    def draws(self) -> Float64[Array, "R S"]:
        """Bootstrap values, one column per row of the table."""
        return self.paired.draws

    def __getitem__(self, subset: Iterable[str]) -> RemovalRow:
        """Return the row of a subset, in whatever order its modalities are named."""
        wanted = frozenset(subset)
        for row in self.rows:
            if frozenset(row.subset) == wanted:
                return row
        raise InputError(f"expected one of the scored subsets {[row.subset for row in self.rows]}, got {set(wanted)}")


def sampled_subsets(
    modalities: Iterable[str], most: int = 256, seed: int = 0
) -> tuple[list[frozenset[str]], tuple[tuple[str, ...], ...] | None]:
    """Choose the subsets to score where there are too many: the prefixes of random orders of the modalities.

    Orders come in pairs, one and its reverse (antithetic), until the next pair would need more than ``most`` subsets.
    The mean over orders of what a modality adds to its predecessors estimates its Shapley value without bias. Source:
    Castro et al. 2009, doi:10.1016/j.cor.2008.04.004; pairs: Mitchell et al. 2022, arXiv 2104.12199.

    Returns:
        ``(subsets, permutations)``, for ``CoalitionTable(permutations=...)``; the full subset first, the empty one
        last. All subsets and None where ``most`` are enough for all.

    Raises:
        InputError: ``most`` is too small for one pair of orders, or more than 16 modalities.

    >>> len(sampled_subsets("abc")[0]), sampled_subsets("abc")[1]
    (8, None)
    >>> subsets, orders = sampled_subsets("abcdefghij", most=64)
    >>> len(subsets) <= 64, orders[0] == orders[1][::-1]
    (True, True)
    """
    names = _checked(modalities)
    if 2 ** len(names) <= most:
        return [_named(mask, names) for mask in _ordered(range(2 ** len(names)), len(names))], None
    if most < 2 * len(names):
        raise InputError(f"expected most >= {2 * len(names)}, enough for one order and its reverse, got {most}")
    rng = np.random.default_rng(seed)
    orders: list[tuple[str, ...]] = []
    chosen: set[int] = set()
    while True:
        order = tuple(names[i] for i in rng.permutation(len(names)))
        pair = (order, order[::-1])
        found = chosen.union(*(_prefixes(one, names) for one in pair))
        if len(found) > most:
            return [_named(mask, names) for mask in _ordered(chosen, len(names))], tuple(orders)
        chosen = found
        orders += pair


def _checked(modalities: Iterable[str]) -> tuple[str, ...]:
    names = tuple(modalities)
    if not 1 <= len(set(names)) == len(names) <= MOST:
        raise InputError(f"expected 1 to {MOST} modalities with different names, got {names}")
    return names


def _prefixes(order: Sequence[str], names: Sequence[str]) -> set[int]:
    bits = (1 << names.index(name) for name in order)
    return {0, *itertools.accumulate(bits)}


def _named(mask: int, names: Sequence[str]) -> frozenset[str]:
    return frozenset(name for i, name in enumerate(names) if mask >> i & 1)


def _ordered(masks: Iterable[int], M: int) -> list[int]:
    """All modalities first, then by falling size, then in the order of the modalities."""
    return sorted(masks, key=lambda m: (-m.bit_count(), [not m >> i & 1 for i in range(M)]))


class CoalitionTable(PairedScores):
    """Scores V(S) of subsets of modalities, with a paired bootstrap over groups (or samples).

    ``drop(S) = V(all) - V(S)``, in the unit of the score. Intervals are percentiles of ``resamples`` bootstrap draws;
    one draw takes the same groups for all subsets, so drops are paired. Rows enter in an order that does not depend
    on arrival, so merged and single-process tables agree. V(∅): ``empty="filled"`` is whatever the caller
    scores as ``frozenset()``; ``"majority"`` (Shapley values of SHAPE, arXiv 2205.00302) scores the constant prediction
    learnt from ``prior``.

    Memory: as ``PairedScores``.

    Args:
        modalities: all of them, in the order of the result; at most 16.
        score: from ``resolve_score``, or a function ``f(output, target) -> [B]``, or a torchmetrics metric (no
            interval).
        resamples: bootstrap draws; 0 for no interval.
        alpha: 1 - the level of the intervals.
        seed: of the bootstrap.
        empty: as above.
        prior: for "majority": class counts ``[C]`` of the training labels; for multilabel, the share of positives
            ``[K]`` of each label; for regression, the training mean ``[]`` or ``[D]``.
        permutations: orders of all modalities whose prefixes are scored (``sampled_subsets``), where there are too many
            subsets; None if all are scored.

    Raises:
        InputError: settings out of range, an unknown modality, subsets scored on different samples.

    >>> import torch
    >>> from fusionscope.measures import resolve_score
    >>> table = CoalitionTable(["rgb", "depth"], score=resolve_score("accuracy", "classification", 2))
    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> table.update(frozenset({"rgb", "depth"}), torch.eye(2)[labels], labels)
    >>> table.update(frozenset({"rgb"}), torch.eye(2)[[0, 0, 0, 1]], labels)
    >>> [(row.subset, row.value, row.drop) for row in table.compute().rows]
    [(('rgb', 'depth'), 1.0, 0.0), (('rgb',), 0.75, 0.25)]
    """

    word = "subset"

    def __init__(
        self,
        modalities: Iterable[str],
        *,
        score: Any,
        resamples: int = 1000,
        alpha: float = 0.05,
        seed: int = 0,
        empty: Literal["filled", "majority"] = "filled",
        prior: Tensor | Sequence[float | int] | float | None = None,
        permutations: Permutations | None = None,
        **kwargs: Any,
    ) -> None:
        names = _checked(modalities)
        orders = None if permutations is None else tuple(tuple(order) for order in permutations)
        for order in orders or ():
            if sorted(order) != sorted(names):
                raise InputError(f"expected orders of all modalities {list(names)}, got {order}")
        used = range(2 ** len(names)) if orders is None else set().union(*(_prefixes(order, names) for order in orders))
        masks = _ordered(used, len(names))
        conditions = ["+".join(name for i, name in enumerate(names) if mask >> i & 1) for mask in masks]
        super().__init__(conditions, score=score, resamples=resamples, alpha=alpha, seed=seed, **kwargs)
        if empty not in ("filled", "majority") or (empty == "majority") != (prior is not None):
            raise InputError(
                f"expected empty='filled', or empty='majority' with the prior (class counts or mean of the training "
                f"targets), got empty={empty!r} with {'a' if prior is not None else 'no'} prior"
            )
        self.modalities, self.empty, self.permutations = names, empty, orders
        self.masks = {mask: c for c, mask in enumerate(masks)}
        self.prior = None if prior is None else torch.as_tensor(prior, dtype=torch.float64)

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        prior = None if self.prior is None else self.prior.tolist()
        names = ("modalities", "resamples", "alpha", "seed", "empty", "permutations")
        return {k: getattr(self, k) for k in names} | {"score": self.score.name, "prior": prior}

    def _index(self, condition: Iterable[str]) -> int:
        subset = frozenset(condition)
        for name in subset - set(self.modalities):
            raise InputError(
                f"expected modalities of {list(self.modalities)}, got {name!r}.{did_you_mean(name, self.modalities)}"
            )
        mask = sum(1 << self.modalities.index(name) for name in subset)
        if mask not in self.masks:
            raise InputError(f"expected a subset that the permutations begin with, got {sorted(subset)}")
        return self.masks[mask]

    def _shown(self, c: Any) -> str:
        mask = next(mask for mask, place in self.masks.items() if place == c)
        return repr(tuple(name for i, name in enumerate(self.modalities) if mask >> i & 1))

    def update(
        self,
        subset: Iterable[str],
        output: Num[Tensor, "B *outputs"],
        target: Shaped[Tensor, "rows *places"],
        group: Shaped[Tensor, "members"] | None = None,
        sample: Shaped[Tensor, "numbers"] | None = None,
    ) -> None:
        """Add one batch scored with only ``subset`` present; give every subset the same samples in the same order.

        ``group``: samples of one group are not independent; ``sample``: their numbers, which order values per sample.
        """
        c = self._index(subset)
        if self.prior is not None and c == self.masks.get(0):
            raise InputError(
                "expected no outputs for the empty subset, since empty='majority' makes them; use 'filled'"
            )
        target = target.to(output.device)
        self._add(c, output, target, group, sample)
        if self.prior is not None and c == 0:
            self._add(self.masks[0], self._majority(output), target, group, sample)

    def fail(self, subset: Iterable[str], reason: str) -> None:
        """Note that the model raised on ``subset``: it has no value, for this reason, from now on."""
        c = self._index(subset)
        self._fail(c, reason)
        if self.prior is not None and c == 0:
            self._fail(self.masks[0], f"all modalities together were not scored: {reason}")

    def _majority(self, output: Tensor) -> Tensor:
        """Outputs of the predictor that knows only the prior: log counts as logits, or the mean."""
        prior = (self.prior if self.prior is not None else torch.zeros(0)).to(output.device)
        if prior.ndim == 0:
            return prior.expand(output.shape)
        if output.ndim < 2 or output.shape[1] != len(prior):
            raise InputError(
                f"expected a prior for each output, got {len(prior)} values for outputs {tuple(output.shape)}; give "
                "class counts of all classes, shares of positive labels, or the mean of a regression target"
            )
        if self.score.task == "multilabel":
            logits = prior.logit()
        else:
            logits = prior if self.score.task == "regression" else prior.log()
        return logits.view(-1, *[1] * (output.ndim - 2)).expand(output.shape)

    def compute(self) -> Any:
        """Return the table of all subsets that were scored, a ``RemovalResult``."""
        paired, rows = self._paired()
        masks = [mask for mask, c in self.masks.items() if self.conditions[c] in paired.conditions]
        full = self.conditions[0]
        S = len(masks)
        drops = [np.full(S, np.nan)] * 3
        scored = full in paired.conditions
        if scored:
            drops = list(paired.drops(full))
        why = "no drop: the score with all modalities is not defined"
        if not scored:
            why = "no drop: all modalities together were not scored"
        found = []
        for s, mask in enumerate(masks):
            reasons = [str(paired.reason[s])] if paired.reason[s] else []
            if not scored or not np.isfinite(paired.values[0]):
                reasons.append(why)
            subset = tuple(name for i, name in enumerate(self.modalities) if mask >> i & 1)
            numbers = (paired.values, paired.low, paired.high, *drops)
            found.append(RemovalRow(subset, *(float(x[s]) for x in numbers), "; ".join(dict.fromkeys(reasons))))
        good = [mask for s, mask in enumerate(masks) if not self.failed[self.masks[mask]]]
        return RemovalResult(
            tuple(found),
            self.modalities,
            self.score.name,
            self.empty,
            paired.samples,
            paired.groups,
            self.alpha,
            self.resamples,
            self.permutations,
            paired,
            _moved(rows, good, len(self.modalities)),
        )


def _moved(rows: Rows | None, masks: Sequence[int], M: int) -> Int64[Array, "M C1"]:
    """Count the groups, overall and per class, whose statistics change where a modality is added to some subset."""
    if rows is None:
        return np.zeros((M, 1), dtype=np.int64)
    tables = [rows.table, *(sums for _, sums in rows.parts or ())]
    place = {mask: s for s, mask in enumerate(masks)}
    out = np.zeros((M, len(tables)), dtype=np.int64)
    for m in range(M):
        pairs = [(s, place[mask | 1 << m]) for mask, s in place.items() if mask | 1 << m in place and not mask >> m & 1]
        for c, table in enumerate(tables):
            changed = np.zeros(table.shape[1], dtype=bool)
            for a, b in pairs:
                changed |= (table[a] != table[b]).any(-1)
            out[m, c] = changed.sum()
    return out

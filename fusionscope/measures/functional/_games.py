"""Games whose players are modalities: Shapley values, SHAPE's cooperation, interaction indices, per-sample valuation.

A game gives every subset S of the M modalities a value V(S). All indices here are linear in V, so each is one row of
weights over the ``2^M`` subsets, numbered by bit masks (bit i: modality i is present).
"""

from collections.abc import Hashable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fusionscope.errors import InputError

Array = np.ndarray
MOST = 16  # modalities in a game
MOST_COOPERATING = 10  # modalities for which the cooperation of every subset is formed


def shapley_weights(M: int) -> Float64[Array, "M S"]:
    """Return the weights of ``φ_i = Σ_S |S|!(M-|S|-1)!/M! [V(S+i) - V(S)]`` over all subsets.

    >>> shapley_weights(2)
    array([[-0.5,  0.5, -0.5,  0.5],
           [-0.5, -0.5,  0.5,  0.5]])
    """
    masks = np.arange(2**M)
    size = np.array([int(mask).bit_count() for mask in masks])
    inside = np.array([1 / (M * comb(M - 1, max(k - 1, 0))) for k in range(M + 1)])
    outside = np.array([1 / (M * comb(M - 1, min(k, M - 1))) for k in range(M + 1)])
    present = masks >> np.arange(M)[:, None] & 1 == 1
    return np.where(present, inside[size], -outside[size])


def cooperation_weights(M: int) -> tuple[list[int], Float64[Array, "A S"]]:
    """Return the masks of all subsets A of two modalities or more, and the weights of their cooperation C_A.

    ``C_A = φ_A(game with A merged to one player) - Σ_{i in A} φ_i(game of i and the modalities outside A)``; both
    games have ``M - |A| + 1`` players and the same weights, so
    ``C_A = Σ_{T outside A} w(|T|) [V(T+A) - V(T) - Σ_{i in A} (V(T+i) - V(T))]``.

    Raises:
        InputError: more than 10 modalities.
    """
    if M > MOST_COOPERATING:
        raise InputError(f"expected at most {MOST_COOPERATING} modalities for the cooperation of all subsets, got {M}")
    chosen = [A for A in range(2**M) if A.bit_count() >= 2]
    weights = np.zeros((len(chosen), 2**M))
    for row, A in zip(weights, chosen, strict=True):
        players = [1 << i for i in range(M) if A >> i & 1]
        n = M - len(players) + 1
        outside = (2**M - 1) ^ A
        T = outside
        while True:  # every subset T of the modalities outside A
            w = 1 / (n * comb(n - 1, T.bit_count()))
            row[T | A] += w
            row[T] += w * (len(players) - 1)
            for i in players:
                row[T | i] -= w
            if not T:
                break
            T = (T - 1) & outside
    return chosen, weights


def interaction_weights(M: int) -> tuple[list[tuple[int, int]], Float64[Array, "pairs S"]]:
    """Return all pairs ``i < j`` and the weights of the Shapley interaction index, both halves of a pair together.

    ``Σ_{S without i, j} |S|!(M-|S|-2)!/(M-1)! [V(S+i+j) - V(S+i) - V(S+j) + V(S)]``. Source: Grabisch and Roubens
    1999, doi:10.1007/s001820050125.
    """
    pairs = [(i, j) for i in range(M) for j in range(i + 1, M)]
    masks = np.arange(2**M)
    size = np.array([int(mask).bit_count() for mask in masks])
    weights = np.zeros((len(pairs), 2**M))
    for row, (i, j) in zip(weights, pairs, strict=True):
        a, b = masks >> i & 1, masks >> j & 1
        without = size - a - b
        row[:] = np.array([1 / ((M - 1) * comb(M - 2, k)) for k in range(M - 1)])[without] * np.where(a == b, 1, -1)
    return pairs, weights


def combine(weights: Float64[Array, "rows S"], values: Float64[Array, "*more S"]) -> Float64[Array, "*more rows"]:
    """Weigh the values of the subsets; NaN only in rows that need a value which is not finite."""
    good = np.isfinite(values)
    sums = np.where(good, values, 0.0) @ weights.T
    if good.all():
        return np.asarray(sums)
    return np.asarray(np.where(~good @ (weights != 0).T, np.nan, sums))


def shapley(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Share out V among the modalities: what each adds, averaged over all orders in which they may join.

    ``φ_i = Σ_{S without i} |S|!(M-|S|-1)!/M! [V(S+i) - V(S)]``; ``Σ_i φ_i = V(all) - V(none)``. Source: Shapley 1953.

    Args:
        values: V of every subset, keyed by sets (or tuples) of modalities; numbers, or arrays or tensors of one shape
            (per sample, per class), in any unit.

    Returns:
        ``{modality: φ}`` in that unit and shape, in the order of the subsets of one modality.

    Raises:
        InputError: a subset is missing, more than 16 modalities, or values of several shapes.

    >>> shapley({frozenset(): 0.0, frozenset("a"): 1.0, frozenset("b"): 2.0, frozenset("ab"): 4.0})
    {'a': 1.5, 'b': 2.5}
    """
    names, stacked = _stacked(values)
    found = _weigh(shapley_weights(len(names)), stacked)
    return dict(zip(names, found, strict=True))


class Cooperation(float):
    """Cooperation of all modalities, ``C/Z``, as a number; indexed with a subset, that subset's ``C_A/Z``."""

    def __new__(cls, value: float, table: Mapping[frozenset, float]) -> "Cooperation":
        """Make the number."""
        number = super().__new__(cls, value)
        number.table = dict(table)
        return number

    table: dict[frozenset, float]

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), (float(self), self.table)

    def __getitem__(self, subset: Iterable[Hashable]) -> float:
        """Return ``C_A/Z`` of a subset of two modalities or more.

        Raises:
            InputError: no such subset.
        """
        wanted = frozenset(subset)
        if wanted not in self.table:
            raise InputError(f"expected a subset of two modalities or more, of {self._names()}, got {set(wanted)}")
        return self.table[wanted]

    def _names(self) -> list[Any]:
        return sorted({name for subset in self.table for name in subset}, key=str)

    def __iter__(self) -> Iterator[frozenset]:
        return iter(self.table)

    def __len__(self) -> int:
        """Number of subsets of two modalities or more."""
        return len(self.table)

    def keys(self) -> KeysView[frozenset]:
        """Subsets, by size."""
        return self.table.keys()

    def values(self) -> ValuesView[float]:
        """``C_A/Z`` of the subsets."""
        return self.table.values()

    def items(self) -> ItemsView[frozenset, float]:
        """Subsets with their ``C_A/Z``."""
        return self.table.items()


@dataclass(frozen=True)
class ShapeShares:
    """SHAPE's scores: ``contribution`` S_m of every modality, and ``cooperation``; both as shares of Z = V(all)."""

    contribution: dict[Any, float]
    cooperation: Cooperation


def shape_scores(values: Mapping[Any, Any]) -> ShapeShares:
    """Return SHAPE's contribution ``S_m = φ_m/Z`` and cooperation ``C_A/Z``, with ``Z = V(all)``.

    ``C_A = φ_A(A merged to one player) - Σ_{i in A} φ_i(i alone with the modalities outside A)``: what the modalities
    of A gain by being there together; positive for synergy, negative for redundancy. For two modalities
    ``C = V(1,2) - V(1) - V(2) + V(none)``. Source: SHAPE, arXiv 2205.00302 (dividing C by Z follows its tables, the
    equation omits it).

    Args:
        values: V of every subset, as for ``shapley``; arrays are averaged first. V(none) should be the accuracy of the
            majority class of the training labels.

    Returns:
        Shares of Z, which mean something where Z is above 0; NaN where Z is 0.

    Raises:
        InputError: a subset is missing, or more than 10 modalities.

    >>> xor = {frozenset(): 0.5, frozenset("a"): 0.5, frozenset("b"): 0.5, frozenset("ab"): 1.0}
    >>> scores = shape_scores(xor)
    >>> scores.contribution, float(scores.cooperation), scores.cooperation[{"a", "b"}]
    ({'a': 0.25, 'b': 0.25}, 0.5, 0.5)
    """
    names, stacked = _stacked(values)
    V = _averaged(stacked)
    Z = V[-1] if V[-1] else np.nan
    shares = combine(shapley_weights(len(names)), V) / Z
    masks, weights = cooperation_weights(len(names))
    found = combine(weights, V) / Z
    order = sorted(range(len(masks)), key=lambda k: (masks[k].bit_count(), masks[k]))
    table = {frozenset(n for i, n in enumerate(names) if masks[k] >> i & 1): float(found[k]) for k in order}
    whole = float(found[-1]) if masks else float("nan")
    return ShapeShares(dict(zip(names, shares.tolist(), strict=True)), Cooperation(whole, table))


class InterSHAP(float):
    """The share of interaction, in [0, 1]; ``matrix`` holds ``φ_ij``, on the diagonal ``φ_ii``, in the unit of V."""

    def __new__(cls, value: float, matrix: Mapping[tuple, float]) -> "InterSHAP":
        """Make the number."""
        number = super().__new__(cls, value)
        number.matrix = dict(matrix)
        return number

    matrix: dict[tuple, float]

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), (float(self), self.matrix)


def intershap(values: Mapping[Any, Any]) -> InterSHAP:
    """Return which share of a model's behaviour is interaction between modalities.

    ``φ_ij = Σ_S |S|!(M-|S|-2)!/(2(M-1)!) [V(S+ij) - V(S+i) - V(S+j) + V(S)]``, ``φ_ii = φ_i - Σ_{j≠i} φ_ij``,
    ``Φ_ij = |mean over samples of φ_ij|``, and the index ``Σ_{i≠j} Φ_ij / Σ_ij Φ_ij``. Source: InterSHAP, Wenderoth et
    al., AAAI 2025 (masking by values of other samples). Noise in V makes it larger, never smaller: read it beside
    the intervals of ``φ_ij``.

    Args:
        values: V of every subset, as for ``shapley``; arrays are averaged over samples.

    Returns:
        The index, without unit; NaN where all ``φ_ij`` are 0.

    Raises:
        InputError: a subset is missing, or more than 16 modalities.

    >>> float(intershap({frozenset(): 0.5, frozenset("a"): 0.5, frozenset("b"): 0.5, frozenset("ab"): 1.0}))
    1.0
    """
    names, stacked = _stacked(values)
    matrix = interaction_matrix(_averaged(stacked))
    cells = {(a, b): float(matrix[i, j]) for i, a in enumerate(names) for j, b in enumerate(names)}
    return InterSHAP(float(interaction_share(matrix)), cells)


def interaction_matrix(values: Float64[Array, "*more S"]) -> Float64[Array, "*more M M"]:
    """Return ``φ_ij`` (half of each pair's interaction index) and, on the diagonal, ``φ_ii``."""
    M = values.shape[-1].bit_length() - 1
    out = np.zeros((*values.shape[:-1], M, M))
    pairs, weights = interaction_weights(M)
    halves = combine(weights, values) / 2
    for k, (i, j) in enumerate(pairs):
        out[..., i, j] = out[..., j, i] = halves[..., k]
    diagonal = combine(shapley_weights(M), values) - out.sum(-1)
    out[..., np.arange(M), np.arange(M)] = diagonal
    return out


def interaction_share(matrix: Float64[Array, "*more M M"]) -> Float64[Array, "*more"]:
    """Return ``Σ_{i≠j} |φ_ij| / Σ_ij |φ_ij|``; what is below the precision of the sums counts as 0."""
    size = np.abs(matrix)
    total = size.sum((-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.where(size <= 1e-14 * total[..., None, None], 0.0, size)
        total = np.where(np.isnan(total), np.nan, size.sum((-1, -2)))
        own = np.trace(size, axis1=-2, axis2=-1)
        return np.asarray(np.where(total > 0, (total - own) / total, np.nan))


def sample_valuation(correct: Mapping[Any, Any]) -> dict[Any, Array]:
    """Value each modality for each sample: Shapley values of ``v(S) = |S|`` if S is enough to be right, else 0.

    For two modalities ``φ_a = (v(a) + v(ab) - v(b))/2``. Source: sample-level valuation, Wei et al., CVPR 2024;
    more than two modalities by the same definition. In units of modalities: a sample's values sum to M if all
    modalities together are right, else to 0.

    Args:
        correct: for every subset but the empty one, whether the prediction from it is right, ``[N]``; NaN: not known.

    Returns:
        ``{modality: [N]}``.

    Raises:
        InputError: a subset is missing.

    >>> import numpy as np
    >>> right = {("a",): np.array([True, True]), ("b",): np.array([True, False]), ("a", "b"): np.array([True, True])}
    >>> {name: value.tolist() for name, value in sample_valuation(right).items()}
    {'a': [1.0, 1.5], 'b': [1.0, 0.5]}
    """
    given = {frozenset(key): np.asarray(value, dtype=np.float64) for key, value in correct.items()}
    worth = {key: len(key) * value for key, value in given.items()}
    if not worth:
        raise InputError("expected which subsets are right, got none")
    worth[frozenset()] = np.zeros_like(next(iter(worth.values())))
    return shapley(worth)


def _stacked(values: Mapping[Any, Any]) -> tuple[list[Any], Any]:
    """Return the modalities, and V of all subsets in the order of their bit masks."""
    if not isinstance(values, Mapping):
        raise InputError(f"expected a dict {{frozenset of modalities: value}}, got a {type(values).__name__}")
    table: dict[frozenset, Any] = {}
    for key, value in values.items():
        if isinstance(key, str) or not isinstance(key, Iterable):
            raise InputError(f"expected sets of modalities as keys, got {key!r}; write frozenset({{{key!r}}})")
        if frozenset(key) in table:
            raise InputError(f"expected every subset once, got {set(key)} twice")
        table[frozenset(key)] = value
    names = [name for key in table if len(key) == 1 for name in key]
    for name in {name for key in table for name in key} - set(names):
        raise InputError(f"expected a value for every subset, got none for {{{name!r}}}")
    if not 1 <= len(names) <= MOST:
        raise InputError(f"expected the subsets of 1 to {MOST} modalities, got {len(names)} modalities")
    rows = []
    for mask in range(2 ** len(names)):
        subset = frozenset(name for i, name in enumerate(names) if mask >> i & 1)
        if subset not in table:
            shown = [name for name in names if name in subset]
            raise InputError(f"expected a value for every subset of {names}, got none for {shown}")
        rows.append(table[subset])
    if any(isinstance(row, Tensor) for row in rows):
        rows = [torch.as_tensor(row).double() for row in rows]
        if len({row.shape for row in rows}) == 1:
            return names, torch.stack(rows)
    elif len({np.shape(row) for row in rows}) == 1:
        try:
            return names, np.stack([np.asarray(row, dtype=np.float64) for row in rows])
        except (TypeError, ValueError) as error:
            raise InputError(f"expected numbers or arrays of numbers as values: {error}") from None
    raise InputError(f"expected values of one shape, got {[tuple(np.shape(row)) for row in rows]}")


def _averaged(stacked: Any) -> Float64[Array, "S"]:
    flat = stacked.detach().cpu().numpy() if isinstance(stacked, Tensor) else stacked
    return np.asarray(flat.reshape(len(flat), -1).mean(1), dtype=np.float64)


def _weigh(weights: Array, stacked: Any) -> list[Any]:
    if isinstance(stacked, Tensor):
        return list(torch.tensordot(torch.as_tensor(weights).to(stacked), stacked, 1))
    found = np.tensordot(weights, stacked, 1)
    return found.tolist() if found.ndim == 1 else list(found)

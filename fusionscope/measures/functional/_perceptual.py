"""How much worse a model does when one modality is exchanged between samples."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from fusionscope.errors import InputError, did_you_mean

KINDS = ("any", "within class", "across classes")


class Perceptual(float):
    """A perceptual score, mean over repeats; ``sd`` over the ``repeats`` (NaN for one)."""

    sd: float
    repeats: int

    def __new__(cls, mean: float, sd: float, repeats: int) -> "Perceptual":
        """Make the number."""
        number = super().__new__(cls, mean)
        number.sd, number.repeats = sd, repeats
        return number

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), (float(self), self.sd, self.repeats)

    @property
    def mean(self) -> float:
        """The score, as a plain number."""
        return float(self)


def perceptual_score(value: Any, permuted: Any, normaliser: Any = None) -> Perceptual:
    """Return the share of a score that is lost when one modality is permuted over samples.

    ``P_m = (V - mean_r V_r)/Z``. Source: Gat, Schwartz and Schwing 2021, as used in SHAPE, arXiv 2205.00302 (there:
    within and across classes, 10 repeats).

    Args:
        value: V, the score of the data as they are.
        permuted: ``V_r``, the scores with the modality permuted, one or more repeats.
        normaliser: Z; None for V.

    Returns:
        P as a number with ``.sd`` (over repeats) and ``.repeats``, without unit; NaN where Z is 0.

    Raises:
        InputError: no repeat, or what is no number.

    >>> score = perceptual_score(0.8, [0.4, 0.6])
    >>> round(score, 3), round(score.sd, 3)
    (0.375, 0.177)
    """
    try:
        scores = np.atleast_1d(np.asarray(permuted, dtype=np.float64))
        value, Z = float(value), float(value if normaliser is None else normaliser)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers: V, the V_r of the permutations and perhaps Z; {error}") from None
    if scores.ndim != 1 or not len(scores):
        raise InputError(f"expected the score of one or more permutations, got shape {np.shape(permuted)}")
    lost = (value - scores) / (Z if Z else np.nan)
    sd = float(lost.std(ddof=1)) if len(lost) > 1 else float("nan")
    return Perceptual(float(lost.mean()), sd, len(lost))


def permute_within(labels: Shaped[Tensor, "B"], seed: int, kind: str = "any") -> tuple[Int64[Tensor, "B"], int]:
    """Draw a permutation of a batch: row i gets the value of row ``order[i]``.

    - "any": from another sample;
    - "within class": from another sample of the same class; the only sample of its class keeps its own;
    - "across classes": from a sample of another class; where one class has more than half of the batch, as many
      as can be, the others get values of their own class.

    Returns:
        ``(order, stayed)``: how many samples did not get what the kind says.

    Raises:
        InputError: an unknown kind.

    >>> labels = torch.tensor([0, 0, 1, 1, 1, 2])
    >>> order, stayed = permute_within(labels, 0, "within class")
    >>> labels[order].tolist(), stayed, int(order[5])
    ([0, 0, 1, 1, 1, 2], 1, 5)
    """
    if kind not in KINDS:
        raise InputError(f"expected a kind of {list(KINDS)}, got {kind!r}.{did_you_mean(kind, KINDS)}")
    label = labels.detach().cpu()
    mixed = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    order = torch.arange(len(label))
    if kind == "any":
        order[mixed] = mixed.roll(-1)
        return order.to(labels.device), int(len(label) == 1)
    blocks = [mixed[label[mixed] == c] for c in label[mixed].unique()]
    if kind == "within class":
        for block in blocks:
            order[block] = block.roll(-1)
        stayed = sum(len(block) == 1 for block in blocks)
    else:
        # Classes one after the other: a shift by the largest class reaches another class wherever that is possible.
        turn = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed)).tolist()
        row = torch.cat([blocks[i] for i in turn]) if blocks else order.clone()
        order[row] = row.roll(-max(map(len, blocks), default=0))
        stayed = int((label[order] == label).sum())
    return order.to(labels.device), stayed

"""Late fuses: from the logits of each modality to one prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionscope.errors import InputError, did_you_mean

from ._fuse_base import Pointwise, average, keep, precise, total
from ._part import hide


class OfLogits(Pointwise):
    """A fuse of logits ``[B,K]``, ``[B,T,K]`` or ``[B,K,H,W]``; ``inputs`` heads' outputs per class come in.

    ``apart``: each logit comes from the modalities' logits of the same class alone, so that it may be a label's of its
    own as well; else the classes exclude each other.
    """

    inputs: ClassVar[int] = 1
    apart: bool = False

    def __init__(self, classes: Mapping[str, int] | int, modalities: Sequence[str] | None = None):
        super().__init__(classes, modalities)
        if len(set(self.sizes.values())) > 1:
            raise InputError(f"{type(self).__name__}: all modalities need the same classes, got {self.sizes}")
        self.channels = next(iter(self.sizes.values()))
        self.sizes = {m: self.inputs * k for m, k in self.sizes.items()}


def labelled_mean(values: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """Mean where the target is a class; 0 where it never is."""
    known = target >= 0
    return keep(values, known).sum() / known.sum().clamp(min=1)


class LateFusion(OfLogits):
    """Combine the logits ``l_m`` of the present modalities P, without parameters.

    - ``mean``: ``1/|P| sum l_m``, the normalised geometric mean of the probabilities.
    - ``product``: ``log softmax(sum log softmax(l_m))``, independent experts; sharper than ``mean`` by the factor |P|.
    - ``mixture``: ``log(1/|P| sum softmax(l_m))``, the mean of the probabilities.

    (A mean of the log-probabilities has the softmax of ``mean`` and so is no mode of its own.) ``[B,K]``, ``[B,T,K]``
    or ``[B,K,H,W]`` come out, logits again. A sample without any modality gives zeros, equal probabilities.

    Args:
        classes: K, with ``modalities``; or ``{modality: K}``.
        modalities: names, where ``classes`` is a number.
        mode: see above.

    Raises:
        InputError: if the mode is unknown; if a modality is missing or has other channels than K.

    >>> import torch
    >>> fuse = LateFusion(2, modalities=("rgb", "depth"))
    >>> fuse({"rgb": torch.tensor([[1.0, 0.0]]), "depth": torch.tensor([[3.0, 0.0]])})
    tensor([[2., 0.]])
    """

    MODES: ClassVar[tuple[str, ...]] = ("mean", "product", "mixture")

    def __init__(
        self, classes: Mapping[str, int] | int, modalities: Sequence[str] | None = None, *, mode: str = "mean"
    ):
        super().__init__(classes, modalities)
        if mode not in self.MODES:
            raise InputError(
                f"LateFusion: mode must be one of {self.MODES}, got {mode!r}.{did_you_mean(mode, self.MODES)}"
            )
        self.mode = mode
        self.apart = mode == "mean"

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        if self.mode == "mean":
            return average(x, masks)
        logs = {m: torch.log_softmax(precise(v), -1) for m, v in x.items()}
        if self.mode == "product":
            return torch.log_softmax(total(keep(v, masks[m]) for m, v in logs.items()), -1)
        lowest = torch.finfo(next(iter(logs.values())).dtype).min
        each = torch.stack([v.masked_fill(~masks[m], lowest) for m, v in logs.items()])
        count = torch.stack([masks[m] for m in logs]).sum(0).clamp(min=1)
        return torch.logsumexp(each, 0) - count.to(each.dtype).log()


class LearnedEnsemble(OfLogits):
    """AsymFusion's ensemble: ``sum_m a_m l_m`` with ``a = softmax(alpha)`` learned, one weight per modality.

    The logits ``l_m`` enter detached: the loss of the ensemble teaches ``alpha`` (1 at the start) and nothing else;
    each modality learns from its own term of :meth:`loss`. The weights are renormalised over the present modalities.
    ``[B,K]``, ``[B,T,K]`` or ``[B,K,H,W]`` come out; zeros for a sample without any modality.

    Source: arXiv:2108.05009, released code.

    Args:
        classes: K, with ``modalities``; or ``{modality: K}``.
        modalities: names, where ``classes`` is a number.
        detach: False lets the ensemble's gradient through to the logits.

    Attributes:
        weights: ``{modality: a_m}``, detached, where all are present.

    Raises:
        InputError: if a modality is missing or has other channels than K.

    >>> import torch
    >>> fuse = LearnedEnsemble(2, modalities=("rgb", "depth"))
    >>> logits = {"rgb": torch.tensor([[1.0, 0.0]]), "depth": torch.tensor([[3.0, 0.0]])}
    >>> fuse(logits).detach()
    tensor([[2., 0.]])
    >>> loss = fuse.loss(logits, torch.tensor([0]), torch.nn.functional.cross_entropy)
    """

    apart = True

    def __init__(
        self, classes: Mapping[str, int] | int, modalities: Sequence[str] | None = None, *, detach: bool = True
    ):
        super().__init__(classes, modalities)
        self.detach = detach
        self.alpha = nn.Parameter(torch.ones(len(self.sizes)))

    @property
    def weights(self) -> dict[str, Tensor]:
        return dict(zip(self.modalities, self.alpha.detach().softmax(0), strict=True))

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        mask = torch.stack(list(masks.values()), -1)
        alpha = precise(self.alpha)
        lowest = torch.full((), torch.finfo(alpha.dtype).min, dtype=alpha.dtype, device=alpha.device)
        a = keep(torch.softmax(torch.where(mask, alpha, lowest), -1), mask)
        logits = torch.stack(list(x.values()), -1)
        return (a * (logits.detach() if self.detach else logits)).sum(-1)

    def loss(
        self,
        features: dict[str, Float[Tensor, "b ..."]],
        target: Tensor,
        criterion: Callable[[Tensor, Tensor], Tensor],
        present: dict[str, Bool[Tensor, " b"]] | None = None,
    ) -> Float[Tensor, ""]:
        """Return ``sum_m criterion(l_m, target) + criterion(ensemble, target)``.

        Where a modality is absent its logits count as zeros: a constant in the loss, without gradient.
        """
        terms = [criterion(hide(features[m], present, m), target) for m in self.modalities]
        return total(terms) + criterion(self(features, present), target)

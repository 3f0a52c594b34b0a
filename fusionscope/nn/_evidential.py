"""Evidential late fusion: Dirichlet evidence and Dempster's rule (TMC)."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ._fuse_base import keep, precise, total
from ._late import OfLogits, labelled_mean


class Opinion(NamedTuple):
    """Belief in each class, and what is left: ``sum_k belief_k + uncertainty = 1``.

    Attributes:
        belief: ``[B,K]``, ``[B,T,K]`` or ``[B,K,H,W]``.
        uncertainty: the same without the class axis.
    """

    belief: Tensor
    uncertainty: Tensor


class Evidential(OfLogits):
    """Trusted multi-view classification: logits are evidence, sources are combined by Dempster's rule.

    Evidence ``e_m = softplus(l_m)``, Dirichlet ``alpha_m = e_m + 1`` with strength ``S_m = sum_k alpha_mk``, belief
    ``b_m = e_m / S_m`` and uncertainty ``u_m = K / S_m``. Two opinions are combined by the reduced Dempster rule

    ``b_k = (b1_k b2_k + b1_k u2 + b2_k u1) / (1 - C)``, ``u = u1 u2 / (1 - C)``, ``C = sum_{i != j} b1_i b2_j``.

    In evidence that is ``e = e1 + e2 + e1 e2 / K``, so that any number of modalities combine in any order to
    ``e_k = K (prod_m (1 + e_mk / K) - 1)``. The logarithm of the expected probabilities ``(e_k + 1) / S`` comes out,
    in the logits' shape, so that a softmax or a cross-entropy takes it as logits. An absent modality is the vacuous
    opinion (no evidence, u = 1); a sample without any has equal probabilities, ``-log K``.

    Source: Han et al. 2021, arXiv:2102.02051.

    Args:
        classes: K, with ``modalities``; or ``{modality: K}``.
        modalities: names, where ``classes`` is a number.

    Raises:
        InputError: if a modality is missing or has other channels than K.

    >>> import torch
    >>> fuse = Evidential(2, modalities=("rgb", "depth"))
    >>> logits = {"rgb": torch.tensor([[20.0, -20.0]]), "depth": torch.tensor([[-20.0, 20.0]])}
    >>> fuse(logits).exp()
    tensor([[0.5000, 0.5000]])
    >>> fuse.opinion(logits, modality="rgb").uncertainty
    tensor([0.0909])
    """

    def forward(
        self, features: dict[str, Float[Tensor, "b ..."]], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> Float[Tensor, "b ..."]:
        evidence = self._fused(self._evidence(features, present))
        # log of (e + 1) / (sum e + K)
        return _back(torch.log1p(evidence) - (evidence.sum(-1, keepdim=True) + self.channels).log())

    def opinion(
        self,
        features: dict[str, Float[Tensor, "b ..."]],
        present: dict[str, Bool[Tensor, " b"]] | None = None,
        modality: str | None = None,
    ) -> Opinion:
        """Return the fused belief and uncertainty, or those of one modality."""
        evidence = self._evidence(features, present)
        e = self._fused(evidence) if modality is None else evidence[modality]
        strength = e.sum(-1, keepdim=True) + self.channels
        return Opinion(_back(e / strength), (self.channels / strength).squeeze(-1))

    def loss(
        self,
        features: dict[str, Float[Tensor, "b ..."]],
        target: Int[Tensor, "b ..."],
        present: dict[str, Bool[Tensor, " b"]] | None = None,
        *,
        annealing: float = 1.0,
    ) -> Float[Tensor, ""]:
        """Return the mean over samples (and locations) of the loss of the fused and of every modality's Dirichlet.

        Each is ``psi(S) - psi(alpha_y) + annealing * KL(Dir(alpha~) || Dir(1))`` in nats with ``alpha~ = alpha`` except
        for the true class y, where it is 1: the cross-entropy expected under the Dirichlet, and evidence for other
        classes made costly. ``annealing`` should grow from 0 to 1 over the first epochs. An absent modality's term is
        0. ``target`` are classes ``[B]``, ``[B,T]`` or ``[B,H,W]``; where negative it is left out.
        """
        evidence = self._evidence(features, present)
        _, masks = self.rows(features, present)
        label = F.one_hot(target.clamp(min=0), self.channels)
        terms = [dirichlet_loss(self._fused(evidence), label, annealing)]
        for m, e in evidence.items():
            terms.append(keep(dirichlet_loss(e, label, annealing), masks[m].squeeze(-1)))
        return labelled_mean(total(terms), target)

    def _evidence(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> dict[str, Tensor]:
        x, masks = self.rows(features, present)
        return {m: keep(F.softplus(precise(v)), masks[m]) for m, v in x.items()}

    def _fused(self, evidence: dict[str, Tensor]) -> Tensor:
        return reduce(lambda a, b: a + b + a * b / self.channels, evidence.values())


def dirichlet_loss(evidence: Float[Tensor, "... k"], label: Int[Tensor, "... k"], annealing: float) -> Tensor:
    """Expected cross-entropy under ``Dir(evidence + 1)`` and the annealed divergence of the misleading evidence."""
    alpha = evidence + 1
    strength = alpha.sum(-1, keepdim=True)
    fit = (label * (torch.digamma(strength) - torch.digamma(alpha))).sum(-1)
    other = 1 + (1 - label) * evidence
    strength = other.sum(-1, keepdim=True)
    gaps = (other - 1) * (torch.digamma(other) - torch.digamma(strength)) - torch.lgamma(other)
    flat = torch.lgamma(torch.full_like(strength[..., 0], other.shape[-1]))
    return fit + annealing * (torch.lgamma(strength[..., 0]) - flat + gaps.sum(-1))


def _back(x: Tensor) -> Tensor:
    return x.movedim(-1, 1) if x.ndim == 4 else x

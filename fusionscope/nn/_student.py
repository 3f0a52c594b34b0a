"""Late fusion of Student t distributions per class (EyeMoSt)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import pi
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ._fuse_base import keep, precise, total
from ._late import OfLogits, labelled_mean

CEILING = 20.0
FLOOR = 1e-3


class NIG(NamedTuple):
    """Normal-inverse-gamma per class: ``y ~ N(mu, s)``, ``mu ~ N(gamma, s/v)``, ``s ~ InverseGamma(alpha, beta)``."""

    gamma: Tensor
    v: Tensor
    alpha: Tensor
    beta: Tensor

    def marginal(self) -> Student:
        """Distribution of y: ``t(2 alpha, gamma, beta (1 + v) / (v alpha))``."""
        return Student(2 * self.alpha, self.gamma, self.beta * (1 + self.v) / (self.v * self.alpha))


class Student(NamedTuple):
    """Student t per class.

    Attributes:
        df: degrees of freedom, above 2.
        loc: location.
        squared_scale: Sigma, the *square* of the scale.
    """

    df: Tensor
    loc: Tensor
    squared_scale: Tensor

    @property
    def variance(self) -> Tensor:
        """``Sigma df / (df - 2)``."""
        return self.squared_scale * self.df / (self.df - 2)

    def nll(self, y: Tensor) -> Tensor:
        """Negative log density at ``y``, in nats."""
        df, square = self.df, self.squared_scale
        return (
            0.5 * (square * df * pi).log()
            + (df + 1) / 2 * torch.log1p((y - self.loc) ** 2 / (df * square))
            + torch.lgamma(df / 2)
            - torch.lgamma((df + 1) / 2)
        )


class StudentFusion(OfLogits):
    """EyeMoSt-style fusion: each modality gives a Student t per class; the t's are fused and heavy tails prevail.

    A modality's head gives ``4 K`` numbers, in four blocks of K: the parameters of a normal-inverse-gamma per class,
    ``gamma``, ``v = softplus``, ``alpha = 1 + softplus``, ``beta = 0.2 + softplus`` (v and alpha at most 20; softplus
    at least 0.001 in v and alpha, so that variances exist). Its marginal is ``t(df = 2 alpha, loc = gamma,
    Sigma = beta (1 + v) / (v alpha))``. Two t's are fused, with a the one whose df is smaller in more classes (ties:
    whose smallest df is smaller; then the first):

    ``df = df_a``, ``loc = (df_1 loc_1 + df_2 loc_2) / (df_1 + df_2)``, ``Sigma = (Sigma_a + Sigma'_b) / 2`` with
    ``Sigma'_b = Sigma_b df_b (df_a - 2) / ((df_b - 2) df_a)``, the Sigma of b's variance at df_a.

    The choice is made per sample (and location). More than two modalities are fused one after the other in their
    order, which matters from the third on: *our choice*. The fused ``loc`` comes out, as logits: from ``[B,4K]``,
    ``[B,T,4K]`` or ``[B,4K,H,W]`` the same with K channels. An absent modality is skipped; a sample without any gives
    zeros.

    Source: arXiv:2303.09790 and 2405.18167, *reconstruction* from the released code, with the scale where the density
    takes a scale: the code passes its square, Sigma.

    Args:
        classes: K, with ``modalities``; or ``{modality: K}``.
        modalities: names, where ``classes`` is a number.

    Attributes:
        inputs: 4, numbers per class that come in.

    Raises:
        InputError: if a modality is missing or has other channels than 4 K.

    >>> import torch
    >>> fuse = StudentFusion(3, modalities=("rgb", "depth"))
    >>> fuse({"rgb": torch.zeros(2, 12), "depth": torch.zeros(2, 12)}).shape
    torch.Size([2, 3])
    """

    inputs: ClassVar[int] = 4

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        return self._fused({m: normal_inverse_gamma(v).marginal() for m, v in x.items()}, masks).loc

    def distribution(
        self,
        features: dict[str, Float[Tensor, "b ..."]],
        present: dict[str, Bool[Tensor, " b"]] | None = None,
        modality: str | None = None,
    ) -> Student:
        """Return the fused t per class, or one modality's; its ``variance`` is the epistemic score.

        Entries of absent modalities, or of samples without any, are finite and mean nothing.
        """
        x, masks = self.rows(features, present)
        each = {m: normal_inverse_gamma(v).marginal() for m, v in x.items()}
        found = self._fused(each, masks) if modality is None else each[modality]
        return Student(*(v.movedim(-1, 1) if v.ndim == 4 else v for v in found))

    def loss(
        self,
        features: dict[str, Float[Tensor, "b ..."]],
        target: Int[Tensor, "b ..."],
        present: dict[str, Bool[Tensor, " b"]] | None = None,
        *,
        ranking: float = 10.0,
    ) -> Float[Tensor, ""]:
        """Return the mean over samples (and locations) of ``L + sum_m L_m + ranking * sum_m R_m``.

        With y one-hot and means over classes: ``L = nll(y; t) + 0.5 CE(loc)`` of the fused t,
        ``L_m = nll(y; t_m) + 0.01 CE(gamma_m) (v_m + alpha_m + 1 / beta_m)``, and ``R_m = relu(c_m - c)``
        where modality m alone is right, with ``c`` the largest softmax of the location: fusing must not lose
        confidence. (The likelihood of the normal-inverse-gamma is that of its marginal t.) An absent modality's terms
        are 0. ``target`` are classes ``[B]``, ``[B,T]`` or ``[B,H,W]``; where negative it is left out.
        """
        x, masks = self.rows(features, present)
        nigs = {m: normal_inverse_gamma(v) for m, v in x.items()}
        each = {m: n.marginal() for m, n in nigs.items()}
        fused = self._fused(each, masks)
        label = F.one_hot(target.clamp(min=0), self.channels).to(fused.loc.dtype)
        confidence = fused.loc.softmax(-1).amax(-1)
        terms = [fused.nll(label).mean(-1) + 0.5 * _cross_entropy(fused.loc, label)]
        for m, t in each.items():
            weight = (nigs[m].v + nigs[m].alpha + 1 / nigs[m].beta).mean(-1)
            right = t.loc.argmax(-1) == target
            lost = keep(torch.relu(t.loc.softmax(-1).amax(-1) - confidence), right)
            own = t.nll(label).mean(-1) + 0.01 * _cross_entropy(t.loc, label) * weight + ranking * lost
            terms.append(keep(own, masks[m].squeeze(-1)))
        return labelled_mean(total(terms), target)

    def _fused(self, each: Mapping[str, Student], masks: Mapping[str, Tensor]) -> Student:
        names: Sequence[str] = list(each)
        found, known = each[names[0]], masks[names[0]]
        for name in names[1:]:
            other, there = each[name], masks[name]
            both = fuse_students(found, other)
            found = Student(
                *(
                    torch.where(known & there, b, torch.where(known, one, two))
                    for one, two, b in zip(found, other, both, strict=True)
                )
            )
            known = known | there
        return found


def normal_inverse_gamma(x: Float[Tensor, "... k4"]) -> NIG:
    """The four blocks of a head's output as parameters."""
    gamma, v, alpha, beta = precise(x).chunk(4, -1)
    return NIG(
        gamma,
        F.softplus(v).clamp(FLOOR, CEILING),
        (1 + F.softplus(alpha).clamp(min=FLOOR)).clamp(max=CEILING),
        0.2 + F.softplus(beta),
    )


def fuse_students(one: Student, two: Student) -> Student:
    """Fuse two t's; the one that mostly has fewer degrees of freedom lends its own, and variances are kept."""
    fewer = (one.df < two.df).sum(-1, keepdim=True) - (two.df < one.df).sum(-1, keepdim=True)
    tie = one.df.amin(-1, keepdim=True) <= two.df.amin(-1, keepdim=True)
    first = (fewer > 0) | ((fewer == 0) & tie)
    a = Student(*(torch.where(first, x, y) for x, y in zip(one, two, strict=True)))
    b = Student(*(torch.where(first, y, x) for x, y in zip(one, two, strict=True)))
    loc = (one.df * one.loc + two.df * two.loc) / (one.df + two.df)
    matched = b.squared_scale * b.df * (a.df - 2) / ((b.df - 2) * a.df)
    return Student(a.df, loc, (a.squared_scale + matched) / 2)


def _cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return -(label * logits.log_softmax(-1)).sum(-1)

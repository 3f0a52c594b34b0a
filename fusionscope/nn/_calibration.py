"""Calibration before fusion: every modality's features are scaled by how they compare with the others'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from fusionscope.errors import InputError, did_you_mean

from ._part import check_features, check_present, dimensions, hide, pool, spread, there

NAME = "ContextualCalibration"
MODES = ("product", "residual")
SUMMARIES = ("mean", "max", "attention")
BETA = 2.0


class Gate(NamedTuple):
    """What calibration does to one modality.

    Attributes:
        instance: ``i`` in (0, 1), ``[B]``; 0.88 at initialisation.
        dimension: ``g`` in (-1, 1), ``[B,C]``; 0 at initialisation.
        factor: what the features are multiplied by, ``[B,C]``; 1 leaves them as they are.
    """

    instance: Tensor
    dimension: Tensor
    factor: Tensor


class ContextualCalibration(nn.Module):
    r"""Scale every modality's features, before they are fused, by the support and conflict it meets in the others.

    A *reconstruction* of arXiv:2606.02679 from its abstract: the formulas are ours. With :math:`u_m` the features'
    summary over time or space and :math:`p_n` in {0, 1} who is present,

    .. math::
        z_m = \mathrm{LN}(W_m u_m), \quad c_m = \sum_{n \ne m} p_n z_n / \max(1, \sum_{n \ne m} p_n), \quad
        h_m = \mathrm{GELU}(W_h [z_m; c_m; z_m c_m; |z_m - c_m|; \cos(z_m, c_m); |z_m - c_m|^2 / d] + e_m)

    .. math::
        i_m = \sigma(w^\top h_m + \beta), \quad g_m = \tanh(V_m h_m), \quad
        \tilde x_m = x_m \cdot i_m / \sigma(2) \cdot (1 + g_m)

    From three modalities on :math:`\min_n` and :math:`\max_n \cos(z_m, z_n)` join the cues. At initialisation
    (:math:`w, V = 0`, :math:`\beta = 2`) the part is the identity; the factor stays in [0, 2.27), so no sign flips. A
    modality that is absent becomes zero; one that has no other present stays as it is.

    To calibrate after the fusion instead, let the fused vector stand as one more modality, the only one gated:
    ``ContextualCalibration({"rgb": 20, "depth": 20, "fused": 40}, gated=("fused",))``, called with
    ``{**features, "fused": fuse(features)}``, gives ``"fused"`` scaled and the others as they are.

    Args:
        channels: channels of each modality's features, or one number for all ``modalities``.
        modalities: the names, where ``channels`` is a number.
        dim: size d of the summaries' common space.
        hidden: size r of ``h``.
        support: use the cues of agreement (the product, the cosine, the largest cosine).
        conflict: use the cues of disagreement (the difference, its square, the smallest cosine).
        instance: use the gate per sample; without it ``i = sigma(2)`` (in ``residual`` mode 1).
        dimension: use the gate per channel; without it ``g = 0``.
        mode: ``product`` as above, or ``residual``: :math:`x_m + i_m g_m x_m`, factor in (0, 2).
        summary: ``mean``, ``max`` or ``attention`` (a learnt weight per step or place; the mean at initialisation).
        shared: one ``W`` and ``V`` for all modalities and no ``e_m``: then modalities can be permuted.
        detach: let no gradient pass from one modality's gate to the others' features.
        gated: the modalities to scale; the others are compared with only. None = all.

    Raises:
        InputError: if an option is unknown or options do not fit; on call, if modalities or channels differ.

    >>> import torch
    >>> calibration = ContextualCalibration({"text": 300, "audio": 74})
    >>> features = {"text": torch.randn(5, 300), "audio": torch.randn(5, 7, 74)}
    >>> all(torch.allclose(x, features[m]) for m, x in calibration(features).items())
    True
    """

    def __init__(
        self,
        channels: Mapping[str, int] | int,
        modalities: Sequence[str] | None = None,
        dim: int = 64,
        hidden: int = 32,
        *,
        support: bool = True,
        conflict: bool = True,
        instance: bool = True,
        dimension: bool = True,
        mode: str = "product",
        summary: str = "mean",
        shared: bool = False,
        detach: bool = False,
        gated: Sequence[str] | None = None,
    ):
        super().__init__()
        self.channels = dimensions(channels, modalities, NAME)
        self.modalities = tuple(self.channels)
        self.gated = self.modalities if gated is None else tuple(gated)
        self.support, self.conflict, self.detach = support, conflict, detach
        self.mode, self.summary, self.shared = mode, summary, shared
        self._check(instance, dimension)
        many = len(self.modalities) > 2
        sizes = {"all": next(iter(self.channels.values()))} if shared else self.channels
        turned = {"all"} if shared else set(self.gated)
        self.project = nn.ModuleDict({m: nn.Linear(c, dim, bias=False) for m, c in sizes.items()})
        self.score = None
        if summary == "attention":
            self.score = nn.ModuleDict({m: _zero(nn.Linear(c, 1, bias=False)) for m, c in sizes.items()})
        self.norm = nn.LayerNorm(dim)
        self.cues = nn.Linear((2 + support + conflict) * dim + (support + conflict) * (1 + many), hidden)
        self.embedding = None if shared else nn.Parameter(0.02 * torch.randn(len(self.modalities), hidden))
        self.instance = _zero(nn.Linear(hidden, 1)) if instance else None
        if self.instance is not None:
            nn.init.constant_(self.instance.bias, BETA)
        self.dimension = None
        if dimension:
            gates = {m: _zero(nn.Linear(hidden, c, bias=False)) for m, c in sizes.items() if m in turned}
            self.dimension = nn.ModuleDict(gates)
        self.register_buffer("others", 1 - torch.eye(len(self.modalities)), persistent=False)

    def _check(self, instance: bool, dimension: bool) -> None:
        for name, value, known in (("mode", self.mode, MODES), ("summary", self.summary, SUMMARIES)):
            if value not in known:
                raise InputError(
                    f"{NAME}: {name} is one of {', '.join(known)}, got {value!r}.{did_you_mean(value, known)}"
                )
        unknown = [m for m in self.gated if m not in self.channels]
        if unknown or not self.gated:
            raise InputError(
                f"{NAME}: gated= names modalities of {list(self.modalities)}, got {list(self.gated)}"
                + (did_you_mean(unknown[0], self.modalities) if unknown else "")
            )
        if self.shared and len(set(self.channels.values())) > 1:
            raise InputError(f"{NAME}: shared=True needs equal channels of all modalities, got {self.channels}")
        if not dimension and (self.mode == "residual" or not instance):
            raise InputError(
                f"{NAME}: dimension=False leaves nothing to scale by in mode {self.mode!r} with {instance=}"
            )

    def forward(
        self,
        features: dict[str, Float[Tensor, "b ..."]],
        present: dict[str, Bool[Tensor, " b"]] | None = None,
        *,
        steps: dict[str, Bool[Tensor, "b _"]] | None = None,
    ) -> dict[str, Float[Tensor, "b ..."]]:
        """Return the features scaled, in the shapes they came in: ``[B,C]``, ``[B,T,C]`` or ``[B,C,H,W]``.

        ``steps`` says which steps of a sequence count in its summary, ``[B,T]``; all, where it names no modality.
        """
        features = self._seen(features, present)
        found = self._gates(features, present, steps)
        return {m: x * spread(found[m].factor, x).to(x.dtype) if m in found else x for m, x in features.items()}

    def gates(
        self,
        features: dict[str, Float[Tensor, "b ..."]],
        present: dict[str, Bool[Tensor, " b"]] | None = None,
        *,
        steps: dict[str, Bool[Tensor, "b _"]] | None = None,
    ) -> dict[str, Gate]:
        """Return what the part does to each gated modality: ``instance`` [B], ``dimension`` and ``factor`` [B,C].

        Where a modality is absent all three are 0; where it has no other, the factor is 1.
        """
        found = self._gates(self._seen(features, present), present, steps)
        shapes = {m: (features[m].shape[0], self.channels[m]) for m in found}
        found = {
            m: Gate(g.instance, g.dimension.expand(shapes[m]), g.factor.expand(shapes[m])) for m, g in found.items()
        }
        if present is None:
            return found
        return {m: Gate(*(hide(x, present, m) for x in gate)) for m, gate in found.items()}

    def sparsity(
        self,
        features: dict[str, Float[Tensor, "b ..."]],
        present: dict[str, Bool[Tensor, " b"]] | None = None,
        weight: float = 1e-3,
    ) -> Float[Tensor, ""]:
        """Return ``weight`` times the mean of ``|g|`` over samples, channels and modalities: a term for the loss."""
        found = self.gates(features, present)
        return weight * torch.stack([gate.dimension.abs().mean() for gate in found.values()]).mean()

    def _seen(self, features: dict[str, Tensor], present: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        check_features(features, self.channels, NAME)
        check_present(present, features, NAME)
        return {m: hide(features[m], present, m) for m in self.modalities}

    def _gates(
        self, features: dict[str, Tensor], present: Mapping[str, Tensor] | None, steps: Mapping[str, Tensor] | None
    ) -> dict[str, Gate]:
        z = torch.stack([self._summary(m, x, None if steps is None else steps.get(m)) for m, x in features.items()], 1)
        z = self.norm(z)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        others: Tensor = self.others  # ty: ignore[invalid-assignment]
        weights = others.to(z.dtype)[None]
        if present is not None:
            weights = weights * torch.stack([there(present, m, x) for m, x in features.items()], 1)[:, None]
        h = self.cues(self._compare(z, weights).to(self.cues.weight.dtype))
        h = functional.gelu(h if self.embedding is None else h + self.embedding)
        start = z.new_full(z.shape[:2], BETA).sigmoid()  # in the same way as i, so that their ratio starts at exactly 1
        i = start if self.instance is None else self.instance(h)[..., 0].to(z.dtype).sigmoid()
        if self.mode == "product":
            scale = i / start
        else:
            i = scale = i if self.instance is not None else torch.ones_like(i)
        alone = (weights.sum(2) == 0).expand(z.shape[0], -1)
        found = {}
        for m in self.gated:
            place = self.modalities.index(m)
            g = z.new_zeros(1, 1)
            if self.dimension is not None:
                g = self.dimension["all" if self.shared else m](h[:, place]).to(z.dtype).tanh()
            one, by = scale[:, place, None], alone[:, place, None]
            factor = 1 + one * g if self.mode == "residual" else one * (1 + g)
            found[m] = Gate(
                torch.where(by[:, 0], start[:, place], i[:, place]), g.masked_fill(by, 0.0), factor.masked_fill(by, 1.0)
            )
        return found

    def _summary(self, modality: str, x: Tensor, steps: Tensor | None) -> Float[Tensor, "b d"]:
        """The features' summary in the common space."""
        key = "all" if self.shared else modality
        if steps is not None and (x.ndim != 3 or steps.shape != x.shape[:2]):
            raise InputError(
                f"{NAME}: steps[{modality!r}] must be [B,T] beside features [B,T,C], got {list(steps.shape)} beside "
                f"{list(x.shape)}"
            )
        if self.summary == "mean" and steps is None:
            return self.project[key](pool(x))
        places = x[:, None] if x.ndim == 2 else x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        keep = places.new_ones((), dtype=torch.bool) if steps is None else steps[..., None].to(x.device)
        if self.summary == "max":
            u = torch.where(keep, places, torch.finfo(x.dtype).min).amax(1)
            return self.project[key](torch.where(keep.any(1) if keep.ndim else keep, u, torch.zeros_like(u)))
        places = torch.where(keep, places, torch.zeros_like(places))
        if self.score is not None:
            score = self.score[key](places)
            score = score.to(torch.promote_types(score.dtype, torch.float32))
            weights = torch.where(keep, score, torch.finfo(score.dtype).min).softmax(1).to(x.dtype)
            return self.project[key]((weights * places).sum(1))
        return self.project[key](places.sum(1) / keep.sum(1).clamp(min=1))

    def _compare(self, z: Float[Tensor, "b m d"], weights: Float[Tensor, "#b m m"]) -> Float[Tensor, "b m e"]:
        """The cues of support and conflict between each modality and the mean of the others."""
        far = z.detach() if self.detach else z
        mean = (weights[..., None] * far[:, None]).sum(2) / weights.sum(2, keepdim=True).clamp(min=1)
        way, ways = functional.normalize(z, dim=-1, eps=1e-6), functional.normalize(far, dim=-1, eps=1e-6)
        many = len(self.modalities) > 2
        cos = (way[:, :, None] * ways[:, None]).sum(-1) if many else z
        cues = [z, mean]
        if self.support:
            cues += [z * mean, (way * functional.normalize(mean, dim=-1, eps=1e-6)).sum(-1, keepdim=True)]
            cues += [torch.where(weights > 0, cos, -1.0).amax(2, keepdim=True)] if many else []
        if self.conflict:
            cues += [(z - mean).abs(), (z - mean).square().mean(-1, keepdim=True)]
            cues += [torch.where(weights > 0, cos, 1.0).amin(2, keepdim=True)] if many else []
        return torch.cat(cues, -1)

    def extra_repr(self) -> str:
        """The options that are not the usual ones."""
        usual = {
            "mode": "product",
            "summary": "mean",
            "shared": False,
            "support": True,
            "conflict": True,
            "detach": False,
        }
        changed = [f"{k}={getattr(self, k)!r}" for k, v in usual.items() if getattr(self, k) != v]
        return ", ".join([str(self.channels), *changed])


def _zero(layer: nn.Linear) -> nn.Linear:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer

"""A norm whose affine parameters or statistics are each modality's own, over interleaved rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fusionscope.errors import InputError

from ._norm_copies import NormCopies, single
from ._norm_math import NormValues, affine, flat, statistical, values
from ._part import check_features, check_present, equal, hide, named, subset
from ._rows import interleave, row_mask, separate

PRIVATE = {"both": (True, True), "affine": (True, False), "statistics": (False, True), "none": (False, False)}
_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
KINDS: dict[type[nn.Module], str] = {
    **dict.fromkeys(_BATCH, "batch"),
    **dict.fromkeys(_INSTANCE, "instance"),
    nn.LayerNorm: "layer",
    nn.GroupNorm: "group",
}
_ATTRIBUTES = ("num_features", "num_groups", "num_channels", "normalized_shape", "eps", "momentum")
_ATTRIBUTES += ("affine", "elementwise_affine", "track_running_stats")


class ModalityNorm(NormValues):
    """The given norm for several modalities: ``y = (x - mean_m) / sqrt(var_m + eps) * gamma_m + beta_m`` for rows of m.

    Every modality starts with the given norm's values. What is private is held as ``[M, C]`` (``weight``, ``bias``,
    ``running_mean``, ``running_var``), what is shared as ``[C]``. Batch, layer, group and instance norms of torch are
    computed for all modalities at once (a batch norm of contiguous maps as one native batch norm over ``M·C``
    channels); any other norm becomes one copy per modality, called one after another.

    Called with interleaved rows ``[B·M·rows, ...]`` (`fusionscope.nn.share`), or as a part with
    ``{modality: features}`` of equal shapes ``[B,C]``, ``[B,T,C]`` or ``[B,C,H,W]`` and, optionally, who is
    ``present``. Absent rows enter no batch statistics and come out as zeros; a modality with fewer than two values to
    average keeps its running ones.

    Args:
        norm: the norm to start from; it is not changed.
        modalities: their names, in the order of the rows.
        private: ``"both"``, ``"affine"`` (statistics over all modalities' rows), ``"statistics"`` or ``"none"``.
        frozen: use the running statistics in training too and leave them as they are (the affine part still learns).
        rows: consecutive rows that each modality of a sample has.

    Attributes:
        active: the modalities whose rows come in, in order; set it to run a subset.
        present: who is there in the forward that runs, if not all; set by `SharedEncoder`.
        synchronised: take a batch norm's statistics over the rows of all ranks, as torch's ``SyncBatchNorm`` does.

    Modality-private batch norm over shared convolutions is AsymFusion's (arXiv:2108.05009) and CEN's
    (arXiv:2011.05005); with ``frozen``, as in the former's published recipe, only gamma and beta are private.

    Raises:
        InputError: if ``private`` is not one of the four, or the modalities are not the active ones.

    >>> import torch
    >>> norm = ModalityNorm(torch.nn.BatchNorm1d(3), ("rgb", "depth"))
    >>> out = norm({"rgb": torch.randn(5, 3), "depth": torch.randn(5, 3)})
    >>> out["depth"].shape, norm.scales()["rgb"]
    (torch.Size([5, 3]), tensor([1., 1., 1.], grad_fn=<SelectBackward0>))
    """

    def __init__(
        self, norm: nn.Module, modalities: Sequence[str], private: str = "both", frozen: bool = False, rows: int = 1
    ):
        super().__init__()
        self.modalities = named(modalities, "ModalityNorm")
        if private not in PRIVATE:
            raise InputError(f"private must be one of {', '.join(map(repr, PRIVATE))}, got {private!r}")
        self.private, self.own, self.rows = private, PRIVATE[private], rows
        self.present: dict[str, Tensor] | None = None
        self._active, self._frozen = self.modalities, frozen
        self.base = type(norm)
        self.kind = KINDS.get(type(norm), "copies")
        self.copies = NormCopies(norm, self.modalities, *self.own) if self.kind == "copies" else None
        if self.copies is None:
            for name in _ATTRIBUTES:
                if hasattr(norm, name):
                    setattr(self, name, getattr(norm, name))
            for name in ("weight", "bias"):
                value = getattr(norm, name, None)
                self.register_parameter(name, None)
                if value is not None:
                    values = self._repeat(value.detach(), self.own[0])
                    setattr(self, name, nn.Parameter(values, requires_grad=value.requires_grad))
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                value = getattr(norm, name, None)
                self.register_buffer(name, None if value is None else self._repeat(value.detach(), self.own[1]))
        self.train(norm.training)

    def _repeat(self, value: Tensor, private: bool) -> Tensor:
        return torch.stack([value] * len(self.modalities)) if private else value.clone()

    @property
    def active(self) -> tuple[str, ...]:
        return self._active

    @active.setter
    def active(self, modalities: Sequence[str]) -> None:
        self._active = subset(modalities, self.modalities, "ModalityNorm")

    @property
    def frozen(self) -> bool:
        return self._frozen

    @frozen.setter
    def frozen(self, on: bool) -> None:
        self._frozen = on
        self.train(self.training)

    def train(self, mode: bool = True) -> ModalityNorm:
        super().train(mode)
        if self.copies is not None:
            self.copies.train(mode and not self._frozen)
        return self

    def scales(self) -> dict[str, Float[Tensor, " c"]]:
        """Return each modality's gamma, active or not; empty where the norm has none."""
        if self.copies is not None:
            return self.copies.scales()
        if self.weight is None:
            return {}
        return {m: self.weight[self.modalities.index(m)] if self.own[0] else self.weight for m in self.modalities}

    def of(self, modality: str) -> nn.Module:
        """Return a new norm of the original class with one modality's values."""
        return single(self, modality)

    def forward(
        self,
        x: Float[Tensor, "n ..."] | dict[str, Float[Tensor, "b ..."]],
        present: dict[str, Bool[Tensor, " b"]] | None = None,
    ) -> Float[Tensor, "n ..."] | dict[str, Float[Tensor, "b ..."]]:
        if isinstance(x, Tensor):
            return self._interleaved(x, self._active, self.present if present is None else present)
        return self._features(x, present)

    def _features(self, x: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        channels = self._channels()
        check_features(x, self._active if channels is None else dict.fromkeys(self._active, channels), "ModalityNorm")
        check_present(present, x, "ModalityNorm")
        laid = {m: self._layout(x[m]) for m in self._active}
        if equal(v.shape for v in laid.values()):
            y = separate(self._interleaved(interleave(laid), self._active, present), self._active, self.rows)
        elif self.kind in ("batch", "instance") and not self.own[1]:
            shapes = ", ".join(f"{m} {list(v.shape)}" for m, v in laid.items())
            raise InputError(f"a ModalityNorm with shared statistics takes features of equal shapes, got {shapes}")
        else:
            y = {m: self._interleaved(v, (m,), present) for m, v in laid.items()}
        return {m: hide(self._layout(v, back=True), present, m) for m, v in y.items()}

    def _channels(self) -> int | None:
        if self.kind == "layer":
            shape = self.normalized_shape
            return shape[0] if len(shape) == 1 else None
        return getattr(self, "num_channels" if self.kind == "group" else "num_features", None)

    def _layout(self, x: Tensor, back: bool = False) -> Tensor:
        """Bring the channels of a part's features to where this norm looks for them."""
        if self.kind == "layer":
            moved = x.ndim == 4 and len(self.normalized_shape) == 1
            return (x.movedim(-1, 1) if back else x.movedim(1, -1)) if moved else x
        return x.transpose(1, 2) if x.ndim == 3 and self.kind != "copies" else x

    def _interleaved(self, x: Tensor, active: tuple[str, ...], present: Mapping[str, Tensor] | None) -> Tensor:
        named_in = [] if present is None else [m for m in active if m in present]
        keep = row_mask(present, active, x, self.rows) if present is not None and named_in else None
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        if keep is not None:
            x = torch.where(keep, x, zero)
        if self.copies is not None:
            y = self.copies(x, active, self.rows, keep)
        elif self.kind == "layer":
            y = self._layer(x, active)
        elif self.kind == "group":
            y = self._grouped(x, active)
        else:
            y = statistical(self, x, active, keep)
        return y if keep is None else torch.where(keep, y, zero.to(y.dtype))

    def _layer(self, x: Tensor, active: tuple[str, ...]) -> Tensor:
        shape = list(self.normalized_shape)
        weight, bias = (values(self, v, self.own[0], active) for v in (self.weight, self.bias))
        if len(active) == 1 or not self.own[0]:
            first = None if weight is None else weight[0], None if bias is None else bias[0]
            return F.layer_norm(x, shape, *first, self.eps)
        return affine(self, F.layer_norm(x, shape, None, None, self.eps), active)

    def _grouped(self, x: Tensor, active: tuple[str, ...]) -> Tensor:
        if self.rows > 1 or not x.is_contiguous():
            return affine(self, F.group_norm(x, self.num_groups, None, None, self.eps), active)
        weight, bias = (flat(values(self, v, self.own[0], active)) for v in (self.weight, self.bias))
        side_by_side = x.view(-1, len(active) * x.shape[1], *x.shape[2:])
        return F.group_norm(side_by_side, len(active) * self.num_groups, weight, bias, self.eps).view(x.shape)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            copies = self.__dict__.get("_modules", {}).get("copies")
            if copies is None or name.startswith("_"):
                raise
        return getattr(copies.first, name)

    def extra_repr(self) -> str:
        shown = f"{self.base.__name__}, {', '.join(self.modalities)}, private={self.private!r}"
        if self.active != self.modalities:
            shown += f", active={self.active}"
        return shown + (f", rows={self.rows}" if self.rows > 1 else "") + (", frozen" if self.frozen else "")


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: one of torch's, or called one, with values per channel and no layers inside."""
    if type(module) in KINDS:
        return True
    if "norm" not in type(module).__name__.lower() or isinstance(module, ModalityNorm):
        return False
    own = [v for v in (*module.parameters(recurse=False), *module.buffers(recurse=False)) if v.ndim > 0]
    inner = [p for child in module.children() for p in child.parameters()]
    return bool(own) and all(v.ndim == 1 for v in own) and not inner

"""Channel exchanging (CEN): channels that a norm has scaled to nothing are replaced by the other modalities'."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._part import channel_axis, named, there
from .functional._exchanges import check_alike, visible

Maps = dict[str, Float[Tensor, "b ..."]]
Present = dict[str, Bool[Tensor, " b"]] | None
Scales = Mapping[str, Float[Tensor, " c"]] | None


class ChannelExchange(nn.Module):
    """Replace a modality's idle channels by the mean of the other modalities' channels of the same number.

    ``y_mc = mean over n != m of x_nc`` where ``|scale_mc| < threshold``, else ``x_mc``; ``scale`` is the weight of the
    private norm whose output ``x`` is. A replacement, not a swap: ``x_nc`` stays where it is, and a replaced ``x_mc``
    gets no gradient from ``y_mc``. ``{m: x} -> {m: y}`` of ``[B,C]``, ``[B,T,C]`` or ``[B,C,H,W]``, the same shape for
    every modality. Source: arXiv:2011.05005 and its released code; the mean for more than two modalities.

    The scales are given at each call, as ``share`` does, or this part owns ``norms`` and applies them first. The mean
    is over the modalities that the sample has; with none, the channel stays. Absent samples come out as zeros; a batch
    norm in ``norms`` would see them as zeros too (those of ``share`` leave them out).

    Args:
        threshold: of the scales' size (0.02 for segmentation in the source).
        weight: of the penalty (0.0002 in the source, which adds it three times, once per output).
        norms: ``{modality: norm}``, modules with a ``weight`` of one value per channel.

    Raises:
        InputError: fewer than two modalities, other shapes, or no scales, or scales that do not match.

    >>> import torch
    >>> x = {"rgb": torch.tensor([[1.0, 2.0]]), "depth": torch.tensor([[30.0, 40.0]])}
    >>> scales = {"rgb": torch.tensor([0.5, 0.01]), "depth": torch.tensor([1.0, 1.0])}
    >>> exchange = ChannelExchange()
    >>> {m: y.tolist() for m, y in exchange(x, scales=scales).items()}
    {'rgb': [[1.0, 40.0]], 'depth': [[30.0, 40.0]]}
    >>> exchange.penalty(scales)
    tensor(0.0003)
    """

    placement = "norm"

    def __init__(self, threshold: float = 2e-2, weight: float = 2e-4, norms: Mapping[str, nn.Module] | None = None):
        super().__init__()
        if not threshold >= 0 or not weight >= 0:
            raise InputError(f"ChannelExchange needs threshold and weight of 0 or more, got {threshold} and {weight}")
        self.threshold = threshold
        self.weight = weight
        self.norms: nn.ModuleDict | None = None
        if norms is not None:
            named(tuple(norms), "ChannelExchange", least=2)
            self.norms = nn.ModuleDict(dict(norms))
            _check_scales(self._own(), tuple(norms))

    def forward(self, features: Maps, present: Present = None, scales: Scales = None) -> Maps:
        check_alike(features, "ChannelExchange", None if self.norms is None else tuple(self.norms))
        features = visible(features, present)
        if self.norms is not None:
            features = visible({m: self.norms[m](x) for m, x in features.items()}, present)
        scales = self._scales(scales, tuple(features))
        out = {}
        for m, x in features.items():
            axis = channel_axis(x)
            if len(scales[m]) != x.shape[axis]:
                raise InputError(
                    f"ChannelExchange got {len(scales[m])} scales for {x.shape[axis]} channels of {m!r} {list(x.shape)}"
                )
            shape = [1] * x.ndim
            shape[axis] = -1
            idle = (scales[m].detach().abs() < self.threshold).view(shape)
            others = [n for n in features if n != m]
            mean = torch.stack([features[n] for n in others]).sum(0) if len(others) > 1 else features[others[0]]
            if present is None or not any(n in present for n in others):
                mean = mean / len(others) if len(others) > 1 else mean
            else:
                count = torch.stack([there(present, n, x) for n in others]).sum(0).view(-1, *[1] * (x.ndim - 1))
                mean = mean / count.clamp(min=1).to(x.dtype)
                idle = idle & (count > 0)
            out[m] = torch.where(idle, mean.to(x.dtype), x)
        return visible(out, present)

    def penalty(self, scales: Scales = None) -> Float[Tensor, ""]:
        """Return ``weight`` times the sum of ``|scale_mc|`` over disjoint parts of the channels.

        Of ``M`` modalities the ``i``-th is penalised on the ``i``-th of ``M`` equal slices (halves for two), so that no
        channel is idle in all of them.

        Args:
            scales: ``{m: [C]}``; those of ``norms`` unless given.
        """
        scales = self._scales(scales, None)
        total, slices = [], len(scales)
        for i, gamma in enumerate(scales.values()):
            size = len(gamma)
            total.append(gamma[i * size // slices : (i + 1) * size // slices].abs().sum())
        return self.weight * torch.stack(total).sum()

    def _own(self) -> dict[str, Tensor]:
        found = {}
        for m, norm in (self.norms or {}).items():
            weight = getattr(norm, "weight", None)
            if isinstance(weight, Tensor):
                found[m] = weight
        return found

    def _scales(self, scales: Scales, modalities: tuple[str, ...] | None) -> dict[str, Tensor]:
        found = self._own() if scales is None else dict(scales)
        _check_scales(found, tuple(found) if modalities is None else modalities)
        return found

    def extra_repr(self) -> str:
        return f"threshold={self.threshold:g}, weight={self.weight:g}"


def _check_scales(scales: Mapping[str, Tensor], modalities: tuple[str, ...]) -> None:
    missing = [m for m in modalities if m not in scales]
    if missing or not scales:
        raise InputError(
            f"ChannelExchange needs the norm's scales of every modality; missing: {missing or 'all'}. Pass scales="
            "{modality: norm.weight} or build it with norms={modality: norm}; the norms need affine weights"
        )
    shapes = {m: list(x.shape) for m, x in scales.items()}
    first = next(iter(shapes.values()))
    if len(first) != 1 or any(s != first for s in shapes.values()):
        raise InputError(f"ChannelExchange needs one scale per channel, as many for every modality, got {shapes}")

"""Raw maps of any unit and number type to zero mean and unit variance, each modality by its own statistics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._encoders import _floating
from ._part import check_features, check_present, hide


class Standardise(nn.Module):
    """``(x_m - mean_m) / sqrt(var_m + eps)`` per channel: a batch norm without affine for every modality's raw maps.

    Absent samples' values never matter: they enter no statistics and come out as zeros.

    Raises:
        InputError: if a modality is missing or unknown, or is no map of the expected channels.

    >>> import torch
    >>> out = Standardise({"rgb": 3})({"rgb": torch.randint(0, 255, (2, 3, 5, 7), dtype=torch.uint8)})["rgb"]
    >>> bool(out.mean((0, 2, 3)).abs().max() < 1e-5)
    True
    """

    def __init__(self, channels: Mapping[str, int], part: str = "Standardise"):
        super().__init__()
        self.sizes, self.part = dict(channels), part
        self.norms = nn.ModuleDict({m: RawNorm(c) for m, c in channels.items()})

    def forward(
        self, inputs: dict[str, Shaped[Tensor, "b ..."]], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> dict[str, Float[Tensor, "b ..."]]:
        if not isinstance(inputs, Mapping):
            raise InputError(f"{self.part} takes a dict {{modality: tensor}}, got a {type(inputs).__name__}")
        flat = {m: list(x.shape) for m, x in inputs.items() if m in self.sizes and x.ndim != 4}
        if flat:
            raise InputError(f"{self.part} takes maps [B,C,H,W], got {flat}")
        check_features(inputs, self.sizes, self.part)
        check_present(present, inputs, self.part)
        result = {}
        for m, norm in self.norms.items():
            keep = None if present is None else present.get(m)
            result[m] = hide(norm(hide(inputs[m], present, m), keep), present, m)
        return result


class RawNorm(nn.BatchNorm2d):
    """Maps of any unit and number type to mean 0 and variance 1 per channel: a batch norm without affine.

    With ``keep``, its statistics are those of these samples. Half precision is computed in float32.

    >>> import torch
    >>> RawNorm(3)(torch.randint(0, 255, (2, 3, 5, 7), dtype=torch.uint8)).dtype
    torch.float32
    """

    def __init__(self, channels: int):
        super().__init__(channels, affine=False)
        self.channels = channels

    def forward(
        self, input: Shaped[Tensor, "b c h w"], keep: Bool[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        x = _floating(input)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        if keep is None or not self.training:
            return super().forward(wide).to(x.dtype)
        mask = keep.to(x.device).view(-1, 1, 1, 1)
        count = keep.to(x.device).sum() * (x.shape[2] * x.shape[3])
        mean = wide.sum((0, 2, 3)) / count.clamp(min=1)
        centred = torch.where(mask, wide - mean[:, None, None], torch.zeros((), dtype=wide.dtype, device=x.device))
        var = centred.square().sum((0, 2, 3)) / count.clamp(min=1)
        with torch.no_grad():
            rate = torch.where(count > 1, float(self.momentum or 0.1), 0.0)
            _mix(self.running_mean, mean, rate)
            _mix(self.running_var, var * count / (count - 1).clamp(min=1), rate)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(count > 1)
        return (centred * (var + self.eps).rsqrt()[:, None, None]).to(x.dtype)


def _mix(running: Tensor | None, new: Tensor, rate: Tensor) -> None:
    if running is not None:
        # Without notice to autograd, which may hold the buffer for an earlier forward.
        running.data.lerp_(new.to(running.dtype), rate)

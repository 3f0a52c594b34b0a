"""Raw maps of any unit and number type to zero mean and unit variance, each modality by its own statistics."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._encoders import _floating
from ._norms import ModalityNorm
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
        self.norms = nn.ModuleDict(
            {m: ModalityNorm(nn.BatchNorm2d(c, affine=False), (m,)) for m, c in channels.items()}
        )

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
            own = {m: present[m]} if present is not None and m in present else None
            result |= norm({m: _floating(hide(inputs[m], present, m))}, own)
        return result


class RawNorm(nn.BatchNorm2d):
    """Maps of any unit and number type to mean 0 and variance 1 per channel: a batch norm without affine.

    >>> import torch
    >>> RawNorm(3)(torch.randint(0, 255, (2, 3, 5, 7), dtype=torch.uint8)).dtype
    torch.float32
    """

    def __init__(self, channels: int):
        super().__init__(channels, affine=False)
        self.channels = channels

    def forward(self, input: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return super().forward(_floating(input))

"""The other side of adversarial training: does this image belong to that input?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._encoders import resize
from ._part import check_features, dimensions


class PatchDiscriminator(nn.Module):
    """Conditional PatchGAN: per patch, how real an image looks beside its inputs, ``{m: [B,C_m,H,W]}, [B,C,H,W] ->
    [B,1,h,w]`` (logits, before any sigmoid).

    Inputs and image are concatenated along the channels, inputs standardised by the batch statistics seen in
    training, inputs of another size resized to the image's. ``depth`` 4x4 convolutions with stride 2 (``width``
    channels, doubled each time up to 8-fold), one with stride 1 and the last to one channel; leaky ReLU 0.2; instance
    norm after all but the first and last. With the defaults each patch is 70x70 pixels. Source: Isola et al. 2017
    (pix2pix), arXiv:1611.07004, with instance instead of batch norm, so that samples do not mix.

    Args:
        channels: of each input, or one number that all ``modalities`` share.
        outputs: channels of the image.
        width: channels of the first convolution.
        depth: number of convolutions with stride 2.
        modalities: names, if ``channels`` is a number.
        centre: of the image's values per channel; they are brought to ``(image - centre) / scale``.
        scale: half the width of their range; 0.5 and 0.5 suit images in 0..1.

    Raises:
        InputError: if a modality is missing or unknown or has other channels, or the image is too small.

    >>> import torch
    >>> judge = PatchDiscriminator({"rgb": 3, "depth": 1}, 2, width=4, depth=2)
    >>> inputs = {"rgb": torch.zeros(5, 3, 29, 31), "depth": torch.zeros(5, 1, 29, 31)}
    >>> judge(inputs, torch.zeros(5, 2, 29, 31)).shape
    torch.Size([5, 1, 5, 5])
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: Mapping[str, int] | int,
        outputs: int,
        *,
        width: int = 64,
        depth: int = 3,
        modalities: Sequence[str] | None = None,
        centre: float | Float[Tensor, " c"] = 0.5,
        scale: float | Float[Tensor, " c"] = 0.5,
    ):
        super().__init__()
        self.sizes = dimensions(channels, modalities, "PatchDiscriminator")
        self.modalities = tuple(self.sizes)
        self.least = 3 * 2**depth  # the two convolutions with stride 1 each take one row away
        self.standardise = nn.ModuleDict({m: nn.BatchNorm2d(c, affine=False) for m, c in self.sizes.items()})
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float32).expand(outputs).clone())
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32).expand(outputs).clone())
        layers: list[nn.Module] = []
        before = sum(self.sizes.values()) + outputs
        for i in range(depth + 1):
            after, stride = width * min(2**i, 8), 2 if i < depth else 1
            layers.append(nn.Conv2d(before, after, 4, stride, padding=1, bias=i == 0))
            if i:
                layers.append(nn.InstanceNorm2d(after, affine=True))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 4, padding=1))

    def forward(
        self, inputs: dict[str, Shaped[Tensor, "b _ _ _"]], image: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b 1 h2 w2"]:
        check_features(inputs, self.sizes, "PatchDiscriminator")
        height, width = image.shape[2], image.shape[3]
        if min(height, width) < self.least:
            raise InputError(
                f"PatchDiscriminator needs images of at least {self.least}x{self.least} pixels, got {height}x{width}; "
                "make depth smaller"
            )
        parts = [resize(self.standardise[m](inputs[m].to(image.dtype)), (height, width)) for m in self.modalities]
        parts.append((image - self.centre[:, None, None]) / self.scale[:, None, None])
        return self.layers(torch.cat(parts, 1))

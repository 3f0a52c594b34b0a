"""The building blocks of the encoders: plain modules, so that hooks see every norm and activation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, cat, nn


class Residual(nn.Module):
    """Basic residual block, ``relu(body(x) + skip(x))``, for sequences (``dims=1``) or maps (``dims=2``).

    The body is conv-norm-relu-conv-norm with kernel 3; the first convolution carries the stride. The skip is the
    identity where shapes allow it, else an average pool (so that a strided block sees every sample) and a 1x1
    convolution with norm. Source: He et al. 2015, arXiv:1512.03385, with the pooled skip of arXiv:1812.01187.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, stride: int = 1, kernel: int = 3):
        super().__init__()
        conv, norm, pool = _DIMS[dims]
        self.body = nn.Sequential(
            conv(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            norm(outputs),
            nn.ReLU(inplace=True),
            conv(outputs, outputs, kernel, padding=kernel // 2, bias=False),
            norm(outputs),
        )
        skip: list[nn.Module] = []
        if stride > 1:
            skip.append(pool(stride, ceil_mode=True))
        if inputs != outputs:
            skip += [conv(inputs, outputs, 1, bias=False), norm(outputs)]
        self.skip = nn.Sequential(*skip)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c *loc"]) -> Float[Tensor, "b d *out"]:
        return self.relu(self.body(x) + self.skip(x))


class Deltas(nn.Module):
    """Append the differences of neighbouring steps as channels: ``[B,C,T] -> [B,2C,T]`` (the first difference is 0).

    Motion is then visible to the first layer, wherever the sensor or the person stands.
    """

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b c2 t"]:
        return cat([x, x.diff(dim=2, prepend=x[:, :, :1])], dim=1)


_DIMS = {
    1: (nn.Conv1d, nn.BatchNorm1d, nn.AvgPool1d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d),
}

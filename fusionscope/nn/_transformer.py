"""A small transformer for sequences, of plain modules, so that hooks see every projection."""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._attention_fuses import Layer, _sinusoids
from ._blocks import Deltas
from ._encoders import _floating


class TokenEncoder(nn.Module):
    """Transformer encoder for sequences: ``[B,T,C] -> [B,T',D]`` with ``D = channels = 4 * width``.

    Channels and their differences to the step before are standardised, then a convolution of kernel 5 makes tokens,
    ``T' = ceil(T / stride)`` of them. To these, sinusoids of the position are added, so that any length will do. Each
    layer is ``x + attention(norm(x))``, then ``x + mlp(norm(x))``; a norm ends the stream. Source: Vaswani et al. 2017,
    arXiv:1706.03762, with the norms in front as in arXiv:2002.04745.

    Args:
        inputs: C.
        width: a quarter of the tokens' channels.
        layers: number of layers.
        heads: number of attention heads; divides ``4 * width``.
        stride: steps per token.
        dropout: of whole input channels, and on what each layer adds.

    Raises:
        InputError: if a number is below 1, or the heads do not divide the channels.

    >>> import torch
    >>> TokenEncoder(5, width=4, layers=1).eval()(torch.zeros(3, 17, 5)).shape
    torch.Size([3, 17, 16])
    """

    def __init__(
        self,
        inputs: int,
        width: int = 16,
        *,
        layers: int = 2,
        heads: int = 4,
        stride: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.channels = 4 * width
        if min(inputs, width, layers, heads, stride) < 1 or self.channels % heads:
            raise InputError(
                "TokenEncoder needs numbers of 1 or more, and heads that divide the channels (4 * width), got "
                f"inputs={inputs}, width={width}, layers={layers}, heads={heads}, stride={stride}"
            )
        self.stem = nn.Sequential(
            Deltas(),
            nn.BatchNorm1d(2 * inputs, affine=False),
            nn.Dropout1d(dropout),
            nn.Conv1d(2 * inputs, self.channels, 5, stride, padding=2),
        )
        self.layers = nn.Sequential(*(Layer(self.channels, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(self.channels)

    def forward(self, x: Shaped[Tensor, "b t c"]) -> Float[Tensor, "b t2 d"]:
        x = self.stem(_floating(x).transpose(1, 2)).transpose(1, 2)
        return self.norm(self.layers(x + _sinusoids(x.shape[1], self.channels, x)))

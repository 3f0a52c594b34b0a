"""Fuses by attention, for sequences of unequal lengths: cross-attention and attention bottlenecks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fusionscope.errors import InputError

from ._fuse_base import average, keep, view
from ._part import check_features, check_present, dimensions, equal, hide, there


class _Attending(nn.Module):
    """Features of each modality to tokens of one width with sinusoidal positions."""

    keeps_locations: ClassVar[bool] = False
    channels: int

    def __init__(
        self, channels: Mapping[str, int] | int, modalities: Sequence[str] | None, width: int, heads: int, layers: int
    ):
        super().__init__()
        part = type(self).__name__
        self.sizes = dimensions(channels, modalities, part)
        self.modalities = tuple(self.sizes)
        if width < 1 or heads < 1 or width % heads or width % 4:
            raise InputError(f"{part}: width must be a multiple of heads and of 4, got width {width} and heads {heads}")
        least = 1 if part == "CrossAttention" else 2
        if layers < least:
            raise InputError(f"{part} needs {least} layers or more, got {layers}")
        self.width = width
        self.embed = nn.ModuleDict({m: nn.Linear(c, width) for m, c in self.sizes.items()})

    def tokens(
        self, features: dict[str, Tensor], present: dict[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        check_features(features, self.sizes, type(self).__name__)
        check_present(present, features, type(self).__name__)
        x = {m: hide(features[m], present, m) for m in self.modalities}
        if not equal(v.shape[0] for v in x.values()):
            shapes = ", ".join(f"{m} {list(v.shape)}" for m, v in x.items())
            raise InputError(f"{type(self).__name__}: modalities must have the same number of samples, got {shapes}")
        masks = {m: view(there(present, m, v), v[:, :1, None] if v.ndim == 2 else v.flatten(2)) for m, v in x.items()}
        return {m: self.embed[m](_flat(v)) + _positions(v, self.width) for m, v in x.items()}, masks

    def extra_repr(self) -> str:
        return ", ".join(f"{m}={c}" for m, c in self.sizes.items()) + f", channels={self.channels}"


class CrossAttention(_Attending):
    """Every modality's sequence attends to every other's, however long each is; then one vector per sample.

    Each modality is embedded linearly to ``width`` channels, with sinusoidal positions. For each target m and source
    n != m, ``layers`` pre-norm layers ``z += attention(norm(z), norm(x_n)); z += feed_forward(norm(z))`` begin with
    ``z = x_m`` and look at the source's embedded tokens ``x_n``. What m got from all sources is concatenated to
    ``[B, T_m, (M-1) width]``, goes through ``self_layers`` layers of self-attention and is pooled over time (``mean``,
    or the ``last`` step as in the paper); the M vectors are concatenated: ``[B, M (M-1) width]`` comes out. One
    modality alone attends to itself.

    Any of vectors ``[B,C]`` (one token), sequences ``[B,T,C]`` and maps ``[B,C,H,W]`` (``H W`` tokens, positions of row
    and column), mixed. An absent modality is no source (what is gathered from it is zero) and its own part of the
    result is zero, so that a sample without any modality gives zeros.

    Source: MulT, Tsai et al. 2019, arXiv:1906.00295; a plain linear embedding stands for its temporal convolution,
    which belongs to the encoder.

    Args:
        channels: ``{modality: channels}``, or one number with ``modalities``.
        modalities: names, where ``channels`` is one number.
        width: channels of the tokens, a multiple of ``heads`` and of 4.
        heads: attention heads.
        layers: crossmodal layers per pair.
        self_layers: layers of self-attention per target, 0 or more.
        pooling: ``mean`` or ``last``.
        dropout: of attention weights and of each sub-layer's result.

    Raises:
        InputError: if a setting is not as above; if a modality is missing or has other channels.

    >>> import torch
    >>> fuse = CrossAttention({"text": 5, "audio": 3}, width=8, heads=2)
    >>> fuse({"text": torch.zeros(2, 7, 5), "audio": torch.zeros(2, 11, 3)}).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        channels: Mapping[str, int] | int,
        modalities: Sequence[str] | None = None,
        *,
        width: int = 32,
        heads: int = 4,
        layers: int = 2,
        self_layers: int = 1,
        pooling: str = "mean",
        dropout: float = 0.0,
    ):
        super().__init__(channels, modalities, width, heads, layers)
        if pooling not in ("mean", "last"):
            raise InputError(f"CrossAttention: pooling must be 'mean' or 'last', got {pooling!r}")
        self.pooling = pooling
        self.sources = {m: [n for n in self.modalities if n != m] or [m] for m in self.modalities}
        gathered = width * len(self.sources[self.modalities[0]])
        self.channels = gathered * len(self.modalities)
        self.cross = nn.ModuleDict(
            {
                m: nn.ModuleDict(
                    {n: nn.ModuleList(Layer(width, heads, dropout, width) for _ in range(layers)) for n in sources}
                )
                for m, sources in self.sources.items()
            }
        )
        self.memory = nn.ModuleDict(
            {m: nn.Sequential(*(Layer(gathered, heads, dropout) for _ in range(self_layers))) for m in self.modalities}
        )
        self.norms = nn.ModuleDict({m: nn.LayerNorm(gathered) for m in self.modalities})

    def forward(
        self, features: dict[str, Float[Tensor, "b ..."]], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> Float[Tensor, "b d"]:
        x, masks = self.tokens(features, present)
        out = []
        for m, sources in self.sources.items():
            gathered = []
            for n in sources:
                z = x[m]
                for layer in self.cross[m][n]:  # ty: ignore[not-subscriptable]
                    z = layer(z, x[n], masks[n])
                gathered.append(z)
            z = self.norms[m](self.memory[m](torch.cat(gathered, -1)))
            out.append(keep(z.mean(1) if self.pooling == "mean" else z[:, -1], masks[m][:, 0]))
        return torch.cat(out, -1)


class BottleneckAttention(_Attending):
    """A transformer per modality; modalities meet only through a few shared bottleneck tokens.

    Each modality's tokens ``z_m`` (embedded linearly, with sinusoidal positions and a learned class token in front) and
    the bottleneck tokens ``f`` go through the modality's own layer, ``[z_m; f_m] = layer_m([z_m; f])``; then
    ``f = mean of f_m`` over the present modalities, in each of ``layers`` layers. The mean over the present modalities
    of the class tokens, layer-normed, comes out: ``[B, width]``. (A linear head on that mean is the paper's mean of the
    logits of one classifier.) The first layer writes to the bottleneck and the second reads what others wrote, so two
    layers are the least.

    Any of vectors, sequences and maps as in :class:`CrossAttention`, mixed. Absent modalities stay out of both means;
    a sample without any modality gives zeros.

    Source: MBT, Nagrani et al. 2021, arXiv:2107.00135 (all layers fuse here; the paper's early layers, before the
    fusion, belong to the encoders).

    Args:
        channels: ``{modality: channels}``, or one number with ``modalities``.
        modalities: names, where ``channels`` is one number.
        width: channels of the tokens, a multiple of ``heads`` and of 4.
        heads: attention heads.
        layers: layers per modality, 2 or more.
        bottlenecks: number of bottleneck tokens (4 in the paper).
        dropout: of attention weights and of each sub-layer's result.

    Raises:
        InputError: if a setting is not as above; if a modality is missing or has other channels.

    >>> import torch
    >>> fuse = BottleneckAttention({"text": 5, "audio": 3}, width=8, heads=2)
    >>> fuse({"text": torch.zeros(2, 7, 5), "audio": torch.zeros(2, 11, 3)}).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        channels: Mapping[str, int] | int,
        modalities: Sequence[str] | None = None,
        *,
        width: int = 32,
        heads: int = 4,
        layers: int = 2,
        bottlenecks: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__(channels, modalities, width, heads, layers)
        if bottlenecks < 1:
            raise InputError(f"BottleneckAttention needs 1 bottleneck token or more, got {bottlenecks}")
        self.channels = width
        self.classes = nn.Parameter(0.02 * torch.randn(len(self.modalities), width))
        self.bottleneck = nn.Parameter(0.02 * torch.randn(bottlenecks, width))
        self.layers = nn.ModuleList(
            nn.ModuleDict({m: Layer(width, heads, dropout) for m in self.modalities}) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, features: dict[str, Float[Tensor, "b ..."]], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> Float[Tensor, "b d"]:
        x, masks = self.tokens(features, present)
        size = next(iter(x.values())).shape[0]
        z = {
            m: torch.cat([c.expand(size, 1, -1), v], 1)
            for (m, v), c in zip(x.items(), self.classes.to(x[self.modalities[0]].dtype), strict=True)
        }
        shared = self.bottleneck.expand(size, -1, -1)
        count = self.bottleneck.shape[0]
        for layer in self.layers:
            joined = {m: torch.cat([v, shared.to(v.dtype)], 1) for m, v in z.items()}
            both = {m: layer[m](v) for m, v in joined.items()}  # ty: ignore[not-subscriptable]
            z = {m: v[:, :-count] for m, v in both.items()}
            shared = average({m: v[:, -count:] for m, v in both.items()}, masks)
        return average({m: self.norm(v[:, 0]) for m, v in z.items()}, {m: v[:, 0] for m, v in masks.items()})


class Layer(nn.Module):
    """Pre-norm transformer layer, of self-attention, or with ``source`` channels of attention to another sequence."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, source: int | None = None):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.source_norm = nn.Identity() if source is None else nn.LayerNorm(source)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source or width, 2 * width)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Float[Tensor, "b t d"]:
        """``[B,T,D]`` attends to itself or to ``source``; where not ``mask`` ``[B,1,1]`` it gathers nothing."""
        q = self.norm(x)
        s = q if source is None else self.source_norm(source)
        key, value = self.key_value(s).chunk(2, -1)
        a = F.scaled_dot_product_attention(
            self._split(self.query(q)),
            self._split(key),
            self._split(value),
            dropout_p=self.dropout if self.training else 0.0,
        )
        a = self.out(a.transpose(1, 2).flatten(2))
        x = x + (a if mask is None else keep(a, mask))
        return x + self.feed(x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _flat(x: Tensor) -> Float[Tensor, "b t c"]:
    return x[:, None] if x.ndim == 2 else x if x.ndim == 3 else x.flatten(2).transpose(1, 2)


def _positions(x: Tensor, width: int) -> Float[Tensor, "t d"]:
    """Sinusoids of the step; of maps, half the channels of the row and half of the column (arXiv:1706.03762)."""
    if x.ndim == 4:
        rows, columns = (_sinusoids(n, width // 2, x) for n in x.shape[2:])
        grid = (x.shape[2], x.shape[3], width // 2)
        return torch.cat([rows[:, None].expand(grid), columns[None].expand(grid)], -1).flatten(0, 1)
    return _sinusoids(1 if x.ndim == 2 else x.shape[1], width, x)


def _sinusoids(steps: int, width: int, like: Tensor) -> Float[Tensor, "t d"]:
    exponent = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
    angle = torch.arange(steps, device=like.device, dtype=torch.float32)[:, None] * 10000.0**-exponent
    return torch.cat([angle.sin(), angle.cos()], -1).to(like.dtype)

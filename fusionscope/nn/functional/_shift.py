"""Four groups of channels, each moved by one pixel: written once into what comes out, and its gradient likewise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

# On the axes (height, width): where a group goes, where it comes from, what it leaves empty; and that as padding.
_ALL, _LATER, _EARLIER = slice(None), slice(1, None), slice(None, -1)
_FIRST, _LAST = slice(None, 1), slice(-1, None)
_DOWN = ((_LATER, _ALL), (_EARLIER, _ALL), (_FIRST, _ALL), (0, 0, 1, 0))
_RIGHT = ((_ALL, _LATER), (_ALL, _EARLIER), (_ALL, _FIRST), (1, 0, 0, 0))
_LEFT = ((_ALL, _EARLIER), (_ALL, _LATER), (_ALL, _LAST), (0, 1, 0, 0))
_UP = ((_EARLIER, _ALL), (_LATER, _ALL), (_LAST, _ALL), (0, 0, 0, 1))
# The opposites of the four are the four in reverse order: the reversed shift is the adjoint of the shift.
_DIRECTIONS = (_DOWN, _RIGHT, _LEFT, _UP)


def shifted(head: Float[Tensor, "b s h w"], channels: int, reverse: bool = False) -> Float[Tensor, "b c h w"]:
    """Return the head's four groups moved by one pixel with zeros filled in, and zeros up to ``channels``."""
    if torch.compiler.is_compiling():
        return pad(_padded(head, reverse), (0, 0, 0, 0, 0, channels - head.shape[1]))
    return _Shift.apply(head, channels, reverse)


def received(
    head: Float[Tensor, "b s h w"],
    tail: Float[Tensor, "b t h w"],
    donors: Sequence[Float[Tensor, "b s h w"]],
    reverse: bool = False,
) -> Float[Tensor, "b c h w"]:
    """Return ``cat(head + sum of the shifted donors, tail)``."""
    if torch.compiler.is_compiling():
        for donor in donors:
            head = head + _padded(donor, reverse)
        return torch.cat([head, tail], 1)
    return _Receive.apply(head, tail, reverse, *donors)


def _groups(channels: int, reverse: bool) -> Iterator[tuple[tuple, tuple, tuple, tuple]]:
    """Yield the indices target, source and border of each group in ``[B,s,H,W]``, and the source's padding."""
    g = channels // 4
    for q, (*indices, padding) in enumerate(_DIRECTIONS[::-1] if reverse else _DIRECTIONS):
        target, source, border = ((_ALL, slice(q * g, (q + 1) * g), *index) for index in indices)
        yield target, source, border, padding


def _padded(head: Tensor, reverse: bool) -> Tensor:
    return torch.cat([pad(head[source], padding) for _, source, _, padding in _groups(head.shape[1], reverse)], 1)


def _empty(like: Tensor, channels: int) -> Tensor:
    # A modality's rows of an interleaved tensor are not dense, so that only the strides tell channels-last memory.
    last = like.stride(1) == 1 and like.shape[1] > 1
    shape = (like.shape[0], channels, *like.shape[2:])
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(head: Tensor, channels: int, reverse: bool) -> Tensor:
        out = _empty(head, channels)
        out[:, head.shape[1] :] = 0
        for target, source, border, _ in _groups(head.shape[1], reverse):
            out[border] = 0
            out[target] = head[source]
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        head, _, ctx.reverse = inputs
        ctx.size = head.shape[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        return _Shift.apply(gradient[:, : ctx.size], ctx.size, not ctx.reverse), None, None


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(head: Tensor, tail: Tensor, reverse: bool, *donors: Tensor) -> Tensor:
        size = head.shape[1]
        out = _empty(head, size + tail.shape[1])
        out[:, size:] = tail
        first, *others = donors
        for target, source, border, _ in _groups(size, reverse):
            out[border] = head[border]
            torch.add(head[target], first[source], out=out[target])
            for donor in others:
                out[target] += donor[source]
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        head, _, ctx.reverse, *donors = inputs
        ctx.size, ctx.donors = head.shape[1], len(donors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        own = gradient[:, : ctx.size]
        given = _Shift.apply(own, ctx.size, not ctx.reverse) if any(ctx.needs_input_grad[3:]) else None
        return own, gradient[:, ctx.size :], None, *[given] * ctx.donors

"""Exchanges without parameters: channel shuffle, pixel shift, and both around a convolution (AsymFusion)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._part import channel_axis, named
from .functional._exchanges import (
    added_shift,
    channel_shuffle,
    check_alike,
    check_ratio,
    check_receivers,
    partners,
    split,
    visible,
    with_prefix,
    without_prefix,
)

Maps = dict[str, Float[Tensor, "b ..."]]
Present = dict[str, Bool[Tensor, " b"]] | None


class ChannelShuffle(nn.Module):
    """Exchange the last channels between modalities: ``y_m = cat(x_m[:s], x_n[s:])``, ``n`` the modality after ``m``.

    ``{m: x} -> {m: y}`` of ``[B,C]``, ``[B,L,C]`` or ``[B,C,H,W]``, the same shape for every modality; no parameters.
    ``s = 4 floor(C (1 - ratio) / 4)``. For two modalities the swap of the released code of arXiv:2108.05009; for more
    a cycle (ours), in the order of ``modalities`` or else of the dictionary. Where ``n`` is absent from a sample, the
    next modality that is present takes its place; a modality alone keeps its channels. See
    ``functional.channel_shuffle``.

    Args:
        ratio: the least share of channels to exchange.
        modalities: their names and order; None takes what comes.
        inverse: take from the modality before, which undoes the shuffle.
        prefix: first tokens that stay as they are.

    Raises:
        InputError: fewer than two modalities, other shapes, or too few channels for four groups.

    >>> import torch
    >>> x = {"rgb": torch.zeros(1, 5), "depth": torch.ones(1, 5), "ir": torch.full((1, 5), 2.0)}
    >>> {m: y.tolist() for m, y in ChannelShuffle()(x).items()}
    {'rgb': [[0.0, 0.0, 0.0, 0.0, 1.0]], 'depth': [[1.0, 1.0, 1.0, 1.0, 2.0]], 'ir': [[2.0, 2.0, 2.0, 2.0, 0.0]]}
    """

    placement = "after"

    def __init__(
        self, ratio: float = 1 / 5, modalities: Sequence[str] | None = None, inverse: bool = False, prefix: int = 0
    ):
        super().__init__()
        check_ratio(ratio, "ChannelShuffle")
        self.ratio = ratio
        self.modalities = _named(modalities, "ChannelShuffle")
        self.inverse = inverse
        self.prefix = prefix

    def forward(self, features: Maps, present: Present = None) -> Maps:
        features = _ordered(features, self.modalities, "ChannelShuffle")
        return channel_shuffle(features, self.ratio, inverse=self.inverse, prefix=self.prefix, present=present)

    def extra_repr(self) -> str:
        return f"ratio={self.ratio:.4g}, modalities={self.modalities}, inverse={self.inverse}, prefix={self.prefix}"


class PixelShift(nn.Module):
    """Add what the other modalities show one pixel further: ``y_m = x_m + sum over n != m of shift(x_n)``.

    ``{m: x} -> {m: y}`` of ``[B,C,H,W]``, or ``[B,L,C]`` on a ``grid``, one shape for all modalities; no parameters.
    ``shift`` is ``functional.pixel_shift``: four groups of ``floor(C (1 - ratio) / 4)`` channels move down, right,
    left and up, the rest adds nothing. Absent modalities add nothing and come out as zeros. Source: arXiv:2108.05009;
    the sum over more than one other modality is ours.

    Args:
        ratio: the least share of channels to which nothing is added.
        grid: height and width of the tokens' grid in the first stage; one halved 2, 4, 8 ... times is found.
        prefix: first tokens (class, registers) that stay as they are.
        modalities: their names; None takes what comes.

    Raises:
        InputError: fewer than two modalities, other shapes, vectors, tokens without a grid that fits, or too few
            channels for four groups.

    >>> import torch
    >>> x = {"rgb": torch.zeros(1, 5, 2, 2), "depth": torch.ones(1, 5, 2, 2)}
    >>> PixelShift()(x)["rgb"][0, 0]
    tensor([[0., 0.],
            [1., 1.]])
    """

    placement = "after"

    def __init__(
        self,
        ratio: float = 1 / 5,
        grid: tuple[int, int] | None = None,
        prefix: int = 0,
        modalities: Sequence[str] | None = None,
    ):
        super().__init__()
        check_ratio(ratio, "PixelShift")
        self.ratio = ratio
        self.grid = grid
        self.prefix = prefix
        self.modalities = _named(modalities, "PixelShift")

    def forward(self, features: Maps, present: Present = None) -> Maps:
        features = _ordered(features, self.modalities, "PixelShift")
        bodies, first = without_prefix(features, self.prefix, "PixelShift")
        heads, tails = split(visible(bodies, present), self.ratio, "PixelShift")
        moved = added_shift(heads, tails, heads, tuple(features), self.grid, "PixelShift")
        return visible(with_prefix(moved, first), present)

    def extra_repr(self) -> str:
        return f"ratio={self.ratio:.4g}, grid={self.grid}, prefix={self.prefix}, modalities={self.modalities}"


class AsymFusion(nn.Module):
    """Channel shuffle and pixel shift around a block's middle convolution: asymmetric fusion in both directions.

    As in the released code of arXiv:2108.05009 (methods of its bottleneck, last block of each stage)::

        y = before(x)                 y_m = cat(x_m[:s], x_n[s:])
        u = conv, norm, relu of y     in the block, by the caller
        z = after(u)                  v_m = u_m + sum over n != m of shift(x_n);  z_m = cat(v_m[:s], v_n'[s:])

    with the *unshuffled* ``x`` shifted, ``s = 4 floor(C (1 - ratio) / 4)``, and the tail (to which no shift is added)
    back where it came from. Called as a whole it is ``after(before(x))``. ``[B,C,H,W]``, or ``[B,L,C]`` on a ``grid``,
    one shape for all modalities; no parameters.

    More than two modalities (ours): each takes the tail of the next (``n = m + 1``, cyclically, of those that the
    sample has) and gives it back afterwards (``n' = m - 1``), so that the second shuffle undoes the first; the shifts
    of all others are added.

    Attributes:
        before, after: the two halves, modules that map dictionaries to dictionaries. ``before`` keeps its input's head
            until ``after`` takes it in the same forward; ``clear`` drops it where the forward in between failed.

    Args:
        ratio: the least share of channels to exchange.
        shuffle: whether to shuffle (both times).
        shift: whether to add shifts.
        second_shift: also add the shift of ``v``, in reverse directions, after the second shuffle. The released code
            computes and discards it (*reconstruction*).
        receivers: modalities that get others' features; the rest stay as they are, as in a fusion in one direction.
            All unless given. A receiver's own tail is then not given back.
        grid: height and width of the tokens' grid in the first stage; one halved 2, 4, 8 ... times is found.
        prefix: first tokens that stay as they are.
        modalities: their names and order; None takes what comes.

    Raises:
        InputError: fewer than two modalities, other shapes (also between ``before`` and ``after``), vectors, tokens
            without a grid that fits, too few channels for four groups, ``after`` without ``before``, or
            ``second_shift`` without ``shift``.

    >>> import torch
    >>> x = {"rgb": torch.ones(1, 5, 2, 2), "depth": torch.zeros(1, 5, 2, 2)}
    >>> AsymFusion()(x)["depth"][0, :, 0]
    tensor([[0., 0.],
            [0., 1.],
            [1., 0.],
            [1., 1.],
            [0., 0.]])
    """

    placement = "around"

    def __init__(
        self,
        ratio: float = 1 / 5,
        shuffle: bool = True,
        shift: bool = True,
        second_shift: bool = False,
        receivers: Sequence[str] | None = None,
        grid: tuple[int, int] | None = None,
        prefix: int = 0,
        modalities: Sequence[str] | None = None,
    ):
        super().__init__()
        check_ratio(ratio, "AsymFusion")
        if second_shift and not shift:
            raise InputError("AsymFusion(second_shift=True) adds to the first shift: it needs shift=True")
        names = _named(modalities, "AsymFusion")
        if receivers is not None:
            receivers = (receivers,) if isinstance(receivers, str) else tuple(receivers)
            check_receivers(receivers, names or receivers, "AsymFusion")
        self._pair = _Pair(ratio, shuffle, shift, second_shift, receivers, grid, prefix, names)
        self.before = _Before(self._pair)
        self.after = _After(self._pair)

    def forward(self, features: Maps, present: Present = None) -> Maps:
        try:
            return self.after(self.before(features, present), present)
        finally:
            self.clear()

    def clear(self) -> None:
        """Drop what ``before`` kept for an ``after`` that did not come, as when the forward raised in between."""
        self._pair.heads = None

    def extra_repr(self) -> str:
        pair = self._pair
        return (
            f"ratio={pair.ratio:.4g}, shuffle={pair.shuffle}, shift={pair.shift}, second_shift={pair.second_shift}, "
            f"receivers={pair.receivers}, grid={pair.grid}, prefix={pair.prefix}, modalities={pair.modalities}"
        )


class _Pair:
    """What the two halves share: the settings, and the heads from one to the other within a forward."""

    def __init__(
        self,
        ratio: float,
        shuffle: bool,
        shift: bool,
        second_shift: bool,
        receivers: tuple[str, ...] | None,
        grid: tuple[int, int] | None,
        prefix: int,
        modalities: tuple[str, ...] | None,
    ):
        self.ratio = ratio
        self.shuffle = shuffle
        self.shift = shift
        self.second_shift = second_shift
        self.receivers = receivers
        self.grid = grid
        self.prefix = prefix
        self.modalities = modalities
        self.heads: dict[str, Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        # A copy made while heads are kept (a forward failed) starts without them.
        return {**self.__dict__, "heads": None}


class _Before(nn.Module):
    """The half in front of the convolution."""

    def __init__(self, pair: _Pair):
        super().__init__()
        self._pair = pair

    def forward(self, features: Maps, present: Present = None) -> Maps:
        pair = self._pair
        pair.heads = None
        features = _ordered(features, pair.modalities, "AsymFusion")
        receivers = check_receivers(pair.receivers, features, "AsymFusion")
        bodies, first = without_prefix(features, pair.prefix, "AsymFusion")
        heads, tails = split(visible(bodies, present), pair.ratio, "AsymFusion")
        if pair.shuffle:
            tails = partners(tails, receivers, False, present)
        elif not pair.shift:
            return visible(features, present)
        # Without a shuffle this is a copy: what changes it in place leaves the kept heads alone.
        out = {m: torch.cat([heads[m], tails[m]], channel_axis(heads[m])) for m in heads}
        out = visible(with_prefix(out, first), present)
        pair.heads = heads if pair.shift else None
        return out


class _After(nn.Module):
    """The half in front of the convolution that follows."""

    def __init__(self, pair: _Pair):
        super().__init__()
        self._pair = pair

    def forward(self, features: Maps, present: Present = None) -> Maps:
        pair = self._pair
        kept, pair.heads = pair.heads, None
        features = _ordered(features, pair.modalities, "AsymFusion")
        receivers = check_receivers(pair.receivers, features, "AsymFusion")
        bodies, first = without_prefix(features, pair.prefix, "AsymFusion")
        bodies = visible(bodies, present)
        if not (pair.shuffle or pair.shift):
            return visible(features, present)
        heads, tails = split(bodies, pair.ratio, "AsymFusion")
        if pair.shuffle:
            tails = partners(tails, receivers, True, present)
        if pair.shift:
            _check_kept(kept, heads)
            out = added_shift(heads, tails, kept or {}, receivers, pair.grid, "AsymFusion")
        else:
            out = {m: torch.cat([heads[m], tails[m]], channel_axis(heads[m])) for m in heads}
        if pair.second_shift:
            heads, tails = split(visible(out, present), pair.ratio, "AsymFusion")
            out = added_shift(heads, tails, heads, receivers, pair.grid, "AsymFusion", reverse=True)
        return visible(with_prefix(out, first), present)


def _check_kept(kept: dict[str, Tensor] | None, heads: dict[str, Tensor]) -> None:
    if kept is None:
        raise InputError(
            "AsymFusion.after needs AsymFusion.before in the same forward; place the two around one module"
        )
    before, after = ({m: list(x.shape) for m, x in side.items()} for side in (kept, heads))
    if before != after:
        raise InputError(
            "AsymFusion stands around a module that keeps channels and size, so that shifted features can be added to "
            f"what comes out; the shifted heads are {before} in front of it, {after} behind it"
        )


def _named(modalities: Sequence[str] | None, part: str) -> tuple[str, ...] | None:
    return None if modalities is None else named(modalities, part, least=2)


def _ordered(features: Maps, modalities: tuple[str, ...] | None, part: str) -> Maps:
    """Return the features after checking them, in the order of ``modalities`` where these are given."""
    check_alike(features, part, modalities)
    return features if modalities is None else {m: features[m] for m in modalities}

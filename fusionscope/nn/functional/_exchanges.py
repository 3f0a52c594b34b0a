"""Channel shuffle and pixel shift (AsymFusion) on dictionaries of features."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusionscope.errors import InputError, did_you_mean
from fusionscope.nn._part import channel_axis, check_features, check_present, hide

from ._shift import received, shifted

Maps = dict[str, Float[Tensor, "b ..."]]
Present = dict[str, Bool[Tensor, " b"]] | None


def channel_shuffle(
    features: Maps,
    ratio: float = 1 / 5,
    *,
    inverse: bool = False,
    prefix: int = 0,
    receivers: Collection[str] | None = None,
    present: Present = None,
) -> Maps:
    """Exchange the last channels between modalities, same index for same index.

    ``y_m = cat(x_m[:s], x_n[s:])`` with ``n`` the modality after ``m``, cyclically in the dictionary's order. The head
    is ``s = 4g`` of ``C`` channels, ``g = floor(C (1 - ratio) / 4)`` (``floor(C/5)`` for the ratio 1/5), so that the
    tail is at least ``ratio`` of them. For two modalities this is the swap of the released code of arXiv:2108.05009;
    the cycle for more is ours.

    Args:
        features: ``[B,C]``, ``[B,L,C]`` or ``[B,C,H,W]``, the same shape for every modality.
        ratio: the least share of channels to exchange, between 0 and 1.
        inverse: take from the modality before instead, which undoes the shuffle (the same for two modalities).
        prefix: tokens ``[B,L,C]`` only: so many first tokens (class, registers) stay as they are.
        receivers: the modalities that get others' channels; the rest stay as they are. All unless given.
        present: who has which modality. ``n`` is then the next modality that the sample has, or ``m`` itself: a
            sample with one modality keeps it whole. Absent samples come out as zeros.

    Raises:
        InputError: fewer than two modalities, other shapes, or too few channels for four groups.

    >>> x = {"rgb": torch.arange(5.0)[None], "depth": 10 * torch.arange(5.0)[None]}
    >>> channel_shuffle(x)["rgb"]
    tensor([[ 0.,  1.,  2.,  3., 40.]])
    """
    check_alike(features, "channel_shuffle")
    bodies, first = without_prefix(features, prefix, "channel_shuffle")
    heads, tails = split(visible(bodies, present), ratio, "channel_shuffle")
    got = partners(tails, check_receivers(receivers, features, "channel_shuffle"), inverse, present)
    joined = {m: torch.cat([heads[m], got[m]], channel_axis(heads[m])) for m in heads}
    return visible(with_prefix(joined, first), present)


def pixel_shift(
    features: Maps,
    ratio: float = 1 / 5,
    *,
    reverse: bool = False,
    grid: tuple[int, int] | None = None,
    prefix: int = 0,
    present: Present = None,
) -> Maps:
    """Move four groups of channels by one pixel, each in its own direction; what other modalities are to receive.

    Group ``q`` of ``g = floor(C (1 - ratio) / 4)`` channels moves down, right, left, up for ``q = 0..3``:
    ``y[h,w] = x[h-1,w], x[h,w-1], x[h,w+1], x[h+1,w]``, zero where that lies outside. The other channels are zero.
    Source: the released code of arXiv:2108.05009.

    Args:
        features: ``[B,C,H,W]``, or ``[B,L,C]`` with ``grid``; the same shape for every modality.
        ratio: the least share of channels without a shift, between 0 and 1.
        reverse: the directions in reverse order, each the opposite (the adjoint of the shift).
        grid: height and width of the tokens' grid, in rows; one that was halved (rounded up) before is found too.
        prefix: so many first tokens are not of the grid; they come out as zeros.
        present: who has which modality; absent samples come out as zeros.

    Raises:
        InputError: fewer than two modalities, other shapes, vectors, tokens without a grid that fits, or too few
            channels for four groups.

    >>> x = {"rgb": torch.ones(1, 5, 2, 2), "depth": torch.zeros(1, 5, 2, 2)}
    >>> pixel_shift(x)["rgb"][0, :, 0]
    tensor([[0., 0.],
            [0., 1.],
            [1., 0.],
            [1., 1.],
            [0., 0.]])
    """
    check_alike(features, "pixel_shift")
    bodies, first = without_prefix(features, prefix, "pixel_shift")
    heads, _ = split(visible(bodies, present), ratio, "pixel_shift")
    moved = {}
    for m, x in bodies.items():
        head, channels = as_map(heads[m], grid, "pixel_shift"), x.shape[channel_axis(x)]
        moved[m] = like(shifted(head, channels, reverse), x)
    return with_prefix(moved, {m: torch.zeros_like(x) for m, x in first.items()})


def added_shift(
    heads: Mapping[str, Tensor],
    tails: Mapping[str, Tensor],
    donors: Mapping[str, Tensor],
    receivers: Collection[str],
    grid: tuple[int, int] | None,
    part: str,
    reverse: bool = False,
) -> dict[str, Tensor]:
    """Return ``cat(head_m + sum over n != m of shift(donor_n), tail_m)``; the sum for receivers only."""
    maps = {m: as_map(x, grid, part) for m, x in donors.items()}
    out = {}
    for m, head in heads.items():
        if m not in receivers:
            out[m] = torch.cat([head, tails[m]], channel_axis(head))
            continue
        given = [x.to(head.dtype) for n, x in maps.items() if n != m]
        own, tail = as_map(head, grid, part), as_map(tails[m], grid, part)
        out[m] = like(received(own, tail, given, reverse), head)
    return out


def head_size(channels: int, ratio: float, part: str) -> int:
    """Return the number of channels in the four groups.

    Raises:
        InputError: if a group or the tail would be empty.
    """
    check_ratio(ratio, part)
    # 1e-9: what is a whole number stays one where the product in floating point falls a little short of it.
    size = 4 * math.floor(channels * (1 - ratio) / 4 + 1e-9)
    if not 0 < size < channels:
        raise InputError(
            f"{part} with ratio {ratio:.4g} needs {math.ceil(4 / (1 - ratio) - 1e-9)} channels or more (four groups "
            f"and what is exchanged), got {channels}; use it at a wider layer or change the ratio"
        )
    return size


def check_ratio(ratio: float, part: str) -> None:
    """Raise an InputError where this is no share."""
    if not 0 < ratio < 1:
        raise InputError(f"{part} exchanges a share of the channels: expected 0 < ratio < 1, got {ratio}")


def check_alike(features: Mapping[str, Tensor], part: str, modalities: Collection[str] | None = None) -> None:
    """Check that there are two modalities or more (those named, where they are), all of one shape.

    Raises:
        InputError: if not.
    """
    if modalities is not None:
        check_features(features, tuple(modalities), part)
    if len(features) < 2:
        raise InputError(f"{part} exchanges between modalities and needs two or more, got {list(features)}")
    shapes = {m: list(x.shape) for m, x in features.items()}
    shape = next(iter(shapes.values()))
    if any(s != shape for s in shapes.values()) or len(shape) not in (2, 3, 4):
        raise InputError(f"{part} needs [B,C], [B,L,C] or [B,C,H,W], the same for every modality, got {shapes}")


def check_receivers(receivers: Collection[str] | None, modalities: Collection[str], part: str) -> Collection[str]:
    """Return those that receive: all, unless named.

    Raises:
        InputError: if one that is named is not there.
    """
    if receivers is None:
        return tuple(modalities)
    receivers = (receivers,) if isinstance(receivers, str) else receivers
    for name in receivers:
        if name not in modalities:
            raise InputError(
                f"{part}: receiver {name!r} is none of the modalities {list(modalities)}."
                f"{did_you_mean(name, modalities)}"
            )
    return receivers


def visible(features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the features, zero where absent."""
    check_present(present, features, "this exchange")
    return {m: hide(x, present, m) for m, x in features.items()}


def split(features: Mapping[str, Tensor], ratio: float, part: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return heads and tails (views)."""
    heads, tails = {}, {}
    for m, x in features.items():
        axis = channel_axis(x)
        size = head_size(x.shape[axis], ratio, part)
        heads[m], tails[m] = x.split((size, x.shape[axis] - size), axis)
    return heads, tails


def partners(
    tails: Mapping[str, Tensor],
    receivers: Collection[str],
    inverse: bool,
    present: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Return for each modality the tail of the one after it (before it), among those that the sample has."""
    names = list(tails)
    found = {}
    for i, m in enumerate(names):
        if m not in receivers:
            found[m] = tails[m]
            continue
        step = -1 if inverse else 1
        others = [names[(i + step * k) % len(names)] for k in range(1, len(names))]
        sure = next((k for k, n in enumerate(others) if present is None or present.get(n) is None), len(others))
        x = tails[others[sure]] if sure < len(others) else tails[m]
        for n in others[:sure][::-1]:
            mask = present[n] if present is not None else None
            if mask is not None:
                x = torch.where(mask.to(x.device).view(-1, *[1] * (x.ndim - 1)), tails[n], x)
        found[m] = x.to(tails[m].dtype)
    return found


def without_prefix(
    features: Mapping[str, Tensor], prefix: int, part: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the features without the first tokens, and those tokens (none where ``prefix`` is 0).

    Raises:
        InputError: a prefix of features that are not tokens, or of all tokens.
    """
    if not prefix:
        return dict(features), {}
    for m, x in features.items():
        if x.ndim != 3 or not 0 < prefix < x.shape[1]:
            raise InputError(
                f"{part}: prefix={prefix} needs tokens [B,L,C] with L > {prefix}; {m!r} is {list(x.shape)}"
            )
    return {m: x[:, prefix:] for m, x in features.items()}, {m: x[:, :prefix] for m, x in features.items()}


def with_prefix(features: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``without_prefix``."""
    return {m: torch.cat([first[m], x], 1) if m in first else x for m, x in features.items()}


def as_map(x: Tensor, grid: tuple[int, int] | None, part: str) -> Float[Tensor, "b c h w"]:
    """View tokens ``[B,L,C]`` as a map; maps stay.

    Raises:
        InputError: vectors, or tokens without a grid that fits.
    """
    if x.ndim == 4:
        return x
    if x.ndim == 2:
        raise InputError(f"{part} moves pixels; vectors {list(x.shape)} have none. Use channel_shuffle for them")
    if grid is None:
        raise InputError(
            f"{part}: give grid=(height, width) of the tokens {list(x.shape)}, and prefix= where they have one"
        )
    height, width = grid
    while height * width > x.shape[1] and height * width > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != x.shape[1]:
        raise InputError(
            f"{part}: {x.shape[1]} tokens (after the prefix) do not fill a grid of {grid[0]} x {grid[1]}, nor that "
            "grid halved 2, 4, 8 ... times; give the first stage's grid, and prefix= for class and register tokens"
        )
    return x.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def like(x: Float[Tensor, "b c h w"], features: Tensor) -> Tensor:
    """Undo ``as_map``."""
    return x if features.ndim == 4 else x.permute(0, 2, 3, 1).flatten(1, 2)

"""What all parts share: the features' names and sizes, who is present, where the channels are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionscope.errors import InputError, did_you_mean


def dimensions(channels: Mapping[str, int] | int, modalities: Sequence[str] | None, part: str) -> dict[str, int]:
    """Return ``{modality: channels}`` from such a mapping, or from one number that all ``modalities`` share.

    Raises:
        InputError: if both or neither say which modalities there are, or a name or a number cannot be.
    """
    if isinstance(channels, Mapping):
        if modalities is not None:
            raise InputError(f"{part} takes the modalities from its channels {dict(channels)}; leave modalities= out")
        found = dict(channels)
    elif modalities is None:
        raise InputError(f"{part}({channels}): name the modalities, as {part}({channels}, modalities=('rgb', 'depth'))")
    else:
        found = dict.fromkeys(named(modalities, part), channels)
    named(tuple(found), part)
    wrong = {m: c for m, c in found.items() if not isinstance(c, int) or c < 1}
    if wrong:
        raise InputError(f"{part} needs a whole number of channels above 0 per modality, got {wrong}")
    return found


def named(modalities: Sequence[str], part: str, least: int = 1) -> tuple[str, ...]:
    """Return the modalities' names after checking that they can name modules and are ``least`` or more.

    Raises:
        InputError: if not.
    """
    names = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    if len(set(names)) < len(names):
        raise InputError(f"{part}: modalities must differ, got {list(names)}")
    for name in names:
        if not name or "." in name or hasattr(nn.ModuleDict, name):
            raise InputError(f"{part}: modality {name!r} cannot be a module's name in PyTorch; rename it")
    if len(names) < least:
        raise InputError(f"{part} needs {least} modalities or more, got {list(names)}")
    return names


def check_features(features: Mapping[str, Tensor], modalities: Sequence[str] | Mapping[str, int], part: str) -> None:
    """Check that ``features`` holds ``modalities``, each with the channels that a mapping of them gives.

    Raises:
        InputError: if one is missing or unknown, or has other channels.
    """
    if set(features) != set(modalities):
        missing = [m for m in modalities if m not in features]
        unknown = [m for m in features if m not in modalities]
        raise InputError(
            f"{part} takes the modalities {', '.join(map(repr, modalities))}"
            + (f"; missing: {', '.join(map(repr, missing))}" if missing else "")
            + (f"; unknown: {', '.join(map(repr, unknown))}.{did_you_mean(unknown[0], modalities)}" if unknown else "")
        )
    if isinstance(modalities, Mapping):
        for name, channels in modalities.items():
            x = features[name]
            if x.ndim not in (2, 3, 4) or x.shape[channel_axis(x)] != channels:
                raise InputError(
                    f"{part}: {name!r} must have {channels} channels, as [B,{channels}], [B,T,{channels}] or "
                    f"[B,{channels},H,W], got {list(x.shape)}"
                )


def check_present(present: Mapping[str, Tensor] | None, features: Mapping[str, Tensor], part: str) -> None:
    """Check that ``present`` names modalities of ``features``, each with a bool per sample.

    Raises:
        InputError: if not.
    """
    for name, mask in (present or {}).items():
        if name not in features:
            raise InputError(
                f"present names the unknown modality {name!r}: {part} takes {', '.join(map(repr, features))}."
                + did_you_mean(name, features)
            )
        _check_mask(mask, features[name], name)


def _check_mask(mask: Tensor, x: Tensor, name: str) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != x.shape[:1]:
        got = f"{mask.dtype} of {list(mask.shape)}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise InputError(f"present[{name!r}] must be a bool per sample, [{x.shape[0]}], got {got}")


def channel_axis(x: Tensor) -> int:
    """Return the channel axis: 1 of vectors ``[B,C]`` and maps ``[B,C,H,W]``, 2 of sequences ``[B,T,C]``."""
    return 2 if x.ndim == 3 else 1


def pool(x: Float[Tensor, "b ..."]) -> Float[Tensor, "b c"]:
    """Mean over time or space: ``[B,C]`` from vectors, sequences and maps."""
    return x if x.ndim == 2 else x.mean(1) if x.ndim == 3 else x.mean((2, 3))


def equal(shapes: Iterable[object]) -> bool:
    """Whether all shapes are the same; unlike a set of them, also while a batch size is a symbol (torch.export)."""
    first, *others = shapes
    return all(shape == first for shape in others)


def spread(values: Tensor, x: Tensor) -> Tensor:
    """View ``[B,C]`` (or ``[B,1]``) so that it broadcasts with the features ``x``."""
    if x.ndim == 2:
        return values
    return values[:, None, :] if x.ndim == 3 else values[:, :, None, None]


def there(present: Mapping[str, Tensor] | None, modality: str, like: Tensor) -> Bool[Tensor, " b"]:
    """Return who has the modality: all samples, unless ``present`` names it."""
    mask = None if present is None else present.get(modality)
    if mask is None:
        return torch.ones(like.shape[0], dtype=torch.bool, device=like.device)
    return mask.to(like.device)


def drop(
    present: Mapping[str, Tensor] | None, modalities: Sequence[str], like: Tensor, rate: float
) -> dict[str, Bool[Tensor, " b"]]:
    """Return who is there after modality dropout: each modality of a sample is lost with probability ``rate``.

    Of the modalities that a sample has, the one with the largest draw always stays.
    """
    draw = torch.rand(len(modalities), like.shape[0], device=like.device)
    has = torch.stack([there(present, m, like) for m in modalities])
    last = draw.masked_fill(~has, -1.0).argmax(0)
    stays = (draw >= rate) | (torch.arange(len(draw), device=like.device)[:, None] == last)
    return dict(zip(modalities, has & stays, strict=True))


def hide(x: Tensor, present: Mapping[str, Tensor] | None, modality: str) -> Tensor:
    """Return ``x`` with the samples that lack the modality set to zero, whatever was there (NaN included).

    Raises:
        InputError: if the mask is not a bool per sample.
    """
    mask = None if present is None else present.get(modality)
    if mask is None:
        return x
    _check_mask(mask, x, modality)
    return torch.where(
        mask.to(x.device).view(-1, *[1] * (x.ndim - 1)), x, torch.zeros((), dtype=x.dtype, device=x.device)
    )


def subset(chosen: Sequence[str], modalities: Sequence[str], part: str) -> tuple[str, ...]:
    """Return the chosen of the modalities, in the modalities' order.

    Raises:
        InputError: if none is chosen, or one is unknown.
    """
    names = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    unknown = [m for m in names if m not in modalities]
    if unknown or not names:
        raise InputError(
            f"{part}: active must name one or more of {', '.join(map(repr, modalities))}, got {list(names)}."
            + (did_you_mean(unknown[0], modalities) if unknown else "")
        )
    return tuple(m for m in modalities if m in names)

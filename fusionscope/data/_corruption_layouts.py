"""What the axes of a modality mean: which kind it is, and where its channels and its time are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusionscope._nest import shape, tensors
from fusionscope.errors import InputError, did_you_mean

KINDS = ("image", "depth", "video", "audio", "sequence", "vector", "tokens")
# Words that a part of a name starts with, and words that are the whole part.
DEPTH_WORDS = ("depth", "disparity", "elevation", "lidar"), ("dem", "dsm", "range")
AUDIO_WORDS = (
    ("audio", "sound", "speech", "acoustic", "spectrogram", "waveform", "melspec"),
    ("voice", "wave", "wav", "mel"),
)
SHORTEST_WAVE = 2000


@dataclass(frozen=True)
class Layout:
    """The form of one tensor: its name, its channel axis, and its time axis (-1 = none)."""

    form: str
    channel: int
    time: int = -1


LAYOUTS = {
    ("image", 4): Layout("image", 1),
    ("depth", 4): Layout("depth", 1),
    ("video", 5): Layout("video", 2, 1),
    ("audio", 2): Layout("wave", 1, 2),
    ("audio", 3): Layout("wave", 1, 2),
    ("audio", 4): Layout("spectrogram", 1, 3),
    ("sequence", 3): Layout("sequence", 2, 1),
}
AXES = {
    "image": "[B, C, H, W]",
    "depth": "[B, C, H, W]",
    "video": "[B, T, C, H, W]",
    "audio": "[B, samples], [B, C, samples] or [B, C, F, T]",
    "sequence": "[B, T, C]",
    "vector": "[B, ...]",
}


def modality_kind(name: str, values: Any) -> str:
    """Return which kind of modality ``values`` are, judged by their axes, their type and the modality's name.

    =========================== =====================================================================
    ``[B, C, H, W]``            floating or uint8: "image"; "depth" if the name has a word such as depth, disparity,
                                dem, dsm, elevation, range or lidar; "audio" (a spectrogram ``[B, C, F, T]``) if C is
                                1 or 2 and it has one such as audio, sound, speech, voice, acoustic, wave, wav, mel or
                                spectrogram
    ``[B, T, C, H, W]``         "video"
    ``[B, 1, samples]``         "audio" (a waveform); two channels too if the name says so
    ``[B, T, C]``               "sequence"
    ``[B, samples]``            "audio" if the name says so and there are 2,000 samples or more
    ``[B, C]``, any other       "vector"
    other integers only         "tokens"
    =========================== =====================================================================

    Of a nest, the floating tensors with the most axes decide. A part of the name may go on after a word
    (``depthmap_left``), but not after the shortest (dem, dsm, range, voice, wave, wav, mel). Where the guess is wrong,
    name the kind.

    Raises:
        InputError: no tensor.

    >>> import torch
    >>> modality_kind("rgb", torch.ones(5, 3, 7, 7)), modality_kind("depth_map", torch.ones(5, 1, 7, 7))
    ('image', 'depth')
    >>> modality_kind("text", {"input_ids": torch.ones(5, 7, dtype=torch.int64), "mask": torch.ones(5, 7) > 0})
    'tokens'
    """
    found = corruptible(values)
    if not found:
        if not tensors(values):
            raise InputError(f"modality {name!r} holds no tensor (it is a {type(values).__name__}); give a tensor")
        return "tokens"
    x = next(iter(found.values()))
    sounds = _has(name, AUDIO_WORDS)
    if x.ndim == 5:
        return "video"
    if x.ndim == 4:
        if sounds and x.shape[1] <= 2:
            return "audio"
        return "depth" if _has(name, DEPTH_WORDS) else "image"
    if x.ndim == 3:
        return "audio" if x.shape[1] == 1 or (sounds and x.shape[1] == 2) else "sequence"
    return "audio" if x.ndim == 2 and sounds and x.shape[1] >= SHORTEST_WAVE else "vector"


def _has(name: str, words: tuple[tuple[str, ...], tuple[str, ...]]) -> bool:
    parts = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    return any(part.startswith(words[0]) or part in words[1] for part in parts)


def check_kind(kind: str) -> str:
    """Return ``kind`` if it is one.

    Raises:
        InputError: if it is not.
    """
    if kind not in KINDS:
        raise InputError(f"expected a kind of {', '.join(KINDS)}, got {kind!r}.{did_you_mean(str(kind), KINDS)}")
    return kind


def _pixels(tensor: Tensor) -> bool:
    return tensor.dtype == torch.uint8 and tensor.ndim >= 4


def corruptible(values: Any) -> dict[str, Tensor]:
    """Return the tensors that a corruption changes, by path: floating ones and bytes of pixels, with the most axes."""
    floating = [(path, tensor) for path, tensor in tensors(values) if tensor.is_floating_point() or _pixels(tensor)]
    most = max((tensor.ndim for _, tensor in floating), default=0)
    return {path: tensor for path, tensor in floating if tensor.ndim == most}


def layout(kind: str, tensor: Tensor) -> Layout:
    """Return what the axes of a tensor of this kind mean.

    Raises:
        InputError: the tensor has not the axes of its kind.
    """
    if kind == "vector":
        return Layout("vector", 1)
    found = LAYOUTS.get((kind, tensor.ndim))
    if found is None:
        raise InputError(
            f"expected {AXES[kind]} for a modality of kind {kind!r}, got {shape(tensor)}; name another kind "
            "(kind='vector' takes any axes)"
        )
    return found


def standard(tensor: Tensor, form: Layout) -> Tensor:
    """Return the tensor with all axes its form has: vectors ``[B, D]``, waves ``[B, C, samples]``."""
    if form.form == "vector":
        return tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]
    return tensor[:, None] if form.form == "wave" and tensor.ndim == 2 else tensor

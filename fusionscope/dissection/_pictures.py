"""What a report can draw of a sample: a small image, a few curves, a row of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusionscope._nest import tensors

SIDE, STEPS, CURVES, VALUES = 96, 128, 8, 256


def pictures(drawn: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return ``sample/NUMBER/MODALITY`` for the samples given by number: uint8 ``[H, W, 3]`` (images; of a video the
    middle frame), float32 ``[T, C]`` (sequences) or ``[C]`` (vectors); nothing for tokens and other kinds."""
    found: dict[str, np.ndarray] = {}
    for sample, inputs in drawn.items():
        for modality, nest in inputs.items():
            picture = _picture(nest, kinds.get(modality, ""))
            if picture is not None:
                found[f"sample/{sample}/{modality}"] = picture
    return found


def _picture(nest: Any, kind: str) -> np.ndarray | None:
    values = next((t for _, t in tensors(nest) if t.ndim > 2 or (t.is_floating_point() and t.ndim)), None)
    if values is None or kind == "tokens":
        return None
    values = values.detach().float().cpu()
    if values.ndim == 4:
        values = values[len(values) // 2]
    if values.ndim == 3:
        return _image(values)
    if values.ndim == 2:
        if kind == "audio" and len(values) == 1:
            values = values.T
        steps = torch.linspace(0, len(values) - 1, min(len(values), STEPS)).round().long()
        return values[steps][:, :CURVES].numpy()
    return values[:VALUES].numpy() if values.ndim == 1 else None


def _image(values: Tensor) -> np.ndarray:
    shown = values[:3] if len(values) >= 3 else values[:1].expand(3, -1, -1)
    low, high = shown.amin(), shown.amax()
    shown = (shown - low) / (high - low).clamp(min=1e-12)
    height, width = shown.shape[1:]
    if max(height, width) > SIDE:
        scale = SIDE / max(height, width)
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        shown = torch.nn.functional.interpolate(shown[None], size=size, mode="area")[0]
    return (shown * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()

"""Inputs of single samples as small pictures: PNG for images, SVG for sequences and vectors; no file is read."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode

import numpy as np
from markupsafe import Markup, escape

SIDE, WIDTH, HEIGHT = 80, 116, 54
LINES, BARS = 8, 64


def png(pixels: np.ndarray) -> bytes:
    """Return an image, uint8 ``[H, W, 3]`` or grey ``[H, W]``, as a PNG file.

    >>> png(np.zeros((2, 3, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels, dtype=np.uint8).reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()  # filter 0 before each row
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def drawing(given: np.ndarray, colour: str, label: str) -> Markup:
    """Return one input as HTML: an image, lines over time, or bars; "" for anything else.

    Args:
        given: uint8 ``[H, W, 3]``, ``[H, W, 1]`` or ``[H, W]``, or floats ``[T, C]`` or ``[C]``.
        colour: of lines and bars, as CSS.
        label: what a reader who does not see it is told.
    """
    pixels = _pixels(given)
    if pixels is not None:
        height, width = pixels.shape[:2]
        scale = SIDE / max(height, width)
        size = f'width="{max(round(width * scale), 1)}" height="{max(round(height * scale), 1)}"'
        return Markup(f'<img src="{_source(pixels)}" {size} alt="{escape(label)}">')
    body = _lines(given, colour)
    if not body:
        return Markup("")
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img"'
    return Markup(f'{head} aria-label="{escape(label)}">{body}</svg>')


def figure(given: np.ndarray, colour: str) -> tuple[Markup, int, int] | None:
    """Return one input as the inside of an SVG, with its width and height there; None for what cannot be drawn."""
    pixels = _pixels(given)
    if pixels is not None:
        height, width = pixels.shape[:2]
        size = f'width="{width}" height="{height}" style="image-rendering:pixelated"'
        return Markup(f'<image href="{_source(pixels)}" {size}/>'), width, height
    body = _lines(given, colour)
    return (Markup(body), WIDTH, HEIGHT) if body else None


def _pixels(given: np.ndarray) -> np.ndarray | None:
    values = np.asarray(given)
    if (
        values.size
        and values.dtype == np.uint8
        and (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3)))
    ):
        return values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values
    return None


def _source(pixels: np.ndarray) -> str:
    return f"data:image/png;base64,{b64encode(png(pixels)).decode()}"


def _lines(given: np.ndarray, colour: str) -> str:
    values = np.asarray(given)
    if not values.size or not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        return ""
    values = values.astype(np.float64)
    if values.ndim == 2:
        return _sequence(values, colour)
    return _vector(values, colour) if values.ndim == 1 else ""


def _sequence(values: np.ndarray, colour: str) -> str:
    """Draw up to eight channels over time, on one scale."""
    finite = values[np.isfinite(values)]
    if not finite.size or len(values) < 2:
        return ""
    low, high = float(finite.min()), float(finite.max())
    spread = (high - low) or 1.0
    x = np.linspace(2, WIDTH - 2, len(values))
    y = HEIGHT - 4 - (values - low) / spread * (HEIGHT - 8)
    shown = min(values.shape[1], LINES)
    body = ""
    for channel in range(shown):
        commands, pen = [], False
        for across, down in zip(x, y[:, channel], strict=True):
            known = bool(np.isfinite(down))
            if known:
                commands.append(f"{'L' if pen else 'M'}{across:.1f},{down:.1f}")
            pen = known
        opacity = 1 - 0.65 * channel / max(shown - 1, 1)
        body += f'<path d="{"".join(commands)}" fill="none" stroke="{colour}" stroke-opacity="{opacity:.2f}"/>'
    return body


def _vector(values: np.ndarray, colour: str) -> str:
    """Draw bars from zero; of a long vector the largest entry of each stretch."""
    values = np.where(np.isfinite(values), values, 0.0)
    if len(values) > BARS:
        parts = np.array_split(values, BARS)
        values = np.array([part[np.argmax(np.abs(part))] for part in parts])
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (HEIGHT - 4) / ((high - low) or 1.0)
    zero = 2 + high * scale
    step = (WIDTH - 4) / len(values)
    gap = 0.0 if step < 3 else 1.0
    body = f'<path d="M2,{zero:.1f}H{WIDTH - 2}" stroke="var(--line)"/>'
    for i, value in enumerate(values):
        top = zero - max(value, 0.0) * scale
        size = f'width="{max(step - gap, 0.5):.1f}" height="{max(abs(value) * scale, 0.3):.1f}"'
        body += f'<rect x="{2 + i * step:.1f}" y="{top:.1f}" {size} fill="{colour}"/>'
    return body

"""Colours, as CSS variables, so that the page, the drawing and the charts follow light, dark and print alike."""

from __future__ import annotations

import re

# Okabe and Ito's colour-blind-safe set, darkened or lightened until each has contrast 3:1 with its paper.
MODALITIES_LIGHT = ("#0072b2", "#d55e00", "#00875f", "#b3558f", "#9a7400", "#2e8fc4", "#7a5c45", "#66707a")
MODALITIES_DARK = ("#5cb6f0", "#ff8f4a", "#2fc997", "#e79cc8", "#e5bf3d", "#9ad3f7", "#c7a488", "#a9b4bf")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")

# The same shapes as text, for keys.
GLYPHS = {
    "circle": "●",
    "square": "■",
    "triangle-up": "▲",
    "diamond": "◆",
    "cross": "✚",
    "triangle-down": "▼",
    "triangle-right": "▶",
    "triangle-left": "◀",
}

_LIGHT = {
    "paper": "#ffffff",
    "panel": "#f6f7f9",
    "ink": "#1d2430",
    "soft": "#586274",
    "line": "#d5dae2",
    "bar": "#77839a",
    "good": "#00704f",
    "bad": "#b3261e",
    "on-low": "#1d2430",
    "on-high": "#ffffff",
}
_DARK = {
    "paper": "#14181f",
    "panel": "#1c222b",
    "ink": "#e4e8ee",
    "soft": "#9da8b8",
    "line": "#353e4b",
    "bar": "#8592a8",
    "good": "#4bd0a0",
    "bad": "#ff8a80",
    "on-low": "#e4e8ee",
    "on-high": "#14181f",
}
STEPS = 10
_RAMP_LIGHT = ("#f0eef7", "#a596d2", "#38246f")
_RAMP_DARK = ("#221f2e", "#7059bd", "#e0d6ff")


def _ramp(stops: tuple[str, str, str]) -> list[str]:
    """Return ``STEPS`` colours through three stops."""
    rgb = [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops]
    colours = []
    for step in range(STEPS):
        place = step / (STEPS - 1) * 2
        low = min(int(place), 1)
        mixed = (round(a + (b - a) * (place - low)) for a, b in zip(rgb[low], rgb[low + 1], strict=True))
        colours.append("#" + "".join(f"{channel:02x}" for channel in mixed))
    return colours


def _block(names: dict[str, str], modalities: tuple[str, ...], ramp: tuple[str, str, str]) -> str:
    names = names | {f"m{i}": c for i, c in enumerate(modalities)} | {f"s{i}": c for i, c in enumerate(_ramp(ramp))}
    return "".join(f"--{name}:{colour};" for name, colour in names.items())


def variables(selector: str = ":root") -> str:
    """Return the CSS that sets every colour for light, dark and print.

    >>> "--m0:#0072b2" in variables()
    True
    """
    light = _block(_LIGHT, MODALITIES_LIGHT, _RAMP_LIGHT)
    dark = _block(_DARK, MODALITIES_DARK, _RAMP_DARK)
    return f"{selector}{{{light}}}@media screen and (prefers-color-scheme:dark){{{selector}{{{dark}}}}}"


def resolved(text: str) -> str:
    """Replace the variables in a text by the light colours, for drawings that leave the page.

    >>> resolved("stroke: var(--m0)")
    'stroke: #0072b2'
    """
    for name, value in re.findall(r"--([\w-]+):(#\w+);", _block(_LIGHT, MODALITIES_LIGHT, _RAMP_LIGHT)):
        text = text.replace(f"var(--{name})", value)
    return text


def colour(index: int) -> str:
    """Return the colour of the modality at ``index``, as a CSS variable."""
    return f"var(--m{index % len(MODALITIES_LIGHT)})"


def shape(index: int) -> str:
    """Return the Vega point shape of the modality at ``index``, so that colour is never the only sign."""
    return SHAPES[index % len(SHAPES)]

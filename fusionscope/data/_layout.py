"""From the axes a file names to the layouts that the models take. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from fusionscope.errors import InputError

LETTERS = {
    "N": "sample",
    "T": "time",
    "C": "channel",
    "H": "height",
    "W": "width",
    "V": "joint or vertex",
    "F": "frequency",
}
_MEANINGS = ", ".join(f"{letter} {word}" for letter, word in LETTERS.items())


@dataclass(frozen=True)
class Layout:
    """How to bring an array into a delivered layout.

    Attributes:
        axes: delivered axes of a batch, "NC", "NTC", "NCHW" or "NTCHW".
        shape: delivered shape of one sample.
        order: transposition of the file's axes, sample axis first.
    """

    axes: str
    shape: tuple[int, ...]
    order: tuple[int, ...]

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Bring an array of samples ``[n, ...]`` into the delivered layout."""
        return array.transpose(self.order).reshape(len(array), *self.shape)

    @property
    def channels(self) -> int:
        """Length of the channel axis."""
        return self.shape[self.axes.index("C") - 1]

    def per_channel(self, values: np.ndarray) -> np.ndarray:
        """Shape ``[C]`` values so that they broadcast over a delivered batch."""
        return values.reshape([-1 if axis == "C" else 1 for axis in self.axes])


def find_layout(name: str, axes: str, shape: tuple[int, ...]) -> Layout:
    """Return the layout for an array ``name`` whose axes are named by letters, the sample first.

    - No T, H, W: a vector NC. T alone: a sequence NTC. H and W: a map NCHW. T, H, W with C: NTCHW; without C, T
      becomes C.
    - V is folded into C (joint by joint: index = v * C + c), and counts as C.
    - F (frequency) is folded into C in vectors and sequences; where one of H, W is named, F stands for the other; next
      to both it is folded into C. A spectrogram to be seen as a picture is named "NHW".
    - A missing C is one channel.

    Raises:
        InputError: unknown or repeated letters, N not first, H without W, a rank that differs from the letters.

    >>> find_layout("skeleton", "NTVC", (861, 48, 20, 3))
    Layout(axes='NTC', shape=(48, 60), order=(0, 1, 2, 3))
    >>> find_layout("clip", "NTHW", (861, 8, 60, 80)).axes, find_layout("rgb", "NHWC", (5, 7, 11, 3)).shape
    ('NCHW', (3, 7, 11))
    """
    where = f"input {name}:{axes}"
    unknown = [letter for letter in axes if letter not in LETTERS]
    if unknown:
        upper = f" Did you mean {axes.upper()!r}?" if not set(axes.upper()) - set(LETTERS) else ""
        raise InputError(f"{where}: unknown axis letter {unknown[0]!r}.{upper} Letters: {_MEANINGS}.")
    twice = [letter for letter in LETTERS if axes.count(letter) > 1]
    if twice:
        raise InputError(f"{where}: axis {twice[0]} ({LETTERS[twice[0]]}) is named twice. Name each axis once.")
    if not axes.startswith("N"):
        have = "is not the first axis" if "N" in axes else "is missing"
        raise InputError(f"{where}: N (sample) {have}. Save the array with samples first, and begin the axes with N.")
    if len(axes) != len(shape):
        raise InputError(
            f"{where}: {len(axes)} axes are named, but the array has shape {shape}, {len(shape)} axes. "
            f"Name each axis once, in order; letters: {_MEANINGS}."
        )
    roles = axes
    if "F" in axes and ("H" in axes) != ("W" in axes):
        roles = axes.replace("F", "W" if "H" in axes else "H")
    if ("H" in roles) != ("W" in roles):
        here, there = ("H", "W") if "H" in roles else ("W", "H")
        raise InputError(f"{where}: {here} is named without {there}. Name both, or T for a one-dimensional signal.")
    folded = [letter for letter in roles if letter in "CVF"]
    is_map, timed = "H" in roles, "T" in roles
    if is_map and timed and not folded:
        folded, timed = ["T"], False
    target = [["T"]] * timed + [folded] + [["H"], ["W"]] * is_map
    length = dict(zip(roles, shape, strict=True))
    return Layout(
        axes="N" + "T" * timed + "C" + "HW" * is_map,
        shape=tuple(prod(length[letter] for letter in group) for group in target),
        order=(0, *(roles.index(letter) for group in target for letter in group)),
    )

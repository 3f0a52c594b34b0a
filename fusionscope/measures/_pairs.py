"""What instruments that compare pairs of taps have in common."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from fusionscope.errors import InputError


def check_taps(taps: Iterable[str]) -> tuple[str, ...]:
    """Return the names of taps.

    Raises:
        InputError: none, or one twice.
    """
    names = tuple(taps)
    if not names or len(set(names)) < len(names):
        raise InputError(f"expected one or more taps with different names, got {names}")
    return names


def check_reduced(reduced: Collection[str], taps: Collection[str]) -> None:
    """Raise an error where a batch brings other taps than it should."""
    if set(reduced) != set(taps):
        raise InputError(f"expected exactly the taps {list(taps)}, got {list(reduced)}; reduce each of them")


def pair_reasons(rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Join the reasons of both sides of each pair ``[L, A]``; each is said once."""
    joined = [["; ".join(dict.fromkeys(filter(None, (a, b)))) for b in columns] for a in rows]
    return np.array(joined, dtype=str).reshape(len(rows), len(columns))

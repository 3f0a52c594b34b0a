"""Which epochs of a training are kept as checkpoints, when nobody knows yet how many epochs there will be."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def evenly(last: int, count: int) -> list[int]:
    """Return ``count`` epochs from 0 to ``last``, both included, evenly spaced; all of them where there are fewer.

    >>> evenly(12, 4), evenly(10, 4), evenly(2, 4)
    ([0, 4, 8, 12], [0, 3, 7, 10], [0, 1, 2])
    """
    gaps = count - 1
    if last <= gaps:
        return list(range(last + 1))
    return [(2 * i * last + gaps) // (2 * gaps) for i in range(count)]


def thin(kept: dict[int, T], epoch: int, epochs: int, count: int) -> dict[int, T]:
    """Drop what can no longer be among the evenly spaced ones, wherever from ``epoch`` to ``epochs`` training ends.

    >>> list(thin(dict.fromkeys(range(5)), 4, 6, 3))
    [0, 2, 3, 4]
    """
    wanted = {chosen for last in range(epoch, epochs + 1) for chosen in evenly(last, count)}
    return {e: state for e, state in kept.items() if e in wanted}

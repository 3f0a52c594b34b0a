"""Exact BROJA decompositions against ``dit``, and two workers against one.

    python benchmarks/pid_rival.py [--rounds 5] [--tables 1000]

One table of 20 x 20 x 10 (Dirichlet): ours against ``dit`` 2.3 with ``method="cone"`` (its fastest and its only
reliable one), limit 0.5. Then 1,000 tables of 4 x 4 x 3: one worker against two, limit 1.5. Rounds alternate; medians
of the rounds' ratios are printed, with the largest difference of the parts and the certified gaps.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fusionscope.measures.functional import broja


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that some work took, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def rival(p: np.ndarray) -> tuple[Callable[[], Any], Callable[[Any], np.ndarray]]:
    """Return dit's decomposition, and what reads its four parts."""
    import dit
    from dit.pid import PID_BROJA

    outcomes = list(itertools.product(*map(range, p.shape)))
    distribution = dit.Distribution(outcomes, p.ravel())

    def read(found: Any) -> np.ndarray:
        return np.array([found.get_pi(node) for node in (((0,), (1,)), ((0,),), ((1,),), ((0, 1),))])

    return lambda: PID_BROJA(distribution, [(0,), (1,)], (2,), method="cone"), read


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", type=int, default=1000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4000)).reshape(20, 20, 10)
    theirs, read = rival(p)
    broja(p[:2, :2, :2])
    theirs()
    ratios, seconds = [], []
    for _ in range(options.rounds):
        ours, found = timed(lambda: broja(p))
        other, peer = timed(theirs)
        ratios.append(ours / other)
        seconds.append((ours, other))
    parts = np.array([found.redundancy, found.unique1, found.unique2, found.synergy])
    print(f"20 x 20 x 10: ours {seconds[-1][0]:.2f} s, dit cone {seconds[-1][1]:.2f} s; gap {found.gap:.1e} bits")
    print(f"largest difference of a part {np.abs(parts - read(peer)).max():.1e} bits")
    show("ours over dit", ratios, statistics.median(ratios) <= 0.5, "at most 0.5")
    tables = rng.dirichlet(np.ones(48), options.tables).reshape(-1, 4, 4, 3)
    ratios = []
    for _ in range(options.rounds):
        one, found = timed(lambda: broja(tables))
        two, same = timed(lambda: broja(tables, workers=2))
        assert np.array_equal(found.redundancy, same.redundancy)
        ratios.append(one / two)
    print(f"{options.tables} tables of 4 x 4 x 3: {one:.2f} s with one worker; largest gap {found.gap.max():.1e} bits")
    show("one worker over two", ratios, statistics.median(ratios) >= 1.5, "at least 1.5")


def show(what: str, ratios: list[float], good: bool, limit: str) -> None:
    """Print the ratios of all rounds and their median."""
    rounds = ", ".join(f"{r:.2f}" for r in ratios)
    print(f"{what}: {statistics.median(ratios):.2f} ({limit}; rounds {rounds}) {'PASS' if good else 'FAIL'}")


if __name__ == "__main__":
    main()

"""Trace random wirings, of which it is known what every call depends on; print every one that is wrong.

    python benchmarks/random_wirings.py                  # 10,000 wirings
    python benchmarks/random_wirings.py --seeds 0 250    # these only

The generator is ``tests/tracing/wirings.py``. Compared are the modalities that each call depends on and is wired to,
what is conditional, coupled or fused, and where modalities first meet; model and batch must be left as they were.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHOWN = 5


def faults(seed: int) -> tuple[int, list[str], list[str]]:
    """The seed, what its wiring holds, and everything that is wrong in its trace."""
    import torch

    from tests.tracing.wirings import Wiring, check

    torch.set_num_threads(1)
    held = sorted({type(step).__name__ for step in Wiring(seed).steps})
    return seed, held, check(seed)


def main() -> int:
    """Run them all; 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 10_000), metavar=("FROM", "TO"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    options = parser.parse_args()
    seeds = range(*options.seeds)
    wrong, begin = 0, time.perf_counter()
    holding: Counter[str] = Counter()
    with ProcessPoolExecutor(options.workers) as pool:
        for done, (seed, held, told) in enumerate(pool.map(faults, seeds, chunksize=20), 1):
            holding.update(held)
            if told:
                wrong += 1
                print(f"\rseed {seed}: {len(told)} faults", *told[:SHOWN], sep="\n    ", flush=True)
            if not options.quiet and (done % 20 == 0 or done == len(seeds)):
                spent = time.perf_counter() - begin
                left = spent / done * (len(seeds) - done)
                print(
                    f"\r{done} of {len(seeds)}, {wrong} wrong, {left:.0f} s left ", end="", file=sys.stderr, flush=True
                )
    if not options.quiet:
        print(file=sys.stderr)
    print("wirings that hold each kind of step:", ", ".join(f"{k} {n}" for k, n in holding.most_common()))
    print(f"{len(seeds)} wirings, {wrong} wrong ({time.perf_counter() - begin:.0f} s)")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())

"""Shift and shuffle (AsymFusion) against the straightforward version, at (2, 256, 60, 80) and two modalities.

    python benchmarks/shift_shuffle.py [--rounds 31]

"whole": what a bottleneck adds to its layers, ``AsymFusion()``: shuffle, then add the other's shift and shuffle back.
The rival does the same with padded slices and concatenation, makes the shift at the first shuffle and adds it to the
head that comes back. "parts": ``channel_shuffle`` and ``pixel_shift`` alone, each written out. Both are run in turn,
round by round, on float32 features, one thread, and the ratio of processor times is taken within each
round. "forward" is without gradients; "training" runs forward with gradients, and backward; "interleaved": the
modalities are every second row of one tensor, as within a shared encoder.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from fusionscope.nn import AsymFusion
from fusionscope.nn.functional import channel_shuffle, pixel_shift

SHAPE = (2, 256, 60, 80)
LIMIT = 0.65
Features = dict[str, Tensor]


def plain_shuffle(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Heads and tails, concatenated."""
    s = a.shape[1] // 5 * 4
    return torch.cat([a[:, :s], b[:, s:]], 1), torch.cat([b[:, :s], a[:, s:]], 1)


def plain_shift(x: Tensor) -> Tensor:
    """Padded slices and zeros, concatenated."""
    g = x.shape[1] // 5
    down = pad(x[:, :g, :-1], (0, 0, 1, 0))
    right = pad(x[:, g : 2 * g, :, :-1], (1, 0, 0, 0))
    left = pad(x[:, 2 * g : 3 * g, :, 1:], (0, 1, 0, 0))
    up = pad(x[:, 3 * g : 4 * g, 1:], (0, 0, 0, 1))
    return torch.cat([down, right, left, up, torch.zeros_like(x[:, 4 * g :])], 1)


def plain_whole(x: Features) -> Features:
    """Shuffle, add the shifts, shuffle."""
    a, b = plain_shuffle(x["rgb"], x["depth"])
    shift_a, shift_b = plain_shift(x["rgb"]), plain_shift(x["depth"])
    a += shift_b
    b += shift_a
    a, b = plain_shuffle(a, b)
    return {"rgb": a, "depth": b}


def plain_parts(x: Features) -> Features:
    """The shuffled and the shifted features."""
    a, b = plain_shuffle(x["rgb"], x["depth"])
    return {"rgb": a, "depth": b, "rgb shift": plain_shift(x["rgb"]), "depth shift": plain_shift(x["depth"])}


def our_parts(x: Features) -> Features:
    """The same by the functional forms."""
    return {**channel_shuffle(x), **{f"{m} shift": y for m, y in pixel_shift(x).items()}}


def inputs(kind: str, gradients: bool) -> Features:
    """Random features."""
    if kind == "interleaved":
        rows = torch.randn(2 * SHAPE[0], *SHAPE[1:]).unflatten(0, (SHAPE[0], 2))
        return {"rgb": rows[:, 0].requires_grad_(gradients), "depth": rows[:, 1].requires_grad_(gradients)}
    return {m: torch.randn(SHAPE, requires_grad=gradients) for m in ("rgb", "depth")}


def seconds(run: Callable[[Features], Features], x: Features, weights: Features | None) -> float:
    """Time of one run, with its gradients where there are weights for what comes out."""
    start = time.process_time()
    with torch.set_grad_enabled(weights is not None):
        out = run(x)
        if weights is not None:
            torch.autograd.grad(list(out.values()), list(x.values()), [weights[m] for m in out])
    return time.process_time() - start


def compare(name: str, kind: str, gradients: bool, rounds: int) -> float:
    """Median over rounds of our time over the rival's."""
    ours, rival = {"whole": (AsymFusion(), plain_whole), "parts": (our_parts, plain_parts)}[name]
    x = inputs(kind, gradients)
    expected = rival(x)
    got = ours(x)
    assert all(torch.equal(got[m], expected[m]) for m in expected)
    weights = {m: torch.randn_like(y) for m, y in expected.items()} if gradients else None
    spent: dict[str, list[float]] = {"ours": [], "rival": []}
    for number in range(rounds):
        for side, run in sorted({"ours": ours, "rival": rival}.items(), reverse=bool(number % 2)):
            spent[side].append(seconds(run, x, weights))
    ratio = statistics.median(a / b for a, b in zip(spent["ours"], spent["rival"], strict=True))
    times = ", ".join(f"{side} {1000 * statistics.median(t):.1f} ms" for side, t in spent.items())
    print(f"{name}, {'training' if gradients else 'forward'}, {kind}: {times}, ratio {ratio:.3f}")
    return ratio


def main() -> int:
    """Print the ratios; 1 if the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{SHAPE}, two modalities, 1 thread, {options.rounds} rounds")
    ratios = {}
    for name in ("whole", "parts"):
        for kind in ("dense", "interleaved"):
            for gradients in (False, True):
                ratios[name, kind, gradients] = compare(name, kind, gradients, options.rounds)
    found = ratios["whole", "dense", False]
    print(f"{'PASS' if found <= LIMIT else 'FAIL'} shift and shuffle, forward: {found:.3f} (limit {LIMIT})")
    return int(found > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())

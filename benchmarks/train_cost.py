"""What `train` costs beside a bare PyTorch loop, and how long its model waits for data; prints two Markdown tables.

    python benchmarks/train_cost.py [--utd utd_mhad.npz] [--water water_seg.npz] [--repeats 7] [--threads 1]

The bare loop is a plain `for` over index tensors into data in memory: the same model from the same seed, the same
batches, AdamW with the same groups and schedule, the same memory format, validation after every epoch, a copy of the
best weights. That it does the same work is checked: its training losses are ours. Ours and the bare one take turns in
one process; ratios are of pairs, their median is printed. "Loop" is all epochs (limits: 1.05, with dynamics 1.15: their
recording and writing included), "call" is `train` as a whole on loaded data (rehearsal, scores of the test split and
files included) against the bare loop with scores of the test split. Without the files of the options it makes
sequences of its own, and takes `scenes` for maps.

The model may wait for data, augmentation included, in at most a tenth of the epochs' time, also where the data are not
held in memory and read sample by sample.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionscope.data import DataSplits, load_data
from fusionscope.engine import TrainConfig, _memory, load_run, train
from fusionscope.engine._loop import Loop
from fusionscope.engine._models import rebuild

LIMITS = {"off": 1.05, "on": 1.15}
WAIT = 0.1


@dataclass
class Case:
    """Data, settings that both loops share, what only the waiting is measured with, and the most training samples of
    the comparison."""

    name: str
    data: str
    settings: dict[str, Any]
    changes: dict[str, Any] = field(default_factory=dict)
    samples: int = 2**20


class Clock:
    """Seconds by the wall and of this process's processor time."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def measure(self, action: Callable[[], Any]) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        try:
            return action()
        finally:
            self.wall += time.perf_counter() - wall
            self.processor += time.process_time() - processor


def held(data: DataSplits, samples: int) -> DataSplits:
    """The data set in memory, as `train` would hold it, with so many samples per split at most."""
    splits = {name: cast(Any, _memory.remember(split)) for name, split in data.splits.items()}
    rows = slice(samples)
    cut = {k: _memory.Memory({m: x[rows] for m, x in v.inputs.items()}, v.target[rows]) for k, v in splits.items()}
    return replace(data, splits=cut)


def ours(config: TrainConfig, data: DataSplits, folder: str) -> tuple[Clock, Clock, list[dict[str, Any]], Any]:
    """Train; return the clocks of the loop and of the call, the history, and the model's description."""
    loop, call = Clock(), Clock()
    run = Loop.run
    with mock.patch.object(Loop, "run", lambda self: loop.measure(lambda: run(self))):
        out = call.measure(lambda: train(config, quiet=True, data=data))
    found = load_run(out)
    return loop, call, history(out), found.description["model"]


def history(out: Path) -> list[dict[str, Any]]:
    lines = (out / "history.csv").read_text(encoding="utf-8").splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]


def bare(config: TrainConfig, data: DataSplits, description: Any) -> tuple[Clock, Clock, list[float]]:
    """Train by a plain loop; return the clocks of the loop and of the whole, and the training losses."""
    loop, call = Clock(), Clock()

    def whole() -> list[float]:
        torch.manual_seed(config.seed)
        model = cast(Any, rebuild(description))
        if not strided(model):
            model.to(memory_format=torch.channels_last)
        losses = loop.measure(lambda: plain_loop(config, data, model))
        score(model, cast(Any, data.splits["test"]), len(data.classes))
        return losses

    return loop, call, call.measure(whole)


def strided(model: nn.Module) -> bool:
    """Whether ours keeps the contiguous format, see `unsafe_layout` of the engine."""
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return any(m.kernel_size == (1, 1) and m.stride != (1, 1) and m.in_channels % 16 for m in convolutions)


def plain_loop(config: TrainConfig, data: DataSplits, model: Any) -> list[float]:
    memory, val = cast(Any, data.splits["train"]), cast(Any, data.splits["val"])
    inputs, target, count = memory.inputs, memory.target, len(memory)
    size = min(config.batch_size, count)
    steps = count // size
    total, warm = steps * config.epochs, max(1, round(config.warmup * steps * config.epochs))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.lr,
    )
    generator = torch.Generator().manual_seed(config.seed)
    best, kept, losses, step = (-math.inf, -math.inf), {}, [], 0
    for _ in range(config.epochs):
        torch.empty((), dtype=torch.int64).random_(generator=generator)  # as a DataLoader's sampler draws
        order = torch.randperm(count, generator=generator)
        model.train()
        summed = torch.zeros(())
        for i in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / total)))
            rows = order[i * size : (i + 1) * size]
            x, y = {m: v[rows] for m, v in inputs.items()}, target[rows]
            optimizer.zero_grad()
            loss = model.loss(model.outputs(x), y, criterion)
            loss.backward()
            optimizer.step()
            summed += loss.detach()
            step += 1
        losses.append(float(summed) / steps)
        if (found := score(model, val, len(data.classes))) > best:
            best, kept = found, {k: v.detach().clone() for k, v in model.state_dict().items()}
    model.load_state_dict(kept)
    return losses


def criterion(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, ignore_index=-1)


@torch.no_grad()
def score(model: Any, memory: Any, classes: int) -> tuple[float, float]:
    """Accuracy (or mean IoU of pixels) and minus the loss."""
    model.eval()
    torch.empty((), dtype=torch.int64).random_()  # as a DataLoader draws, so that dropout stays the same
    counts, loss = torch.zeros(classes, classes), 0.0
    for rows in torch.arange(len(memory)).split(128):
        y = memory.target[rows]
        output = model({m: v[rows] for m, v in memory.inputs.items()})
        loss += float(criterion(output, y)) * len(rows)
        known = y >= 0
        cells = y[known] * classes + output.argmax(1)[known]
        counts += torch.bincount(cells, minlength=classes**2).view(classes, classes)
    right = counts.diagonal()
    if memory.target.ndim > 1:
        return float((right / (counts.sum(0) + counts.sum(1) - right)).nanmean()), -loss
    return float(right.sum() / counts.sum()), -loss


def compare(case: Case, repeats: int) -> bool:
    """Print a row per state of dynamics; return whether the limits hold."""
    data = held(load_data(case.data, seed=0), case.samples)
    rows: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(data=case.data, out=f"{folder}/off", overwrite=True, patience=0, **case.settings)
        watched = replaced(config, out=f"{folder}/on", dynamics=True)
        *_, description = ours(config, data, folder)
        error = 0.0
        for repeat in range(repeats):
            gc.collect()
            first = repeat % 2
            theirs = bare(config, data, description) if first else None
            loop, call, told, _ = ours(config, data, folder)
            theirs = theirs or bare(config, data, description)
            _, more, *_ = ours(watched, data, folder)
            pairs = zip(told, theirs[2], strict=True)
            error = max(error, *(abs(float(row["train_loss"]) - loss) / abs(loss) for row, loss in pairs))
            for kind in ("wall", "processor"):
                mine, bares = vars(loop)[kind], vars(theirs[0])[kind]
                extra = vars(more)[kind] - vars(call)[kind]
                note(f"off {kind}", mine / bares)
                note(f"on {kind}", (mine + extra) / bares)
                note(f"call {kind}", vars(call)[kind] / vars(theirs[1])[kind])
            note("seconds", theirs[0].wall)
    middle = {name: statistics.median(values) for name, values in rows.items()}
    held_all = True
    for state, limit in LIMITS.items():
        values = rows[f"{state} wall"]
        held_all &= middle[f"{state} wall"] <= limit
        call = f"{middle['call wall']:.3f}" if state == "off" else ""
        ratio = f"{middle[f'{state} wall']:.3f} ({min(values):.3f} to {max(values):.3f})"
        processor = f"{middle[f'{state} processor']:.3f}"
        last = f"{call} | {middle['seconds']:.2f} s | {error:.1e}"
        print(f"| {case.name} | {state} | {ratio} | {limit} | {processor} | {last} |", flush=True)
    return held_all


def replaced(config: TrainConfig, **changes: Any) -> TrainConfig:
    return TrainConfig(**({name: getattr(config, name) for name in config.__struct_fields__} | changes))


def wait(case: Case) -> bool:
    """Print the share of the epochs' time in which the model waits; return whether the limit holds."""
    data = load_data(case.data, seed=0)
    fine = True
    for where, limit in (("in memory", 2**40), ("read sample by sample", -1)):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(_memory, "LIMIT", limit):
            settings = case.settings | case.changes
            config = TrainConfig(data=case.data, out=f"{folder}/run", patience=0, **settings)
            told = history(train(config, quiet=True, data=data))
        seconds = sum(float(row["seconds"]) for row in told)
        share = sum(float(row["data_seconds"]) for row in told) / seconds
        fine &= share <= WAIT
        print(f"| {case.name} | {where} | {share:.1%} | {WAIT:.0%} | {seconds:.1f} s |", flush=True)
    return fine


def synthetic(folder: str) -> str:
    """Write two sequences that tell ten classes; return the data's specification."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, 640)
    shapes = {"imu": (96, 6), "skeleton": (48, 30)}
    arrays = {
        m: (rng.normal(size=(10, 1, s[1]))[label] + rng.normal(size=(640, *s))).astype("f4") for m, s in shapes.items()
    }
    split = np.repeat(["train", "val", "test"], [448, 96, 96])
    np.savez(f"{folder}/sequences.npz", label=label, split=split, **arrays)
    return f"npz:{folder}/sequences.npz?inputs=imu:NTC,skeleton:NTC&target=label&split=split"


def cases(options: argparse.Namespace, folder: str) -> list[Case]:
    utd, water = options.utd, options.water
    return [
        Case(
            f"sequences ({'utd_mhad' if utd else 'made up'})",
            f"npz:{utd}?inputs=inertial:NTC,skeleton:NTVC&target=label&split=split" if utd else synthetic(folder),
            {"model": "sequence", "epochs": options.epochs or 8},
            {"augment": 1.0},
        ),
        Case(
            "maps (water_seg)",
            f"npz:{water}?inputs=optical:NHWC,infrared:NHWC&target=label&split=split",
            {"model": "segmenter", "batch_size": 8, "width": 8, "lr": 1e-3, "epochs": options.epochs or 1},
            {"augment": 0.5, "flips": True},
            64,
        )
        if water
        else Case("maps (scenes)", "scenes?train=320&val=64&test=32&size=48", {"epochs": options.epochs or 3}),
    ]


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utd", type=Path, help="utd_mhad.npz")
    parser.add_argument("--water", type=Path, help="water_seg.npz")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=0, help="of every training (default: some seconds' worth)")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = cases(options, folder)
        print("| data | dynamics | loop / bare | limit | processor time | call / bare | bare | difference of losses |")
        print("|---|---|---|---|---|---|---|---|")
        fine = [compare(case, options.repeats) for case in found]
        print("\n| data | held | waits | limit | epochs |\n|---|---|---|---|---|")
        fine += [wait(case) for case in found]
    print(f"\nAll limits hold: {'yes' if all(fine) else 'NO'}.")
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())

"""All-pairs minibatch CKA of two networks, against pytorch-cka.

    pip install -c constraints.txt -e '.[peers]'
    python benchmarks/cka_rival.py [--rounds 7]

Two residual networks of 54 modules each (3 x 32 x 32 inputs, widths 16, 32, 64), 512 samples in batches of 64, one
thread. Measured: the time of ``MinibatchCKA(permutations=0, against=...)`` in plain forward hooks on all modules, the
forwards included. Rival: ``cka.compute_cka`` on the same modules, batches and networks, without its progress bar. Both
are run in turn, round by round, and the ratio of processor times is taken within each round. Memory is the peak of a
process of its own above what it held before the run, networks and data loaded, forwards included. Errors are against
the same estimator in float64 from features kept in float64, for networks with fitted batch norms ("healthy") and with
untouched ones ("collapsed": the features' mean is far above their spread).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fusionscope.measures import MinibatchCKA
from fusionscope.measures.functional import hsic1

SAMPLES, BATCH = 512, 64
LIMITS = {"time": 0.95, "memory": 0.5, "error": 1e-5}


class Block(nn.Module):
    """A basic residual block; every module is called once and none works in place."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        if c_in != c_out:
            self.down = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + (self.down(x) if hasattr(self, "down") else x))


class TinyResNet(nn.Module):
    """54 modules below the root."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.stage1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
        self.stage2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.stage3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.bn(self.conv(x)).relu())
        return self.fc(self.stage3(self.stage2(x)).mean((2, 3)))


def networks(kind: str) -> tuple[TinyResNet, TinyResNet, DataLoader]:
    """Two networks and their data."""
    models = TinyResNet(1).eval(), TinyResNet(2).eval()
    images = torch.rand(SAMPLES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if kind == "healthy":
        for model in models:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None
            with torch.no_grad():
                model.train()(images)
            model.eval()
    return *models, DataLoader(TensorDataset(images), BATCH)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that are compared."""
    return {name: module for name, module in model.named_modules() if name}


def ours(a: nn.Module, b: nn.Module, loader: DataLoader) -> np.ndarray:
    """The matrix by fusionscope."""
    names = {"a": layers(a), "b": layers(b)}
    metric = MinibatchCKA(
        [f"a.{n}" for n in names["a"]], against=[f"b.{n}" for n in names["b"]], permutations=0, folds=2
    )
    reduced, handles, context = {}, [], None

    def hook(tap: str):
        def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
            reduced[tap] = metric.reduce(output, context)

        return keep

    for side, modules in names.items():
        handles += [module.register_forward_hook(hook(f"{side}.{name}")) for name, module in modules.items()]
    with torch.inference_mode():
        for index, (x,) in enumerate(loader):
            context = metric.context(len(x), None, index)
            a(x)
            b(x)
            metric.update(reduced, context)
            reduced.clear()
    for handle in handles:
        handle.remove()
    return metric.compute().matrix


def rival(a: nn.Module, b: nn.Module, loader: DataLoader) -> np.ndarray:
    """The matrix by pytorch-cka."""
    from cka import compute_cka

    names = list(layers(a))
    return np.asarray(compute_cka(a, b, loader, layers=names, device="cpu", progress=False)[0])


def plain(a: nn.Module, b: nn.Module, loader: DataLoader) -> None:
    """The forwards alone."""
    with torch.inference_mode():
        for (x,) in loader:
            a(x)
            b(x)


def exact(a: nn.Module, b: nn.Module, loader: DataLoader) -> np.ndarray:
    """The same estimator from the same float32 features, in float64 from there on."""
    kernels: list[Tensor] = []

    def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
        x = output.double().flatten(1)
        x -= x.mean(0)
        kernels.append(x @ x.T)

    # Hooks fire in order of execution; the matrix is in order of names.
    order = [{id(m): i for i, m in enumerate(layers(model).values())} for model in (a, b)]
    total, own = 0.0, [0.0, 0.0]
    for (x,) in loader:
        sides = []
        for model, place in zip((a, b), order, strict=True):
            kernels.clear()
            fired: list[int] = []
            handles = [m.register_forward_hook(hook) for m in layers(model).values()]
            handles += [m.register_forward_hook(lambda m, *_, f=fired: f.append(id(m))) for m in layers(model).values()]
            with torch.inference_mode():
                model(x)
            for handle in handles:
                handle.remove()
            side: list[Tensor] = [x] * len(place)
            for name, kernel in zip(fired, kernels, strict=True):
                side[place[name]] = kernel
            sides.append(torch.stack(side))
        total += hsic1(sides[0][:, None], sides[1][None])
        own = [o + hsic1(s, s) for o, s in zip(own, sides, strict=True)]
    return (total / (own[0].sqrt()[:, None] * own[1].sqrt())).numpy()


RUNS = {"ours": ours, "rival": rival, "plain": plain}


def megabytes(field: str) -> float:
    """What this process holds now ("VmRSS") or held at its peak ("VmHWM"; Linux)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def added_memory(name: str) -> float:
    """Peak megabytes a run adds, in a process of its own."""
    out = subprocess.run([sys.executable, __file__, "--memory", name], check=True, capture_output=True, text=True)
    return float(out.stdout)


def main() -> int:
    """Print the ratios; 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", choices=sorted(RUNS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        if options.memory == "rival":
            import cka  # noqa: F401
        pair = networks("collapsed")
        before = megabytes("VmRSS")
        RUNS[options.memory](*pair)
        print(megabytes("VmHWM") - before)
        return 0
    pair = networks("healthy")
    print(f"{len(layers(pair[0]))} x {len(layers(pair[1]))} modules, {SAMPLES} samples in batches of {BATCH}, 1 thread")
    for run in RUNS.values():
        run(*pair)
    ratios = []
    for number in range(options.rounds):
        spent = {}
        for name in sorted(RUNS, reverse=bool(number % 2)):
            start = time.process_time()
            RUNS[name](*pair)
            spent[name] = time.process_time() - start
        ratios.append(spent["ours"] / spent["rival"])
        print(f"round {number}: " + ", ".join(f"{k} {v:.2f} s" for k, v in spent.items()) + f", ratio {ratios[-1]:.3f}")
    memory = {name: statistics.median(added_memory(name) for _ in range(3)) for name in RUNS}
    print("added peak memory: " + ", ".join(f"{k} {v:.0f} MB" for k, v in memory.items()))
    errors = {}
    for kind in ("healthy", "collapsed"):
        pair = networks(kind)
        wanted = exact(*pair)
        for name in ("ours", "rival"):
            errors[kind, name] = np.abs(RUNS[name](*pair) - wanted).max()
        print(f"largest error, {kind}: ours {errors[kind, 'ours']:.2g}, rival {errors[kind, 'rival']:.2g}")
    found = {
        "time": statistics.median(ratios),
        "memory": memory["ours"] / memory["rival"],
        "error": max(errors["healthy", "ours"], errors["collapsed", "ours"]),
    }
    passed = True
    for name, value in found.items():
        passed &= value <= LIMITS[name]
        print(f"{'PASS' if value <= LIMITS[name] else 'FAIL'} {name} {value:.3g} (limit {LIMITS[name]:g})")
    return int(not passed)


if __name__ == "__main__":
    raise SystemExit(main())

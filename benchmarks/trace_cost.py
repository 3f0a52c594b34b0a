"""What a trace costs, in time and in memory.

    python benchmarks/trace_cost.py [--rounds 5] [--batch-size 8] [--threads 2]
    python benchmarks/trace_cost.py --demo

Model: CLIP ViT-B/32 from its configuration (151 million parameters, random weights), float32, CPU. Measured: the time
of ``fusionscope.trace`` over that of one plain forward (eval mode, no gradients) of the same model over the same batch,
both timed in turn within one process; and the peak memory of a process that builds the model and traces it over that of
one that builds it and runs plain forwards. ``--demo`` times a trace of the demo's model over 16 scenes instead.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

TIMES, MEMORY = 15.0, 1.8


def main() -> None:
    """Print both ratios, or the demo's seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's own choice")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--peak", choices=("plain", "trace"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(options))
        return
    if not options.demo:
        # Before torch is loaded here: a child's peak is never below what its parent held when it was started.
        plain, traced = (child(options, what) for what in ("plain", "trace"))
        told = verdict(traced / plain, MEMORY)
        print(f"peak memory: trace {traced:.0f} MiB, plain forwards {plain:.0f} MiB, ratio {told}")
    timed(options)


def child(options: argparse.Namespace, what: str) -> float:
    """The peak memory in MiB of a process of its own."""
    command = [sys.executable, __file__, "--peak", what, "--batch-size", str(options.batch_size)]
    done = subprocess.run([*command, "--threads", str(options.threads)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def peak(options: argparse.Namespace) -> float:
    """Build, run and return this process' peak memory in MiB."""
    _, _, plain, traced = prepare(options)
    for run in [traced] if options.peak == "trace" else [plain] * 3:
        run()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def timed(options: argparse.Namespace) -> None:
    """Time a forward before and after each trace, and print the ratio of each round and their median."""
    import torch

    model, what, plain, traced = prepare(options)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{what}, {parameters / 1e6:.1f} million parameters, {torch.get_num_threads()} threads")
    for run in (plain, traced, plain):
        run()
    rounds = []
    for number in range(options.rounds):
        forwards = [clock(plain) for _ in range(3)]
        wall, cpu = clock(traced)
        forwards += [clock(plain) for _ in range(3)]
        forward, busy = (statistics.median(times) for times in zip(*forwards, strict=True))
        rounds.append((wall / forward, cpu / busy, wall))
        print(
            f"round {number}: trace {wall:.2f} s, one forward {forward:.3f} s, ratio {wall / forward:.1f} "
            f"(processor time {cpu:.2f} s, {busy:.3f} s, ratio {cpu / busy:.1f})"
        )
    ratio, busy, wall = (statistics.median(values) for values in zip(*rounds, strict=True))
    if options.demo:
        print(f"trace: median {wall:.2f} s, {ratio:.1f} forwards")
        return
    lowest, highest = min(rounds)[0], max(rounds)[0]
    print(f"time: ratio {verdict(ratio, TIMES)}, range {lowest:.1f} to {highest:.1f}; of processor time {busy:.1f}")


def clock(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock and of the processor, which other programs on the machine disturb less."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def verdict(ratio: float, limit: float) -> str:
    """The ratio with what the limit says about it."""
    return f"{ratio:.2f} (limit {limit:g}: {'PASS' if ratio <= limit else 'over'})"


def prepare(options: argparse.Namespace) -> tuple[nn.Module, str, Callable[[], Any], Callable[[], Any]]:
    """A model, its name, a plain forward and a trace of it, over the same batch."""
    import torch

    import fusionscope as fs

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, name, batch, modalities = (demo if options.demo else clip)(options)
    model.eval()
    adapter = fs.Adapter(modalities)

    @torch.no_grad()
    def plain() -> None:
        adapter.call(model, whole)

    whole = adapter.batch(batch)
    return model, name, plain, lambda: fs.trace(model, batch, adapter=adapter)


def clip(options: argparse.Namespace) -> tuple[nn.Module, str, Any, Any]:
    """CLIP in its base size; its configuration's defaults are those of ViT-B/32."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig()
    ids = torch.randint(1, config.text_config.bos_token_id, (options.batch_size, 77))
    ids[:, -1] = config.text_config.eos_token_id
    batch = {"pixel_values": torch.randn(options.batch_size, 3, 224, 224), "input_ids": ids}
    name = f"CLIP ViT-B/32, batch of {options.batch_size}"
    return CLIPModel(config), name, batch, {"image": "pixel_values", "text": "input_ids"}


def demo(options: argparse.Namespace) -> tuple[nn.Module, str, Any, Any]:
    """The model of ``fusionscope train --data scenes --width 12``, untrained, and scenes."""
    import fusionscope as fs
    from fusionscope.nn import build_model

    data = fs.load_data("scenes?train=2&val=2&test=16")
    shapes = {modality: data.shapes[modality] for modality in data.modalities}
    model = build_model(shapes, data.axes, data.task, len(data.classes), width=12)
    return model, "the demo's model, 16 scenes", next(iter(data.loader("test", 16))), None


if __name__ == "__main__":
    main()

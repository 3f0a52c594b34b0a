"""Probes of all concepts in closed form against fitting Net2Vec concept by concept.

    python benchmarks/probe_rival.py [--run RUN] [--modality rgb] [--threads 1] [--epochs 30] [--faithful]

Trains an encoder on one modality of ``scenes`` for two epochs (or takes a run folder), and probes its last tap for
every class. Ours: ``ConceptProbe(estimator="ridge")`` as ``dissect`` uses it, with the model's forwards, 20
permutations of the null, intervals and refits. Rival, as Net2Vec's published script works: for one concept after
another, 30 epochs over the images, which run through the network each time, of gradient descent on the concept's
weights (here with weighted cross-entropy and Adam, which do better on these data than the published loss); no null, no
intervals. The same on features that are kept in memory is timed as well. Printed: the ratios of times, and the mean
difference and rank correlation of the set IoUs. ``--faithful`` shows the other estimators, the published one among
them, beside them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

import fusionscope as fs
from fusionscope.measures import ConceptProbe
from fusionscope.measures.functional import net2vec_fit, net2vec_maps, set_iou
from fusionscope.tracing import Tap, TapReader, trace

PLACES = 4096
Use = Callable[[int, fs.Batch, Tensor], None]


class Bench:
    """One trained network, its last tap, and the images to probe it on."""

    def __init__(self, folder: str, modality: str) -> None:
        run = fs.load_run(folder)
        assert run.data is not None
        self.model = run.model
        self.classes = list(run.data.classes)
        self.batches = [fs.Adapter().batch(raw) for raw in run.data.loader("test", 16, shuffle=True, seed=0)]
        taps = trace(self.model, self.batches[0].take(torch.arange(8))).taps
        self.tap: Tap = taps[modality][-1]
        self.cut = round(0.7 * len(self.batches))

    def read(self, batches: list[fs.Batch], use: Use) -> None:
        """Run the network on some batches."""
        for i, batch in enumerate(batches):
            kept: list[Tensor] = []
            reader = TapReader(self.model, [self.tap], lambda tap, x, kept=kept: kept.append(x))
            with torch.inference_mode(), reader:
                reader.start()
                self.model(batch.inputs)
            use(i, batch, kept[0].clone())

    def streamed(self, estimator: str, permutations: int) -> tuple[np.ndarray, float]:
        """Return the set IoU of all concepts from a streaming probe, and its seconds, forwards included."""
        begin = time.perf_counter()
        probe = ConceptProbe(["tap"], len(self.classes), estimator=estimator, permutations=permutations, places=PLACES)

        def feed(i: int, batch: fs.Batch, x: Tensor) -> None:
            context = probe.context(batch.size, batch.target, i)
            probe.update({"tap": probe.reduce(x, context, "tap")}, context)

        for number in range(probe.passes):
            if number:
                probe.advance()
            self.read(self.batches, feed)
        return probe.compute().taps["tap"].iou, time.perf_counter() - begin

    def through_network(self, epochs: int) -> tuple[np.ndarray, float]:
        """Fit one concept after another; the images run through the network in every epoch."""
        begin = time.perf_counter()
        found = np.array([self._descend(c, epochs) for c in range(len(self.classes))])
        return found, time.perf_counter() - begin

    def _descend(self, c: int, epochs: int) -> float:
        units = self.tap.units
        torch.manual_seed(c)
        w = (torch.rand(units) * 2 - 1).mul_(units**-0.5).requires_grad_()
        bias = torch.zeros((), requires_grad=True)
        optimiser = torch.optim.Adam([w, bias], 1e-2)
        labels = torch.cat([batch.target for batch in self.batches[: self.cut]])
        alpha = 1 - float((labels == c).float().mean())

        def scores(x: Tensor, size: tuple[int, int]) -> Tensor:
            z = torch.einsum("u,buhw->bhw", w, x) + bias
            return F.interpolate(z[:, None], size, mode="bilinear", align_corners=False)[:, 0]

        def step(i: int, batch: fs.Batch, x: Tensor) -> None:
            z, y = scores(x, batch.target.shape[1:]), batch.target
            weight = torch.where(y == c, alpha, 1 - alpha) * (y >= 0)
            loss = F.binary_cross_entropy_with_logits(z, (y == c).float(), weight)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        for _ in range(epochs):
            self.read(self.batches[: self.cut], step)
        held: list[tuple[Tensor, Tensor]] = []

        def score(i: int, batch: fs.Batch, x: Tensor) -> None:
            known = batch.target >= 0
            with torch.no_grad():
                held.append((scores(x, batch.target.shape[1:])[known], (batch.target == c)[known]))

        self.read(self.batches, score)
        fit, test = held[: self.cut], held[self.cut :]
        z, y = (torch.cat(part) for part in zip(*fit, strict=True))
        limits = torch.quantile(z[torch.randperm(len(z))[:100_000]], torch.linspace(0, 1, 101))
        best = max(limits.tolist(), key=lambda t: set_iou(z, y, t))
        z, y = (torch.cat(part) for part in zip(*test, strict=True))
        return set_iou(z, y, best)

    def in_memory(self) -> tuple[np.ndarray, float]:
        """Fit one concept after another on features that are kept; the one forward of all images is not counted."""
        kept: list[Tensor] = []
        self.read(self.batches, lambda i, batch, x: kept.append(x))
        x, labels = torch.cat(kept), torch.cat([batch.target for batch in self.batches])
        cut = sum(batch.size for batch in self.batches[: self.cut])
        known = labels >= 0
        found = np.full(len(self.classes), np.nan)
        begin = time.perf_counter()
        for c in range(len(self.classes)):
            masks = (labels == c).unsqueeze(1)
            fit = net2vec_fit(x[:cut], masks[:cut], known[:cut], "stable")
            maps = net2vec_maps(x[cut:], fit.weights, fit.bias, masks.shape[2:])[:, 0]
            found[c] = set_iou(maps[known[cut:]], masks[cut:, 0][known[cut:]], float(fit.threshold[0]))
        return found, time.perf_counter() - begin


def main() -> None:
    """Run all and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="", help="a run folder of one modality of scenes")
    parser.add_argument("--modality", default="rgb")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--faithful", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = options.run
        if not run:
            out, only = str(Path(folder) / "run"), (options.modality,)
            run = str(fs.train(fs.TrainConfig(data="scenes", modalities=only, epochs=2, width=12, lr=0.004, out=out)))
        bench = Bench(run, options.modality)
    shown = {"ridge": bench.streamed("ridge", 20)}
    shown["in memory"] = bench.in_memory()
    if options.faithful:
        for estimator in ("net2vec", "net2vec-binary", "net2vec-published"):
            shown[estimator] = bench.streamed(estimator, 0)
    shown["one by one"] = bench.through_network(options.epochs)
    print(f"set IoU of {bench.tap.id}".ljust(40), *(c.rjust(7) for c in bench.classes), " seconds")
    for name, (iou, seconds) in shown.items():
        print(name.ljust(40), *(f"{v:7.3f}" for v in iou), f"{seconds:8.1f}")
    ours, rival = shown["ridge"], shown["one by one"]
    rank = spearmanr(ours[0], rival[0]).statistic
    gap = np.abs(ours[0] - rival[0]).mean()
    print(f"mean difference {gap:.3f} (limit 0.05), rank correlation {rank:.3f} (limit 0.9)")
    print(f"in memory: {shown['in memory'][1] / ours[1]:.1f} times ours (which has the forwards and 20 nulls in it)")
    ratio = rival[1] / ours[1]
    print(f"one by one: {ratio:.0f} times ours (limit 50) {'PASS' if ratio >= 50 else 'FAIL'}")


if __name__ == "__main__":
    main()

"""Net2Vec probes: iterative fits on a subsample whose maps are kept, eight binary values to a byte."""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ._concepts import ConceptContext
from ._quantiles import bounded, exceeded_by, histogram, spread
from ._ridge import MISFIT, nothing, ratio
from ._samples import sample_hash, smallest
from ._scores import ProbeScores
from .functional._maps import pack_bits, unpack_bits
from .functional._net2vec import Net2VecFit, binarise, net2vec_fit, net2vec_maps

QUANTILE = 0.005
KEEP = 512
FIT_SHARE = 0.7
HALVES = 2
HEADER = 8  # key, fold, units, location axes, size of the tap's map, size of the masks
SIZES = "maps and masks need one size in all batches; resize them, or use estimator='ridge'"


class Net2Vec:
    """The ``net2vec`` estimators of ``ConceptProbe``.

    First pass: range of each unit; second: histogram, whose top ``quantile`` gives the unit's threshold; third: binary
    maps (or, with ``raw``, in a single pass: activations) and masks of the ``keep`` samples with the smallest hashes.
    Fitted on 7 of 10 folds of these, scored on the rest. Masks of more than ``places`` places are taken at the centres
    of a coarser grid.
    """

    reductions = {"extent": "max", "rows": "cat"}  # noqa: RUF012

    def __init__(self, variant: str = "stable", raw: bool = False) -> None:
        self.variant, self.raw = variant, raw
        self.passes = 1 if raw else 3
        self.quantile, self.keep = QUANTILE, KEEP
        self.steps, self.epochs = 300, 30
        self.extents: list[Tensor] = []
        self.thresholds: list[Tensor] = []

    def states(self) -> dict[str, Tensor]:
        """Return the states of all passes, without entries."""
        dtypes = {"extent": torch.float64, "counts": torch.int64, "rows": torch.uint8}
        return {name: torch.zeros(0, 0, dtype=dtype) for name, dtype in dtypes.items()}

    def reduce(self, probe: Any, tap: int, x: Tensor, context: ConceptContext) -> Any:
        """Reduce one tap's batch to ranges, then to histograms, then to rows of bytes, one per kept sample."""
        if not context.places:
            x = x.flatten(2).mean(2) if x.ndim > 2 else x
        elif x.ndim - 2 != len(context.places):
            return MISFIT
        flat = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
        if self.passes == 3 and probe.stage < 2:
            if not probe.stage:
                return "extent", spread(flat)
            return ("counts", histogram(flat, self.extents[tap])) if self.extents[tap].numel() else MISFIT
        if self.passes == 3 and not self.thresholds[tap].numel():
            return MISFIT
        return "rows", self._rows(probe, tap, x, context)

    def _rows(self, probe: Any, tap: int, x: Tensor, context: ConceptContext) -> UInt8[Tensor, "k bytes"]:
        keys = sample_hash(context.size, context.seed[1], context.seed[0])
        held = probe.state("rows", tap)
        if held and len(held[0]) == self.keep:
            keys[keys >= int(header(held[0])[-1, 0])] = -1
        chosen = torch.nonzero(keys >= 0).flatten()
        chosen = chosen[keys[chosen].argsort()[: self.keep]]
        there = chosen.to(x.device)
        kept = x[there]
        masks = torch.cat([context.masks, context.known.unsqueeze(1)], 1).to(x.device)[there] >= 0.5
        masks = thinned(masks, probe.places)
        head = torch.zeros(len(chosen), HEADER, dtype=torch.int64)
        head[:, 0], head[:, 1] = keys[chosen], context.fold.cpu()[chosen]
        sizes = [x.shape[1], x.ndim - 2, *x.shape[2:], *masks.shape[2:]]
        head[:, 2 : 2 + len(sizes)] = torch.tensor(sizes)
        data = (
            kept.float().flatten(1).contiguous().view(torch.uint8)
            if self.raw
            else pack_bits(binarise(kept, self.thresholds[tap]))
        )
        return torch.cat([head.view(torch.uint8).to(x.device), data, pack_bits(masks)], 1)

    def update(self, probe: Any, tap: int, reduced: Any) -> None:
        """Add one tap's batch."""
        name, value = reduced
        if name != "rows":
            probe.accumulate(f"{name}_{tap}", value)
            return
        held = probe.state("rows", tap)
        value = value.to(probe.device)
        if held and held[0].shape[1] != value.shape[1]:
            probe.misfits[tap] += 1
        elif len(value):
            with torch.inference_mode(False):
                setattr(probe, f"rows_{tap}", [self._fewest([*held, value])])

    def _fewest(self, rows: list[Tensor]) -> Tensor:
        whole = torch.cat(rows)
        return smallest(header(whole)[:, 0], [whole], self.keep)[1][0]

    def advance(self, probe: Any) -> None:
        """Keep the ranges, or set the thresholds."""
        every = range(len(probe.taps))
        if not probe.stage:
            self.extents = [probe.state("extent", i).clone() for i in every]
            return
        counts = [probe.state("counts", i) for i in every]
        self.thresholds = [
            exceeded_by(self.quantile, c, e) if c.numel() else torch.zeros(0)
            for c, e in zip(counts, self.extents, strict=True)
        ]

    # --- at the end ---

    def scores(self, probe: Any, tap: int) -> ProbeScores:
        """Fit and score one tap."""
        C, P = probe.concepts, probe.permutations
        if probe.stage + 1 < self.passes:
            return nothing(C, P, "the data must be read three times: call advance() and feed it again")
        rows = probe.state("rows", tap)
        if not rows:
            return nothing(C, P, MISFIT if int(probe.misfits[tap]) else "no batch was seen in the last pass")
        if int(probe.misfits[tap]) or len({r.shape[1] for r in rows}) > 1:
            return nothing(C, P, SIZES)
        fold, x, masks, known = self._decoded(self._fewest(rows), C)
        if self.raw and not bool(x.isfinite().all()):
            return nothing(C, P, "features are not finite")
        if not self.raw and not bool(bounded(self.extents[tap]).all()):
            return nothing(C, P, "features are not finite")
        full = sorted(set(fold.tolist()))
        if len(full) < 2:
            return nothing(C, P, "samples (or groups) fall into fewer than 2 folds")
        if bool((x[1:] == x[:1]).all()) and bool((x.flatten(2) == x.flatten(2)[..., :1]).all()):
            return nothing(C, P, "features do not differ between places")
        cut = min(max(1, round(FIT_SHARE * len(full))), len(full) - 1)
        fitted = torch.isin(fold, torch.tensor(full[:cut], device=fold.device))
        if not bool(known[~fitted].any()):
            return nothing(C, P, "no place has a known concept")
        fit = self._fit(x[fitted], masks[fitted], known[fitted], probe.seed)
        test = (x[~fitted], masks[~fitted], known[~fitted], fold[~fitted])
        hit, union, places = overlaps(fit, *test, probe.folds)
        untold = masks[~fitted].transpose(0, 1).flatten(1).any(1) & fit.threshold.isnan()
        refit = [self._halves(x, masks, known, fold, full[:cut], test, probe, r) for r in range(HALVES)]
        positives = (masks[~fitted] & known[~fitted].unsqueeze(1)).transpose(0, 1).flatten(1).sum(1)
        return ProbeScores(
            hit,
            union,
            self._null(x, masks, known, fitted, probe),
            np.stack(refit),
            fit.threshold.double().cpu().numpy(),
            positives.double().cpu().numpy(),
            places,
            float("nan"),
            "",
            np.where(untold.cpu().numpy(), "no sample that was fitted shows the concept", ""),
        )

    def _decoded(self, rows: Tensor, C: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head = header(rows)
        U, axes, *sizes = head[0, 2:].tolist()
        grid, places = sizes[:axes] or [1], sizes[axes : 2 * axes] or [1]
        size = 4 * U * int(np.prod(grid)) if self.raw else -(-U * int(np.prod(grid)) // 8)
        data, bits = rows[:, 8 * HEADER : 8 * HEADER + size], rows[:, 8 * HEADER + size :]
        x = data.reshape(-1).view(torch.float32).view(-1, U, *grid) if self.raw else unpack_bits(data, (U, *grid))
        both = unpack_bits(bits, (C + 1, *places))
        return head[:, 1], x, both[:, :-1] & both[:, -1:], both[:, -1]

    def _fit(self, x: Tensor, masks: Tensor, known: Tensor, seed: int) -> Net2VecFit:
        return net2vec_fit(x, masks, known, self.variant, steps=self.steps, epochs=self.epochs, seed=seed)

    def _halves(
        self, x: Tensor, masks: Tensor, known: Tensor, fold: Tensor, full: list[int], test: Any, probe: Any, r: int
    ) -> np.ndarray:
        """IoU of two probes fitted on disjoint halves of the fitting folds (of its samples, if it is one fold)."""
        rng = np.random.default_rng([probe.seed, 5, r])
        mine = np.nonzero(np.isin(fold.cpu().numpy(), full))[0]
        units = fold.cpu().numpy()[mine] if len(full) > 1 else mine
        order = rng.permutation(np.unique(units))
        first = np.isin(units, order[: len(order) // 2])
        found = []
        for side in (mine[first], mine[~first]):
            rows = torch.from_numpy(side).to(x.device)
            hit, union, _ = overlaps(self._fit(x[rows], masks[rows], known[rows], probe.seed), *test, probe.folds)
            found.append(ratio(hit.sum(0), union.sum(0)))
        return np.stack(found)

    def _null(self, x: Tensor, masks: Tensor, known: Tensor, fitted: Tensor, probe: Any) -> np.ndarray:
        """IoU when the masks of the fitted samples, and of the scored ones, belong to other samples of theirs."""
        rng = np.random.default_rng([probe.seed, 7])
        P, C = probe.permutations, probe.concepts
        sides = [torch.nonzero(s).flatten() for s in (fitted, ~fitted)]
        orders = [[s[torch.from_numpy(rng.permutation(len(s))).to(s.device)] for s in sides] for _ in range(P)]
        together = P if bool(known.all()) else 1  # permuted maps of what is known differ
        found = []
        for start in range(0, P, max(together, 1)):
            part = orders[start : start + together]
            learn, score = (torch.cat([masks[order[i]] for order in part], 1) for i in range(2))
            fit = self._fit(x[sides[0]], learn, known[part[0][0]], probe.seed)
            zero = torch.zeros_like(sides[1])
            hit, union, _ = overlaps(fit, x[sides[1]], score, known[part[0][1]], zero, 1)
            found.append(ratio(hit, union).reshape(len(part), C))
        return np.concatenate(found) if found else np.zeros((0, C))


def header(rows: UInt8[Tensor, "k bytes"]) -> Tensor:
    """Return what the first bytes of each row say."""
    return rows[:, : 8 * HEADER].reshape(-1).view(torch.int64).view(len(rows), HEADER)


def thinned(masks: Tensor, most: int) -> Tensor:
    """Take masks ``[B, C, *places]`` at the centres of the finest grid of at most ``most`` cells."""
    sizes, step = list(masks.shape[2:]), 1
    while sizes and np.prod([-(-s // step) for s in sizes]) > most:
        step += 1
    for axis, length in enumerate(sizes):
        new = -(-length // step)
        centre = ((torch.arange(new, device=masks.device) + 0.5) * length / new).long()
        masks = masks.index_select(axis + 2, centre)
    return masks


def overlaps(
    fit: Net2VecFit, x: Tensor, masks: Tensor, known: Tensor, fold: Tensor, folds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count hits and unions by fold and concept ``[F, C]`` (NaN for a concept without a fit), and places by fold."""
    C = masks.shape[1]
    hit, union = torch.zeros(2, folds, C, dtype=torch.float64, device=x.device)
    places = torch.zeros(folds, dtype=torch.float64, device=x.device)
    for n in range(0, len(x), 16):
        part = slice(n, n + 16)
        M = net2vec_maps(x[part], fit.weights.nan_to_num(), fit.bias.nan_to_num(), known.shape[1:]).flatten(2)
        here = known[part].flatten(1).unsqueeze(1)
        limit = fit.threshold.view(1, -1, 1)
        said, true = M.gt(limit) & here, masks[part].view(M.shape) & here
        hit.index_add_(0, fold[part], (said & true).sum(2).double())
        union.index_add_(0, fold[part], (said | true).sum(2).double())
        places.index_add_(0, fold[part], here.sum((1, 2)).double())
    lost = fit.threshold.isnan()
    return hit.masked_fill(lost, torch.nan).cpu().numpy(), union.cpu().numpy(), places.cpu().numpy()

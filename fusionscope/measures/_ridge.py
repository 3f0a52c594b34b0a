"""Ridge probes in closed form: one pass gathers second moments, one pass scores samples that a probe has not seen."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from ._concepts import ConceptContext, Lattice
from ._moments import Centred, Moments, Part, choose_strength, members, moments, solve
from ._scores import BINS, ProbeScores, edge, histogram, split_ious

Array = np.ndarray
REFITS = 5
NULL_CELLS, NULL_PLACES, REFIT_PLACES = 256, 64, 256
MISFIT = "concepts per location cannot be compared with a tap that has no such locations"


class Scorer(NamedTuple):
    """Weights whose scores have mean 0 and sd 1 where they were fitted: ``z = wᵀx - offset``; one set for each part."""

    weights: Float[Tensor, "parts U K"]
    offset: Float[Tensor, "parts K"]


class Fitted(NamedTuple):
    """One tap's probes.

    ``seen`` were fitted without each fold, ``null`` without each half, ``refit`` (those of all splits) without the side
    that holds each fold.
    """

    seen: Scorer
    null: Scorer
    refit: Scorer
    centre: Float[Tensor, "U"]
    strength: float


class Rows(NamedTuple):
    """One tap's batch for concepts per sample: known rows by fold, padded with zeros (smaller than U x U)."""

    x: Float64[Tensor, "F m U"]
    weight: Float64[Tensor, "F m"]
    masks: Float64[Tensor, "F m C"]


class Counts(NamedTuple):
    """One tap's batch in the second pass: histograms by part, concept (of each permutation, split), mask and bin."""

    seen: Int64[Tensor, "F C two bins"]
    null: Int64[Tensor, "halves PC two bins"]
    refit: Int64[Tensor, "F RC two bins"]


class Ridge:
    """The ``ridge`` estimator of ``ConceptProbe``; holds what one pass hands to the next."""

    passes = 2
    reductions: dict[str, str] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.fitted: list[Fitted | str] = []
        self.sides: list[list[list[int]]] = []

    def states(self) -> dict[str, Tensor]:
        """Return the sums of both passes, without entries: a tap's units are not known yet."""
        axes = {"weight": 1, "total": 2, "square": 3, "sums": 2, "cross": 3, "null_sums": 2, "null_cross": 3}
        sums = {name: torch.zeros((0,) * n, dtype=torch.float64) for name, n in axes.items()}
        return sums | {name: torch.zeros(0, 0, 0, 0, dtype=torch.int64) for name in ("seen", "null", "refit")}

    def reduce(self, probe: Any, tap: int, x: Tensor, context: ConceptContext) -> Any:
        """Reduce one tap's batch to moments; in the second pass to histograms."""
        if not context.places:
            x = x.flatten(2).mean(2) if x.ndim > 2 else x
        elif x.ndim - 2 != len(context.places):
            return MISFIT
        return self._score(probe, tap, x, context) if probe.stage else self._gather(probe, x, context)

    def update(self, probe: Any, tap: int, reduced: Any) -> None:
        """Add one tap's batch."""
        if isinstance(reduced, Counts):
            for name, counts in zip(Counts._fields, reduced, strict=True):
                probe.accumulate(f"{name}_{tap}", counts)
            return
        folds, halves = reduced
        if isinstance(folds, Rows):
            self._add_rows(probe, tap, folds)
            folds = []
        self._add(probe, tap, folds, halves)

    # --- first pass ---

    def _gather(self, probe: Any, features: Tensor, context: ConceptContext) -> tuple[Any, list[Part]]:
        if not context.places:
            return rows_of(features, context, probe.folds), (
                self._null_moments(features, context) if probe.permutations else []
            )
        masks, known, grid = context.cells(tuple(features.shape[2:]))
        x = grid.take(features).flatten(2)
        masks, known = masks.to(x), known.to(x)
        folds = [
            moments(f, x[rows], known[rows], masks[rows].transpose(1, 2).flatten(0, 1))
            for f, rows in members(context.fold, x.device)
        ]
        return folds, self._null_moments(features, context) if probe.permutations else []

    @staticmethod
    def _null_moments(x: Tensor, context: ConceptContext) -> list[Part]:
        """Return the cross moments of features with other samples' masks, and with where those are known, by half."""
        masks, known, grid = context.cells(tuple(x.shape[2:]), NULL_CELLS)
        x = grid.take(x).flatten(2) if context.places else x.unsqueeze(2)
        masks, known = torch.cat([masks, known.unsqueeze(1)], 1).to(x), known.to(x).unsqueeze(1)
        weight = known.sum()
        mean = (x * known).sum((0, 2)) / weight.clamp(min=1e-12)
        x = torch.cat([(x - mean[:, None]) * known, known], 1)  # the last "unit" counts
        P, K, U = len(context.order), masks.shape[1], x.shape[1]
        found = x.new_zeros(2, P, K * U)
        for h, rows in members(context.half, x.device):
            if x.shape[2] == 1:
                shuffled = masks[context.order.to(x.device)[:, rows], :, 0].transpose(1, 2).flatten(0, 1)
                found[h] = (shuffled @ x[rows, :, 0]).view(P, K * U)
                continue
            for block in context.blocks:
                place = torch.full((context.size,), -1, device=x.device)
                place[block] = torch.arange(len(block), device=x.device)
                mine = rows[place[rows] >= 0]
                # All pairs (masks of sample j, features of sample i) once; each permutation is a choice of pairs.
                pairs = masks[block].flatten(0, 1) @ x[mine].flatten(0, 1).T
                pairs = pairs.view(len(block), K, len(mine), U).transpose(1, 2).reshape(-1, K * U)
                chosen = place[context.order[:, mine]] * len(mine) + torch.arange(len(mine), device=x.device)
                found[h] += F.embedding_bag(chosen, pairs, mode="sum")
        found = found.view(2, P * K, U)
        return [Part(h, weight, mean, None, found[h, :, -1], found[h, :, :-1].T) for h in range(2)]

    @staticmethod
    def _add_rows(probe: Any, tap: int, rows: Rows) -> None:
        """Add moments about the origin, in float64; the sum of U x U is passed through once."""
        x, weight, masks = (part.to(probe.device) for part in rows)
        for name, left, right in (("square", x, x), ("cross", x, masks)):
            state = probe.state(name, tap)
            if state.numel():
                state.baddbmm_(left.transpose(1, 2), right)
            else:
                probe.accumulate(f"{name}_{tap}", torch.bmm(left.transpose(1, 2), right))
        for name, value in (("weight", weight.sum(1)), ("total", x.sum(1)), ("sums", masks.sum(1))):
            probe.accumulate(f"{name}_{tap}", value)

    def _add(self, probe: Any, tap: int, folds: list[Part], halves: list[Part]) -> None:
        for part in folds + halves:
            null = "null_" if part.scatter is None else ""
            parts = 2 if null else probe.folds
            mean, sums, weight = part.mean.double(), part.sums.double(), part.weight.double()
            probe.add(f"{null}sums", tap, parts, part.index, sums)
            probe.add(f"{null}cross", tap, parts, part.index, torch.addr(part.cross.double(), mean, sums))
            if part.scatter is not None:
                probe.add("weight", tap, parts, part.index, weight)
                probe.add("total", tap, parts, part.index, weight * mean)
                # In place: a sum of U x U in float64 is what this pass costs most.
                probe.add("square", tap, parts, part.index, part.scatter).addr_(mean, weight * mean)

    # --- between the passes ---

    def advance(self, probe: Any) -> None:
        """Fit all probes of all taps."""
        full = sorted(
            {f for i in range(len(probe.taps)) for f in probe.state("weight", i).nonzero().flatten().tolist()}
        )
        self.sides = half_splits(full, probe.seed)
        self.fitted = [self._fit(probe, i, full) for i in range(len(probe.taps))]

    def _fit(self, probe: Any, tap: int, full: list[int]) -> Fitted | str:
        names = ("weight", "total", "square", "sums", "cross")
        held = Moments(*(probe.state(name, tap) for name in names))
        if not held.weight.numel():
            return MISFIT if int(probe.misfits[tap]) else "no batch was seen"
        if not bool(held.square.isfinite().all()):
            return "features are not finite"
        if len(full) < 2:
            return "samples (or groups) fall into fewer than 2 folds"
        whole = held.over(full)
        if not float(held.weight.sum()):
            return "no place has a known concept"
        if bool((whole.scatter.diagonal() <= 1e-12 * held.square.sum(0).diagonal()).all()):
            return "features do not differ between places"
        strength = choose_strength(held, self.sides[0])
        seen = {f: scorer(held.over([g for g in full if g != f]), whole.mean, strength) for f in full}
        sided = [[scorer(held.over(other), whole.mean, strength) for other in reversed(pair)] for pair in self.sides]
        refit = {}
        for f in full:
            chosen = [fits[0 if f in pair[0] else 1] for fits, pair in zip(sided, self.sides, strict=True)]
            refit[f] = torch.cat([w for w, _ in chosen], 1), torch.cat([offset for _, offset in chosen])
        null = [scorer(whole, whole.mean, strength, self._shuffled(probe, tap, whole, 1 - h)) for h in range(2)]
        some = seen[full[0]], refit[full[0]]  # stand in for folds without samples
        every = range(probe.folds)
        return Fitted(
            stacked([seen.get(f, some[0]) for f in every]),
            stacked(null),
            stacked([refit.get(f, some[1]) for f in every]),
            whole.mean.float(),
            strength,
        )

    def _shuffled(self, probe: Any, tap: int, whole: Centred, half: int) -> Float64[Tensor, "U PC"]:
        """Cross moments with other samples' masks; an unknown place counts as the concept's prevalence."""
        sums, cross = probe.state("null_sums", tap), probe.state("null_cross", tap)
        P, C = probe.permutations, probe.concepts
        if not P:
            return whole.cross.new_zeros(len(whole.mean), 0)
        s, c = sums[half].view(P, C + 1), cross[half].view(-1, P, C + 1)
        s = s[:, :C] - whole.prevalence * s[:, C:]
        c = c[:, :, :C] - whole.prevalence * c[:, :, C:]
        return (c - whole.mean[:, None, None] * s).flatten(1)

    # --- second pass ---

    def _score(self, probe: Any, tap: int, x: Tensor, context: ConceptContext) -> Counts | str:
        fitted = self.fitted[tap]
        if isinstance(fitted, str):
            return fitted
        C, R = probe.concepts, len(self.sides)
        x = x - fitted.centre.to(x).view(-1, *[1] * (x.ndim - 2))
        fold, half, order = (t.to(x.device) for t in (context.fold, context.half, context.order))
        maps, masks, known, grid = self._placed(x, context, probe.places)
        z = mixed(maps, fitted.seen, fold, grid)
        seen = histogram(z, masks, spread(known, C), fold, probe.folds)
        maps, masks, known, grid = self._placed(x, context, min(REFIT_PLACES, probe.places))
        z = mixed(maps, fitted.refit, fold, grid)
        refit = histogram(z, masks.repeat(1, R, 1), spread(known, R * C), fold, probe.folds)
        maps, masks, known, grid = self._placed(x, context, min(NULL_PLACES, probe.places))
        z = mixed(maps, fitted.null, half, grid)
        there = None if known is None else known[order.T].repeat_interleave(C, 1)
        return Counts(seen, histogram(z, masks[order.T].flatten(1, 2), there, half, 2), refit)

    @staticmethod
    def _placed(x: Tensor, context: ConceptContext, most: int) -> tuple[Tensor, Tensor, Tensor | None, Lattice]:
        """Return features, masks and known places (None: all) for scoring on a lattice of at most ``most`` places."""
        masks, known, grid = context.scored(most)
        known = known.to(x.device) >= 0.5
        return on_lattice(x, grid), masks.to(x.device) >= 0.5, None if bool(known.all()) else known, grid

    # --- at the end ---

    def scores(self, probe: Any, tap: int) -> ProbeScores:
        """Return what was found for one tap."""
        C, P = probe.concepts, probe.permutations
        counts = probe.state("seen", tap)
        again = "the data must be read a second time: call advance() and feed it again"
        fitted = self.fitted[tap] if self.fitted else again
        if isinstance(fitted, str) or not counts.numel():
            reason = fitted if isinstance(fitted, str) else "no batch was seen in the second pass"
            return nothing(C, P, reason)
        seen = counts.cpu().numpy().astype(np.float64)
        hit, union, bins = split_ious(seen)
        null = np.zeros((0, C))
        if P:
            halves = probe.state("null", tap).cpu().numpy().astype(np.float64).reshape(2, P, C, 2, BINS)
            null = ratio(*(part.sum(0) for part in split_ious(halves)[:2]))
        per_fold = probe.state("refit", tap).cpu().numpy().astype(np.float64)
        per_fold = per_fold.reshape(probe.folds, -1, C, 2, BINS)
        refit = []
        for r, pair in enumerate(self.sides):
            both = np.stack([per_fold[side, r].sum(0) for side in pair])
            refit.append(ratio(*split_ious(both)[:2]))
        total, sizes = seen.sum((0, 3)), seen[:, 0].sum((1, 2))
        return ProbeScores(
            hit,
            union,
            null,
            np.stack(refit),
            edge(np.median(bins[sizes > 0], axis=0)),
            total[:, 1],
            sizes,
            fitted.strength,
            "",
        )


def half_splits(full: Sequence[int], seed: int) -> list[list[list[int]]]:
    """Return random splits of the folds into two halves."""
    rng = np.random.default_rng([seed, 5])
    splits = []
    for _ in range(REFITS):
        order = rng.permutation(list(full)).tolist()
        cut = len(order) // 2
        splits.append([sorted(order[:cut]), sorted(order[cut:])])
    return splits


def scorer(m: Centred, centre: Tensor, strength: float, cross: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return weights and offsets of the ridge probes fitted on these moments, for features less ``centre``."""
    weights = solve(m, m.cross if cross is None else cross, strength)
    return weights.float(), ((m.mean - centre) @ weights).float()


def stacked(probes: Sequence[tuple[Tensor, Tensor]]) -> Scorer:
    """Return the probes of all parts together."""
    return Scorer(torch.stack([w for w, _ in probes]), torch.stack([offset for _, offset in probes]))


def rows_of(x: Float[Tensor, "B U"], context: ConceptContext, folds: int) -> Rows:
    """Return the known samples by fold."""
    if "slots" not in context.grids:
        fold = context.fold
        slot = (fold[:, None] == fold).long().tril(-1).sum(1)
        weight = x.new_zeros(folds, int(slot.max()) + 1, dtype=torch.float64)
        weight[fold, slot] = context.known.to(weight)
        masks = weight.new_zeros(*weight.shape, context.masks.shape[1])
        masks[fold, slot] = context.masks.to(masks)
        context.grids["slots"] = fold.to(x.device), slot.to(x.device), weight, masks
    fold, slot, weight, masks = context.grids["slots"]
    rows = weight.new_zeros(*weight.shape, x.shape[1])
    rows[fold, slot] = x.double() * context.known.to(rows)[:, None]
    return Rows(rows, weight, masks)


def on_lattice(x: Tensor, grid: Lattice) -> Float[Tensor, "b U *cells"]:
    """Interpolate features to the lattice where that makes mixing cheaper; mixing and interpolating commute."""
    if not grid.size:
        return x.unsqueeze(2)
    points = int(np.prod([len(grid.along(a)) for a in range(len(grid.size))]))
    return grid.interpolate(x) if points < x[0, 0].numel() else x


def mixed(maps: Tensor, probes: Scorer, part: Int[Tensor, "b"], grid: Lattice) -> Float[Tensor, "b K n"]:
    """Mix the units to concept maps with the probes of each sample's part, then interpolate to the lattice's places."""
    weights, offset = probes.weights.to(maps), probes.offset.to(maps)[part]
    if not grid.size:
        z = (maps[..., 0] @ weights.transpose(0, 1).flatten(1)).unflatten(1, weights.shape[::2])
        return (z[torch.arange(len(z), device=z.device), part] - offset).unsqueeze(2)
    z = maps.new_empty(len(maps), weights.shape[2], *maps.shape[2:])
    for f, rows in members(part, maps.device):
        z[rows] = torch.einsum("uk,bu...->bk...", weights[f], maps[rows])
    z -= offset.view(*offset.shape, *[1] * (z.ndim - 2))
    wanted = [len(grid.along(a)) for a in range(len(grid.size))]
    return (z if list(z.shape[2:]) == wanted else grid.interpolate(z)).flatten(2)


def spread(known: Tensor | None, concepts: int) -> Bool[Tensor, "b K n"] | None:
    """Repeat for each concept where its mask is known."""
    return None if known is None else known.unsqueeze(1).expand(-1, concepts, -1)


def ratio(hit: Array, union: Array) -> Array:
    """Return ``hit / union``, NaN where the union is empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, hit / union, np.nan)


def nothing(concepts: int, permutations: int, reason: str) -> ProbeScores:
    """Return scores that say why there are none."""
    none = np.full((1, concepts), np.nan)
    return ProbeScores(
        none,
        none,
        np.full((permutations, concepts), np.nan),
        np.full((REFITS, 2, concepts), np.nan),
        none[0],
        np.zeros(concepts),
        np.zeros(1),
        float("nan"),
        reason,
    )

"""Concept probes the slow way: rows of all samples in memory, one normal equation per fold, thresholds by search."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from fusionscope.measures._moments import STRENGTHS
from fusionscope.measures._ridge import NULL_CELLS, NULL_PLACES, REFIT_PLACES, half_splits
from fusionscope.measures._scores import BINS, edge

EDGES = np.concatenate([[-np.inf], edge(np.arange(1, BINS))])


def area(masks, size):
    """Average over area where the grid is coarser, nearest where it is finer: for whole ratios, with no library."""
    for axis, length in enumerate(size):
        old = masks.shape[axis + 2]
        where = (np.arange(length)[:, None] + 0.5) * old / length
        if length >= old:
            masks = np.take(masks, where[:, 0].astype(int), axis + 2)
        else:
            parts = [
                np.take(masks, range(i * old // length, -(-(i + 1) * old // length)), axis + 2).mean(axis + 2)
                for i in range(length)
            ]
            masks = np.stack(parts, axis + 2)
    return masks


def picked(x, lattice):
    """The lattice's places of a map, flat."""
    for axis in range(len(lattice.size)):
        x = np.take(x, lattice.along(axis).numpy(), x.ndim - len(lattice.size) + axis)
    return x.reshape(*x.shape[:2], int(np.prod(x.shape[2:])))


def upsampled(z, lattice):
    """Bilinear maps at the masks' size, then the lattice's places."""
    if not lattice.size:
        return z.reshape(*z.shape[:2], 1)
    mode = "linear" if len(lattice.size) == 1 else "bilinear"
    whole = F.interpolate(torch.from_numpy(z), lattice.size, mode=mode, align_corners=False).numpy()
    return picked(whole, lattice)


def ridge(X, w, Y, strength, metric=None):
    """Weights and mean of one ridge regression per column, scaled to unit variance of the scores."""
    rows, weight = metric or (X, w)
    mean = (rows * weight[:, None]).sum(0) / weight.sum()
    S = ((rows - mean) * weight[:, None]).T @ (rows - mean)
    cross = (X - mean).T @ Y
    W = np.linalg.solve(S + strength * np.trace(S) / len(S) * np.eye(len(S)), cross)
    power = (W * (S @ W)).sum(0) / weight.sum()
    return np.where(power > 1e-18, W / np.sqrt(np.maximum(power, 1e-18)), 0.0), mean


def best(z, mask, known):
    """The lowest of the best thresholds."""
    return EDGES[np.argmax([iou(z, mask, known, t) for t in EDGES])]


def counts(z, mask, known, t):
    said, m = (z >= t)[known], mask[known]
    return (said & m).sum(), (said | m).sum()


def iou(z, mask, known, t):
    hit, union = counts(z, mask, known, t)
    return hit / union if union else -1.0


def naive_concepts(metric, features, contexts):
    """Return what ``ConceptProbe.compute`` should, by tap, apart from bounds and intervals."""
    C, out = metric.concepts, {}
    folds = np.concatenate([c.fold.numpy() for c in contexts])
    halves = np.concatenate([c.half.numpy() for c in contexts])
    starts = np.cumsum([0, *(c.size for c in contexts)])[:-1]
    orders = np.concatenate([c.order.numpy() + s for c, s in zip(contexts, starts, strict=True)], 1)
    full = sorted(set(folds.tolist()))
    sides = half_splits(full, metric.seed)

    def at_grid(most, size):
        """Masks with where they are known, on a tap's grid."""
        both = [np.concatenate([c.masks.double().numpy(), c.known.double().numpy()[:, None]], 1) for c in contexts]
        if not contexts[0].places:
            return np.concatenate(both)[:, :, None]
        return np.concatenate(
            [picked(area(m, size), c.lattice(size, most)) for m, c in zip(both, contexts, strict=True)]
        )

    def at_places(most):
        got = [c.scored(most) for c in contexts]
        return np.concatenate([g[0].numpy() >= 0.5 for g in got]), np.concatenate([g[1].numpy() >= 0.5 for g in got])

    for tap in metric.taps:
        maps = [f[tap].double().numpy() for f in features]
        if not contexts[0].places:
            maps = [m.reshape(*m.shape[:2], -1).mean(2) for m in maps]
        size = maps[0].shape[2:]
        U = maps[0].shape[1]

        def table(most, size=size, maps=maps, U=U):
            """Rows of features, weights, masks and the sample of each row."""
            grid = at_grid(most, size)
            x = np.concatenate(
                [
                    picked(m, c.lattice(size, most)) if size else m[:, :, None]
                    for m, c in zip(maps, contexts, strict=True)
                ]
            )
            sample = np.repeat(np.arange(len(x)), x.shape[2])
            return x.transpose(0, 2, 1).reshape(-1, U), grid, sample

        X, grid, sample = table(1024)
        w, Y = grid[:, -1].reshape(-1), grid[:, :-1].transpose(0, 2, 1).reshape(-1, C)
        fold = folds[sample]
        p = Y.sum(0) / w.sum()

        def fitted(keep, strength, X=X, w=w, Y=Y):
            mean_y = Y[keep].sum(0) / w[keep].sum()
            return ridge(X[keep], w[keep], Y[keep] - w[keep, None] * mean_y, strength)

        def error(strength, X=X, w=w, Y=Y, fold=fold, U=U):
            total = 0.0
            for fit, test in (sides[0], sides[0][::-1]):
                keep, held = np.isin(fold, fit), np.isin(fold, test)
                mean_x = (X[keep] * w[keep, None]).sum(0) / w[keep].sum()
                S = ((X[keep] - mean_x) * w[keep, None]).T @ (X[keep] - mean_x)
                W = np.linalg.solve(S + strength * np.trace(S) / U * np.eye(U), (X[keep] - mean_x).T @ Y[keep])
                q = Y[held].sum(0) / w[held].sum()
                mean_h = (X[held] * w[held, None]).sum(0) / w[held].sum()
                guess = (X[held] - mean_h) @ W
                lost = (w[held, None] * guess**2).sum(0) - 2 * (guess * (Y[held] - w[held, None] * q)).sum(0)
                variance = w[held].sum() * q * (1 - q)
                total += (lost[variance > 0] / variance[variance > 0]).sum()
            return total

        strength = min(STRENGTHS, key=error)

        def scored(W, mean, rows, most, size=size, maps=maps):
            """Scores at the places of the masks, of some samples."""
            parts = []
            for m, c, s in zip(maps, contexts, starts, strict=True):
                mine = [r - s for r in rows if s <= r < s + c.size]
                if not mine:
                    continue
                shape = (1, -1, *[1] * len(size))
                z = np.einsum("uk,bu...->bk...", W, m[mine] - mean.reshape(shape))
                parts.append(upsampled(z, c.lattice(c.places, most)))
            return np.concatenate(parts)

        masks, known = at_places(metric.places)
        z = np.zeros(masks.shape)
        for f in full:
            rows = np.nonzero(folds == f)[0]
            z[rows] = scored(*fitted(fold != f, strength), rows, metric.places)
        hit, union = np.zeros((len(full), C)), np.zeros((len(full), C))
        for i, f in enumerate(full):
            for c in range(C):
                mine, rest = folds == f, folds != f
                t = best(z[rest, c], masks[rest, c], known[rest])
                hit[i, c], union[i, c] = counts(z[mine, c], masks[mine, c], known[mine], t)

        masks_r, known_r = at_places(min(REFIT_PLACES, metric.places))
        refit = np.zeros((len(sides), C))
        for r, pair in enumerate(sides):
            z_r = np.zeros(masks_r.shape)
            for mine, other in (pair, pair[::-1]):
                rows = np.nonzero(np.isin(folds, mine))[0]
                z_r[rows] = scored(*fitted(np.isin(fold, other), strength), rows, min(REFIT_PLACES, metric.places))
            for c in range(C):
                one, two = (np.isin(folds, side) for side in pair)
                found = [
                    iou(z_r[a, c], masks_r[a, c], known_r[a], best(z_r[b, c], masks_r[b, c], known_r[b]))
                    for a, b in ((one, two), (two, one))
                ]
                refit[r, c] = (found[0] - found[1]) / 2

        X_n, grid_n, sample_n = table(NULL_CELLS)
        masks_n, known_n = at_places(min(NULL_PLACES, metric.places))
        null = np.zeros((len(orders), C))
        for i, order in enumerate(orders):
            other = grid_n[order].transpose(0, 2, 1).reshape(-1, C + 1)
            own = grid_n[:, -1].reshape(-1)
            # What another sample's mask does not tell counts as the prevalence: it adds nothing.
            told = own[:, None] * (other[:, :C] - p * other[:, C:])
            z_n = np.zeros(masks_n.shape)
            for h in range(2):
                rows = np.nonzero(halves == h)[0]
                keep = halves[sample_n] == 1 - h
                W, mean = ridge(X_n[keep], None, told[keep], strength, (X, w))
                z_n[rows] = scored(W, mean, rows, min(NULL_PLACES, metric.places))
            mine, there = masks_n[order], known_n[order]
            for c in range(C):
                sums = np.zeros(2)
                for h in range(2):
                    a, b = halves == h, halves != h
                    sums += counts(z_n[a, c], mine[a, c], there[a], best(z_n[b, c], mine[b, c], there[b]))
                null[i, c] = sums[0] / sums[1]

        base = null.mean(0)
        whole = hit.sum(0) / union.sum(0)
        without = (hit.sum(0) - hit) / (union.sum(0) - union)
        out |= {
            f"{tap}.iou": whole,
            f"{tap}.null_mean": base,
            f"{tap}.score": (whole - base) / (1 - base),
            f"{tap}.without": (without - base) / (1 - base),
            f"{tap}.refit": refit / (1 - base),
            f"{tap}.strength": np.asarray(strength),
        }
    return out

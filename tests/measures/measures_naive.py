"""Slow, obvious versions of every instrument: loops over samples, classes and permutations, in float64."""

from __future__ import annotations

import math
from itertools import product

import numpy as np


def hsic1(K, L):
    """The published formula, term by term."""
    n = len(K)
    K, L = K.copy(), L.copy()
    np.fill_diagonal(K, 0)
    np.fill_diagonal(L, 0)
    trace = sum(K[i, j] * L[j, i] for i in range(n) for j in range(n))
    middle = sum(K[i, j] * L[j, k] for i in range(n) for j in range(n) for k in range(n))
    return (trace + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * middle) / (n * (n - 3))


def gram(x):
    x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    x = x - x.mean(0)
    return x @ x.T


def rbf(x, bandwidth=0.5):
    x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    return np.exp(-(d**2) / (2 * (bandwidth * np.median(d[np.triu_indices(len(x), 1)])) ** 2))


def ratio(cross):
    own = np.sqrt(np.diagonal(cross))
    return cross / own[:, None] / own


def cka(taps, batches, orders, folds, alpha, kernel=gram, square=True):
    """Matrix, interval and null; ``batches`` are lists of features, ``orders`` the permutations of each batch."""
    from scipy.stats import t

    L, P = len(taps), len(orders[0])
    parts, chance, sizes = np.zeros((folds, L, L)), np.zeros((P, L, L)), np.zeros(folds)
    for b, features in enumerate(batches):
        K = [kernel(features[tap]) for tap in taps]
        n = len(K[0])
        sizes[b % folds] += n
        for i, j in product(range(L), range(L)):
            parts[b % folds, i, j] += n * hsic1(K[i], K[j])
            for p, order in enumerate(orders[b]):
                low, high = (min(i, j), max(i, j)) if square else (i, j)
                chance[p, i, j] += n * hsic1(K[low], K[high][np.ix_(order, order)])
    whole = parts.sum(0)
    matrix = ratio(whole)
    used = [f for f in range(folds) if sizes[f]]
    pseudo, h = [], []
    for f in used:
        h.append(sizes.sum() / sizes[f])
        pseudo.append(h[-1] * matrix - (h[-1] - 1) * ratio(whole - parts[f]))
    mean = sum(p / w for p, w in zip(pseudo, h, strict=True))
    se = np.sqrt(sum((p - mean) ** 2 / (w - 1) for p, w in zip(pseudo, h, strict=True)) / len(used))
    width = t.ppf(1 - alpha / 2, len(used) - 1) * se
    own = np.sqrt(np.diagonal(whole))
    chance = chance / own[:, None] / own
    # Not square: the cells of the rows a, b, c against the columns c, b.
    cells = [(i, j) for i in range(L) for j in (range(i + 1, L) if square else (2, 1)) if i != j]
    largest = sorted(max(c[cell] for cell in cells) for c in chance)
    bound = largest[math.ceil((1 - alpha) * (P + 1) - 1e-9) - 1]
    return {
        "matrix": matrix,
        "low": matrix - width,
        "high": matrix + width,
        "null_mean": chance.mean(0),
        "null_high": np.full((L, L), bound),
    }


def pure(labels, shape, classes, purity):
    """Label of each cell of a coarser or equal grid, -1 where no class covers enough of it; labels ``[H, W]``."""
    H, W = labels.shape
    out = np.full(shape, -1)
    for r, c in product(range(shape[0]), range(shape[1])):
        if shape[0] > H or shape[1] > W:
            out[r, c] = labels[int((r + 0.5) * H / shape[0]), int((c + 0.5) * W / shape[1])]
            continue
        top, bottom = r * H // shape[0], -(-(r + 1) * H // shape[0])
        left, right = c * W // shape[1], -(-(c + 1) * W // shape[1])
        window = labels[top:bottom, left:right]
        for k in range(classes):
            if (window == k).mean() >= purity - 1e-9:
                out[r, c] = k
    return out


def shares(rows, labels, classes):
    """Eta squared and epsilon squared ``[1 + classes, U]`` of rows ``[n, U]``."""
    keep = labels >= 0
    rows, labels = np.asarray(rows, dtype=np.float64)[keep], labels[keep]
    eta, eps = np.full((2, classes + 1, rows.shape[1]), np.nan)
    for cell in range(classes + 1):
        groups = labels if cell == 0 else (labels == cell - 1).astype(int)
        names = np.unique(groups)
        if len(names) < 2 or len(rows) <= len(names):
            continue
        for u in range(rows.shape[1]):
            x = rows[:, u]
            total = ((x - x.mean()) ** 2).sum()
            if total <= 1e-12 * (x**2).sum():
                continue
            within = sum(((x[groups == g] - x[groups == g].mean()) ** 2).sum() for g in names)
            df = len(names) - 1
            eta[cell, u] = (total - within) / total
            eps[cell, u] = (total - within - df * within / (len(x) - df - 1)) / total
    return eta, eps


def eta(taps, batches, contexts, classes, purity):
    """Per tap: both shares of the true labels and the null's mean; batches are (features, target)."""
    out, grids = {}, {}
    for tap in taps:
        values = []
        for p in range(len(contexts[0].order)):
            rows, labels = [], []
            for number, ((features, target), context) in enumerate(zip(batches, contexts, strict=True)):
                x = np.asarray(features[tap], dtype=np.float64)
                source = np.arange(len(x))
                if target.ndim == 1:
                    source = context.order[p].numpy()
                for block in context.blocks:
                    b = len(block.members)
                    source[block.members.numpy()] = block.members.numpy()[(block.pairs[p].numpy() - np.arange(b)) // b]
                for i in range(len(x)):
                    label = np.asarray(target)[source[i]]
                    if target.ndim == 1:
                        rows.append(x[i].reshape(x.shape[1], -1).mean(1)[None])
                        labels.append(label[None])
                    else:
                        label = label[None] if label.ndim == 1 else label
                        grid = (1, x.shape[2]) if x.ndim == 3 else x.shape[2:]
                        rows.append(x[i].reshape(x.shape[1], -1).T)
                        key = (number, source[i], grid)
                        if key not in grids:
                            grids[key] = pure(label, grid, classes, purity).ravel()
                        labels.append(grids[key])
            values.append(shares(np.concatenate(rows), np.concatenate(labels), classes))
        best = np.array([np.nanmax(np.where(np.isnan(v[1]), -np.inf, v[1]), 1) for v in values])
        out[f"{tap}.eta2"], out[f"{tap}.epsilon2"] = values[0]
        out[f"{tap}.best_epsilon2"] = best[0]
        out[f"{tap}.null_mean"] = best[1:].mean(0)
    return out


def score(name, output, target, classes):
    """Accuracy, mIoU or R² of everything at once, by scikit-learn."""
    from sklearn.metrics import accuracy_score, jaccard_score, r2_score

    if name == "r2":
        return r2_score(target, output)
    guess, target = np.asarray(output).argmax(1).ravel(), np.asarray(target).ravel()
    guess, target = guess[target >= 0], target[target >= 0]
    if name == "accuracy":
        return accuracy_score(target, guess)
    return jaccard_score(target, guess, average="macro", labels=np.union1d(target, guess))


def exceeded(values, share, bins):
    """The value that a share exceeds, from a histogram with a cell for the minimum alone, bin by bin."""
    low, high = values.min(), values.max()
    width = (high - low) / bins
    cell = np.ceil((values - low) / width)
    wanted = share * len(values)
    for k in range(bins, 0, -1):
        here, beyond = (cell == k).sum(), (cell > k).sum()
        if here + beyond > wanted:
            return low + width * (k - (wanted - beyond) / here)
    return low


def along(old, new):
    """Matrix ``[new, old]`` of linear interpolation without aligned corners."""
    out = np.zeros((new, old))
    for o in range(new):
        place = max((o + 0.5) * old / new - 0.5, 0)
        below = min(int(place), old - 1)
        above = min(below + 1, old - 1)
        out[o, below] += 1 - (place - below)
        out[o, above] += place - below
    return out


def enlarged(maps, size):
    """Maps ``[U, *grid]`` at another size."""
    for axis, length in enumerate(size):
        maps = np.moveaxis(np.tensordot(along(maps.shape[axis + 1], length), maps, (1, axis + 1)), 0, axis + 1)
    return maps


def detectors(taps, batches, contexts, concepts, quantile, bins):
    """Per tap: thresholds, IoU of each concept and unit, and the null's mean of the best unit."""
    out = {}
    for tap in taps:
        maps = [np.asarray(x, dtype=np.float64) for features, _ in batches for x in features[tap]]
        labels = [np.asarray(y) for _, target in batches for y in target]
        if not labels[0].ndim:
            maps = [x.reshape(len(x), -1).mean(1) for x in maps]
        units = range(len(maps[0]))
        limit = np.array([exceeded(np.concatenate([x[u].ravel() for x in maps]), quantile, bins) for u in units])
        on = [enlarged(x, y.shape) > limit.reshape(-1, *[1] * y.ndim) for x, y in zip(maps, labels, strict=True)]
        sparse, shuffled, start = [], [[] for _ in range(len(contexts[0].labels.order) - 1)], 0
        for context, (_, target) in zip(contexts, batches, strict=True):
            grid, n = context.grid, len(target)
            places = tuple(slice(first, None, grid.step) for first in grid.start)
            sparse += [on[start + i][(slice(None), *places)] for i in range(n)]
            for p, found in enumerate(shuffled, 1):
                source = context.labels.order[p].numpy().copy()
                for block in context.labels.blocks:
                    b, members = len(block.members), block.members.numpy()
                    source[members] = members[(block.pairs[p].numpy() - np.arange(b)) // b]
                found += [labels[start + j][places] for j in source]
            start += n
        iou = overlap(on, labels, concepts)
        null = [overlap(sparse, other, concepts).max(1) for other in shuffled]
        out |= {f"{tap}.threshold": limit, f"{tap}.iou": iou, f"{tap}.label": iou.argmax(0)}
        out |= {f"{tap}.best_iou": iou.max(1), f"{tap}.null_mean": np.mean(null, 0)}
    return out


def overlap(on, labels, concepts):
    """Set IoU ``[C, U]`` on labelled places, sample by sample."""
    hit, union = np.zeros((2, concepts, len(on[0])))
    for x, y in zip(on, labels, strict=True):
        for c, u in product(range(concepts), range(len(x))):
            hit[c, u] += (x[u] & (y == c)).sum()
            union[c, u] += ((x[u] | (y == c)) & (y >= 0)).sum()
    return hit / union


def net2vec(taps, batches, contexts, probe, bins):
    """Per tap: IoU of a fit on the first 70 % of the folds, on the rest, and the mean of the null, fit by fit."""
    import torch

    from fusionscope.measures._samples import sample_hash
    from fusionscope.measures.functional import net2vec_fit, net2vec_maps

    method, out = probe.method, {}
    fold = torch.cat([context.fold for context in contexts]).numpy()
    keys = torch.cat([sample_hash(context.size, i, probe.seed) for i, context in enumerate(contexts)]).numpy()
    chosen = sorted(range(len(keys)), key=lambda i: keys[i])[: method.keep]
    labels = np.concatenate([target.numpy() for _, target in batches])
    for tap in taps:
        x = np.concatenate([features[tap].double().numpy() for features, _ in batches])
        if labels.ndim == 1:
            x = x.reshape(*x.shape[:2], -1).mean(2)
        if not method.raw:
            limit = [exceeded(x[:, u].ravel(), method.quantile, bins) for u in range(x.shape[1])]
            x = x > np.reshape(limit, (-1, *[1] * (x.ndim - 2)))
        kept, y, f = torch.tensor(x[chosen]), torch.tensor(labels[chosen]), fold[chosen]
        kept = kept if kept.dtype == torch.bool else kept.float()
        full = sorted(set(f))
        learn = [i for i in range(len(f)) if f[i] in full[: round(0.7 * len(full))]]
        score = [i for i in range(len(f)) if i not in learn]

        def iou(masks_of, kept=kept, y=y, learn=learn, score=score):
            masks = torch.stack([y == c for c in range(probe.concepts)], 1)
            a, b = masks_of
            settings = dict(steps=method.steps, epochs=method.epochs, seed=probe.seed)
            fit = net2vec_fit(kept[learn], masks[a], y[a] >= 0, method.variant, **settings)
            M = net2vec_maps(kept[score], fit.weights, fit.bias, y.shape[1:])
            on = M.gt(fit.threshold.view(-1, *[1] * (y.ndim - 1))).numpy()
            return overlap(list(on), [y[j].numpy() for j in b], probe.concepts), fit.threshold.numpy()

        own, limit = iou((learn, score))
        rng = np.random.default_rng([probe.seed, 7])
        null = []
        for _ in range(probe.permutations):
            pair = [[side[j] for j in rng.permutation(len(side))] for side in (learn, score)]
            null.append(np.diagonal(iou(pair)[0]))
        out |= {f"{tap}.iou": np.diagonal(own), f"{tap}.threshold": limit, f"{tap}.null_mean": np.mean(null, 0)}
    return out


def unit_statistics(taps, batches, classes, purity):
    """Per tap: statistics of all activations, selectivity of class means, and both ranks by singular values."""
    out = {}
    for tap in taps:
        maps = [np.asarray(x, dtype=np.float64) for features, _ in batches for x in features[tap]]
        labels = [np.asarray(y) for _, target in batches for y in target]
        v = np.concatenate([x.reshape(len(x), -1) for x in maps], 1)
        pooled = np.stack([x.reshape(len(x), -1).mean(1) for x in maps])
        low, high = v.min(1), v.max(1)
        margin = 0.01 * (high - low)
        found = {"mean": v.mean(1), "sd": v.std(1), "smallest": low, "largest": high, "zeros": (v == 0).mean(1)}
        found["near_smallest"] = (v <= (low + margin)[:, None]).mean(1)
        found["near_largest"] = (v >= (high - margin)[:, None]).mean(1)
        found["dead"] = (high == low) | (high <= 0)
        by_class = [[] for _ in range(classes)]
        for x, y, m in zip(maps, labels, pooled, strict=True):
            if not y.ndim:
                by_class[y] += [m] if y >= 0 else []
                continue
            y = y[None] if y.ndim == 1 else y
            x = x[:, None] if x.ndim == 2 else x
            cells = pure(y, x.shape[1:], classes, purity)
            for c in range(classes):
                by_class[c] += list(x[:, cells == c].T)
        means = np.stack([np.mean(rows, 0) for rows in by_class if rows])
        top = means.max(0)
        rest = (means.sum(0) - top) / (len(means) - 1)
        found["selectivity"] = np.where((means < 0).any(0), np.nan, (top - rest) / (top + rest + 1e-7))
        s = np.linalg.svd(pooled - pooled.mean(0), compute_uv=False)
        p = s[s > 1e-9 * s[0]] / s[s > 1e-9 * s[0]].sum()
        found["effective_rank"] = np.exp(-(p * np.log(p)).sum())
        found["participation_ratio"] = (s**2).sum() ** 2 / (s**4).sum()
        out |= {f"{tap}.{k}": value for k, value in found.items()}
    return out

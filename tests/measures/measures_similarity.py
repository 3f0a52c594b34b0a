"""Cases of the instruments that compare taps, with slow references."""

from __future__ import annotations

from itertools import combinations

import measures_naive as naive
import numpy as np
import torch
from scipy.linalg import orth, svdvals
from scipy.spatial.distance import cdist, pdist
from scipy.stats import pearsonr, spearmanr, t

from fusionscope.measures import CKA, ChannelCorrelation, PairwiseSimilarity
from fusionscope.measures.functional import family_bound

SIZES = (7, 11, 5, 13)
GRID = (2, 5)
TAPS = ("a", "b", "c")
MEASURES = ("procrustes", "svcca", "rsa", "mutual_knn", "cka_rbf")


def map_batches(sizes=SIZES, change=lambda x: x, flat=()):
    """Maps of other sizes that share factors; "a" and "b" have equally many channels."""
    g = torch.Generator().manual_seed(0)
    mix = {
        "a": torch.randn(2, 5, generator=g),
        "b": torch.randn(2, 5, generator=g),
        "c": torch.randn(2, 7, generator=g),
    }
    shapes = {"a": (11, 13), "b": (3, 7), "c": (5, 3)}
    out = []
    for n in sizes:
        z, features = torch.randn(n, 2, generator=g), {}
        for tap, (h, w) in shapes.items():
            x = (z @ mix[tap])[:, :, None, None] + 3 * torch.randn(n, mix[tap].shape[1], h, w, generator=g) + 2
            features[tap] = x.mean((2, 3)) if tap in flat else x
        features["a"] = change(features["a"])
        out.append((features, None))
    return out


def rows_of(x, grid):
    """Rows of one batch, cell by cell."""
    x = np.asarray(x, dtype=np.float64)
    if not grid:
        return x.reshape(*x.shape[:2], -1).mean(2)
    (H, W), (h, w) = x.shape[2:], grid

    def span(i, size, cells):
        if size < cells:
            near = int((i + 0.5) * size / cells)
            return slice(near, near + 1)
        return slice(int(np.floor(i * size / cells)), int(np.ceil((i + 1) * size / cells)))

    cells = [x[:, :, span(i, H, h), span(j, W, w)].mean((2, 3)) for i in range(h) for j in range(w)]
    return np.stack(cells, 1).reshape(-1, x.shape[1])


def gather(batches, tap, grid=()):
    return np.concatenate([rows_of(f[tap], grid) for f, _ in batches])


def hsic(K, L):
    """Song's unbiased formula by matrix products."""
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    one = np.ones(n)
    total = np.trace(K @ L) + K.sum() * L.sum() / (n - 1) / (n - 2) - 2 / (n - 2) * one @ K @ L @ one
    return total / n / (n - 3)


def whole_reference(metric, batches):
    kernels = [naive.gram(gather(batches, tap, metric.grid)) for tap in TAPS]
    n = len(kernels[0])
    biased = np.array([[(K * L).sum() for L in kernels] for K in kernels])
    trace, own = np.array([np.trace(K) for K in kernels]), np.sqrt(biased.diagonal())
    return {
        "matrix": naive.ratio(np.array([[hsic(K, L) for L in kernels] for K in kernels])),
        "biased": naive.ratio(biased),
        "biased_null": np.outer(trace, trace) / (n - 1) / np.outer(own, own),
        "rows": np.array(n),
    }


def whole_case(Case, feed, cast, fields, rows):
    def make(**kwargs):
        return CKA(TAPS, rows=rows, grid=GRID, **kwargs)

    nan = {
        "constant": (lambda: map_batches(change=lambda x: x * 0 + 0.3), "matrix", "do not differ"),
        "NaN": (lambda: map_batches(change=lambda x: x * torch.nan), "matrix", "not finite in 4 of 4"),
        "infinite": (lambda: map_batches(change=lambda x: x / 0), "biased", "not finite"),
        "one sample": (lambda: map_batches(sizes=(1,), change=lambda x: x[:, :, :1, :1]), "matrix", "do not differ"),
    }
    if rows == "image":
        nan["three samples"] = (lambda: map_batches(sizes=(2, 1)), "matrix", "fewer than 4 rows")
    else:
        nan["vectors"] = (lambda: map_batches(flat=("a",)), "matrix", "location axes do not match the grid")
    return Case(f"whole-{rows}", make, map_batches, feed, lambda r: fields(r), whole_reference, cast, nan)


def share(measure, x, y, metric, order):
    """One measure of two sets of samples, the second in another order."""
    y = y[order]
    if measure == "procrustes":
        x, y = x - x.mean(0), y - y.mean(0)
        return svdvals(x.T @ y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    if measure == "svcca":
        bases = []
        for side in (x - x.mean(0), y - y.mean(0)):
            values, vectors = np.linalg.eigh(side.T @ side)
            kept = np.cumsum(values[::-1]) / values.sum()
            bases.append(orth(side @ vectors[:, ::-1][:, : int(np.searchsorted(kept, metric.keep)) + 1]))
        return svdvals(bases[0].T @ bases[1]).mean()
    if measure == "rsa":
        return spearmanr(pdist(x, "correlation"), pdist(y, "correlation"))[0]
    if measure == "mutual_knn":
        near = [np.argsort(cdist(s, s, "cosine") + np.diag([9] * len(s)), 1)[:, : metric.k] for s in (x, y)]
        return np.mean([len(set(a) & set(b)) / metric.k for a, b in zip(*near, strict=True)])
    K, L = naive.rbf(x, metric.bandwidth), naive.rbf(y, metric.bandwidth)
    return hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))


def pairwise_reference(metric, batches):
    keys = np.concatenate([sample_keys(metric, len(f["a"]), i) for i, (f, _) in enumerate(batches)])
    chosen = np.argsort(keys)[: metric.samples]
    sides = [gather(batches, tap)[chosen] for tap in TAPS]
    rng = np.random.default_rng(metric.seed)
    orders = [rng.permutation(len(chosen)) for _ in range(metric.permutations)]
    out = {"used": np.array(len(chosen)), "samples": np.array(len(keys))}
    same = np.arange(len(chosen))
    for measure in MEASURES:
        out[f"{measure}.matrix"] = np.array([[share(measure, x, y, metric, same) for y in sides] for x in sides])
        pairs = list(combinations(range(3), 2))
        null = np.array([[share(measure, sides[i], sides[j], metric, o) for i, j in pairs] for o in orders])
        z, mean, sd = family_bound(null, metric.alpha)
        for key, value in (("null_mean", mean), ("null_high", mean + z * sd)):
            full = np.full((3, 3), np.nan)
            for (i, j), v in zip(pairs, value, strict=True):
                full[i, j] = full[j, i] = v
            out[f"{measure}.{key}"] = full
    return out


def sample_keys(metric, size, index):
    """Every sample's hash, read from an instrument that has seen nothing and would keep all of them."""
    context = PairwiseSimilarity(TAPS, samples=10**6, seed=metric.seed).context(size, None, index)
    out = np.zeros(size, dtype=np.int64)
    out[context.picked.numpy()] = context.keys.numpy()
    return out


def pairwise_case(Case, feed, cast, fields):
    def make(**kwargs):
        return PairwiseSimilarity(TAPS, MEASURES, samples=23, k=3, permutations=19, **kwargs)

    def read(result):
        return {k: v for k, v in fields(result).items()} | {
            f"{m}.{k}": v for m, part in result.measures.items() for k, v in fields(part).items()
        }

    nan = {
        "constant": (lambda: map_batches(change=lambda x: x * 0 + 0.3), "rsa.matrix", "do not differ"),
        "NaN": (lambda: map_batches(change=lambda x: x * torch.nan), "procrustes.matrix", "not finite"),
        "infinite": (lambda: map_batches(change=lambda x: x / 0), "cka_rbf.null_high", "not finite"),
        "two features": (lambda: map_batches(change=lambda x: x[:, :2]), "rsa.matrix", "fewer than 3 units"),
        "four samples": (lambda: map_batches(sizes=(4,)), "mutual_knn.matrix", "fewer than k \\+ 2"),
        "few samples": (lambda: map_batches(sizes=(7,)), "svcca.matrix", "meet in any case"),
        "one sample": (lambda: map_batches(sizes=(1,)), "procrustes.matrix", "do not differ"),
    }
    return Case("pairwise", make, map_batches, feed, read, pairwise_reference, cast, nan)


def channel_reference(metric, batches):
    x, y = (gather(batches, tap, metric.grid) for tap in "ab")
    r = np.array([pearsonr(x[:, u], y[:, u])[0] for u in range(x.shape[1])])
    high = np.nan
    if not metric.grid:
        # Pearson's r of two independent normal channels, by its t statistic.
        limit, n = t.isf(0.05 / 2 / len(r), len(x) - 2), len(x)
        high = limit / np.sqrt(n - 2 + limit**2)
    return {"ab.correlation": r, "ab.mean": r.mean(), "ab.null_high": np.array(high)}


def channel_case(Case, feed, cast, fields, rows):
    def make(**kwargs):
        return ChannelCorrelation([("a", "b")], rows=rows, grid=GRID, **kwargs)

    def batches(**kwargs):
        return [({k: f[k] for k in "ab"}, target) for f, target in map_batches(**kwargs)]

    def read(result):
        pair = result.pairs["a", "b"]
        said = np.array([pair.reason] * max(len(pair.correlation), 1))
        return fields(result) | {f"ab.{k}": v for k, v in fields(pair).items()} | {"ab.reason": said}

    nan = {
        "constant": (lambda: batches(change=lambda x: x * 0 + 0.3), "ab.correlation", "every channel is constant"),
        "NaN": (lambda: batches(change=lambda x: x * torch.nan), "ab.correlation", "not finite"),
        "infinite": (lambda: batches(change=lambda x: x / 0), "ab.correlation", "not finite"),
    }
    if rows == "image":
        nan["one sample"] = (lambda: batches(sizes=(1,)), "ab.correlation", "fewer than 2 rows")
    else:
        nan["vectors"] = (lambda: batches(flat=("a",)), "ab.correlation", "location axes do not match")
    return Case(f"channels-{rows}", make, batches, feed, read, channel_reference, cast, nan)


def similarity_cases(Case, feed, cast, fields):
    """The cases; what they are made of is given by the table of instruments."""
    return [
        *(whole_case(Case, feed, cast, fields, rows) for rows in ("image", "location")),
        pairwise_case(Case, feed, cast, fields),
        *(channel_case(Case, feed, cast, fields, rows) for rows in ("image", "location")),
    ]

"""The case of the instrument that decomposes information, with a slow reference."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from fusionscope.measures import Broja
from fusionscope.measures._samples import sample_hash
from fusionscope.measures.functional._pid_features import shuffle

SIZES = (37, 29, 31, 41)
CLASSES, KEPT, BINS, SHUFFLES = 3, 101, 3, 3
NUMBERS = ("value", "shuffled", "shuffled_high", "corrected", "low", "high")


def information_batches(sizes=SIZES, change=lambda x: x, labels=lambda y: y):
    """Tap "a" shows the label's first cause, map "b" the second, "c" noise; the prediction is the first cause."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(2, CLASSES, 7, generator=g)
    out = []
    for n in sizes:
        u, v = torch.randint(0, CLASSES, (2, n), generator=g)
        a = centres[0][u] + 0.1 * torch.randn(n, 7, generator=g)
        b = centres[1][v][:, :, None, None] + 0.5 * torch.randn(n, 7, 5, 3, generator=g)
        y = torch.where(torch.rand(n, generator=g) < 0.8, (u + v) % CLASSES, u)
        out.append(({"a": change(a), "b": b, "c": torch.randn(n, 5, generator=g)}, labels(y), u))
    return out


def feed_information(metric, batch, index):
    features, target, prediction = batch
    context = metric.context(len(target), target, index)
    metric.update({tap: metric.reduce(x, context, tap) for tap, x in features.items()}, context, prediction)


def read_information(result):
    out = {key: np.array([getattr(row, key) for row in result.rows]) for key in (*NUMBERS, "reason")}
    out |= {f"features.{tap}": x for tap, x in result.features.items()}
    return out | {"labels": result.labels, "predictions": result.predictions, "used": np.array(result.used)}


def cast_information(batches, dtype):
    return [({tap: x.to(dtype) for tap, x in f.items()}, y, p) for f, y, p in batches]


def entropy(p):
    p = p[p > 0]
    return -(p * np.log2(p)).sum()


def informations(p):
    """I(X1; Y), I(X2; Y), I(X1, X2; Y) in bits, from entropies."""
    a, b, y = p.sum(1), p.sum(0), entropy(p.sum((0, 1)))
    return [entropy(m.sum(-1)) + y - entropy(m) for m in (a, b, p)]


def slow_least(p, rounds=1500):
    """The least I(X1, X2; Y) of tables ``[n, X1, X2, Y]`` with the marginals of ``p``, by alternating minimisation.

    ``min over r, q of KL(q | r(x1, x2) p(y))``: r is q's marginal, q the fit of ``r p`` to the marginals.
    """
    p1, p2, y = p.sum(2)[:, :, None], p.sum(1)[:, None], p.sum((1, 2), keepdims=True)
    q = (p1 * p2) / np.maximum(y, 1e-300)
    for _ in range(rounds):
        q = q.sum(3, keepdims=True) * np.ones_like(p) * y
        for _ in range(20):
            q = q * p1 / np.maximum(q.sum(2, keepdims=True), 1e-300)
            q = q * p2 / np.maximum(q.sum(1, keepdims=True), 1e-300)
    return np.array([informations(table)[2] for table in q])


def slow_atoms(p):
    a, b, both = np.array([informations(table) for table in p]).T
    least = slow_least(p)
    return np.array([a + b - least, least - b, least - a, both - least, a, b, both]).T


def clusters(x, seed):
    x = np.array([row / np.linalg.norm(row) for row in x])
    x = PCA(min(5, x.shape[1]), svd_solver="full").fit_transform(x)
    return KMeans(BINS, n_init=4, random_state=seed).fit_predict(x)


def information_reference(metric, batches):
    keys = np.concatenate([sample_hash(len(y), i, metric.seed).numpy() for i, (_, y, _) in enumerate(batches)])
    own = np.concatenate([np.arange(len(y)) + (i << 32) for i, (_, y, _) in enumerate(batches)])
    kept = np.argsort(keys)[:KEPT]
    taps = {}
    for tap in metric.taps:
        maps = [f[tap].numpy().astype(np.float64) for f, _, _ in batches]
        taps[tap] = np.concatenate([x.reshape(len(x), x.shape[1], -1).mean(2) for x in maps])[kept]
    targets = [np.concatenate([batch[k].numpy() for batch in batches])[kept] for k in (1, 2)]
    groups = np.unique(own[kept], return_inverse=True)[1]
    out = {f"features.{tap}": x for tap, x in taps.items()}
    tables = []
    for a, b in metric.pairs:
        sides = []
        for side in (a, b):
            unit = [taps[t] / np.linalg.norm(taps[t], axis=1, keepdims=True) for t in side]
            sides.append(clusters(np.concatenate(unit, 1) if len(side) > 1 else taps[side[0]], metric.seed))
        for y in targets:
            rng = np.random.default_rng(metric.seed)
            for labels in [y] + [shuffle(y, groups, rng) for _ in range(SHUFFLES)]:
                p = np.zeros((BINS, BINS, CLASSES))
                for cell in zip(*sides, labels, strict=True):
                    p[cell] += 1 / KEPT
                tables.append(p)
    atoms = slow_atoms(np.stack(tables)).reshape(-1, 1 + SHUFFLES, 7)
    out |= {"value": atoms[:, 0].ravel(), "shuffled": atoms[:, 1:].mean(1).ravel()}
    return out | {"labels": targets[0][:, None], "predictions": targets[1][:, None], "used": np.array(KEPT)}


def information_case(Case):
    def make(**kwargs):
        pairs = [("a", "b"), (("a",), ("b", "c"))]
        settings = {"samples": KEPT, "bins": BINS, "shuffles": SHUFFLES, "alpha": 0.25}
        return Broja(["a", "b", "c"], pairs, CLASSES, **settings, **kwargs)

    nan = {
        "constant": (lambda: information_batches(change=lambda x: x * 0 + 0.3), "value", "side a do not differ"),
        "NaN": (lambda: information_batches(change=lambda x: x * torch.nan), "value", "features of a are not finite"),
        "infinite": (lambda: information_batches(change=lambda x: x / 0), "low", "features of a are not finite"),
        "one class": (lambda: information_batches(labels=lambda y: y * 0 + 2), "value", "only one class"),
        "no label": (lambda: information_batches(labels=lambda y: y * 0 - 1), "value", "no row has a finite label"),
        "one sample": (lambda: information_batches(sizes=(1,)), "value", "do not differ"),
    }
    return Case(
        "information", make, information_batches, feed_information, read_information, information_reference,
        cast_information, nan, tolerance=1e-4,
    )  # fmt: skip

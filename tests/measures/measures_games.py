"""Entries of the instruments' table: paired scores, games of modalities, perceptual scores, EMAP."""

from __future__ import annotations

import games_naive as naive
import numpy as np
import torch

from fusionscope.measures import (
    Emap,
    InterShap,
    PairedScores,
    PerceptualScore,
    SampleValuation,
    ShapeScores,
    Shapley,
    resolve_score,
)

CLASSES = 3
SIZES = (7, 11, 5, 13)
NAMES = ("a", "b", "c")
SUBSETS = [S for S in reversed(naive.subsets(NAMES))]
PERMUTED = [(m, kind, r) for m in ("a", "b") for kind in ("any", "within class") for r in range(2)]


def batches(conditions, change=lambda x: x, label=lambda y: y, sizes=SIZES, seed=0):
    """Logits of each condition with noise of its own size, labels, groups and numbers of the samples."""
    g = torch.Generator().manual_seed(seed)
    out, first = [], 0
    for n in sizes:
        target = torch.randint(0, CLASSES, (n,), generator=g)
        right = 1.5 * torch.eye(CLASSES)[target]
        outputs = [
            change(right + (0.4 + 0.2 * k) * torch.randn(n, CLASSES, generator=g)) for k in range(len(conditions))
        ]
        group = torch.randint(0, 23, (n,), generator=g)
        number = torch.arange(first, first + n)
        out.append((dict(zip(conditions, outputs, strict=True)), label(target), group, number))
        first += n
    return out


def feed(metric, batch, index):
    outputs, *rest = batch
    for condition, output in outputs.items():
        metric.update(condition, output, *rest)


def feed_and_fail(metric, batch, index):
    feed(metric, batch, index)
    if index == 2:
        metric.fail("broken", "ValueError: broken")


def cast(given, dtype):
    return [({s: o.to(dtype) for s, o in outputs.items()}, *rest) for outputs, *rest in given]


def logliks(given):
    """``{condition: [N]}`` in float64, labels, groups, in the order of the samples."""
    y = torch.cat([b[1] for b in given])
    out = {}
    for condition in given[0][0]:
        logits = torch.cat([b[0][condition] for b in given]).double().numpy()
        logits = logits - logits.max(1, keepdims=True)
        rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        out[condition] = rows[np.arange(len(rows)), y]
    return out, y.numpy()


def means(given):
    each, y = logliks(given)
    cells = [np.ones(len(y), dtype=bool), *(y == c for c in range(CLASSES))]
    return {s: [float(v[cell].mean()) for cell in cells] for s, v in each.items()}


def columns(rows, *names):
    return {name: np.array([getattr(row, name) for row in rows]) for name in (*names, "reason")}


def read_paired(result):
    told = [r.replace("the model raised an error in another process", "ValueError: broken") for r in result.reason]
    out = {"value": result.values, "low": result.low, "high": result.high, "reason": np.array(told)}
    if result.classes is None:
        return out
    classes = {f"{k}_of_class": getattr(result.classes, k) for k in ("values", "low", "high", "groups")}
    return out | classes | {"each": result.each, "draws": result.draws}


def paired_reference(metric, given):
    cells = means(given)
    value = np.array([cells[c] for c in ("clean", "noisy", "broken")])
    value[2] = np.nan
    each = np.array([logliks(given)[0][c] for c in ("clean", "noisy", "broken")])
    each[2] = np.nan
    return {"value": value[:, 0], "values_of_class": value[:, 1:], "each": each}


def read_contributions(result):
    rows = getattr(result, "contribution", result).rows
    names = ("shapley", "low", "high", "share", "share_low", "share_high", "alone", "last", "p", "q")
    out = columns(rows, *names)
    return out | {"value": out["shapley"]}


def shapley_reference(metric, given):
    cells = means(given)
    out = {"value": [], "alone": [], "last": []}
    for k in range(CLASSES + 1):
        V = {frozenset(s): v[k] for s, v in cells.items()}
        full = frozenset(NAMES)
        out["value"] += naive.shapley(NAMES, V.__getitem__).values()
        out["alone"] += [V[frozenset(m)] - V[frozenset()] for m in NAMES]
        out["last"] += [V[full] - V[full - {m}] for m in NAMES]
    return {k: np.array(v) for k, v in out.items()}


def read_cooperations(result):
    return columns(getattr(result, "cooperation", result).rows, "value", "low", "high")


def read_shape(result):
    shares = read_contributions(result)
    out = read_cooperations(result)
    return out | {name: shares[name][: len(NAMES)] for name in ("share", "share_low")}


def accuracy_reference(metric, given):
    y = torch.cat([b[1] for b in given])
    return {frozenset(s): (torch.cat([b[0][s] for b in given]).argmax(1) == y).numpy() for s in given[0][0]}


def shape_reference(metric, given):
    V = {s: float(right.mean()) for s, right in accuracy_reference(metric, given).items()}
    Z, sets = V[frozenset(NAMES)], [frozenset(s) for s in ("abc", "ab", "ac", "bc")]
    value = [naive.cooperation(NAMES, V.__getitem__, A) / Z for A in sets]
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    halves = {(i, j): naive.interaction(NAMES, V.__getitem__, i, j) for i, j in pairs}
    phi = naive.shapley(NAMES, V.__getitem__)
    own = [phi[m] - sum(v for pair, v in halves.items() if m in pair) for m in NAMES]
    cross = 2 * sum(abs(v) for v in halves.values())
    value += [2 * v for v in halves.values()] + [cross / (cross + sum(map(abs, own)))]
    return {"value": np.array(value), "share": np.array([phi[m] / Z for m in NAMES])}


def intershap_reference(metric, given):
    V = {frozenset(s): v[0] for s, v in means(given).items()}
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    halves = {(i, j): naive.interaction(NAMES, V.__getitem__, i, j) for i, j in pairs}
    phi = naive.shapley(NAMES, V.__getitem__)
    own = [phi[m] - sum(v for pair, v in halves.items() if m in pair) for m in NAMES]
    cross = 2 * sum(abs(v) for v in halves.values())
    return {"value": np.array([2 * v for v in halves.values()] + [cross / (cross + sum(map(abs, own)))])}


def read_valuation(result):
    return {"value": result.values, "sample": result.sample, "reason": np.array([result.reason] * len(result.values))}


def valuation_reference(metric, given):
    right = accuracy_reference(metric, given)
    out = []
    for n in range(len(right[frozenset()])):
        found = naive.shapley(NAMES, lambda S, n=n: len(S) * float(right[S][n]) if S else 0.0)
        out.append([found[m] for m in NAMES])
    return {"value": np.array(out).T}


def read_perceptual(result):
    return columns(result.rows, "value", "sd", "low", "high")


def perceptual_reference(metric, given):
    y = torch.cat([b[1] for b in given]).double().numpy()
    score = {}
    for s in given[0][0]:
        guess = torch.cat([b[0][s] for b in given]).double().numpy()
        score[s] = 1 - ((guess - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    rows = []
    for m in ("a", "b"):
        for kind in ("any", "within class"):
            lost = [(score[None] - score[m, kind, r]) / score[None] for r in range(2)]
            rows.append((np.mean(lost), abs(lost[0] - lost[1]) / 2**0.5))
    return {"value": np.array(rows)[:, 0], "sd": np.array(rows)[:, 1]}


def regression(given):
    """The same batches with one real value instead of logits."""
    return [({s: y + 0.2 * o[:, 0] for s, o in outputs.items()}, y.float(), g, n) for outputs, y, g, n in given]


def emap_batches(change=lambda x: x, samples=36, keep=36, seed=0):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(samples, CLASSES, generator=g), torch.randn(samples, CLASSES, generator=g)
    pairs = change(a[:, None] + 0.5 * b[None] + 0.7 * a[:, None] * b[None])
    target = torch.randint(0, CLASSES, (samples,), generator=g)
    group = torch.randint(0, 17, (samples,), generator=g)
    order = torch.randperm(samples, generator=g)[:keep]
    return [(rows, pairs[rows], target[rows], group[rows]) for rows in order.split(11)]


def feed_emap(metric, batch, index):
    metric.update(*batch)


def cast_emap(given, dtype):
    return [(rows, pairs.to(dtype), *rest) for rows, pairs, *rest in given]


def read_emap(result):
    out = {"value": np.array([result.value, result.model, result.gap]), "predictions": result.predictions}
    out["low"] = np.array([result.low, result.model_low, result.gap_low])
    out["high"] = np.array([result.high, result.model_high, result.gap_high])
    return out | {"reason": np.array([result.reason] * 3)}


def emap_reference(metric, given):
    rows, target = torch.cat([b[0] for b in given]).numpy(), torch.cat([b[2] for b in given]).numpy()
    L = np.zeros((36, 36, CLASSES))
    L[rows] = torch.cat([b[1] for b in given]).double().numpy()
    y = np.zeros(36, dtype=int)
    y[rows] = target
    found = np.zeros((36, CLASSES))
    for i in range(36):
        for j in range(36):
            found[i] += L[i, j] / 36 + L[j, i] / 36 - sum(L[j, k] for k in range(36)) / 36**2
    own = np.stack([L[i, i] for i in range(36)])
    value = []
    for logits in (found, own):
        value.append(np.mean([logits[i, y[i]] - np.log(np.exp(logits[i]).sum()) for i in range(36)]))
    return {"predictions": found, "value": np.array([*value, value[1] - value[0]])}


def game_cases(Case):
    loglik, accuracy = (resolve_score(name, "classification", CLASSES) for name in ("loglik", "accuracy"))
    named = [tuple(name for name in NAMES if name in s) for s in SUBSETS]

    def game(name, kind, score, read, reference, field="value"):
        def make(**kwargs):
            return kind(NAMES, score=score, resamples=101, **kwargs)

        def one(s):
            return lambda: [
                ({k: o * torch.nan if k == s else o for k, o in out.items()}, *r) for out, *r in batches(named)
            ]

        nan = {
            "outputs are NaN": (lambda: batches(named, lambda x: x * torch.nan), field, "not finite"),
            "one subset is NaN": (one(("b",)), field, r"V\(b\): outputs are not finite for"),
        }
        if kind is not SampleValuation:
            nan["no label"] = (lambda: batches(named, label=lambda y: y * 0 - 1), field, "not defined")
            nan["one sample"] = (
                lambda: batches(named, sizes=(1,)),
                "low",
                "fewer than 2 groups|no sample|not above 0|same for",
            )
        return Case(name, make, lambda: batches(named), feed, read, reference, cast, nan)

    def paired(**kwargs):
        return PairedScores(["clean", "noisy", "broken"], score=loglik, resamples=101, **kwargs)

    def perceptual(**kwargs):
        kinds = ("any", "within class")
        score = resolve_score(None, "regression")
        return PerceptualScore(["a", "b"], kinds=kinds, repeats=2, score=score, resamples=101, **kwargs)

    def emap(**kwargs):
        return Emap(36, score=loglik, resamples=101, **kwargs)

    three = ["clean", "noisy", "broken"]
    runs = [None, *PERMUTED]
    return [
        Case(
            "paired",
            paired,
            lambda: batches(three),
            feed_and_fail,
            read_paired,
            paired_reference,
            cast,
            {
                "outputs are NaN": (lambda: batches(three, lambda x: x * torch.nan), "value", "not finite for|broken"),
                "no label": (lambda: batches(three, label=lambda y: y * 0 - 1), "value", "not defined|broken"),
                "one sample": (lambda: batches(three, sizes=(1,)), "low", "fewer than 2 groups"),
            },
        ),
        game("shapley", Shapley, loglik, read_contributions, shapley_reference),
        game("table-shape", ShapeScores, accuracy, read_shape, shape_reference),
        game("intershap", InterShap, loglik, read_cooperations, intershap_reference),
        game("table-valuation", SampleValuation, accuracy, read_valuation, valuation_reference),
        Case(
            "perceptual",
            perceptual,
            lambda: regression(batches(runs)),
            feed,
            read_perceptual,
            perceptual_reference,
            cast,
            {
                "outputs are NaN": (lambda: regression(batches(runs, lambda x: x * torch.nan)), "value", "not finite"),
                "one target": (lambda: regression(batches(runs, label=lambda y: y * 0)), "value", "not defined"),
                "worse than the mean": (lambda: regression(batches(runs, lambda x: x + 9)), "value", "not above 0"),
                "one sample": (lambda: regression(batches(runs, sizes=(1,))), "low", "not defined"),
            },
        ),
        Case(
            "emap",
            emap,
            emap_batches,
            feed_emap,
            read_emap,
            emap_reference,
            cast_emap,
            {
                "outputs are NaN": (lambda: emap_batches(lambda x: x * torch.nan), "value", "not finite"),
                "a row is missing": (lambda: emap_batches(keep=35), "value", "only 35 of 36"),
            },
        ),
    ]

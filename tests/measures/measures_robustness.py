"""Robustness in the table of instruments: scores that fall with severity, and slow references of their curves."""

from __future__ import annotations

import itertools

import measures_naive as naive
import numpy as np
import torch

from fusionscope.measures import (
    EffectiveRobustness,
    MeanCorruptionError,
    RelativeRobustness,
    Robustness,
    RobustnessRow,
    resolve_score,
)

SIZES = (7, 11, 5, 13)
CURVES = {"rgb": ["noise", "blur"], "depth": ["holes"]}
SEVERITIES = range(1, 6)
BASE = {("rgb", "noise"): [0.9, 0.7, 0.6, 0.5, 0.3, 0.1], ("depth", "holes"): [0.8, 0.8, 0.7, 0.7, 0.6, 0.5]}
REFERENCE = {"noise": [0.2, 0.3, 0.5], "holes": [0.1, 0.4]}


def batches(conditions, change=lambda x, t: (x, t), sizes=SIZES):
    g = torch.Generator().manual_seed(0)
    out = []
    for n in sizes:
        target = torch.randn(n, 3, generator=g)
        outputs = {}
        for name, level in conditions.items():
            outputs[name] = target + level * torch.randn(n, 3, generator=g)
        pairs = {name: change(x, target) for name, x in outputs.items()}
        group = torch.randint(0, 17, (n,), generator=g)
        out.append(({name: x for name, (x, _) in pairs.items()}, next(iter(pairs.values()))[1], group))
    return out


def feed(metric, batch, index):
    outputs, target, group = batch
    for name, output in outputs.items():
        metric.update(name, output, target, group)


def cast(found, dtype):
    return [({name: x.to(dtype) for name, x in outputs.items()}, target, group) for outputs, target, group in found]


def scores(found):
    target = torch.cat([t for _, t, _ in found]).double().numpy()
    names = found[0][0]
    return {n: naive.score("r2", torch.cat([o[n] for o, _, _ in found]).double().numpy(), target, 0) for n in names}


def area(curve, step):
    total = 0.0
    for low, high in itertools.pairwise(curve):
        total += step * (low + high) / 2
    return total


def excess(curve, base):
    return sum(f - (b + curve[0] - base[0]) for f, b in zip(curve, base, strict=True))


def ratio(curve, base):
    return sum(1 - f for f in curve) / sum(1 - b for b in base)


def read_number(result):
    out = {name: np.array([getattr(result, name)]) for name in ("value", "low", "high", "reason")}
    return out | {"each": np.array(list((result.per_corruption or {}).values()), dtype=float)}


def read_table(result):
    rows = {key: np.array([getattr(row, key) for row in result.rows]) for key in RobustnessRow.__dataclass_fields__}
    names = vars(result.summary[0])
    return rows | {f"summary.{key}": np.array([getattr(row, key) for row in result.summary]) for key in names}


def table_reference(metric, found):
    value = scores(found)
    rows, relative, effective, error, extra = [], [], [], [], []
    means = {}
    for modality, corruptions in CURVES.items():
        for corruption in corruptions:
            curve = [value["clean"], *(value[modality, corruption, s] for s in SEVERITIES)]
            base = BASE.get((modality, corruption), [np.nan] * 6)
            rows += curve
            relative.append(area(curve, 0.2))
            effective.append(excess(curve, base))
            error.append(ratio(curve[1:], base[1:]))
            extra.append(sum(curve[0] - f for f in curve[1:]) / sum(base[0] - b for b in base[1:]))
            means.setdefault(modality, []).append([x[-1] for x in (relative, effective, error, extra)])
    names = ("relative", "effective", "corruption_error", "relative_corruption_error")
    summary = np.concatenate([np.array([relative, effective, error, extra]).T, [np.mean(m, 0) for m in means.values()]])
    wanted = {f"summary.{name}": summary[:, i] for i, name in enumerate(names)}
    return wanted | {"value": np.array(rows), "drop": value["clean"] - np.array(rows)}


def robustness_cases(Case):
    score = resolve_score(None, "regression")
    settings = {"score": score, "resamples": 101}
    levels = {level: 0.2 + 0.3 * level for level in range(6)}
    damaged = {(m, c, s): 0.3 * s for m, names in CURVES.items() for c in names for s in SEVERITIES}
    table = {"clean": 0.2, **damaged}
    errors = {(name, s + 1): 0.2 * s + 0.3 for name, row in REFERENCE.items() for s in range(len(row))}

    def number(name, make, conditions, reference, nothing):
        def nan(change=lambda x, t: (x, t), sizes=SIZES):
            return lambda: batches(conditions, change, sizes)

        wrong = {
            "outputs are NaN": (nan(lambda x, t: (x * torch.nan, t)), "value", "not finite"),
            "one target value": (nan(lambda x, t: (x, t * 0 + 1)), "value", "not defined"),
            "one sample": (nan(sizes=(1,)), "low", "not defined|fewer than 2 groups"),
        }
        return Case(name, make, nan(), feed, read_number, reference, cast, wrong | nothing)

    def missing():
        return [({n: x for n, x in o.items() if n != 3}, t, g) for o, t, g in batches(levels)]

    def absent():
        return [({n: x for n, x in o.items() if n != ("rgb", "blur", 3)}, t, g) for o, t, g in batches(table)]

    return [
        number(
            "relative-robustness",
            lambda **kw: RelativeRobustness(6, **settings, **kw),
            levels,
            lambda metric, found: {"value": np.array([area(list(scores(found).values()), 0.2)])},
            {"a level is missing": (missing, "value", "3 was not scored")},
        ),
        number(
            "effective-robustness",
            lambda **kw: EffectiveRobustness(BASE["rgb", "noise"], **settings, **kw),
            levels,
            lambda metric, found: {"value": np.array([excess(list(scores(found).values()), BASE["rgb", "noise"])])},
            {},
        ),
        number(
            "mean-corruption-error",
            lambda **kw: MeanCorruptionError(REFERENCE, **settings, **kw),
            errors,
            mean_reference,
            {},
        ),
        Case(
            "robustness",
            lambda **kw: Robustness(CURVES, baseline=BASE, baseline_name="concat", **settings, **kw),
            lambda: batches(table),
            feed,
            read_table,
            table_reference,
            cast,
            {
                "outputs are NaN": (lambda: batches(table, lambda x, t: (x * torch.nan, t)), "value", "not finite"),
                "no summary of NaN": (
                    lambda: batches(table, lambda x, t: (x * torch.nan, t)),
                    "summary.relative",
                    "not finite",
                ),
                "one target value": (lambda: batches(table, lambda x, t: (x, t * 0 + 1)), "value", "not defined"),
                "no baseline": (lambda: batches(table), "summary.effective", "no curve for blur of rgb"),
                "a severity is missing": (absent, "summary.relative", "rgb/blur/3 was not scored"),
                "one sample": (lambda: batches(table, sizes=(1,)), "low", "not defined|fewer than 2 groups"),
            },
        ),
    ]


def mean_reference(metric, found):
    value = scores(found)
    each = [sum(1 - value[name, s + 1] for s in range(len(row))) / sum(row) for name, row in REFERENCE.items()]
    return {"value": np.array([np.mean(each)]), "each": np.array(each)}

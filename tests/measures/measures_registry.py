"""The table of instruments: what each is made from, fed with, compared with, and where it must answer NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import measures_naive as naive
import numpy as np
import torch
from concepts_naive import naive_concepts
from measures_games import game_cases
from measures_information import information_case
from measures_robustness import robustness_cases
from measures_similarity import similarity_cases

from fusionscope.measures import (
    CoalitionTable,
    ConceptProbe,
    EtaSquared,
    MinibatchCKA,
    SemanticVariance,
    UnitDetectors,
    UnitStatistics,
    resolve_score,
)
from fusionscope.measures._quantiles import BINS

FOLDS, CLASSES = 3, 5
SIZES = (7, 11, 5, 13)


@dataclass(frozen=True)
class Case:
    """One instrument; ``nothing`` maps a name to (batches, fields that must be NaN, what the reason says)."""

    name: str
    make: Callable[..., Any]
    batches: Callable[[], list]
    feed: Callable[[Any, Any, int], None]
    read: Callable[[Any], dict[str, np.ndarray]]
    reference: Callable[[Any, list], dict[str, np.ndarray]]
    cast: Callable[[list, torch.dtype], list]
    nothing: dict[str, tuple[Callable[[], list], str, str]] = field(default_factory=dict)
    tolerance: float = 2e-6


def feed_taps(metric, batch, index):
    features, target = batch
    size = len(next(iter(features.values())))
    context = metric.context(size, target, index)
    metric.update({tap: metric.reduce(x, context, tap) for tap, x in features.items()}, context)


def cast_taps(batches, dtype):
    return [({tap: x.to(dtype) for tap, x in features.items()}, target) for features, target in batches]


def fields(result):
    """Arrays and strings of a result, flat."""
    out = {}
    for key, value in vars(result).items():
        if isinstance(value, dict):
            parts = {tap: part for tap, part in value.items() if hasattr(part, "__dict__")}
            out |= {f"{tap}.{k}": v for tap, part in parts.items() for k, v in fields(part).items()}
        elif isinstance(value, np.ndarray) or (isinstance(value, float | int) and not isinstance(value, bool)):
            out[key] = np.asarray(value)
    return out


def rows(result):
    keys = ("value", "low", "high", "drop", "drop_low", "drop_high", "reason")
    return {key: np.array([getattr(row, key) for row in result.rows]) for key in keys}


# CKA: taps of prime sizes that share one factor, so that values are neither 0 nor 1.
def cka_batches(seed=0, sizes=SIZES, change=lambda x: x):
    g = torch.Generator().manual_seed(seed)
    out = []
    mix = [torch.randn(2, width, generator=g) for width in (3, 14, 5)]
    for n in sizes:
        z = torch.randn(n, 2, generator=g)
        x = [z @ m + 0.7 * torch.randn(n, m.shape[1], generator=g) for m in mix]
        out.append(({"a": change(x[0]), "b": x[1].view(n, 2, 7), "c": x[2].relu()}, None))
    return out


def cka_reference(metric, batches):
    orders = [metric.context(len(f["a"]), None, i).permutations.numpy() for i, (f, _) in enumerate(batches)]
    kernel = naive.rbf if metric.kernel == "rbf" else naive.gram
    taps = ("a", "b", "c")
    out = naive.cka(taps, [f for f, _ in batches], orders, FOLDS, metric.alpha, kernel, metric.taps == metric.against)
    at = np.ix_([taps.index(t) for t in metric.taps], [taps.index(t) for t in metric.against])
    return {key: value[at] for key, value in out.items()}


def eta_batches(places, sizes=SIZES, seed=0, change=lambda x: x, labels=None):
    """Noise on a tap coarser and one finer than the labels; for labels per sample, unit 1 of "a" follows them."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for n in sizes:
        target = torch.randint(-1, CLASSES, (n, *(3, 2)[:places]), generator=g)
        if places:
            for axis, repeat in zip(range(1, places + 1), (11, 13), strict=False):
                target = target.repeat_interleave(repeat, axis)
            a = torch.randn(n, 3, *(11, 5)[:places], generator=g)
            b = torch.randn(n, 2, *(37, 29)[:places], generator=g)
        else:
            a = torch.randn(n, 3, 2, 5, generator=g)
            a[:, 1] += target.view(n, 1, 1)
            b = torch.randn(n, 7, generator=g)
        out.append(({"a": change(a), "b": b}, target if labels is None else labels(target)))
    return out


def eta_reference(metric, batches):
    contexts = [metric.context(len(t), t, i) for i, (_, t) in enumerate(batches)]
    plain = [({k: v.double().numpy() for k, v in f.items()}, t.numpy()) for f, t in batches]
    return naive.eta(metric.taps, plain, contexts, metric.classes, metric.purity)


SUBSETS = [("rgb", "depth"), ("rgb",), ("depth",), ()]


def table_batches(task, change=lambda x, t: (x, t)):
    g = torch.Generator().manual_seed(0)
    out = []
    for n in SIZES:
        if task == "regression":
            target = torch.randn(n, 3, generator=g)
            outputs = [target + s * torch.randn(n, 3, generator=g) for s in (0.3, 0.5, 0.8, 1.1)]
        else:
            places = (7, 3) if task == "dense" else ()
            target = torch.randint(-1, CLASSES - 1, (n, *places), generator=g)
            onehot = torch.eye(CLASSES)[target.clamp(min=0)].movedim(-1, 1)
            outputs = [onehot + s * torch.randn(n, CLASSES, *places, generator=g) for s in (0.3, 0.5, 0.8, 1.1)]
        pairs = [change(o, target) for o in outputs]
        group = torch.randint(0, 17, (n,), generator=g) if task == "dense" else None
        out.append((dict(zip(SUBSETS, [o for o, _ in pairs], strict=True)), pairs[0][1], group))
    return out


def feed_table(metric, batch, index):
    outputs, target, group = batch
    for subset, output in outputs.items():
        metric.update(frozenset(subset), output, target, group)


def table_reference(metric, batches):
    target = torch.cat([t for _, t, _ in batches])
    value = []
    for subset in SUBSETS:
        output = torch.cat([o[subset] for o, _, _ in batches]).double()
        value.append(naive.score(metric.score.name, output.numpy(), target.double().numpy(), CLASSES))
    return {"value": np.array(value), "drop": value[0] - np.array(value)}


def cast_table(batches, dtype):
    return [({s: o.to(dtype) for s, o in outputs.items()}, t, g) for outputs, t, g in batches]


def table_case(task):
    def make(**kwargs):
        score = resolve_score(None, task, 0 if task == "regression" else CLASSES)
        return CoalitionTable(["rgb", "depth"], score=score, resamples=101, **kwargs)

    nan = {"outputs are NaN": (lambda: table_batches(task, lambda x, t: (x * torch.nan, t)), "value", "not finite")}
    if task == "regression":
        nan["one target value"] = (lambda: table_batches(task, lambda x, t: (x, t * 0 + 1)), "value", "not defined")
    else:
        nan["no label"] = (lambda: table_batches(task, lambda x, t: (x, t * 0 - 1)), "value", "not defined")
    nan["one sample"] = (
        lambda: [({s: o[:1] for s, o in out.items()}, t[:1], g) for out, t, g in table_batches("classification")[1:2]],
        "low",
        "fewer than 2 groups",
    )
    if task != "classification":
        del nan["one sample"]
    return Case(f"table-{task}", make, lambda: table_batches(task), feed_table, rows, table_reference, cast_table, nan)


def eta_case(name, places):
    def make(**kwargs):
        return EtaSquared(["a", "b"], CLASSES, permutations=19, **kwargs)

    def only(label):
        return lambda target: torch.where(target >= 0, label, -1)

    nan = {
        "constant": (lambda: eta_batches(places, change=lambda x: x * 0 + 0.3), "a.epsilon2", "constant"),
        "NaN": (lambda: eta_batches(places, change=lambda x: x * torch.nan), "a.epsilon2", "not finite"),
        "infinite": (lambda: eta_batches(places, change=lambda x: x / 0), "a.best_epsilon2", "not finite"),
        "one class": (lambda: eta_batches(places, labels=only(2)), "a.epsilon2", "only one class|has no rows"),
        "no label": (lambda: eta_batches(places, labels=only(-1)), "b.epsilon2", "no row"),
    }
    if not places:
        nan["one sample"] = (lambda: eta_batches(0, sizes=(1,), seed=1), "a.epsilon2", "only one class|has no rows")
    return Case(name, make, lambda: eta_batches(places), feed_taps, fields, eta_reference, cast_taps, nan)


def cka_case(name, **settings):
    def make(**kwargs):
        return MinibatchCKA(["a", "b", "c"], permutations=19, folds=FOLDS, **settings, **kwargs)

    nan = {
        "constant": (lambda: cka_batches(change=lambda x: x * 0 + 0.3), "matrix", "do not differ"),
        "NaN": (lambda: cka_batches(change=lambda x: x * torch.nan), "matrix", "not finite"),
        "infinite": (lambda: cka_batches(change=lambda x: x / 0), "null_high", "not finite"),
        "three samples": (lambda: cka_batches(sizes=(3,)), "matrix", "fewer than 4 samples"),
        "one sample": (lambda: cka_batches(sizes=(1,)), "matrix", "fewer than 4 samples"),
        "one batch": (lambda: cka_batches(sizes=(13,)), "low", "fewer than 2 folds"),
    }
    return Case(name, make, cka_batches, feed_taps, fields, cka_reference, cast_taps, nan)


def concept_reference(metric, batches):
    contexts = [metric.context(len(t), t, i) for i, (_, t) in enumerate(batches)]
    return naive_concepts(metric, [f for f, _ in batches], contexts)


def concept_case(name, places, kind=ConceptProbe):
    def make(**kwargs):
        return kind(["a", "b"], CLASSES, permutations=19, folds=FOLDS, **kwargs)

    def read(result):
        out = fields(result)
        return out | (fields(out.pop("probes", result.probes)) if hasattr(result, "probes") else {})

    def only(label):
        return lambda target: torch.where(target >= 0, label, -1)

    def batches(**kwargs):
        return eta_batches(places, **({"sizes": SIZES * 2} | kwargs))

    nan = {
        "constant": (lambda: batches(change=lambda x: x * 0 + 0.3), "a.iou", "do not differ"),
        "NaN": (lambda: batches(change=lambda x: x * torch.nan), "a.iou", "not finite"),
        "infinite": (lambda: batches(change=lambda x: x / 0), "a.score", "not finite"),
        "one class": (lambda: batches(labels=only(2)), "b.iou", "occurs nowhere|everywhere"),
        "no label": (lambda: batches(labels=only(-1)), "b.null_mean", "no place|fewer than 2 folds"),
        "one sample": (lambda: batches(sizes=(1,)), "b.iou", "fewer than 2 folds"),
    }
    case = Case(name, make, batches, feed_taps, read, concept_reference, cast_taps, nan, tolerance=1e-4)
    return case


def detector_reference(metric, batches):
    metric.stage = 2
    contexts = [metric.context(len(t), t, i) for i, (_, t) in enumerate(batches)]
    plain = [({k: v.double().numpy() for k, v in f.items()}, t.numpy()) for f, t in batches]
    return naive.detectors(metric.taps, plain, contexts, metric.concepts, metric.quantile, BINS)


def detector_case(name, places):
    def make(**kwargs):
        return UnitDetectors(["a", "b"], CLASSES, quantile=0.3, **kwargs)

    def only(label):
        return lambda target: torch.where(target >= 0, label, -1)

    nan = {
        "constant": (lambda: eta_batches(places, change=lambda x: x * 0 + 0.3), "a.iou", "constant"),
        "NaN": (lambda: eta_batches(places, change=lambda x: x * torch.nan), "a.iou", "not finite"),
        "infinite": (lambda: eta_batches(places, change=lambda x: x / 0), "a.best_iou", "not finite"),
        "one class": (lambda: eta_batches(places, labels=only(2)), "a.iou", "no labelled place"),
        "no label": (lambda: eta_batches(places, labels=only(-1)), "b.iou", "no place is labelled"),
        "one sample": (lambda: eta_batches(places, sizes=(1,), seed=1), "a.iou", "no labelled place|constant"),
    }
    return Case(name, make, lambda: eta_batches(places), feed_taps, fields, detector_reference, cast_taps, nan)


def statistics_batches(places, **kwargs):
    """As ``eta_batches``, with tap "a" after a ReLU and a dead unit."""
    change = kwargs.pop("change", lambda x: x)
    alive = torch.tensor([1.0, 1.0, 0.0])

    def rectify(x):
        return change(x.relu() * alive.view(-1, *[1] * (x.ndim - 2)))

    return eta_batches(places, change=rectify, **kwargs)


def statistics_reference(metric, batches):
    plain = [({k: v.double().numpy() for k, v in f.items()}, t.numpy()) for f, t in batches]
    return naive.unit_statistics(metric.taps, plain, metric.classes, 0.9)


def net2vec_reference(probe, batches):
    contexts = [probe.context(len(t), t, i) for i, (_, t) in enumerate(batches)]
    return naive.net2vec(probe.taps, batches, contexts, probe, BINS)


def net2vec_case(name, places, estimator):
    """Few steps on a subsample."""

    def make(**kwargs):
        probe = ConceptProbe(["a", "b"], CLASSES, estimator=estimator, permutations=3, alpha=0.25, **kwargs)
        probe.method.steps, probe.method.keep, probe.method.quantile = 11, 31, 0.3
        return probe

    def only(label):
        return lambda target: torch.where(target >= 0, label, -1)

    nan = {
        "constant": (lambda: eta_batches(places, change=lambda x: x * 0 + 0.3), "a.iou", "do not differ"),
        "NaN": (lambda: eta_batches(places, change=lambda x: x * torch.nan), "a.iou", "not finite"),
        "one class": (lambda: eta_batches(places, labels=only(2)), "a.iou", "occurs nowhere|everywhere"),
        "no label": (lambda: eta_batches(places, labels=only(-1)), "b.iou", "no place has a known"),
        "one sample": (lambda: eta_batches(places, sizes=(1,)), "b.iou", "fewer than 2 folds"),
    }
    return Case(name, make, lambda: eta_batches(places), feed_taps, fields, net2vec_reference, cast_taps, nan)


def statistics_case(name, places):
    def make(**kwargs):
        return UnitStatistics(["a", "b"], CLASSES, **kwargs)

    def only(label):
        return lambda target: torch.where(target >= 0, label, -1)

    nan = {
        "NaN": (lambda: statistics_batches(places, change=lambda x: x * torch.nan), "a.mean", "not finite"),
        "infinite": (lambda: statistics_batches(places, change=lambda x: x + torch.inf), "a.sd", "not finite"),
        "negative": (lambda: statistics_batches(places, change=lambda x: x - 9), "a.selectivity", "negative"),
        "one class": (lambda: statistics_batches(places, labels=only(2)), "a.selectivity", "only one class"),
        "no label": (lambda: statistics_batches(places, labels=only(-1)), "b.selectivity", "no row"),
    }
    return Case(name, make, lambda: statistics_batches(places), feed_taps, fields, statistics_reference, cast_taps, nan)


CASES = {
    case.name: case
    for case in [
        cka_case("cka"),
        cka_case("cka-against", against=["c", "b"]),
        cka_case("cka-rbf", kernel="rbf"),
        eta_case("eta-samples", 0),
        eta_case("eta-steps", 1),
        eta_case("eta-pixels", 2),
        concept_case("concepts-samples", 0),
        concept_case("concepts-steps", 1),
        concept_case("concepts-pixels", 2),
        concept_case("semantic-variance", 0, SemanticVariance),
        detector_case("detectors-samples", 0),
        detector_case("detectors-steps", 1),
        detector_case("detectors-pixels", 2),
        net2vec_case("net2vec-binary-pixels", 2, "net2vec-binary"),
        net2vec_case("net2vec-samples", 0, "net2vec"),
        statistics_case("statistics-samples", 0),
        statistics_case("statistics-pixels", 2),
        table_case("classification"),
        table_case("dense"),
        table_case("regression"),
        *robustness_cases(Case),
        *game_cases(Case),
        information_case(Case),
        *similarity_cases(Case, feed_taps, cast_taps, fields),
    ]
}


def run(case, batches, make=None, feed=None, read=None):
    """Feed batches to a fresh instrument and read its result."""
    metric = (make or case.make)()
    feed_all(metric, batches, feed or case.feed)
    return (read or case.read)(metric.compute())


def feed_all(metric, batches, feed):
    """Show the instrument its batches, in as many passes as it needs."""
    for number in range(getattr(metric, "passes", 1)):
        if number:
            metric.advance()
        for index, batch in enumerate(batches):
            feed(metric, batch, index)


def rank_worker(rank, store, outbox):
    """One of two ranks: every case with batches dealt out, with all of them on rank 0, and without synchronising."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {}
    for name, case in CASES.items():
        deals = {"dealt": (lambda i: i % 2, True), "idle": (lambda i: 0, True), "unsynced": (lambda i: i % 2, False)}
        for deal, (owner, sync) in deals.items():
            metric = case.make(sync_on_compute=sync)

            def mine(metric, batch, index, owner=owner, feed=case.feed):
                if owner(index) == rank:
                    feed(metric, batch, index)

            feed_all(metric, case.batches(), mine)
            found[name, deal] = case.read(metric.compute())
    dist.barrier()
    dist.destroy_process_group()
    outbox.put((rank, found))

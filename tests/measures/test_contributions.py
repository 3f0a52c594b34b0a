"""Contributions and cooperations of tables: planted truth, coverage, false discoveries, failures, sampled subsets."""

from __future__ import annotations

import math

import games_naive as naive
import numpy as np
import pytest
import torch

from fusionscope.measures import (
    CoalitionTable,
    Emap,
    contributions,
    cooperations,
    resolve_score,
    sampled_subsets,
    valuations,
)
from fusionscope.measures.functional import shapley

NAMES = ("a", "b")
SUBSETS = [frozenset(s) for s in ("ab", "a", "b", "")]


def table(outputs, y, score="accuracy", seed=0, classes=2, **given):
    """The result for ``{subset: logits}``."""
    names = sorted(max(outputs, key=len))
    metric = CoalitionTable(names, score=resolve_score(score, "classification", classes), resamples=400, seed=seed)
    for subset, output in outputs.items():
        metric.update(subset, torch.as_tensor(output), torch.as_tensor(y), **given)
    return metric.compute()


def planted(kind, seed, n=601):
    """Two modalities of -1 and 1, labels of which 1 in 10 is flipped, and the best predictor in closed form."""
    rng = np.random.default_rng(seed)
    a, b = rng.choice([-1.0, 1.0], (2, n))
    flips = rng.choice([-1.0, 1.0], n, p=[0.1, 0.9])
    truth, predict = {
        "xor": (a * b, lambda a, b: a * b),
        "copy": (a, lambda a, b: a + b),
        "noise": (a, lambda a, b: a + 0 * b),
    }[kind]
    b = a if kind == "copy" else b
    return (a, b), (truth * flips > 0).astype(int), lambda a, b: np.stack([0 * a, 2 * predict(a, b)], -1)


def filled(kind, seed, score, fill="zero"):
    """The table of a planted model: absent modalities are 0 or other samples' values."""
    values, y, predict = planted(kind, seed)
    rng = np.random.default_rng(seed + 1000)
    absent = [0 * v if fill == "zero" else v[rng.permutation(len(v))] for v in values]
    outputs = {}
    for subset in SUBSETS:
        seen = [v if m in subset else other for m, v, other in zip(NAMES, values, absent, strict=True)]
        outputs[subset] = predict(*seen)
    return table(outputs, y, score, seed)


def gap(kind, seed):
    """EMAP of the planted model on a subsample."""
    (a, b), y, predict = planted(kind, seed, 151)
    metric = Emap(151, score=resolve_score("accuracy", "classification", 2), resamples=400, seed=seed)
    pairs = predict(np.repeat(a, 151), np.tile(b, 151)).reshape(151, 151, 2)
    metric.update(torch.arange(151), torch.tensor(pairs), torch.tensor(y))
    return metric.compute()


@pytest.mark.parametrize("fill", ["zero", "resample"])
@pytest.mark.parametrize("seed", range(5))
def test_xor_labels_are_synergy(seed, fill):
    found = cooperations(filled("xor", seed, "accuracy", fill))
    assert found["cooperation", "ab"].low > 0.25
    assert found["interaction", "ab"].low > 0.2
    assert found["intershap", "ab"].low > 0.5
    one = gap("xor", seed)
    assert one.gap_low > 0.2
    assert one.gap > 0.3


@pytest.mark.parametrize("seed", range(5))
def test_a_copied_modality_is_redundant(seed):
    for score in ("accuracy", "loglik"):
        result = filled("copy", seed, score)
        found, shares = cooperations(result), contributions(result)
        assert found["interaction", "ab"].high < 0  # the sign tells redundancy; InterSHAP's share does not
        assert shares["a"].shapley == pytest.approx(shares["b"].shapley)
        assert shares["a"].low > 0.05
    assert cooperations(filled("copy", seed, "accuracy"))["cooperation", "ab"].high < -0.3
    one = gap("copy", seed)
    assert one.gap_low <= 0 <= one.gap_high
    assert one.gap == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("fill", ["zero", "resample"])
@pytest.mark.parametrize("seed", range(5))
def test_a_noise_modality_is_nothing(seed, fill):
    for score in ("loglik", "accuracy"):
        result = filled("noise", seed, score, fill)
        found, shares = cooperations(result), contributions(result)
        assert found["interaction", "ab"].low <= 0 <= found["interaction", "ab"].high
        assert found["intershap", "ab"].low == 0
        assert shares["b"].low <= 0 <= shares["b"].high
        assert shares["a"].low > 0.1
        if score == "accuracy":
            assert found["cooperation", "ab"].low <= 0 <= found["cooperation", "ab"].high
    one = gap("noise", seed)
    assert (one.gap_low, one.gap_high) == (0, 0)


def random_game(rng, n, classes=1, effect=0.0):
    """Right or wrong of three modalities' subsets, drawn; ``effect``: what the presence of "c" adds in class 0."""
    y = rng.integers(0, classes, n)
    skill = rng.random(n)  # shared, so subsets fail on alike samples
    outputs, truth = {}, {}
    for S in naive.subsets("abc"):
        level = 0.3 + 0.25 * ("a" in S) + 0.2 * ("b" in S) * (1 - 0.5 * ("a" in S))
        level = level + effect * ("c" in S) * (y == 0)
        # A modality that tells nothing still changes some outcomes, for the better as often as for the worse.
        right = np.where(rng.random(n) < 0.15, rng.random(n), skill) < level
        truth[S] = level
        outputs[S] = np.where(right[:, None], np.eye(classes + 1)[y], np.roll(np.eye(classes + 1)[y], 1, 1))
    return outputs, y, truth


def test_contribution_intervals_cover_the_truth():
    rng, hits, narrow, repeats = np.random.default_rng(0), np.zeros(4), 0, 200
    for _ in range(repeats):
        outputs, y, truth = random_game(rng, 101)
        metric = CoalitionTable("abc", score=resolve_score(None, "classification", 2))
        for S, output in outputs.items():
            metric.update(S, torch.tensor(output), torch.tensor(y))
        found = contributions(metric.compute())
        wanted = shapley({S: float(level[0]) for S, level in truth.items()})
        whole = float(truth[frozenset("abc")][0])
        hits[:3] += [found[m].low <= wanted[m] <= found[m].high for m in "abc"]
        row = found["a"]
        narrow += abs(wanted["a"] - row.shapley) < 0.35 * (row.high - row.low)
        hits[3] += found["a"].share_low <= wanted["a"] / whole <= found["a"].share_high
    rate = hits / repeats
    print("coverage of shapley a, b, c and of the share of a, nominal 0.95:", rate)
    assert ((rate >= 0.9) & (rate <= 0.99)).all()
    assert narrow / repeats < 0.9  # the check would reject intervals of 0.7 times the width


def test_false_discoveries_of_harm_are_rare_and_planted_harm_is_found():
    rng, wrong, found, raw, repeats = np.random.default_rng(0), 0, 0, 0, 40
    for effect in (0.0, -0.3):
        for _ in range(repeats):
            outputs, y, _ = random_game(rng, 400, 5, effect)
            # "a" and "b" help everywhere; "c" changes outcomes but helps or hurts nowhere, or hurts class 0.
            metric = CoalitionTable("abc", score=resolve_score(None, "classification", 6), resamples=200)
            for S, output in outputs.items():
                metric.update(S, torch.tensor(output), torch.tensor(y))
            rows = contributions(metric.compute()).rows
            hurts = {(row.modality, row.concept) for row in rows if row.hurts}
            raw += effect == 0 and any(row.p <= 0.05 for row in rows if row.concept)
            found += ("c", "0") in hurts and effect < 0
            wrong += effect == 0 and bool(hurts)
    print("runs with a false discovery at 5 %:", wrong / repeats, "planted harm found:", found / repeats)
    assert wrong / repeats <= 0.1  # at most 0.05 expected; two standard errors of 40 runs are 0.07
    assert raw / repeats > 0.1  # the check would reject p-values that are not corrected
    assert found / repeats >= 0.9


def three(seed=0, n=211, classes=3):
    outputs, y, _ = random_game(np.random.default_rng(seed), n, classes)
    return outputs, y


def test_rows_of_all_data_and_of_classes():
    outputs, y = three()
    result = table(outputs, y, classes=4)
    found = contributions(result)
    for concept in ("", "0", "1", "2"):
        here = y == int(concept) if concept else y >= 0
        V = {S: float((o.argmax(1) == y)[here].mean()) for S, o in outputs.items()}
        wanted = naive.shapley("abc", V.__getitem__)
        for m in "abc":
            row = found[m, concept]
            assert row.shapley == pytest.approx(wanted[m])
            assert row.share == pytest.approx(wanted[m] / V[frozenset("abc")])
            assert row.alone == pytest.approx(V[frozenset(m)] - V[frozenset()])
            assert row.last == pytest.approx(V[frozenset("abc")] - V[frozenset("abc") - {m}])
            assert row.low < row.shapley < row.high
            assert math.isnan(row.q) == (concept == "")
            assert row.reason == ""
    assert [(row.concept, row.modality) for row in found.rows[:4]] == [("", "a"), ("", "b"), ("", "c"), ("0", "a")]


def test_a_value_that_is_missing_takes_only_what_needs_it():
    outputs, y = three()
    outputs[frozenset("b")][y == 1] = np.nan
    result = table(outputs, y, classes=4)
    found = contributions(result)
    n = int((y == 1).sum())
    assert math.isnan(found["a"].shapley)
    assert found["a"].reason == f"V(b): outputs are not finite for {n} of 211 samples"
    assert found["a"].alone == pytest.approx(result[{"a"}].value - result[()].value)
    assert math.isnan(found["b"].alone)
    assert np.isfinite(found["b"].last)
    assert f"{n} of {n} samples" in found["c", "1"].reason
    assert all(np.isfinite(found[m, c].shapley) and np.isfinite(found[m, c].q) for m in "abc" for c in "02")
    shares = cooperations(result)
    # C_A of a pair plays with and without the third modality; only V(c), V(ac), V(a) ... enter C_ac.
    assert {row.subset for row in shares.rows if np.isnan(row.value)} >= {("a", "b"), ("a", "b", "c")}
    assert all(row.reason.startswith("V(b)") for row in shares.rows if np.isnan(row.value))
    assert math.isnan(shares["intershap", "abc"].value)


def test_a_model_that_raises_on_one_subset():
    outputs, y = three()
    metric = CoalitionTable("abc", score=resolve_score(None, "classification", 4), resamples=100)
    for S, output in outputs.items():
        metric.fail(S, "ValueError: no") if frozenset("ab") == S else metric.update(
            S, torch.tensor(output), torch.tensor(y)
        )
    result = metric.compute()
    rows = contributions(result).rows
    assert {row.reason for row in rows} == {"V(a+b): ValueError: no"}
    assert np.isfinite([row.alone for row in rows]).all()
    assert [math.isnan(row.last) for row in rows[:3]] == [False, False, True]
    assert valuations(result).reason == "V(a+b): ValueError: no"
    assert np.isnan(valuations(result).values).all()
    metric = CoalitionTable("abc", score=resolve_score(None, "classification", 4))
    metric.fail("abc", "x")
    assert contributions(metric.compute()).rows[0].reason.startswith("V(a+b+c): x")


def test_few_samples_of_a_class_have_no_p():
    outputs, y = three(n=60)
    y[:] = np.where(np.arange(60) < 3, 2, y % 2)
    found = contributions(table(outputs, y, classes=4))
    assert math.isnan(found["a", "2"].p)
    assert "no p: fewer than 5 groups" in found["a", "2"].reason
    assert np.isfinite(found["a", "1"].p)
    group = torch.arange(60) // 20
    found = contributions(table(outputs, y, classes=4, group=group))
    assert math.isnan(found["a", "1"].p)
    alone = table({S: o[:1] for S, o in outputs.items()}, y[:1], classes=4)
    row = contributions(alone)["a"]
    assert math.isnan(row.low)
    assert "no interval: fewer than 2 groups" in row.reason


def test_harm_in_every_sample_has_the_p_of_the_sign_test():
    y = np.zeros(9, dtype=int)
    right, wrong = np.eye(2)[y], np.eye(2)[1 - y]
    found = contributions(table({SUBSETS[0]: wrong, SUBSETS[1]: right, SUBSETS[2]: wrong, SUBSETS[3]: right}, y))
    assert found["b", "0"].shapley == -1
    assert found["b", "0"].p == 2**-9
    assert found["b", "0"].hurts
    assert found["a", "0"].p == 1
    assert not found["a", "0"].hurts


def test_no_share_of_a_score_below_zero():
    outputs, y = three()
    row = contributions(table(outputs, y, "loglik", classes=4))["a"]
    assert np.isfinite(row.shapley)
    assert math.isnan(row.share)
    assert row.reason == "no share: V of all modalities is not above 0"


def test_one_modality_and_multilabel():
    y = np.array([0, 1, 1, 0, 1, 0])
    result = table({frozenset("a"): np.eye(2)[y], frozenset(): np.eye(2)[y * 0]}, y)
    assert contributions(result)["a"].shapley == 0.5
    assert cooperations(result).rows == ()
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (41, 3), generator=g)
    metric = CoalitionTable("ab", score=resolve_score(None, "multilabel"), resamples=100)
    for S in SUBSETS:
        metric.update(S, labels - 0.5 + torch.randn(41, 3, generator=g) / (1 + len(S)), labels)
    found = contributions(metric.compute())
    assert [row.concept for row in found.rows[::2]] == ["", "0", "1", "2"]
    assert all(np.isfinite(row.q) for row in found.rows[2:])
    assert valuations(metric.compute()).reason.startswith("samples are valued by whether they are right")


def additive_game(rng, M, pairs=0.3):
    worth = rng.normal(size=M)
    cross = np.triu(rng.normal(size=(M, M)), 1) * pairs
    truth = worth + (cross + cross.T).sum(1) / 2

    def V(S, names):
        x = np.array([name in S for name in names], dtype=float)
        return x @ worth + x @ cross @ x

    return V, truth


def test_sampled_subsets_estimate_without_bias_and_say_how_well():
    names = [f"m{i}" for i in range(10)]
    rng, off, inside = np.random.default_rng(0), [], []
    # A function as score: every sample's value is V(S) itself plus noise that all subsets share.
    score = resolve_score(lambda output, target: output, "regression")
    for seed in range(7):
        V, truth = additive_game(rng, 10, 1.0)
        subsets, orders = sampled_subsets(names, most=120, seed=seed)
        metric = CoalitionTable(names, score=score, permutations=orders, resamples=50)
        noise = torch.randn(13, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for S in subsets:
            metric.update(S, 20 + V(S, names) + noise, torch.zeros(13))
        found = contributions(metric.compute())
        rows = [found[name] for name in names]
        off += [row.shapley - t for row, t in zip(rows, truth, strict=True)]
        inside += [row.low <= t <= row.high for row, t in zip(rows, truth, strict=True)]
        assert "standard error of sampling" in rows[0].reason
        assert sum(row.shapley for row in rows) == pytest.approx(V(names, names))
    # Pairs of an order and its reverse are exact for games of pairs.
    np.testing.assert_allclose(off, 0, atol=1e-9)
    assert all(inside)
    shares = cooperations(metric.compute())
    assert math.isnan(shares["interaction", ("m3", "m7")].value)
    assert "needs the score of all 1024 subsets" in shares["cooperation", names].reason


def test_the_error_of_sampling_is_that_of_the_estimate():
    names = [f"m{i}" for i in range(9)]
    rng = np.random.default_rng(0)
    third = {S: float(rng.normal()) for S in naive.subsets(names)}
    truth = shapley(third)
    score = resolve_score(lambda output, target: output, "regression")
    z = []
    for seed in range(17):
        subsets, orders = sampled_subsets(names, most=200, seed=seed)
        metric = CoalitionTable(names, score=score, permutations=orders, resamples=0)
        for S in subsets:
            metric.update(S, torch.full((2,), third[S], dtype=torch.float64), torch.zeros(2))
        found = contributions(metric.compute())
        z += [(found[m].shapley - truth[m]) / e for m, e in zip(names, found.sampling_error, strict=True)]
    print("mean and sd of errors over their standard error:", np.mean(z), np.std(z))
    assert abs(np.mean(z)) < 0.25
    assert 0.85 < np.std(z) < 1.35  # 1.1 expected: t with some 12 degrees of freedom

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
    PerceptualScore,
    contributions,
    cooperations,
    resolve_score,
    sampled_subsets,
    valuations,
)
from fusionscope.measures.functional import emap, permute_within, perceptual_score, shapley

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
    rng, hits, repeats = np.random.default_rng(0), np.zeros(4), 200
    for _ in range(repeats):
        outputs, y, truth = random_game(rng, 101)
        metric = CoalitionTable("abc", score=resolve_score(None, "classification", 2))
        for S, output in outputs.items():
            metric.update(S, torch.tensor(output), torch.tensor(y))
        found = contributions(metric.compute())
        wanted = shapley({S: float(level[0]) for S, level in truth.items()})
        whole = float(truth[frozenset("abc")][0])
        hits[:3] += [found[m].low <= wanted[m] <= found[m].high for m in "abc"]
        hits[3] += found["a"].share_low <= wanted["a"] / whole <= found["a"].share_high
    rate = hits / repeats
    print("coverage of shapley a, b, c and of the share of a, nominal 0.95:", rate)
    assert ((rate >= 0.9) & (rate <= 0.99)).all()


def test_false_discoveries_of_harm_are_rare_and_planted_harm_is_found():
    rng, wrong, found, repeats = np.random.default_rng(0), 0, 0, 40
    for effect in (0.0, -0.3):
        for _ in range(repeats):
            outputs, y, _ = random_game(rng, 400, 5, effect)
            # "a" and "b" help everywhere; "c" changes outcomes but helps or hurts nowhere, or hurts class 0.
            metric = CoalitionTable("abc", score=resolve_score(None, "classification", 6), resamples=200)
            for S, output in outputs.items():
                metric.update(S, torch.tensor(output), torch.tensor(y))
            hurts = {(row.modality, row.concept) for row in contributions(metric.compute()).rows if row.hurts}
            found += ("c", "0") in hurts and effect < 0
            wrong += effect == 0 and bool(hurts)
    print("runs with a false discovery at 5 %:", wrong / repeats, "planted harm found:", found / repeats)
    assert wrong / repeats <= 0.1  # at most 0.05 expected; two standard errors of 40 runs are 0.07
    assert found / repeats >= 0.9

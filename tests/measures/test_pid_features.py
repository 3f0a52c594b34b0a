"""Decomposition of features: planted truths, the null, and what must not change a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusionscope.errors import InputError
from fusionscope.measures import Broja
from fusionscope.measures.functional import (
    batch_decomposition,
    cvx_decomposition,
    decompose,
    discretise,
    probe_accuracy,
)
from fusionscope.measures.functional._broja import decompose_tables
from fusionscope.measures.functional._pid_features import ATOMS, influences, label_codes, shuffle, usual_bins

ADDS_UP = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]])


def planted(kind, n, classes, seed, noise=0.3):
    """Clusters whose cause says all, together or alone, about the label; the other modality is noise or a copy."""
    rng = np.random.default_rng(seed)
    u, v = rng.integers(0, classes, (2, n))
    centres = np.random.default_rng(11).normal(size=(2, classes, 7))
    if kind == "copy":
        v = u
    y = {"xor": (u + v) % classes, "noise": rng.integers(0, classes, n)}.get(kind, u)
    x1, x2 = (c[w] + noise * rng.normal(size=(n, 7)) for c, w in zip(centres, (u, v), strict=True))
    return x1, x2, y


# Which atom holds the label's whole entropy.
TRUTH = {"copy": "R", "unique": "U_a", "xor": "S", "noise": None}


@pytest.mark.parametrize("kind", TRUTH)
def test_planted_atoms_come_out(kind):
    for seed in range(5):
        found = cvx_decomposition(*planted(kind, 601, 2, seed), shuffles=19)
        truth = np.array([float(atom == TRUTH[kind]) for atom in ATOMS[:4]])
        assert (np.abs(found.value[:4] - truth) < 0.25).all()
        assert ((found.low[:4] - 0.06 <= truth) & (truth <= found.high[:4] + 0.06)).all()
        largest = found.corrected[:4].argmax()
        if TRUTH[kind]:
            assert ATOMS[largest] == TRUTH[kind]
            assert found.low[largest] > 0.5
            assert found[TRUTH[kind]] > found.shuffled_high[largest]
        else:
            assert (found.low[:4] <= 0).all()
        np.testing.assert_allclose(ADDS_UP @ found.value[:4], found.value[4:], atol=1e-9)
        assert found.gap < 1e-7
        assert found.reason == ""


def test_more_classes_than_clusters_would_hide_redundancy():
    x1, x2, y = planted("copy", 307, 7, 0, noise=0.1)
    found = cvx_decomposition(x1, x2, y, shuffles=0)
    assert found.bins == (7, 7) == (usual_bins(307, 7),) * 2
    assert found["R"] > 2.5
    coarse = decompose(discretise(x1, 3), discretise(x2, 3), y, shuffles=0)
    assert coarse["R"] < coarse["I_a"] * 0.9
    assert np.isnan(found.corrected).all()
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()


def test_interval_of_independent_labels_holds_zero():
    held, above = np.zeros(7), np.zeros(7)
    rounds = 40
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, 5, (2, 211))
        found = decompose(*codes, rng.integers(0, 3, 211), shuffles=19, seed=seed)
        held += (found.low <= 0) & (found.high >= 0)
        above += found.value > found.shuffled_high
    assert (held >= 0.95 * rounds).all()
    # 5 % are expected above the bound, here at most 6 of 40 (exceeded with probability 0.01 per atom).
    assert (above <= 6).all()


def test_uncorrected_synergy_of_noise_is_bias():
    rng = np.random.default_rng(0)
    found = decompose(*rng.integers(0, 11, (2, 307)), rng.integers(0, 2, 307), shuffles=19)
    assert found["S"] > 0.1
    assert abs(found.corrected[3]) < 0.1
    assert found.shuffled_high[3] > found.value[3]


def test_labels_of_a_group_stay_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(rng.permutation(53), 7)
    labels = np.repeat(rng.integers(0, 5, 53), 7)
    moved = shuffle(labels, groups, rng)
    assert (np.bincount(moved) == np.bincount(labels)).all()
    assert all(len(set(moved[groups == g])) == 1 for g in range(53))
    assert (moved != labels).any()
    for sizes in ([25, 25], [100, 101, 110, 120], [1] * 31):
        owner = np.repeat(np.arange(len(sizes)), sizes)
        for _ in range(20):
            got = owner[shuffle(np.arange(len(owner)), owner, rng)]
            assert (got != owner).all(), "a label that stays with its group tells what the null must not tell"
    # Codes that follow the group: a null that splits groups would call every one of them informative.
    codes = np.repeat(rng.integers(0, 3, (2, 53)), 7, axis=1)
    order = np.argsort(groups, kind="stable")
    kept = decompose(codes[0][order], codes[1][order], labels, group=groups[order], shuffles=19)
    split = decompose(codes[0][order], codes[1][order], labels, shuffles=19)
    assert kept.shuffled[6] > 2 * split.shuffled[6]
    assert kept.high[6] - kept.low[6] > split.high[6] - split.low[6]


def test_influences_are_derivatives():
    p = np.random.default_rng(0).dirichlet(np.ones(30)).reshape(3, 5, 2)
    found = decompose_tables(p[None])
    slopes = influences(p, found)
    centred = slopes - (slopes * p).sum((1, 2, 3), keepdims=True)
    step = 1e-5
    for cell in [(0, 0, 0), (2, 3, 1), (1, 4, 0)]:
        ends = []
        for sign in (-1, 1):
            q = p * (1 - sign * step)
            q[cell] += sign * step
            ends.append(decompose_tables(q[None]).parts[:, 0])
        np.testing.assert_allclose((ends[1] - ends[0]) / 2 / step, centred[(slice(None), *cell)], atol=1e-3)


def test_clusters_do_not_depend_on_scale_or_on_samples_order():
    x = planted("xor", 211, 3, 0)[0]
    codes = discretise(x, 5)
    assert codes.shape == (211,)
    assert len(set(codes)) == 5
    np.testing.assert_array_equal(discretise(torch.from_numpy(x) * 3, 5), codes)
    np.testing.assert_array_equal(discretise(x.reshape(211, 7, 1), 5), codes)
    np.testing.assert_array_equal(discretise(np.ones((13, 3)), 5), np.zeros(13))
    assert len(set(discretise(np.array([-2.0, -1, 1, 2])[:, None], 4))) == 4  # one dimension keeps its values
    assert len(set(discretise(np.array([[1.0, 0], [2, 0], [0, 1]]), 3))) == 2


def test_labels_and_numbers():
    np.testing.assert_array_equal(label_codes(np.array([3, -7, 0])), [3, -1, 0])
    y = np.random.default_rng(0).normal(size=101)
    y[7] = np.nan
    codes = label_codes(y)
    assert codes[7] == -1
    assert (np.bincount(np.delete(codes, 7)) == 20).all()
    line = np.outer(y, [3.0, -1.0])
    assert len(set(zip(label_codes(line), codes, strict=True))) == 6
    x1, x2, y = planted("unique", 601, 5, 0)
    numbers = cvx_decomposition(x1, x2, y + np.random.default_rng(1).uniform(0, 0.5, 601), shuffles=0)
    assert numbers["U_a"] > 1.8
    # Classes that do not occur change nothing.
    np.testing.assert_array_equal(
        cvx_decomposition(x1, x2, 3 * y, shuffles=0).value, cvx_decomposition(x1, x2, y, shuffles=0).value
    )


def test_units():
    x1, x2, y = planted("xor", 211, 2, 0)
    bits, nats = (cvx_decomposition(x1, x2, y, shuffles=19, unit=unit) for unit in ("bits", "nats"))
    for field in ("value", "shuffled", "shuffled_high", "low", "high", "gap"):
        np.testing.assert_allclose(getattr(nats, field), np.log(2) * getattr(bits, field), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a, b, y: (a * 0, b, y), "side a do not differ"),
        (lambda a, b, y: (a * 0, b * 0 + 1, y), "a and b do not differ"),
        (lambda a, b, y: (a, b, y * 0), "only one class"),
        (lambda a, b, y: (a, b, y * 0 - 1), "no sample has a label"),
    ],
)
@pytest.mark.parametrize("estimate", [cvx_decomposition, batch_decomposition])
def test_nothing_to_decompose(estimate, change, text):
    found = estimate(*change(*planted("xor", 31, 2, 0)))
    assert text in found.reason
    assert np.isnan([found.value, found.low, found.corrected]).all()


def test_errors():
    x, y = np.ones((13, 3)), np.zeros(13, dtype=int)
    for broken in (lambda: discretise(x * np.nan), lambda: discretise(x, 1), lambda: discretise(x[:0])):
        with pytest.raises(InputError, match="expected"):
            broken()
    with pytest.raises(InputError, match="same samples"):
        decompose(np.zeros(13, dtype=int), np.zeros(11, dtype=int), y)
    with pytest.raises(InputError, match="enough permutations"):
        decompose(y, y, y, shuffles=3)
    with pytest.raises(InputError, match="finite"):
        batch_decomposition(x * np.nan, x, y)
    with pytest.raises(InputError, match="held_out"):
        batch_decomposition(x, x, y, held_out=1.0)
    with pytest.raises(InputError, match="one label per sample"):
        label_codes(np.zeros((3, 2), dtype=int))
    with pytest.raises(InputError, match="expected atom"):
        cvx_decomposition(x, x, y)["U"]


@pytest.mark.parametrize("kind", ["copy", "unique", "xor"])
def test_learned_estimator_finds_planted_atoms(kind):
    x1, x2, y = planted(kind, 601, 2, 0, noise=0.1)
    state = torch.get_rng_state()
    with torch.inference_mode():
        found = batch_decomposition(torch.from_numpy(x1), x2, y, epochs=20, align_epochs=2, batch=64)
    assert torch.equal(torch.get_rng_state(), state)
    truth = [float(atom == TRUTH[kind]) for atom in ATOMS[:4]]
    np.testing.assert_allclose(found.value[:4], truth, atol=0.15)
    np.testing.assert_allclose(ADDS_UP @ found.value[:4], found.value[4:], atol=1e-5)
    assert found.estimator == "batch"
    assert (found.low < found.high).all()
    assert np.isnan(found.corrected).all()


# --- the instrument, beyond the laws ---


def dense_batches(taps):
    g = torch.Generator().manual_seed(0)
    for n in (7, 11, 5, 13):
        y = torch.randint(0, 2, (n, 11, 13), generator=g)
        x = torch.nn.functional.one_hot(y, 2).movedim(-1, 1).float()
        maps = {"a": x + 0.1 * torch.randn(x.shape, generator=g), "b": torch.randn(n, 3, 5, 7, generator=g)}
        yield {tap: maps.get(tap, torch.randn(n, 5, generator=g)) for tap in taps}, y, x * 5


def test_dense_labels_are_read_at_random_places():
    taps = ["a", "b", "vector"]
    metric = Broja(taps, [("a", "b"), ("a", ("b", "vector"))], 2, samples=101, shuffles=19)
    for index, (features, y, logits) in enumerate(dense_batches(taps)):
        context = metric.context(len(y), y, index)
        reduced = {tap: metric.reduce(x, context, tap) for tap, x in features.items()}
        metric.update(reduced, context, logits)
    result = metric.compute()
    assert (result.used, result.samples) == (101, 36)
    # The tap with the labels' own grid has the label at each place; prediction and label agree.
    np.testing.assert_array_equal(result.features["a"].argmax(1), result.labels[:, 0])
    np.testing.assert_array_equal(result.predictions, result.labels)
    assert len(set(result.groups)) <= 36
    rows = {(row.side_b, row.about, row.atom): row for row in result.rows}
    assert len(rows) == len(result.rows) == 2 * 2 * 7
    best = rows[("b",), "label", "U_a"]
    assert best.value > 0.9
    assert best.low > rows[("b",), "label", "U_b"].high
    assert rows[("b", "vector"), "prediction", "U_a"].value > 0.9
    assert best.side_a == ("a",)


def test_numbers_as_labels_and_missing_predictions():
    rng = np.random.default_rng(0)
    metric = Broja(["a", "b"], shuffles=19)
    for index, n in enumerate((211, 199)):
        u = rng.normal(size=(n, 1))
        target = torch.from_numpy(np.concatenate([2 * u, -u], 1))
        context = metric.context(n, target, index, torch.arange(n) // 2)
        features = {"a": torch.from_numpy(u), "b": torch.from_numpy(rng.normal(size=(n, 2)))}
        metric.update({tap: metric.reduce(x, context, tap) for tap, x in features.items()}, context)
    rows = {(row.about, row.atom): row for row in metric.compute().rows}
    assert rows["label", "U_a"].value > 1.5
    assert rows["label", "S"].corrected < 0.3
    assert "no row has a finite prediction" in rows["prediction", "R"].reason
    assert np.isnan(rows["prediction", "R"].value)


def test_learned_estimator_in_the_instrument():
    x1, x2, y = (torch.from_numpy(v) for v in planted("unique", 211, 2, 0, noise=0.1))
    metric = Broja(["a", "b"], classes=2, estimator="batch", shuffles=0, about=["label"])
    context = metric.context(211, y, 0)
    metric.update({"a": metric.reduce(x1, context), "b": metric.reduce(x2, context)}, context)
    rows = {row.atom: row for row in metric.compute().rows}
    assert rows["U_a"].value > 0.5
    assert rows["U_a"].estimator == "batch"
    assert np.isnan(rows["U_a"].gap)


def test_instrument_errors():
    for settings in ({"pairs": [("a", "c")]}, {"about": ["labels"]}, {"samples": 1}, {"estimator": "cvxx"}):
        with pytest.raises(InputError, match="expected"):
            Broja(["a", "b"], **settings)
    metric = Broja(["a", "b"], classes=3)
    with pytest.raises(InputError, match="classes=0"):
        metric.context(2, torch.zeros(2), 0)
    context = metric.context(2, torch.zeros(2, dtype=torch.int64), 0)
    reduced = {tap: metric.reduce(torch.ones(2, 3), context) for tap in "ab"}
    with pytest.raises(InputError, match="predictions of 2 samples"):
        metric.update(reduced, context, torch.zeros(3, 3))


# --- the accuracy of a linear probe ---


def test_probe_accuracy():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 211)
    clear = np.eye(3)[y] + 0.1 * rng.normal(size=(211, 3))
    found = probe_accuracy(clear, y)
    assert found.accuracy == 1
    assert (found.folds, found.samples, found.reason) == (10, 211, "")
    noise = probe_accuracy(rng.normal(size=(211, 307)), y)  # more units than samples
    assert noise.low < noise.chance < noise.high + 0.1
    assert noise.accuracy < 0.5
    # Groups are not split: what only identifies the group is worth nothing.
    groups = np.arange(211) // 7
    name = np.eye(31)[groups]
    labels = rng.integers(0, 2, 31)[groups]
    assert probe_accuracy(name, labels).accuracy > 0.95
    assert probe_accuracy(name, labels, groups).accuracy < 0.8
    for x, labels, text in (
        (clear * np.nan, y, "not finite"),
        (clear * 0, y, "do not differ"),
        (clear, y * 0, "only one class"),
        (clear, y * 0 - 1, "no sample has a label"),
    ):
        nothing = probe_accuracy(x, labels)
        assert text in nothing.reason
        assert np.isnan([nothing.accuracy, nothing.low]).all()
    assert "fewer than 2 groups" in probe_accuracy(clear, y, y * 0).reason
    with pytest.raises(InputError, match="integer labels"):
        probe_accuracy(clear, y.astype(float))

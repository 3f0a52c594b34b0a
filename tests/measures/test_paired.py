"""Paired scores of conditions: values per class and per sample, failures, multi-label scores, sampled subsets."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss

from fusionscope.errors import InputError
from fusionscope.measures import CoalitionTable, PairedScores, resolve_score, sampled_subsets


def data(n=211, classes=3, seed=0, noise=(0.3, 1.0)):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=g)
    return [torch.eye(classes)[y] + s * torch.randn(n, classes, generator=g) for s in noise], y, g


def paired(outputs, y, score="accuracy", task="classification", classes=3, **given):
    metric = PairedScores(["clean", "noisy"], score=resolve_score(score, task, classes), resamples=301)
    for name, output in zip(("clean", "noisy"), outputs, strict=True):
        metric.update(name, output, y, **given)
    return metric


@pytest.mark.parametrize("score", ["accuracy", "loglik"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_class_is_scored_as_its_samples_alone(score, grouped):
    outputs, y, g = data()
    group = torch.randint(0, 37, (len(y),), generator=g) if grouped else None
    result = paired(outputs, y, score, group=group).compute()
    for c in range(3):
        here = y == c
        alone = paired([o[here] for o in outputs], y[here], score, group=None if group is None else group[here])
        alone = alone.compute()
        np.testing.assert_allclose(result.classes.values[:, c], alone.values, rtol=1e-12)
        assert result.classes.samples[c] == alone.samples
        assert result.classes.groups[c] == alone.groups
        # Draws take all samples, so the class's size varies: intervals are alike, not equal.
        ratio = (result.classes.high - result.classes.low)[:, c] / (alone.high - alone.low)
        assert ((ratio > 0.75) & (ratio < 1.33)).all()
    assert (result.classes.reason == "").all()


def test_iou_of_each_class_and_dense_scores_by_class():
    (outputs, y, _) = data(6 * 5 * 31)
    outputs = [o.view(31, 5, 6, 3).permute(0, 3, 1, 2) for o in outputs]
    y = y.view(31, 5, 6)
    for score in ("miou", "accuracy", "loglik"):
        result = paired(outputs, y, score, "dense").compute()
        for s, output in enumerate(outputs):
            for c in range(3):
                guess = output.argmax(1)
                here = y == c
                wanted = {
                    "miou": ((guess == c) & here).sum() / ((guess == c) | here).sum(),
                    "accuracy": (guess == c)[here].double().mean(),
                    "loglik": output.double().log_softmax(1)[:, c][here].mean(),
                }[score]
                assert result.classes.values[s, c] == pytest.approx(float(wanted), rel=1e-6)
        if score == "miou":
            np.testing.assert_allclose(result.classes.values.mean(1), result.values)
            np.testing.assert_allclose(result.classes.draws.mean(2), result.draws)


def test_regression_by_dimension():
    g = torch.Generator().manual_seed(0)
    y = torch.randn(41, 2, generator=g, dtype=torch.float64)
    outputs = [y + 0.3 * torch.randn(41, 2, generator=g), y * 0]
    mse = ((outputs[0] - y) ** 2).mean(0)
    result = paired(outputs, y, "neg_mse", "regression").compute()
    np.testing.assert_allclose(result.classes.values[0], -mse)
    assert result.values[0] == pytest.approx(-float(mse.mean()))
    result = paired(outputs, y, "r2", "regression").compute()
    np.testing.assert_allclose(result.classes.values[0], 1 - mse / y.var(0, correction=0))
    outputs[1][3, 1] = torch.nan
    result = paired(outputs, y, "neg_mse", "regression").compute()
    assert np.isnan(result.classes.values[1]).tolist() == [False, True]
    assert "outputs or targets are not finite for 1 of 41 samples" in result.reason[1]


def test_each_sample_has_its_score_in_the_order_of_its_number():
    outputs, y, g = data(53)
    number = torch.randperm(1009, generator=g)[:53]
    result = paired(outputs, y, sample=number).compute()
    order = number.argsort()
    assert result.sample.tolist() == number[order].tolist()
    np.testing.assert_array_equal(result.each[1], (outputs[1].argmax(1) == y)[order].numpy())
    assert paired(outputs, y).compute().sample.tolist() == list(range(53))
    parts = [paired([o[i::2] for o in outputs], y[i::2], sample=number[i::2]) for i in range(2)]
    merged = parts[1].merge(parts[0]).compute()
    np.testing.assert_array_equal(merged.each, result.each)
    np.testing.assert_array_equal(merged.classes.draws, result.classes.draws)


def test_drops_are_those_of_the_table():
    outputs, y, _ = data()
    drop, low, high = paired(outputs, y).compute().drops("clean")
    table = CoalitionTable(["a"], score=resolve_score(None, "classification", 3), resamples=301)
    table.update({"a"}, outputs[0], y)
    table.update((), outputs[1], y)
    row = table.compute().rows[1]
    assert (row.drop, row.drop_low, row.drop_high) == (drop[1], low[1], high[1])
    with pytest.raises(InputError, match=r"got 'claen'. Did you mean 'clean'\?"):
        paired(outputs, y).compute().drops("claen")


def test_outputs_that_are_nan_on_one_class_leave_the_other_classes():
    outputs, y, _ = data(430)
    bad = y == 1
    outputs[1][bad] = torch.nan
    result = paired(outputs, y).compute()
    n = int(bad.sum())
    assert math.isnan(result.values[1])
    assert result.reason.tolist() == ["", f"outputs are not finite for {n} of 430 samples"]
    assert np.isnan(result.classes.values).tolist() == [[False] * 3, [False, True, False]]
    assert result.classes.reason[1].tolist() == ["", f"outputs are not finite for {n} of {n} samples", ""]
    assert np.isfinite(result.classes.low[1, [0, 2]]).all()


def test_a_failed_condition_is_nan_with_its_reason_and_stays_so():
    outputs, y, _ = data(31)
    metric = PairedScores(["clean", "noisy"], score=resolve_score(None, "classification", 3))
    metric.update("noisy", outputs[1][:13], y[:13])
    metric.fail("noisy", "ValueError: too noisy")
    for rows in (slice(0, 13), slice(13, None)):
        metric.update("clean", outputs[0][rows], y[rows])
        metric.update("noisy", outputs[1][rows], y[rows])
    other = paired(outputs, y)
    alone = PairedScores(["clean", "noisy"], score=resolve_score(None, "classification", 3))
    alone.fail("clean", "a")
    alone.fail("noisy", "b")
    for one in (metric, pickle.loads(pickle.dumps(metric))):
        result = one.compute()
        assert np.isnan(result.values).tolist() == [False, True]
        assert result.reason[1] == "ValueError: too noisy"
        assert np.isnan(result.classes.values[1]).all()
        assert (result.classes.reason[1] == "ValueError: too noisy").all()
        assert np.isfinite(result.drops("clean")[1]).tolist() == [True, False]
    fresh = PairedScores(["clean", "noisy"], score=resolve_score(None, "classification", 3), resamples=301)
    fresh.fail("noisy", "elsewhere")
    assert other.merge(fresh).compute().reason[1] == "elsewhere"
    assert alone.compute().reason.tolist() == ["a", "b"]
    other.reset()
    other.update("noisy", outputs[1], y)
    assert other.compute().reason.tolist() == [""]
    # States gathered from another process come without the text.
    states = PairedScores(["clean", "noisy"], score=resolve_score(None, "classification", 3))
    states.merge_state(metric.metric_state)
    assert states.compute().reason[1] == "the model raised an error in another process"


def test_a_failed_subset_of_a_table():
    outputs, y, _ = data(31)
    names = ["rgb", "depth"]
    metric = CoalitionTable(names, score=resolve_score(None, "classification", 3), empty="majority", prior=[1, 2, 3])
    metric.update(names, outputs[0], y)
    metric.update({"rgb"}, outputs[1], y)
    metric.fail({"depth"}, "RuntimeError: no")
    rows = metric.compute().rows
    assert [row.subset for row in rows] == [("rgb", "depth"), ("rgb",), ("depth",), ()]
    assert [math.isnan(row.value) for row in rows] == [False, False, True, False]
    assert rows[2].reason == "RuntimeError: no"
    metric.fail(names, "RuntimeError: all")
    rows = metric.compute().rows
    assert [math.isnan(row.value) for row in rows] == [True, False, True, True]
    assert "RuntimeError: all" in rows[3].reason
    assert "no drop: the score with all" in rows[1].reason
    assert metric.compute().paired.samples == 31


def test_multilabel_scores_agree_with_scikit_learn():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (97, 5), generator=g)
    y[:, 3] = 0
    logits = 2 * y - 1 + 1.5 * torch.randn(97, 5, generator=g, dtype=torch.float64)
    logits[:, 3] = -1.0  # neither in targets nor in predictions: left out
    guess = (logits > 0).long()
    keep = [0, 1, 2, 4]
    result = paired([logits, -logits], y, None, "multilabel").compute()
    wanted = f1_score(y, guess, average=None, zero_division=np.nan)
    np.testing.assert_allclose(result.classes.values[0, keep], wanted[keep])
    assert math.isnan(result.classes.values[0, 3])
    assert result.classes.reason[0, 3] == "no sample of this class"
    assert result.values[0] == pytest.approx(wanted[keep].mean())
    result = paired([logits, -logits], y, "accuracy", "multilabel").compute()
    assert result.values[0] == pytest.approx(float((guess == y).double().mean()))
    result = paired([logits, -logits], y.float(), "loglik", "multilabel").compute()
    each = [-log_loss(y[:, k], logits[:, k].sigmoid(), labels=[0, 1]) for k in range(5)]
    np.testing.assert_allclose(result.classes.values[0], each)
    assert result.values[0] == pytest.approx(np.mean(each))


def test_multilabel_targets_may_be_unknown_and_a_label_may_be_nan():
    y = torch.tensor([[1.0, 0], [torch.nan, 1], [1, -1], [0, 1]])
    logits = torch.tensor([[2.0, -1], [5, 1], [-1, 5], [-1, 1]])
    result = paired([logits, logits], y, "accuracy", "multilabel").compute()
    assert result.classes.values[0].tolist() == [2 / 3, 1]
    assert result.values[0] == 5 / 6
    logits = logits.clone()
    logits[3, 1] = torch.nan
    result = paired([logits, logits], y, "f1", "multilabel").compute()
    assert np.isnan(result.classes.values[0]).tolist() == [False, True]
    assert "not finite for 1 of 4 samples" in result.reason[0]
    with pytest.raises(InputError, match="targets of 0 and 1"):
        paired([logits, logits], y + 1, "f1", "multilabel")
    with pytest.raises(InputError, match="one logit per label"):
        paired([logits, logits], y[:, :1], "f1", "multilabel")


def test_empty_subset_of_a_multilabel_table_by_its_prior():
    y = torch.tensor([[1, 0], [1, 1], [0, 0], [1, 0]])
    score = resolve_score("loglik", "multilabel")
    metric = CoalitionTable(["a"], score=score, empty="majority", prior=torch.tensor([0.75, 0.25]))
    metric.update({"a"}, torch.zeros(4, 2), y)
    one = (3 * math.log(0.75) + math.log(0.25)) / 4
    assert metric.compute()[()].value == pytest.approx(one)


def test_sampled_subsets_are_the_prefixes_of_pairs_of_orders():
    names = [f"m{i}" for i in range(10)]
    subsets, orders = sampled_subsets(names, most=100, seed=3)
    assert orders is not None
    assert len(set(subsets)) == len(subsets) <= 100
    assert {frozenset(order[:k]) for order in orders for k in range(11)} == set(subsets)
    assert subsets[0] == frozenset(names)
    assert subsets[-1] == frozenset()
    assert all(a == b[::-1] for a, b in zip(orders[::2], orders[1::2], strict=True))
    assert sampled_subsets(names, 100, 3) == (subsets, orders)
    assert sampled_subsets(names, 100, 4)[1] != orders
    with pytest.raises(InputError, match="expected most >= 20"):
        sampled_subsets(names, most=19)


def test_a_table_of_sampled_subsets_refuses_others():
    names = [f"m{i}" for i in range(10)]
    subsets, orders = sampled_subsets(names, most=40)
    _, y, _ = data(7)
    table = CoalitionTable(names, score=resolve_score(None, "classification", 3), permutations=orders)
    for subset in subsets:
        table.update(subset, torch.eye(3)[y], y)
    assert [frozenset(row.subset) for row in table.compute().rows] == subsets
    missing = next(s for i in range(10) for j in range(i) if (s := frozenset((names[i], names[j]))) not in subsets)
    with pytest.raises(InputError, match="a subset that the permutations begin with"):
        table.update(missing, torch.eye(3)[y], y)
    with pytest.raises(InputError, match="orders of all modalities"):
        CoalitionTable(names, score=resolve_score(None, "classification", 3), permutations=[names[:3]])

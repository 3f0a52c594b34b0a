"""Scores and the table V(S): values by hand, paired bootstrap, the empty subset, and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy

from fusionscope.errors import InputError
from fusionscope.measures import CoalitionTable, resolve_score

BOTH, RGB, DEPTH, NONE = (frozenset(s) for s in (("rgb", "depth"), ("rgb",), ("depth",), ()))


def logits(labels, classes):
    return torch.eye(classes)[torch.as_tensor(labels)].movedim(-1, 1)


def value(name, output, target, task="classification", classes=3):
    score = resolve_score(name, task, classes)
    return float(score.value(score.statistics(output, target).sum(0).numpy()))


def table(outputs, target, score="accuracy", classes=2, group=None, **kwargs):
    metric = CoalitionTable(["rgb", "depth"], score=resolve_score(score, "classification", classes), **kwargs)
    for subset, output in outputs.items():
        metric.update(subset, output, target, group)
    return metric.compute()


def test_accuracy_by_hand():
    target = torch.tensor([0, 1, 2, -1, 1])
    assert value("accuracy", logits([0, 1, 1, 0, 1], 3), target) == 0.75
    pixels = torch.tensor([[[0, 1, -1], [2, 2, 2]]])
    guess = torch.tensor([[[0, 0, 0], [2, 2, 1]]])
    assert value("accuracy", logits(guess, 3), pixels, "dense") == 3 / 5


def test_miou_by_hand():
    target = torch.tensor([[[0, 0, 1], [1, 1, -1]], [[0, 0, 0], [1, 1, 1]]])
    guess = torch.tensor([[[0, 1, 1], [1, 0, 2]], [[0, 0, 0], [1, 1, 1]]])
    # class 0: 4 right, 1 missed, 1 too many; class 1: 5, 1, 1; class 2 only guessed where ignored, class 3 nowhere
    assert value("miou", logits(guess, 4), target, "dense", 4) == pytest.approx((4 / 6 + 5 / 7) / 2)
    # Averaging the scores of samples is another number.
    assert value("miou", logits(guess[:1], 4), target[:1], "dense", 4) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert math.isnan(value("miou", logits(guess, 4), target * 0 - 1, "dense", 4))


def test_loglik_in_nats():
    p = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    assert value("loglik", p.log(), torch.tensor([0, 2])) == pytest.approx((math.log(0.5) + math.log(0.8)) / 2)
    assert value("loglik", p.log() + 7, torch.tensor([0, -1])) == pytest.approx(math.log(0.5))


def test_numbers_that_are_nan_are_left_out():
    y, guess = torch.tensor([1.0, 2, float("nan"), 4]), torch.tensor([1.0, 3, 9, 4])
    known = ~y.isnan()
    for name in ("r2", "neg_mse"):
        assert value(name, guess, y, "regression") == pytest.approx(value(name, guess[known], y[known], "regression"))
    assert math.isnan(value("r2", torch.where(known, torch.nan, guess), torch.ones(4), "regression"))


def test_r2_by_hand():
    y = torch.tensor([1.0, 2, 3, 4])
    assert value("r2", torch.tensor([1.0, 2, 3, 5]), y, "regression") == pytest.approx(1 - 1 / 5)
    assert value("r2", torch.tensor([[1.0], [2], [3], [5]]), y, "regression") == pytest.approx(0.8)
    two = torch.stack([y, y], 1), torch.stack([torch.tensor([1.0, 2, 3, 5]), y], 1)
    assert value("r2", two[1], two[0], "regression") == pytest.approx(0.9)
    assert value("r2", y + 1e5 + 1, y + 1e5, "regression") == pytest.approx(1 - 4 / 5, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "truth", "wanted"),
    [
        ("xor", lambda a, b: a ^ b, (1, 0.5, 0.5, 0.5)),
        ("and", lambda a, b: a & b, (1, 0.75, 0.75, 0.75)),
        ("unique", lambda a, b: a, (1, 1, 0.5, 0.5)),
    ],
)
def test_toy_games(name, truth, wanted):
    """The best predictor from what is present, zero-filled where the rest is absent (methods, T.4)."""
    a, b = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    y = truth(a, b)
    outputs = {BOTH: truth(a, b), RGB: truth(a, b * 0), DEPTH: truth(a * 0, b), NONE: truth(a * 0, b * 0)}
    result = table({s: logits(o, 2) for s, o in outputs.items()}, y)
    assert [row.subset for row in result.rows] == [("rgb", "depth"), ("rgb",), ("depth",), ()]
    assert [row.value for row in result.rows] == list(wanted)
    assert [row.drop for row in result.rows] == [1 - v for v in wanted]
    assert [row.n_present for row in result.rows] == [2, 1, 1, 0]
    assert result[{"depth", "rgb"}].value == 1


def test_order_of_three_modalities():
    metric = CoalitionTable(["a", "b", "c"], score=resolve_score(None, "classification", 2))
    y = torch.tensor([0, 1])
    for names in ("", "c", "b", "a", "bc", "ac", "ab", "abc"):
        metric.update(frozenset(names), logits(y, 2), y)
    assert ["".join(row.subset) for row in metric.compute().rows] == ["abc", "ab", "ac", "bc", "a", "b", "c", ""]


def correlated(n=211):
    """Two subsets that fail on nearly the same samples."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (n,), generator=g)
    hard = torch.rand(n, generator=g) < 0.4
    worse = hard | (torch.rand(n, generator=g) < 0.05)
    return {BOTH: logits(torch.where(hard, 1 - y, y), 2), RGB: logits(torch.where(worse, 1 - y, y), 2)}, y


def test_drop_interval_is_paired():
    outputs, y = correlated()
    rows = table(outputs, y).rows
    unpaired = math.hypot(rows[0].high - rows[0].low, rows[1].high - rows[1].low)
    assert rows[1].drop_high - rows[1].drop_low < 0.5 * unpaired
    assert rows[1].drop_low > 0
    assert (rows[0].drop, rows[0].drop_low, rows[0].drop_high) == (0, 0, 0)
    half = 1.96 * math.sqrt(rows[0].value * (1 - rows[0].value) / 211)
    assert rows[0].high - rows[0].value == pytest.approx(half, rel=0.15)


def test_the_paired_check_rejects_independent_draws(monkeypatch):
    def unpaired(self, table):
        rng = np.random.default_rng(0)
        draws = [t[rng.integers(0, len(t), (self.resamples, len(t)))].sum(1) for t in table]
        return np.stack([self.score.value(d) for d in draws], 1)

    monkeypatch.setattr(CoalitionTable, "_draws", unpaired)
    with pytest.raises(AssertionError):
        test_drop_interval_is_paired()


def test_bootstrap_is_seeded_and_blind_to_arrival():
    outputs, y = correlated(101)
    order = torch.randperm(101, generator=torch.Generator().manual_seed(1))
    first, again, other = (table(outputs, y, seed=s).rows[1] for s in (0, 0, 1))
    assert first == again
    assert first.low != other.low or first.high != other.high
    assert table({s: o[order] for s, o in outputs.items()}, y[order]).rows[1] == first


def test_groups_are_drawn_whole():
    y = torch.zeros(60, dtype=torch.long)
    right = torch.arange(60) < 30
    outputs = {BOTH: logits(y, 2), RGB: logits((~right).long(), 2)}
    alone, grouped = table(outputs, y), table(outputs, y, group=torch.arange(60) // 10)
    assert grouped.groups == 6
    assert alone.groups == 60
    widths = [r.rows[1].high - r.rows[1].low for r in (grouped, alone)]
    assert widths[0] > 2 * widths[1]
    one = table(outputs, y, group=torch.zeros(60, dtype=torch.long)).rows[1]
    assert math.isnan(one.low)
    assert one.reason == "no interval: fewer than 2 groups"
    assert one.value == 0.5


def test_empty_subset_by_majority_of_the_prior():
    y = torch.tensor([0, 1, 1, 2, 1])
    outputs = {BOTH: logits(y, 3)}
    result = table(outputs, y, classes=3, empty="majority", prior=[10, 2, 3])
    assert result[()].value == 0.2  # class 0, the training majority, though class 1 is the majority here
    assert result[()].drop == 0.8
    assert result.empty == "majority"
    result = table(outputs, y, "loglik", 3, empty="majority", prior=[2, 1, 1])
    assert result[()].value == pytest.approx((math.log(0.5) + 4 * math.log(0.25)) / 5)


def test_empty_subset_of_a_regression_is_the_training_mean():
    y = torch.tensor([1.0, 2, 3])
    metric = CoalitionTable(["x"], score=resolve_score(None, "regression"), empty="majority", prior=torch.tensor(2.0))
    metric.update({"x"}, y, y)
    assert metric.compute()[()].value == 0
    metric = CoalitionTable(["x"], score=resolve_score(None, "regression"), empty="majority", prior=[2.0, 5.0])
    both = torch.stack([y, y + 1], 1)
    metric.update({"x"}, both, both)
    assert metric.compute()[()].value == pytest.approx((0 + 1 - (9 + 4 + 1) / 2) / 2)


def test_a_function_as_score():
    def within_one(output, target):
        return ((output.argmax(1) - target).abs() <= 1).float()

    y = torch.tensor([0, 1, 2, 2])
    result = table({BOTH: logits([1, 1, 0, 2], 3), RGB: logits([2, 2, 2, 2], 3)}, y, within_one, 3)
    assert result.score == "within_one"
    assert [row.value for row in result.rows] == [0.75, 0.75]
    with pytest.raises(InputError, match=r"'within_one' to return one value per sample \[4\], got shape \(\)"):
        table({BOTH: logits([1, 1, 0, 2], 3)}, y, named("within_one", lambda o, t: within_one(o, t).mean()))


def named(name, function):
    function.__name__ = name
    return function


def test_a_torchmetrics_metric_as_score():
    metric = MulticlassAccuracy(num_classes=3, average="micro")
    y = torch.tensor([0, 1, 2, 2])
    outputs = {BOTH: logits([0, 1, 2, 2], 3), RGB: logits([0, 1, 2, 1], 3)}
    result = table(outputs, y, metric, 3)
    assert [row.value for row in result.rows] == [1, 0.75]
    assert math.isnan(result.rows[1].low)
    assert "keeps no per-sample values" in result.rows[1].reason
    assert not metric.update_called
    parts = [CoalitionTable(["rgb", "depth"], score=MeanSquaredError()) for _ in range(2)]
    for part, x in zip(parts, (1.0, 3.0), strict=True):
        part.update(BOTH, torch.tensor([x, x]), torch.zeros(2))
    assert parts[0].merge(parts[1]).compute().rows[0].value == 5


def test_one_bad_sample_makes_its_subset_nan_only():
    outputs, y = correlated(31)
    outputs[RGB][3] = torch.nan
    rows = table(outputs, y).rows
    assert np.isfinite(rows[0].value)
    assert math.isnan(rows[1].value)
    assert math.isnan(rows[1].drop)
    assert "not finite" in rows[1].reason


def test_resamples_without_a_score_are_counted():
    y = torch.tensor([0, -1, -1])
    row = table({BOTH: logits([0, 0, 0], 2)}, y).rows[0]
    assert row.value == 1
    assert "not defined in" in row.reason


def test_without_all_modalities_there_is_no_drop():
    row = table({RGB: logits([0, 1], 2)}, torch.tensor([0, 1])).rows[0]
    assert row.value == 1
    assert math.isnan(row.drop)
    assert "no drop" in row.reason


def test_wrong_use():
    y = torch.tensor([0, 1])
    good = resolve_score(None, "classification", 2)
    with pytest.raises(InputError, match=r"got 'acuracy'. Did you mean 'accuracy'\?"):
        resolve_score("acuracy", "classification", 2)
    with pytest.raises(InputError, match=r"for regression.*got 'accuracy'"):
        resolve_score("accuracy", "regression")
    with pytest.raises(InputError, match="expected a task"):
        resolve_score(None, "segmentation", 2)
    with pytest.raises(InputError, match="expected a resolved score, got 'accuracy'"):
        CoalitionTable(["rgb"], score="accuracy")
    with pytest.raises(InputError, match=r"got 'dept'. Did you mean 'depth'\?"):
        CoalitionTable(["rgb", "depth"], score=good).update({"dept"}, logits(y, 2), y)
    with pytest.raises(InputError, match="got empty='majority' with no prior"):
        CoalitionTable(["rgb"], score=good, empty="majority")
    with pytest.raises(InputError, match="makes them; use 'filled'"):
        CoalitionTable(["rgb"], score=good, empty="majority", prior=[1, 1]).update(NONE, logits(y, 2), y)
    with pytest.raises(InputError, match=r"got 3 values for outputs \(2, 2\)"):
        CoalitionTable(["rgb"], score=good, empty="majority", prior=[1, 1, 1]).update({"rgb"}, logits(y, 2), y)
    with pytest.raises(InputError, match=r"got \(2, 2\) and torch.int64 of shape \(3,\)"):
        CoalitionTable(["rgb"], score=good).update({"rgb"}, logits(y, 2), torch.tensor([0, 1, 1]))
    with pytest.raises(InputError, match="labels below the 2 outputs, got 5"):
        CoalitionTable(["rgb"], score=good).update({"rgb"}, logits(y, 2), y + 4)


def test_subsets_scored_on_different_samples_are_refused():
    y = torch.tensor([0, 1, 1])
    metric = CoalitionTable(["rgb", "depth"], score=resolve_score(None, "classification", 2))
    metric.update(BOTH, logits(y, 2), y)
    metric.update(RGB, logits(y[:2], 2), y[:2])
    with pytest.raises(InputError, match=r"same samples, got 3 and, for \('rgb',\), 2; call update for all subsets"):
        metric.compute()
    metric.reset()
    metric.update(BOTH, logits(y, 2), y, torch.tensor([0, 0, 1]))
    metric.update(RGB, logits(y, 2), y, torch.tensor([0, 1, 1]))
    with pytest.raises(InputError, match="same groups in every subset"):
        metric.compute()

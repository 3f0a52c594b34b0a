"""Robustness: known answers (methods.md T.6), properties, calibration error, and reasons where there is no number."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusionscope.errors import InputError
from fusionscope.measures import (
    EffectiveRobustness,
    MeanCorruptionError,
    RelativeRobustness,
    Robustness,
    resolve_score,
)
from fusionscope.measures.functional import (
    effective_robustness,
    mean_corruption_error,
    relative_corruption_error,
    relative_robustness,
)

CURVES = arrays(np.float64, (3, 7), elements=st.floats(-2, 2))
FEW = settings(max_examples=50, deadline=None)
CLASSES = 5


# ---------------------------------------------------------------------- functions


def test_known_answers():
    line = np.linspace
    assert relative_robustness([0.8] * 11) == pytest.approx(0.8)
    assert relative_robustness(line(0.8, 0.4, 11)) == pytest.approx(0.6)
    assert relative_robustness(torch.linspace(0.8, 0.4, 6, dtype=torch.float64), step=0.2) == pytest.approx(0.6)
    assert effective_robustness(line(0.8, 0.5, 11), line(0.7, 0.3, 11)) == pytest.approx(0.55)
    errors, reference = [[0.2, 0.3, 0.4, 0.5, 0.6], [0.1] * 5], [[0.4] * 5, [0.2] * 5]
    found = mean_corruption_error(errors, reference)
    assert found == pytest.approx((1.0 + 0.5) / 2)
    np.testing.assert_allclose(found.per_corruption, [1.0, 0.5])
    # Σ(E - .05) = 1.75 and .25; Σ(ref - .1) = 1.5 and .5.
    found = relative_corruption_error(errors, 0.05, reference, 0.1)
    np.testing.assert_allclose(found.per_corruption, [1.75 / 1.5, 0.5])


@FEW
@given(CURVES, CURVES, st.floats(-1, 1), st.floats(0.01, 1))
def test_areas_are_linear_and_batched(f, g, shift, step):
    area = relative_robustness(f, step)
    assert area.shape == (3,)
    np.testing.assert_allclose(area, [np.trapezoid(row, dx=step) for row in f], atol=1e-9)
    np.testing.assert_allclose(relative_robustness(f + g, step), area + relative_robustness(g, step), atol=1e-9)
    np.testing.assert_allclose(relative_robustness(f[:, ::-1], step), area, atol=1e-9)
    effective = effective_robustness(f, g)
    np.testing.assert_allclose(effective, [effective_robustness(a, b) for a, b in zip(f, g, strict=True)], atol=1e-9)
    np.testing.assert_allclose(effective_robustness(f + shift, g), effective, atol=1e-9)
    np.testing.assert_allclose(effective_robustness(f, g + shift), effective, atol=1e-9)
    np.testing.assert_allclose(effective_robustness(g, f), -effective, atol=1e-9)
    np.testing.assert_allclose(effective_robustness(f, f), 0, atol=1e-9)


@FEW
@given(arrays(np.float64, (3, 5), elements=st.floats(0.05, 1)), st.floats(0.1, 3))
def test_corruption_errors_are_ratios(errors, factor):
    assert mean_corruption_error(errors, errors) == pytest.approx(1)
    found = mean_corruption_error(factor * errors, errors)
    assert found == pytest.approx(factor)
    np.testing.assert_allclose(found.per_corruption, factor)
    order = np.random.default_rng(0).permutation(3)
    assert mean_corruption_error(errors[order], errors[::-1][order]) == pytest.approx(
        mean_corruption_error(errors, errors[::-1])
    )
    named = mean_corruption_error(
        dict(zip("abc", factor * errors, strict=True)), dict(zip("cba", errors[::-1], strict=True))
    )
    assert named == pytest.approx(factor)
    assert list(named.per_corruption) == ["a", "b", "c"]
    np.testing.assert_allclose(
        relative_corruption_error(factor * errors, factor * 0.01, errors, 0.01).per_corruption, factor, rtol=1e-6
    )


def test_what_is_missing_is_nan():
    assert np.isnan(relative_robustness([0.8, np.nan, 0.4]))
    assert np.isnan(effective_robustness([0.8, 0.4], [0.8, np.nan]))
    found = mean_corruption_error([[0.1, 0.2], [0.1, 0.2]], [[0.0, 0.0], [0.1, 0.2]])
    assert np.isnan(found)
    np.testing.assert_array_equal(found.per_corruption, [np.nan, 1])
    # The reference's errors cancel out but for rounding: no number rather than a huge one.
    assert np.isnan(relative_corruption_error([[0.1, 0.5]], 0.0, [[0.1 + 0.2, 0.0]], 0.15))


def test_a_mean_that_knows_its_parts_can_be_copied():
    found = mean_corruption_error({"noise": [0.1]}, {"noise": [0.2]})
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert again == 0.5
        assert again.per_corruption == {"noise": 0.5}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: relative_robustness([0.8]), "2 levels or more"),
        (lambda: relative_robustness(0.8), "2 levels or more"),
        (lambda: relative_robustness([0.8, 0.7], 0.0), "step above 0"),
        (lambda: relative_robustness([[0.8, 0.7], [0.8]]), "rows of equal length"),
        (lambda: effective_robustness([0.8, 0.7], [0.8, 0.7, 0.6]), "same levels"),
        (lambda: effective_robustness(np.ones((3, 2)), np.ones((5, 2))), "same levels"),
        (lambda: effective_robustness(np.ones(3), np.ones((5, 1))), "same levels|2 levels"),
        (lambda: mean_corruption_error([0.1, 0.2], [0.1, 0.2]), r"\[corruptions, severities\]"),
        (lambda: mean_corruption_error([[0.1, 0.2]], [[0.1], [0.2]]), "same corruptions and severities"),
        (lambda: mean_corruption_error({"noise": [0.1]}, {"nois": [0.1]}), "Did you mean 'no"),
        (lambda: mean_corruption_error({"noise": [0.1]}, [[0.1]]), "one of each"),
    ],
)
def test_wrong_shapes_are_told(call, text):
    with pytest.raises(InputError, match=text):
        call()


# ---------------------------------------------------------------------- calibration error


def slow_ece(logits, labels):
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    total = 0.0
    for i in range(15):
        inside = [n for n in range(len(p)) if labels[n] >= 0 and i / 15 < p[n].max() <= (i + 1) / 15]
        if inside:
            gap = np.mean([p[n].max() for n in inside]) - np.mean([p[n].argmax() == labels[n] for n in inside])
            total += len(inside) * abs(gap)
    return total / (labels >= 0).sum()


def logits_and_labels(seed, *shape, sharp=2.0):
    g = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(shape[0], CLASSES, *shape[1:], generator=g)
    return logits, torch.randint(-1, CLASSES, shape, generator=g)


def value_of(score, output, target):
    return float(score.value(score.statistics(output, target).sum(0).numpy()))


@pytest.mark.parametrize("task", ["classification", "dense"])
def test_ece_equals_one_counted_sample_by_sample_and_torchmetrics(task):
    from torchmetrics.functional.classification import multiclass_calibration_error

    shape = (211,) if task == "classification" else (7, 11, 13)
    logits, labels = logits_and_labels(0, *shape)
    score = resolve_score("ece", task, CLASSES)
    flat, flat_labels = logits.movedim(1, -1).reshape(-1, CLASSES), labels.flatten()
    found = value_of(score, logits, labels)
    assert found == pytest.approx(slow_ece(flat.double().numpy(), flat_labels.numpy()), abs=1e-9)
    theirs = multiclass_calibration_error(flat, flat_labels.clamp(min=0), CLASSES, 15, ignore_index=None)
    kept = flat_labels >= 0
    theirs = multiclass_calibration_error(flat[kept], flat_labels[kept], CLASSES, 15)
    assert found == pytest.approx(float(theirs), abs=1e-5)
    parts = sum(score.statistics(x, y).sum(0) for x, y in zip(logits.split(5), labels.split(5), strict=True))
    assert float(score.value(parts.numpy())) == pytest.approx(found, abs=1e-12)


def test_ece_of_known_answers():
    score = resolve_score("ece", "classification", 2)
    sure = torch.tensor([[50.0, -50.0]] * 7)
    assert value_of(score, sure, torch.zeros(7, dtype=torch.int64)) == pytest.approx(0)
    assert value_of(score, sure, torch.ones(7, dtype=torch.int64)) == pytest.approx(1)
    assert value_of(score, sure, torch.tensor([0, 0, 0, 1, 1, 1, 1])) == pytest.approx(4 / 7)
    even = torch.zeros(8, 2)
    assert value_of(score, even, torch.tensor([0, 1] * 4)) == pytest.approx(0)
    assert np.isnan(value_of(score, sure * torch.nan, torch.zeros(7, dtype=torch.int64)))
    assert np.isnan(value_of(score, sure, -torch.ones(7, dtype=torch.int64)))
    rows = score.statistics(
        sure.clone().index_fill_(0, torch.tensor([2]), torch.nan), torch.zeros(7, dtype=torch.int64)
    )
    assert rows.isnan().any(1).tolist() == [i == 2 for i in range(7)]


def test_the_floor_is_the_ece_of_a_calibrated_model_and_intervals_allow_for_it():
    score = resolve_score("ece", "classification", CLASSES)
    g = torch.Generator().manual_seed(0)
    for n in (101, 1009):
        values, floors, inside, drops = [], [], [], []
        for seed in range(30):
            logits = 2 * torch.randn(n, CLASSES, generator=g)
            metric = Robustness({"rgb": ["noise"]}, score=score, resamples=200, seed=seed)
            # Labels drawn from the model's own probabilities; then from those of half its logits (ECE .183).
            metric.update("clean", logits, logits.softmax(1).multinomial(1, generator=g)[:, 0])
            metric.update(("rgb", "noise", 1), logits, (logits / 2).softmax(1).multinomial(1, generator=g)[:, 0])
            clean, noisy = metric.compute().rows
            values.append(clean.value)
            floors.append(clean.floor)
            inside.append(noisy.low <= 0.183 <= noisy.high)
            drops.append(noisy.drop_low <= -0.183 <= noisy.drop_high)
            assert noisy.value > noisy.floor
        assert np.mean(floors) == pytest.approx(np.mean(values), rel=0.1)
        assert sum(inside) >= 21
        assert sum(drops) >= 15, "percentile intervals held it in 3 to 5 of 10"


# ---------------------------------------------------------------------- the instrument


def correct(share, n=200, seed=0):
    """Outputs that are right for a share of the samples, always the first ones of one order."""
    labels = torch.arange(n) % CLASSES
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    right = torch.zeros(n, dtype=torch.bool)
    right[order[: round(share * n)]] = True
    return torch.eye(CLASSES)[torch.where(right, labels, (labels + 1) % CLASSES)], labels


def planted(metric, shares, modality="rgb", corruption="noise"):
    for severity, share in enumerate(shares):
        if severity:
            metric.update((modality, corruption, severity), *correct(share))


ACCURACY = resolve_score("accuracy", "classification", CLASSES)
FALLING = [0.9, 0.8, 0.7, 0.5, 0.4, 0.2]


def test_planted_curves_come_back_with_paired_intervals():
    base = {("rgb", "noise"): [0.8, 0.7, 0.6, 0.5, 0.4, 0.3], ("rgb", "blur"): [0.8] * 6}
    metric = Robustness({"rgb": ["noise", "blur"]}, score=ACCURACY, baseline=base, baseline_name="concat", seed=1)
    metric.update(("rgb", "noise", 0), *correct(0.9))
    planted(metric, FALLING)
    planted(metric, [0.9] * 6, corruption="blur")
    result = metric.compute()
    np.testing.assert_allclose(result.curve("rgb", "noise"), FALLING)
    np.testing.assert_allclose(result.curve("rgb", "blur"), 0.9)
    assert [row.severity for row in result.rows] == [*range(6), *range(6)]
    noise, blur, mean = result.summary
    assert mean.corruption == "mean"
    assert noise.relative == pytest.approx(relative_robustness(FALLING, 0.2))
    assert noise.effective == pytest.approx(effective_robustness(FALLING, base["rgb", "noise"]))
    errors, reference = 1 - np.array(FALLING[1:]), 1 - np.array(base["rgb", "noise"][1:])
    assert noise.corruption_error == pytest.approx(mean_corruption_error([errors], [reference]))
    assert noise.relative_corruption_error == pytest.approx(relative_corruption_error([errors], 0.1, [reference], 0.2))
    assert blur.corruption_error == pytest.approx(0.5)
    assert np.isnan(blur.relative_corruption_error)
    assert blur.reason == "concat loses nothing under blur of rgb"
    assert mean.corruption_error == pytest.approx((noise.corruption_error + 0.5) / 2)
    # Nothing changes from severity to severity: the drop is exactly 0 in every resample, the score is not.
    for row in result.rows[6:]:
        assert (row.drop, row.drop_low, row.drop_high) == (0, 0, 0)
        assert row.low < 0.9 < row.high
    # Wilson's interval of .2 of 200, to within the percentile's own error.
    last = result.rows[5]
    assert (last.low, last.high) == (pytest.approx(0.150, abs=0.015), pytest.approx(0.261, abs=0.015))
    assert noise.relative_low < noise.relative < noise.relative_high


def test_the_interval_of_an_area_sees_that_the_same_samples_are_scored_at_every_level():
    chances, weights = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.1])
    labels = torch.zeros(307, dtype=torch.int64)
    paired, apart = [], []
    for seed in range(5):
        draw = np.random.default_rng(seed).random(307)
        right = draw[:, None] < chances
        metric = RelativeRobustness(6, score=ACCURACY, seed=seed)
        for level in range(6):
            metric.update(level, torch.eye(CLASSES)[torch.from_numpy(~right[:, level]).long()], labels)
        found = metric.compute()
        width = (found.high - found.low) / 3.92
        paired.append(width / ((right @ weights).std() / 307**0.5))
        apart.append(width / (weights**2 @ right.var(0) / 307) ** 0.5)
    assert abs(np.mean(paired) - 1) < 0.05
    assert np.mean(apart) > 1.5, "levels taken as independent would give far too narrow an interval"


def test_metric_classes_give_the_functions_numbers():
    base = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    outputs = [correct(share) for share in FALLING]
    relative, effective = RelativeRobustness(6, score=ACCURACY), EffectiveRobustness(base, score=ACCURACY)
    for level, (output, target) in enumerate(outputs):
        relative.update(level, output, target)
        effective.update(level, output, target)
    assert relative.compute().value == pytest.approx(relative_robustness(FALLING, 0.2))
    assert effective.compute().value == pytest.approx(effective_robustness(FALLING, base))
    reference = {"noise": [0.1, 0.2], "blur": [0.4]}
    mean = MeanCorruptionError(reference, score=ACCURACY)
    for name, severity, share in (("noise", 1, 0.8), ("noise", 2, 0.7), ("blur", 1, 0.5)):
        mean.update((name, severity), *correct(share))
    found = mean.compute()
    wanted = mean_corruption_error({"noise": [0.2, 0.3], "blur": [0.5]}, reference)
    assert found.value == pytest.approx(wanted)
    assert found.per_corruption == pytest.approx(wanted.per_corruption)
    assert found.low < found.value < found.high


def test_errors_of_scores_that_are_not_1_at_best():
    g = torch.Generator().manual_seed(0)
    target = torch.randn(53, 3, generator=g)
    output = target + torch.randn(53, 3, generator=g)
    metric = MeanCorruptionError({"noise": [2.0]}, score=resolve_score("neg_mse", "regression"))
    metric.update(("noise", 1), output, target)
    assert metric.compute().value == pytest.approx(float((output - target).double().square().mean()) / 2)
    logits, labels = logits_and_labels(0, 53)
    ece = MeanCorruptionError({"noise": [0.5]}, score=resolve_score("ece", "classification", CLASSES))
    ece.update(("noise", 1), logits, labels)
    assert ece.compute().value == pytest.approx(2 * value_of(ece.score, logits, labels))


def test_a_model_that_raises_or_gives_nan_at_one_severity_gives_a_reason_and_the_rest():
    metric = Robustness({"rgb": ["noise", "blur"], "depth": ["holes"]}, score=ACCURACY)
    metric.update("clean", *correct(0.9))
    planted(metric, FALLING)
    planted(metric, FALLING, corruption="blur")
    metric.fail(("rgb", "blur", 3), "the model raised ValueError: too blurred")
    for severity in range(1, 6):
        output, labels = correct(0.5)
        metric.update(("depth", "holes", severity), output / (severity != 2), labels)
    result = metric.compute()
    rows = {(row.modality, row.corruption, row.severity): row for row in result.rows}
    assert rows["rgb", "blur", 3].reason == "the model raised ValueError: too blurred"
    assert np.isnan(rows["rgb", "blur", 3].value)
    assert "not finite for 200 of 200" in rows["depth", "holes", 2].reason
    assert rows["rgb", "blur", 4].reason == ""
    summary = {(row.modality, row.corruption): row for row in result.summary}
    assert summary["rgb", "noise"].reason == ""
    assert summary["rgb", "blur"].reason == "rgb/blur/3: the model raised ValueError: too blurred"
    assert np.isnan(summary["rgb", "mean"].relative)
    assert "too blurred" in summary["rgb", "mean"].reason
    assert "depth/holes/2" in summary["depth", "holes"].reason


def test_without_the_undamaged_run_there_is_no_drop():
    metric = Robustness({"rgb": ["noise"]}, score=ACCURACY)
    planted(metric, FALLING)
    result = metric.compute()
    assert all("severity 0 was not scored" in row.reason and np.isnan(row.drop) for row in result.rows)
    assert result.summary[0].reason == "clean was not scored"


def test_conditions_that_are_none_are_told():
    metric = Robustness({"rgb": ["noise"]}, score=ACCURACY)
    with pytest.raises(InputError, match="Did you mean 'rgb/noise/1'"):
        metric.update(("rgb", "nois", 1), *correct(0.9))
    metric.update("clean", *correct(0.9))
    metric.update("clean", *correct(0.9))
    planted(metric, FALLING)
    with pytest.raises(InputError, match="same samples"):
        metric.compute()
    with pytest.raises(InputError, match="at least one modality"):
        Robustness({"rgb": []}, score=ACCURACY)
    with pytest.raises(InputError, match="severities 0-5"):
        Robustness({"rgb": ["noise"]}, score=ACCURACY, baseline={("rgb", "noise"): [0.9, 0.8]})
    with pytest.raises(InputError, match="resolve_score"):
        Robustness({"rgb": ["noise"]}, score="accuracy")
    with pytest.raises(InputError, match="2 levels"):
        RelativeRobustness(1, score=ACCURACY)
    with pytest.raises(InputError, match="2 levels"):
        EffectiveRobustness([0.5], score=ACCURACY)
    with pytest.raises(InputError, match="reference's errors"):
        MeanCorruptionError({"noise": []}, score=ACCURACY)

"""The scores of every task against scikit-learn or the slow obvious way; NaN, and no warning, where there is none."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from fusionscope.engine._scores import METRIC, Scores, task_loss

N, K = 53, 7
NAMES = tuple("abcdefg")
ZERO = torch.tensor(0.0)


def scored(task, output, target, parts=3, **settings):
    """Scores of batches of unequal size; warnings are errors here."""
    scores = Scores(task, NAMES, **settings)
    for x, y in zip(output.tensor_split(parts), target.tensor_split(parts), strict=True):
        scores.update(x, y, ZERO)
    found = scores.compute()
    assert METRIC[task] in found
    return found


def test_classification():
    rng = np.random.default_rng(0)
    target = rng.choice([0, 1, 3, 4, 5], N)
    said = np.where(rng.random(N) < 0.5, target, rng.choice([0, 1, 2, 3, 4], N))
    found = scored("classification", torch.eye(K)[said], torch.from_numpy(target))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(target, said))
    recall = sk.recall_score(target, said, labels=[0, 1, 3, 4, 5], average=None, zero_division=0)
    assert found["balanced_accuracy"] == pytest.approx(recall.mean())
    assert found["recall"] == pytest.approx(dict(zip("abdef", recall, strict=True)))
    # scikit-learn's macro F1 is over the labels in target or prediction, as here; 6 is in neither, 2 is only told
    assert set(target) | set(said) == set(range(6))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(target, said, average="macro", zero_division=0))


def test_dense():
    rng = np.random.default_rng(1)
    target = rng.integers(-1, 5, (11, 5, 3))
    said = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, 6, target.shape)).clip(0)
    found = scored("dense", torch.eye(K)[said].permute(0, 3, 1, 2), torch.from_numpy(target))
    y, x = target[target >= 0], said[target >= 0]
    assert found["pixel_accuracy"] == pytest.approx((x == y).mean())
    assert found["mean_accuracy"] == pytest.approx(np.mean([(x[y == k] == k).mean() for k in range(5)]))
    iou = {NAMES[k]: ((x == k) & (y == k)).sum() / ((x == k) | (y == k)).sum() for k in range(6)}
    assert found["iou"] == pytest.approx(iou)
    assert found["miou"] == pytest.approx(np.mean(list(iou.values())))


def labels(seed=2):
    """Label 5 is in no target but told, label 6 is neither."""
    rng = np.random.default_rng(seed)
    target = (rng.random((N, K)) < np.array([0.1, 0.3, 0.5, 0.7, 0.9, 0, 0])).astype("f4")
    logits = (rng.normal(size=(N, K)) + 2 * target - 1).astype("f4")
    logits[:, 6] = -1
    logits[:5] = 40 * np.sign(logits[:5])  # where float32 probabilities are 0 and 1
    return torch.from_numpy(logits), torch.from_numpy(target)


def test_multilabel():
    logits, target = labels()
    found = scored("multilabel", logits, target)
    y, x = target.numpy(), (logits > 0).numpy()
    some = range(6)
    each = sk.f1_score(y, x, average=None, zero_division=0)
    assert found["label_f1"] == pytest.approx(dict(zip(NAMES[:6], each, strict=False)))
    assert found["f1"] == pytest.approx(each[some].mean())
    assert found["micro_f1"] == pytest.approx(sk.f1_score(y, x, average="micro"))
    assert found["exact_match"] == pytest.approx(sk.accuracy_score(y, x))
    precision = [sk.average_precision_score(y[:, k], logits[:, k]) for k in range(5)]
    assert found["map"] == pytest.approx(np.mean(precision))
    assert scored("multilabel", logits, target.long())["f1"] == found["f1"]


def test_probabilities_are_never_mistaken_for_logits():
    logits, target = torch.full((N, K), 0.25), torch.ones(N, K)
    assert scored("multilabel", logits, target)["exact_match"] == 1


@pytest.mark.parametrize(("offset", "unit"), [(0.0, 1.0), (1e4, 1e-2), (0.0, 1e-6)])
@pytest.mark.parametrize("shape", [(N,), (N, 3)])
def test_regression(offset, unit, shape):
    rng = np.random.default_rng(3)
    target = (rng.normal(size=shape) * unit + offset).astype("f4")
    output = (0.7 * (target - offset) + 0.4 * unit * rng.normal(size=shape) + offset).astype("f4")
    found = scored("regression", torch.from_numpy(output), torch.from_numpy(target))
    x, y = output.astype("f8").reshape(N, -1), target.astype("f8").reshape(N, -1)
    assert found["r2"] == pytest.approx(sk.r2_score(y, x), abs=1e-6)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, x), rel=1e-6)
    each = [np.corrcoef(x[:, k], y[:, k])[0, 1] for k in range(x.shape[1])]
    assert found["correlation"] == pytest.approx(np.mean(each), abs=1e-6)


def test_sentiment():
    rng = np.random.default_rng(4)
    target = rng.choice(np.arange(-9, 10) / 3, 101).astype("f4")
    output = (0.6 * target + rng.normal(size=101)).astype("f4")
    output[7], output[11] = 5.5, 0.5
    found = scored("regression", torch.from_numpy(output), torch.from_numpy(target), sentiment=True)
    assert found["acc2"] == pytest.approx(sk.accuracy_score(target >= 0, output >= 0))
    assert found["f1"] == pytest.approx(sk.f1_score(target >= 0, output >= 0, average="weighted"))
    there = target != 0
    assert 0 < there.sum() < 101
    y, x = target[there] > 0, output[there] > 0
    assert found["acc2_nonzero"] == pytest.approx(sk.accuracy_score(y, x))
    assert found["f1_nonzero"] == pytest.approx(sk.f1_score(y, x, average="weighted"))
    grades = [np.round(np.clip(a, -3, 3)) for a in (target, output)]
    assert found["acc7"] == pytest.approx(sk.accuracy_score(*grades))
    assert {"r2", "mae", "correlation"} <= set(found)
    assert "acc7" not in scored("regression", torch.from_numpy(output), torch.from_numpy(target))


def test_what_cannot_be_computed_is_nan():
    nan = pytest.approx(math.nan, nan_ok=True)
    ramp, flat = torch.linspace(0, 1, N), torch.full((N,), 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scored("regression", ramp, flat)
        assert (found["r2"], found["correlation"]) == (nan, nan)
        assert found["mae"] == pytest.approx((ramp - 0.3).abs().mean().item())
        found = scored("regression", flat, ramp)
        assert found["correlation"] == nan
        assert found["r2"] <= 0
        pair = scored("regression", torch.stack([ramp, ramp], 1), torch.stack([flat, 2 * ramp], 1))
        alone = scored("regression", ramp[:, None], 2 * ramp[:, None])
        assert (pair["r2"], pair["correlation"]) == (alone["r2"], pytest.approx(1))
        one = scored("regression", ramp[:1], ramp[:1], parts=1, sentiment=True)
        assert (one["r2"], one["correlation"], one["acc2_nonzero"], one["f1_nonzero"]) == (nan, nan, nan, nan)
        assert (one["mae"], one["acc2"], one["acc7"]) == (0, 1, 1)
        assert scored("regression", ramp * math.nan, ramp, sentiment=True)["r2"] == nan
        none = scored("multilabel", torch.full((N, K), -1.0), torch.zeros(N, K))
        assert (none["f1"], none["micro_f1"], none["map"], none["exact_match"]) == (nan, nan, nan, 1)
        single = scored("multilabel", labels()[0], labels()[1] * torch.eye(K)[2])
        assert single["map"] == pytest.approx(sk.average_precision_score(labels()[1][:, 2], labels()[0][:, 2]))
        scored("multilabel", labels()[0] * math.nan, labels()[1])
        ignored = scored("dense", torch.zeros(5, K, 3, 2), torch.full((5, 3, 2), -1))
        assert (ignored["miou"], ignored["pixel_accuracy"], ignored["mean_accuracy"]) == (nan, nan, nan)


def test_the_loss_of_several_labels():
    logits, target = labels()
    p = logits.double().sigmoid().clamp(1e-300, 1 - 1e-16)
    for smoothing in (0.0, 0.2):
        y = target.double() * (1 - smoothing) + smoothing / 2
        expected = -(y * p.log() + (1 - y) * (-logits.double()).sigmoid().log()).mean()
        found = task_loss("multilabel", logits, target, smoothing, torch.ones(1))
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(task_loss("multilabel", logits, target.long(), 0.2, torch.ones(1)), found)

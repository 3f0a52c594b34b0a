"""What exchanging values between samples tells: perceptual scores, EMAP; and captum as an oracle of Shapley values."""

from __future__ import annotations

import itertools
import pickle

import games_naive as naive
import numpy as np
import pytest
import torch
from torch import nn

from fusionscope.errors import InputError
from fusionscope.measures import Emap, PerceptualScore, resolve_score
from fusionscope.measures.functional import emap, perceptual_score, permute_within, shapley


def test_captum_gives_the_same_shapley_values():
    captum = pytest.importorskip("captum.attr", reason="captum is not installed (extra 'peers')")
    torch.manual_seed(0)
    first, last = nn.Linear(2 + 3 + 5, 7), nn.Linear(7, 1)

    class Small(nn.Module):
        def forward(self, *parts):
            return last(torch.tanh(first(torch.cat(parts, 1)))).squeeze(1)

    parts = tuple(torch.randn(11, width) for width in (2, 3, 5))
    masks = tuple(torch.full((1, p.shape[1]), i) for i, p in enumerate(parts))
    model = Small()
    with torch.no_grad():
        theirs = captum.ShapleyValues(model).attribute(parts, feature_mask=masks)
        ours = shapley(
            {S: model(*(p if str(i) in S else p * 0 for i, p in enumerate(parts))) for S in naive.subsets("012")}
        )
    for i, part in enumerate(theirs):
        np.testing.assert_allclose(ours[str(i)], part[:, 0], atol=1e-6)


def naive_emap(L):
    N = len(L)
    out = np.zeros((N, *L.shape[2:]))
    for i in range(N):
        out[i] = sum(L[i, j] for j in range(N)) / N + sum(L[j, i] for j in range(N)) / N
        out[i] -= sum(L[j, k] for j, k in itertools.product(range(N), range(N))) / N**2
    return out


def test_emap_agrees_with_loops_and_projects():
    rng = np.random.default_rng(0)
    L = rng.normal(size=(7, 7, 3, 2))
    np.testing.assert_allclose(emap(L), naive_emap(L))
    np.testing.assert_allclose(emap(torch.tensor(L)).numpy(), naive_emap(L))
    assert emap(torch.tensor(L).float()).dtype == torch.float32
    # Of all additive functions it is the nearest over all pairs: what is left has no row and no column means.
    f, g = L.mean(1), L.mean(0)
    rest = L - (f[:, None] + g[None] - L.mean((0, 1)))
    np.testing.assert_allclose(rest.mean(0), 0, atol=1e-15)
    additive = rng.normal(size=(7, 1, 3)) + rng.normal(size=(1, 7, 3))
    np.testing.assert_allclose(emap(additive), additive[np.arange(7), np.arange(7)])
    with pytest.raises(InputError, match="all pairs of N samples"):
        emap(L[:5])


def pairs_of(f, n=101, seed=0):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, generator=g), torch.randn(n, generator=g)
    logit = f(a[:, None], b[None, :])
    return torch.stack([torch.zeros_like(logit), logit], -1), a, b


def run_emap(L, y, group=None, block=17, order=None):
    metric = Emap(len(L), score=resolve_score("accuracy", "classification", 2), resamples=200)
    rows = torch.arange(len(L)) if order is None else order
    for part in rows.split(block):
        metric.update(part, L[part], y[part], None if group is None else group[part])
    return metric


def test_an_additive_model_is_its_own_approximation_and_xor_has_a_gap():
    L, a, b = pairs_of(lambda a, b: a + 2 * b)
    found = run_emap(L, (a + 2 * b > 0).long()).compute()
    assert (found.gap, found.gap_low, found.gap_high, found.model) == (0, 0, 0, 1)
    L, a, b = pairs_of(lambda a, b: a * b)
    found = run_emap(L, (a * b > 0).long()).compute()
    assert found.model == 1
    assert found.gap_low > 0.2
    L, a, b = pairs_of(lambda a, b: a + 0 * b)  # a constant modality, or one that the model ignores
    assert run_emap(L, (b > 0).long()).compute().gap == 0


def test_emap_in_blocks_by_groups_and_in_any_order():
    L, a, b = pairs_of(lambda a, b: a * b)
    y, group = (a * b > 0).long(), torch.arange(101) // 5
    order = torch.randperm(101, generator=torch.Generator().manual_seed(3))
    whole, mixed = (run_emap(L, y, group, order=o).compute() for o in (None, order))
    assert whole.groups == mixed.groups == 21
    assert vars(whole)["gap_low"] == mixed.gap_low
    np.testing.assert_allclose(whole.predictions, emap(L.double()).numpy())
    np.testing.assert_allclose(mixed.predictions, whole.predictions)


def test_emap_of_dense_outputs_and_regression():
    g = torch.Generator().manual_seed(0)
    L, y = torch.randn(5, 5, 3, 2, 4, generator=g), torch.randint(0, 3, (5, 2, 4), generator=g)
    metric = Emap(5, score=resolve_score("miou", "dense", 3), resamples=50)
    metric.update(torch.arange(5), L, y)
    found = metric.compute()
    np.testing.assert_allclose(found.predictions, naive_emap(L.double().numpy()), atol=1e-12)
    metric = Emap(5, score=resolve_score("r2", "regression"), resamples=50)
    metric.update(torch.arange(5), L[..., 0, 0, 0], y[:, 0, 0].float())
    assert np.isfinite(metric.compute().value)


def test_emap_wrong_use_and_failure():
    L, a, _ = pairs_of(lambda a, b: a * b, 5)
    y = (a > 0).long()
    with pytest.raises(InputError, match=r"outputs \[b, 5, ...\] of rows 0 to 4"):
        run_emap(L, y).update(torch.arange(2), L[:2, :3], y[:2])
    with pytest.raises(InputError, match="resolved score"):
        Emap(5, score="accuracy")
    metric = run_emap(L, y)
    metric.update(torch.arange(1), L[:1], y[:1])
    with pytest.raises(InputError, match="some samples twice"):
        metric.compute()
    metric = run_emap(L, y)
    metric.fail("RuntimeError: no")
    assert np.isnan(metric.compute().gap)
    assert pickle.loads(pickle.dumps(metric)).compute().reason == "RuntimeError: no"
    fresh = Emap(5, score=metric.score, resamples=200)
    assert fresh.merge(metric).compute().reason == "RuntimeError: no"


def test_perceptual_score_by_hand():
    score = perceptual_score(0.8, [0.4, 0.6])
    assert score == pytest.approx(0.375)
    assert score.mean == score
    assert score.sd == pytest.approx(0.25 / 2**0.5)
    assert perceptual_score(0.8, np.array([0.4]), normaliser=0.5) == pytest.approx(0.8)
    assert np.isnan(perceptual_score(0.8, 0.4).sd)
    assert np.isnan(perceptual_score(0.0, [0.1]))
    assert pickle.loads(pickle.dumps(score)).sd == score.sd
    with pytest.raises(InputError, match="one or more permutations"):
        perceptual_score(0.8, [])
    for wrong in ((0.8, "half"), ([0.8, 0.9], 0.4), (0.8, 0.4, "all")):
        with pytest.raises(InputError, match="expected numbers"):
            perceptual_score(*wrong)


@pytest.mark.parametrize("seed", range(20))
def test_permutations_keep_their_promise(seed):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (23,), generator=g)
    for kind in ("any", "within class", "across classes"):
        order, stayed = permute_within(labels, seed, kind)
        assert order.sort().values.tolist() == list(range(23))
        assert torch.equal(permute_within(labels, seed, kind)[0], order)
        own = order == torch.arange(23)
        if kind == "any":
            assert not own.any()
        same = labels[order] == labels
        sizes = labels.bincount()
        if kind == "within class":
            assert same.all()
            assert int(own.sum()) == stayed == int((sizes == 1).sum())
        if kind == "across classes":
            assert int(same.sum()) == stayed == max(0, 2 * int(sizes.max()) - 23)
    orders = {tuple(permute_within(labels, s, "any")[0].tolist()) for s in range(9)}
    assert len(orders) == 9


def test_permutations_of_few_samples_and_classes():
    assert permute_within(torch.zeros(1), 0, "any")[1] == 1
    assert permute_within(torch.zeros(5), 0, "across classes")[1] == 5
    assert permute_within(torch.tensor([0, 0, 0, 1]), 0, "across classes")[1] == 2
    assert permute_within(torch.arange(5), 0, "within class")[1] == 5
    assert len(permute_within(torch.zeros(0), 0, "across classes")[0]) == 0
    with pytest.raises(InputError, match="Did you mean 'within class'"):
        permute_within(torch.zeros(3), 0, "within clas")


def test_perceptual_scores_tell_a_used_modality_from_an_ignored_one():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (211,), generator=g)
    values = {
        "used": torch.eye(3)[y] + 0.4 * torch.randn(211, 3, generator=g),
        "ignored": torch.randn(211, 3, generator=g),
    }
    score = resolve_score("accuracy", "classification", 3)
    metric = PerceptualScore(values, repeats=3, score=score, resamples=300)
    metric.update(None, values["used"], y)
    for m, kind, r in itertools.product(values, metric.kinds, range(3)):
        order, stayed = permute_within(y, r, kind)
        metric.update((m, kind, r), values["used"][order] if m == "used" else values["used"], y, stayed=stayed)
    found = metric.compute()
    assert found["used", "any"].low > 0.4
    assert found["used", "across classes"].value > found["used", "any"].value
    # Within a class nothing that tells classes apart is lost.
    assert found["used", "within class"].value == 0
    for kind in metric.kinds:
        row = found["ignored", kind]
        assert (row.low, row.value, row.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert found["used", "any"].reason == ""


def test_perceptual_scores_say_why_there_is_none():
    y = torch.tensor([0, 1, 1])
    score = resolve_score("accuracy", "classification", 2)
    metric = PerceptualScore(["a", "b"], kinds=["within class"], repeats=1, score=score)
    assert metric.compute().rows[0].reason == "no batch was seen"
    metric.update(None, torch.eye(2)[y], y)
    metric.update(("a", "within class", 0), torch.eye(2)[y], y, stayed=1)
    metric.fail(("b", "within class", 0), "RuntimeError: no")
    a, b = metric.compute().rows
    assert a.value == 0
    assert "1 of 3 samples had their own value" in a.reason
    assert "one repeat" in a.reason
    assert np.isnan(b.value)
    assert b.reason == "b, within class, repeat 0: RuntimeError: no"
    with pytest.raises(InputError, match="kinds of"):
        PerceptualScore(["a"], kinds=["all"], score=score)

"""Streaming similarities: what the table of instruments does not say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measures_registry import feed_taps
from measures_similarity import TAPS, gather, map_batches
from scipy.stats import pearsonr

from fusionscope.errors import InputError
from fusionscope.measures import CKA, ChannelCorrelation, MinibatchCKA, PairwiseSimilarity
from fusionscope.measures import _whole_cka as whole_module
from fusionscope.measures.functional import channel_correlation, cka, family_bound, mutual_knn, procrustes, rsa, svcca


def stream(metric, batches):
    for index, features in enumerate(batches):
        feed_taps(metric, (features, None), index)
    return metric.compute()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n, seed=0, lift=0.0):
    z = noise(n, 3, seed=seed)
    x = z @ noise(3, 7, seed=90) + noise(n, 7, seed=seed + 1000)
    return {"x": (x + lift).float(), "y": z @ noise(3, 5, seed=91) + noise(n, 5, seed=seed + 2000)}


def test_whole_cka_does_not_depend_on_the_batches_and_is_that_of_all_rows():
    every = related(59)
    results = []
    for sizes in ((59,), (1, 2, 3, 53), (29, 1, 29)):
        parts = [t.split(sizes) for t in every.values()]
        results.append(stream(CKA(["x", "y"]), [{"x": x, "y": y} for x, y in zip(*parts, strict=True)]))
    for result in results:
        assert result.matrix[0, 1] == pytest.approx(cka(*every.values()).item(), abs=1e-10)
        assert result.biased[0, 1] == pytest.approx(cka(*every.values(), estimator="biased").item(), abs=1e-10)
        np.testing.assert_allclose(result.matrix.diagonal(), 1, atol=1e-12)


@pytest.mark.parametrize("kind", [CKA, MinibatchCKA])
def test_mean_far_above_spread(kind):
    batches = [related(29, seed, lift=1e4) for seed in range(5)]
    extra = {"permutations": 0} if kind is MinibatchCKA else {}
    found = stream(kind(["x", "y"], **extra), batches).matrix
    shifted = [{"x": f["x"].double() - 1e4, "y": f["y"]} for f in batches]
    np.testing.assert_allclose(found, stream(kind(["x", "y"], **extra), shifted).matrix, atol=1e-6)


def test_parts_with_other_means_merge_exactly():
    batches = [related(31, seed, lift=10.0 ** (2 * seed)) for seed in range(3)]
    parts = [CKA(["x", "y"]) for _ in batches]
    for index, (part, batch) in enumerate(zip(parts, batches, strict=True)):
        feed_taps(part, (batch, None), index)
    merged = parts[2].merge(parts[0]).merge(parts[1]).compute()
    rows = {k: torch.cat([b[k].double() for b in batches]) for k in ("x", "y")}
    assert merged.matrix[0, 1] == pytest.approx(cka(*rows.values()).item(), abs=1e-9)


def test_the_null_of_biased_cka_is_its_mean_under_random_pairing():
    every = related(37)
    null = stream(CKA(["x", "y"]), [every]).biased_null[0, 1]
    rng = np.random.default_rng(0)
    values = [cka(every["x"], every["y"][rng.permutation(37)], "biased").item() for _ in range(600)]
    assert null == pytest.approx(np.mean(values), abs=4 * np.std(values) / 600**0.5)


def test_location_rows_are_averages_of_finer_and_nearest_of_coarser_taps():
    coarse = torch.arange(6.0).view(1, 1, 2, 3)
    metric = CKA(["a"], rows="location", grid=(2, 6))
    rows = metric.reduce(coarse, metric.context(1, None, 0)).rows
    assert rows.flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    metric = CKA(["a"], rows="location", grid=1)
    assert metric.reduce(coarse, metric.context(1, None, 0)).rows.item() == 2.5
    metric = CKA(["a"], rows="location", grid=(2,))
    assert metric.reduce(torch.arange(4.0).view(1, 1, 4), metric.context(1, None, 0)).rows.flatten().tolist() == [
        0.5,
        2.5,
    ]


def test_whole_cka_refuses_what_it_cannot_hold(monkeypatch):
    metric = CKA(["a"])
    with pytest.raises(InputError, match=r"at most 2048 units, got 2049; pool it first, or use MinibatchCKA"):
        metric.reduce(torch.zeros(3, 2049), metric.context(3, None, 0))
    monkeypatch.setattr(whole_module, "LIMIT", 1000.0)
    with pytest.raises(InputError, match=r"products between units.*12 units of 2 taps; measure fewer taps"):
        stream(CKA(["x", "y"]), [related(7)])
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"expected 7 units of 'x' as before, got 5"):
        stream(CKA(["x"]), [{"x": noise(7, 7)}, {"x": noise(7, 5)}])
    with pytest.raises(InputError, match="rows to be one of"):
        CKA(["a"], rows="pixel")
    with pytest.raises(InputError, match="at least one cell"):
        CKA(["a"], rows="location", grid=(0, 4))


def test_a_bad_tap_leaves_the_others_alone():
    clean = [f for f, _ in map_batches()]
    dirty = [f for f, _ in map_batches(change=lambda x: x * torch.nan)]
    for make in (lambda: CKA(TAPS), lambda: CKA(TAPS, rows="location")):
        found, wanted = stream(make(), dirty), stream(make(), clean)
        assert np.isnan(found.matrix[0]).all()
        np.testing.assert_allclose(found.matrix[1:, 1:], wanted.matrix[1:, 1:], atol=1e-12)
    found, wanted = (stream(PairwiseSimilarity(TAPS, permutations=19, k=3), b) for b in (dirty, clean))
    for name, part in found.measures.items():
        assert np.isnan(part.matrix[0]).all(), name
        np.testing.assert_allclose(part.matrix[1:, 1:], wanted.measures[name].matrix[1:, 1:], atol=1e-12)
        assert np.isfinite(part.null_high[1, 2]), name


def test_nothing_seen_is_said():
    for result in (CKA(TAPS).compute(), *PairwiseSimilarity(TAPS).compute().measures.values()):
        assert np.isnan(result.matrix).all()
        assert (result.reason == "no batch was seen").all()
    assert ChannelCorrelation([("a", "b")]).compute().pairs["a", "b"].reason == "no batch was seen"


def test_pairwise_of_all_samples_is_the_functions():
    batches = map_batches(sizes=(13, 17, 11))
    result = stream(PairwiseSimilarity(TAPS, k=5, permutations=0), [f for f, _ in batches])
    x, y = gather(batches, "a"), gather(batches, "c")
    wanted = {
        "procrustes": procrustes(x, y),
        "svcca": svcca(x, y),
        "rsa": rsa(x, y),
        "mutual_knn": mutual_knn(x, y, 5),
        "cka_rbf": cka(x, y, kernel="rbf"),
    }
    assert (result.used, result.samples, result.batches) == (41, 41, 3)
    for name, value in wanted.items():
        assert result.measures[name].matrix[0, 2] == pytest.approx(value.item(), abs=1e-6), name
        assert np.isnan(result.measures[name].null_high).all()


def test_the_subsample_is_random_bounded_and_the_same_for_any_order():
    batches = [{"a": torch.full((13, 1), float(i)) + torch.arange(13.0)[:, None] / 100} for i in range(40)]
    kept = []
    for order in (range(40), reversed(range(40))):
        metric = PairwiseSimilarity(["a"], samples=101, permutations=0)
        for index in order:
            context = metric.context(13, None, index)
            metric.update({"a": metric.reduce(batches[index]["a"], context)}, context)
            assert len(metric.keys) <= 101
        kept.append(metric.vectors.flatten())
    assert torch.equal(*kept)
    assert metric.compute().used == 101
    assert len(kept[0].unique()) == 101
    assert kept[0].mean().item() == pytest.approx(20, abs=3.5)  # sd 1.1
    other = PairwiseSimilarity(["a"], samples=101, permutations=0, seed=1)
    stream(other, batches)
    assert not torch.equal(other.vectors.flatten(), kept[0])


def test_related_taps_are_above_their_null_and_unrelated_ones_rarely():
    high = stream(PairwiseSimilarity(["x", "y"], permutations=19), [related(101)])
    for name, part in high.measures.items():
        assert part.matrix[0, 1] > part.null_high[0, 1], name
    false = dict.fromkeys(high.measures, 0)
    for trial in range(40):
        batch = {str(tap): noise(37, 5, seed=100 * trial + tap) for tap in range(5)}
        result = stream(PairwiseSimilarity(list(batch), permutations=19, k=5, seed=trial), [batch])
        for name, part in result.measures.items():
            false[name] += bool((part.matrix > part.null_high)[np.triu_indices(5, 1)].any())
    assert max(false.values()) <= 7, false  # 2 of 40 expected


def test_channels_that_correspond():
    batches = [f for f, _ in map_batches()]
    metric = ChannelCorrelation([("a", "b"), ("b", "a")])
    result = stream(metric, [{k: f[k] for k in "ab"} for f in batches])
    x, y = (gather([(f, None) for f in batches], tap) for tap in "ab")
    np.testing.assert_allclose(result.pairs["a", "b"].correlation, channel_correlation(x, y), atol=1e-6)
    np.testing.assert_allclose(result.pairs["b", "a"].correlation, result.pairs["a", "b"].correlation, atol=1e-12)
    with pytest.raises(InputError, match="got 5 of 'a' and 7 of 'c'; compare these by CKA"):
        stream(ChannelCorrelation([("a", "c")]), [{k: f[k] for k in "ac"} for f in batches])
    with pytest.raises(InputError, match="one or more different pairs"):
        ChannelCorrelation([])


def test_one_constant_channel_leaves_the_others_alone():
    a, b = noise(31, 3) + 1e6, noise(31, 3, seed=1)
    b[:, 1] = 0.1
    pair = stream(ChannelCorrelation([("a", "b")]), [{"a": a[:13], "b": b[:13]}, {"a": a[13:], "b": b[13:]}])
    pair = pair.pairs["a", "b"]
    assert pair.unit_reason.tolist() == ["", "constant", ""]
    assert pair.reason == ""
    assert pair.correlation[2] == pytest.approx(pearsonr(a[:, 2], b[:, 2])[0], abs=1e-8)
    assert pair.mean == pytest.approx(np.nanmean(pair.correlation))


def test_the_bound_of_channels_is_family_wise():
    false = 0
    for trial in range(200):
        result = stream(
            ChannelCorrelation([("a", "b")]), [{t: noise(23, 11, seed=2 * trial + i) for i, t in enumerate("ab")}]
        )
        pair = result.pairs["a", "b"]
        false += bool((abs(pair.correlation) > pair.null_high).any())
    assert 2 <= false <= 22  # 10 expected, sd 3


def test_minibatch_against_is_a_block_of_all_pairs():
    batches = [f for f, _ in map_batches()]
    every = stream(MinibatchCKA(TAPS, permutations=0), batches)
    block = stream(MinibatchCKA(["a", "b"], against=["c"], permutations=0), batches)
    assert (block.taps, block.against) == (("a", "b"), ("c",))
    for name in ("matrix", "low", "high"):
        np.testing.assert_allclose(getattr(block, name), getattr(every, name)[:2, 2:], atol=1e-12)
    assert stream(MinibatchCKA(TAPS, against=["b"], permutations=0), batches).matrix[1, 0] == 1
    with pytest.raises(InputError, match="different names"):
        MinibatchCKA(["a"], against=[])
    with pytest.raises(InputError, match="kernel to be one of"):
        MinibatchCKA(["a"], kernel="poly")


def test_wrong_settings():
    with pytest.raises(InputError, match="Did you mean 'procrustes'"):
        PairwiseSimilarity(["a"], ["procrustis"])
    with pytest.raises(InputError, match="samples >= 1"):
        PairwiseSimilarity(["a"], samples=0)
    with pytest.raises(InputError, match="permutations>=99"):
        PairwiseSimilarity(["a"], alpha=0.01)
    with pytest.raises(InputError, match="equal settings, got taps"):
        CKA(["a"]).merge(CKA(["b"]))
    with pytest.raises(InputError, match=r"expected 5 units of 'tap 0' as before, got 7"):
        a, b = CKA(["a"]), CKA(["a"])
        stream(a, [{"a": noise(5, 5)}])
        stream(b, [{"a": noise(5, 7)}])
        a.merge(b)


def test_a_bound_of_discrete_values_that_equal_their_mean_does_not_warn():
    null = np.array([0.25, 0.5, 0.75, 0.5])[:, None]
    z, mean, sd = family_bound(null, 0.25)
    assert (np.isfinite(z), mean[0]) == (True, 0.5)
    assert sd[0] > 0

"""Concept probes, set IoU and semantic variance: planted truths, and what must not be found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm
from torch.nn import functional as F

from fusionscope.errors import InputError
from fusionscope.measures import ConceptProbe, SemanticVariance
from fusionscope.measures._collaboration import pressure
from fusionscope.measures._concepts import Lattice, concept_context, resized
from fusionscope.measures._samples import folds_of, sample_hash, smallest
from fusionscope.measures.functional import joint_score, semantic_variance, set_iou


def measure(metric, batches, groups=None):
    """Feed ``(features, target)`` batches in all passes, and compute."""
    for number in range(metric.passes):
        if number:
            metric.advance()
        for index, (features, target) in enumerate(batches):
            group = groups[index] if groups else None
            context = metric.context(len(target), target, index, group)
            metric.update({tap: metric.reduce(x, context, tap) for tap, x in features.items()}, context)
    return metric.compute()


def label_maps(rng, count, size=16, classes=3, cell=4):
    coarse = torch.from_numpy(rng.integers(0, classes, (count, size // cell, size // cell)))
    return coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def readable(labels, rng, shift, units=5):
    """Noise whose unit 1 is raised by ``shift`` where the label is 1."""
    x = torch.from_numpy(rng.normal(size=(len(labels), units, *labels.shape[1:]))).float()
    x[:, 1] += shift * (labels == 1)
    return x


def shift_for(iou, prevalence):
    """The shift of a unit-variance normal score that gives this set IoU at its best threshold."""

    def best(shift):
        def miss(t):
            hit = prevalence * norm.sf(t - shift)
            return -hit / (prevalence + (1 - prevalence) * norm.sf(t))

        return -minimize_scalar(miss, bounds=(-3, 9), method="bounded").fun

    return brentq(lambda s: best(s) - iou, 0.01, 9)


def test_closed_forms():
    a, b = (0.30, 0.10, 0.05, 0.0), (0.20, 0.10, 0.15, 0.08)
    assert semantic_variance(a, b) == pytest.approx(0.07, abs=1e-12)
    assert semantic_variance(a, b, "sum") == pytest.approx(0.28, abs=1e-12)
    assert semantic_variance(torch.tensor(a), np.array(b), "l2") == pytest.approx(0.0066, abs=1e-8)
    assert semantic_variance(a, b, "popvar") == pytest.approx(0.00165, abs=1e-12)
    assert set_iou(np.array([[0.9, 0.2], [0.7, 0.1]]), np.array([[1, 0], [0, 1]]), 0.5) == pytest.approx(1 / 3)
    # Aggregate, then divide: the mean of the two samples' IoUs would be 1/2.
    assert set_iou(np.array([[0.9, 0.2], [0.7, 0.1]]), np.array([[1, 0], [0, 1]]), 0.5) != pytest.approx(0.5)
    assert np.isnan(set_iou([0.1], [False], 0.5))


@pytest.mark.parametrize("agg", ["l1", "l2", "popvar", "sum"])
def test_laws_of_semantic_variance(agg):
    rng = np.random.default_rng(0)
    a, b, c = rng.random((3, 7))
    assert semantic_variance(a, a, agg) == 0
    assert semantic_variance(a, b, agg) == semantic_variance(b, a, agg)
    if agg in ("l1", "sum"):
        assert semantic_variance(a, c, agg) <= semantic_variance(a, b, agg) + semantic_variance(b, c, agg)
    else:
        far = [semantic_variance([x], [y], agg) for x, y in ((0, 1), (0, 0.5), (0.5, 1))]
        assert far[0] > far[1] + far[2]  # squares break the triangle inequality
    with pytest.raises(InputError, match=r"expected agg of .*, got 'l3'"):
        semantic_variance(a, b, "l3")
    with pytest.raises(InputError, match="same concepts twice, got 7 and 6"):
        semantic_variance(a, b[:6], agg)


def test_joint_score():
    shuffled = np.abs(np.subtract.outer([0.5, 0.1], [0.5, 0.3])).mean()
    found = joint_score(0.7, [0.5, 0.1], [0.5, 0.3])
    assert found.variance == pytest.approx(0.1 / shuffled)
    assert found.consistency == pytest.approx(0.7 * (1 - found.variance))
    assert found.speciality == pytest.approx(0.3 * found.variance)
    assert np.isnan(joint_score(0.7, [0.2, 0.2], [0.2, 0.2]).consistency)


def test_a_concept_that_a_unit_shows_is_read_without_error():
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(6):
        labels = label_maps(rng, 11)
        x = readable(labels, rng, 0.0)
        x[:, 2] = 3.0 * (labels == 1) - 50
        batches.append(({"a": x, "noise": readable(labels, rng, 0.0)}, labels))
    found = measure(ConceptProbe(["a", "noise"], 3), batches).taps
    assert found["a"].iou[1] == 1
    assert found["a"].score[1] == 1
    assert found["a"].encoded[1]
    assert not found["noise"].encoded.any()
    assert np.allclose(found["noise"].iou, found["noise"].prevalence, atol=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_planted_difference_of_a_tenth_is_found_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    strong, weak = shift_for(0.6, 1 / 3), shift_for(0.5, 1 / 3)
    batches = []
    for _ in range(12):
        labels = label_maps(rng, 17)
        shifts = {"a": strong, "same": strong, "b": weak}
        batches.append(({tap: readable(labels, rng, s) for tap, s in shifts.items()}, labels))
    result = measure(SemanticVariance(["a", "same", "b"], 3, seed=seed), batches)
    assert result.raw[0, 2] > result.floor[0, 2]
    found = result.profile([("a", "b"), ("b", "a"), ("a", "same")])
    assert abs(result.probes.taps["a"].iou[1] - result.probes.taps["b"].iou[1] - 0.1) < 0.02
    assert [found.kind[0, 1], found.kind[1, 1], found.kind[2, 1]] == ["a", "b", "both"]
    assert found.kind[2].tolist().count("a") + found.kind[2].tolist().count("b") == 0


def test_noise_encodes_nothing():
    """At alpha 0.05 for all taps and concepts together, 20 sets of noise may show about one."""
    seen = 0
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        batches = [
            ({"a": torch.from_numpy(rng.normal(size=(32, 13))), "b": torch.from_numpy(rng.normal(size=(32, 3)))}, y)
            for y in torch.from_numpy(rng.integers(0, 7, (6, 32)))
        ]
        seen += any(t.encoded.any() for t in measure(ConceptProbe(["a", "b"], 7, seed=seed), batches).taps.values())
    assert seen <= 3


def test_masks_give_what_labels_give_and_any_concept_may_be_named():
    rng = np.random.default_rng(0)
    plain, named = [], []
    for _ in range(4):
        labels = label_maps(rng, 13)
        labels[:, 0] = -1
        x = {"a": readable(labels, rng, 2.0)}
        masks = F.one_hot(labels.clamp(min=0), 3).movedim(-1, 1).float()
        masks[:, :, 0] = torch.nan
        plain.append((x, labels))
        named.append((x, masks))
    one, two = (measure(ConceptProbe(["a"], 3), batches).taps["a"] for batches in (plain, named))
    np.testing.assert_array_equal(one.iou, two.iou)
    np.testing.assert_array_equal(one.null_high, two.null_high)
    # Overlapping concepts, of samples: 0 and 1 together cover everything.
    some = [(x, torch.stack([m[:, 1, 1:].mean((1, 2)) > 0.3, torch.ones(13) > 0], 1)) for x, m in named]
    found = measure(ConceptProbe(["a"], 2), some).taps["a"]
    assert found.reason.tolist() == ["", "the concept is everywhere"]
    assert found.encoded[0]


def test_groups_are_never_split():
    group = torch.tensor([5, -3, 5, 7, -3, 2**40])
    one = folds_of(6, 0, 1, 10, group)
    two = folds_of(6, 9, 1, 10, group.flip(0))
    assert torch.equal(one, two.flip(0))
    assert len(folds_of(5000, 0, 0, 10).bincount()) == 10
    assert folds_of(5000, 0, 0, 10).bincount().min() > 400
    assert not torch.equal(folds_of(50, 0, 0, 10), folds_of(50, 1, 0, 10))
    rng = np.random.default_rng(0)
    batches = [({"a": torch.from_numpy(rng.normal(size=(32, 3)))}, torch.arange(32) % 2) for _ in range(4)]
    found = measure(ConceptProbe(["a"], 2), batches, [torch.zeros(32, dtype=torch.long)] * 4).taps["a"]
    assert found.reason.tolist() == ["samples (or groups) fall into fewer than 2 folds"] * 2


def test_a_probe_that_learns_groups_by_heart_is_found_out():
    """Units that name the group tell the class of a seen group only: with groups known, nothing is encoded."""
    rng = np.random.default_rng(1)
    classes = torch.from_numpy(rng.permutation(np.arange(60) % 2))
    batches, groups = [], []
    for _ in range(6):
        group = torch.from_numpy(rng.integers(0, 60, 64))
        batches.append(({"a": F.one_hot(group, 60).float()}, classes[group]))
        groups.append(group)
    assert measure(ConceptProbe(["a"], 2), batches).taps["a"].encoded.all()
    assert not measure(ConceptProbe(["a"], 2), batches, groups).taps["a"].encoded.any()


def test_hashes_and_the_smallest():
    whole = torch.cat([sample_hash(7, i, 3) for i in range(4)])
    assert len(whole.unique()) == 28
    assert whole.min() >= 0
    rows = torch.arange(28)
    keys, (kept,) = smallest(whole, [rows], 5)
    a, (x,) = smallest(whole[:13], [rows[:13]], 5)
    b, (y,) = smallest(whole[13:], [rows[13:]], 5)
    again, (both,) = smallest(torch.cat([b, a]), [torch.cat([y, x])], 5)
    assert torch.equal(keys, again)
    assert torch.equal(kept, both)


@pytest.mark.parametrize(("have", "want"), [((5, 7), (23, 19)), ((23, 19), (5, 7)), ((11,), (29,)), ((4, 4), (8, 8))])
@pytest.mark.parametrize("step", [1, 3])
def test_lattice_interpolates_as_torch_does(have, want, step):
    x = torch.randn(2, 3, *have)
    mode = "bilinear" if len(have) == 2 else "linear"
    whole = F.interpolate(x, want, mode=mode, align_corners=False)
    grid = Lattice(want, tuple(min(1, step - 1) for _ in want), step)
    torch.testing.assert_close(grid.interpolate(x), grid.take(whole))
    assert grid.take(whole).shape[2:] == tuple(len(grid.along(a)) for a in range(len(want)))


def test_masks_on_another_grid_keep_their_area():
    masks = (torch.rand(3, 2, 12, 20) > 0.5).float()
    torch.testing.assert_close(resized(masks, (4, 5)).mean((2, 3)), masks.mean((2, 3)))
    torch.testing.assert_close(resized(masks, (24, 40)).mean((2, 3)), masks.mean((2, 3)))
    context = concept_context(masks, 3, 2, folds=3, permutations=3, seed=0, index=0, group=None)
    cells, known, _ = context.cells((4, 5))
    assert cells.shape == (3, 2, 20)
    assert known.eq(1).all()


def test_errors_say_what_came():
    probe = ConceptProbe(["a"], 3)
    with pytest.raises(InputError, match="expected class labels or concept masks as target, got none"):
        probe.context(5, None, 0)
    with pytest.raises(InputError, match=r"labels below 3, got 3; raise concepts or mark them as -1"):
        probe.context(5, torch.tensor([0, 1, 2, 3, 0]), 0)
    with pytest.raises(InputError, match=r"masks of 3 concepts on axis 1, got \(5, 2, 4\)"):
        probe.context(5, torch.zeros(5, 2, 4), 0)
    with pytest.raises(InputError, match=r"expected masks from 0 to 1 .*divide them by their largest"):
        probe.context(5, torch.full((5, 3), 255.0), 0)
    with pytest.raises(
        InputError, match=r"expected integer labels \[5\].*or masks .*got torch.float32 of shape \(5,\)"
    ):
        probe.context(5, torch.zeros(5), 0)
    with pytest.raises(InputError, match=r"expected a tap of \['a'\], got 'b'"):
        probe.reduce(torch.zeros(5, 2), probe.context(5, torch.zeros(5).long(), 0), "b")
    with pytest.raises(InputError, match=r"estimator of \['ridge'.*got 'rige'. Did you mean 'ridge'"):
        ConceptProbe(["a"], 3, estimator="rige")
    with pytest.raises(InputError, match=r"expected at most 4 GB of sums for a tap, got"):
        ConceptProbe(["a"], 2000).reduce(torch.zeros(2, 4000), probe.context(2, torch.zeros(2).long(), 0), "a")


def test_the_data_must_be_read_twice():
    batches = [({"a": torch.randn(32, 3)}, torch.arange(32) % 2)]
    probe = ConceptProbe(["a"], 2)
    context = probe.context(32, batches[0][1], 0)
    probe.update({"a": probe.reduce(batches[0][0]["a"], context, "a")}, context)
    assert "read a second time" in probe.compute().taps["a"].reason[0]
    probe.advance()
    with pytest.raises(InputError, match="after 2 passes over the data, got another advance"):
        probe.advance()
    with pytest.raises(InputError, match="passes finished: 1 and 0"):
        probe.merge(ConceptProbe(["a"], 2))


def test_pressure_of_joint_training():
    """Twins tell concepts 0 and 1 differently; the joint pair tells 1 alike and 2 less alike: the hybrid rule."""
    rng = np.random.default_rng(3)
    shifts = {"joint a": (3, 3, 3), "joint b": (0, 3, 0), "solo a": (3, 3, 3), "solo b": (0, 0, 3)}
    batches = []
    for _ in range(10):
        labels = label_maps(rng, 13, classes=4)
        features = {}
        for tap, by in shifts.items():
            x = torch.from_numpy(rng.normal(size=(13, 5, 16, 16))).float()
            for c, shift in enumerate(by):
                x[:, c] += shift * (labels == c)
            features[tap] = x
        batches.append((features, labels))
    result = measure(SemanticVariance(list(shifts), 4), batches)
    found = pressure(result, [("joint a", "joint b")], [("solo a", "solo b")])
    assert found.pressure[0, 1:4].tolist() == ["", "consistency", "speciality"]
    assert found.hybrid
    same = pressure(result, [("joint a", "joint b")], [("joint a", "joint b")])
    assert not same.hybrid
    assert (same.difference[0] == 0).all()
    with pytest.raises(InputError, match="as many joint as solo pairs, got 1 and 0"):
        pressure(result, [("joint a", "joint b")], [])


def test_a_concept_formed_one_level_later_is_not_special():
    """Copies form a concept at different depths: special only if the neighbouring levels do not tell it either."""
    rng = np.random.default_rng(5)
    shifts = {"a0": 1.0, "a1": 3.0, "a2": 3.0, "b0": 1.0, "b1": 1.0, "b2": 3.0, "c0": 1.0, "c1": 1.0, "c2": 1.0}
    batches = []
    for _ in range(10):
        labels = label_maps(rng, 13)
        batches.append(({tap: readable(labels, rng, shift) for tap, shift in shifts.items()}, labels))
    result = measure(SemanticVariance(list(shifts), 3), batches)
    near = {f"{n}{i}": [f"{n}{k}" for k in (i - 1, i + 1) if 0 <= k < 3] for n in "abc" for i in range(3)}
    late, never = ([(f"a{i}", f"{n}{i}") for i in range(3)] for n in "bc")
    assert result.profile(late).kind[:, 1].tolist() == ["both", "a", "both"]
    assert result.profile(late, near=near).kind[:, 1].tolist() == ["both", "both", "both"]
    assert result.profile(late, near=near).beyond[:, 1].max() < 0.05
    assert result.profile(never, near=near).kind[:, 1].tolist() == ["both", "a", "a"]
    steps = [[1], [0, 2], [1]]
    solo, joint = [("b0", "c0"), ("b1", "c1"), ("b2", "c2")], [("a0", "c0"), ("a1", "c1"), ("a2", "c2")]
    assert pressure(result, joint, solo).pressure[:, 2].tolist() == ["", "speciality", ""]
    assert pressure(result, joint, solo, near=steps).pressure[:, 2].tolist() == ["", "", ""]

"""The planted identities hold exactly, and a table that breaks them is refused."""

from dataclasses import replace

import numpy as np
import pytest

from fusionscope.data import SCENE_TABLE
from fusionscope.errors import InputError


def changed(edit):
    p = SCENE_TABLE.p.copy()
    edit(p)
    return replace(SCENE_TABLE, p=p)


def test_planted_identities_are_exact():
    SCENE_TABLE.check()
    prior = SCENE_TABLE.p.sum((1, 2))
    by_colour = SCENE_TABLE.p.sum(2) / SCENE_TABLE.p.sum((0, 2))
    by_relief = SCENE_TABLE.p.sum(1) / SCENE_TABLE.p.sum((0, 1))
    for k, (name, word) in enumerate(zip(SCENE_TABLE.classes, SCENE_TABLE.planted, strict=True)):
        if word in ("colour", "both"):
            np.testing.assert_allclose(by_relief[k], prior[k], atol=1e-12, err_msg=name)
        if word in ("geometry", "both"):
            np.testing.assert_allclose(by_colour[k], prior[k], atol=1e-12, err_msg=name)
    assert sorted(SCENE_TABLE.planted) == ["both", "colour", "colour", "either", "geometry", "geometry", "none"]


def test_misfit_and_floor_look_alike_to_either_modality_alone():
    """Among floor-toned stones rgb says nothing on floor against misfit, and depth nothing among floor reliefs."""
    floor, misfit = SCENE_TABLE.p[0], SCENE_TABLE.p[6]
    for axis in (1, 0):
        f, m = floor.sum(axis)[:2], misfit.sum(axis)[:2]
        np.testing.assert_allclose(m / (f + m), 1 / 9, atol=1e-12)
    assert not ((floor > 0) & (misfit > 0)).any(), "together they tell it for sure"


def camouflage_by_floor_colours_only(p):
    p[3] = 0
    p[3, :2, 2] = 0.025


def paint_on_flat_stones_only(p):
    p[1] = 0
    p[1, 2, :2] = 0.025


def misfit_never_coloured(p):
    p[6] = 0
    p[6, 0, 1] = p[6, 1, 0] = 0.05


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (camouflage_by_floor_colours_only, "class 'bump' is planted as 'geometry', yet rgb moves its probability"),
        (paint_on_flat_stones_only, "class 'rust' is planted as 'colour', yet depth moves its probability"),
        (misfit_never_coloured, "yet (rgb|depth) moves its probability"),
        (lambda p: np.multiply(p, 0.9, out=p), "expected probabilities that sum to 1"),
    ],
)
def test_a_broken_table_is_refused(edit, message):
    with pytest.raises(InputError, match=message):
        changed(edit).check()


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("rust", "either", "'rust' is planted as 'either', yet depth moves its probability by only"),
        ("dent", "colour", "'dent' is planted as 'colour', yet rgb moves its probability by only"),
        ("wedge", "geometry", "'wedge' is planted as 'geometry', yet rgb moves its probability by up to"),
        ("floor", "both", "'floor' is planted as 'both', yet rgb moves its probability by up to"),
    ],
)
def test_a_wrong_claim_is_refused(name, word, message):
    planted = tuple(word if c == name else w for c, w in zip(SCENE_TABLE.classes, SCENE_TABLE.planted, strict=True))
    with pytest.raises(InputError, match=message):
        replace(SCENE_TABLE, planted=planted).check()


def test_a_leak_of_a_billionth_is_seen():
    def leak(p):
        p[3, 0, 2] += 1e-9
        p[3, 2, 2] -= 1e-9

    with pytest.raises(InputError, match="class 'bump'"):
        changed(leak).check()


def test_bayes_accuracies_by_counting():
    assert SCENE_TABLE.accuracy("rgb") == pytest.approx(0.65 + 0.05 + 0.05 + 0.05)
    assert SCENE_TABLE.accuracy("depth") == pytest.approx(0.80)
    # All but the ambiguous stones: coloured stones (3/16 of their class) with a relief of their own.
    pure = 0.65 + 0.05 + 0.10 * 13 / 16 + 0.20 * 13 / 16
    assert SCENE_TABLE.accuracy("both") == pytest.approx(pure + 8 * 0.05 / 16)
    with pytest.raises(InputError, match="expected modality 'rgb', 'depth' or 'both', got 'audio'"):
        SCENE_TABLE.accuracy("audio")


def test_posterior_shapes_and_sums():
    for modality, shape in (("rgb", (7, 5)), ("depth", (7, 5)), ("both", (7, 5, 5))):
        posterior = SCENE_TABLE.posterior(modality)
        assert posterior.shape == shape
        total = posterior.sum(0)
        np.testing.assert_allclose(total[~np.isnan(total)], 1, atol=1e-12)
    # No class makes a sand-coloured slope, so nothing is known there.
    assert np.isnan(SCENE_TABLE.posterior("both")[:, 0, 4]).all()
    assert SCENE_TABLE.posterior("rgb")[1, 2] == pytest.approx(0.8), "P(rust | red)"

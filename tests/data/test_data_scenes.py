"""Rendered scenes: shapes, seeds, switches. What they carry is measured in test_data_scene_oracles.py."""

import pytest
import torch

from fusionscope.data import SCENE_TABLE, SceneDataset, load_data
from fusionscope.errors import InputError


def assert_same(a, b, *names):
    for name in names:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_items_and_description():
    data = load_data("scenes?train=5&val=2&test=3&size=47&cells=3")
    assert [data.size(name) for name in ("train", "val", "test")] == [5, 2, 3]
    assert data.shapes == {"rgb": (3, 47, 47), "depth": (1, 47, 47)}
    assert data.axes == {"rgb": "NCHW", "depth": "NCHW"}
    assert data.task == "dense"
    assert data.classes == SCENE_TABLE.classes
    assert data.truth is not None
    assert data.truth["bump"] == {"planted": "geometry", "modalities": ["depth"]}
    batch = next(iter(data.loader("train", 5)))
    assert {k: tuple(v.shape) for k, v in batch["inputs"].items()} == {"rgb": (5, 3, 47, 47), "depth": (5, 1, 47, 47)}
    assert batch["inputs"]["rgb"].dtype == batch["inputs"]["depth"].dtype == torch.float32
    assert batch["target"].dtype == torch.int64
    assert batch["target"].shape == (5, 47, 47)


def test_inputs_are_about_zero_mean_and_unit_scale():
    scenes = SceneDataset(64, seed=3)
    for name in ("rgb", "depth"):
        x = torch.stack([scenes[i]["inputs"][name] for i in range(64)])
        assert x.mean().abs() < 0.7
        assert 0.6 < x.std() < 1.4


def test_same_seed_is_bit_equal_and_others_differ():
    a, b, c = SceneDataset(5, seed=11), SceneDataset(5, seed=11), SceneDataset(5, seed=12)
    assert_same(a, b, "rgb", "depth", "label", "cell", "colour", "relief")
    for name in ("rgb", "depth", "label", "cell"):
        same = (getattr(a, name) == getattr(c, name)).flatten(1).all(1)
        assert not same.any(), name


def test_a_scene_does_not_depend_on_how_many_follow():
    few, many = SceneDataset(3, seed=2), SceneDataset(67, seed=2)
    for name in ("rgb", "depth", "label"):
        assert torch.equal(getattr(few, name), getattr(many, name)[:3])


def test_rendering_leaves_threads_and_the_global_generator_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        torch.set_num_threads(2)
        many = SceneDataset(3, seed=2)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert_same(many, SceneDataset(3, seed=2), "rgb", "depth", "label")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(state, torch.get_rng_state())


def test_splits_share_no_scene_and_fingerprints_follow_the_content():
    spec = "scenes?train=7&val=7&test=7&size=24&cells=3"
    data = load_data(spec)
    rgb = torch.cat([data.splits[name].rgb.flatten(1) for name in ("train", "val", "test")])
    assert len(rgb.unique(dim=0)) == 21
    assert data.fingerprint == load_data(spec).fingerprint
    others = [load_data(spec, seed=1), load_data(spec + "&night=1"), load_data(spec.replace("val=7", "val=5"))]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_by_night_the_same_scenes_are_dark():
    day, night, mixed = (SceneDataset(300, seed=4, size=24, cells=3, night=p) for p in (0.0, 1.0, 0.3))
    assert not day.night.any()
    assert night.night.all()
    assert_same(day, night, "label", "depth", "cell", "colour", "relief")
    assert_same(day, mixed, "label", "depth")
    assert (mixed.night.float().mean() - 0.3).abs() < 4 * (0.21 / 300) ** 0.5
    assert torch.equal(mixed.rgb[mixed.night], night.rgb[mixed.night])
    assert torch.equal(mixed.rgb[~mixed.night], day.rgb[~mixed.night])
    assert night.rgb.float().mean() < 0.1 * day.rgb.float().mean()


def test_holes_come_at_the_asked_rate_and_read_zero():
    whole, torn = (SceneDataset(300, seed=5, size=24, cells=3, holes=p) for p in (0.0, 0.4))
    assert not whole.hole_mask.any()
    assert (torn.holes.float().mean() - 0.4).abs() < 4 * (0.24 / 300) ** 0.5
    assert torch.equal(torn.hole_mask.flatten(1).any(1), torn.holes)
    assert (torn.hole_mask[torn.holes].float().mean() - 0.25).abs() < 0.01
    assert (torn.depth[torn.hole_mask] == 0).all()
    assert torch.equal(torn.depth[~torn.hole_mask], whole.depth[~torn.hole_mask])
    assert (whole.depth == 0).float().mean() < 1e-3
    assert_same(whole, torn, "rgb", "label")
    share = [torn.hole_mask[:, 0][torn.label == k].float().mean().item() for k in range(7)]
    assert max(share) - min(share) < 0.05, "holes do not seek out a class"


def test_classes_follow_the_table():
    scenes = SceneDataset(400, seed=6, size=30)
    labelled = scenes.label[scenes.label >= 0].long()
    flat = torch.bincount(labelled, minlength=7) / labelled.numel()
    expected = torch.from_numpy(SCENE_TABLE.p.sum((1, 2))).float()
    assert (flat - expected).abs().max() < 0.02
    stones = scenes.cell.flatten(1).long()
    posterior = torch.from_numpy(SCENE_TABLE.p)
    a, g = (getattr(scenes, n).long().gather(1, stones) for n in ("colour", "relief"))
    chance = posterior[scenes.label.flatten(1).long(), a, g]
    assert (chance[scenes.label.flatten(1) >= 0] > 0).all(), "no pixel has a state its class never takes"


def test_stones_keep_their_outlines_within_a_dataset_only():
    """The permutation null pairs a scene's features with other scenes' labels: every pixel must keep its stone."""
    scenes, others = SceneDataset(5, seed=7), SceneDataset(5, seed=8)
    assert (scenes.cell == scenes.cell[0]).all()
    assert (scenes.cell[0] != others.cell[0]).float().mean() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "at least one scene, got count=0"),
        ({"count": 1, "size": 29}, "at least 6 pixels per stone, got size=29, cells=5. Set size to 30 or more"),
        ({"count": 1, "cells": 15, "size": 200}, "1 to 14 stones"),
        ({"count": 1, "night": 1.5}, "a probability for night, got 1.5"),
        ({"count": 1, "holes": float("nan")}, "a probability for holes, got nan"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        SceneDataset(**arguments)


def test_reprs_are_worth_reading():
    data = load_data("scenes?train=3&val=2&test=2&size=24&cells=3&night=1")
    assert "planted geometry: bump, dent" in repr(data)
    assert "task: dense, 7 classes: floor, rust" in repr(data)
    text = repr(data.splits["train"])
    assert "3 scenes of 24x24, 3x3 stones" in text
    assert "3 at night, 0 with depth holes" in text
    assert "rgb 0.800, depth 0.800, both 0.969" in text
    assert "misfit   both      P = 0.100" in repr(SCENE_TABLE)


def test_joints_have_no_class_and_are_two_pixels_wide():
    """Locations across a joint would be of one class mostly where both stones are floor, which both modalities show."""
    scenes = SceneDataset(3, seed=9, size=64, cells=4)
    cell, void = scenes.cell[0].long(), scenes.label[0] < 0
    assert not (scenes.label[void.expand(3, -1, -1)] >= 0).any()
    across = cell[:, 1:] != cell[:, :-1]
    assert (void[:, 1:] & void[:, :-1])[across].float().mean() > 0.9
    assert 0.15 < void.float().mean() < 0.35

"""Laws that hold for every corruption, and the broken ones they reject; each kind by hand is in the next file."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from corruption_cases import CASES, FORMS

from fusionscope.data import CorruptionStatistics, _corruptions, corrupt, corruptions, modality_kind
from fusionscope.errors import InputError

every = pytest.mark.parametrize(("form", "name"), CASES)


def damage(form, name, severities=range(6), change=lambda x: x, **kwargs):
    kind, make = FORMS[form]
    x = change(make())
    return [(corrupt(x, name, s, kind=kind, **kwargs) - x).abs().double().mean().item() for s in severities]


def check_damage_grows(form, name):
    found = damage(form, name)
    assert found[0] == 0
    # A few shares of few steps round to the same number of them.
    assert found[1] > 0
    assert all(a <= b * (1 + 1e-6) for a, b in itertools.pairwise(found)), found
    assert found[5] > 1.3 * found[1]


def check_damaged_places_grow(form, name):
    kind, make = FORMS[form]
    x = make()
    before = torch.zeros(x.shape, dtype=torch.bool)
    for severity in range(1, 6):
        changed = corrupt(x, name, severity, kind=kind) != x
        assert not (before & ~changed).any(), severity
        before = changed


def check_seeds(form, name):
    kind, make = FORMS[form]
    x = make()
    first = corrupt(x, name, 3, kind=kind, seed=1, index=2, modality="a")
    torch.manual_seed(5)
    assert torch.equal(first, corrupt(x, name, 3, kind=kind, seed=1, index=2, modality="a"))
    if name in RANDOM:
        others = [{"seed": 2, "index": 2}, {"seed": 1, "index": 3}, {"seed": 1, "index": 2, "modality": "b"}]
        for other in others:
            assert not torch.equal(first, corrupt(x, name, 3, kind=kind, **{"modality": "a", **other}))


RANDOM = ("noise", "occlusion", "misalignment", "holes", "dropped_frames", "time_shift", "band_mask", "conflict")
GROWING = ("occlusion", "holes", "dropped_frames", "dimension_dropout", "conflict")


@every
def test_severity_0_is_the_values_themselves_and_damage_grows(form, name):
    x = FORMS[form][1]()
    assert corrupt(x, name, 0, kind=FORMS[form][0]) is x
    check_damage_grows(form, name)


@pytest.mark.parametrize(("form", "name"), [case for case in CASES if case[1] in GROWING])
def test_what_was_damaged_stays_damaged_when_severity_rises(form, name):
    check_damaged_places_grow(form, name)


@every
def test_same_seed_same_damage_whatever_the_global_generator(form, name):
    state = torch.get_rng_state()
    check_seeds(form, name)
    kind, make = FORMS[form]
    before = torch.get_rng_state()
    corrupt(make(), name, 2, kind=kind)
    assert torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(state)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_shape_and_type_are_kept_and_half_precision_is_damaged_alike(form, name, dtype):
    kind, make = FORMS[form]
    x = make()[:7].to(dtype)
    y = corrupt(x, name, 3, kind=kind)
    assert (y.shape, y.dtype, y.device) == (x.shape, x.dtype, x.device)
    if dtype != torch.float64 and name not in ("compression", "quantisation"):  # where rounding may go either way
        wide = corrupt(x.float(), name, 3, kind=kind)
        torch.testing.assert_close(y.float(), wide, rtol=2e-2, atol=2e-2 * float(wide.abs().max()))


@every
def test_the_values_given_are_not_touched_and_nan_stays(form, name):
    kind, make = FORMS[form]
    x = make()[:7]
    x.view(-1)[::101] = torch.nan
    kept = x.clone()
    y = corrupt(x.requires_grad_(), name, 4, kind=kind)
    assert torch.equal(x.detach().nan_to_num(9), kept.nan_to_num(9))
    assert not y.requires_grad
    if name != "conflict":
        assert torch.equal(y.isnan(), kept.isnan())


@every
def test_constant_values_and_one_sample_are_no_special_case(form, name):
    kind, make = FORMS[form]
    constant = torch.full_like(make()[:3], 0.7)
    y = corrupt(constant, name, 5, kind=kind)
    assert y.isfinite().all()
    if name != "holes":
        torch.testing.assert_close(y, constant)
    if name == "conflict":
        with pytest.raises(InputError, match="two samples"):
            corrupt(constant[:1], name, 1, kind=kind)
    else:
        assert corrupt(make()[:1], name, 5, kind=kind).isfinite().all()
        assert corrupt(make()[:0], name, 5, kind=kind).shape == constant[:0].shape


def change(monkeypatch, form, name, apply):
    broken = dataclasses.replace(_corruptions.FORMS[form][name], apply=apply)
    monkeypatch.setitem(_corruptions.FORMS[form], name, broken)


def test_laws_reject_corruptions_that_break_them(monkeypatch):
    whole = dict(_corruptions.FORMS["image"])
    plain = whole["noise"].apply
    change(monkeypatch, "image", "noise", lambda x, level, draws, scale: plain(x, 0.4 - level, draws, scale))
    with pytest.raises(AssertionError):
        check_damage_grows("image", "noise")
    change(monkeypatch, "image", "noise", lambda x, level, draws, scale: x + level * torch.randn(x.shape))
    with pytest.raises(AssertionError):
        check_seeds("image", "noise")

    def moving(x, level, draws, scale):
        draws.generator.manual_seed(int(1000 * level))
        return whole["occlusion"].apply(x, level, draws, scale)

    change(monkeypatch, "image", "occlusion", moving)
    with pytest.raises(AssertionError):
        check_damaged_places_grow("image", "occlusion")


def test_masks_lengths_and_integers_stay_but_go_along_in_a_conflict():
    nest = {
        "frames": FORMS["sequence"][1](),
        "mask": torch.rand(11, 31),
        "lengths": torch.arange(11),
        "note": "kept",
    }
    assert modality_kind("face", nest) == "sequence"
    for name in corruptions("sequence"):
        y = corrupt(nest, name, 5, kind="sequence")
        assert list(y) == list(nest)
        assert y["note"] == "kept"
        assert not torch.equal(y["frames"], nest["frames"])
        if name == "conflict":
            source = y["lengths"]
            assert (source != nest["lengths"]).all()
            assert all(torch.equal(y[key], nest[key][source]) for key in ("frames", "mask"))
        else:
            assert y["mask"] is nest["mask"]
            assert y["lengths"] is nest["lengths"]


def test_a_conflict_takes_the_stated_share_of_samples_and_never_the_sample_itself():
    tokens = {"ids": torch.arange(101)[:, None].expand(101, 3), "mask": torch.ones(101, 3, dtype=torch.bool)}
    assert modality_kind("text", tokens) == "tokens"
    assert corruptions("tokens") == ("conflict",)
    for seed in range(3):
        for severity, share in enumerate((0.2, 0.4, 0.6, 0.8, 1.0), 1):
            moved = corrupt(tokens, "conflict", severity, kind="tokens", seed=seed)["ids"][:, 0] != torch.arange(101)
            assert moved.sum() == -(-share * 101 // 1)


def test_statistics_of_the_data_set_make_damage_independent_of_the_batch():
    for form, name in CASES:
        if name == "conflict" or form == "video":
            continue
        kind, make = FORMS[form]
        x = make()
        x[0] *= 5  # a sample that alone sets the range
        statistics = CorruptionStatistics.of(x, kind)
        small = {"statistics": statistics, "kind": kind}
        torch.testing.assert_close(corrupt(x, name, 3, **small), corrupt(x, name, 3, kind=kind))
        if name in ("occlusion", "brightness", "quantisation", "range_clip", "noise") and form in ("image", "depth"):
            assert not torch.equal(corrupt(x[1:], name, 3, **small), corrupt(x[1:], name, 3, kind=kind))


def test_statistics_by_hand_and_merged():
    for form, axis in (("image", 1), ("video", 2), ("wave", 1), ("spectrogram", 1), ("sequence", 2), ("vector", 1)):
        kind, make = FORMS[form]
        x = make().double()
        x[0, 0] = torch.nan
        parts = [
            CorruptionStatistics.of({"x": part, "n": torch.ones(len(part))}, kind)
            for part in x.split([2, 3, len(x) - 5])
        ]
        whole = parts[0].merge(parts[1]).merge(parts[2])
        rows = x.movedim(axis, 0).flatten(1)
        rows = [row[~row.isnan()] for row in rows]
        wanted = {
            "count": [len(row) for row in rows],
            "mean": [row.mean() for row in rows],
            "sd": [row.std(correction=0) for row in rows],
            "low": [row.min() for row in rows],
            "high": [row.max() for row in rows],
        }
        for name, values in wanted.items():
            found = getattr(whole, name)["x"]
            torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    with pytest.raises(InputError, match="one modality"):
        whole.merge(CorruptionStatistics.of(FORMS["image"][1](), "image"))


def test_statistics_of_large_offsets_keep_their_precision():
    x = 1e4 + torch.randn(101, 3, 7, 11)
    found = CorruptionStatistics.of(x, "image")
    wanted = x.double().transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close(found.sd[""], wanted, rtol=1e-6, atol=0)
    assert CorruptionStatistics.of(x.half() * torch.nan, "image").mean[""].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("rgb", (2, 3, 5, 7), "image"),
        ("Depth", (2, 1, 5, 7), "depth"),
        ("leftDisparity", (2, 1, 5, 7), "depth"),
        ("dem_10m", (2, 1, 5, 7), "depth"),
        ("demo", (2, 1, 5, 7), "image"),
        ("orange", (2, 3, 5, 7), "image"),
        ("log_mel", (2, 1, 5, 7), "audio"),
        ("audio", (2, 3, 5, 7), "image"),
        ("clip", (2, 5, 3, 7, 11), "video"),
        ("x", (2, 1, 101), "audio"),
        ("speech", (2, 2, 101), "audio"),
        ("speech", (2, 31, 40), "sequence"),
        ("skeleton", (2, 31, 60), "sequence"),
        ("waveform", (2, 2003), "audio"),
        ("audio", (2, 128), "vector"),
        ("age", (2,), "vector"),
        ("scan", (2, 1, 3, 5, 7, 11), "vector"),
    ],
)
def test_kinds_are_told_by_axes_and_names(name, shape, kind):
    assert modality_kind(name, torch.rand(shape)) == kind
    x = torch.rand(shape)
    assert corrupt(x, corruptions(kind)[0], 1, kind=kind).shape == x.shape


def test_what_cannot_be_done_is_said():
    x = FORMS["image"][1]()
    for severity in (-1, 6, 1.5, True, "2", None):
        with pytest.raises(InputError, match="severity of 0, 1, 2"):
            corrupt(x, "noise", severity, kind="image")
    with pytest.raises(InputError, match="Did you mean 'blur'"):
        corrupt(x, "blurr", 1, kind="image")
    with pytest.raises(InputError, match="holes, quantisation"):
        corrupt(x, "compression", 1, kind="depth")
    with pytest.raises(InputError, match="Did you mean 'image'"):
        corruptions("imag")
    with pytest.raises(InputError, match=r"expected \[B, T, C\]"):
        corrupt(x, "noise", 1, kind="sequence")
    with pytest.raises(InputError, match="use 'conflict'"):
        corrupt(torch.ones(3, 3, 5, 5, dtype=torch.int64), "noise", 1, kind="image")
    with pytest.raises(InputError, match="with 3 channels, got the tensor: 1"):
        corrupt(x, "noise", 1, kind="image", statistics=CorruptionStatistics.of(x[:, :1], "image"))
    with pytest.raises(InputError, match="holds no tensor"):
        modality_kind("text", ["a", "b"])


def test_bytes_of_pixels_are_images_and_stay_bytes() -> None:
    pixels = torch.randint(0, 256, (5, 3, 11, 13), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert modality_kind("rgb", pixels) == "image"
    assert modality_kind("ids", torch.zeros(5, 7, dtype=torch.uint8)) == "tokens"
    for name in corruptions("image"):
        damaged = corrupt(pixels, name, 4, kind="image", seed=1)
        assert damaged.dtype == torch.uint8
        assert not torch.equal(damaged, pixels)

"""What each corruption does, by hand: counts, shares, decibels, and JPEG against a slow one and against pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.ndimage
import torch
from corruption_cases import FORMS, slow_jpeg, smooth, tones

from fusionscope.data import CorruptionStatistics, _jpeg, corrupt
from fusionscope.data._corruption_draws import Draws, places

SEVERITIES = range(1, 6)
AREAS = (0.05, 0.1, 0.2, 0.35, 0.5)
SHARES = (0.1, 0.2, 0.35, 0.5, 0.7)


def image(name, severity, x, **kwargs):
    return corrupt(x, name, severity, kind="image", **kwargs)


def per_channel(x, function):
    return torch.stack([function(c) for c in x.transpose(0, 1).flatten(1)]).view(-1, 1, 1)


# ---------------------------------------------------------------------- images


@pytest.mark.parametrize("severity", SEVERITIES)
def test_image_noise_has_the_stated_size_and_stays_in_the_range(severity):
    x = torch.zeros(7, 3, 61, 67)
    x[0, :, 0, 0], x[0, :, 0, 1] = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, 4.0, 9.0])
    y = image("noise", severity, x)
    low, high = torch.tensor([-1.0, -2.0, -3.0]).view(3, 1, 1), torch.tensor([1.0, 4.0, 9.0]).view(3, 1, 1)
    assert (y >= low).all()
    assert (y <= high).all()
    sd = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1] * (high - low)
    inside = (y > low) & (y < high)
    # Within half a standard deviation nothing is cut off: erf(.5/√2) = .3829 of the values.
    assert abs(float((inside & (y.abs() < 0.5 * sd)).double().mean()) - 0.3829) < 0.01


def test_blur_equals_scipys():
    x = smooth(2, 3, 112, 113, coarse=41)
    y = image("blur", 4, x)  # 4 pixels at 224 are 2 at 112
    wanted = scipy.ndimage.gaussian_filter(x.numpy(), (0, 0, 2, 2), mode="nearest", truncate=4)
    np.testing.assert_allclose(y.numpy(), wanted, atol=2e-5)
    small = torch.zeros(1, 1, 33, 33)
    small[0, 0, 16, 16] = 1
    sigmas = [image("blur", s, small)[0, 0, 16, 16] for s in SEVERITIES]
    # A blurred point keeps (Σ exp(-i²/2σ²))⁻² of its height.
    for found, sigma in zip(sigmas, (0.4, 0.6, 0.7, 0.8, 1.0), strict=True):
        kernel = np.exp(-0.5 * (np.arange(-9, 10) / sigma) ** 2)
        assert abs(float(found) - kernel.sum() ** -2) < 1e-3


def test_brightness_and_contrast():
    x = smooth(5, 3, 17, 19) * torch.tensor([1.0, 2.0, 5.0]).view(3, 1, 1)
    low, high = per_channel(x, torch.min), per_channel(x, torch.max)
    for severity, level in enumerate((0.1, 0.2, 0.3, 0.4, 0.5), 1):
        wanted = torch.minimum(x + level * (high - low), high)
        torch.testing.assert_close(image("brightness", severity, x), wanted)
    for severity, level in enumerate((0.4, 0.3, 0.2, 0.1, 0.05), 1):
        mean = x.mean((2, 3), keepdim=True)
        torch.testing.assert_close(image("contrast", severity, x), (x - mean) * level + mean, rtol=1e-4, atol=1e-5)


def test_occlusion_is_one_box_of_the_stated_area_and_holds_the_mean():
    x = smooth(13, 3, 101, 97)
    mean = per_channel(x, torch.mean)
    for severity, area in zip(SEVERITIES, AREAS, strict=True):
        y = image("occlusion", severity, x)
        hit = (y != x).all(1)
        assert torch.isclose(y, mean.expand_as(y), atol=1e-6)[hit[:, None].expand_as(y)].all()
        rows, columns = hit.any(2), hit.any(1)
        assert torch.equal(hit, rows[:, :, None] & columns[:, None, :])
        assert (hit.double().mean((1, 2)) - area).abs().max() < 0.03
    assert len({tuple(map(int, h.nonzero()[0])) for h in hit}) > 5, "places differ"


def test_misalignment_moves_the_whole_image_and_holds_its_edge():
    x = torch.randn(11, 2, 53, 59)
    for severity, level in enumerate((0.04, 0.08, 0.12, 0.16, 0.2), 1):
        y = image("misalignment", severity, x)
        for before, after in zip(x, y, strict=True):
            shifts = []
            for down in range(-11, 12):
                for across in range(-11, 12):
                    moved = scipy.ndimage.shift(before.numpy(), (0, down, across), order=0, mode="nearest")
                    if np.array_equal(moved, after.numpy()):
                        shifts.append(np.hypot(down, across))
            assert len(shifts) == 1
            assert abs(shifts[0] - places(level, 53)) < 0.75
            break  # one sample is enough: the search is slow


def test_a_videos_frames_share_places_but_not_noise():
    frame = smooth(5, 1, 3, 31, 37)
    x = frame.expand(5, 7, 3, 31, 37)
    for name, alike in (("occlusion", True), ("misalignment", True), ("blur", True), ("noise", False)):
        y = corrupt(x, name, 3, kind="video")
        assert torch.equal(y, y[:, :1].expand_as(y)) == alike, name
    one = corrupt(x, "occlusion", 3, kind="video", seed=3, modality="v")[:, 0]
    same = image(
        "occlusion", 3, frame[:, 0], seed=3, modality="v", statistics=CorruptionStatistics.of(x[:, 0], "image")
    )
    torch.testing.assert_close(one, same)


# ---------------------------------------------------------------------- JPEG


@pytest.mark.parametrize("quality", [7, 25, 60, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_equals_one_written_block_by_block(quality, channels):
    x = ((smooth(2, channels, 32, 48, coarse=17) + 2) * 60).round().clamp(0, 255).double()
    found = _jpeg.jpeg(x, quality)
    for pixels, back in zip(x, found, strict=True):
        given = pixels.movedim(0, -1).squeeze(-1)
        wanted = slow_jpeg(given, quality, _jpeg.LUMA, _jpeg.CHROMA)
        apart = np.abs(back.movedim(0, -1).squeeze(-1).numpy() - wanted)
        # A coefficient of exactly one half may fall either way: seldom in float64, more often in float32.
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.02


@pytest.mark.parametrize("quality", [7, 10, 15, 18, 25, 90])
@pytest.mark.parametrize("size", [(64, 80), (53, 61)])
def test_jpeg_loses_what_pillow_loses(quality, size):
    Image = pytest.importorskip("PIL.Image", reason="pillow is not installed (extra media)")
    x = ((smooth(1, 3, *size, coarse=23) + 2) * 60).round().clamp(0, 255)
    pixels = x[0].movedim(0, -1).to(torch.uint8).numpy()
    store = io.BytesIO()
    Image.fromarray(pixels).save(store, "JPEG", quality=quality)
    theirs = np.asarray(Image.open(store)).astype(float)
    ours = _jpeg.jpeg(x, quality)[0].movedim(0, -1).numpy()

    def psnr(a, b):
        return 10 * np.log10(255**2 / ((a - b) ** 2).mean())

    assert abs(psnr(ours, pixels.astype(float)) - psnr(theirs, pixels.astype(float))) < 0.3
    assert psnr(ours, theirs) > psnr(ours, pixels.astype(float)) + 5


def test_jpeg_check_rejects_swapped_tables_and_a_transposed_transform(monkeypatch):
    plain = _jpeg._matrices

    def transposed(base, quality, like):
        forward, backward = plain(base, quality, like)
        return backward.T.contiguous(), forward.T.contiguous()

    monkeypatch.setattr(_jpeg, "_matrices", transposed)
    with pytest.raises(AssertionError):
        test_jpeg_equals_one_written_block_by_block(25, 1)
    monkeypatch.setattr(_jpeg, "_matrices", lambda base, *rest: plain(_jpeg.LUMA, *rest))
    with pytest.raises(AssertionError):
        test_jpeg_equals_one_written_block_by_block(25, 3)


def test_compression_maps_low_and_high_to_0_and_255():
    pixels = ((smooth(3, 3, 32, 48) + 2) * 60).round().clamp(0, 255)
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 255
    mean, sd = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    y = image("compression", 3, (pixels / 255 - mean) / sd)
    torch.testing.assert_close((y * sd + mean) * 255, _jpeg.jpeg(pixels, 15), rtol=0, atol=2e-3)


# ---------------------------------------------------------------------- depth


def test_holes_cover_the_stated_area_and_read_0_or_the_low_value():
    for offset, value in ((3.0, 0.0), (-2.0, None)):
        x = torch.rand(7, 1, 64, 96) + offset
        for severity, area in zip(SEVERITIES, AREAS, strict=True):
            y = corrupt(x, "holes", severity, kind="depth")
            hit = y != x
            assert (hit.double().mean((1, 2, 3)) - places(area, 256) / 256).abs().max() < 1e-3
            assert y[hit].unique().tolist() == [x.min().item() if value is None else value]
    # In blobs: a hole's neighbour is a hole far more often than not.
    beside = (hit[..., 1:] & hit[..., :-1]).sum() / hit[..., :-1].sum()
    assert beside > 0.9


def test_quantisation_leaves_k_values_from_low_to_high():
    x = torch.rand(5, 2, 31, 37) * torch.tensor([1.0, 7.0]).view(2, 1, 1) - 1
    for severity, k in enumerate((32, 16, 8, 4, 2), 1):
        y = corrupt(x, "quantisation", severity, kind="depth")
        for before, after in zip(x.transpose(0, 1), y.transpose(0, 1), strict=True):
            levels = after.unique()
            torch.testing.assert_close(
                levels, torch.linspace(float(before.min()), float(before.max()), k), atol=1e-5, rtol=0
            )
            assert (before - after).abs().max() <= (before.max() - before.min()) / (k - 1) / 2 + 1e-5


def test_range_clip_cuts_off_what_is_far():
    x = smooth(7, 1, 31, 37) + 3
    for severity, level in enumerate((1.5, 1.0, 0.5, 0.0, -0.5), 1):
        limit = x.mean() + level * x.std(correction=0)
        torch.testing.assert_close(corrupt(x, "range_clip", severity, kind="depth"), x.clamp(max=float(limit)))


# ---------------------------------------------------------------------- time


@pytest.mark.parametrize("form", ["wave", "spectrogram", "sequence"])
def test_the_measured_signal_to_noise_ratio_is_the_stated_one(form):
    kind = FORMS[form][0]
    x = {"wave": tones(5, 1, 20011), "spectrogram": smooth(5, 1, 101, 307), "sequence": tones(101, 3, 307).mT}[form]
    x = x * torch.rand(x.shape[0] if form != "sequence" else x.shape[2]).add(0.1).view(
        (-1, *[1] * (x.ndim - 1)) if form != "sequence" else (1, 1, -1)
    )
    axes = (0, 1) if form == "sequence" else tuple(range(1, x.ndim))  # per channel, or per recording
    for severity, stated in enumerate((20, 15, 10, 5, 0), 1):
        noise = corrupt(x, "noise", severity, kind=kind) - x
        found = 10 * torch.log10(x.var(axes) / noise.square().mean(axes))
        assert (found - stated).abs().max() < 0.2, severity


def test_clipping_is_about_the_recordings_or_the_channels_mean():
    x = tones(5, 3, 101) + torch.arange(5).view(5, 1, 1)
    for severity, level in enumerate((1.2, 0.9, 0.6, 0.4, 0.2), 1):
        y = corrupt(x, "clipping", severity, kind="audio")
        for before, after in zip(x, y, strict=True):
            mean, sd = before.mean(), before.std(correction=0)
            torch.testing.assert_close(after, before.clamp(mean - level * sd, mean + level * sd))
        y = corrupt(x, "clipping", severity, kind="sequence")
        for before, after in zip(x.unbind(2), y.unbind(2), strict=True):
            mean, sd = before.mean(), before.std(correction=0)
            torch.testing.assert_close(after, before.clamp(mean - level * sd, mean + level * sd))


@pytest.mark.parametrize("form", ["wave", "spectrogram", "sequence", "video"])
def test_dropped_frames_are_the_stated_share_and_hold_the_mean(form):
    kind, make = FORMS[form]
    x = make()
    time, frames = {"wave": (2, 100), "spectrogram": (3, 31), "sequence": (1, 31), "video": (1, 13)}[form]
    channel = {"sequence": 2, "video": 2}.get(form, 1)
    shape = [-1 if a == channel else 1 for a in range(x.ndim)]
    mean = torch.stack([c.mean() for c in x.unbind(channel)]).view(shape)
    for severity, share in zip(SEVERITIES, SHARES, strict=True):
        y = corrupt(x, "dropped_frames", severity, kind=kind)
        lost = (y != x).movedim(time, 1).flatten(2).any(2)
        if form == "wave":
            steps = torch.arange(x.shape[2]) * 100 // x.shape[2]
            lost = torch.stack([lost[:, steps == i].all(1) for i in range(100)], 1)
        assert (lost.sum(1) == places(share, frames)).all()
        torch.testing.assert_close(y[y != x], mean.expand_as(x)[y != x], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["wave", "bare wave", "spectrogram", "sequence", "video"])
def test_time_shift_moves_by_the_stated_share_either_way(form):
    kind, make = FORMS[form]
    x = make()
    time = {"wave": 2, "bare wave": 1, "spectrogram": 3, "sequence": 1, "video": 1}[form]
    for severity, share in enumerate((0.05, 0.1, 0.15, 0.2, 0.3), 1):
        a = x.movedim(time, 1)
        b = corrupt(x, "time_shift", severity, kind=kind).movedim(time, 1)
        k = places(share, a.shape[1])
        later = torch.cat([a[:, :1].expand(-1, k, *a.shape[2:]), a[:, :-k]], 1)
        earlier = torch.cat([a[:, k:], a[:, -1:].expand(-1, k, *a.shape[2:])], 1)
        went = [(torch.equal(b[i], later[i]), torch.equal(b[i], earlier[i])) for i in range(len(a))]
        assert set(went) == {(True, False), (False, True)}


def test_a_waveforms_band_is_removed_and_the_rest_kept():
    x = torch.randn(7, 1, 601)
    before = torch.fft.rfft(x)
    for severity, share in enumerate((0.1, 0.2, 0.3, 0.4, 0.5), 1):
        after = torch.fft.rfft(corrupt(x, "band_mask", severity, kind="audio"))
        gone = after.abs() < 1e-3
        assert (gone.sum(2) - share * 301).abs().max() <= 1
        edges = gone.int().diff(dim=2).abs().sum(2)
        assert (edges <= 2).all(), "one band"
        torch.testing.assert_close(after[~gone], before[~gone], rtol=1e-3, atol=1e-3)


def test_bands_of_spectrograms_and_channels_of_sequences_hold_the_mean():
    x = smooth(7, 1, 23, 31)
    for severity, share in enumerate((0.1, 0.2, 0.3, 0.4, 0.5), 1):
        y = corrupt(x, "band_mask", severity, kind="audio")
        gone = (y != x).all(3)[:, 0]
        assert torch.equal(gone, (y != x).any(3)[:, 0])
        assert (gone.sum(1) - share * 23).abs().max() <= 1
        assert (gone.int().diff(dim=1).abs().sum(1) <= 2).all()
        torch.testing.assert_close(y[y != x], x.mean().expand_as(y[y != x]))
    x = tones(11, 13, 31).transpose(1, 2)
    for severity, share in enumerate((0.1, 0.2, 0.3, 0.4, 0.5), 1):
        y = corrupt(x, "band_mask", severity, kind="sequence")
        gone = (y != x).all(1)
        assert (gone.sum(1) == places(share, 13)).all()
        torch.testing.assert_close(y[y != x], x.mean((0, 1)).expand_as(x)[y != x])


# ---------------------------------------------------------------------- vectors


def test_vector_noise_and_dropout_go_by_each_dimension():
    sd = torch.tensor([0.1, 1.0, 30.0])
    x = torch.randn(20011, 3) * sd + torch.tensor([5.0, -7.0, 0.0])
    for severity, level in enumerate((0.25, 0.5, 0.75, 1.0, 1.5), 1):
        noise = corrupt(x, "noise", severity, kind="vector") - x
        torch.testing.assert_close(noise.std(0) / sd, torch.full((3,), level), rtol=0.03, atol=0)
    x = torch.randn(53, 29) + 4
    for severity, share in zip(SEVERITIES, SHARES, strict=True):
        y = corrupt(x, "dimension_dropout", severity, kind="vector")
        assert ((y != x).sum(1) == places(share, 29)).all()
        torch.testing.assert_close(y[y != x], x.mean(0).expand_as(x)[y != x])


def test_draws_are_the_same_whatever_is_drawn_on_the_device():
    first, second = (Draws(3, 5, torch.device("cpu")) for _ in range(2))
    second.noise_like(torch.zeros(7))
    assert torch.equal(first.uniform(7), second.uniform(7))
    assert torch.equal(first.noise_like(torch.zeros(7)), second.noise_like(torch.zeros(7)))

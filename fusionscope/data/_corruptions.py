"""Corruptions: a modality damaged by a severity of 0-5, in a way that suits its kind."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusionscope._nest import map_tensors, tensors
from fusionscope.errors import InputError, did_you_mean

from . import _image_corruptions as image
from . import _sequence_corruptions as time
from ._corruption_draws import Draws, places, ranks
from ._corruption_layouts import Layout, check_kind, corruptible, layout, modality_kind, standard
from ._corruption_statistics import CorruptionStatistics, Scale, scale_of
from ._jpeg import compression
from ._scenes import derive_seed

__all__ = ["CorruptionStatistics", "corrupt", "corruptions", "modality_kind"]

SEVERITIES = (0, 1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """Levels for severities 1-5, and the function that damages a tensor by a level, along time or image by image."""

    levels: tuple[Any, ...]
    apply: Callable[[Tensor, Any, Draws, Scale], Tensor]
    along_time: bool = False


SHARES = (0.1, 0.2, 0.35, 0.5, 0.7)
AREAS = (0.05, 0.1, 0.2, 0.35, 0.5)
SHIFTS = (0.04, 0.08, 0.12, 0.16, 0.2)
DELAYS = (0.05, 0.1, 0.15, 0.2, 0.3)
BANDS = (0.1, 0.2, 0.3, 0.4, 0.5)
DECIBELS = (20.0, 15.0, 10.0, 5.0, 0.0)
LIMITS = (1.2, 0.9, 0.6, 0.4, 0.2)
CONFLICTS = (0.2, 0.4, 0.6, 0.8, 1.0)

PLACE = {
    "occlusion": Corruption(AREAS, image.occlusion),
    "misalignment": Corruption(SHIFTS, image.misalignment),
}
IMAGE = {
    "noise": Corruption((0.08, 0.12, 0.18, 0.26, 0.38), image.noise),
    "blur": Corruption(((1.0, 0.4), (2.0, 0.6), (3.0, 0.7), (4.0, 0.8), (6.0, 1.0)), image.blur),
    "brightness": Corruption((0.1, 0.2, 0.3, 0.4, 0.5), image.brightness),
    "contrast": Corruption((0.4, 0.3, 0.2, 0.1, 0.05), image.contrast),
    "compression": Corruption((25, 18, 15, 10, 7), compression),
    **PLACE,
}
TIME = {
    "dropped_frames": Corruption(SHARES, time.dropped_frames, along_time=True),
    "time_shift": Corruption(DELAYS, time.time_shift, along_time=True),
}
AUDIO = {
    "noise": Corruption(DECIBELS, time.audio_noise, along_time=True),
    "clipping": Corruption(LIMITS, time.audio_clipping, along_time=True),
    **TIME,
}
FORMS: dict[str, dict[str, Corruption]] = {
    "image": IMAGE,
    "depth": {
        "holes": Corruption(AREAS, image.holes),
        "quantisation": Corruption((32, 16, 8, 4, 2), image.quantisation),
        "range_clip": Corruption((1.5, 1.0, 0.5, 0.0, -0.5), image.range_clip),
        **PLACE,
    },
    "video": {**IMAGE, **TIME},
    "wave": {
        **AUDIO,
        "dropped_frames": Corruption(SHARES, time.dropped_sound, along_time=True),
        "band_mask": Corruption(BANDS, time.wave_band_mask, along_time=True),
    },
    "spectrogram": {**AUDIO, "band_mask": Corruption(BANDS, time.spectrogram_band_mask, along_time=True)},
    "sequence": {
        "noise": Corruption(DECIBELS, time.noise, along_time=True),
        "clipping": Corruption(LIMITS, time.clipping, along_time=True),
        **TIME,
        "band_mask": Corruption(BANDS, time.band_mask, along_time=True),
    },
    "vector": {
        "noise": Corruption((0.25, 0.5, 0.75, 1.0, 1.5), time.vector_noise),
        "dimension_dropout": Corruption(SHARES, time.dimension_dropout),
    },
    "tokens": {},
}


def corruptions(kind: str) -> tuple[str, ...]:
    """Return the names of the corruptions that suit a kind of modality (see :func:`corrupt`).

    Raises:
        InputError: an unknown kind.

    >>> corruptions("vector")
    ('noise', 'dimension_dropout', 'conflict')
    """
    return (*FORMS["wave" if check_kind(kind) == "audio" else kind], "conflict")


@torch.no_grad()
def corrupt(
    values: Any,
    corruption: str,
    severity: Any,
    *,
    kind: str,
    seed: int = 0,
    index: int = 0,
    modality: str = "",
    statistics: CorruptionStatistics | None = None,
) -> Any:
    """Return a batch of one modality damaged by ``severity``: 0 gives the values themselves, 5 damages most.

    Severities are paired: whatever is drawn (the noise, the places, the other samples) depends on ``(seed, index,
    modality, corruption)`` only, so that a higher severity has the same noise, louder, or the same holes, grown.

    =================== ============================== ======================================================
    kind, corruption    levels of severities 1-5       what the level is
    =================== ============================== ======================================================
    image, video
    ``noise``           .08 .12 .18 .26 .38 (a)        Gaussian noise, standard deviation / range
    ``blur``            1 2 3 4 6 (a), at least        sigma in pixels for a shorter side of 224, scaled with it;
                        .4 .6 .7 .8 1 (b)              (b) are pixels
    ``brightness``      .1 .2 .3 .4 .5 (a)             added to every channel, of its range
    ``contrast``        .4 .3 .2 .1 .05 (a)            factor on the difference from the image's mean
    ``compression``     25 18 15 10 7 (a)              quality of the JPEG
    ``occlusion``       .05 .1 .2 .35 .5 (c)           area of a box that holds the mean
    ``misalignment``    .04 .08 .12 .16 .2 (c)         shift in a random direction, of the shorter side
    depth               ``occlusion``, ``misalignment`` as images, and
    ``holes``           .05 .1 .2 .35 .5 (c)           area of blobs that read 0 (the low value if below 0)
    ``quantisation``    32 16 8 4 2 (c)                number of values left, from low to high
    ``range_clip``      1.5 1 .5 0 -.5 (c)             limit: standard deviations above the mean
    audio, sequence
    ``noise``           20 15 10 5 0 (d)               signal-to-noise ratio in dB; audio: in each recording;
                                                       sequence: in each channel, over all samples
    ``clipping``        1.2 .9 .6 .4 .2 (c)            limit: standard deviations about the mean (as for noise)
    ``dropped_frames``  .1 .2 .35 .5 .7 (c)            steps (waveforms: hundredths) that hold the mean; videos too
    ``time_shift``      .05 .1 .15 .2 .3 (c)           later or earlier, of the length; videos too
    ``band_mask``       .1 .2 .3 .4 .5 (c)             frequencies removed (waveform) or at their mean (spectrogram), in
                                                       one band; sequence: channels that hold their means
    vector
    ``noise``           .25 .5 .75 1 1.5 (c)           Gaussian noise, of each dimension's standard deviation
    ``dimension_dropout`` .1 .2 .35 .5 .7 (c)          dimensions of each sample that hold their means
    all, tokens too
    ``conflict``        .2 .4 .6 .8 1 (c)              samples that get another sample's whole value, masks included
    =================== ============================== ======================================================

    Sources: (a) ImageNet-C and (b) CIFAR-10-C, Hendrycks & Dietterich 2019, arXiv 1903.12261, where brightness is
    raised in HSV; (c) ours; (d) the levels of Aurora-2, Hirsch & Pearce 2000. Shares and shifts are rounded up to whole
    places. All but ``conflict`` change the floating tensors (and bytes of pixels) with the most axes; masks, lengths
    and other integers stay; NaN stays NaN.

    Few numbers per sample are drawn on the CPU and are the same on every device; noise is drawn on the values' own
    device, so that it differs between kinds of devices. Half precision is damaged in float32 and cast back.

    Args:
        values: a tensor or a nest of tensors, each ``[B, ...]``.
        corruption: a name of ``corruptions(kind)``.
        severity: 0-5.
        kind: of the modality (see :func:`modality_kind`).
        seed: of all that is drawn.
        index: number of the batch in the data set.
        modality: name of the modality: two modalities with one seed are damaged independently.
        statistics: of the data set; None takes them from this batch.

    Raises:
        InputError: an unknown kind or corruption, a severity that is not one of 0-5, values that have not the axes of
            their kind, statistics of other values, or a conflict with one sample.

    >>> x = torch.arange(5.0)[:, None]
    >>> corrupt(x, "noise", 0, kind="vector") is x
    True
    >>> corrupt(x, "conflict", 5, kind="vector").eq(x).any()
    tensor(False)
    """
    names = corruptions(kind)
    if corruption not in names:
        raise InputError(
            f"expected a corruption of {', '.join(names)} for the kind {kind!r}, got {corruption!r}."
            + did_you_mean(str(corruption), names)
        )
    severity, parts = check_severity(severity), tensors(values)
    if severity == 0 or not parts or not len(parts[0][1]):
        return values
    key = (seed, index, modality, corruption)
    if corruption == "conflict":
        return _conflict(values, CONFLICTS[severity - 1], derive_seed("corruption", *key))
    found = corruptible(values)
    if not found:
        raise InputError(f"expected floating tensors for the corruption {corruption!r}, got none; use 'conflict'")
    statistics = CorruptionStatistics.of(values, kind) if statistics is None else statistics
    changed = iter(
        _damaged(
            tensor, path, layout(kind, tensor), corruption, severity, derive_seed("corruption", *key, path), statistics
        )
        if path in found
        else tensor
        for path, tensor in parts
    )
    return map_tensors(lambda _: next(changed), values)


def check_severity(severity: Any) -> int:
    """Return the severity if it is one.

    Raises:
        InputError: not an integer of 0-5.
    """
    try:
        number = -1 if isinstance(severity, bool) else operator.index(severity)
    except TypeError:
        number = -1
    if number not in SEVERITIES:
        raise InputError(f"expected a severity of 0, 1, 2, 3, 4 or 5 (0 = undamaged), got {severity!r}")
    return number


def _damaged(
    tensor: Tensor,
    path: str,
    form: Layout,
    corruption: str,
    severity: int,
    seed: int,
    statistics: CorruptionStatistics,
) -> Tensor:
    how = FORMS[form.form][corruption]
    whole = standard(tensor, form)
    wide = whole.float() if tensor.dtype in (torch.float16, torch.bfloat16, torch.uint8) else whole
    mean = scale_of(statistics, path, wide, form.channel).mean
    known = wide.isfinite()
    x, channel, frames = torch.where(known, wide, mean), form.channel, 1
    if how.along_time:
        # [B, T, ...]; the channels follow the time, but in a video.
        x, channel = x.movedim(form.time, 1), 2
    elif form.form == "video":
        x, channel, frames = x.flatten(0, 1), 1, x.shape[1]
    draws = Draws(seed, len(tensor), tensor.device, frames)
    y = how.apply(x, how.levels[severity - 1], draws, scale_of(statistics, path, x, channel))
    y = y.movedim(1, form.time) if how.along_time else y.reshape(wide.shape)
    y = torch.where(known, y, wide)
    y = y.round().clamp(0, 255) if tensor.dtype == torch.uint8 else y
    return y.to(tensor.dtype).reshape(tensor.shape)


def _conflict(values: Any, share: float, seed: int) -> Any:
    size = len(tensors(values)[0][1])
    if size < 2:
        raise InputError("the corruption 'conflict' needs two samples in a batch; use larger batches")
    generator = torch.Generator().manual_seed(seed)
    order = ranks(torch.rand(1, size, generator=generator))[0]
    donors = (torch.arange(size) + torch.randint(1, size, (size,), generator=generator)) % size
    source = torch.where(order < places(share, size), donors, torch.arange(size))
    return map_tensors(lambda t: t[source.to(t.device, non_blocking=True)], values)

"""Corruptions along time: of sequences, audio and videos ``[B, T, ...]``; and of vectors ``[B, D]``."""

from __future__ import annotations

import torch
from torch import Tensor

from ._corruption_draws import Draws, places
from ._corruption_statistics import Scale

WAVE_FRAMES = 100


def noise(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Gaussian noise at a signal-to-noise ratio of ``level`` dB per channel: variance / noise power."""
    return torch.addcmul(x, draws.noise_like(x), scale.sd * 10 ** (-level / 20))


def audio_noise(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """As ``noise``, at that ratio in each recording by itself."""
    return torch.addcmul(x, draws.noise_like(x), _own(x)[1] * 10 ** (-level / 20))


def clipping(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Cut off at ``level`` standard deviations from the channel's mean."""
    return x.clamp(scale.mean - level * scale.sd, scale.mean + level * scale.sd)


def audio_clipping(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Cut off at ``level`` standard deviations of each recording from its own mean."""
    mean, sd = _own(x)
    return x.clamp(mean - level * sd, mean + level * sd)


def _own(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each sample."""
    axes = tuple(range(1, x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return mean, variance.sqrt()


def dropped_frames(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """``level`` of the time steps, at random, are lost: they hold the channel's mean."""
    return _lose(x, draws.chosen(level, x.shape[1]), scale)


def dropped_sound(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """As ``dropped_frames``, in stretches of a hundredth of the recording."""
    steps = x.shape[1]
    frames = min(WAVE_FRAMES, steps)
    lost = draws.chosen(level, frames)
    return _lose(x, lost[:, torch.arange(steps, device=x.device) * frames // steps], scale)


def _lose(x: Tensor, lost: Tensor, scale: Scale) -> Tensor:
    return torch.where(lost.view(*lost.shape, *[1] * (x.ndim - 2)), scale.mean, x)


def time_shift(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Later or earlier by ``level`` of the length; the first or last step fills the gap."""
    steps = x.shape[1]
    shift = places(level, steps) * torch.where(draws.uniform(1) < 0.5, -1, 1)
    source = (torch.arange(steps, device=x.device) - shift).clamp(0, steps - 1)
    flat = x.flatten(2)
    return flat.gather(1, source[:, :, None].expand(-1, -1, flat.shape[2])).view(x.shape)


def band_mask(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """``level`` of the channels of ``[B, T, C]``, at random, hold their means."""
    return torch.where(draws.chosen(level, x.shape[2])[:, None], scale.mean, x)


def wave_band_mask(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """A band over ``level`` of the frequencies of ``[B, T, C]``, at a random place, is removed."""
    spectrum = torch.fft.rfft(x, dim=1)
    spectrum = spectrum.masked_fill(draws.band(level, spectrum.shape[1])[:, :, None], 0)
    return torch.fft.irfft(spectrum, n=x.shape[1], dim=1)


def spectrogram_band_mask(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """A band over ``level`` of the frequencies of ``[B, T, C, F]``, at a random place, holds the channel's mean."""
    return torch.where(draws.band(level, x.shape[3])[:, None, None], scale.mean, x)


def vector_noise(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Gaussian noise of ``level`` standard deviations of each dimension."""
    return torch.addcmul(x, draws.noise_like(x), level * scale.sd)


def dimension_dropout(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """``level`` of the dimensions, at random in each sample, hold their means."""
    return torch.where(draws.chosen(level, x.shape[1]), scale.mean, x)

"""Random changes of training inputs, chosen by the kind of axes, drawn from one seeded generator."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


class Augment:
    """Augment a batch by the axes of each modality.

    At strength 1: sequences are stretched in time by up to 1.25 and shifted by up to 10 % of their length; each
    channel gets a gain of up to 20 % around its mean, an offset of 0.2 and noise of 0.05 of its standard deviation.
    Maps are zoomed by up to 1.15 and shifted by up to 8 %; each channel gets a gain of up to 20 %. Vectors get noise
    of 0.1 standard deviations. Where the target is a map too, all maps of a sample and its target move together; what
    comes into a target of classes from outside is ignored by the loss.

    Args:
        axes: the axes of each modality.
        target: the task; the targets of "dense" and "translation" are maps.
        strength: multiplies all amounts.
        flips: also mirror and turn maps by multiples of 90 degrees (turns only where height equals width).
        seed: seeds the generator; two objects with one seed give one stream of changes.
    """

    def __init__(self, axes: Mapping[str, str], *, target: str, strength: float, flips: bool = False, seed: int = 0):
        self.axes = dict(axes)
        self.target = target
        self.strength = strength
        self.flips = flips
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, inputs: dict[str, Tensor], target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return changed copies; the arguments stay as they are."""
        if self.strength <= 0 and not self.flips:
            return inputs, target
        inputs = {m: x if x.is_floating_point() else x.float() for m, x in inputs.items()}
        maps = [m for m in inputs if self.axes[m] in ("NCHW", "NTCHW")]
        if maps and self.target in ("dense", "translation"):
            theta = self._affine(len(target))
            inputs |= {m: self._gain(self._warp(inputs[m], theta)) for m in maps}
        if maps and self.target == "translation":
            target = self._warp(target, theta)
        elif maps and self.target == "dense":
            # 0 is what grid_sample fills in from outside, so the classes are moved up by one and negative means ignored
            moved = F.grid_sample(
                (target.float() + 1).clamp(min=0)[:, None],
                F.affine_grid(theta.to(target.device), [len(target), 1, *target.shape[1:]], align_corners=False),
                mode="nearest",
                align_corners=False,
            )
            target = moved[:, 0].round().to(target.dtype) - 1
        else:
            inputs |= {m: self._gain(self._warp(inputs[m], self._affine(len(target)))) for m in maps}
        if self.strength > 0:
            inputs |= {m: self._sequence(inputs[m]) for m in inputs if self.axes[m] == "NTC"}
            inputs |= {m: self._vector(inputs[m]) for m in inputs if self.axes[m] == "NC"}
        return inputs, target

    def _uniform(self, *shape: int, reach: float) -> Tensor:
        return (torch.rand(*shape, generator=self.generator) * 2 - 1) * reach * self.strength

    def _normal(self, *shape: int, scale: float) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * scale * self.strength

    def _affine(self, b: int) -> Tensor:
        zoom = torch.exp(self._uniform(b, 1, 1, reach=math.log(1.15)))
        turn = torch.eye(2).expand(b, 2, 2)
        if self.flips:
            signs = torch.randint(2, (b, 2), generator=self.generator).float() * 2 - 1
            turn = torch.diag_embed(signs)
            swap = torch.randint(2, (b, 1, 1), generator=self.generator).bool()
            turn = torch.where(swap, turn.flip(1), turn)
        return torch.cat([turn * zoom, self._uniform(b, 2, 1, reach=0.16)], dim=2)

    def _warp(self, x: Tensor, theta: Tensor) -> Tensor:
        flat = x.flatten(1, -3) if x.ndim > 4 else x
        if x.shape[-1] != x.shape[-2]:  # without square pixels' symmetry only mirrored, never turned
            theta = torch.where(theta[:, :1, :1] == 0, theta.roll(1, dims=1), theta) if self.flips else theta
        grid = F.affine_grid(theta.to(x), list(flat.shape), align_corners=False)
        return F.grid_sample(flat, grid, padding_mode="border", align_corners=False).view_as(x)

    def _gain(self, x: Tensor) -> Tensor:
        gain = self._uniform(len(x), x.shape[-3], 1, 1, reach=0.2).to(x)
        gain = gain[:, None] if x.ndim == 5 else gain
        return x + (x - x.mean((-2, -1), keepdim=True)) * gain

    def _sequence(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        stretch = torch.exp(self._uniform(b, 1, reach=math.log(1.25)))
        centre = (t - 1) / 2
        at = centre + (torch.arange(t) - centre) * stretch + self._uniform(b, 1, reach=0.1) * t
        at = at.clamp(0, t - 1).to(x)
        low = at.floor().long().clamp(max=max(t - 2, 0))
        part = (at - low)[:, :, None]
        rows = torch.arange(b, device=x.device)[:, None]
        x = x[rows, low] * (1 - part) + x[rows, (low + 1).clamp(max=t - 1)] * part
        mean = x.mean(1, keepdim=True)
        std = x.std((0, 1), correction=0)
        x = x + (x - mean) * self._uniform(b, 1, c, reach=0.2).to(x)
        return x + std * (self._normal(b, 1, c, scale=0.2) + self._normal(b, t, c, scale=0.05)).to(x)

    def _vector(self, x: Tensor) -> Tensor:
        return x + x.std(0, correction=0) * self._normal(*x.shape, scale=0.1).to(x)

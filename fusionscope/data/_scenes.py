"""``scenes``: RGB-D scenes of a stone floor, rendered here, whose classes are planted in a known modality."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fusionscope.errors import InputError

from ._render import Stones, lay_stones, paint_depth, paint_rgb
from ._scene_table import SCENE_TABLE, SceneTable

_CHUNK = 64
_JOINT_PIXELS = 2
_RGB_MEAN, _RGB_STD, _DEPTH_STD = 0.43, 0.2, 0.045


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all the parts; neighbouring seeds give unrelated streams."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


@contextmanager
def _one_thread() -> Generator[None, None, None]:
    """Chunks this small gain little from threads, which wait for each other at length where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class SceneDataset(Dataset):
    """RGB-D scenes with per-pixel classes whose carrying modality is exact by construction.

    A camera looks down on a tilted floor of irregular stones. Each stone draws (class, colour, relief) from one table,
    independently of all else; the colour shows only in rgb, the relief only in depth (rgb is albedo times a light that
    knows nothing of the relief). See :class:`SceneTable` for what that makes exact. Item: ``inputs`` rgb [3, H, W] and
    depth [1, H, W], float32, about zero mean and unit scale by fixed constants; ``target`` int64 [H, W].

    Two things keep a permutation null exact, which pairs one scene's images with another's labels. The outlines of the
    stones are drawn once per seed and are those of every scene of a dataset: were they to change, real pairs would
    share them and permuted pairs would not. And the joints between stones, two pixels wide, have no class (-1): an
    instrument that keeps only locations of one class would otherwise keep those across a joint where both stones have
    the same class, which are mostly floor, and so tell floor from the rest in every modality.

    Scene i depends on (seed, i, size, cells) only: more scenes, night or holes leave the rest of the draws as they
    are, so the same scene can be had by day and by night.

    Args:
        count: number of scenes.
        seed: any integer.
        size: height and width in pixels.
        cells: stones across a scene.
        night: probability that a scene is lit so dimly that camera noise drowns the colours.
        holes: probability that a scene's depth sensor has holes: a quarter of its pixels, in blobs placed independently
            of everything, read exactly 0.

    Attributes:
        rgb: uint8 [N, 3, H, W], as the camera delivers it.
        depth: float16 [N, 1, H, W], scaled.
        label: int8 [N, H, W], -1 in the joints. cell: uint8 [N, H, W], each pixel's stone, an index into the next two.
        colour, relief: uint8 [N, S], states of all S = (cells + 2)² stones, the outer ring almost out of view.
        night, holes: bool [N], per scene. hole_mask: bool [N, 1, H, W].

    Raises:
        InputError: no scenes, more than 14 stones across, fewer than 6 pixels per stone, a probability outside [0, 1].

    >>> scenes = SceneDataset(3, seed=1, night=0.5)
    >>> scenes[0]["inputs"]["rgb"].shape, scenes[0]["target"].shape
    (torch.Size([3, 64, 64]), torch.Size([64, 64]))
    >>> scenes.truth["misfit"]
    {'planted': 'both', 'modalities': ['rgb', 'depth']}
    """

    def __init__(
        self, count: int, *, seed: int = 0, size: int = 64, cells: int = 5, night: float = 0.0, holes: float = 0.0
    ) -> None:
        if count < 1:
            raise InputError(f"expected at least one scene, got count={count}.")
        if not 1 <= cells <= 14 or size < 6 * cells:
            raise InputError(
                f"expected 1 to 14 stones across and at least 6 pixels per stone, got size={size}, cells={cells}. "
                f"Set size to {6 * min(max(cells, 1), 14)} or more, or use fewer cells."
            )
        for name, value in (("night", night), ("holes", holes)):
            if not 0 <= value <= 1:
                raise InputError(f"expected a probability for {name}, got {value}.")
        self.table: SceneTable = SCENE_TABLE
        self.seed, self.size, self.cells = seed, size, cells
        stones = (cells + 2) ** 2
        self.rgb = torch.empty(count, 3, size, size, dtype=torch.uint8)
        self.depth = torch.empty(count, 1, size, size, dtype=torch.float16)
        self.label = torch.empty(count, size, size, dtype=torch.int8)
        self.cell = torch.empty(count, size, size, dtype=torch.uint8)
        self.colour = torch.empty(count, stones, dtype=torch.uint8)
        self.relief = torch.empty_like(self.colour)
        self.night = torch.empty(count, dtype=torch.bool)
        self.holes = torch.empty_like(self.night)
        self.hole_mask = torch.empty(count, 1, size, size, dtype=torch.bool)
        self._stones = self._lay()
        with _one_thread():
            for start in range(0, count, _CHUNK):
                self._render(start, min(_CHUNK, count - start), night, holes)

    def _lay(self) -> Stones:
        rng = torch.Generator().manual_seed(derive_seed("stones", self.seed))
        one = lay_stones(1, self.size, self.cells, rng)
        parts = (part.expand(_CHUNK, *part.shape[1:]) for part in (one.cell, one.border, one.offset))
        return Stones(*parts)

    def _render(self, start: int, n: int, night: float, holes: float) -> None:
        """Draw a whole chunk, whatever ``n``, so that a scene does not depend on how many follow it."""
        rng = torch.Generator().manual_seed(derive_seed("scenes", self.seed, start))
        stones = self._stones
        p = torch.from_numpy(self.table.p)
        states = torch.multinomial(p.flatten(), _CHUNK * self.colour.shape[1], replacement=True, generator=rng)
        states = states.view(_CHUNK, -1)
        relief, rest = states % p.shape[2], states // p.shape[2]
        colour, label = rest % p.shape[1], rest // p.shape[1]
        dark, broken = torch.rand(2, _CHUNK, generator=rng)
        is_night, has_holes = dark < night, broken < holes
        rgb = paint_rgb(stones, colour, is_night, rng)
        depth, mask = paint_depth(stones, relief, has_holes, rng)
        done = slice(start, start + n)
        self.rgb[done] = (255 * rgb[:n]).round().to(torch.uint8)
        self.depth[done] = (depth / _DEPTH_STD).masked_fill(mask, 0.0)[:n].to(torch.float16)
        pixels = label.gather(1, stones.cell.flatten(1)).view(stones.cell.shape)
        # The border grows by 2 per spacing across a straight joint.
        pixels = pixels.masked_fill(stones.border < _JOINT_PIXELS * self.cells / self.size, -1)
        self.label[done] = pixels[:n].to(torch.int8)
        self.cell[done] = stones.cell[:n].to(torch.uint8)
        self.colour[done], self.relief[done] = colour[:n].to(torch.uint8), relief[:n].to(torch.uint8)
        self.night[done], self.holes[done], self.hole_mask[done] = is_night[:n], has_holes[:n], mask[:n]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict:
        rgb = (self.rgb[index].float() / 255 - _RGB_MEAN) / _RGB_STD
        return {"inputs": {"rgb": rgb, "depth": self.depth[index].float()}, "target": self.label[index].long()}

    def __repr__(self) -> str:
        bayes = ", ".join(f"{name} {value:.3f}" for name, value in self.bayes.items())
        return (
            f"SceneDataset({len(self)} scenes of {self.size}x{self.size}, {self.cells}x{self.cells} stones, "
            f"seed {self.seed}; {int(self.night.sum())} at night, {int(self.holes.sum())} with depth holes; "
            f"Bayes accuracy by day without holes: {bayes})"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the target holds their positions."""
        return self.table.classes

    @property
    def truth(self) -> dict[str, dict]:
        """Planted type and carrying modalities of each class."""
        return self.table.truth

    @property
    def bayes(self) -> dict[str, float]:
        """Best possible accuracy per stone from rgb, depth and both, by day and without holes."""
        return {modality: self.table.accuracy(modality) for modality in ("rgb", "depth", "both")}

    @property
    def content(self) -> tuple[Tensor, ...]:
        """What the fingerprint covers."""
        return self.rgb, self.depth, self.label

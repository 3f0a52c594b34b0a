"""Maps brought to another size, and binary maps stored eight to a byte."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn import functional as F

from fusionscope.errors import InputError

MODES = {1: "linear", 2: "bilinear"}


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate maps ``[B, C, *grid]`` linearly (bilinearly) to ``[B, C, *size]``, corners not aligned.

    Raises:
        InputError: ``grid`` and ``size`` have different numbers of axes, or more than two.
    """
    grid = tuple(maps.shape[2:])
    if grid == tuple(size):
        return maps
    if len(grid) != len(size) or len(grid) not in MODES:
        raise InputError(
            f"expected maps with {len(size)} location axes to resize to {tuple(size)}, got {grid}; labels and features "
            "need the same number of location axes, one or two"
        )
    return F.interpolate(maps, size=tuple(size), mode=MODES[len(grid)], align_corners=False)


def pack_bits(binary: Bool[Tensor, "N *rest"]) -> UInt8[Tensor, "N bytes"]:
    """Store binary maps eight to a byte, sample by sample (the first value is the highest bit, as in NumPy).

    >>> pack_bits(torch.tensor([[[True, False, True]], [[False, False, True]]]))
    tensor([[160],
            [ 32]], dtype=torch.uint8)
    """
    flat = binary.flatten(1) if binary.ndim > 1 else binary.unsqueeze(1)
    flat = F.pad(flat.to(torch.uint8), (0, -flat.shape[1] % 8)).unflatten(1, (-1, 8))
    return (flat << torch.arange(7, -1, -1, dtype=torch.uint8, device=flat.device)).sum(2, dtype=torch.uint8)


def unpack_bits(packed: UInt8[Tensor, "N bytes"], shape: Sequence[int]) -> Bool[Tensor, "N *rest"]:
    """Undo ``pack_bits``; ``shape`` is the shape of one sample.

    Raises:
        InputError: more values than the bytes hold, or at least eight fewer.

    >>> unpack_bits(pack_bits(torch.eye(3, dtype=torch.bool)), (3,)).int()
    tensor([[1, 0, 0],
            [0, 1, 0],
            [0, 0, 1]], dtype=torch.int32)
    """
    n = 1
    for length in shape:
        n *= length
    if -(-n // 8) != packed.shape[1]:
        raise InputError(f"expected {-(-n // 8)} bytes per sample for shape {tuple(shape)}, got {packed.shape[1]}")
    bits = (packed.unsqueeze(2) >> torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten(1)[:, :n].bool().reshape(len(packed), *shape)

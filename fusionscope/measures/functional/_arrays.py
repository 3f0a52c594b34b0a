"""NumPy arrays are welcome wherever a tensor is."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusionscope.errors import InputError

ArrayLike = Tensor | np.ndarray


def as_tensor(x: Any) -> Tensor:
    """Return ``x`` itself where it is a tensor, else a tensor that holds a copy of the array.

    Raises:
        InputError: not an array of numbers.

    >>> as_tensor(np.arange(3.0))
    tensor([0., 1., 2.], dtype=torch.float64)
    """
    if isinstance(x, Tensor):
        return x
    try:
        return torch.tensor(np.ascontiguousarray(x))
    except TypeError as error:
        raise InputError(f"expected a tensor or an array of numbers, got a {type(x).__name__}: {error}") from None


def paired(x: ArrayLike, y: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return two sets of features as tensors ``[n, D]`` in float64 (locations flattened), one row per common sample.

    Raises:
        InputError: no sample axis, or other numbers of samples.
    """
    x, y = as_tensor(x), as_tensor(y)
    if not x.ndim or not y.ndim or len(x) != len(y):
        raise InputError(
            f"expected features of the same samples, one per row, got shapes {tuple(x.shape)} and {tuple(y.shape)}; "
            "put the sample axis first and give both the same samples in the same order"
        )
    a, b = (t.detach().double().flatten(1) if t.ndim > 1 else t.detach().double()[:, None] for t in (x, y))
    return a, b

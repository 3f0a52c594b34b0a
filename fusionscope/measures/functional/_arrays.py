"""NumPy arrays where tensors are expected."""

import numpy as np
import torch
from torch import Tensor


def as_tensor(x: Tensor | np.ndarray) -> Tensor:
    """Return ``x`` as a tensor without gradient; a NumPy array shares its memory where it can be written to."""
    if isinstance(x, Tensor):
        return x.detach()
    return torch.from_numpy(x if x.flags.writeable and x.flags.c_contiguous else np.array(x))

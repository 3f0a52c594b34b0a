"""The best additive approximation of a model of two inputs."""

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from fusionscope.errors import InputError

from ._arrays import ArrayLike, as_tensor


def emap(logits: Shaped[ArrayLike, "N M *rest"]) -> Shaped[ArrayLike, "N *rest"]:
    """Return the predictions of the best additive approximation ``f1(x1) + f2(x2)``, in the unit of the logits.

    ``EMAP_i = mean_j L[i, j] + mean_j L[j, i] - mean L``, where ``L[i, j]`` is the output for modality 1 of sample i
    and modality 2 (or all others) of sample j. Of all additive functions it is the nearest in squared error over the
    ``N x N`` pairs; an additive model is its own. What the model scores above it is what interaction adds. Source:
    Hessel and Lee, EMNLP 2020.

    Args:
        logits: outputs for all pairs; a tensor or an array, any trailing axes (float64 sums for arrays and tensors).

    Raises:
        InputError: not all pairs of the same samples.

    >>> import torch
    >>> xor = torch.tensor([[[0.0], [1.0]], [[1.0], [0.0]]])
    >>> emap(xor).flatten().tolist()
    [0.5, 0.5]
    """
    x = as_tensor(logits)
    if x.ndim < 2 or x.shape[0] != x.shape[1]:
        raise InputError(f"expected outputs for all pairs of N samples, [N, N, ...], got {tuple(x.shape)}")
    wide = x.double()
    found = (wide.mean(1) + wide.mean(0) - wide.mean((0, 1))).to(x.dtype if x.is_floating_point() else wide.dtype)
    return found if isinstance(logits, Tensor) else np.asarray(found)

"""Net2Vec: one weight per unit and concept, so that the weighted sum of a tap's maps shows where the concept is."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num, Shaped
from torch import Tensor
from torch.nn import functional as F

from fusionscope.errors import InputError

from ._arrays import as_tensor
from ._maps import resize

Array = np.ndarray
BUDGET = 2**26  # values of gathered features at a time
LEVELS = 1000  # thresholds tried


class Net2VecFit(NamedTuple):
    """Weights and bias of each concept's map, and the probability above which it predicts the concept.

    NaN for a concept that no image contains.
    """

    weights: Float[Tensor, "C U"]
    bias: Float[Tensor, "C"]
    threshold: Float[Tensor, "C"]


def binarise(
    features: Num[Tensor, "N U *grid"] | Num[Array, "N U *grid"], thresholds: Num[Tensor, "U"] | Num[Array, "U"]
) -> Bool[Tensor, "N U *grid"]:
    """Return ``1[A_k > T_k]``: where each unit exceeds its own threshold (NaN never does).

    >>> binarise(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([1.0, 3.5])).int()
    tensor([[[0, 1],
             [0, 1]]], dtype=torch.int32)
    """
    x, limit = as_tensor(features), as_tensor(thresholds)
    return x.double() > limit.to(x.device).double().view(-1, *[1] * (x.ndim - 2))


def net2vec_maps(
    features: Shaped[Tensor, "N U *grid"] | Shaped[Array, "N U *grid"],
    weights: Num[Tensor, "C U"],
    bias: Num[Tensor, "C"] | None = None,
    size: Sequence[int] | None = None,
) -> Float[Tensor, "N C *size"]:
    """Return each concept's map ``M_c = sigmoid(Up(Σ_k w_ck x_k) + b_c)``, a probability.

    Units are mixed at the features' size; only the C sums are interpolated (bilinearly) to ``size``. Published in Fong
    and Vedaldi 2018, arXiv 1801.03454.

    Args:
        features: binary maps (``binarise``) or raw activations.
        weights: of ``net2vec_fit``.
        bias: likewise; 0 by default.
        size: of the masks; by default the features' own.

    >>> net2vec_maps(torch.tensor([[[True, False]]]), torch.tensor([[100.0]]))
    tensor([[[1.0000, 0.5000]]])
    """
    x = as_tensor(features)
    w = weights.to(x.device)
    grid = x.shape[2:]
    z = w.new_zeros(len(x), len(w), *grid)
    for n in range(len(x)):  # one image at a time: binary maps need four times their memory as numbers
        z[n] = (w @ x[n].flatten(1).to(w.dtype) if grid else w @ x[n].to(w.dtype)).view(z[n].shape)
    z = resize(z, grid if size is None else size)
    b = w.new_zeros(len(w)) if bias is None else bias.to(w)
    return (z + b.view(-1, *[1] * (z.ndim - 2))).sigmoid()


def set_ious(
    predicted: Bool[Tensor, "N C *places"], masks: Bool[Tensor, "N C *places"], labelled: Bool[Tensor, "N *places"]
) -> Float[Tensor, "C"]:
    """Set IoU of each concept: intersections over unions, each summed over all images first. NaN for an empty union.

    >>> guess, mask = torch.tensor([[[True, True, False]]]), torch.tensor([[[True, False, True]]])
    >>> set_ious(guess, mask, torch.tensor([[True, True, False]]))
    tensor([0.5000], dtype=torch.float64)
    """
    known = labelled.unsqueeze(1)
    axes = [0, *range(2, masks.ndim)]
    return (predicted & masks & known).sum(axes).double() / ((predicted | masks) & known).sum(axes)


def net2vec_fit(
    features: Shaped[Tensor, "N U *grid"] | Shaped[Array, "N U *grid"],
    masks: Bool[Tensor, "N C *places"] | Bool[Array, "N C *places"],
    labelled: Bool[Tensor, "N *places"] | Bool[Array, "N *places"] | None = None,
    variant: str = "stable",
    *,
    epochs: int = 30,
    steps: int = 300,
    batch: int | None = 16,
    lr: float | None = None,
    only_containing: bool | None = None,
    seed: int = 0,
    init: Num[Tensor, "C U"] | None = None,
) -> Net2VecFit:
    """Learn, for each concept, one weight per unit so that ``net2vec_maps`` shows the concept's mask.

    ``"published"`` (Fong and Vedaldi 2018, arXiv 1801.03454, as its code has it): the loss has no logarithm,
    ``-(1/n) Σ_images Σ_pixels [α L M + (1-α)(1-L)(1-M)]`` for the n images of a batch, with ``α_c = 1 -`` the mean,
    over the images that contain c, of c's share of pixels; SGD with momentum 0.9 and ``lr`` 1e-4, ``epochs`` times over
    the images that contain c, no bias, threshold 0.5. With few images it hardly leaves its random start.

    ``"stable"`` (ours): the same model and weighting with the logarithm (binary cross-entropy), Adam with ``lr`` 1e-2
    for ``steps`` steps, a bias, all images, and the threshold with the best set IoU on these images.

    Weights start uniformly in ±1/√U. All concepts are fitted at once, each as if it were alone: the result for one
    does not depend on the others. Batches are of images that contain the concept, in an order that depends on ``seed``.

    Args:
        features: binary maps (``binarise``; the published input), or raw activations, which ``"stable"`` divides by
            each unit's root mean square while it learns; taken in float32 (float64 stays).
        masks: where each concept is; with as many location axes as the features.
        labelled: pixels that count; all by default.
        variant: as above.
        epochs: of ``"published"``.
        steps: of ``"stable"``.
        batch: images per step and concept; None for all.
        lr: learning rate instead of the variant's own.
        only_containing: use for each concept only the images that contain it; True by default for ``"published"`` only.
        seed: of the start and of the batches.
        init: weights to start from instead.

    Raises:
        InputError: an unknown variant, or shapes that do not belong together.

    >>> g = torch.Generator().manual_seed(0)
    >>> maps = torch.rand(20, 3, 4, 4, generator=g) > 0.5
    >>> mask = maps[:, 1:2]
    >>> fit = net2vec_fit(maps, mask)
    >>> guess = net2vec_maps(maps, fit.weights, fit.bias) > fit.threshold.view(-1, 1, 1)
    >>> set_ious(guess, mask, torch.ones(20, 4, 4, dtype=torch.bool))
    tensor([1.], dtype=torch.float64)
    """
    x, L = as_tensor(features), as_tensor(masks)
    known = torch.ones_like(L[:, 0]) if labelled is None else as_tensor(labelled)
    if variant not in ("published", "stable"):
        raise InputError(f"expected the variant 'published' or 'stable', got {variant!r}")
    if x.ndim != L.ndim or len(x) != len(L) or known.shape != L[:, 0].shape:
        raise InputError(
            "expected features [N, U, *grid], masks [N, C, *places] and labelled [N, *places] with equally many "
            f"location axes, got {tuple(x.shape)}, {tuple(L.shape)} and {tuple(known.shape)}"
        )
    if x.ndim == 2:
        x, L, known = x.unsqueeze(2), L.unsqueeze(2), known.unsqueeze(1)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        published = variant == "published"
        known = known.to(x.device)
        L = L.to(x.device) & known.unsqueeze(1)
        task = _Task(x, L, known, published, published if only_containing is None else only_containing)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        C, U = L.shape[1], x.shape[1]
        start = (torch.rand(C, U, generator=torch.Generator().manual_seed(seed)) * 2 - 1) / max(U, 1) ** 0.5
        start = (start if init is None else init).to(x.device, dtype)
        if x.is_floating_point() and not published:
            rms = x.double().square().mean((0, *range(2, x.ndim))).sqrt()
            task.scale = torch.where(rms > 0, rms, 1.0).to(dtype)
        weights, bias = start.clone(), start.new_zeros(C)
        together = C if task.shared or batch is None else max(1, BUDGET // max(1, batch * x[:1].numel()))
        for first in range(0, C, together):
            part = slice(first, first + together)
            descent = _Descent(task, part, start[part], lr or (1e-4 if published else 1e-2))
            descent.run(epochs if published else None, steps, batch, seed)
            weights[part], bias[part] = descent.weights / task.scale, descent.bias
        threshold = start.new_full((C,), 0.5) if published else _best_threshold(task, weights, bias)
        for value in (weights, bias, threshold):
            value[~task.alive] = torch.nan
        return Net2VecFit(weights, bias, threshold)


class _Task:
    """What is fitted: features, masks, which pixels count, which images serve which concept, and their balance."""

    def __init__(self, features: Tensor, masks: Tensor, known: Tensor, published: bool, only_containing: bool) -> None:
        self.features, self.masks, self.known, self.published = features, masks, known, published
        self.scale: Any = 1.0
        self.grid = tuple(features.shape[2:])
        contains = masks.flatten(2).any(2)
        self.select = contains if only_containing else known.flatten(1).any(1)[:, None].expand_as(contains)
        self.alive = contains.any(0)
        pixels = known.flatten(1).sum(1).double()[:, None]
        share = torch.where(self.select, masks.flatten(2).sum(2).double() / pixels, 0.0)
        self.alpha = 1 - share.sum(0) / self.select.sum(0)
        self.shared = bool((self.select == self.select[:, :1]).all())


def _turns(select: Array, batch: int, seed: int) -> Iterator[Array]:
    """Batches of the selected images, for ever; the order of an epoch is common to all concepts."""
    epoch = 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(select))
        mine = order[select[order]]
        yield from np.split(mine, range(batch, len(mine), batch))
        epoch += 1


class _Descent:
    """Gradient descent of some concepts at once; concepts do not touch each other."""

    def __init__(self, task: _Task, part: slice, start: Tensor, lr: float) -> None:
        self.task, self.part, self.lr = task, part, lr
        self.weights, self.bias = start.clone(), start.new_zeros(len(start))
        self.alpha = task.alpha[part].to(start).view(-1, 1, *[1] * (task.masks.ndim - 2))

    def run(self, epochs: int | None, steps: int, batch: int | None, seed: int) -> None:
        """Take ``epochs`` epochs of SGD, or ``steps`` steps of Adam."""
        select = self.task.select[:, self.part]
        size = len(select) if batch is None else batch
        turns = (-(-select.sum(0) // max(size, 1))).tolist()
        lengths = torch.tensor([n * epochs if epochs else steps for n in turns], device=select.device)
        lengths = torch.where(self.task.alive[self.part], lengths, 0)
        plain = select.cpu().numpy()
        if batch is None or self.task.shared:
            streams = [_turns(plain.any(1), size, seed)]
        else:
            streams = [_turns(plain[:, c], size, seed) for c in range(plain.shape[1])]
        memory: list[Tensor] = []
        for step in range(int(lengths.max()) if len(lengths) else 0):
            alive = step < lengths
            rows = [next(s) if len(streams) == 1 or alive[c] else np.zeros(0, int) for c, s in enumerate(streams)]
            gradients = self._gradients(rows, select, size)
            self._move(gradients, memory, alive.to(self.weights), step + 1)

    def _gradients(self, rows: list[Array], select: Tensor, size: int) -> list[Tensor]:
        device, task = self.weights.device, self.task
        width = max(len(r) for r in rows)
        index = torch.from_numpy(np.stack([np.pad(r, (0, width - len(r))) for r in rows])).to(device)
        used = torch.from_numpy(np.stack([np.arange(width) < len(r) for r in rows])).to(device)
        if len(rows) == 1:
            used = used & select[index[0]].T
        with torch.enable_grad():
            w, b = self.weights.clone().requires_grad_(), self.bias.clone().requires_grad_()
            x = task.features[index].to(w.dtype).flatten(3)
            scaled = w / task.scale
            # One product for all concepts where they share their images, one per concept where not: [C, images, cells]
            z = (scaled @ x[0]).transpose(0, 1) if len(rows) == 1 else (scaled[:, None, None] @ x).squeeze(2)
            z = resize(z.unflatten(2, task.grid), task.known.shape[1:])
            z = z + b.view(-1, *[1] * (z.ndim - 1))
            L = task.masks[:, self.part].transpose(0, 1)
            columns = torch.arange(len(w), device=device)[:, None]
            L = L[columns, index].to(w.dtype)
            weight = used.view(*used.shape, *[1] * (z.ndim - 2)) * task.known[index]
            loss = self._loss(z, L, weight.to(w.dtype).expand_as(z), used.sum(1))
            return list(torch.autograd.grad(loss, [w] if task.published else [w, b]))

    def _loss(self, z: Tensor, L: Tensor, weight: Tensor, images: Tensor) -> Tensor:
        a = self.alpha
        if self.task.published:
            M = z.sigmoid()
            terms = -(a * L * M + (1 - a) * (1 - L) * (1 - M))
            per_concept = (weight * terms).flatten(1).sum(1) / images.clamp(min=1)
        else:
            terms = a * L * F.softplus(-z) + (1 - a) * (1 - L) * F.softplus(z)
            pixels = weight.flatten(1).sum(1)
            per_concept = (weight * terms).flatten(1).sum(1) / torch.where(pixels > 0, pixels, 1)
        return per_concept.sum()

    def _move(self, gradients: list[Tensor], memory: list[Tensor], alive: Tensor, step: int) -> None:
        """One step of SGD with momentum, or of Adam, for the concepts that still learn."""
        if not memory:
            memory += [torch.zeros_like(g) for g in (*gradients, *gradients)]
        for i, (value, g) in enumerate(zip((self.weights, self.bias), gradients, strict=False)):
            m, v = memory[i], memory[i + len(gradients)]
            if self.task.published:
                move = m.mul_(0.9).add_(g)
            else:
                m.mul_(0.9).add_(g, alpha=0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                move = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            value -= self.lr * alive.view(-1, *[1] * (value.ndim - 1)) * move


def _best_threshold(task: _Task, weights: Tensor, bias: Tensor) -> Tensor:
    """The probability with the best set IoU on the images fitted, in the middle of its plateau."""
    C = len(weights)
    counts = torch.zeros(2, C, LEVELS, dtype=torch.float64, device=weights.device)
    offset = torch.arange(C, device=weights.device).view(-1, *[1] * (task.masks.ndim - 2)) * LEVELS
    for n in range(0, len(task.features), 16):
        part = slice(n, n + 16)
        M = net2vec_maps(task.features[part], weights.nan_to_num(), bias.nan_to_num(), task.known.shape[1:])
        cell = (M * LEVELS).long().clamp(max=LEVELS - 1) + offset
        use = task.select[part].view(-1, C, *[1] * (M.ndim - 2)) & task.known[part].unsqueeze(1)
        for i, which in enumerate((use & ~task.masks[part], use & task.masks[part])):
            counts[i] += torch.bincount(cell[which], minlength=C * LEVELS).view(C, LEVELS)
    above = counts.flip(2).cumsum(2).flip(2)  # at threshold k/LEVELS: pixels in that cell or a higher one
    iou = above[1] / (above[0] + counts[1].sum(1, keepdim=True))
    iou = torch.where(iou.isnan(), -1.0, iou)
    first = iou.argmax(1, keepdim=True)
    level = torch.arange(LEVELS, device=iou.device)
    worse = (level > first) & (iou < iou.gather(1, first))
    last = torch.where(worse, level, LEVELS).min(1).values - 1
    return ((first[:, 0] + last) / 2 / LEVELS).to(weights.dtype)

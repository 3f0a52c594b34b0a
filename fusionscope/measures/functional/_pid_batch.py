"""Partial information decomposition learned from batches, for features of many dimensions."""

import itertools

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.nn import functional as F

from fusionscope.errors import InputError

from ._arrays import ArrayLike, as_tensor
from ._broja import UNITS
from ._cka import check_word
from ._pid_features import ATOMS, Decomposition, label_codes, nothing, shuffle, why_not
from ._resampling import bound_rank

HIDDEN, LAYERS, EMBEDDING = 32, 3, 10
ROUNDS, NEAR, LEARNT_ROUNDS = 500, 0.01, 5


def batch_decomposition(
    x1: ArrayLike,
    x2: ArrayLike,
    y: ArrayLike,
    *,
    group: ArrayLike | None = None,
    held_out: float = 0.3,
    epochs: int = 40,
    align_epochs: int = 10,
    batch: int = 256,
    shuffles: int = 0,
    alpha: float = 0.05,
    seed: int = 0,
    unit: str = "bits",
) -> Decomposition:
    """Decompose what features ``x1[n, D1]`` and ``x2[n, D2]`` say about ``y[n]``, by small networks.

    ``BATCH`` of Liang et al. 2023 (arXiv:2302.12247), reconstructed. Three classifiers give ``p(y|x1)``, ``p(y|x2)``
    and ``p(y|x1, x2)``. Two networks embed each side per class; the products of the embeddings, scaled by Sinkhorn's
    iteration so that they have the classifiers' marginals, are ``q(x1, x2, y)`` of a batch. They are trained to make
    ``I_q(X2; Y|X1)`` small. On batches that no network was trained on, with informations ``mean Σ_y p log p/p(y)``::

        R = I1 + I2 - I_q      U_a = I_q - I2      U_b = I_q - I1      S = I12 - I_q

    Nothing keeps these from being negative, and overconfident classifiers make them too large. ``shuffled`` comes
    from refits to shuffled labels (NaN without). ``low`` and ``high`` are Student's over the batches held out. Computed
    on the device of ``x1``; the same seed gives the same numbers on one device. The gradient goes through the last 5
    rounds of Sinkhorn only, and features are standardised: both are ours. ``bins`` is (0, 0), ``gap`` NaN.

    Args:
        x1: one side; axes past the first are flattened.
        x2: the other side, of the same samples.
        y: labels (a label < 0 leaves the sample out), or numbers, which are cut into 5 quantile bins.
        group: samples of one group are held out together.
        held_out: share of the samples (groups) that the estimate is made on.
        epochs: of the classifiers.
        align_epochs: of the alignment.
        batch: samples per batch; down to 32 where that gives an epoch 8 batches.
        shuffles: refits to shuffled labels; 0 or at least ``1/alpha - 1``.
        alpha: of the interval, and of ``shuffled_high``.
        seed: of the networks, the split and the shuffles; the global generators are left alone.
        unit: "bits" or "nats".

    Raises:
        InputError: features that are not finite, other numbers of samples, or settings out of range.

    >>> x = torch.randn(150, 3, generator=torch.Generator().manual_seed(0))
    >>> batch_decomposition(x, x * 0, x[:, 0] > 0, epochs=1).reason
    'the features of side b do not differ between samples'
    """
    check_word("unit", unit, tuple(UNITS))
    rank = bound_rank(shuffles, alpha) if shuffles else 0
    if not 0 < held_out < 1 or min(epochs, align_epochs) < 1 or batch < 2:
        raise InputError(
            "expected 0 < held_out < 1, epochs and align_epochs >= 1 and batch >= 2, got "
            f"{held_out}, {epochs}, {align_epochs} and {batch}"
        )
    sides = [as_tensor(x).detach().float().flatten(1) for x in (x1, x2)]
    sides = [x.to(sides[0].device) for x in sides]
    labels = label_codes(y)
    groups = np.arange(len(labels)) if group is None else as_tensor(group).detach().cpu().numpy()
    if not len(sides[0]) == len(sides[1]) == len(labels) == len(groups):
        raise InputError(
            f"expected both sides, labels and groups of the same samples, got lengths {len(sides[0])}, "
            f"{len(sides[1])}, {len(labels)} and {len(groups)}"
        )
    if not all(bool(x.isfinite().all()) for x in sides):
        raise InputError("expected finite features; leave out rows that are not finite")
    known = np.flatnonzero(labels >= 0)
    labels, groups = (np.unique(v[known], return_inverse=True)[1] for v in (labels, groups))
    sides = [x[torch.from_numpy(known).to(x.device)] for x in sides]
    n, classes = len(known), int(labels.max(initial=-1)) + 1
    different = [len(torch.unique(x, dim=0)) if len(x) else 0 for x in sides]
    reason = why_not(*different, classes) or ("" if n >= 20 else f"too few samples with a label ({n})")
    if reason:
        return nothing(reason, n, (0, 0), "batch", unit)
    rng = np.random.default_rng(seed)
    order = rng.permutation(int(groups.max()) + 1)[groups].argsort(kind="stable")
    tested, train = np.split(order, [max(4, round(held_out * n))])
    tests = [torch.from_numpy(t) for t in np.array_split(tested, max(2, round(len(tested) / batch)))]
    estimates = []
    for number in range(1 + shuffles):
        named = labels if not number else shuffle(labels, groups, rng)
        target = torch.from_numpy(named).to(sides[0].device)
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=_devices(sides[0])):
            torch.manual_seed(seed)
            nets = Networks(sides, target, torch.from_numpy(train), classes)
            nets.train(epochs, align_epochs, batch)
            with torch.no_grad():
                estimates.append(np.stack([nets.estimate(t) for t in tests]) / UNITS[unit])
    per_batch, nan = estimates[0], np.full(len(ATOMS), np.nan)
    value, B = per_batch.mean(0), len(tests)
    half = float(stdtrit(B - 1, 1 - alpha / 2)) * per_batch.std(0, ddof=1) / B**0.5
    null = np.array([e.mean(0) for e in estimates[1:]])
    mean, top = (null.mean(0), np.sort(null, 0)[rank - 1]) if rank else (nan, nan)
    fixed = value - mean if rank else value
    return Decomposition(
        value, mean, top, value - mean, fixed - half, fixed + half, float("nan"), (0, 0), n, "batch", unit, ""
    )


def _devices(x: Tensor) -> list[int]:
    return [x.get_device()] if x.is_cuda else []


def mlp(inputs: int, outputs: int, like: Tensor) -> nn.Sequential:
    """Three hidden layers of 32."""
    sizes = [inputs] + [HIDDEN] * LAYERS
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs)).to(like.device)


class Networks:
    """Three classifiers and two embeddings of standardised features."""

    def __init__(self, sides: list[Tensor], target: Int[Tensor, "n"], train: Int[Tensor, "m"], classes: int) -> None:
        self.target, self.rows, self.classes = target.clone(), train.to(target.device), classes
        scaled = []
        for x in sides:
            seen = x[self.rows]
            scaled.append((x - seen.mean(0)) / seen.std(0).clamp(min=1e-6))
        a, b = scaled
        self.views = [a, b, torch.cat(scaled, 1)]
        self.classifiers = [mlp(x.shape[1], classes, a) for x in self.views]
        self.embeddings = [mlp(x.shape[1], classes * EMBEDDING, a) for x in scaled]
        count = torch.bincount(self.target[self.rows], minlength=classes).float() + 1e-6
        self.prior = (count / count.sum()).log()

    def train(self, epochs: int, align_epochs: int, batch: int) -> None:
        """Fit the classifiers, then the embeddings."""
        for net, x in zip(self.classifiers, self.views, strict=True):
            optimiser = torch.optim.Adam(net.parameters(), 1e-3)
            for rows in self._batches(epochs, batch):
                optimiser.zero_grad()
                F.cross_entropy(net(x[rows]), self.target[rows]).backward()
                optimiser.step()
            net.requires_grad_(False)
        optimiser = torch.optim.Adam([p for net in self.embeddings for p in net.parameters()], 1e-3)
        for rows in self._batches(align_epochs, batch):
            optimiser.zero_grad()
            (self._log_p(0, rows).exp() * self._aligned(rows)).sum(1).mean().backward()
            optimiser.step()

    def _batches(self, epochs: int, batch: int) -> list[Tensor]:
        out = []
        for _ in range(epochs):
            order = self.rows[torch.randperm(len(self.rows)).to(self.rows.device)]
            out += list(order.chunk(max(1, min(8, len(order) // 32), len(order) // batch)))
        return out

    def _log_p(self, view: int, rows: Tensor) -> Float[Tensor, "b Y"]:
        return self.classifiers[view](self.views[view][rows]).log_softmax(1)

    def _aligned(self, rows: Tensor) -> Float[Tensor, "b Y"]:
        """Return ``Σ_j q(x2_j|x1_i, y) log q(x2_j|x1_i, y)/q(x2_j|x1_i)``."""
        first, second = self._log_p(0, rows), self._log_p(1, rows)
        a, b = (
            F.layer_norm(net(self.views[view][rows]).unflatten(1, (self.classes, EMBEDDING)), (EMBEDDING,))
            for view, net in enumerate(self.embeddings)
        )
        log_q = sinkhorn(torch.einsum("iyk,jyk->ijy", a, b) / EMBEDDING**0.5, first, second).log_softmax(1)
        mixed = (log_q + first[:, None]).logsumexp(2, keepdim=True)
        return (log_q.exp() * (log_q - mixed)).sum(1)

    def estimate(self, rows: Tensor) -> np.ndarray:
        """Return the seven atoms of one batch, in nats."""
        rows = rows.to(self.target.device)
        logs = [self._log_p(view, rows) for view in range(3)]
        one, two, both = ((p.exp() * (p - self.prior)).sum(1).mean() for p in logs)
        least = (logs[0].exp() * (self._aligned(rows) + logs[0] - self.prior)).sum(1).mean()
        return (
            torch.stack([one + two - least, least - two, least - one, both - least, one, two, both])
            .cpu()
            .double()
            .numpy()
        )


def sinkhorn(
    log_a: Float[Tensor, "i j Y"], log_rows: Float[Tensor, "i Y"], log_columns: Float[Tensor, "j Y"]
) -> Float[Tensor, "i j Y"]:
    """Scale tables (one per class, in logarithms) to their marginals: at most 500 rounds, to 0.01; rows come last.

    A batch's columns need not sum to what its rows do; they are scaled to that first.
    """
    log_columns = log_columns + log_rows.logsumexp(0) - log_columns.logsumexp(0)
    with torch.no_grad():
        v = torch.zeros_like(log_columns)
        for _ in range(ROUNDS):
            u = log_rows - (log_a + v).logsumexp(1)
            sums = (log_a + u[:, None] + v).logsumexp(0)
            v = v + log_columns - sums
            if (sums.exp() - log_columns.exp()).abs().max() < NEAR:
                break
    u = log_rows - (log_a + v).logsumexp(1)
    for _ in range(LEARNT_ROUNDS):
        v = log_columns - (log_a + u[:, None]).logsumexp(0)
        u = log_rows - (log_a + v).logsumexp(1)
    return log_a + u[:, None] + v

"""CKA of the whole data set, from moments of the features."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fusionscope.errors import InputError

from ._pairs import Combining, Rows, check_reduced, check_rows, check_taps, pair_reasons, take_rows
from .functional._cka import ROUNDING
from .functional._variance import CONSTANT

Array = np.ndarray
WIDEST, LIMIT = 2048, 2e9
SUMS = ("sums", "products", "norms", "mixed", "quartic", "bad", "misfits", "tally")


@dataclass(frozen=True, eq=False)
class WholeCKAResult:
    """CKA of all pairs of taps over all rows, every array ``[L, L]`` in the order of ``taps``.

    ``matrix`` is the unbiased estimate, whose mean under random pairing is 0; ``biased`` the plain one, and
    ``biased_null`` its mean under random pairing of rows. ``reason`` says why something is NaN and is empty otherwise.
    """

    taps: tuple[str, ...]
    matrix: Float64[Array, "L L"]
    biased: Float64[Array, "L L"]
    biased_null: Float64[Array, "L L"]
    rows: int
    samples: int
    batches: int
    reason: Any


@dataclass(frozen=True)
class RowsContext:
    """What all taps of one batch share: its size."""

    size: int


class CKA(Combining):
    """Linear CKA between all taps over all rows at once, exact, unbiased and biased.

    Over ``n`` rows, centred: ``C = Σ x yᵀ``, ``a = ||x||²``, ``b = ||y||²``, and

    ``HSIC_biased = ||C||_F²``,
    ``HSIC1 = [||C||_F² - n/(n-2) Σ a b + Σa Σb/((n-1)(n-2))] / (n(n-3))``,

    each then divided by the root of both sides' own. The second is Song et al.'s unbiased HSIC (arXiv 2010.15327 Eq. 3)
    with ``K = XXᵀ`` written in moments, so that no batch size enters: it equals ``cka`` of all rows. No unit, never
    clamped. Under random pairing of rows the mean is 0, and for the biased one
    ``Σa Σb/((n-1) ||C_xx|| ||C_yy||)``. No interval: a jackknife would multiply the memory by its folds; use
    ``MinibatchCKA`` for one.

    A row is a sample averaged over its locations, or a cell of a common ``grid``: finer taps are averaged, of coarser
    ones the nearest location is taken. Neighbouring cells are not independent: there the null mean is a rough guide.
    Moments are kept in float64 about the mean of the first batch, so that a mean far above the spread does no harm.

    Memory: ``8 T²`` bytes for ``T`` units of all taps together, at most 2 GB (15,800 units).

    Args:
        taps: names, in the order of the result.
        rows: "image", one row per sample, or "location".
        grid: cells per location axis; a number stands for two axes. For taps ``[B, U, T]`` give ``(cells,)``.

    Raises:
        InputError: settings out of range, unknown or missing taps, a tap of more than 2,048 units, or over 2 GB.

    >>> import torch
    >>> metric = CKA(["x", "square"])
    >>> for index, x in enumerate((torch.tensor([[1.0], [2]]), torch.tensor([[3.0], [4], [5]]))):
    ...     context = metric.context(len(x), None, index)
    ...     metric.update({"x": metric.reduce(x, context), "square": metric.reduce(x**2, context)}, context)
    >>> result = metric.compute()
    >>> result.matrix[0, 1].round(6).item(), result.biased[0, 1].round(6).item()
    (0.984602, 0.962567)
    """

    anchor: Tensor
    sums: Tensor
    products: Tensor
    norms: Tensor
    mixed: Tensor
    quartic: Tensor
    widths: Tensor
    bad: Tensor
    misfits: Tensor
    tally: Tensor

    def __init__(
        self, taps: Iterable[str], *, rows: str = "image", grid: int | Sequence[int] = 4, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.taps, self.grid = check_taps(taps), check_rows(rows, grid)
        L = len(self.taps)
        self.add_state("anchor", torch.zeros(0, dtype=torch.float64), "sum")
        self.add_state("sums", torch.zeros(0, dtype=torch.float64), "sum")
        self.add_state("products", torch.zeros(0, 0, dtype=torch.float64), "sum")
        self.add_state("norms", torch.zeros(L, dtype=torch.float64), "sum")
        self.add_state("mixed", torch.zeros(0, 0, dtype=torch.float64), "sum")
        self.add_state("quartic", torch.zeros(L, L, dtype=torch.float64), "sum")
        self.add_state("widths", torch.zeros(L, dtype=torch.int64), "sum")
        self.add_state("bad", torch.zeros(L, dtype=torch.int64), "sum")
        self.add_state("misfits", torch.zeros(L, dtype=torch.int64), "sum")
        self.add_state("tally", torch.zeros(3, dtype=torch.int64), "sum")  # rows, samples, batches

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return {"taps": self.taps, "grid": self.grid}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> RowsContext:
        """Return the batch's size; nothing else is used."""
        return RowsContext(size)

    def _reduce(self, features: Tensor, context: RowsContext, tap: str) -> Rows:
        if features.shape[1] > WIDEST:
            raise InputError(
                f"expected a tap of at most {WIDEST} units, got {features.shape[1]}; pool it first, or use MinibatchCKA"
            )
        return take_rows(features, self.grid)

    def update(self, reduced: dict[str, Rows], context: RowsContext) -> None:
        """Add one batch."""
        check_reduced(reduced, self.taps)
        n = context.size * int(np.prod(self.grid, dtype=int))
        parts, bad, misfits = [], [], []
        for tap in self.taps:
            x, fits = reduced[tap]
            x = x.to(self.device) if fits else x.new_zeros(n, x.shape[1], device=self.device)
            finite = x.isfinite().all()
            parts.append(torch.where(finite, x, 0.0))
            bad.append(~finite)
            misfits.append(not fits)
        X = torch.cat(parts, 1)
        widths = torch.tensor([part.shape[1] for part in parts], device=self.device)
        with torch.inference_mode(False):
            if not self.anchor.numel():
                self._start(X, widths)
            check_widths(self.taps, self.widths, widths)
        X = X - self.anchor
        a = torch.stack([part.square().sum(1) for part in X.split(widths.tolist(), 1)], 1)
        self.sums += X.sum(0)
        self.products.addmm_(X.T, X)
        self.norms += a.sum(0)
        self.mixed.addmm_(a.T, X)
        self.quartic.addmm_(a.T, a)
        self.bad += torch.stack(bad)
        self.misfits += torch.tensor(misfits, device=self.device)
        self.tally += torch.tensor([n, context.size, 1], device=self.device)

    def _start(self, X: Tensor, widths: Tensor) -> None:
        T, L = X.shape[1], len(self.taps)
        if 8 * T**2 > LIMIT:
            raise InputError(
                f"expected at most {LIMIT / 1e9:g} GB of products between units, got {8 * T**2 / 1e9:.1f} GB for the "
                f"{T} units of {L} taps; measure fewer taps at a time, or use MinibatchCKA"
            )
        self.anchor, self.widths = X.mean(0).clone(), widths.clone()
        self.sums, self.products, self.mixed = X.new_zeros(T), X.new_zeros(T, T), X.new_zeros(L, T)

    @classmethod
    def _combine(cls, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        if not (a["anchor"].numel() and b["anchor"].numel()):
            return a if a["anchor"].numel() else b
        check_widths([f"tap {i}" for i in range(len(a["widths"]))], a["widths"], b["widths"])
        b = rebase(b, a["anchor"])
        return a | {name: a[name] + b[name] for name in SUMS}

    def compute(self) -> WholeCKAResult:
        """Return the matrices."""
        n, samples, batches = (int(v) for v in self.tally)
        L = len(self.taps)
        unbiased, biased, null = (np.full((L, L), np.nan) for _ in range(3))
        flat = np.ones(L, dtype=bool)
        if batches:
            states = {name: getattr(self, name) for name in self._defaults}
            mean = self.anchor + self.sums / n
            states = rebase(states, mean)
            E = blocks(self.widths).to(mean)
            squares = (E @ states["products"].square() @ E.T).cpu().numpy()
            a, Q = states["norms"].cpu().numpy(), states["quartic"].cpu().numpy()
            power = a + n * (E @ mean.square()).cpu().numpy()
            flat = ~(a > CONSTANT * power)
            void = flat | (self.bad + self.misfits > 0).cpu().numpy()
            own = np.where(void, np.nan, squares.diagonal())
            scale = np.sqrt(own)[:, None] * np.sqrt(own)
            biased, null = squares / scale, np.outer(a, a) / (max(n - 1, 1) * scale)
            if n > 3:
                hsic = squares - n / (n - 2) * Q + np.outer(a, a) / ((n - 1) * (n - 2))
                own = np.where(hsic.diagonal() > ROUNDING * own, hsic.diagonal(), np.nan)
                unbiased = hsic / np.sqrt(own)[:, None] / np.sqrt(own)
        reasons = [self._reason(i, n, batches, bool(flat[i])) for i in range(L)]
        reason = pair_reasons(reasons, reasons)
        equal = np.isfinite(biased) & ~np.isfinite(unbiased) & (reason == "")
        reason = np.where(equal, "samples are equally distant" if n > 3 else "fewer than 4 rows", reason)
        return WholeCKAResult(self.taps, unbiased, biased, null, n, samples, batches, reason)

    def _reason(self, i: int, n: int, batches: int, flat: bool) -> str:
        if not batches:
            return "no batch was seen"
        if self.misfits[i]:
            return f"the tap's location axes do not match the grid {self.grid}"
        if self.bad[i]:
            return f"features are not finite in {int(self.bad[i])} of {batches} batches"
        return "features do not differ between samples" if flat else ""


def check_widths(taps: Sequence[str], expected: Tensor, got: Tensor) -> None:
    """Raise an error where a tap changes its number of units."""
    for tap, a, b in zip(taps, expected.tolist(), got.tolist(), strict=True):
        if a != b:
            raise InputError(f"expected {a} units of {tap!r} as before, got {b}; a tap must keep its units")


def blocks(widths: Tensor) -> Tensor:
    """Which tap ``[L]`` a unit ``[T]`` belongs to, as ones."""
    tap = torch.arange(len(widths), device=widths.device)
    return (tap.repeat_interleave(widths) == tap[:, None]).double()


def rebase(states: dict[str, Tensor], anchor: Tensor) -> dict[str, Tensor]:
    """Moments about ``anchor`` from those about another point.

    With ``x' = x - d`` the norms are ``a' = a - 2 d·x + |d|²``; the rest is what follows for sums of their products.
    """
    d = anchor - states["anchor"]
    n = states["tally"][0].double()
    S, C, A, P, Q = (states[name] for name in ("sums", "products", "norms", "mixed", "quartic"))
    D = blocks(states["widths"]).to(d) * d
    h, w = D @ S, (D * d).sum(1)
    norms = A - 2 * h + n * w
    PD, hw, Aw = P @ D.T, torch.outer(h, w), torch.outer(A, w)
    quartic = Q - 2 * (PD + PD.T) + Aw + Aw.T + 4 * (D @ C @ D.T) - 2 * (hw + hw.T) + n * torch.outer(w, w)
    mixed = P - 2 * (D @ C) + torch.outer(w, S) - torch.outer(norms, d)
    products = C - torch.outer(d, S) - torch.outer(S, d) + n * torch.outer(d, d)
    moments = {"sums": S - n * d, "products": products, "norms": norms, "mixed": mixed, "quartic": quartic}
    return states | moments | {"anchor": anchor}

"""The table V(S): a model's score with each subset of its modalities present."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Num, Shaped
from torch import Tensor, nn
from torchmetrics import Metric

from fusionscope.errors import InputError, did_you_mean

from ._instrument import Instrument
from .functional._scores import Score, resolve_score

Array = np.ndarray
CHUNK = 2**17  # resampled samples at a time


@dataclass(frozen=True)
class RemovalRow:
    """One subset: its score and the drop from all modalities, each with its interval; ``reason`` explains a NaN."""

    subset: tuple[str, ...]
    value: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float
    reason: str

    @property
    def n_present(self) -> int:
        """Number of modalities present."""
        return len(self.subset)


@dataclass(frozen=True)
class RemovalResult:
    """Rows of all scored subsets, all modalities first, then by falling size; and how they were made."""

    rows: tuple[RemovalRow, ...]
    modalities: tuple[str, ...]
    score: str
    empty: str
    samples: int
    groups: int
    alpha: float
    resamples: int

    def __getitem__(self, subset: Iterable[str]) -> RemovalRow:
        """Return the row of a subset, in whatever order its modalities are named."""
        wanted = frozenset(subset)
        for row in self.rows:
            if frozenset(row.subset) == wanted:
                return row
        raise InputError(f"expected one of the scored subsets {[row.subset for row in self.rows]}, got {set(wanted)}")


class CoalitionTable(Instrument):
    """Scores V(S) of subsets of modalities, with a paired bootstrap over groups (or samples).

    ``drop(S) = V(all) - V(S)``, in the unit of the score. Intervals are percentiles of ``resamples`` bootstrap draws;
    one draw takes the same groups for all subsets, so drops are paired. Rows enter in an order that does not depend
    on arrival, so merged and single-process tables agree. V(∅): ``empty="filled"`` is whatever the caller
    scores as ``frozenset()``; ``"majority"`` (Shapley values of SHAPE, arXiv 2205.00302) scores the constant prediction
    learnt from ``prior``.

    Memory: one float64 row of K statistics per sample and subset (accuracy 2, mIoU classes²).

    Args:
        modalities: all of them, in the order of the result.
        score: from ``resolve_score``, or a function ``f(output, target) -> [B]``, or a torchmetrics metric (no
            interval).
        resamples: bootstrap draws; 0 for no interval.
        alpha: 1 - the level of the intervals.
        seed: of the bootstrap.
        empty: as above.
        prior: for "majority": class counts ``[C]`` of the training labels; for regression, the training mean ``[]``
            or ``[D]``.

    Raises:
        InputError: settings out of range, an unknown modality, subsets scored on different samples.

    >>> import torch
    >>> from fusionscope.measures import resolve_score
    >>> table = CoalitionTable(["rgb", "depth"], score=resolve_score("accuracy", "classification", 2))
    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> table.update(frozenset({"rgb", "depth"}), torch.eye(2)[labels], labels)
    >>> table.update(frozenset({"rgb"}), torch.eye(2)[[0, 0, 0, 1]], labels)
    >>> [(row.subset, row.value, row.drop) for row in table.compute().rows]
    [(('rgb', 'depth'), 1.0, 0.0), (('rgb',), 0.75, 0.25)]
    """

    keys: list[Tensor]
    stats: list[Tensor]
    scored: Tensor

    def __init__(
        self,
        modalities: Iterable[str],
        *,
        score: Any,
        resamples: int = 1000,
        alpha: float = 0.05,
        seed: int = 0,
        empty: Literal["filled", "majority"] = "filled",
        prior: Tensor | Sequence[float | int] | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.modalities = tuple(modalities)
        if not 1 <= len(set(self.modalities)) == len(self.modalities) <= 16:
            raise InputError(f"expected 1 to 16 modalities with different names, got {self.modalities}")
        if isinstance(score, str) or score is None:
            raise InputError(
                f"expected a resolved score, got {score!r}; give score=resolve_score({score!r}, task, classes)"
            )
        if not 0 < alpha < 1 or resamples < 0:
            raise InputError(f"expected 0 < alpha < 1 and resamples >= 0, got {alpha} and {resamples}")
        if empty not in ("filled", "majority") or (empty == "majority") != (prior is not None):
            raise InputError(
                f"expected empty='filled', or empty='majority' with the prior (class counts or mean of the training "
                f"targets), got empty={empty!r} with {'a' if prior is not None else 'no'} prior"
            )
        self.score: Score = resolve_score(score, "classification")
        self.resamples, self.alpha, self.seed, self.empty = resamples, alpha, seed, empty
        self.prior = None if prior is None else torch.as_tensor(prior, dtype=torch.float64)
        self.add_state("keys", [], "cat")  # [B, 3]: bit mask of the subset, 1 if grouped, group
        self.add_state("stats", [], "cat")  # [B, K]
        self.add_state("scored", torch.zeros(2 ** len(self.modalities), dtype=torch.int64), "sum")
        clones = [] if self.score.metric is None else [self.score.metric.clone() for _ in range(len(self.scored))]
        self.metrics = nn.ModuleList(clones)

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        prior = None if self.prior is None else self.prior.tolist()
        names = ("modalities", "resamples", "alpha", "seed", "empty")
        return {k: getattr(self, k) for k in names} | {"score": self.score.name, "prior": prior}

    def update(
        self,
        subset: Iterable[str],
        output: Num[Tensor, "B *outputs"],
        target: Shaped[Tensor, "rows *places"],
        group: Shaped[Tensor, "members"] | None = None,
    ) -> None:
        """Add one batch scored with only ``subset`` present; give every subset the same samples in the same order."""
        subset = frozenset(subset)
        for name in subset - set(self.modalities):
            raise InputError(
                f"expected modalities of {list(self.modalities)}, got {name!r}.{did_you_mean(name, self.modalities)}"
            )
        if not subset and self.prior is not None:
            raise InputError(
                "expected no outputs for the empty subset, since empty='majority' makes them; use 'filled'"
            )
        target = target.to(output.device)
        mask = sum(1 << self.modalities.index(name) for name in subset)
        self._add(mask, output, target, group)
        if self.prior is not None and len(subset) == len(self.modalities):
            self._add(0, self._majority(output), target, group)

    def _majority(self, output: Tensor) -> Tensor:
        """Outputs of the predictor that knows only the prior: log counts as logits, or the mean."""
        prior = (self.prior if self.prior is not None else torch.zeros(0)).to(output.device)
        if prior.ndim == 0:
            return prior.expand(output.shape)
        if output.ndim < 2 or output.shape[1] != len(prior):
            raise InputError(
                f"expected a prior for each output, got {len(prior)} values for outputs {tuple(output.shape)}; give "
                "class counts of all classes, or the mean of a regression target"
            )
        logits = prior if self.score.name == "r2" else prior.log()
        return logits.view(-1, *[1] * (output.ndim - 2)).expand(output.shape)

    def _add(self, mask: int, output: Tensor, target: Tensor, group: Tensor | None) -> None:
        self.scored[mask] += len(target)
        if self.score.metric is not None:
            self.metrics[mask].update(output, target)  # ty: ignore
            return
        keys = torch.zeros(len(target), 3, dtype=torch.int64, device=self.device)
        keys[:, 0] = mask
        if group is not None:
            if group.is_floating_point() or group.shape != target.shape[:1]:
                raise InputError(
                    f"expected one integer group per sample [{len(target)}], got {group.dtype} {tuple(group.shape)}"
                )
            keys[:, 1], keys[:, 2] = 1, group.to(keys)
        self.keys.append(keys)
        self.stats.append(self.score.statistics(output, target).to(self.device))

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another table has seen."""
        super().merge_state(incoming_state)
        if isinstance(incoming_state, CoalitionTable):
            for mine, theirs in zip(self.metrics, incoming_state.metrics, strict=True):
                mine.merge_state(theirs)  # ty: ignore

    def reset(self) -> None:
        """Forget every batch."""
        super().reset()
        for metric in self.metrics:
            metric.reset()  # ty: ignore

    def _no_rows(self, name: str) -> Tensor:
        return torch.zeros(0, 3, dtype=torch.int64) if name == "keys" else torch.zeros(0, 0, dtype=torch.float64)

    def _masks(self) -> list[int]:
        seen = [m for m in range(len(self.scored)) if self.scored[m]]
        return sorted(seen, key=lambda m: (-m.bit_count(), [not m >> i & 1 for i in range(len(self.modalities))]))

    def compute(self) -> RemovalResult:
        """Return the table of all subsets that were scored."""
        masks = self._masks()
        full = len(self.scored) - 1
        samples = int(self.scored.max())
        for m in masks:
            if int(self.scored[m]) != samples:
                raise InputError(
                    f"expected every subset scored on the same samples, got {samples} and, for {self._names(m)}, "
                    f"{int(self.scored[m])}; call update for all subsets of each batch"
                )
        groups = samples
        draws = np.full((0, len(masks)), np.nan)
        if not masks:
            values, note = np.zeros(0), ""
        elif self.score.metric is not None:
            values = self._metric_values(masks)
            note = "no interval: a torchmetrics score keeps no per-sample values"
        else:
            table = self._table(masks)
            groups = table.shape[1]
            values = np.asarray(self.score.value(table.sum(1)))
            draws = self._draws(table)
            note = "no interval: fewer than 2 groups" if groups < 2 else ""
        top = masks.index(full) if full in masks else -1
        rows = tuple(self._row(s, m, values, draws, top, note) for s, m in enumerate(masks))
        return RemovalResult(
            rows, self.modalities, self.score.name, self.empty, samples, groups, self.alpha, self.resamples
        )

    def _names(self, mask: int) -> tuple[str, ...]:
        return tuple(name for i, name in enumerate(self.modalities) if mask >> i & 1)

    def _metric_values(self, masks: list[int]) -> Array:
        with warnings.catch_warnings():
            # A rank without a batch computes from the others' states; torchmetrics warns before it looks at them.
            warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")
            return np.array([float(self.metrics[m].compute()) for m in masks], dtype=np.float64)  # ty: ignore

    def _table(self, masks: list[int]) -> Array:
        """Statistics ``[subsets, groups, K]``, the groups in an order that does not depend on arrival."""
        keys, stats = torch.cat(self.keys).cpu().numpy(), torch.cat(self.stats).cpu().numpy()
        parts = [keys[:, 0] == m for m in masks]
        group = keys[parts[0], 1:]
        for m, part in zip(masks, parts, strict=True):
            if (keys[part, 1:] != group).any():
                raise InputError(
                    f"expected the same groups in every subset, got others for {self._names(m)}; score all subsets of "
                    "a batch on the same samples in the same order"
                )
        table = np.stack([stats[part] for part in parts])
        if group[:, 0].any():
            if not group[:, 0].all():
                raise InputError("expected groups for all samples or for none, got both; give group= in every update")
            ids, inverse = np.unique(group[:, 1], return_inverse=True)
            sums = np.zeros((len(masks), len(ids), table.shape[2]))
            np.add.at(sums.swapaxes(0, 1), inverse, table.swapaxes(0, 1))
            return sums
        rows = np.ascontiguousarray(table.swapaxes(0, 1)).reshape(table.shape[1], -1)
        return table[:, rows.view(f"V{rows.shape[1] * 8}").ravel().argsort(kind="stable")]

    def _draws(self, table: Array) -> Array:
        """Bootstrap values ``[resamples, subsets]``."""
        S, G, K = table.shape
        if G < 2 or not self.resamples:
            return np.full((0, S), np.nan)
        rng = np.random.default_rng(self.seed)
        flat = table.swapaxes(0, 1).reshape(G, S * K)
        out = []
        step = max(CHUNK // G, 1)
        for start in range(0, self.resamples, step):
            R = min(step, self.resamples - start)
            picks = rng.integers(0, G, (R, G)) + np.arange(R)[:, None] * G
            weights = np.bincount(picks.ravel(), minlength=R * G).reshape(R, G).astype(np.float64)
            with np.errstate(invalid="ignore"):
                out.append(self.score.value((weights @ flat).reshape(R, S, K)))
        return np.concatenate(out)

    def _row(self, s: int, mask: int, values: Array, draws: Array, top: int, note: str) -> RemovalRow:
        nan = float("nan")
        value = float(values[s])
        reasons = [note] if note else []
        if not np.isfinite(value):
            reasons = ["the score is not defined, or outputs are not finite"]
        elif np.isnan(draws[:, s]).any():
            reasons.append(f"the score is not defined in {int(np.isnan(draws[:, s]).sum())} of {len(draws)} resamples")
        if top < 0:
            reasons.append("no drop: all modalities together were not scored")
        elif not np.isfinite(values[top]):
            reasons.append("no drop: the score with all modalities is not defined")
        low, high = self._interval(draws[:, s]) if np.isfinite(value) else (nan, nan)
        drop = float(values[top] - value) if top >= 0 else nan
        drop_low, drop_high = self._interval(draws[:, top] - draws[:, s]) if np.isfinite(drop) else (nan, nan)
        reason = "; ".join(dict.fromkeys(reasons))
        return RemovalRow(self._names(mask), value, low, high, drop, drop_low, drop_high, reason)

    def _interval(self, draws: Array) -> tuple[float, float]:
        draws = draws[~np.isnan(draws)]
        if not len(draws):
            return float("nan"), float("nan")
        low, high = np.quantile(draws, [self.alpha / 2, 1 - self.alpha / 2])
        return float(low), float(high)

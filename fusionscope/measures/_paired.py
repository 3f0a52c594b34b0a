"""Scores of one model under several conditions on the same samples, with a paired bootstrap."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Num, Shaped
from torch import Tensor, nn
from torchmetrics import Metric

from fusionscope.errors import InputError, did_you_mean

from ._instrument import Instrument
from ._paired_rows import NONE, ClassScores, PairedResult, Rows, explain, ordered, spread
from .functional._resampling import percentile_interval
from .functional._scores import Score, resolve_score

Array = np.ndarray
CHUNK = 2**17  # resampled samples at a time
MOST_DRAWS = 2**26  # of values per class that are kept


class PairedScores(Instrument):
    """Scores of one model under named conditions on the same samples, with a paired bootstrap over groups (or samples).

    Intervals are percentiles of ``resamples`` bootstrap draws; one draw takes the same groups for all conditions, so
    differences are paired. Rows enter in an order that does not depend on arrival, so merged and single-process tables
    agree; values per sample come in the order of the sample numbers, where given.

    Memory: one float64 row of K statistics (accuracy 2, mIoU classes²) and four integers per sample and condition;
    draws of S conditions and C classes, of which at most 2^26 are kept (then fewer draws per class).

    Args:
        conditions: names, in the order of the result.
        score: from ``resolve_score``, or a function ``f(output, target) -> [B]``, or a torchmetrics metric (no
            interval).
        resamples: bootstrap draws; 0 for no interval.
        alpha: 1 - the level of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: settings out of range, an unknown condition, conditions scored on different samples.

    >>> import torch
    >>> from fusionscope.measures import resolve_score
    >>> paired = PairedScores(["clean", "noisy"], score=resolve_score("accuracy", "classification", 2))
    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> paired.update("clean", torch.eye(2)[labels], labels)
    >>> paired.fail("noisy", "the model raised ValueError: too noisy")
    >>> result = paired.compute()
    >>> result.values.tolist(), result.reason.tolist()
    ([1.0, nan], ['', 'the model raised ValueError: too noisy'])
    """

    word = "condition"
    keys: list[Tensor]
    stats: list[Tensor]
    scored: Tensor
    failed: Tensor

    def __init__(
        self,
        conditions: Sequence[str],
        *,
        score: Any,
        resamples: int = 1000,
        alpha: float = 0.05,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conditions = tuple(conditions)
        if not 1 <= len(set(self.conditions)) == len(self.conditions):
            raise InputError(f"expected at least one condition, all with different names, got {self.conditions}")
        if isinstance(score, str) or score is None:
            raise InputError(
                f"expected a resolved score, got {score!r}; give score=resolve_score({score!r}, task, classes)"
            )
        if not 0 < alpha < 1 or resamples < 0:
            raise InputError(f"expected 0 < alpha < 1 and resamples >= 0, got {alpha} and {resamples}")
        self.score: Score = resolve_score(score, "classification")
        self.resamples, self.alpha, self.seed = resamples, alpha, seed
        self.reasons: dict[str, str] = {}
        self.add_state("keys", [], "cat")  # [B, 4]: condition, group, sample number, class
        self.add_state("stats", [], "cat")  # [B, K]
        self.add_state("scored", torch.zeros(len(self.conditions), dtype=torch.int64), "sum")
        self.add_state("failed", torch.zeros(len(self.conditions), dtype=torch.int64), "sum")
        clones = [] if self.score.metric is None else [self.score.metric.clone() for _ in self.conditions]
        self.metrics = nn.ModuleList(clones)

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        names = ("conditions", "resamples", "alpha", "seed")
        return {k: getattr(self, k) for k in names} | {"score": self.score.name}

    def _index(self, condition: str) -> int:
        if condition not in self.conditions:
            raise InputError(
                f"expected one of the conditions {list(self.conditions)}, got {condition!r}."
                + did_you_mean(condition, self.conditions)
            )
        return self.conditions.index(condition)

    def update(
        self,
        condition: Any,
        /,
        output: Num[Tensor, "B *outputs"],
        target: Shaped[Tensor, "rows *places"],
        group: Shaped[Tensor, "members"] | None = None,
        sample: Shaped[Tensor, "numbers"] | None = None,
    ) -> None:
        """Add one batch scored under ``condition``; give every condition the same samples in the same order."""
        self._add(self._index(condition), output, target.to(output.device), group, sample)

    def fail(self, condition: Any, /, reason: str) -> None:
        """Note that the model raised under ``condition``: it has no value, for this reason, from now on."""
        self._fail(self._index(condition), reason)

    def _fail(self, c: int, reason: str) -> None:
        with torch.inference_mode(False):
            self.failed[c] += 1
        self.reasons.setdefault(self.conditions[c], reason)
        self._computed = None

    def _add(self, c: int, output: Tensor, target: Tensor, group: Tensor | None, sample: Tensor | None) -> None:
        if self.failed[c]:
            return
        if self.score.metric is not None:
            self.metrics[c].update(output, target)  # ty: ignore
            self.scored[c] += len(target)
            return
        keys = torch.full((len(target), 4), NONE, dtype=torch.int64, device=self.device)
        keys[:, 0], keys[:, 3] = c, -1
        for column, given, what in ((1, group, "group"), (2, sample, "number")):
            if given is None:
                continue
            if given.is_floating_point() or given.shape != target.shape[:1]:
                raise InputError(
                    f"expected one integer {what} per sample [{len(target)}], got {given.dtype} {tuple(given.shape)}"
                )
            keys[:, column] = given.to(keys)
        if self.score.class_of is not None:
            keys[:, 3] = self.score.class_of(target).to(keys)
        self.stats.append(self.score.statistics(output, target).to(self.device))
        self.keys.append(keys)
        self.scored[c] += len(target)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another instrument has seen."""
        super().merge_state(incoming_state)
        if isinstance(incoming_state, PairedScores):
            self.reasons = incoming_state.reasons | self.reasons
            for mine, theirs in zip(self.metrics, incoming_state.metrics, strict=True):
                mine.merge_state(theirs)  # ty: ignore

    def reset(self) -> None:
        """Forget every batch."""
        super().reset()
        self.reasons = {}
        for metric in self.metrics:
            metric.reset()  # ty: ignore

    def _no_rows(self, name: str) -> Tensor:
        return torch.zeros(0, 4, dtype=torch.int64) if name == "keys" else torch.zeros(0, 0, dtype=torch.float64)

    def compute(self) -> Any:
        """Return the scores of all conditions that were scored or failed."""
        return self._paired()[0]

    def _paired(self) -> tuple[PairedResult, Rows | None]:
        failed = self.failed.cpu().numpy() > 0
        scored = self.scored.cpu().numpy()
        shown = np.flatnonzero((scored > 0) | failed)
        good = np.flatnonzero((scored > 0) & ~failed)
        samples = int(scored[good].max()) if len(good) else 0
        for c in good:
            if scored[c] != samples:
                raise InputError(
                    f"expected every {self.word} scored on the same samples, got {samples} and, for "
                    f"{self._shown(c)}, {scored[c]}; call update for all {self.word}s of each batch"
                )
        place = np.searchsorted(shown, good)
        groups, S = samples, len(shown)
        values, draws = np.full(S, np.nan), np.full((0, S), np.nan)
        reason = np.array([self._why_failed(c) if failed[c] else "" for c in shown.tolist()], dtype=object)
        rows, classes, note = None, None, ""
        each, sample, group = np.full((S, 0), np.nan), np.zeros(0, dtype=np.int64), None
        if len(good) and self.score.metric is not None:
            values[place] = self._metric_values(good)
            note = "no interval: a torchmetrics score keeps no per-sample values"
        elif len(good):
            keys, stats = (torch.cat(state).cpu().numpy() for state in (self.keys, self.stats))
            rows = ordered(keys, stats, good.tolist(), self.score, [self._shown(c) for c in good], self.word)
            groups, sample, group = rows.table.shape[1], rows.sample, rows.group
            values[place] = self.score.value(rows.table.sum(1))
            draws = spread(self._draws(rows.table), place, S)
            draws = 2 * values - draws if self.score.reflected else draws
            each = spread(rows.each.T, place, S).T
            note = "no interval: fewer than 2 groups" if groups < 2 else ""
            for i, n in zip(place, rows.bad.tolist(), strict=True):
                reason[i] = self._not_finite(n, samples) if n else ""
            classes = self._classes(rows, place, reason)
        for i in place:
            reason[i] = reason[i] or explain(values[i], draws[:, i], note)
        low, high = percentile_interval(draws, self.alpha)
        finite = np.isfinite(values)
        low, high = np.where(finite, low, np.nan), np.where(finite, high, np.nan)
        names = tuple(self.conditions[c] for c in shown)
        result = PairedResult(
            names, values, draws, low, high, reason, self.score.name, samples, groups, self.alpha, each, sample, group,
            classes,
        )  # fmt: skip
        return result, rows

    def _shown(self, c: Any) -> str:
        return repr(self.conditions[c])

    def _why_failed(self, c: int) -> str:
        return self.reasons.get(self.conditions[c], "the model raised an error in another process")

    def _not_finite(self, bad: int, samples: int) -> str:
        what = "outputs or targets" if self.score.task == "regression" else "outputs"
        return f"{what} are not finite for {bad} of {samples} samples"

    def _metric_values(self, good: Array) -> Array:
        with warnings.catch_warnings():
            # A rank without a batch computes from the others' states; torchmetrics warns before it looks at them.
            warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")
            return np.array([float(self.metrics[c].compute()) for c in good], dtype=np.float64)

    def _weights(self, G: int, resamples: int) -> Iterator[Float64[Array, "r G"]]:
        """How often each group is taken, a few resamples at a time."""
        rng = np.random.default_rng(self.seed)
        step = max(CHUNK // G, 1)
        for start in range(0, resamples, step):
            R = min(step, resamples - start)
            picks = rng.integers(0, G, (R, G)) + np.arange(R)[:, None] * G
            yield np.bincount(picks.ravel(), minlength=R * G).reshape(R, G).astype(np.float64)

    def _draws(self, table: Array) -> Array:
        """Bootstrap values ``[resamples, conditions]``."""
        S, G, K = table.shape
        if G < 2 or not self.resamples:
            return np.full((0, S), np.nan)
        flat = table.swapaxes(0, 1).reshape(G, S * K)
        with np.errstate(invalid="ignore"):
            out = [self.score.value((w @ flat).reshape(-1, S, K)) for w in self._weights(G, self.resamples)]
        return np.concatenate(out)

    def _classes(self, rows: Rows, place: Array, reason: Array) -> ClassScores | None:
        """Values, draws and reasons per class, of the conditions at ``place``."""
        S, G, _ = rows.table.shape
        with np.errstate(invalid="ignore"):
            if rows.parts is not None:
                values = np.stack([np.full(S, np.nan), *(self.score.value(x.sum(1)) for _, x in rows.parts)], -1)[:, 1:]
            elif self.score.by_class is not None:
                values = self.score.by_class(rows.table.sum(1))[0]
            else:
                return None
        C, samples, groups = values.shape[-1], rows.samples_of_class, rows.groups_of_class
        R = min(self.resamples, MOST_DRAWS // max(S * C, 1))
        draws = np.full((0, S, C), np.nan)
        if R > 1 and G > 1 and C:
            chunks = [self._class_draws(rows, weights, C) for weights in self._weights(G, R)]
            draws = np.concatenate(chunks)
        full = np.full((len(draws), len(reason), C), np.nan)
        full[:, place] = draws
        told = np.full((len(reason), C), "", dtype=object)
        told[:] = np.asarray(reason)[:, None]
        whole = np.full((len(reason), C), np.nan)
        whole[place] = values
        for i, s in enumerate(place):
            for c in range(C):
                bad = rows.bad_of_class[i, c] if np.isnan(values[i, c]) else 0
                told[s, c] = self._not_finite(int(bad), int(samples[c])) if bad else ""
                if not samples[c] and not np.isfinite(values[i, c]):
                    told[s, c] = "no sample of this class"
                note = "no interval: fewer than 2 groups with this class" if groups[c] < 2 else ""
                told[s, c] = told[s, c] or explain(values[i, c], full[:, s, c], note)
        full[:, :, groups < 2] = np.nan
        low, high = percentile_interval(full, self.alpha)
        finite = np.isfinite(whole)
        low, high = np.where(finite, low, np.nan), np.where(finite, high, np.nan)
        return ClassScores(whole, full, low, high, told, samples, groups)

    def _class_draws(self, rows: Rows, weights: Array, C: int) -> Array:
        S, G, K = rows.table.shape
        with np.errstate(invalid="ignore"):
            if rows.parts is None:
                flat = rows.table.swapaxes(0, 1).reshape(G, S * K)
                return self.score.by_class((weights @ flat).reshape(-1, S, K))[0]  # ty: ignore
            out = np.full((len(weights), S, C), np.nan)
            for c, (index, sums) in enumerate(rows.parts):
                flat = sums.swapaxes(0, 1).reshape(len(index), S * K)
                out[..., c] = self.score.value((weights[:, index] @ flat).reshape(-1, S, K))
            return out

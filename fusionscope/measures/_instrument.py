"""The base of all streaming instruments."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Num
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_max
from torchmetrics.utilities.distributed import gather_all_tensors

from fusionscope.errors import InputError

InstrumentT = TypeVar("InstrumentT", bound="Instrument")


def join(a: Any, b: Any, how: Callable = torch.add) -> Any:
    """Combine two values of one state: lists are chained, tensors added (or ``how``); no entries, no part."""
    if isinstance(a, list):
        return a + [t.clone() for t in b]
    if not b.numel():
        return a
    return how(a, b.to(a.device)) if a.numel() else b.to(a.device).clone()


class Instrument(Metric):
    """A measurement that streams over batches, keeps only sums, and merges exactly.

    Protocol, per batch::

        context = metric.context(size, target, index)      # before the forward; index = global batch number
        reduced = metric.reduce(features, context, tap)    # inside the hook; small, holds no part of the features
        metric.update({tap: reduced, ...}, context)        # after the forward

    and at the end ``metric.compute()``. An instrument that has to read the data several times has ``passes`` > 1; after
    each pass but the last comes ``metric.advance()`` (on every rank; parts within one process are merged first).

    Three things hold that ``torchmetrics.Metric`` alone does not give: states keep their float64 through ``.half()``,
    ``.to(torch.bfloat16)`` and the like; ``full_state_update`` is False; ``merge`` (and ``merge_state``) drops a
    computed value that is out of date. A state is a sum or a largest value ("max"; an entry-less tensor before the
    first batch is left out) or a list that is chained; float64 rules out devices without it (MPS).

    >>> from fusionscope.measures import MinibatchCKA
    >>> MinibatchCKA(["a"]).to(torch.bfloat16).hsic.dtype
    torch.float64
    """

    full_state_update: bool | None = False
    is_differentiable: bool | None = False
    passes: int = 1
    stage: int = 0

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return {}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> Any:
        """Return what ``reduce`` needs to know of a batch of ``size`` samples, number ``index`` of the whole run.

        Samples of one ``group`` are not independent.
        """
        raise NotImplementedError

    def advance(self) -> None:
        """End a pass over the data that is not the last; what all ranks gathered prepares the next pass.

        Raises:
            InputError: the last pass has been reached.
        """
        if self.stage + 1 >= self.passes:
            raise InputError(f"expected compute() after {self.passes} passes over the data, got another advance()")
        with torch.inference_mode(False), torch.no_grad():
            self.sync(self.dist_sync_fn, self.process_group, should_sync=self._to_sync)
            try:
                self._advance()
            finally:
                self.unsync(should_unsync=self._is_synced and self._should_unsync)
            super().reset()
        self.stage += 1

    def _advance(self) -> None:
        raise NotImplementedError

    def reduce(self, features: Num[Tensor, "B *rest"], context: Any, tap: str = "") -> Any:
        """Reduce one tap's features ``[B, U, *locations]`` of one batch, without gradient and outside autocast.

        Instruments that read the data several times need to know which ``tap`` it is.

        Raises:
            InputError: not one row of features per sample, or no unit axis.
        """
        if features.ndim < 2 or len(features) != context.size:
            raise InputError(
                f"expected features [B, U, *locations] of the batch's {context.size} samples, got shape "
                f"{tuple(features.shape)}; put the sample axis first and the unit axis second, one row per sample"
            )
        with torch.inference_mode(), torch.autocast(features.device.type, enabled=False):
            return self._reduce(features.detach(), context, tap)

    def _reduce(self, features: Tensor, context: Any, tap: str) -> Any:
        raise NotImplementedError

    def merge(self: InstrumentT, other: Metric) -> InstrumentT:
        """Add what ``other`` has seen to this instrument; the result equals one instrument that saw it all.

        Raises:
            InputError: ``other`` is another instrument, or was made with other settings.
        """
        self.merge_state(other)
        return self

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """As ``merge``, also for a dictionary of states (torchmetrics' interface)."""
        if isinstance(incoming_state, dict):
            states, count = incoming_state, 1
        else:
            if type(incoming_state) is not type(self):
                raise InputError(f"expected a {type(self).__name__} to merge, got a {type(incoming_state).__name__}")
            mine = {**self.settings(), "passes finished": self.stage}
            theirs = {**incoming_state.settings(), "passes finished": incoming_state.stage}
            if mine != theirs:
                what = ", ".join(f"{k}: {mine[k]!r} and {theirs[k]!r}" for k in mine if mine[k] != theirs[k])
                raise InputError(f"expected instruments with equal settings, got {what}; make both with the same")
            states, count = incoming_state.metric_state, incoming_state._update_count
        self._reduce_states(states)
        self._update_count += count
        self._computed = None

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for name in self._defaults:
                setattr(self, name, join(getattr(self, name), incoming_state[name], self._how(name)))

    def _how(self, name: str) -> Callable:
        return torch.maximum if self._reductions[name] is dim_zero_max else torch.add

    def accumulate(self, name: str, value: Tensor) -> None:
        """Add ``value`` to a sum, or raise a "max" state to it."""
        state, value = getattr(self, name), value.to(self.device)
        with torch.inference_mode(False):
            if state.numel():
                self._how(name)(state, value, out=state)
            else:
                setattr(self, name, value.clone())

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any | None = None) -> None:
        # torchmetrics stacks, which fails where a rank has seen no batch and its states are still without entries.
        group = process_group or self.process_group
        for name, default in self._defaults.items():
            state = getattr(self, name)
            if isinstance(default, list):
                whole = torch.cat(state) if state else self._no_rows(name).to(self.device)
                setattr(self, name, [part for part in dist_sync_fn(whole, group=group) if part.numel()])
            else:
                setattr(
                    self,
                    name,
                    functools.reduce(functools.partial(join, how=self._how(name)), dist_sync_fn(state, group=group)),
                )

    def _no_rows(self, name: str) -> Tensor:
        raise NotImplementedError

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks (torchmetrics' interface)."""
        with torch.inference_mode(False), torch.no_grad():
            super().sync(*args, **kwargs)

    def reset(self) -> None:
        """Forget every batch and every pass."""
        self.stage = 0
        with torch.inference_mode(False):
            super().reset()

    def _wrap_compute(self, compute: Callable) -> Callable:
        # torchmetrics' wrapper copies tensors inside the result, which a frozen dataclass refuses, and stays synced
        # when compute raises.
        @functools.wraps(compute)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._computed is not None:
                return self._computed
            with torch.inference_mode(False), torch.no_grad():
                self.sync(self.dist_sync_fn, self.process_group, should_sync=self._to_sync)
                try:
                    value = compute(*args, **kwargs)
                finally:
                    self.unsync(should_unsync=self._is_synced and self._should_unsync)
            if self.compute_with_cache:
                self._computed = value
            return value

        return wrapped

    def _apply(self, fn: Callable, exclude_state: Any = "") -> torch.nn.Module:
        def move_only(t: Tensor) -> Tensor:
            out = fn(t)
            return out if out.dtype == t.dtype else t.to(out.device)

        self._computed = self._forward_cache = None
        return super()._apply(move_only, exclude_state)

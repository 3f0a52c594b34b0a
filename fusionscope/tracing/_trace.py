"""``trace``: find which modalities each call of a model depends on."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from fusionscope.batch import Adapter, Batch, unwrap
from fusionscope.errors import InputError, ModelError
from fusionscope.tracing import _levels, _show
from fusionscope.tracing._analyse import find_calls, needs_detail, points_of, unlisted
from fusionscope.tracing._call import Call, FusionPoint
from fusionscope.tracing._fusion import Fusion
from fusionscope.tracing._levels import Tap
from fusionscope.tracing._messages import messages, unused_modules
from fusionscope.tracing._record import CallKey, Recording, module_paths
from fusionscope.tracing._relation import Base, Relation
from fusionscope.tracing._rows import World
from fusionscope.tracing._runner import Runner, check_state
from fusionscope.tracing._state import quiet


@dataclass(frozen=True)
class Trace:
    """What ran in one forward, and which modalities each call depends on.

    Attributes:
        modalities: the names, in the batch's order.
        calls: every call in execution order, containers before what runs inside them.
        fusion_points: where modalities first meet.
        unused: modules that own parameters but were not called.
        messages: what was ambiguous or odd, in words.
        model: the model's type.
        batch_size: how many samples the traced batch had.
        forwards: how many times the model was run.
        seconds: how long the trace took.
    """

    modalities: tuple[str, ...]
    calls: tuple[Call, ...]
    fusion_points: tuple[FusionPoint, ...]
    unused: tuple[str, ...]
    messages: tuple[str, ...]
    model: str
    batch_size: int
    forwards: int
    seconds: float
    layouts: Mapping[str, str] = field(default_factory=dict)
    unlisted: Mapping[CallKey, CallKey | None] = field(default_factory=dict)
    prediction: tuple[object, ...] = ()

    @property
    def streams(self) -> dict[str, list[Call]]:
        """For each modality, the leaf calls that are wired to it alone, in execution order."""
        return {m: [c for c in self.calls if c.leaf and c.lane == m and c.stretch == 0] for m in self.modalities}

    @property
    def lanes(self) -> dict[str, list[list[Call]]]:
        """For each modality its stream, then, after each exchange that its lane goes on from, the next stretch."""
        last = max((c.stretch for c in self.calls if c.stretch is not None), default=0)
        return {
            m: [
                found
                for stretch in range(last + 1)
                if (found := [c for c in self.calls if c.leaf and c.lane == m and c.stretch == stretch]) or not stretch
            ]
            for m in self.modalities
        }

    @property
    def fused(self) -> list[Call]:
        """The leaf calls whose inputs together two modalities or more are wired to, in execution order."""
        return [c for c in self.calls if c.leaf and c.fused]

    @functools.cached_property
    def taps(self) -> dict[str, list[Tap]]:
        """The calls chosen for measuring, for each modality from early to late."""
        return _levels.default_taps(self)

    def levels(self, n: int) -> list[dict[str, Tap]]:
        """Return ``n`` levels from early to late, each with one tap per modality.

        Raises:
            InputError: if ``n`` is not positive, or a modality has no tap.
        """
        return _levels.levels(self.taps, n)

    def call(self, id: str) -> Call:
        """Return the call with this :attr:`Call.id`, or the only call of this path."""
        return _levels.find_call(self.calls, id)

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as plain data, for JSON and for the drawing in the report."""
        return _show.to_dict(self)

    def __str__(self) -> str:
        return _show.tree(self)

    def __repr__(self) -> str:
        return _show.tree(self)


def trace(
    model: nn.Module,
    batch: Any,
    *,
    modalities: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    adapter: Adapter | None = None,
    layouts: Mapping[str, str] | None = None,
    donor: Any = None,
) -> Trace:
    """Find which modalities each call of ``model`` depends on.

    The values of one modality are replaced by those of other samples, and every call's output is compared with the
    unchanged run, row by row and bit by bit. No module names are needed. The model runs in eval mode without gradients,
    2 M + 5 times for M modalities; 2 M + 2 times more if some parameters are all zero, and once more per fusion point
    and per lane that goes on after an exchange. Model and batch are left as they were, also when the model raises.

    Args:
        model: any module that takes the batch.
        batch: a batch with at least two samples that differ in every modality; see :class:`fusionscope.batch.Adapter`.
        modalities: names, or groups of keys, passed to the adapter.
        adapter: how to read the batch and call the model, if that cannot be inferred.
        layouts: the axes of calls whose units cannot be told from the module's type, as ``{"path": "NHWC"}`` with N for
            the sample axis and C for the units.
        donor: another batch, for a batch of one sample: both are traced as one batch.

    Raises:
        InputError: if the batch has one sample and there is no donor, or a modality is constant in it.
        ModelError: if the model keeps state between forwards that cannot be rolled back, or is sharded (FSDP).

    >>> import torch
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b, self.head = nn.Linear(3, 5), nn.Linear(2, 5), nn.Linear(10, 7)
    ...     def forward(self, a, b):
    ...         return self.head(torch.cat([self.a(a), self.b(b)], 1))
    >>> found = trace(Net(), {"a": torch.randn(11, 3), "b": torch.randn(11, 2)})
    >>> found.streams["a"]
    [Call(a#0 Linear [11, 5] <- a)]
    >>> print(found.fusion_points[0])
    a, b joined: functional, in the model, before head#0 (Linear), which mixes them
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module and then a batch, got a {type(model).__name__} first")
    if isinstance(batch, DataLoader):
        raise InputError("expected one batch, got a DataLoader; give next(iter(loader))")
    adapter = one_adapter(adapter, modalities)
    whole = adapter.batch(batch)
    if donor is not None and whole.size < 2:
        whole = whole.join(adapter.batch(donor))
    _refuse_sharded(model)
    return _Tracer(unwrap(model), whole, adapter, dict(layouts or {})).run()


class _Tracer:
    def __init__(self, model: nn.Module, batch: Batch, adapter: Adapter, layouts: dict[str, str]) -> None:
        self.model, self.batch, self.layouts = model, batch, layouts
        if batch.size < 2:
            raise InputError(
                "a trace replaces samples by other samples, so it needs at least two in the batch, and this one has "
                f"{batch.size}; collect a larger batch (4 or more is best), or give another one as donor="
            )
        how = adapter.describe_call(model, batch.inputs)
        self.notes = [how] if "position" in how and len(batch.inputs) > 1 else []
        self.runner = Runner(model, batch, adapter)

    def run(self) -> Trace:
        start = time.perf_counter()
        try:
            with quiet(self.model):
                return self._run(start)
        finally:
            self.runner.close()

    def _run(self, start: float) -> Trace:
        runner = self.runner
        runner.warm_up()
        run, repeat = runner.plain(), runner.plain()
        prediction = runner.prediction
        singles = [(run, runner.single(run))]
        plain = runner.world(run)
        check_state(run, repeat, runner.plain())
        failed = frozenset(m for m, found in plain.runs.items() if not found)
        wired, noised = self._wired(singles)
        worlds = [world for world in (plain, wired) if world is not None]
        moved = [(world.base, other) for world in worlds for found in world.runs.values() for other in found]
        base = Base(run, repeat, singles, moved, runner.sample, runner.size)
        relation = Relation(base, plain, wired, failed)
        keys = needs_detail(relation)
        if keys:
            first = [found[0] for world in worlds for found in world.runs.values() if found]
            unsteady = any(base.unsteady(key, side) for key in keys for side in ("inputs", "outputs"))
            again = [repeat] * unsteady + [one for pair in singles for one in pair] + first
            runner.deepen(keys, again)
            base.forget_rows()
            relation = Relation(base, plain, wired, failed)
        fusion = Fusion(base, relation, wired or plain, runner.restart)
        calls = _levels.with_layouts(find_calls(base, fusion.relations), self.layouts)
        return Trace(
            modalities=self.batch.modalities,
            calls=tuple(calls),
            fusion_points=tuple(points_of(fusion.meetings, calls)),
            unused=tuple(unused_modules(self.model, module_paths(self.model), run)),
            messages=tuple(
                self.notes
                + runner.notes
                + [_failure(m, error, m in failed) for m, error in runner.failed.items()]
                + messages(calls, base, relation, self.batch.modalities, noised, self.model)
                + fusion.messages
            ),
            model=type(self.model).__name__,
            batch_size=runner.size,
            forwards=runner.forwards,
            seconds=time.perf_counter() - start,
            layouts=self.layouts,
            unlisted=unlisted(run),
            prediction=prediction,
        )

    def _wired(self, singles: list[tuple[Recording, Recording]]) -> tuple[World | None, list[str]]:
        """The same runs with small noise in the parameters that are all zero, if there are such.

        The pair of the unchanged one and the one with a single sample replaced goes to ``singles``.
        """
        names = self.runner.wire()
        if not names:
            return None, []
        try:
            noisy = self.runner.plain()
            found = self.runner.world(noisy)
            singles.append((noisy, self.runner.one_replaced()))
            return found, names
        except Exception as error:
            self.runner.unwire()
            self.notes.append(
                f"the model fails with small noise in its all-zero parameters ({type(error).__name__}), so what they "
                "hide was not looked for"
            )
            return None, []


def _failure(modality: str, error: str, wholly: bool) -> str:
    if wholly:
        return f"{modality}: the model fails on other samples' values, so what depends on it is unknown ({error})"
    return (
        f"{modality}: the model fails on other samples' values ({error}), so its integer tensors (lengths, masks, ids) "
        "were kept: what depends on them alone is not seen"
    )


def _refuse_sharded(model: nn.Module) -> None:
    for name, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if kinds & {"FullyShardedDataParallel", "FSDPModule"}:
            raise ModelError(
                f"{name or 'the model'} is sharded (FSDP): its parameters are whole only inside its own forward, so a "
                "trace cannot keep and restore them. Trace the model before it is sharded, or load the gathered "
                "weights into an unsharded copy"
            )


def one_adapter(adapter: Adapter | None, modalities: Any) -> Adapter:
    """Return the adapter given, or one for the modalities given.

    Raises:
        InputError: if both are given.
    """
    if adapter is not None and modalities is not None:
        raise InputError("give modalities= or adapter=, not both; write Adapter(modalities) instead")
    return adapter or Adapter(modalities)

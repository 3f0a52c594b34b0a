"""Read the taps of a model while it runs: each tap's features are handed on inside the hook, in one layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fusionscope._nest import tensors
from fusionscope.batch import unwrap
from fusionscope.errors import InputError, ModelError
from fusionscope.tracing._call import Call
from fusionscope.tracing._levels import Tap
from fusionscope.tracing._record import module_paths


class TapReader:
    """Context manager: while it is open, every forward hands ``use(tap, features)`` the features of each tap.

    ``features`` is ``[B, units, *locations]``, a view where the layout allows. It is valid only during the call, since
    the model may overwrite it in place afterwards: reduce it there. Call :meth:`start` before each forward.

    Raises:
        InputError: if the unit axis of a tap could not be told.
    """

    def __init__(self, model: nn.Module, taps: Iterable[Tap], use: Callable[[Tap, Tensor], None]) -> None:
        self.taps: dict[str, list[Tap]] = {}
        for tap in taps:
            if tap.call.axes.sample is None:
                raise InputError(
                    f"{tap.id} has no sample axis (rows interact there), so it cannot be measured per sample"
                )
            if tap.call.axes.unit is None:
                raise InputError(
                    f"cannot tell which axis of {tap.id} ({tap.call.module}, {list(tap.call.shape)}) holds the units; "
                    f"say it with layouts={{{tap.call.path!r}: 'NCHW'}} (N = samples, C = units)"
                )
            self.taps.setdefault(tap.call.path, []).append(tap)
        self.modules = module_paths(unwrap(model))
        self.use = use
        self.counts: dict[str, int] = {}
        self.seen: set[str] = set()

    def start(self) -> None:
        """Begin a new forward: call indices count from 0 again."""
        self.counts.clear()
        self.seen.clear()

    def check(self) -> None:
        """Raise ModelError if a tap did not fire in the last forward."""
        missing = [tap.id for taps in self.taps.values() for tap in taps if tap.id not in self.seen]
        if missing:
            raise ModelError(
                f"{', '.join(missing)} ran while tracing but not on a later batch, so the model takes another path "
                "there; leave it out with taps=..., or trace a batch that takes that path"
            )

    def __enter__(self) -> TapReader:
        with ExitStack() as stack:
            for path, taps in self.taps.items():
                handle = self.modules[path].register_forward_hook(self._hook(path, taps))
                stack.callback(handle.remove)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    def _hook(self, path: str, taps: list[Tap]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            index = self.counts.get(path, 0)
            self.counts[path] = index + 1
            for tap in taps:
                if tap.call.index == index:
                    places = dict(tensors(output))
                    self.use(tap, canonical(places[tap.call.output], tap.call))
                    self.seen.add(tap.id)

        return hook


def canonical(output: Tensor, call: Call) -> Float[Tensor, "B units ..."]:
    """Return a call's output as ``[B, units, *locations]``, with the rows of its slot only.

    Several rows per sample (windows, frames) become a location axis after the units.
    """
    axes = call.axes
    if axes.sample is None or axes.unit is None:
        raise InputError(f"the sample and unit axes of {call.id} are not known")
    x = output.movedim((axes.sample, axes.unit), (0, 1))
    if axes.per_sample == 1:
        return x
    size = x.shape[0] // axes.per_sample
    grid = x.unflatten(0, (axes.per_sample, size)).transpose(0, 1) if axes.stacked else x.unflatten(0, (size, -1))
    positions = list(range(axes.per_sample) if axes.positions is None else axes.positions)
    if len(positions) == 1:
        return grid[:, positions[0]]
    chosen = grid if len(positions) == axes.per_sample else grid[:, positions]
    return chosen.movedim(1, 2)

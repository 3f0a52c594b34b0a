"""Before and after a calibration is attached: is the model the same but for it?"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from fusionscope.errors import InputError

from ._attach_find import Finder
from ._attach_probe import Prober, differs, failing, gap
from ._attach_replay import NAME, PLAN
from ._attach_sites import CallKey, Plan, told


class Check:
    """What the plain model does, made before the calibration is attached, to compare with afterwards."""

    def __init__(self, prober: Prober, plan: Plan, finder: Finder) -> None:
        self.prober, self.plan, self.finder = prober, plan, finder
        self.leaves = {key[0] for key, calls in finder.entries.items() if calls[0].leaf}
        self.counts = self._count()
        self.expected = {}
        seen = finder.seen["takes" if plan.takes else "gives"]
        for m, site in plan.sites.items():
            values = {site.key: site.write(seen[site.key], _other(site.read(seen[site.key])))}
            self.expected[m] = prober.held(None, [site], values, takes=plan.takes)
        self.training = failing(self._train)
        again = failing(self._train)
        self.noise = gap(self.training, again) if self.training is not None and again is not None else float("inf")
        self.state = self.left

    def compare(self) -> None:
        """Compare with the model as it is now.

        Raises:
            InputError: if it is not the same but for the calibration.
        """
        plan, finder = self.plan, self.finder
        plan.testing, plan.probe = True, _nothing
        try:
            failing(self.prober.run)  # notes what the model's code changes in place, and may still be wrong
            plan.testing = False
            if differs(self.prober.run(), finder.base, finder.noise):
                raise self._refusal("the output changes although the features do not")
            counts = self._count()
            twice = [path for path, count in counts.items() if count != self.counts[path]]
            if twice:
                raise self._refusal(f"{', '.join(twice[:3])} would run {counts[twice[0]]} times")
            for m in plan.sites:
                plan.probe = functools.partial(_change, m)
                got = self.prober.run()
                if differs(got, self.expected[m], finder.noise):
                    raise self._refusal(f"with other features of {m} it does not give what the plain model gives")
                if not differs(got, finder.base, finder.noise):
                    raise self._refusal(f"the features of {m} do not reach the output")
            plan.probe = _nothing
            self._compare_training()
        finally:
            plan.probe, plan.testing = None, False

    def _compare_training(self) -> None:
        if self.training is None or self.noise == float("inf"):
            return
        if differs(self._train(), self.training, self.noise):
            raise self._refusal("in training mode the output changes although the features do not")
        changed = [name for name, value in self.state.items() if not _equal(value, self.left.get(name))]
        if changed and not self.noise:
            raise self._refusal(f"in training mode {', '.join(changed[:3])} is left with another value")

    def _count(self) -> Counter[str]:
        counts = Counter[str]()

        def count(key: CallKey, nest: Any) -> None:
            counts[key[0]] += 1

        self.prober.run(watch=self.leaves, takes=count)
        return counts

    def _train(self) -> list[Tensor]:
        """Run in training mode, and keep the state that the forward leaves."""
        self.left: dict[str, Any] = {}
        return self.prober.run(training=True, after=self._keep)

    def _keep(self) -> None:
        for path, module in self.prober.model.named_modules():
            if NAME in path.split("."):
                continue
            for name, buffer in module.named_buffers(recurse=False):
                self.left[f"{path}.{name}".strip(".")] = buffer.detach().clone()
            for name, value in vars(module).items():
                if name != PLAN and isinstance(value, int | float | str):
                    self.left[f"{path}.{name}".strip(".")] = value

    def _refusal(self, why: str) -> InputError:
        where = ", ".join(sorted({told(site.key) for site in self.plan.sites.values()}))
        return InputError(
            f"a calibration at {where} would not be exact: {why}. Write it into the model's code instead: "
            "fs.nn.ContextualCalibration takes and gives {modality: features}"
        )


def _nothing(features: dict[str, Tensor], present: Any) -> dict[str, Tensor]:
    return features


def _change(modality: str, features: dict[str, Tensor], present: Any) -> dict[str, Tensor]:
    return {**features, modality: _other(features[modality])}


def _other(x: Tensor) -> Tensor:
    return x.roll(1, 0) * 1.25


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    return one == other or (one != one and other != other)

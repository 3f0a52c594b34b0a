"""The forwards of a trace: every run starts from the same state, random numbers and fresh copies of the inputs."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusionscope._nest import map_tensors, tensors
from fusionscope.batch import Adapter, Batch
from fusionscope.errors import InputError, ModelError
from fusionscope.tracing._fingerprint import fingerprint
from fusionscope.tracing._record import CallKey, Recorder, Recording, Source
from fusionscope.tracing._rows import World
from fusionscope.tracing._state import ModelState, eager

NOISE = 0.02


class Runner:
    """Runs one model on changed copies of one batch.

    Attributes:
        maps: for each modality, two replacement maps: which sample's values each sample gets.
        sample: the sample that the single-sample run replaces.
        full: calls whose large tensors are hashed along every axis.
        forwards: how many there were.
        prediction: identity of the prediction of the last unchanged run.
        notes: what a user should know, in words.
    """

    def __init__(self, model: nn.Module, batch: Batch, adapter: Adapter) -> None:
        self.model, self.batch, self.adapter = model, batch, adapter
        self.size = batch.size
        hashes = {m: _row_hashes(nest, self.size) for m, nest in batch.inputs.items()}
        self.maps = {m: [_donors(h, step, m) for step in (1, 2)] for m, h in hashes.items()}
        self.sample = self.size // 2
        self.full: set[CallKey] = set()
        self.forwards = 0
        self.prediction: tuple[object, ...] = ()
        self.notes: list[str] = []
        self.failed: dict[str, str] = {}
        self.noise: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self.before = self.state = ModelState(model)
        self._quick = False
        self._returned: Any = None
        self._again: list[tuple[Recording, Batch, bool]] = []

    def warm_up(self) -> None:
        """Run once, so that what libraries install lazily is there; what the forward changed is put back."""
        self._forward(self.batch, only=())
        changed = self.before.restore()
        if changed:
            names = ", ".join(list(dict.fromkeys(changed))[:3])
            self.notes.append(f"the model keeps state between forwards ({names}); it is rolled back")
        added = self.before.added()
        if added:
            self.notes.append(
                f"the first forward added {', '.join(added[:3])} to the model, which stays; what is kept there counts "
                "as part of the model"
            )
        self._quick = not changed
        self.state = ModelState(self.model, known=self.before)

    def close(self) -> None:
        """Leave the model as it was found."""
        self._silence()
        self.state.restore()
        self.before.restore()

    # ------------------------------------------------------------------- runs

    def plain(self) -> Recording:
        """The batch as it is."""
        recording = self._kept(self.batch)
        with suppress(InputError, LookupError, TypeError):
            self.prediction = fingerprint(self.adapter.output(self._returned)).key
        self._returned = None
        return recording

    def single(self, base: Recording) -> Recording:
        """One sample replaced in all modalities; another where that changes a shape (a batch cut to its longest)."""
        best: tuple[int, int, Recording] | None = None
        for sample in dict.fromkeys((self.size // 2, 0, self.size - 1)):
            self.sample = sample
            run = self.one_replaced()
            reshaped = len(_shapes(base) ^ _shapes(run))
            if best is None or reshaped < best[0]:
                best = reshaped, sample, run
            if not reshaped:
                break
        _, self.sample, run = best or (0, self.sample, base)
        return run

    def one_replaced(self) -> Recording:
        """The same sample replaced in all modalities; with its integers kept, if the model fails otherwise."""
        for floating_only in (False, True):
            with suppress(Exception):
                return self._kept(self._one_replaced(floating_only))
        self.notes.append("the model fails when one sample is replaced, so the sample axes are not known")
        return Recording()

    def world(self, base: Recording) -> World:
        """The runs with one modality changed at a time, by each of its maps."""
        runs: dict[str, list[Recording]] = {}
        for modality, maps in self.maps.items():
            found = [self._perturbed(modality, donors) for donors in maps]
            runs[modality] = [run for run in found if run is not None]
        return World(base, runs)

    def wire(self) -> list[str]:
        """Give the parameters that are all zero small seeded noise from now on; return their names.

        A zero bias that a layer of torch adds hides nothing and stays.
        """
        generator = torch.Generator().manual_seed(0)
        self.noise = []
        names = []
        for path, module in self.model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            own = {k: p for k, p in module.named_parameters(path, recurse=False) if p.is_floating_point() and p.numel()}
            zero = {k: p for k, p in own.items() if not p.any()}
            additive = type(module).__module__.startswith("torch.nn") and any(
                k not in zero and "bias" not in k.rpartition(".")[2] for k in own
            )
            for name, parameter in zero.items():
                if additive and "bias" in name.rpartition(".")[2]:
                    continue
                value = NOISE * (0.5 + torch.rand(parameter.shape, generator=generator))
                value *= torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
                self.noise.append((parameter, value.to(parameter), self.state.values[id(parameter)][1]))
                names.append(name)
        return names

    def unwire(self) -> None:
        """Run the model as it is from now on."""
        self._silence()
        self.noise = []

    def restart(self, source: Source) -> Recording | None:
        """Run with some tensors disturbed on the way; None if the model fails on that."""
        for gently in (False, True):
            try:
                return self._forward(self.batch, disturb=source, gently=gently, full=self.full)
            except Exception:
                continue
        return None

    def deepen(self, keys: Collection[CallKey], recordings: Collection[Recording]) -> None:
        """Repeat some of the runs, to hash the large tensors of some calls along every axis."""
        self.full |= set(keys)
        noise = self.noise
        wanted = {id(recording) for recording in recordings}
        for recording, batch, noisy in self._again:
            if id(recording) not in wanted:
                continue
            self.noise = noise if noisy else []
            with suppress(Exception):
                recording.deepen(self._forward(batch, full=self.full, only=self.full), self.full)
        self.noise = noise

    # ---------------------------------------------------------------- details

    def _kept(self, batch: Batch) -> Recording:
        recording = self._forward(batch, full=self.full)
        self._again.append((recording, batch, bool(self.noise)))
        return recording

    def _forward(self, batch: Batch, **how: Any) -> Recording:
        self.state.restore(quick=self._quick)
        for module in self.model.modules():
            module.training = False
        for parameter, value, _ in self.noise:
            parameter.data.copy_(value)
        self.forwards += 1
        torch.clear_autocast_cache()  # it may hold casts of parameters as they were in another run
        given = batch.clone()
        try:
            with eager(), Recorder(self.model, size=self.size, **how) as recorder:
                self._returned = recorder.run(self.model, given.inputs, lambda: self.adapter.call(self.model, given))
        finally:
            self._silence()
        return recorder.recording

    def _silence(self) -> None:
        for parameter, _, zero in self.noise:
            parameter.data.copy_(zero)

    def _one_replaced(self, floating_only: bool) -> Batch:
        inputs = {}
        for modality, nest in self.batch.inputs.items():
            index = torch.arange(self.size)
            donors = [int(each[self.sample]) for each in self.maps[modality]]
            index[self.sample] = next(donor for donor in donors if donor != self.sample)
            inputs[modality] = _take(nest, index, self.size, floating_only)
        return self.batch.with_inputs(**inputs)

    def _perturbed(self, modality: str, donors: Tensor) -> Recording | None:
        """Run with one modality taken from other samples; if the model fails, with its integers (lengths, ids) kept."""
        nest = self.batch.inputs[modality]
        kinds = {t.is_floating_point() for _, t in tensors(nest)}
        for floating_only in (False, True):
            if floating_only and len(kinds) < 2:
                return None
            changed = _take(nest, donors, self.size, floating_only)
            try:
                run = self._kept(self.batch.with_inputs(**{modality: changed}))
            except Exception as error:
                self.failed.setdefault(modality, f"{type(error).__name__}: {error}".split("\n")[0][:120])
                continue
            return run
        return None


def check_state(base: Recording, repeat: Recording, last: Recording) -> None:
    """Refuse a model whose unchanged run after the others differs from those before.

    Raises:
        ModelError: if so.
    """
    for key, record in base.calls.items():
        again, end = repeat.calls.get(key), last.calls.get(key)
        for place, print_ in record.outputs.items():
            one = again.outputs.get(place) if again else None
            two = end.outputs.get(place) if end else None
            if one is not None and one.key == print_.key and (two is None or two.key != print_.key):
                raise ModelError(
                    "the model keeps state between forwards that cannot be rolled back: the call "
                    f"{key[0]}#{key[1]} gives another output after other inputs were seen. Make the forward "
                    "depend on its inputs and on the model's own parameters, buffers and attributes only"
                )


def differing(batch: Batch, most: int) -> Batch:
    """Return at most ``most`` samples, with as many different values of every modality as there are."""
    firsts = np.zeros(batch.size, np.int64)
    for nest in batch.inputs.values():
        _, index = np.unique(_row_hashes(nest, batch.size), return_index=True)
        firsts[index] += 1
    chosen = np.sort(np.argsort(-firsts, kind="stable")[:most])
    return batch.take(torch.from_numpy(chosen))


def _shapes(recording: Recording) -> set[tuple[object, ...]]:
    """What ran and what it gave, but for the values."""
    ran = {(key, "") for key in recording.calls}
    return ran | {(k, place, p.shape) for k, record in recording.calls.items() for place, p in record.outputs.items()}


def _row_hashes(nest: Any, size: int) -> np.ndarray:
    total = np.zeros(size, np.int64)
    for number, (_, tensor) in enumerate(tensors(nest)):
        if tensor.shape[0] == size:
            total = total * np.int64(1000003) + fingerprint(tensor).axes[0] + number
    return total


def _donors(hashes: np.ndarray, step: int, modality: str) -> Tensor:
    """For each sample another one whose values it gets; only every second of the different values goes on.

    The others are gone: a permutation would leave a sum over the batch alone, and also what a router sends to an expert
    by its content. The map of ``step`` 2 keeps what that of step 1 drops.
    """
    size = len(hashes)
    _, firsts = np.unique(hashes, return_index=True)
    if len(firsts) < 2:
        raise InputError(
            f"modality {modality!r} is constant: all {size} samples of the batch are equal, so nothing can be seen to "
            "depend on it; give a batch whose samples differ"
        )
    kept = np.sort(firsts)[step - 1 :: 2]
    donors = []
    for i in range(size):
        following = [*kept[kept > i], *kept[kept <= i]]
        donors.append(next((int(j) for j in following if hashes[j] != hashes[i]), i))
    return torch.tensor(donors)


def _take(nest: Any, index: Tensor, size: int, floating_only: bool = False) -> Any:
    def take(tensor: Tensor) -> Tensor:
        if tensor.shape[0] != size or (floating_only and not tensor.is_floating_point()):
            return tensor
        return tensor[index.to(tensor.device)]

    return map_tensors(take, nest)

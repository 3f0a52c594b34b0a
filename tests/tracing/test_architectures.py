"""``trace`` on published architectures: what it finds is what their source code says."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fusionscope._nest import tensors
from fusionscope.batch import Adapter
from fusionscope.tracing import Trace, trace

from .architectures import ARCHITECTURES, Architecture

pytest.importorskip("transformers")
each = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.name)


@dataclass(frozen=True)
class Run:
    """A traced model with what it was before."""

    found: Trace
    model: nn.Module
    untouched: nn.Module
    adapter: Adapter
    batch: dict[str, Tensor]
    kept: dict[str, Tensor]
    generators: tuple[Any, Any]
    modes: tuple[list[bool], list[bool]]


@functools.cache
def run(architecture: Architecture) -> Run:
    """Trace an architecture, once for all tests."""
    model, batch, modalities = architecture.build()
    model.train()
    next(model.children()).eval()
    untouched, kept, adapter = copy.deepcopy(model), copy.deepcopy(batch), Adapter(modalities)
    before, modes = generators(), [module.training for module in model.modules()]
    found = trace(model, batch, adapter=adapter)
    after = generators()
    modes_after = [module.training for module in model.modules()]
    return Run(found, model, untouched, adapter, batch, kept, (before, after), (modes, modes_after))


def generators() -> tuple[bytes, int, bytes]:
    """The state of the global generators, save Python's own: the type checks that tests run under draw from it."""
    numpy: Any = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return numpy["key"].tobytes(), numpy["pos"], torch.get_rng_state().numpy().tobytes()


def within(path: str, container: str) -> bool:
    return path == container or not container or path.startswith(f"{container}.")


@each
def test_streams(architecture: Architecture) -> None:
    found = run(architecture).found
    ends = {m: (calls[0].id, calls[-1].id) if calls else None for m, calls in found.streams.items()}
    assert ends == architecture.streams


@each
def test_where_modalities_first_meet(architecture: Architecture) -> None:
    found = run(architecture).found
    first = [point for point in found.fusion_points if not getattr(point, "round", 0)]
    got = [(p.parent, "#".join(map(str, p.call.key)) if p.call else "", p.kind, p.functional) for p in first]
    assert got == [(m.parent, m.before, m.kind, True) for m in architecture.meetings]
    assert all(point.modalities == set(found.modalities) for point in first)


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a.meetings[0].mixed_in], ids=lambda one: one.name)
def test_what_is_joined_is_mixed_by_the_first_joint_attention(architecture: Architecture) -> None:
    (point,) = (p for p in run(architecture).found.fusion_points if not getattr(p, "round", 0))
    assert point.mixed_by is not None
    assert within(point.mixed_by.path, architecture.meetings[0].mixed_in)


@each
def test_rows_interact_where_all_pairs_are_compared(architecture: Architecture) -> None:
    found = run(architecture).found
    assert any("rows interact" in message for message in found.messages) == architecture.rows_interact
    coupled = {call.path for call in found.calls if call.batch_coupled}
    assert coupled == ({""} if architecture.rows_interact else set())


@each
def test_taps_are_features_of_one_modality(architecture: Architecture) -> None:
    found = run(architecture).found
    fused = {call.key for call in found.calls if len(call.depends_on) > 1}
    for modality, ends in architecture.streams.items():
        assert found.taps[modality]
        for tap in found.taps[modality]:
            if getattr(tap.call, "stretch", 0):  # after an exchange everything depends on everything
                assert tap.call.lane == modality
            else:
                assert tap.call.depends_on == {modality}
                assert tap.call.key not in fused, f"{tap.id} comes from a call in which modalities meet"
            assert not re.search(r"\.(query|key|value|qkv|[qkv]_proj)$", tap.call.path), tap.id
            assert tap.units or ends is None, f"the units of {tap.id} are not known"


def hooks(model: nn.Module) -> int:
    """How many hooks a model has."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@each
def test_left_as_found(architecture: Architecture) -> None:
    """A traced model and an untouched copy give the same outputs and learn the same, bit for bit."""
    traced = run(architecture)
    assert traced.generators[0] == traced.generators[1]
    assert traced.modes[0] == traced.modes[1]
    assert equal(traced.batch, traced.kept)
    model, other = copy.deepcopy((traced.model, traced.untouched))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert equal(model.state_dict(), other.state_dict())
    inputs = traced.adapter.batch(traced.kept)

    def outputs(one: nn.Module, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return dict(tensors(traced.adapter.call(one, inputs.clone())))

    def learn(one: nn.Module) -> None:
        steps = torch.optim.SGD(one.parameters(), 0.1)
        torch.stack([out.square().mean() for out in outputs(one, 2).values() if out.requires_grad]).sum().backward()
        steps.step()

    with torch.no_grad():
        mine, theirs = outputs(model.eval(), 1), outputs(other.eval(), 1)
    assert mine
    assert equal(mine, theirs)
    learn(model.train())
    learn(other.train())
    assert equal(model.state_dict(), other.state_dict())
    assert not equal(model.state_dict(), traced.model.state_dict())
    assert hooks(model) == hooks(other)  # transformers installs some of its own in the first forward

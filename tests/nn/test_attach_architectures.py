"""A calibration attached to CLIP and ViLT from their configurations."""

from __future__ import annotations

import copy

import pytest
import torch

import fusionscope as fs
from fusionscope._nest import tensors
from fusionscope.nn import attach_calibration, detach_calibration
from tests.tracing.architecture_models import clip, vilt

from .test_part_laws import shaken

pytest.importorskip("transformers")


@pytest.mark.parametrize(("build", "channels"), [(clip, 19), (vilt, 28)], ids=["CLIP", "ViLT"])
def test_published_models(build, channels):
    model, batch, modalities = build()
    model.train()
    twin = copy.deepcopy(model)
    adapter = fs.Adapter(modalities)
    inputs = adapter.batch(batch)

    def run(one) -> list[torch.Tensor]:
        torch.manual_seed(1)
        return [tensor for _, tensor in tensors(adapter.call(one, inputs.clone()))]

    def equal(one, other) -> bool:
        return all(torch.equal(a, b) for a, b in zip(run(one), run(other), strict=True))

    calibration = attach_calibration(model, batch, adapter=adapter)
    assert calibration.channels == {"image": channels, "text": channels}
    for training in (True, False):
        model.train(training)
        twin.train(training)
        assert all((a - b).abs().max() <= 1e-6 for a, b in zip(run(model), run(twin), strict=True))
    shaken(calibration)
    changed = run(model)
    assert not torch.allclose(changed[0], run(twin)[0], rtol=1e-3)
    changed[0].square().sum().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {n for n, _ in calibration.named_parameters()} <= {
        n.removeprefix("contextual_calibration.") for n in reached
    }
    assert any("patch_embedding" in n for n in reached)
    assert any("embeddings" in n and "text" in n for n in reached)
    other = copy.deepcopy(twin)
    attach_calibration(other, batch, adapter=adapter)
    other.load_state_dict(model.state_dict())
    assert equal(other, model)
    detach_calibration(model)
    assert equal(model, twin)
    assert type(model) is type(twin)
    assert list(model.state_dict()) == list(twin.state_dict())

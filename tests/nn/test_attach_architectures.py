"""A calibration attached to CLIP and ViLT from their configurations, and to our own models."""

from __future__ import annotations

import copy

import pytest
import torch

import fusionscope as fs
from fusionscope._nest import tensors
from fusionscope.nn import (
    Classifier,
    ResNet,
    Segmenter,
    SequenceModel,
    Translator,
    attach_calibration,
    detach_calibration,
)
from tests.tracing.architecture_models import clip, vilt

from .test_part_laws import shaken


@pytest.mark.parametrize(("build", "channels"), [(clip, 19), (vilt, 28)], ids=["CLIP", "ViLT"])
def test_published_models(build, channels):
    pytest.importorskip("transformers")
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


PAIR = {"rgb": (3, 33, 35), "depth": (1, 33, 35)}
OURS = {
    "Classifier": (
        lambda: Classifier.build({"rgb": (3, 17, 19), "imu": (23, 6)}, {"rgb": "NCHW", "imu": "NTC"}, 5, fuse="gated"),
        {"rgb": (3, 17, 19), "imu": (23, 6)},
    ),
    "SequenceModel": (
        lambda: SequenceModel.build({"audio": (23, 5), "imu": (11, 6)}, {"audio": "NTC", "imu": "NTC"}, 5, width=4),
        {"audio": (23, 5), "imu": (11, 6)},
    ),
    "Segmenter": (
        lambda: Segmenter({"rgb": 3, "depth": 1}, 5, ResNet(3, blocks=(1, 1, 1, 1), width=8), "pixel_shift", width=8),
        PAIR,
    ),
    "Translator": (lambda: Translator({"rgb": 3, "depth": 1}, 2, width=8, depth=2), PAIR),
}


@pytest.mark.parametrize("name", OURS)
def test_our_models(name):
    """Also where a shared encoder interleaves the modalities, and where training calls ``outputs``."""
    build, shapes = OURS[name]
    torch.manual_seed(0)
    model = build().eval()
    x = {m: torch.randn(5, *s) for m, s in shapes.items()}
    expected = model(x)
    calibration = attach_calibration(model, x)
    assert set(calibration.channels) == set(shapes)
    assert (model(x) - expected).abs().max() <= 1e-6
    shaken(calibration)
    changed = model(x)
    assert not torch.allclose(changed, expected, atol=1e-4)
    outputs = model.outputs(x)
    assert torch.equal(outputs["prediction"], changed)
    model.loss(outputs, torch.zeros_like(changed), torch.nn.functional.mse_loss).backward()
    assert [n for n, p in calibration.named_parameters() if p.grad is None or not p.grad.any()] == []
    detach_calibration(model)
    assert torch.equal(model(x), expected)

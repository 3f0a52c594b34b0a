"""``dissect`` on published architectures and on our own models, without being told the name of any module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fusionscope as fs
from fusionscope.nn import build_model

from ..tracing.architectures import ARCHITECTURES


def more(name: str, values: Tensor, draw: torch.Generator) -> Tensor:
    """Eight times as many samples: new images, the same sentences in another order."""
    if values.is_floating_point():
        return torch.randn(8 * len(values), *values.shape[1:], generator=draw)
    order = torch.cat([torch.randperm(len(values), generator=torch.Generator().manual_seed(i)) for i in range(8)])
    return values[order]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CLIP", {"image": "vision_model.encoder.layers.1#0", "text": "text_model.encoder.layers.0#0"}),
        ("LXMERT", {"image": "encoder.x_layers.1#0:1", "text": "encoder.x_layers.1#0:0"}),
    ],
)
def test_published_models_need_no_names(name: str, expected: dict[str, str]) -> None:
    pytest.importorskip("transformers")
    architecture = next(a for a in ARCHITECTURES if a.name == name)
    model, batch, modalities = architecture.build()
    draw = torch.Generator().manual_seed(0)
    samples = {key: more(key, values, draw) for key, values in batch.items()}
    loader = [{key: values[i : i + 8] for key, values in samples.items()} for i in range(0, 40, 8)]
    found = fs.dissect(model, loader, modalities=modalities, permutations=20, progress=False)
    taps = found.tables["taps"]
    for modality, tap in expected.items():
        own = taps[taps["modality"] == modality]
        assert len(own) >= 4
        assert tap in set(own["tap"])
    similarity = found.tables["similarity"]
    assert similarity["cka"].notna().all()
    assert len(similarity) >= len(taps) * (len(taps) - 1) / 2
    assert any("the batches hold no target to score against" in note for note in found.manifest["messages"])


def test_our_own_models_have_levels() -> None:
    shapes = {"rgb": (3, 32, 32), "audio": (29, 5), "imu": (7,), "clip": (3, 1, 32, 32)}
    axes = {"rgb": "NCHW", "audio": "NTC", "imu": "NC", "clip": "NTCHW"}
    model = build_model(shapes, axes, "classification", 3, width=4)
    batch = {name: torch.randn(7, *shape) for name, shape in shapes.items()}
    found = fs.trace(model, batch)
    assert all(len(found.taps[name]) >= 3 for name in shapes)
    assert all(tap.units for level in found.levels(3) for tap in level.values())
    loader = [({m: torch.randn(16, *shape) for m, shape in shapes.items()}, torch.arange(16) % 3) for _ in range(3)]
    table = fs.dissect(model, loader, permutations=20, progress=False).tables["taps"]
    assert set(table["modality"]) == set(shapes)

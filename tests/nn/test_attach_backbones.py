"""Calibrations in front of the fusion of models with published backbones, and exchanges that need channels in them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fusionscope.nn import ConsistencySpeciality, attach_calibration, detach_calibration, share, unshare

from .shared_models import MODELS, built, inputs

NAMES = ("rgb", "depth")
BACKBONES = [name for name in MODELS if name not in ("maps", "tokens", "our resnet", "resnet basic")]


def last(out: object) -> Tensor:
    """The last tensor of what a backbone returns, averaged over space or tokens."""
    found = getattr(out, "feature_maps", None) or getattr(out, "last_hidden_state", None)
    out = out if found is None else found
    x = out if isinstance(out, Tensor) else list(out)[-1]  # ty: ignore[invalid-argument-type]
    return x.mean(1) if x.ndim == 3 else x.flatten(2).mean(2) if x.ndim == 4 else x


class Pair(nn.Module):
    """Two backbones of one kind, concatenated."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.rgb, self.depth = built(name), built(name)
        with torch.no_grad():
            size = last(self.rgb.eval()(inputs(name)["rgb"])).shape[1]
        self.head = nn.Linear(2 * size, 5)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.head(torch.cat([last(self.rgb(rgb)), last(self.depth(depth))], 1))


@pytest.mark.parametrize("name", BACKBONES)
def test_calibration_attaches_and_detaches(name):
    model, x = Pair(name).eval(), inputs(name)
    before = model(**x)
    calibration = attach_calibration(model, x)
    torch.testing.assert_close(model(**x), before, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        for p in calibration.parameters():
            p += 0.3
    after = model(**x)
    assert not torch.allclose(after, before, rtol=1e-3)
    after.sum().backward()
    for encoder in (model.rgb, model.depth):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    detach_calibration(model)
    assert torch.equal(model(**x), before)


@pytest.mark.parametrize("name", BACKBONES)
def test_consistency_and_speciality_in_a_backbone(name):
    """Its channels are those of the place, so it is given by place; here behind the last block of the last stage."""
    backbone, x = built(name).eval(), inputs(name)
    place, channels = _last_block(backbone, x["rgb"])
    encoder = share(backbone, NAMES, exchange={place: ConsistencySpeciality(channels, modalities=NAMES)}).eval()
    plain = unshare(encoder)
    out = encoder(x)
    for m in NAMES:
        assert last(out[m]).isfinite().all()
        assert not torch.allclose(last(out[m]), last(plain[m](x[m])), rtol=1e-4)


def _last_block(backbone: nn.Module, x: Tensor) -> tuple[str, int]:
    from fusionscope.nn._places import stages

    place = stages(backbone)[-1][-1]
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple, out: object) -> None:
        seen.append(out if isinstance(out, Tensor) else out[0])  # ty: ignore[not-subscriptable]

    handle = backbone.get_submodule(place).register_forward_hook(keep)
    with torch.no_grad():
        backbone(x)
    handle.remove()
    return place, seen[0].shape[2 if seen[0].ndim == 3 else 1]

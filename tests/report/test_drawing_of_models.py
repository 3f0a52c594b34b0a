"""The drawing of real traces: what the tracer finds in models whose lanes go on is what is drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fusionscope import trace as run_trace
from fusionscope.report._lanes import arrange
from tests.tracing import exchanges

RANDOM = torch.Generator().manual_seed(0)
PICTURES = {m: torch.randn(5, 3, 16, 16, generator=RANDOM) for m in ("a", "b")}
SEQUENCES = {"a": torch.randn(5, 4, 5, generator=RANDOM), "b": torch.randn(5, 6, 7, generator=RANDOM)}
MODELS: dict[str, tuple[type[nn.Module], dict[str, Any], Any, list[str]]] = {
    "cen": (exchanges.CEN, {"trained": True}, (list(PICTURES.values()), None), ["exchange"] * 3 + ["mix"]),
    "asymfusion": (exchanges.AsymFusion, {}, PICTURES, ["exchange"] * 3 + ["mix"]),
    "cmx": (
        exchanges.CMX,
        {},
        dict(zip(("rgb", "x"), PICTURES.values(), strict=True)),
        ["exchange", "join"] * 2 + ["join"],
    ),
    "lxmert": (exchanges.CrossModal, {"layers": 5}, SEQUENCES, ["exchange"] * 5 + ["join"]),
    "pair": (exchanges.CrossModal, {"pooled": False}, SEQUENCES, ["exchange"] * 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_found_is_drawn(name: str) -> None:
    make, settings, batch, heads = MODELS[name]
    found = run_trace(make(**settings), batch, modalities=("a", "b") if name == "cen" else None)
    layout = arrange(found.to_dict())
    points = [stage.point for stage in layout.stages if stage.point]
    assert [p.head.split()[0] for p in points] == heads
    shared = {call.key for call in found.fused if any(p.call and p.call.key == call.key for p in found.fusion_points)}
    for m, stretches in found.lanes.items():
        assert layout.lanes[m].calls == len({call.key for own in stretches for call in own})
        drawn: dict[int, int] = {}
        passed = 0
        for stage in layout.stages:
            drawn[passed] = drawn.get(passed, 0) + sum(item.calls for item in stage.lanes[m])
            passed += bool(stage.point and stage.point.exchange)
        own = [sum(call.key not in shared for call in stretch) for stretch in stretches]
        assert [drawn[k] for k in range(len(own))] == own
        taps = [item.title.split()[0] for stage in layout.stages for item in stage.lanes[m] if item.tap]
        assert taps == [tap.id for tap in found.taps[m]]

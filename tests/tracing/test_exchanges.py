"""Lanes go on after an exchange: toys with the wiring of CEN, AsymFusion, CMX and LXMERT."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fusionscope.tracing import Trace, _record, trace

from .exchanges import CEN, CMX, AsymFusion, CrossModal
from .models import B


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def image() -> Tensor:
    return torch.randn(B, 3, 16, 16)


def stretches(found: Trace, modality: str) -> list[list[str]]:
    return [[call.id for call in stretch] for stretch in found.lanes[modality]]


def met(found: Trace) -> list[tuple[int, str, str]]:
    """``(round, kind, path)`` of every fusion point."""
    return [(p.round, p.kind, p.call.path if p.call else "output") for p in found.fusion_points]


def test_cen_exchanges_channels_three_times() -> None:
    found = trace(CEN(trained=True), ([image(), image()], torch.zeros(B)), modalities=("a", "b"))
    assert met(found) == [*((number, "join", "exchange") for number in range(3)), (3, "mix", "output")]
    for place, modality in enumerate("ab"):
        assert stretches(found, modality) == [
            [f"convs.0#0:{place}", f"norms.0.{place}#0"],
            [f"exchange#0:{place}", f"convs.1#0:{place}", f"norms.1.{place}#0"],
            [f"exchange#1:{place}", f"convs.2#0:{place}", f"norms.2.{place}#0"],
            [f"exchange#2:{place}", f"head#{place}"],
        ]
    assert [str(p.mixed_by) for p in found.fusion_points[:2]] == [
        "Call(convs.1#0:0 ParallelConv [7, 10, 16, 16] <- a+b)",
        "Call(convs.2#0:0 ParallelConv [7, 14, 16, 16] <- a+b)",
    ]


def test_cen_exchanges_nothing_at_initialisation() -> None:
    found = trace(CEN(trained=False), ([image(), image()], torch.zeros(B)), modalities=("a", "b"))
    assert met(found) == [(0, "mix", "output")]
    assert [len(stretch) for stretch in found.lanes["a"]] == [10]
    assert any("looks untrained; trace the trained weights" in message for message in found.messages)


def test_asymfusion_shuffles_interleaved_rows() -> None:
    found = trace(AsymFusion(), {"a": image(), "b": image()})
    shuffles = [(number, "join", f"blocks.{number}.1") for number in range(3)]
    assert met(found) == [*shuffles, (3, "mix", "output")]
    assert [p.mixed_by.path for p in found.fusion_points if p.mixed_by] == [f"blocks.{i}.3" for i in range(3)]
    assert stretches(found, "b")[1:3] == [
        ["blocks.0.1#0[1::2]", "blocks.0.2#0[1::2]", "blocks.0.3#0[1::2]", "blocks.1.0#0[1::2]"],
        ["blocks.1.1#0[1::2]", "blocks.1.2#0[1::2]", "blocks.1.3#0[1::2]", "blocks.2.0#0[1::2]"],
    ]
    levels = found.levels(3)
    assert [level["a"].call.path for level in levels] == [level["b"].call.path for level in levels]


def test_cmx_rectifies_merges_and_goes_on() -> None:
    found = trace(CMX(), {"rgb": image(), "x": image()})
    for modality, block in (("rgb", "block"), ("x", "extra_block")):
        assert stretches(found, modality) == [[f"{block}.{i}.{j}#0" for j in range(3)] for i in range(3)]
    assert [(p.round, p.parent) for p in found.fusion_points] == [
        (0, "rectify.0"),
        (1, "merge.0"),
        (1, "rectify.1"),
        (2, "merge.1"),
        (2, "rectify.2"),
    ]
    assert not any(call.lane for call in found.calls if call.path.startswith(("merge", "decode")))
    assert all(call.wired_to == {"rgb", "x"} for call in found.calls if call.path.startswith("decode"))


@pytest.mark.parametrize(("tokens", "pooled"), [(13, True), (11, False)])
def test_lxmert_attends_both_ways_with_one_module(tokens: int, pooled: bool) -> None:
    """With as many tokens in both, shapes do not tell whose lane goes on; the residual's effect does."""
    batch = {"a": torch.randn(B, 11, 5), "b": torch.randn(B, tokens, 7)}
    found = trace(CrossModal(pooled=pooled), batch)
    attends = [(i, "mix", f"layers.{i}.attend.dense") for i in range(3) for _ in range(2)]
    assert met(found) == attends + ([(3, "join", "head")] if pooled else [])
    assert {p.parent for p in found.fusion_points if p.round == 1} == {"layers.1.attend"}
    for modality in "ab":
        own = [[name for name in stretch if "feed" in name] for stretch in stretches(found, modality)]
        assert own == [[], *([f"layers.{i}.feed_{modality}.{j}#0" for j in range(3)] for i in range(3))]
    assert "layers.1.attend.key#1" in stretches(found, "a")[1]
    assert [tap.id for tap in found.taps["b"]] == ["embed_b#0", "layers.0#0:1", "layers.1#0:1", "layers.2#0:1"]


class OneWay(nn.Module):
    """Depth is added to rgb after each stage, and never the other way."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth = (nn.ModuleList(nn.Linear(5, 5) for _ in range(3)) for _ in range(2))

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        for one, two in zip(self.rgb, self.depth, strict=True):
            depth = two(depth).tanh()
            rgb = one(rgb).tanh() + depth
        return rgb


def test_one_way_fusion_ends_the_receiving_lane() -> None:
    found = trace(OneWay(), {"rgb": torch.randn(B, 5), "depth": torch.randn(B, 5)})
    assert stretches(found, "rgb") == [["rgb.0#0"]]
    assert stretches(found, "depth") == [["depth.0#0", "depth.1#0", "depth.2#0"]]


class Averaged(nn.Module):
    """What follows the fused call only by the mean over the batch follows it all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.first, self.second = (nn.Linear(5, 5) for _ in range(4))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.first(self.a(a) + self.b(b))
        return x + self.second(x.double().mean(0, keepdim=True).float())


def test_a_restart_is_no_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {"a": torch.randn(B, 5), "b": torch.randn(B, 5)}
    assert [p.call.path for p in trace(Averaged(), batch).fusion_points if p.call] == ["first"]
    monkeypatch.setattr(_record, "disturbed", lambda tensor, source, gently: tensor.roll(1, 0))
    assert [p.call.path for p in trace(Averaged(), batch).fusion_points if p.call] == ["first", "second"]


class Ignored(nn.Module):
    """A module works in place, and what it returns is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.act = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3), nn.LeakyReLU(0.1, True)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.a(a) + self.b(b)
        self.act(x)
        return self.head(x)


def test_a_restart_reaches_what_was_written_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {"a": torch.randn(B, 5), "b": torch.randn(B, 5)}
    assert [p.call.path for p in trace(Ignored(), batch).fusion_points if p.call] == ["act"]
    whole = _record.Recorder._replaced
    blind = lambda self, output, source, given: whole(self, output, source, {})  # noqa: E731
    monkeypatch.setattr(_record.Recorder, "_replaced", blind)
    assert [p.call.path for p in trace(Ignored(), batch).fusion_points if p.call] == ["act", "head"]


class TwoHeads(nn.Module):
    """Two tasks read the same fused features: that is no exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.one, self.two = (nn.Linear(5, 5) for _ in range(4))

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        x, y = self.a(a), self.b(b)
        return {"out": self.one(x + 0.2 * y), "more": self.two(0.2 * x + y)}


def test_two_heads_are_no_exchange() -> None:
    found = trace(TwoHeads(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert [len(found.lanes[m]) for m in "ab"] == [1, 1]
    assert {call.lane for call in found.calls if call.path in ("one", "two")} == {None}


class Bystander(CMX):
    """A third modality takes no part in the exchanges and joins at the end."""

    def __init__(self) -> None:
        super().__init__(stages=2)
        self.third = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 5, 3))

    def forward(self, rgb: Tensor, x: Tensor, c: Tensor) -> Tensor:
        return super().forward(rgb, x) + self.third(c).mean((2, 3))


def test_a_modality_that_takes_no_part_keeps_its_stream() -> None:
    found = trace(Bystander(), {"rgb": image(), "x": image(), "c": image()})
    assert stretches(found, "c") == [["third.0#0", "third.1#0", "third.2#0"]]
    assert [len(found.lanes[m]) for m in ("rgb", "x")] == [2, 2]
    assert [(p.parent, p.exchange) for p in found.fusion_points] == [
        ("rectify.0", True),
        ("merge.0", False),
        ("rectify.1", False),
    ]

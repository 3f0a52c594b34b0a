"""The drawing of a trace: well-formed, every lane there, groups add up, dead lanes marked."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from fusionscope.report import trace_svg
from fusionscope.report._lanes import arrange
from tests.report import factory
from tests.report.factory import call, trace

SVG = "{http://www.w3.org/2000/svg}"


def words(root: ET.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", [n for n in factory.EVERY if n != "empty"])
def test_well_formed_and_every_lane_named(name: str) -> None:
    given = factory.EVERY[name]().trace
    root = ET.fromstring(trace_svg(given))
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    for modality in given["modalities"]:
        assert any(title.startswith(f"{modality}: ") for title in titles)


@pytest.mark.parametrize(("blocks", "layers"), [(2, 3), (3, 7), (5, 41)])
def test_boxes_and_groups_add_up_to_the_lane(blocks: int, layers: int) -> None:
    layout = arrange(trace(["rgb", "depth"], blocks, layers))
    for modality in ("rgb", "depth"):
        items = [item for stage in layout.stages for item in stage.lanes[modality]]
        assert sum(item.calls for item in items) == blocks * layers == layout.lanes[modality].calls
        assert sum(bool(item.tap) for item in items) == blocks
        assert len(items) <= 2 * blocks + 1 or blocks * layers <= 6


def test_a_functional_fusion_is_labelled() -> None:
    root = ET.fromstring(trace_svg(trace(["rgb", "depth"])))
    said = words(root)
    assert [said.index(s) for s in ("functional", "in fuse", "before fuse.reduce#0")]


def test_a_dead_lane_is_marked_and_a_living_one_is_not() -> None:
    assert "reaches no output" in words(ET.fromstring(trace_svg(trace(["a", "b", "c"], dead="b"))))
    assert "reaches no output" not in words(ET.fromstring(trace_svg(trace(["a", "b", "c"]))))


def test_a_siamese_module_shows_its_call_index_and_its_sharing() -> None:
    calls = [call(f"enc.{k}", [m], index=i) for i, m in enumerate(["rgb", "depth"]) for k in range(2)]
    calls += [call("head", ["depth", "rgb"], "Linear", kind="mix"), call("", ["depth", "rgb"], "Net")]
    point = {"call": "head#0", "parent": "", "functional": False, "kind": "mix", "modalities": ["depth", "rgb"]}
    said = words(ET.fromstring(trace_svg({"modalities": ["rgb", "depth"], "calls": calls, "fusion_points": [point]})))
    assert "enc.0 #0" in said
    assert "enc.0 #1" in said
    assert "shared with depth" in said
    assert "head#0" in said


def test_stacked_calls_show_their_slots() -> None:
    calls = [
        call(f"enc.{k}", [m], slot=s, shape=[8, 5, 3, 3])
        for k in range(2)
        for m, s in (("a", "[0:8]"), ("b", "[8:16]"))
    ]
    said = words(ET.fromstring(trace_svg({"modalities": ["a", "b"], "calls": calls, "fusion_points": []})))
    assert "[0:8] 5×3×3" in said
    assert "[8:16] 5×3×3" in said
    assert "2 calls · [8:16]" in said


def test_a_tapped_container_stands_for_its_calls() -> None:
    calls = [call("enc", ["a"], "Sequential", leaf=False, tap=True)]
    calls += [call(f"enc.{k}", ["a"], parent="enc#0") for k in range(11)]
    layout = arrange({"modalities": ["a"], "calls": calls, "fusion_points": []})
    (item,) = layout.stages[0].lanes["a"]
    assert (item.name, item.calls, item.tap) == ("enc", 11, "tap")


def test_lanes_that_wait_for_nothing_lie_below_each_other() -> None:
    layout = arrange(factory.many().trace)
    assert [bool(layout.stages[0].lanes[m]) for m in layout.modalities] == [True] * 5
    points = [stage.point for stage in layout.stages if stage.point]
    assert [p.modalities for p in points] == [["depth", "rgb"], ["thermal", "audio", "lidar"]]


def test_many_fusion_points_are_folded() -> None:
    given = trace(["a", "b"], 23, 1)
    given["fusion_points"] = [
        {"call": f"encoders.a.block{k}.0#0", "parent": "", "functional": True, "kind": "mix", "modalities": ["a", "b"]}
        for k in range(2, 21)
    ]
    layout = arrange(given)
    heads = [stage.point.head for stage in layout.stages if stage.point]
    assert len(heads) == 6
    assert heads[4] == "14 more"


@pytest.mark.parametrize("name", factory.NASTY)
def test_names_are_escaped(name: str) -> None:
    drawn = trace_svg(trace([name, "b"]))
    assert "<script" not in drawn
    assert "<b>" not in drawn
    ET.fromstring(drawn)


def test_every_colour_is_a_variable_that_is_set() -> None:
    drawn = trace_svg(factory.many().trace)
    used = set(re.findall(r"var\((--[\w-]+)", drawn))
    assert used
    assert used <= set(re.findall(r"(--[\w-]+):#", drawn))

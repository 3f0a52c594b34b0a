"""The drawing of a trace: well-formed, every lane there, groups add up, dead lanes marked."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from fusionscope.report import trace_svg
from fusionscope.report._calls import remarks
from fusionscope.report._lanes import Layout, arrange
from fusionscope.report._meetings import Point
from tests.browser import Chromium
from tests.report import factory, traces
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


def stretches(layout: Layout, modality: str) -> list[int]:
    return [sum(item.calls for item in stage.lanes[modality]) for stage in layout.stages]


def points(layout: Layout) -> list[Point]:
    return [stage.point for stage in layout.stages if stage.point]


@pytest.mark.parametrize("name", traces.SAMPLES)
def test_every_call_and_every_tap_of_a_lane_is_drawn_once(name: str) -> None:
    given = traces.SAMPLES[name]()
    layout = arrange(given)
    drawn = [item.title for stage in layout.stages for own in stage.lanes.values() for item in own if item.tap]
    assert sorted(title.split()[0] for title in drawn) == sorted(c["id"] for c in given["calls"] if c["tap"])
    for m in given["modalities"]:
        own = [c for c in given["calls"] if c["leaf"] and c.get("lane", c["depends_on"][:1] == [m] and m) == m]
        mine = [c for c in own if not c["fused"] or "lane" in c]
        assert sum(stretches(layout, m)) == len(mine)


def test_lanes_go_on_after_each_exchange() -> None:
    layout = arrange(traces.parallel(3))
    assert [(p.head, p.exchange, p.modalities) for p in points(layout)] == [
        (f"exchange {k}", True, ["rgb", "depth"]) for k in (1, 2, 3)
    ]
    assert stretches(layout, "rgb") == stretches(layout, "depth") == [3, 3, 3, 3]
    assert not any(stage.fused for stage in layout.stages)
    assert layout.exchanges == 3


def test_two_points_of_one_round_are_one_exchange() -> None:
    layout = arrange(traces.lxmert(5))
    assert [(p.head, len(p.members)) for p in points(layout)] == [(f"exchange {k + 1}", 2) for k in range(5)]
    assert points(layout)[0].lines == ["2 points", "in encoder.x_layers.0.visual_attention.att"]
    # Queries, keys and values run between the two points of their exchange, and stand before it.
    assert stretches(layout, "image") == [5 * 4 + 3, *[2 + 2 + 3] * 4, 2 + 2]


def test_a_merge_of_what_was_exchanged_goes_to_the_fused_part() -> None:
    layout = arrange(traces.cmx(4))
    assert [(p.head, p.round) for p in points(layout)] == [
        (head, round_ + (head == "join")) for round_ in range(4) for head in (f"exchange {round_ + 1}", "join")
    ]
    fused = [sum(item.calls for item in stage.fused) for stage in layout.stages]
    assert fused == [0, 0, 3, 0, 3, 0, 3, 0, 3 + 4]
    assert stretches(layout, "rgb") == [6, 1, 6, 1, 6, 1, 6, 1, 0]


def test_a_tapped_layer_that_holds_an_exchange_stands_after_it() -> None:
    layout = arrange(traces.lxmert(2))
    items = [[(item.name, item.tap, item.calls) for item in stage.lanes["image"]] for stage in layout.stages]
    assert items[0][-1] == ("3", "", 3)
    assert items[1] == [("x_layers.0", "tap", 4), ("3", "", 3)]
    assert items[2] == [("x_layers.1", "tap", 4)]


def test_an_exchange_that_is_a_tap_is_a_box_after_its_bar() -> None:
    layout = arrange(traces.cmx(3))
    assert [(item.name, item.tap, item.calls) for item in layout.stages[3].lanes["rgb"]] == [
        ("FRMs.1", "tap", 0),
        ("FFMs.1.channel_proj1", "", 1),
    ]


def test_the_rule_would_fail_without_lanes() -> None:
    given = traces.cmx(4)
    for entry in given["calls"]:
        for key in ("lane", "stretch"):
            entry.pop(key)
    for entry in given["fusion_points"]:
        entry.pop("exchange")
    layout = arrange(given)
    assert layout.exchanges == 0
    assert sum(stretches(layout, "rgb")) == 6


def test_a_modality_that_takes_no_part_passes_an_exchange() -> None:
    layout = arrange(traces.passing())
    assert [(p.exchange, p.modalities) for p in points(layout)] == [
        (True, ["rgb", "depth"]),
        (True, ["rgb", "depth"]),
        (False, ["audio", "depth", "rgb"]),
    ]
    assert stretches(layout, "audio") == [6, 0, 0, 0]


def test_many_exchanges_are_narrow_and_folded_where_nothing_is_measured_between() -> None:
    whole = arrange(traces.parallel(12))
    shown = [*(f"exchange {k}" for k in (1, 2, 3, 4)), *map(str, range(5, 12)), "exchange 12"]
    assert [p.head for p in points(whole)] == shown
    given = traces.parallel(12)
    for entry in given["calls"]:
        entry["tap"] = entry["tap"] and entry["stretch"] in (0, 6, 12)
    folded = arrange(given)
    assert [p.head for p in points(folded)][4:] == ["5–6", "7–11", "exchange 12"]
    assert folded.exchanges == 12
    assert sum(stretches(folded, "rgb")) == sum(stretches(whole, "rgb"))
    merged = arrange(traces.cmx(12))
    assert [(p.head, p.merges) for p in points(merged)][4:8] == [(str(k), 1) for k in (3, 4, 5, 6)]


def test_what_is_wired_but_inactive_is_dashed_and_said() -> None:
    root = ET.fromstring(trace_svg(traces.gated()))
    titles = {(t.text or "").split()[0]: t.text or "" for t in root.iter(f"{SVG}title")}
    assert "wired to depth, inactive here" in titles["rgb_net.2#0"]
    assert "it cannot be told whether it depends on rgb" in titles["depth_net.2#0"]
    assert "inactive" not in titles["rgb_net.1#0"]
    idle = [r for r in root.iter(f"{SVG}rect") if "idle" in (r.get("class") or "").split()]
    assert len(idle) == 2
    assert "wired to depth, inactive here" in titles["exchange"]
    assert "inactive here" in words(root)
    assert "inactive here" not in words(ET.fromstring(trace_svg(traces.parallel())))


def test_the_sizes_of_effects_are_said() -> None:
    root = ET.fromstring(trace_svg(traces.gated()))
    (said,) = [
        t.text or "" for t in root.iter(f"{SVG}title") if (t.text or "").startswith("depth, rgb mixed by fuse#0")
    ]
    assert "rgb: 0.41; depth: weak (3e-8)" in said


def test_the_tracer_says_what_is_weak_and_noise_is_no_effect() -> None:
    entry = {"depends_on": ["a", "b"], "wired_to": ["a", "b", "c"], "effects": {"a": 3e-3, "b": 0.2, "c": 0.5}}
    assert remarks(entry) == ["wired to c, inactive here", "a: 0.003; b: 0.2"]
    assert remarks(entry | {"states": {"a": "weak", "b": "yes", "c": "wired"}})[1] == "a: weak (3e-3); b: 0.2"
    assert remarks(entry | {"effects": {"a": float("nan")}})[1] == "a: of unknown size"


OVERLAPS = """(() => {
  const texts = [...document.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
  const inside = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
  const over = ([s, a], i) => texts.slice(i + 1).filter(([, b]) => inside(a, b)).map(([t]) => s + " | " + t);
  const found = texts.flatMap(over);
  for (const item of document.querySelectorAll(".item")) {
    const box = item.querySelector("rect").getBoundingClientRect();
    for (const text of item.querySelectorAll("text")) {
      const r = text.getBoundingClientRect();
      if (r.left < box.left - 1 || r.right > box.right + 1) found.push(text.textContent + " | its box");
    }
  }
  return found;
})()"""


def test_no_text_overlaps(tmp_path: Path) -> None:
    with Chromium() as browser:
        for name, make in traces.SAMPLES.items():
            drawn = trace_svg(make())
            (tmp_path / f"{name}.svg").write_text(drawn, encoding="utf-8")
            width = int(re.search(r'width="(\d+)"', drawn)[1])  # ty: ignore[not-subscriptable]
            browser.open(tmp_path / f"{name}.svg", width, 500)
            assert browser.evaluate("document.querySelectorAll('text').length") > 10
            assert browser.evaluate(OVERLAPS) == [], name

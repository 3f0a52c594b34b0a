"""What the report says and draws of concepts and semantic variance: what was planted, and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fusionscope.report import _semantics_prose as prose
from fusionscope.report import _semantics_tables as listed
from fusionscope.report import _units_prose as counted
from fusionscope.report import write_report
from fusionscope.report._page import render
from fusionscope.report._semantics import Semantics
from fusionscope.report._semantics_page import CONCEPTS_DRAWN, sections
from fusionscope.report._view import View
from tests.browser import Chromium
from tests.report import factory
from tests.report import factory_semantics as planted
from tests.report.factory import NAN, Dissected


def given(whole: Dissected) -> Semantics:
    return Semantics(View(whole))


def changed(table: str, where: dict[str, Any], **columns: Any) -> Semantics:
    """The scenes with some columns changed in the rows that have these values."""
    whole = planted.scenes()
    frame = whole.tables[table].copy()
    chosen = pd.Series(True, index=frame.index)
    for name, value in where.items():
        chosen &= frame[name] == value
    assert chosen.any()
    for name, value in columns.items():
        frame.loc[chosen, name] = value
    return given(Dissected(whole.tables | {table: frame}, whole.manifest, whole.trace))


# --- what each stream tells ---


def test_special_sets_are_named_with_their_owner_and_levels() -> None:
    said = prose.concepts(given(planted.scenes()))
    assert said == [
        "Of 8 concepts, rgb encodes 4 and depth encodes 4 at one level at least.",
        "rgb against depth, at matched levels: special to rgb: red mug, green mug and poster (levels 1 to 3). "
        "Special to depth: flat board, camouflaged ball and camouflaged box (levels 1 to 3). "
        "Consistent, encoded in both and special to neither: chair. "
        "Neither consistent nor special at any level: odd one.",
        "In rgb there emerge at level 1 red mug, green mug, poster and chair; "
        "nowhere flat board, camouflaged ball, camouflaged box and odd one.",
        "In depth there emerge at level 1 flat board, camouflaged ball, camouflaged box and chair; "
        "nowhere red mug, green mug, poster and odd one.",
    ]


def test_the_broken_variant_names_the_other_owner() -> None:
    swapped = {"a": "b", "b": "a"}
    whole = planted.scenes()
    table = whole.tables["profile"].copy()
    table["kind"] = table["kind"].replace(swapped)
    said = prose.concepts(given(Dissected(whole.tables | {"profile": table}, whole.manifest, whole.trace)))
    assert "special to rgb: flat board" in said[1]


def test_what_is_inside_its_limits_is_not_special() -> None:
    s = changed("profile", {"question": "across"}, kind="both")
    said = prose.concepts(s)[1]
    assert "no concept is special to either, no difference is clear of its limits" in said
    assert "special to rgb" not in said
    assert prose.summary(changed("profile", {"question": "across"}, kind="neither")).startswith("Only consistency")


def test_one_special_level_of_a_shared_concept_is_told() -> None:
    where = {"question": "across", "concept": "chair", "level_a": 2}
    assert (
        "(levels 1 to 3); chair (level 2). Special to depth" in prose.concepts(changed("profile", where, kind="a"))[1]
    )


def test_concepts_without_a_value_are_neither_encoded_nor_absent() -> None:
    none = dict.fromkeys(("iou", "score", "low", "high"), NAN)
    s = changed("concepts", {"concept": "poster"}, reason="too rare", **none)
    assert s.emergence("rgb", "poster") != s.emergence("rgb", "poster"), "NaN"
    assert all("poster" not in line for line in prose.concepts(s)[2:])
    assert "not computed: too rare" in str(listed.concepts(s).body)


def test_nothing_encoded() -> None:
    whole = planted.scenes()
    tables = {k: v for k, v in whole.tables.items() if k != "emergence"}
    tables["concepts"] = tables["concepts"].assign(encoded=False)
    said = prose.concepts(given(Dissected(tables, whole.manifest, whole.trace)))
    assert said == ["No stream encodes any of the 8 concepts: every IoU lies inside its null."]


def test_emergence_is_found_without_its_table() -> None:
    whole = planted.scenes()
    tables = {k: v for k, v in whole.tables.items() if k != "emergence"}
    assert prose.concepts(given(Dissected(tables, whole.manifest, whole.trace))) == prose.concepts(given(whole))


# --- semantic variance ---


def test_levels_that_differ_most_and_those_at_the_floor() -> None:
    (said,) = prose.variance(given(planted.scenes()))
    assert said == (
        "rgb and depth differ most in what they tell at level 3, semantic variance 0.57 (0.55 to 0.59), and least at "
        "level 0, 0.006 (−0.014 to 0.026); refits alone give 0.03. Not clear of the floor, so no difference: level 0."
    )


def test_variance_at_its_floor_is_no_difference() -> None:
    (said,) = prose.variance(changed("variance", {}, floor=0.7))
    assert said.startswith("rgb and depth are not told apart at any matched level")
    assert "differ" not in said
    assert (
        "no difference in semantics clear of the floor at levels 0 to 3"
        in prose.joint(changed("variance", {}, floor=0.7))[0]
    )


def test_the_solo_twins_have_a_map_of_their_own() -> None:
    charts: dict[str, Any] = {}
    (drawn,) = sections(given(planted.scenes()), charts)["variance"]["twins"]
    rows = {(row["y"], row["x"]): row for row in charts[drawn["name"]]["datasets"]["rows"]}
    assert len(rows) == 16
    assert (rows[3, 3]["label"], rows[2, 2]["label"]) == (".66", ".38")
    assert sections(given(planted.scenes(references=False)), {})["variance"]["twins"] == []


def test_variances_whose_intervals_overlap_are_not_ranked() -> None:
    (said,) = prose.variance(changed("variance", {}, sv=0.3, low=0.2, high=0.4))
    assert "differ about equally in what they tell at every matched level (semantic variance 0.30" in said
    assert "most" not in said
    s = changed("variance", {"level_a": 1, "level_b": 1}, floor=0.5)
    assert "differ most" in prose.variance(s)[0]
    frame = s.view.whole("variance").assign(sv=0.3, low=0.2, high=0.4)
    (said,) = prose.variance(given(Dissected({"variance": frame}, s.view.manifest, {})))
    assert said.startswith("rgb and depth are told apart at levels 0, 2 and 3, semantic variance 0.30; refits alone")
    assert said.endswith("Not clear of the floor, so no difference: level 1.")


def test_a_second_that_cannot_be_told_from_the_first_is_named_beside_it() -> None:
    (said,) = prose.variance(changed("variance", {"level_a": 2, "level_b": 2}, sv=0.56, low=0.54, high=0.58))
    assert (
        "differ most in what they tell at levels 2 and 3, semantic variance 0.56 to 0.57 (the intervals overlap)"
        in said
    )
    step = {"tap_a": planted.tap_id("", "rgb", 1), "tap_b": planted.tap_id("", "rgb", 0)}
    (rgb, _) = prose.within(changed("variance", step, sv=0.04, low=0.03, high=0.05))
    assert rgb.startswith("rgb changes most from level 1 to 2 and from level 2 to 3, semantic variance 0.13 (the")


def test_streams_of_unlike_depth_are_matched_as_the_dissection_did() -> None:
    """Depth has levels 0, 2 and 3 only, and rgb's level 1 is compared with its level 2."""
    whole = planted.scenes()
    tables = {}
    for name in ("variance", "profile"):
        table = whole.tables[name]
        table = table[~((table["modality_b"] == "depth") & (table["level_b"] == 1))]
        if name == "profile":
            table = table[~((table["question"] == "across") & (table["level_a"] == 2))]
            one = (table["question"] == "across") & (table["level_a"] == 1)
            two = whole.tables[name].query("question == 'across' and level_a == 1")
            moved = {"level_b": 2, "tap_b": planted.tap_id("", "depth", 2)}
            table = pd.concat([table[~one], two.assign(**moved)])
        tables[name] = table
    s = given(Dissected(whole.tables | tables, whole.manifest, whole.trace))
    assert [v.at for v in s.matched("rgb", "depth")] == ["0", "1/2", "3"]
    assert "(levels 0, 1/2 and 3)" not in prose.concepts(s)[1]
    assert "(levels 1/2 and 3)" in prose.concepts(s)[1]
    assert "differ most in what they tell at level 3" in prose.variance(s)[0]


def test_the_margin_is_drawn_and_written_short() -> None:
    whole = planted.scenes()
    told = whole.manifest | {"parameters": whole.manifest["parameters"] | {"margin": 0.1458546}}
    page = render(View(Dissected(whole.tables, told, whole.trace)))
    assert "the margin, 0.15: what training anew alone may change" in page
    assert "margin 0.1459;" in page
    assert page.count('"datum":-0.1458546') == 4 + 1 + 4  # four levels, their semantic variance, their concepts
    plain = {k: v for k, v in whole.manifest["parameters"].items() if k != "margin"}
    assert "the margin" not in render(View(Dissected(whole.tables, whole.manifest | {"parameters": plain}, {})))


def test_steps_within_a_stream() -> None:
    rgb, depth = prose.within(given(planted.scenes()))
    assert rgb.startswith("rgb changes about equally at every step (semantic variance 0.13; the intervals overlap).")
    assert "Told better than one level before: flat board, camouflaged ball, camouflaged box and chair" in depth
    step = {"tap_a": planted.tap_id("", "rgb", 2), "tap_b": planted.tap_id("", "rgb", 1)}
    (rgb, _) = prose.within(changed("variance", step, sv=0.5, low=0.4, high=0.6))
    assert rgb.startswith("rgb changes most from level 1 to 2, semantic variance 0.50 (0.40 to 0.60).")
    (rgb, _) = prose.within(changed("variance", {}, floor=0.9))
    assert rgb.startswith("No step of rgb changes what it tells by more than refits alone do (0.90).")


def test_when_training_settles() -> None:
    (rgb, _) = prose.training(given(planted.scenes()))
    assert rgb == (
        "rgb is not told apart from its final state: level 0 from epoch 0 on; levels 1 to 3 only at the last "
        "checkpoint, epoch 9."
    )
    assert prose.training(given(planted.scenes(references=False))) == []


def test_quadrants() -> None:
    where = {"modality_a": "rgb", "modality_b": "depth"}
    for similarity, ratio, name in (
        (0.9, 0.1, "same features, same semantics"),
        (0.1, 0.1, "same semantics from different features"),
        (0.9, 0.9, "similar geometry, but different readable semantics"),
        (0.1, 0.9, "fully special"),
    ):
        (said,) = prose.joint(changed("variance", where, similarity=similarity, ratio=ratio))
        assert f"{name} at levels " in said
        assert sum(q in said for q in prose.QUADRANTS.values()) == 1


# --- collaboration ---


def test_consistency_pressure() -> None:
    said = prose.collaboration(given(planted.scenes()))
    assert "only consistency pressure is clear of the limits" in said[0]
    assert "At level 3 the semantic variance is 0.57 inside the joint model and 0.66 between the solo twins" in said[0]
    assert "Told more alike than by the solo twins (consistency pressure): chair (level 3)." in said[0]
    assert said[1] == "rgb inside the joint model tells no concept measurably better or worse than its solo twin."
    assert said[2].endswith("told better in the joint model: chair (level 3).")
    assert "hybrid" not in said[0]


def test_the_hybrid_rule_needs_both_pressures() -> None:
    where = {"measure": "concept", "concept": "poster", "level": 2}
    s = changed("collaboration", where, pressure="speciality")
    assert "Pressure in both directions is clear of the limits: the hybrid rule." in prose.summary(s)
    assert "(speciality pressure): poster (level 2)." in prose.collaboration(s)[0]


def test_inside_the_noise_is_no_pressure() -> None:
    s = changed("collaboration", {}, pressure="")
    (said, *_) = prose.collaboration(s)
    assert said == "rgb and depth: nothing lies beyond the noise: no pressure of joint training is shown."
    assert all(row[-1] in ("inside the noise", "") for row in listed.collaboration(s).body)


def test_one_modality_has_a_stream_but_nothing_across() -> None:
    s = given(planted.single())
    assert list(sections(s, {})) == ["concepts", "within", "units"]
    assert prose.within(s)[0].startswith("x changes from level 0 to 1, semantic variance 0.13 (0.11 to 0.15).")


# --- units, other similarities, tables and sections ---


def test_units_and_other_similarities() -> None:
    s = given(planted.scenes())
    said = counted.units(s)
    assert said.startswith("3 of 240 units are dead: 3 in rgb level 3; no unit is saturated; the effective rank is ")
    assert "Detectors" not in listed.units(s).head
    assert "Detectors" in listed.units(changed("units", {}, detectors=5)).head
    assert counted.pairwise(s) == (
        "Inside their null, so no similarity is shown there: rgb and depth at level 0 (SVCCA, RSA, mutual k-nearest "
        "neighbours and CKA with a Gaussian kernel). All others lie above it."
    )
    assert listed.pairwise(s).body[0][2:4] == ("0.30 (null 0.20)", "0.10 (null 0.20, inside)")


def test_everything_failed_gives_its_reasons() -> None:
    s = given(planted.failed())
    said = [*prose.concepts(s), *prose.variance(s), *prose.within(s), *prose.training(s), *prose.joint(s)]
    said += [*prose.collaboration(s), counted.units(s), counted.pairwise(s)]
    assert all("could" in line for line in said), said
    assert sum("<today>" in line for line in said) == len(said) - 1
    assert prose.summary(s) == ""
    charts: dict[str, Any] = {}
    assert list(sections(s, charts)) == [
        "concepts",
        "variance",
        "within",
        "joint",
        "collaboration",
        "units",
        "pairwise",
    ]
    assert charts == {}


@pytest.mark.parametrize("name", [*planted.EVERY, *planted.ODD])
def test_no_sentence_holds_nan(name: str) -> None:
    whole = (planted.EVERY | planted.ODD)[name]()
    page = re.sub(r"<script.*?</script>|<style.*?</style>", "", render(View(whole)), flags=re.S)
    assert not re.search(r"\bnan\b|None|<NA>", page)


def test_old_dissections_have_none_of_the_sections() -> None:
    for make in factory.EVERY.values():
        assert sections(given(make()), {}) == {}


def test_tables_read_back_from_csv_say_the_same(tmp_path: Path) -> None:
    whole = planted.scenes()
    tables = {}
    for name, table in whole.tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        tables[name] = pd.read_csv(tmp_path / f"{name}.csv")
    one, two = given(whole), given(Dissected(tables, whole.manifest, whole.trace))
    for say in (prose.concepts, prose.variance, prose.within, prose.training, prose.joint, prose.collaboration):
        assert say(one) == say(two)


def test_the_older_sections_show_the_models_own_taps_only() -> None:
    view, old = View(planted.scenes()), View(factory.scenes())
    assert len(view.table("taps")) == len(old.table("taps")) == 8
    assert len(view.whole("taps")) > 8
    assert view.similarities("rgb", "depth") == old.similarities("rgb", "depth")
    assert "solo rgb/" not in render(view).split('id="concepts"')[0]


def test_many_concepts_and_pairs_are_capped() -> None:
    s = given(planted.many())
    charts: dict[str, Any] = {}
    found = sections(s, charts)
    assert found["concepts"]["left"] == 100 - CONCEPTS_DRAWN
    drawn = charts[found["concepts"]["drawn"][0]["name"]]
    assert len({row["y"] for row in drawn["datasets"]["rows"]}) == CONCEPTS_DRAWN
    said = prose.concepts(s)
    assert len(said) == 12
    assert re.fullmatch(r"rgb against depth: \d+ special to rgb, \d+ to depth, \d+ consistent\.", said[1])


# --- in a browser ---


@pytest.fixture(scope="module")
def browser():
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(planted.scenes(), tmp_path_factory.mktemp("semantics") / "report.html")


def test_the_maps_hold_what_was_planted(browser: Chromium, report: Path) -> None:
    browser.open(report)
    cells = "[...document.querySelectorAll('#concepts .chart')[{}].querySelectorAll('{}')]"
    shown = browser.evaluate(cells.format(0, ".role-mark.mark-text text") + ".map(t => t.textContent)")
    assert sorted(shown)[-12:] == [".25", ".26", ".26", ".27", ".50", ".51", ".51", ".52", ".75", ".76", ".76", ".77"]
    strokes = browser.evaluate(cells.format(0, ".role-mark.mark-symbol path") + ".length")
    assert strokes == 8 + 3 * 4  # nothing is encoded at level 0; four concepts nowhere
    floor = browser.evaluate(
        "document.querySelectorAll('#variance .chart')[0].querySelectorAll('.mark-symbol path').length"
    )
    assert floor == 1


@pytest.mark.parametrize("name", planted.ODD)
def test_what_is_missing_leaves_no_warning(browser: Chromium, tmp_path: Path, name: str) -> None:
    browser.open(write_report(planted.ODD[name](), tmp_path / "r.html"))
    found = browser.result("[...document.querySelectorAll('[data-chart]')].filter(b => !b.querySelector('svg')).length")
    assert (found.console_errors, found.warnings, found.values) == ([], [], [0])


def test_special_dots_have_their_owners_colour(browser: Chromium, report: Path) -> None:
    browser.open(report)
    dots = "[...document.querySelectorAll('[data-chart^=profile]')][0].querySelectorAll('.mark-symbol path')"
    fills = browser.evaluate(f"[...{dots}].map(p => p.getAttribute('fill'))")
    assert sorted(fills) == ["var(--m0)"] * 3 + ["var(--m1)"] * 3 + ["var(--paper)"] * 2


def test_tooltips_of_odd_names_are_text(browser: Chromium, tmp_path: Path) -> None:
    browser.open(write_report(planted.nasty(), tmp_path / "r.html"))
    browser.hover("#concepts .mark-rect path")
    browser.evaluate("new Promise(r => setTimeout(r, 100))")
    tip = "document.getElementById('vg-tooltip-element')"
    assert browser.evaluate(f"{tip}.textContent.includes('<b>x</b>, level 0')")
    assert browser.evaluate(f"{tip}.querySelectorAll('b, script, img').length") == 0
    assert browser.result().requests == []

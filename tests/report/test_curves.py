"""What the report says and draws of information and robustness: what was planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusionscope.report import _curves_prose as curved
from fusionscope.report import _decisions_prose as prose
from fusionscope.report import _decisions_tables as listed
from fusionscope.report._decisions_page import sections
from fusionscope.report._page import render
from fusionscope.report._view import View
from tests.report import factory_decisions as planted
from tests.report.decided import changed, given, page_of, usual, whole_of
from tests.report.factory_decisions import Kept

# --- information ---


def test_the_dominant_part_is_named_for_label_and_prediction() -> None:
    (said,) = curved.information(usual())
    assert said == (
        "rgb and depth: about the label, at the inputs, synergy dominates, 0.80 (0.76 to 0.84) bits; "
        "about the prediction, at the last level (2), redundancy dominates, 0.49 (0.45 to 0.53) bits."
    )
    unique = changed("information", {"atom": "U_a"}, corrected=1.2, low=1.1, high=1.3, value=1.3)
    assert "about the label, at the inputs, uniqueness of rgb dominates" in curved.information(unique)[0]


def test_levels_are_drawn_whichever_column_holds_them() -> None:
    whole = whole_of("alone")
    table = whole.tables["information"]
    old = table.rename(columns={"level_a": "level"}).drop(columns="level_b")
    for one in (table, old):
        d = given(Kept(whole.tables | {"information": one}, whole.manifest, {}, {}))
        (pair,) = d.decompositions
        assert list(d.decompositions[pair]["label"]) == [-1, 0, 1, 2]
        charts: dict[str, Any] = {}
        part = sections(d, charts)["information"]
        assert [f["caption"] for f in part["open"][0]["figures"]] == [
            "rgb and depth, about the label, at the inputs",
            "rgb and depth, about the prediction, at the last level (2)",
        ]
        (along, _) = part["levels"][0]["figures"]
        synergy = [r["d"] for r in charts[along["name"]]["datasets"]["rows"] if r["c"] == 3]
        assert synergy == pytest.approx([0.8, 0.72, 0.64, 0.56])
        assert listed.information(d).body[0][11] == "20 × 18"


def test_the_level_that_is_told_is_one_with_a_value() -> None:
    columns = dict.fromkeys(["value", "corrected", "low", "high"], np.nan)
    tokens = changed("information", {"level_a": -1}, **columns)
    assert "about the label, at the last level (2), synergy" in curved.information(tokens)[0]
    short = changed("information", {"level_a": 2}, **columns)
    assert "about the prediction, at level 1, redundancy" in curved.information(short)[0]


def test_where_only_the_interval_says_something_no_part_dominates() -> None:
    bias = "binning bias may be 80 % of the information: only the interval says something"
    d = changed("information", {"about": "label"}, reason=bias)
    (said,) = curved.information(d)
    assert said.startswith(
        "rgb and depth: about the label, at the inputs, shown above zero: redundancy 0.05 (0.01 to 0.09) bits, "
        "uniqueness of rgb 0.30 (0.26 to 0.34) bits and synergy 0.80 (0.76 to 0.84) bits, which are not compared "
        "(see the note); about the prediction"
    )
    assert said.count("dominates") == 1, "about the prediction nothing is doubtful"
    assert curved.doubts(d) == (
        f"Note on rgb and depth, about the label, at the inputs, and likewise of 3 more, which the table marks: {bias}."
    )
    assert curved.doubts(usual()) == ""
    charts: dict[str, Any] = {}
    captions = [f["caption"] for f in sections(d, charts)["information"]["open"][0]["figures"]]
    assert [caption.endswith("; see the note") for caption in captions] == [True, False]
    table = listed.information(d)
    assert (table.head[-1], table.body[0][-1]) == ("Note", bias)


def test_inside_the_intervals_or_the_null_nothing_is_named() -> None:
    inside = changed("information", {}, low=-0.5)
    assert curved.information(inside)[0].count("nothing beyond the intervals") == 2
    null = changed("information", {}, shuffled_high=2.0)
    assert curved.information(null)[0].count("nothing beyond the intervals") == 2
    rival = changed("information", {"atom": "U_a", "about": "label"}, corrected=0.79, low=0.7, high=0.9, value=0.9)
    assert (
        "no part stands out: synergy 0.80 (0.76 to 0.84) bits and uniqueness of rgb 0.79"
        in curved.information(rival)[0]
    )


def test_what_has_no_value_is_not_ranked_against() -> None:
    gone = changed("information", {"atom": "S"}, value=np.nan, corrected=np.nan, low=np.nan, high=np.nan)
    assert "uniqueness of rgb 0.30 (0.26 to 0.34) bits; not computed: synergy" in curved.information(gone)[0]
    assert "dominates" not in curved.information(gone)[0].split("prediction")[0]
    lost = changed("contribution", {"modality": "depth"}, shapley=np.nan)
    assert prose.most(lost, "accuracy").startswith("Of the modalities with a value, rgb contributes most")
    cut = changed("robustness", {"severity": 5, "corruption": "blur"}, drop=np.nan)
    assert curved.damage(cut, "rgb").endswith("No value there: blur.")
    assert ", of those with a value, is noise on rgb" in curved.worst(cut)
    blind = changed("robustness", {"severity": 0}, ece=np.nan, ece_low=np.nan, ece_high=np.nan)
    assert not any("ECE" in line for line in curved.robustness(blind)), "there is no clean value to compare with"


def test_negative_estimates_are_shown_and_the_bias_beside_them() -> None:
    d = usual()
    body = listed.information(d).body
    row = next(r for r in body if r[4] == "uniqueness of depth")
    assert row[5:9] == ("0.000", "0.040", "0.070", "−0.040 (−0.080 to 0.000)")
    assert row[9] == "3e−09"
    charts: dict[str, Any] = {}
    part = sections(d, charts)["information"]["open"][0]["figures"][0]
    bars = [r for r in charts[part["name"]]["datasets"]["rows"] if r.get("s") == "corrected"]
    assert [round(r["to"] - r["from"], 6) for r in bars] == [0.05, 0.3, -0.04, 0.8]
    assert next(r["from"] for r in bars if r["c"] == 2) == 0, "below zero it grows to the left"


def test_each_against_the_rest_comes_first() -> None:
    d = usual("many")
    assert [d.other(a, b) for a, b, _ in list(d.decompositions)[:6]] == ["the rest"] * 5 + ["depth"]


# --- robustness ---


def test_the_most_damaging_corruption_and_where_calibration_breaks() -> None:
    assert curved.robustness(usual())[0] == (
        "At severity 5 noise does most damage to rgb: accuracy falls by 0.45 (0.43 to 0.47). "
        "Confidence calibration breaks (ECE above the clean one) by severity: noise (from 2 on)."
    )
    assert curved.worst(usual()).startswith("The most damaging corruption at severity 5 is noise on rgb")
    other = changed("robustness", {"corruption": "blur", "severity": 5}, drop=0.6, drop_low=0.55, drop_high=0.65)
    assert curved.damage(other, "rgb").startswith("At severity 5 blur does most damage to rgb")
    again = changed("robustness", {"severity": 3}, ece_low=0.0)
    assert "noise (at 2, 4 and 5)" in curved.calibration(again, "rgb")


def test_drops_inside_their_intervals_are_no_damage() -> None:
    none = changed("robustness", {}, drop_low=-0.2, ece_low=0.0)
    assert curved.damage(none, "rgb") == "At severity 5 no corruption of rgb is shown to lower accuracy."
    assert curved.worst(none) == ""
    assert curved.robustness(none)[-2].startswith("ECE is nowhere shown to rise above the clean one")
    rivals = changed("robustness", {}, drop_low=0.05, drop_high=0.9)
    assert "are not told apart" in curved.damage(rivals, "rgb")
    assert "are not told apart" in curved.worst(rivals)


def test_a_clean_ece_at_its_floor_is_no_miscalibration() -> None:
    chance = "0.020, what a calibrated model as confident would show by chance with so few samples"
    dense = curved.clean_ece(usual())
    assert dense.endswith("but places of one sample are not independent, so chance gives more.")
    whole = whole_of("scenes")
    one = Kept(whole.tables, whole.manifest | {"task": "classification"}, {}, {})
    assert curved.clean_ece(given(one)) == f"The clean ECE, 0.040 (0.025 to 0.055), lies above {chance}."
    low = changed("robustness", {"severity": 0}, one, ece_low=0.015)
    assert curved.clean_ece(low).endswith(f"is not told apart from {chance}: no miscalibration is shown.")
    assert curved.clean_ece(changed("robustness", {}, ece_floor=np.nan)) == ""
    high = changed("robustness", {"severity": 5}, ece_floor=0.9)
    assert "noise (at 2, 3 and 4)" in curved.calibration(high, "rgb"), "a rise inside its floor is none"
    charts: dict[str, Any] = {}
    part = sections(usual(), charts)["robustness"]
    spec = charts[part["drawn"][0]["figures"][0]["name"]]
    drawn = [row["chance"] for row in spec["datasets"]["rows"] if row["p"] == 2]
    assert drawn == pytest.approx([0.02, 0.021, 0.022, 0.023, 0.024, 0.025])
    assert listed.robustness(usual()).head[-1] == "ECE by chance"
    assert "above the dashed line" in page_of("decisions")
    bare = page_of("columns missing")
    assert "above the dashed line" not in bare
    assert "ECE by chance" not in bare


def test_corruptions_are_named_in_words() -> None:
    whole = whole_of("alone")
    tables = {n: whole.tables[n].replace({"noise": "range_clip"}) for n in ("robustness", "robustness_summary")}
    page = render(View(Kept(whole.tables | tables, whole.manifest, {}, {})))
    assert "range_clip" not in page
    assert "At severity 5 range clip does most damage to rgb" in page


def test_the_baseline_is_named_or_its_columns_left_out() -> None:
    d = usual()
    assert listed.robustness_summary(d).head == ("Modality", "Corruption", "Relative", "Effective", "CE", "Relative CE")
    assert "Baseline: <code>late fusion</code>" in page_of("decisions")
    whole = whole_of("alone")
    bare = {k: v for k, v in whole.manifest["parameters"].items() if k != "baseline"}
    table = planted.robustness_summary(["rgb", "depth"], "")
    none = Kept(whole.tables | {"robustness_summary": table}, whole.manifest | {"parameters": bare}, {}, {})
    assert listed.robustness_summary(given(none)).head == ("Modality", "Corruption", "Relative")
    assert "No baseline was named" in render(View(none))

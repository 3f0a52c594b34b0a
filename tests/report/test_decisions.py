"""What the report says and draws of contribution, harm, information, robustness and imbalance: what was planted."""

from __future__ import annotations

import base64
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusionscope.report import DissectionLike, write_report
from fusionscope.report import _curves_prose as curved
from fusionscope.report import _decisions_prose as prose
from fusionscope.report import _decisions_tables as listed
from fusionscope.report._decisions import Decisions
from fusionscope.report._decisions_charts import waterfall
from fusionscope.report._decisions_page import CLASSES_DRAWN, sections
from fusionscope.report._page import render
from fusionscope.report._tables import facts
from fusionscope.report._view import View
from tests.browser import Chromium
from tests.report import factory
from tests.report import factory_decisions as planted
from tests.report.factory_decisions import Kept

ORDER = ["contribution", "removal", "hurts", "information", "robustness", "imbalance"]


def given(whole: factory.Dissected) -> Decisions:
    return Decisions(View(whole))


@cache
def whole_of(name: str) -> Kept:
    return getattr(planted, name)()


@cache
def usual(name: str = "scenes") -> Decisions:
    """A scenario as it is planted; nobody changes it."""
    return given(whole_of(name))


def changed(table: str, where: dict[str, Any], whole: Kept | None = None, **columns: Any) -> Decisions:
    """The scenes with some columns changed in the rows that have these values."""
    whole = whole or whole_of("scenes")
    frame = whole.tables[table].copy()
    chosen = pd.Series(True, index=frame.index)
    for name, value in where.items():
        chosen &= frame[name] == value
    assert chosen.any()
    for name, value in columns.items():
        frame.loc[chosen, name] = value
    return given(Kept(whole.tables | {table: frame}, whole.manifest, whole.trace, whole.arrays))


# --- contribution ---


def test_the_largest_contribution_is_named_with_its_interval() -> None:
    said = prose.contribution(usual())
    assert said == [
        "rgb contributes most to accuracy: 0.50 (0.47 to 0.53). Then depth 0.20 (0.17 to 0.23). "
        "V(none) is 0.10, V(all) 0.80 (0.77 to 0.83).",
        "rgb contributes most to mean log-likelihood: 1.00 (0.94 to 1.06) nats. Then depth 0.40 (0.34 to 0.46) nats.",
    ]
    swapped = planted.scenes(worth={"rgb": 0.2, "depth": 0.5})
    assert prose.contribution(given(swapped))[0].startswith("depth contributes most")


def test_contributions_whose_intervals_overlap_are_not_ranked() -> None:
    said = prose.contribution(given(planted.scenes(half=0.2)))[0]
    assert said.startswith(
        "rgb and depth are not told apart in what they contribute to accuracy: 0.50 (0.30 to 0.70) and 0.20 (0.00 to"
    )
    assert "most" not in said
    wide = changed("contribution", {"modality": "depth", "concept": ""}, low=-0.9, high=1.3)
    assert "rgb and depth are not told apart" in prose.most(wide, "accuracy")


def test_a_contribution_that_holds_zero_is_none_and_one_below_is_harm() -> None:
    said = prose.contribution(given(planted.scenes(worth={"rgb": 0.5, "depth": 0.01})))[0]
    assert "Not told apart from no contribution: depth 0.01 (−0.02 to 0.04)." in said
    said = prose.contribution(given(planted.scenes(worth={"rgb": 0.5, "depth": -0.2})))[0]
    assert "Below zero on average over the orders of joining: depth −0.20 (−0.23 to −0.17)." in said
    none = given(planted.scenes(worth={"rgb": 0.01, "depth": -0.01}))
    assert prose.most(none, "accuracy").startswith("No modality is shown to contribute to accuracy")
    points = changed("contribution", {}, low=np.nan, high=np.nan)
    assert prose.most(points, "accuracy").endswith("0.50, of rgb: a point, no interval.")


@pytest.mark.parametrize(
    ("value", "said", "false"),
    [(0.25, "cooperate", "redundant"), (-0.25, "redundant", "cooperate:"), (0.01, "add up", "cooperate:")],
)
def test_cooperation_redundancy_and_neither(value: float, said: str, false: str) -> None:
    d = given(planted.scenes(together=value))
    for sentence in (prose.together(d), prose.cooperation(d)[0], prose.summary(d)):
        assert f"The modalities {'are ' if said == 'redundant' else ''}{said}" in sentence
        assert false not in sentence
    gap = "loses 0.12 (0.10 to 0.15): interaction adds that" if value > 0.1 else "no interaction is shown"
    assert gap in prose.cooperation(d)[0]


def test_of_the_log_likelihood_two_modalities_have_their_interaction() -> None:
    said = prose.cooperation(usual())
    assert said[1:] == [
        "The modalities cooperate: together they gain 0.12 (0.10 to 0.15) nats in mean log-likelihood more than apart.",
        "InterSHAP, the interactions' share of all effects in mean log-likelihood: 0.25 (0.22 to 0.28).",
    ]
    assert len(prose.cooperation(usual("many"))) == 2, "of more than two there is no such number"
    floor = changed("cooperation", {"kind": "intershap"}, low=0.0)
    assert prose.cooperation(floor)[-1].endswith("0.25 (0.00 to 0.28), not told apart from none.")


def test_the_steps_lead_from_none_to_all() -> None:
    rows = waterfall(usual(), "accuracy")["datasets"]["rows"]
    assert [(r["y"], round(r["from"], 6), round(r["to"], 6)) for r in rows] == [
        ("V(none)", 0, 0.1),
        ("rgb", 0.1, 0.6),
        ("depth", 0.6, 0.8),
        ("V(all)", 0, 0.8),
    ]
    assert waterfall(changed("contribution", {"modality": "rgb"}, shapley=0.9), "accuracy") == {}


def test_the_numbers_are_defined_with_the_choices_they_depend_on(reports: dict[str, Path]) -> None:
    page = reports["decisions"].read_text(encoding="utf-8")
    text = page[page.index('<section id="contribution">') : page.index('<section id="removal">')]
    assert [name for name, _ in listed.definitions(usual())] == list(listed.DEFINITIONS)
    assert "absent modalities are filled in by <code>resample</code>, and V(none) is <code>majority</code>" in text
    assert "arXiv:2205.00302" in text


# --- harm ---


def test_classes_that_a_modality_hurts_are_told_by_what_its_removal_costs() -> None:
    d = usual()
    assert prose.harm_in_classes(d) == [
        "By accuracy depth hurts in 2 classes, told better without it; what is lost by its removal: "
        "poster −0.20 (−0.26 to −0.14) and camouflaged ball −0.20 (−0.26 to −0.14). "
        "False discoveries are controlled at 5 % over 16 tests (8 classes × 2 modalities).",
        "By mean log-likelihood depth hurts in 2 classes, told better without it; what is lost by its removal: "
        "poster −0.40 (−0.52 to −0.28) nats and camouflaged ball −0.40 (−0.52 to −0.28) nats. "
        "False discoveries are controlled at 5 % over 16 tests (8 classes × 2 modalities).",
    ]
    table = listed.classes(d)
    assert table.head[3:] == ("Lost without it", "q", "", "Contribution φ")
    assert [row[1:4] for row in table.body[:2]] == [
        ("poster", "depth", "−0.200 (−0.260 to −0.140)"),
        ("camouflaged ball", "depth", "−0.200 (−0.260 to −0.140)"),
    ]
    assert all(not row[6].startswith("−") for row in table.body[:2]), "the Shapley values are above zero"
    calm = prose.harm_in_classes(given(planted.scenes(hurts={})))
    assert [said.split(".")[0] for said in calm] == [
        f"By {name} no modality is shown to hurt in any class" for name in ("accuracy", "mean log-likelihood")
    ]
    below = changed("contribution", {"concept": "poster"}, hurts=False)
    assert not any("poster" in said for said in prose.harm_in_classes(below))
    few = changed("contribution", {"concept": "poster"}, p=np.nan, q=np.nan, hurts=False, reason="few groups")
    assert prose.harm_in_classes(few)[0].endswith("over 14 tests (8 classes × 2 modalities, 2 not tested).")
    none = changed("contribution", {}, p=np.nan, q=np.nan, hurts=False, reason="no p: few groups")
    assert prose.harm_in_classes(none) == ["The classes were not tested, so none is said to be hurt: no p: few groups."]


def test_a_class_with_a_shapley_value_below_zero_alone_is_not_hurt(reports: dict[str, Path]) -> None:
    whole = whole_of("scenes")
    charts: dict[str, Any] = {}
    part = sections(given(whole), charts)["hurts"]
    rows = charts[part["drawn"][0]["name"]]["datasets"]["rows"]
    assert {row["Verdict"] for row in rows if row["y"] == planted.TRAP} == {"not shown to hurt"}
    assert all(row["low"] > 0 for row in rows if row["y"] == planted.TRAP)
    assert [row["d"] for row in rows if row["Verdict"] == "hurts"] == [-0.2, -0.2]
    assert "lost without depth" in str(charts[part["drawn"][0]["name"]])
    assert "below zero the class is told better without it" in reports["decisions"].read_text(encoding="utf-8")


def test_older_tables_tell_classes_by_their_contribution() -> None:
    whole = whole_of("alone")
    table = whole.tables["contribution"].drop(columns=["last_low", "last_high"])
    old = Kept(whole.tables | {"contribution": table}, whole.manifest, {}, whole.arrays)
    said = prose.harm_in_classes(given(old))[0]
    assert said.startswith("By accuracy depth hurts in 2 classes: ")
    assert "removal" not in said
    assert listed.classes(given(old)).head == ("Metric", "Class", "Modality", "Contribution φ", "q", "")
    page = render(View(old))
    assert "A dot is the contribution of a modality to one class (accuracy)" in page
    assert "lost without" not in page


def test_samples_that_a_modality_hurts_come_first_with_their_inputs(reports: dict[str, Path]) -> None:
    d = usual()
    assert prose.harm_in_samples(d) == [
        "Worse than not knowing it: depth for 3 samples. There the truth gets more probability with other samples' "
        "values, on average, than with its own. Tested were 40 samples, of each batch the eighth to whose truth the "
        "model gives least probability: 80 tests, with false discoveries controlled at 5 % over all of them. Samples "
        "that the model tells well were not tested, so this is no census."
    ]
    page = reports["decisions"].read_text(encoding="utf-8")
    assert all(f"arXiv:{source}" in page for source in ("2010.09686", "2009.02824", "2309.06255"))
    assert "relative to its peak" not in page
    rows = listed.samples(d)
    assert [r["sample"] for r in rows[:3]] == ["0 (group 0)", "7 (group 0)", "14 (group 0)"]
    assert all(r["modality"] == "depth" and r["hurts"] for r in rows[:3])
    assert len(rows) == listed.SAMPLES_DRAWN
    assert not any(r["hurts"] for r in rows[3:])
    assert (rows[0]["label"], rows[0]["predicted"]) == ("red mug", "green mug"), "numbers are written as classes"
    assert (rows[0]["effect"], rows[0]["donors"], rows[0]["q"]) == ("−1.50", "19 of 20", "0.004")
    assert [(m, p[:4], meant) for m, p, meant in rows[0]["pictures"]] == [("rgb", "<img", 0), ("depth", "<svg", 1)]
    calm = changed("samples", {}, hurts=False)
    (said,) = prose.harm_in_samples(calm)
    assert said.startswith("For no tested sample is a modality shown to be worse than not knowing it.")
    worst = changed("samples", {"sample": 7, "modality": "depth"}, effect=-np.inf, p=1e-9)
    assert (listed.samples(worst)[0]["sample"], listed.samples(worst)[0]["effect"]) == ("7 (group 0)", "−∞")


def test_each_modality_shows_the_samples_it_hurts() -> None:
    every = listed.samples(changed("samples", {}, hurts=True, p=0.001))
    assert [sum(r["modality"] == m for r in every) for m in ("rgb", "depth")] == [6, 6]
    d = changed("samples", {}, hurts=True, p=0.001)
    assert len(listed.further_samples(d).body) == len(d.harmful_samples) - 12


def test_a_dissection_without_arrays_lists_samples_undrawn(reports: dict[str, Path]) -> None:
    whole = planted.only("samples")
    assert not hasattr(whole, "arrays")
    assert isinstance(whole, DissectionLike)
    assert all(row["pictures"] == [] for row in listed.samples(given(whole)))
    assert '<th scope="col">Inputs' not in reports["only samples"].read_text(encoding="utf-8")


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


def test_a_clean_ece_at_its_floor_is_no_miscalibration(reports: dict[str, Path]) -> None:
    chance = "0.020, what a calibrated model as confident would show by chance with so few samples"
    assert curved.clean_ece(usual()) == f"The clean ECE, 0.040 (0.025 to 0.055), lies above {chance}."
    low = changed("robustness", {"severity": 0}, ece_low=0.015)
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
    assert "above the dashed line" in reports["decisions"].read_text(encoding="utf-8")
    bare = reports["columns missing"].read_text(encoding="utf-8")
    assert "above the dashed line" not in bare
    assert "ECE by chance" not in bare


def test_corruptions_are_named_in_words() -> None:
    whole = whole_of("alone")
    tables = {n: whole.tables[n].replace({"noise": "range_clip"}) for n in ("robustness", "robustness_summary")}
    page = render(View(Kept(whole.tables | tables, whole.manifest, {}, {})))
    assert "range_clip" not in page
    assert "At severity 5 range clip does most damage to rgb" in page


def test_what_was_run_is_written_plainly() -> None:
    found = dict(facts(View(whole_of("scenes"))))
    assert found["Kinds of their values"] == "rgb image, depth sequence"
    assert found["Measures"] == "removal, robustness"
    assert (
        found["Other parameters"]
        == "permutations 200; alpha 0.05; seed 0; batch size 64; donors 20; baseline late fusion"
    )


def test_the_baseline_is_named_or_its_columns_left_out(reports: dict[str, Path]) -> None:
    d = usual()
    assert listed.robustness_summary(d).head == ("Modality", "Corruption", "Relative", "Effective", "CE", "Relative CE")
    assert "Baseline: <code>late fusion</code>" in reports["decisions"].read_text(encoding="utf-8")
    whole = whole_of("alone")
    bare = {k: v for k, v in whole.manifest["parameters"].items() if k != "baseline"}
    table = planted.robustness_summary(["rgb", "depth"], "")
    none = Kept(whole.tables | {"robustness_summary": table}, whole.manifest | {"parameters": bare}, {}, {})
    assert listed.robustness_summary(given(none)).head == ("Modality", "Corruption", "Relative")
    assert "No baseline was named" in render(View(none))


# --- imbalance ---


def test_dominance_and_probes() -> None:
    assert prose.imbalance(usual()) == [
        "Discrepancy ratio above 1, so dominant in the head: rgb 2.00 (1.97 to 2.03).",
        "Probes read less from the joint encoder than from the solo one: depth −0.10 (−0.13 to −0.07).",
    ]
    level = changed("imbalance", {}, low=-5.0, high=5.0)
    assert [s.split(":")[0] for s in prose.imbalance(level)] == [
        "No modality dominates the head",
        "Probes do not tell the joint encoders from the solo ones",
    ]


# --- sections ---


def test_everything_failed_gives_its_reasons() -> None:
    d = usual("failed")
    said = [*prose.contribution(d), *prose.cooperation(d), *prose.harm_in_classes(d), *prose.harm_in_samples(d)]
    said += [*curved.information(d), *curved.robustness(d), *prose.imbalance(d)]
    assert all("<today>" in line for line in said), said
    charts: dict[str, Any] = {}
    assert list(sections(d, charts)) == [name for name in ORDER if name != "removal"]
    assert charts == {}
    assert curved.worst(d) == ""


@pytest.mark.parametrize("name", [*planted.EVERY, *planted.ODD])
def test_no_sentence_holds_nan(reports: dict[str, Path], name: str) -> None:
    page = re.sub(r"<script.*?</script>|<style.*?</style>", "", reports[name].read_text(encoding="utf-8"), flags=re.S)
    page = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"\bnan\b|None|<NA>|\binf\b", page)


def test_sections_stand_in_order_and_old_dissections_have_none(reports: dict[str, Path]) -> None:
    page = reports["decisions"].read_text(encoding="utf-8")
    places = [page.index(f'<section id="{name}">') for name in ["trace", *ORDER, "similarity"]]
    assert places == sorted(places)
    linked = re.findall(r'<li><a href="#(\w+)"', page)
    assert linked[:9] == ["summary", "trace", *ORDER, "similarity"]
    for make in (factory.scenes, factory.empty, factory.failed):
        assert sections(given(make()), {}) == {}


def test_tables_read_back_from_csv_say_the_same(tmp_path: Path) -> None:
    whole = whole_of("alone")
    tables = {}
    for name, table in whole.tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        tables[name] = pd.read_csv(tmp_path / f"{name}.csv")
    one, two = given(whole), given(Kept(tables, whole.manifest, {}, whole.arrays))
    for say in (
        prose.contribution,
        prose.cooperation,
        prose.harm_in_classes,
        prose.harm_in_samples,
        curved.information,
    ):
        assert say(one) == say(two)
    assert listed.samples(one) == listed.samples(two)
    assert curved.robustness(one) == curved.robustness(two)


def test_a_hundred_classes_are_drawn_in_part() -> None:
    d = usual("many")
    charts: dict[str, Any] = {}
    part = sections(d, charts)["hurts"]
    assert (part["shown"], part["left"]) == (CLASSES_DRAWN, 100 - CLASSES_DRAWN)
    drawn = {row["y"] for one in part["drawn"] for row in charts[one["name"]]["datasets"]["rows"]}
    assert len(drawn) == CLASSES_DRAWN
    assert all(d.classes[i] in drawn for i in (3, 50)), "the classes that are hurt are among them"
    assert len(listed.classes(d).body) == 600
    corruptions = sections(d, charts)["robustness"]["drawn"][0]["key"]
    assert len({tuple(mark[1:]) for mark in corruptions}) == 9, "past eight colour and shape pair anew"


def test_eight_modalities_keep_the_tables_short() -> None:
    d = usual("eight")
    assert len(listed.together(d).body) < 20 < len(listed.together(d, compact=False).body)
    assert len(listed.samples(d)[0]["pictures"]) == listed.INPUTS_DRAWN
    charts: dict[str, Any] = {}
    found = sections(d, charts)
    assert len(charts) < 80
    assert found["information"]["left"] == 28 + 8 - 12


# --- in a browser ---


@pytest.fixture(scope="module")
def browser():
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("decisions")
    every = planted.EVERY | planted.ODD
    return {name: write_report(make(), folder / f"{name}.html") for name, make in every.items()}


BROKEN = "[...document.querySelectorAll('[data-chart]')].filter(b => b.querySelectorAll('svg path').length < 4).length"


def pictures_are_seen(browser: Chromium) -> None:
    seen = "[...document.querySelectorAll('.samples img')].map(i => i.naturalWidth)"
    assert browser.evaluate(seen) == [96] * listed.SAMPLES_DRAWN
    source = browser.evaluate("document.querySelector('.samples img').src")
    assert base64.b64decode(source.split(",")[1])[:4] == b"\x89PNG"
    fills = "[...document.querySelectorAll('#contribution [data-chart^=contribution] .mark-rect path')]"
    widths = browser.evaluate(f"{fills}.map(p => p.getBBox().width)")
    assert widths[1] / widths[0] == pytest.approx(0.4, abs=0.01)
    floor = "document.querySelectorAll('#robustness .mark-line path[stroke-dasharray=\"4,3\"]').length"
    assert browser.evaluate(floor) == 2, "one for each modality"


def names_stay_text(browser: Chromium) -> None:
    named = "document.querySelectorAll('main b b, main img:not(.samples img), main u, .samples script').length"
    assert browser.evaluate(named) == 0
    assert browser.evaluate("document.getElementById('robustness').textContent.includes('<img src=x')")
    browser.hover("#contribution .mark-rect path")
    browser.evaluate("new Promise(r => setTimeout(r, 100))")
    tip = "document.getElementById('vg-tooltip-element')"
    assert browser.evaluate(f"{tip}.textContent.includes('<b>x</b>')")
    assert browser.evaluate(f"{tip}.querySelectorAll('b, script, img').length") == 0


SEEN = {"decisions": pictures_are_seen, "decisions nasty": names_stay_text}


@pytest.mark.parametrize("name", planted.EVERY)
def test_pages_draw_in_silence_and_fit_a_narrow_window(browser: Chromium, reports: dict[str, Path], name: str) -> None:
    browser.open(reports[name], width=390, height=800, dark=name == "decisions many")
    found = browser.result(BROKEN, "document.documentElement.scrollWidth")
    assert (found.console_errors, found.warnings, found.requests, found.values) == ([], [], [], [0, 390])
    SEEN.get(name, lambda _: None)(browser)


@pytest.mark.parametrize("name", ["holes", "columns missing"])
def test_what_is_missing_leaves_no_warning(browser: Chromium, reports: dict[str, Path], name: str) -> None:
    browser.open(reports[name])
    found = browser.result("[...document.querySelectorAll('[data-chart]')].filter(b => !b.querySelector('svg')).length")
    assert (found.console_errors, found.warnings, found.values) == ([], [], [0])

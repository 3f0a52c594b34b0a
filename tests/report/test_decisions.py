"""What the report says and draws of contribution, harm, information, robustness and imbalance: what was planted."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusionscope.report import DissectionLike
from fusionscope.report import _curves_prose as curved
from fusionscope.report import _decisions_prose as prose
from fusionscope.report import _decisions_tables as listed
from fusionscope.report._decisions_charts import waterfall
from fusionscope.report._decisions_page import CLASSES_DRAWN, sections
from fusionscope.report._page import render
from fusionscope.report._tables import facts
from fusionscope.report._view import View
from tests.browser import Chromium
from tests.report import factory
from tests.report import factory_decisions as planted
from tests.report.decided import changed, given, page_of, usual, whole_of
from tests.report.factory_decisions import Kept

ORDER = ["contribution", "removal", "hurts", "information", "robustness", "imbalance"]


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


def test_the_numbers_are_defined_with_the_choices_they_depend_on() -> None:
    page = page_of("decisions")
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


def test_a_class_with_a_shapley_value_below_zero_alone_is_not_hurt() -> None:
    whole = whole_of("scenes")
    charts: dict[str, Any] = {}
    part = sections(given(whole), charts)["hurts"]
    rows = charts[part["drawn"][0]["name"]]["datasets"]["rows"]
    assert {row["Verdict"] for row in rows if row["y"] == planted.TRAP} == {"not shown to hurt"}
    assert all(row["low"] > 0 for row in rows if row["y"] == planted.TRAP)
    assert [row["d"] for row in rows if row["Verdict"] == "hurts"] == [-0.2, -0.2]
    assert "lost without depth" in str(charts[part["drawn"][0]["name"]])
    assert "below zero the class is told better without it" in page_of("decisions")


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


def test_samples_that_a_modality_hurts_come_first_with_their_inputs() -> None:
    d = usual()
    assert prose.harm_in_samples(d) == [
        "Worse than not knowing it: depth for 3 samples. There the truth gets more probability with other samples' "
        "values, on average, than with its own. Tested were 40 samples, of each batch the eighth to whose truth the "
        "model gives least probability: 80 tests, with false discoveries controlled at 5 % over all of them. Samples "
        "that the model tells well were not tested, so this is no census."
    ]
    page = page_of("decisions")
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


def test_of_a_regression_the_effect_is_in_nats_too() -> None:
    whole = planted.only("samples")
    page = render(View(factory.Dissected(whole.tables, whole.manifest | {"task": "regression"}, {})))
    assert "of a number the probability is the likelihood relative to its peak" in page
    assert "Effect, nats" in page


def test_columns_of_samples_without_a_value_are_left_out() -> None:
    whole = planted.only("samples")
    table = whole.tables["samples"].assign(label="", predicted="", valuation=np.nan)
    page = render(View(factory.Dissected({"samples": table}, whole.manifest, {})))
    assert not any(word in page for word in ('"col">Label', '"col">Predicted', "Valuation:"))


def test_each_modality_shows_the_samples_it_hurts() -> None:
    every = listed.samples(changed("samples", {}, hurts=True, p=0.001))
    assert [sum(r["modality"] == m for r in every) for m in ("rgb", "depth")] == [6, 6]
    d = changed("samples", {}, hurts=True, p=0.001)
    assert len(listed.further_samples(d).body) == len(d.harmful_samples) - 12


def test_a_dissection_without_arrays_lists_samples_undrawn() -> None:
    whole = planted.only("samples")
    assert not hasattr(whole, "arrays")
    assert isinstance(whole, DissectionLike)
    assert all(row["pictures"] == [] for row in listed.samples(given(whole)))
    assert '<th scope="col">Inputs' not in page_of("only samples")


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


def test_what_was_run_is_written_plainly() -> None:
    found = dict(facts(View(whole_of("scenes"))))
    assert found["Kinds of their values"] == "rgb image, depth sequence"
    assert found["Measures"] == "removal, robustness"
    assert (
        found["Other parameters"]
        == "permutations 200; alpha 0.05; seed 0; batch size 64; donors 20; baseline late fusion"
    )


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
def test_no_sentence_holds_nan(name: str) -> None:
    page = re.sub(r"<script.*?</script>|<style.*?</style>", "", page_of(name), flags=re.S)
    page = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"\bnan\b|None|<NA>|\binf\b", page)


def test_sections_stand_in_order_and_old_dissections_have_none() -> None:
    page = page_of("decisions")
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
    paths = {name: folder / f"{name}.html" for name in [*planted.EVERY, "holes", "columns missing"]}
    for name, path in paths.items():
        path.write_text(page_of(name), encoding="utf-8")
    return paths


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

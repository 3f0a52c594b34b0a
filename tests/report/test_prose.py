"""The sentences say what the planted numbers say, and no more."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from fusionscope.report import _prose as prose
from fusionscope.report._view import View
from tests.report import factory, traces
from tests.report.factory import Dissected, scenes


def changed(table: str, **columns: Any) -> View:
    whole = scenes()
    tables = {name: frame.copy() for name, frame in whole.tables.items()}
    for name, value in columns.items():
        tables[table][name] = value
    return View(Dissected(tables, whole.manifest, whole.trace))


def costing(**worth: float) -> View:
    """Three modalities whose removal costs ``worth``, plus or minus 0.03."""
    names = list(worth)
    tables = {"removal": factory.removal(names, worth)}
    return View(Dissected(tables, factory.manifest(names, []), {}))


def test_the_dearest_modality_is_named_with_its_interval() -> None:
    said = prose.dearest(View(scenes()))
    assert said == "Removing rgb costs most: accuracy falls by 0.50 (0.47 to 0.53)."


def test_the_broken_variant_names_the_other_one() -> None:
    said = prose.dearest(View(scenes(worth={"rgb": 0.2, "depth": 0.5})))
    assert said.startswith("Removing depth costs most")


def test_overlapping_costs_are_not_ranked() -> None:
    said = prose.dearest(costing(a=0.30, b=0.28, c=0.1))
    assert said.startswith("Removing a or b costs about equally much")
    assert "the intervals overlap" in said
    assert "most" not in said


def test_no_removal_costs_more_than_its_interval() -> None:
    said = prose.removal(View(scenes(worth={"rgb": 0.01, "depth": 0.02})))
    assert "No modality's removal costs more than its interval" in said
    assert "costs most" not in said
    assert "−0.01 to 0.05" in said


def test_removal_without_intervals_is_only_a_point() -> None:
    view = changed("removal", drop_low=math.nan, drop_high=math.nan)
    assert "without an interval it is only a point" in prose.dearest(view)


def test_a_harmful_and_a_useless_modality() -> None:
    said = prose.removal(costing(a=0.3, b=-0.1, c=0.01))
    assert "Removing a costs most" in said
    assert "Without b accuracy is higher, by 0.10 (0.07 to 0.13)" in said
    assert "No measurable cost, since the interval holds zero: 0.01 (−0.02 to 0.04) without c." in said


def test_most_and_least_alike_levels() -> None:
    said = prose.similarity(View(scenes()))
    assert said == [
        "rgb and depth are most alike at level 3, CKA 0.61 (0.58 to 0.64), and least at level 0, 0.05 (0.02 to 0.08), "
        "which is inside its null."
    ]


def test_levels_whose_intervals_overlap_are_not_ranked() -> None:
    (said,) = prose.similarity(View(scenes(aligned={0: 0.50, 1: 0.52, 2: 0.51, 3: 0.53})))
    assert "about equally alike at every compared level (CKA 0.50 to 0.53; the intervals overlap)" in said
    assert "most alike" not in said


def test_similarity_inside_its_null_is_no_similarity() -> None:
    (said,) = prose.similarity(View(scenes(aligned=dict.fromkeys(range(4), 0.04))))
    assert said.startswith("rgb and depth share nothing measurable")
    assert "alike at" not in said


def test_selectivity_names_the_owners() -> None:
    said = prose.selectivity(View(scenes()))
    assert said == (
        "Of 8 classes, rgb encodes 4 and depth encodes 4. Only rgb: red mug, green mug and poster. "
        "Only depth: flat board, camouflaged ball and camouflaged box. Both: chair. "
        "Inside the null everywhere: odd one."
    )


def test_nothing_encoded() -> None:
    said = prose.selectivity(changed("selectivity", encoded=False))
    assert said == "No stream encodes any of the 8 classes: every best unit lies inside its null."


def test_recovery_counts_and_names_the_misses() -> None:
    whole = scenes()
    assert prose.recovery(View(whole)) == "All 12 planted facts (a class and a modality) were found as planted."
    table = whole.tables["recovery"].copy()
    miss = (table["concept"] == "poster") & (table["modality"] == "rgb")
    table.loc[miss, "agrees"] = False
    said = prose.recovery(View(Dissected(whole.tables | {"recovery": table}, whole.manifest, whole.trace)))
    assert said == "11 of 12 planted facts were found as planted; not so: poster in rgb."


def test_recovery_read_back_from_csv(tmp_path) -> None:
    whole = scenes()
    whole.tables["recovery"].to_csv(tmp_path / "recovery.csv", index=False)
    table = pd.read_csv(tmp_path / "recovery.csv")
    said = prose.recovery(View(Dissected(whole.tables | {"recovery": table}, whole.manifest, whole.trace)))
    assert said.startswith("All 12 planted facts")


def test_reasons_are_told() -> None:
    view = View(factory.failed())
    assert "could not be computed: no labelled sample" in prose.dearest(view)
    assert "could not be computed: fewer than 4 samples" in prose.similarity(view)[0]
    assert prose.selectivity(view) == "Class selectivity could not be computed: one class only."


def test_one_modality_is_compared_with_nothing() -> None:
    view = View(factory.single())
    assert "no removal is compared" in prose.dearest(view)
    assert "no second modality" in prose.similarity(view)[0]
    assert "modalities" not in prose.trace(view)


def test_a_dead_modality_is_said_to_reach_nothing() -> None:
    said = prose.trace(View(factory.actions()))
    assert "depth reaches no output" in said
    assert "inertial reaches" not in said
    assert "functional, in fuse, before fuse.reduce#0" in said


@pytest.mark.parametrize("name", factory.EVERY)
def test_every_dissection_has_a_summary_without_nan(name: str) -> None:
    view = View(factory.EVERY[name]())
    for said in (prose.summary(view), prose.removal(view), *prose.similarity(view), prose.selectivity(view)):
        assert said
        assert "nan" not in said.lower().replace("<", " ").split()


def test_a_name_with_a_plus_sign_is_one_modality() -> None:
    view = View(factory.nasty())
    assert view.cost("a+b").value == pytest.approx(0.2)
    assert view.value(["a+b"]).value == pytest.approx(0.3)


def test_the_trace_says_that_lanes_go_on_after_exchanges() -> None:
    whole = scenes()
    said = prose.trace(View(Dissected(whole.tables, whole.manifest, traces.cmx(4))))
    assert "Calls of each lane: rgb 28 and depth 28. After 4 exchanges the lanes go on. 12 fusion points: " in said
    assert "one modality only" not in said
    said = prose.trace(View(whole))
    assert "Calls that see one modality only: rgb 16 and depth 16." in said
    assert "exchange" not in said

"""compare: planted differences are found, nothing is found where nothing is, and whatever is missing is named."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from planted_study import plant, table

from fusionscope.engine import compare
from fusionscope.engine._compare_tables import differences_of
from fusionscope.errors import FileError, InputError
from fusionscope.measures.functional import mean_corruption_error, paired_difference

SEEDS = tuple(range(12))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Calibrated is better by 2 standard deviations, gated equal, worse worse."""
    effects = {"concat": 0.0, "calibrated": 0.02, "gated": 0.0, "worse": -0.05}
    return plant(tmp_path_factory.mktemp("studies") / "planted", effects, seeds=SEEDS)


def picked(found, name, **where):
    rows = getattr(found, name)
    for key, value in where.items():
        rows = rows[rows[key] == value]
    return rows


def test_the_better_is_called_better_and_the_equal_is_not(planted):
    found = compare(planted)
    assert (found.baseline, found.metric) == ("concat", {"utd": "accuracy"})
    verdicts = found.differences.groupby("variant")["verdict"].agg(set).to_dict()
    assert verdicts == {"calibrated": {"better"}, "gated": {"not shown"}, "worse": {"worse"}}
    text = repr(found)
    assert "calibrated is better than concat on utd, clean: +0.0" in text
    assert "worse is worse than concat on utd, clean: -0.0" in text
    assert "gated is not shown to differ from concat on utd under any condition at 0.05 (clean: " in text
    names = {"conditions", "means", "differences", "curves", "robustness"}
    assert all(len(getattr(found, name)) for name in names)
    assert not len(found.missing)


def test_numbers_are_those_of_the_runs(planted):
    found = compare(planted, baseline="gated", alpha=0.1, seed=3)
    texts = {v: [(planted / f"runs/utd/{v}/seed-{s}/metrics.json").read_text() for s in SEEDS] for v in found.variants}
    scores = {v: [json.loads(text)["test"]["accuracy"] for text in several] for v, several in texts.items()}
    wanted = paired_difference(scores["calibrated"], scores["gated"], alpha=0.1, seed=3)
    row = picked(found, "differences", condition="clean", variant="calibrated").iloc[0]
    names = ["sd", "n", "low", "high", "t_low", "t_high", "p", "p_sign_flip"]
    assert row[names].tolist() == pytest.approx([getattr(wanted, name) for name in names])
    assert row["difference"] == pytest.approx(wanted.mean)
    assert list(dict.fromkeys(zip(found.means["condition"], found.means["modality"], strict=True))) == [
        ("clean", ""),
        *[("removal", m) for m in ("", "rgb", "depth")],
        *[("corruption", m) for m in ("", "rgb", "depth")],
    ]
    for condition, lost in (("clean", 0), ("removal", 0.2), ("corruption", 0.02 * 3)):
        mean = picked(found, "means", condition=condition, modality="", variant="concat").iloc[0]
        assert mean["mean"] == pytest.approx(np.mean(scores["concat"]) - lost)
        assert mean["sd"] == pytest.approx(np.std(scores["concat"], ddof=1))
    curve = picked(found, "curves", modality="depth", variant="worse").groupby("severity")["value"].mean()
    assert curve.to_dict() == pytest.approx({s: np.mean(scores["worse"]) - 0.02 * s for s in (0, 1, 3, 5)})
    robust = picked(found, "robustness", variant="worse").iloc[0]
    assert robust["relative"] == pytest.approx(np.mean(scores["worse"]) - 0.05)
    errors = {v: [[1 - np.mean(scores[v]) + 0.02 * s for s in (1, 3, 5)]] for v in scores}
    assert robust["mce"] == pytest.approx(mean_corruption_error(errors["worse"], errors["gated"]))
    assert robust[["effective", "relative_mce"]].tolist() == pytest.approx([0, 1])


def test_less_is_better_of_a_loss_and_fewer_conditions_are_corrected_for(planted):
    found = compare(planted, metric="loss", conditions=["clean"])
    verdicts = dict(zip(found.differences["variant"], found.differences["verdict"], strict=True))
    assert verdicts == {"calibrated": "better", "gated": "not shown", "worse": "worse"}
    assert picked(found, "differences", variant="calibrated")["difference"].iloc[0] < 0
    assert found.lower_is_better == {"loss"}
    p = found.differences.set_index("variant")["p"]
    assert found.differences["p_corrected"].min() == pytest.approx(3 * p.min())
    assert not len(found.curves)
    assert not len(found.robustness)


def test_nothing_is_found_where_nothing_is():
    """200 studies of 3 variants and 2 independent conditions: an error in about 5 %, without correction in far more."""
    rng = np.random.default_rng(0)
    places = pd.MultiIndex.from_product([["utd"], ["a", "b", "c"], range(5), ["clean", "removal"]])
    frame = places.to_frame(index=False, name=["data", "variant", "seed", "condition"]).assign(modality="", metric="f1")
    wrong = uncorrected = 0
    for _ in range(200):
        frame["value"] = rng.normal(0.7, 0.01, len(frame))
        found = differences_of(frame, ["a", "b", "c"], "a", {"utd": range(5)}, alpha=0.05, method="scaled", resamples=9)
        wrong += (found["verdict"] != "not shown").any()
        uncorrected += (found["p"] <= 0.05).any()
    assert wrong <= 20
    assert uncorrected > 22


def test_missing_runs_are_named_and_pairs_are_over_common_seeds(tmp_path):
    study = plant(tmp_path / "s", {"a": 0.0, "b": 0.0}, seeds=(3, 5, 8), data=("utd", "water"))
    shutil.rmtree(study / "runs/utd/b/seed-5")
    (study / "runs/utd/a/seed-8/conditions.csv").unlink()
    (study / "failures").mkdir()
    (study / "failures/utd--b--seed-5.json").write_text("{}")
    found = compare(study)
    clean = picked(found, "differences", data="utd", condition="clean").iloc[0]
    assert (clean["n"], clean["missing"]) == (2, "5")
    lost = picked(found, "differences", data="utd", condition="removal", modality="").iloc[0]
    assert (lost["n"], lost["missing"], lost["verdict"]) == (1, "5, 8", "not shown")
    assert picked(found, "means", data="utd", condition="clean", variant="b")["missing"].tolist() == ["5"]
    assert set(picked(found, "differences", data="water")["n"]) == {3}
    assert "no scores yet: utd/b/seed-5 (failed)" in found.notes
    assert any("not scored under removal and corruption: utd/a/seed-8" in note for note in found.notes)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_few_seeds_are_no_verdict(tmp_path, seeds):
    found = compare(plant(tmp_path / "s", {"a": 0.0, "b": 0.1}, seeds=seeds, sd=0.03))
    assert set(found.differences["verdict"]) == {"not shown"}
    assert found.differences["reason"].eq("one pair says nothing about the spread").all() == (len(seeds) == 1)
    assert "b is not shown to differ" in repr(found)


def test_equal_differences_have_no_spread(tmp_path):
    found = compare(plant(tmp_path / "s", {"a": 0.0, "b": 0.1, "c": 0.0}, seeds=(0, 1, 2), sd=0.0))
    b, c = (picked(found, "differences", variant=v, condition="clean").iloc[0] for v in "bc")
    assert (b["verdict"], c["verdict"], c["p"]) == ("not shown", "not shown", 1.0)
    assert math.isnan(b["p"])
    assert "there is no spread to test against" in b["reason"]


def test_one_variant_one_modality_or_no_conditions(tmp_path):
    alone = compare(plant(tmp_path / "alone", {"a": 0.0}, seeds=(0, 1, 2)))
    assert not len(alone.differences)
    assert len(alone.means) == 7
    assert not alone.sentences
    depth = compare(plant(tmp_path / "depth", {"a": 0.0, "b": 0.0}, seeds=(0, 1, 2), modalities=("depth",)))
    assert list(dict.fromkeys(zip(depth.means["condition"], depth.means["modality"], strict=True))) == [
        ("clean", ""),
        ("removal", ""),
        ("corruption", ""),
    ]
    assert picked(depth, "means", condition="removal")["n"].tolist() == [0, 0]
    assert "utd: no score under removal: depth is the only modality: without it nothing is left" in depth.notes
    bare = compare(plant(tmp_path / "bare", {"a": 0.0, "b": 0.0}, seeds=(0, 1, 2), conditions=False))
    assert set(bare.means["condition"]) == {"clean"}


def test_a_variant_without_a_modality_has_no_mean_over_modalities(tmp_path):
    study = plant(tmp_path / "s", {"both": 0.0, "depth": 0.0}, seeds=(0, 1, 2))
    for s in range(3):
        table(0.7, ("depth",), "accuracy").to_csv(study / f"runs/utd/depth/seed-{s}/conditions.csv", index=False)
    found = compare(study)
    n = picked(found, "means", variant="depth", condition="corruption").set_index("modality")["n"].to_dict()
    assert n == {"": 0, "rgb": 0, "depth": 3}
    assert set(picked(found, "curves", variant="depth")["modality"]) == {"depth"}


def test_only_what_all_runs_have_is_averaged(tmp_path):
    study = plant(tmp_path / "s", {"a": 0.0, "b": 0.0}, seeds=(0, 1, 2), sd=0.0)
    path = study / "runs/utd/a/seed-1/conditions.csv"
    rows = pd.read_csv(path)
    rows[~((rows["kind"] == "holes") & (rows["severity"] == 5))].to_csv(path, index=False)
    found = compare(study)
    assert picked(found, "conditions", condition="corruption", modality="depth")["value"].tolist() == pytest.approx(
        [0.7 - 0.02 * (1 + 3 + 1 + 3 + 5) / 5] * 6
    )


def test_refusals(planted, tmp_path):
    for settings, text in (
        ({"baseline": "concatt"}, "no variant 'concatt'.*Did you mean 'concat'"),
        ({"metric": "acuracy"}, "no run has the score 'acuracy'; there are accuracy, loss.*Did you mean 'accuracy'"),
        ({"conditions": ["noise"]}, "conditions are clean, removal, corruption, got 'noise'"),
        ({"conditions": []}, "conditions are clean"),
        ({"alpha": 5.0}, "alpha must lie between 0 and 1, got 5"),
        ({"method": "bca"}, "expected a method of scaled, percentile, studentised, got 'bca'"),
    ):
        with pytest.raises(InputError, match=text):
            compare(planted, **settings)
    with pytest.raises(FileError, match="is not the folder of a study"):
        compare(tmp_path)
    empty = plant(tmp_path / "s", {"a": 0.0}, seeds=(0,))
    run = empty / "runs/utd/a/seed-0"
    for name, text in (("conditions.csv", "no column kind|damaged"), ("metrics.json", "metrics.json is damaged")):
        (run / name).write_text("a,b\n1,2\n")
        with pytest.raises(FileError, match=text):
            compare(empty)
    shutil.rmtree(run)
    with pytest.raises(InputError, match="no run of .* is finished yet"):
        compare(empty)

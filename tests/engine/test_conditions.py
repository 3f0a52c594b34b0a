"""Scores under conditions: clean is what training wrote, damage hurts, and all runs see the same samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusionscope.data import load_data
from fusionscope.engine import TrainConfig, load_run, score_conditions, train
from fusionscope.engine import _conditions as conditions
from fusionscope.errors import InputError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    return train(TrainConfig(data="digits", out=str(out), epochs=3, width=4, lr=0.01, accelerator="cpu"), quiet=True)


@pytest.fixture(scope="module")
def scored(trained):
    return score_conditions(trained, severities=(5, 1))


def accuracy(table, **where):
    rows = table[table["metric"] == "accuracy"]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows["value"].to_numpy(np.float64)


def test_clean_is_what_training_wrote(trained, scored):
    test = load_run(trained, data=False).metrics["test"]
    clean = scored[scored["condition"] == "clean"].set_index("metric")["value"]
    assert clean["accuracy"] == test["accuracy"]
    assert clean["loss"] == pytest.approx(test["loss"], rel=1e-5)


def test_every_condition_is_there_and_damage_hurts(scored):
    assert list(scored) == ["condition", "modality", "kind", "severity", "metric", "value", "reason"]
    assert scored["reason"].eq("").all()
    assert scored["value"].notna().all()
    clean = accuracy(scored, condition="clean")[0]
    assert clean > 0.7
    for modality in ("top", "bottom"):
        removed = scored[(scored["condition"] == "removal") & (scored["modality"] == modality)]
        assert list(dict.fromkeys(removed["kind"])) == ["resample", "present"]
        assert accuracy(scored, condition="removal", modality=modality).max() < clean - 0.1
        mild, hard = (accuracy(scored, condition="corruption", modality=modality, severity=s) for s in (1, 5))
        assert len(mild) == len(hard) == 8
        assert hard.mean() < mild.mean() < clean
    assert len(scored) == 2 * (1 + 2 * 2 + 2 * 8 * 2)


def test_a_fixed_order_of_samples_which_does_not_matter(trained, scored, monkeypatch):
    """Batches in another order, with their own numbers, are damaged as before."""
    batches = conditions._Sweep._batches
    monkeypatch.setattr(conditions._Sweep, "_batches", lambda *given: reversed(list(batches(*given))))
    again = score_conditions(trained, severities=(1,))
    same = scored[scored["severity"].fillna(0).isin((0, 1))].reset_index(drop=True)
    np.testing.assert_allclose(again["value"], same["value"], rtol=1e-5)
    assert accuracy(again).tolist() == accuracy(same).tolist()


def test_other_models_see_the_same_damaged_samples(trained, tmp_path, monkeypatch):
    """Also a model of one modality, whatever its training seed and batch size; another seed draws anew."""
    data = load_data("digits")
    solo = train(
        TrainConfig(
            data="digits", out=str(tmp_path / "b"), epochs=1, width=4, seed=3, modalities=("bottom",), accelerator="cpu"
        ),
        quiet=True,
    )
    seen: dict[str, list] = {}
    real = conditions.corrupt

    def corrupt(values, name, severity, **settings):
        damaged = real(values, name, severity, **settings)
        if settings["modality"] == "bottom":
            seen.setdefault(run, []).append((name, damaged))
        return damaged

    monkeypatch.setattr(conditions, "corrupt", corrupt)
    tables = {}
    for run, folder, seed in (("both", trained, 0), ("solo", solo, 0), ("anew", solo, 1)):
        tables[run] = score_conditions(folder, severities=(3,), data=data, seed=seed)
    both, alone, anew = seen.values()
    assert [name for name, _ in both] == [name for name, _ in alone]
    assert all(torch.equal(x, y) for (_, x), (_, y) in zip(both, alone, strict=True))
    assert not any(torch.equal(x, y) for (_, x), (_, y) in zip(anew, alone, strict=True))
    removal = tables["solo"][tables["solo"]["condition"] == "removal"]
    assert removal["value"].isna().all()
    assert set(removal["reason"]) == {"bottom is the only modality: without it nothing is left"}


def test_refusals_and_no_severities(trained):
    with pytest.raises(InputError, match="expected severities of 1 to 5, got 6"):
        score_conditions(trained, severities=(1, 6))
    with pytest.raises(InputError, match="is not what .* was trained on"):
        score_conditions(trained, data=load_data("digits?test=0.5"))
    assert set(score_conditions(trained, severities=())["condition"]) == {"clean", "removal"}


def test_a_small_tail_joins_the_batch_before():
    assert [len(batch) for batch in conditions._order(2 * 128 + 3, 0)] == [128, 131]
    assert [len(batch) for batch in conditions._order(128 + 4, 0)] == [128, 4]
    assert sorted(conditions._order(3, 0)[0]) == [0, 1, 2]
    assert conditions._order(300, 1) != conditions._order(300, 2)

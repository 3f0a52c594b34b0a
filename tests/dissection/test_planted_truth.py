"""The whole chain recovers what ``scenes`` plants: train, dissect, compare with the truth, over three seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

import fusionscope as fs


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_truth_is_recovered(seed: int, tmp_path: Path) -> None:
    config = fs.TrainConfig(
        data="scenes?train=700&val=60&test=300",
        out=str(tmp_path / "run"),
        seed=seed,
        data_seed=seed,
        epochs=4,
        lr=4e-3,
        width=8,
    )
    run = fs.load_run(fs.train(config))
    data = run.data
    assert data is not None
    found = fs.dissect(
        run.model,
        data.loader("test", 60),
        classes=data.classes,
        measures=("selectivity", "removal"),
        truth=data.truth,
        seed=seed,
        alpha=0.01,
        progress=False,
    )
    table = found.tables["recovery"]
    single = table[table["planted"].isin(["colour", "geometry"])]
    assert len(single) == 8
    assert single["agrees"].all(), single.to_string()
    encoded = single[single["encoded"]]
    assert encoded["epsilon2"].min() > 0.2
    hidden = single[~single["encoded"]]
    assert hidden["epsilon2"].max() < 0.01
    removal = found.tables["removal"].set_index("subset")
    assert removal.loc["rgb", "drop_low"] > 0
    assert removal.loc["depth", "drop_low"] > 0
    told = fs.dissect(
        run.model, data.loader("test", 60), classes=data.classes, measures=("semantics",), seed=seed, progress=False
    )
    profile = told.tables["profile"]
    last = profile[(profile["question"] == "across") & (profile["level_a"] == profile["level_a"].max())]
    kind = dict(zip(last["concept"], last["kind"], strict=True))
    planted = {"rust": "a", "moss": "a", "bump": "b", "dent": "b", "misfit": "neither"}
    assert {concept: kind[concept] for concept in planted} == planted

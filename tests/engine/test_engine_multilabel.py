"""Several labels per sample, each told by one modality: train, score, dissect; settings that are for other targets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from fusionscope.cli import main
from fusionscope.dissection import load
from fusionscope.engine import TrainConfig, load_run, train
from fusionscope.errors import InputError

LABELS = ("hot", "loud", "bright")
SHARES = (0.5, 0.3, 0.7)
TELLS = {"hot": "a", "loud": "b", "bright": "a"}
SIZES = (211, 53, 101)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    count = sum(SIZES)
    flags = rng.random((count, 3)) < SHARES
    signs = (2 * flags - 1).astype("f4")
    a, b = rng.normal(size=(2, count, 5)).astype("f4")
    a[:, :2] += 2.5 * signs[:, [0, 2]]
    b[:, 0] += 2.5 * signs[:, 1]
    folder = tmp_path_factory.mktemp("labels")
    number = a[:, 0].clip(-3, 3)
    np.savez(
        folder / "toy.npz",
        a=a,
        b=b,
        flags=flags,
        number=number,
        pair=np.stack([number, number], 1),
        split=np.repeat([0, 1, 2], SIZES),
    )
    return f"npz:{folder / 'toy.npz'}?inputs=a:NC,b:NC&target=flags&classes={','.join(LABELS)}"


def config(spec: str, out: Path, **changes) -> TrainConfig:
    return TrainConfig(
        **{"data": spec, "out": str(out), "epochs": 8, "width": 4, "lr": 0.01, "accelerator": "cpu"} | changes
    )


@pytest.fixture(scope="module")
def trained(spec: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    return train(config(spec, out, label_smoothing=0.05, auxiliary=0.1, refit=True), quiet=True)


def test_it_learns_and_is_scored(trained: Path) -> None:
    run = load_run(trained)
    data = run.data
    assert data is not None
    batch = next(iter(data.loader("test", SIZES[2])))
    with torch.no_grad():
        logits = run.model(batch["inputs"])
    y, x = batch["target"].numpy(), (logits > 0).numpy()
    test = run.metrics["test"]
    assert run.metrics["metric"] == "f1"
    assert test["f1"] == pytest.approx(f1_score(y, x, average="macro"))
    assert test["f1"] > 0.9
    assert test["exact_match"] == pytest.approx((x == y).all(1).mean())
    assert set(test["label_f1"]) == set(LABELS)
    whole = np.load(data.spec.partition(":")[2].partition("?")[0])["flags"]
    # after a refit: of train and val
    assert run.description["training"]["class_counts"] == whole[: sum(SIZES[:2])].sum(0).tolist()


def test_dissect_finds_which_modality_tells_which_label(trained: Path) -> None:
    main(["dissect", str(trained), "--measures", "removal", "contribution"])
    found = load(trained / "dissection")
    removal = found.tables["removal"].set_index("subset")
    assert removal.loc["a+b", "value"] == pytest.approx(load_run(trained).metrics["test"]["f1"])
    assert removal.loc["b", "drop"] > 0.2
    assert removal.loc["a", "drop"] > 0.1
    # of nothing: labels that most training samples have are told, the others never are
    flags = load_run(trained).data.loader("test", SIZES[2])
    y = next(iter(flags))["target"].numpy()
    known = np.tile(np.array(SHARES) > 0.6, (len(y), 1))
    nothing = found.tables["removal"][found.tables["removal"]["n_present"] == 0]
    assert found.manifest["parameters"]["empty"] == "majority"
    assert nothing["value"].item() == pytest.approx(f1_score(y, known, average="macro", zero_division=0))
    table = found.tables["contribution"]
    table = table[(table["concept"] != "") & (table["metric"] == "f1")]
    shapley = table.set_index(["concept", "modality"])["shapley"]
    for label, who in TELLS.items():
        other = "b" if who == "a" else "a"
        assert shapley[label, who] > 2 * abs(shapley[label, other]), label


@pytest.mark.parametrize(
    "changes",
    [{"model": "classifier", "fuse": "late"}, {"model": "sequence", "fuse": "learned_ensemble"}],
    ids=lambda changes: changes["model"],
)
def test_other_models(spec: str, tmp_path: Path, changes: dict[str, str]) -> None:
    run = load_run(train(config(spec, tmp_path / "run", epochs=1, **changes), quiet=True))
    assert np.isfinite(run.metrics["test"]["loss"])


def test_the_classifier_regresses(spec: str, tmp_path: Path) -> None:
    data = spec.partition("&")[0] + "&target=number"
    out = train(config(data, tmp_path / "run", model="classifier", fuse="gated", sentiment=True), quiet=True)
    test = json.loads((out / "metrics.json").read_text())["test"]
    assert test["r2"] > 0.7


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        (
            "flags",
            {"model": "classifier", "fuse": "evidential"},
            "fuse = 'evidential' fuses logits of classes of which",
        ),
        ("number", {"model": "classifier", "fuse": "late"}, "for regression take a fuse of features such as 'concat'"),
        ("flags", {"sentiment": True}, r"sentiment = True .* asks for multilabel: leave it out"),
        ("pair", {"sentiment": True}, r"sentiment = True .* asks for regression of 2 numbers: leave it out, or save"),
        ("number", {"label_smoothing": 0.1}, "label_smoothing = 0.1 is for classes"),
        ("number", {"modulation": 0.8}, r"modulation = 0.8 .* the task here is regression, which has none: leave"),
        (
            "flags",
            {"modulation": 0.8, "modalities": ("b",)},
            "modulation = 0.8 compares modalities, but there is 'b' only",
        ),
        ("flags", {"model": "segmenter"}, "take 'auto' or 'classifier' or 'sequence'"),
    ],
)
def test_settings_for_other_targets(spec: str, tmp_path: Path, target: str, changes: dict, message: str) -> None:
    data = spec if target == "flags" else spec.partition("&")[0] + f"&target={target}"
    with pytest.raises(InputError, match=message):
        train(config(data, tmp_path / "run", **changes), quiet=True)
    assert not (tmp_path / "run").exists()

"""``dissect`` on models whose answer is known by construction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import fusionscope as fs
from fusionscope.errors import FileError, InputError, ModelError

CLASSES = 5


class OnlyA(nn.Module):
    """Reads the class from ``a`` alone; the others are added with almost no weight."""

    def __init__(self, modalities: tuple[str, ...] = ("a", "b")) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Sequential(nn.Linear(CLASSES, 7), nn.Tanh()) for m in modalities})
        self.head = nn.Linear(7, CLASSES)
        with torch.no_grad():
            for encoder in self.encoders.values():
                encoder[0].weight.copy_(torch.eye(7, CLASSES))
                encoder[0].bias.zero_()
            self.head.weight.copy_(torch.eye(CLASSES, 7))
            self.head.bias.zero_()

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        x, *rest = (self.encoders[m](inputs[m]) for m in self.encoders)
        return self.head(x + sum((0.001 * y for y in rest), start=torch.zeros(())))


def batches(count: int = 6, size: int = 31, modalities: tuple[str, ...] = ("a", "b"), seed: int = 0) -> list[dict]:
    """``a`` holds the class, the other modalities hold noise."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        label = torch.randint(0, CLASSES, (size,), generator=generator)
        inputs = {m: torch.randn(size, CLASSES, generator=generator) for m in modalities}
        inputs["a"] = 3 * nn.functional.one_hot(label, CLASSES) + 0.3 * inputs["a"]
        made.append({**inputs, "label": label})
    return made


class Counted:
    """A loader that counts how often it is read."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.passes = items, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(self.items)


@pytest.fixture(scope="module")
def found() -> fs.Dissection:
    return fs.dissect(OnlyA(), batches(), progress=False)


def test_removal_costs_what_the_wiring_says(found: fs.Dissection) -> None:
    table = found.tables["removal"].set_index("subset")
    assert table.index.tolist() == ["a+b", "a", "b", ""]
    assert table.loc["a+b", "value"] == 1
    assert table.loc["a", "drop"] == 0
    assert table.loc["b", "drop"] > 0.6
    assert table.loc["b", "drop_low"] > 0.5
    assert found.manifest["parameters"]["fill"] == "resample"
    assert found.manifest["parameters"]["empty"] == "filled"


def test_classes_are_encoded_where_they_are(found: fs.Dissection) -> None:
    table = found.tables["selectivity"].set_index(["modality", "concept"])
    assert table.loc["a", "encoded"].all()
    assert not table.loc["b", "encoded"].any()
    assert (table.loc["a", "best_unit"].drop("overall") == list(range(CLASSES))).all()
    assert found.arrays["eta2/encoders.a.1#0"].shape == (1 + CLASSES, 7)


def test_unrelated_modalities_lie_inside_the_null(found: fs.Dissection) -> None:
    table = found.tables["similarity"].set_index(["modality_a", "modality_b"])
    assert table.loc[("a", "a"), "cka"] == 1
    assert table.loc[("a", "b"), "cka"] < table.loc[("a", "b"), "null_high"]
    same = fs.dissect(OnlyA(), [{**b, "b": b["a"]} for b in batches()], measures=("similarity",), progress=False)
    assert same.tables["similarity"]["cka"].min() == pytest.approx(1)


def test_the_loader_is_read_twice_and_the_model_is_left_as_found() -> None:
    model, loader = OnlyA().train(), Counted(batches(3))
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    measures = ("similarity", "selectivity", "semantics", "units", "removal")
    found = fs.dissect(model, loader, measures=measures, progress=False)
    assert loader.passes == 2
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert all(not m._forward_hooks for m in model.modules())
    assert (
        found.manifest["forwards"]["stream"] == 3 * 4 + 3 + 3
    )  # two readings; the first batch's subsets once more, plainly
    assert found.manifest["data"]["samples"] == 93


def test_the_same_call_gives_the_same_tables() -> None:
    one, two = (fs.dissect(OnlyA(), batches(2), seed=3, progress=False) for _ in range(2))
    for name in one.tables:
        pd.testing.assert_frame_equal(one.tables[name], two.tables[name])
    assert one.manifest["data"]["fingerprint"] == two.manifest["data"]["fingerprint"]
    assert one.manifest["model"]["fingerprint"] == two.manifest["model"]["fingerprint"]
    other = fs.dissect(OnlyA(), batches(2, seed=1), seed=3, progress=False)
    assert other.manifest["data"]["fingerprint"] != one.manifest["data"]["fingerprint"]


def test_a_short_tail_joins_the_batch_before_it() -> None:
    short = batches(2)
    short[1] = {k: v[:3] for k, v in short[1].items()}
    found = fs.dissect(OnlyA(), short, progress=False)
    assert (found.manifest["data"]["batches"], found.manifest["data"]["samples"]) == (1, 34)


def test_three_modalities_and_a_training_prior() -> None:
    names = ("a", "b", "c")
    prior = [1.0, 1.0, 5.0, 1.0, 1.0]
    data = batches(4, modalities=names)
    found = fs.dissect(OnlyA(names), data, prior=prior, progress=False)
    table = found.tables["removal"].set_index("subset")
    assert len(table) == 8
    labels = torch.cat([b["label"] for b in data])
    assert table.loc["", "value"] == pytest.approx(float((labels == 2).float().mean()))
    assert found.manifest["parameters"]["empty"] == "majority"
    assert set(found.tables["taps"]["modality"]) == set(names)


def test_dense_labels() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU()) for _ in range(2))
            self.head = nn.Conv2d(6, 2, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.cat([self.a(a), self.b(b)], 1))[:, :, ::2, ::2]

    torch.manual_seed(0)
    data = []
    for _ in range(4):
        target = (torch.rand(17, 6, 6) > 0.5).long().repeat_interleave(2, 1).repeat_interleave(2, 2)
        a = target[:, None] + 0.1 * torch.randn(17, 1, 12, 12)
        data.append(({"a": a, "b": torch.randn(17, 1, 12, 12)}, target))
    found = fs.dissect(Dense(), data, classes=["off", "on"], progress=False)
    assert found.manifest["task"] == "dense"
    assert found.tables["removal"]["metric"].unique().tolist() == ["miou"]
    table = found.tables["selectivity"].set_index(["modality", "concept"])
    assert table.loc[("a", "on"), "encoded"]
    assert not table.loc[("b", "on"), "encoded"]


def test_regression_no_target_and_one_modality() -> None:
    regression = [{**b, "label": b["a"].sum(1)} for b in batches(3)]

    class Sum(OnlyA):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return super().forward(inputs).sum(1)

    found = fs.dissect(Sum(), regression, progress=False)
    assert found.tables["removal"]["metric"].unique().tolist() == ["r2"]
    assert "selectivity" not in found.tables
    found = fs.dissect(OnlyA(), [{k: b[k] for k in "ab"} for b in batches(2)], progress=False)
    assert set(found.tables) == {"taps", "similarity", "units"}
    assert any("the batches hold no target to score against" in note for note in found.manifest["messages"])
    found = fs.dissect(OnlyA(("a",)), [{k: b[k] for k in ("a", "label")} for b in batches(2)], progress=False)
    assert found.tables["removal"]["subset"].tolist() == ["a", ""]


def test_a_loader_sorted_by_class_is_noticed(found: fs.Dissection) -> None:
    assert not any("sorted by class" in message for message in found.manifest["messages"])
    whole = {k: torch.cat([b[k] for b in batches()]) for k in ("a", "b", "label")}
    order = whole["label"].argsort()
    data = [{k: v[i] for k, v in whole.items()} for i in order.split(31)]
    messages = fs.dissect(OnlyA(), data, progress=False).manifest["messages"]
    assert any("the loader seems sorted by class: a batch holds" in message for message in messages)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"measures": ("remval",)}, "unknown measure 'remval'.*Did you mean 'removal'"),
        ({}, {"fill": "zeros"}, "unknown fill-in 'zeros'.*Did you mean 'zero'"),
        ({}, {"metric": "acuracy"}, "Did you mean 'accuracy'"),
        ({}, {"taps": {"rgb": ["head"]}}, "unknown modality 'rgb'"),
        ({}, {"taps": {"a": ["encoders.a.9"]}}, "no call 'encoders.a.9'.*Did you mean"),
        ({}, {"classes": ["x", "y"]}, "2 class names were given, but the model's output has 5 classes"),
        ({"label": torch.full((31,), 7)}, {}, "the target holds class 7, but the model's output has 5 classes"),
        ({"label": torch.zeros(31, 2, 2, dtype=torch.long)}, {}, "cannot score an output"),
        ({"a": torch.full((31, CLASSES), torch.nan)}, {}, "'a' holds NaN or infinite values in 31 of 31 samples"),
    ],
)
def test_bad_input_is_named(change: dict[str, Tensor], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fs.dissect(OnlyA(), [{**b, **change} for b in batches(2)], progress=False, **arguments)


def test_empty_and_uneven_loaders() -> None:
    with pytest.raises(InputError, match="the loader gave no batch"):
        fs.dissect(OnlyA(), [], progress=False)
    uneven = batches(2)
    del uneven[1]["b"]
    with pytest.raises(InputError, match="batch 2 has the modalities a, the first one a, b"):
        fs.dissect(OnlyA(), uneven, progress=False)


def test_another_path_on_a_later_batch_is_an_error() -> None:
    class Fickle(OnlyA):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            if inputs["a"].max() > 100:
                return inputs["a"] + 0 * inputs["b"]
            return super().forward(inputs)

    data = batches(2)
    data[1]["a"] = data[1]["a"] + 1000
    model = Fickle()
    with pytest.raises(ModelError, match=r"encoders\.a\.1#0, .* ran while tracing but not on a later batch"):
        fs.dissect(model, data, progress=False)
    assert all(not m._forward_hooks for m in model.modules())


def test_save_and_load_give_the_same(found: fs.Dissection, tmp_path: Path) -> None:
    folder = found.save(tmp_path / "kept")
    again = fs.load(folder)
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table)
    assert again.trace == json.loads(json.dumps(found.trace))
    assert again.manifest == found.manifest
    assert set(again.arrays) == set(found.arrays)
    assert all(np.array_equal(again.arrays[name], array, equal_nan=True) for name, array in found.arrays.items())
    assert repr(again) == repr(found)
    found.save(folder)


def test_what_is_no_dissection_is_refused(found: fs.Dissection, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(FileError, match="exists and is not a dissection"):
        found.save(tmp_path / "mine")
    with pytest.raises(FileError, match="holds no dissection"):
        fs.load(tmp_path / "mine")
    folder = found.save(tmp_path / "kept")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(FileError, match="schema 99, newer than the 1 known here"):
        fs.load(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest)[:-50])
    with pytest.raises(FileError, match="is damaged"):
        fs.load(folder)


def test_the_main_numbers_in_words(found: fs.Dissection) -> None:
    text = repr(found)
    assert "Dissection of OnlyA on a user's loader: a, b; 186 samples" in text
    assert "without b 1.000, a drop of +0.000" in text
    assert "a encodes 5 of 5 classes above chance" in text
    assert "b encodes 0 of 5 classes above chance" in text


@pytest.mark.parametrize("folder", sorted((Path(__file__).parent / "kept").iterdir()), ids=lambda folder: folder.name)
def test_dissections_kept_from_earlier_versions_stay_readable(folder: Path, tmp_path: Path) -> None:
    found = fs.load(folder)
    assert found.tables["removal"]["value"].tolist()[0] == 1
    assert found.tables["recovery"]["expected"].isna().sum() == 2
    assert "removal      accuracy 1.000" in repr(found)
    assert found.report(tmp_path / "report.html").stat().st_size > 500_000

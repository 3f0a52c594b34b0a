"""Twins, copies, checkpoints, concepts of one's own, and loaders that are read twice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fusionscope as fs
from fusionscope.errors import InputError


class Net(nn.Module):
    """Two encoders, one head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(3, 11), nn.ReLU(), nn.Linear(11, 7))
        self.b = nn.Sequential(nn.Linear(2, 11), nn.ReLU(), nn.Linear(11, 7))
        self.head = nn.Linear(14, 5)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(a), self.b(b)], 1))


class Solo(nn.Module):
    """One encoder, one head; the encoder has the path it has in ``Net``."""

    def __init__(self, name: str, wide: int) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(nn.Linear(wide, 11), nn.ReLU(), nn.Linear(11, 7)))
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.get_submodule(self.name)(x))


def samples(count: int = 230) -> list[dict[str, Tensor | int]]:
    """Modality a shows classes 0 and 1, modality b classes 2 and 3; neither shows class 4 but by exclusion."""
    rng = torch.Generator().manual_seed(0)
    out = []
    for i in range(count):
        label = i % 5
        a, b = torch.randn(3, generator=rng), torch.randn(2, generator=rng)
        if label < 2:
            a[label] += 5
        elif label < 4:
            b[label - 2] += 5
        out.append({"a": a, "b": b, "label": label})
    return out


def loader(**settings) -> DataLoader:
    settings = {"batch_size": 23, "shuffle": True, "generator": torch.Generator().manual_seed(1)} | settings
    return DataLoader(samples(), **settings)


def dissect(model: nn.Module, data, **settings) -> fs.Dissection:
    return fs.dissect(model, data, **{"measures": ("similarity", "semantics"), "progress": False} | settings)


def test_streams_tell_what_their_modality_shows() -> None:
    torch.manual_seed(0)
    found = dissect(Net(), loader())
    profile = found.tables["profile"]
    last = profile[(profile["question"] == "across") & (profile["level_a"] == profile["level_a"].max())]
    kind = dict(zip(last["concept"], last["kind"], strict=True))
    assert {c: kind[c] for c in "0123"} == {"0": "a", "1": "a", "2": "b", "3": "b"}
    assert set(profile["question"]) == {"across", "within"}
    emergence = found.tables["emergence"].set_index(["modality", "concept"])
    assert emergence.loc[("a", "0"), "level"] == 0
    assert emergence.loc[("a", "0"), "score"] > 0.9
    own = found.tables["variance"].query("tap_a == tap_b")
    assert (own["sv"] == 0).all()
    assert "special to a at the last level: 0, 1" in repr(found)
    assert found.manifest["parameters"]["margin"] == 0.05


def test_twins_copies_and_checkpoints() -> None:
    torch.manual_seed(0)
    model = Net()
    twins = {"a": Solo("a", 3), "b": Solo("b", 2)}
    twins["a"].a.load_state_dict(model.a.state_dict())
    other = copy.deepcopy(twins["a"])
    nn.init.zeros_(other.a[2].weight)
    early = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
    found = dissect(
        model,
        loader(),
        references=twins,
        copies={"b": [copy.deepcopy(twins["b"])]},
        checkpoints={3: model.state_dict(), 0: early},
    )
    assert found.manifest["references"] == ["solo a", "solo b", "copy b 1", "epoch 0", "epoch 3"]
    assert found.manifest["parameters"]["margin"] == 0.05  # the copy is the twin itself
    profile = found.tables["profile"]
    assert set(profile["question"]) == {"across", "within", "twin", "solo", "training"}
    same = profile[(profile["question"] == "twin") & (profile["modality_a"] == "a")]
    assert len(same) == 5 * len(found.tables["taps"].query("source == '' and modality == 'a'"))
    assert (same["d"] == 0).all()
    final = profile[(profile["question"] == "training") & (profile["source_a"] == "epoch 3")]
    assert (final["d"] == 0).all()
    moved = profile[(profile["question"] == "training") & (profile["source_a"] == "epoch 0")]
    assert moved["d"].abs().max() > 0
    together = found.tables["collaboration"]
    assert set(together["concept"]) == {"", "0", "1", "2", "3", "4"}
    similarity = found.tables["similarity"]
    pair = similarity[(similarity["tap_a"] == "a#0") & (similarity["tap_b"] == "solo a/a#0")]
    assert pair.empty or pair["cka"].iloc[0] == pytest.approx(1)
    kept = dissect(model, loader(), references={"a": (other, fs.Adapter())})
    assert kept.manifest["references"] == ["solo a"]
    assert all(not m._forward_hooks for net in (model, *twins.values()) for m in net.modules())


def test_references_that_do_not_fit_are_errors() -> None:
    with pytest.raises(
        InputError, match=r"'solo c' is for a modality that the batch does not have; expected one of a, b"
    ):
        dissect(Net(), loader(), references={"c": Solo("a", 3)})
    with pytest.raises(InputError, match="checkpoint of epoch 2 does not fit the model"):
        dissect(Net(), loader(), checkpoints={2: {"x": torch.zeros(1)}})
    with pytest.raises(InputError, match="no checkpoint at"):
        dissect(Net(), loader(), checkpoints={2: "nowhere.safetensors"})


def test_a_loader_that_shuffles_is_read_alike() -> None:
    for settings in ({}, {"generator": None}, {"generator": None, "num_workers": 1}):
        found = dissect(Net(), loader(**settings), measures=("semantics",))
        assert found.manifest["data"]["samples"] == 230


def test_a_loader_that_changes_is_refused() -> None:
    class Changing:
        def __init__(self) -> None:
            self.passes = 0

        def __iter__(self):
            self.passes += 1
            for batch in loader(shuffle=False, generator=None):
                yield {**batch, "a": batch["a"] + self.passes}

    with pytest.raises(InputError, match=r"other batches when it is read again \(batch 1 is another one\)"):
        dissect(Net(), Changing())

    class Shorter(Changing):
        def __iter__(self):
            self.passes += 1
            yield from list(loader(shuffle=False, generator=None))[: 5 - self.passes]

    with pytest.raises(InputError, match="it ended after 3 of 4 batches"):
        dissect(Net(), Shorter())
    with pytest.raises(InputError, match="reads the data twice, and this loader can be read only once"):
        dissect(Net(), iter(loader()))
    assert len(dissect(Net(), iter(loader()), measures=("similarity",)).tables["similarity"])


def test_concepts_of_ones_own() -> None:
    def named(batch: fs.Batch) -> dict[str, Tensor]:
        return {"first two": batch.target < 2, "odd": torch.where(batch.target == 0, torch.nan, batch.target % 2)}

    found = dissect(Net(), loader(), concepts=named)
    assert set(found.tables["concepts"]["concept"]) == {"first two", "odd"}
    share = found.tables["concepts"].groupby("concept")["prevalence"].first()
    assert share["odd"] == pytest.approx(0.5)  # of the classes 1 to 4
    assert share["first two"] == pytest.approx(0.25)  # unknown in one concept is unknown in all

    def wrong(batch: fs.Batch) -> dict[str, Tensor]:
        return {"x": batch.target[:3] > 0}

    with pytest.raises(InputError, match=r"masks of one shape that starts with the batch's 23 samples, got \[\(3,\)\]"):
        dissect(Net(), loader(), concepts=wrong)
    with pytest.raises(InputError, match=r"expected concepts= to return a dict of masks"):
        dissect(Net(), loader(), concepts=lambda batch: batch.target)  # ty: ignore[invalid-argument-type]


def test_regression_has_no_concepts_unless_they_are_given() -> None:
    data = [{"a": s["a"], "b": s["b"], "target": torch.randn(())} for s in samples(60)]
    model = Net()
    model.head = nn.Linear(14, 1)
    found = dissect(model, DataLoader(data, batch_size=20), measures=("semantics", "units"))
    assert "concepts" not in found.tables
    assert any("semantic variance needs concepts" in note for note in found.manifest["messages"])
    assert found.tables["units"]["selectivity_max"].isna().all()


def test_every_measure_at_once() -> None:
    every = ("similarity", "selectivity", "semantics", "units", "detectors", "pairwise", "removal")
    found = dissect(Net(), loader(), measures=every)
    assert {"units", "pairwise", "removal", "variance"} <= set(found.tables)
    assert found.tables["units"]["detectors"].notna().all()
    assert set(found.tables["pairwise"]["measure"]) == {"procrustes", "svcca", "rsa", "mutual_knn", "cka_rbf"}

"""The run folder and weights files: round trips, and one clear message for everything that can be wrong."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fusionscope.engine import TrainConfig, load_run, load_weights, train
from fusionscope.engine._folder import rebuild
from fusionscope.engine._trainee import evaluate
from fusionscope.errors import FileError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    return train(TrainConfig(data="digits", out=str(out), epochs=1, width=4, accelerator="cpu"), quiet=True)


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_round_trip(trained):
    run, again = load_run(trained), load_run(str(trained), data=False)
    assert sorted(p.name for p in trained.iterdir()) == [
        "config.json",
        "history.csv",
        "metrics.json",
        "weights.safetensors",
    ]
    assert again.data is None
    assert not run.model.training
    batch = next(iter(run.data.loader("test", 31)))
    with torch.no_grad():
        assert torch.equal(run.model(batch["inputs"]), again.model(batch["inputs"]))
    assert run.config == TrainConfig(data="digits", out=run.config.out, epochs=1, width=4, accelerator="cpu")
    assert run.description["data"]["classes"] == [str(i) for i in range(10)]
    assert run.description["data"]["fingerprint"] == run.data.fingerprint
    assert sum(run.description["training"]["class_counts"]) == run.data.size("train")
    assert run.description["model"]["parameters"] == sum(p.numel() for p in run.model.parameters())


def test_the_loaded_model_has_the_written_scores(trained):
    from lightning_fabric import Fabric

    run = load_run(trained)
    fabric = Fabric(accelerator="cpu", devices=1)
    scores = evaluate(
        fabric, run.model, run.data.splits["test"], run.data.task, run.data.classes, run.config, torch.ones(1)
    )
    assert scores["accuracy"] == run.metrics["test"]["accuracy"]
    assert scores["loss"] == pytest.approx(run.metrics["test"]["loss"], rel=1e-5)


def test_weights_tell_what_they_are(trained):
    model = load_run(trained, data=False).model
    metadata = load_weights(model, trained / "weights.safetensors")
    assert json.loads(metadata["fusionscope"]) == json.loads((trained / "config.json").read_text())


def test_changed_data_is_a_warning(copy):
    path = copy / "config.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"data": found["data"] | {"fingerprint": "0" * 16}}))
    with pytest.warns(UserWarning, match="the data of digits changed since"):
        load_run(copy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_run(copy, data=False)


def _config(**changes):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def _without(part, key):
    def damage(folder):
        path = folder / "config.json"
        found = json.loads(path.read_text())
        del found[part][key]
        path.write_text(json.dumps(found))

    return damage


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: (f / "config.json").unlink(), r"is not a run folder: no config.json \(history.csv"),
        (lambda f: (f / "config.json").write_text('{"kind": '), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json is damaged: expected an object, found list"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
        (_config(kind="thing"), "not the config of a fusionscope run"),
        (_config(schema=99), "has schema 99, this fusionscope reads 1"),
        (_config(train={"data": "digits", "out": "x", "lrr": 1}), "damaged: .*unknown field `lrr`"),
        (_without("model", "width"), "does not fit|damaged"),
        (_without("model", "shapes"), "damaged: lacks 'shapes'"),
        (_without("data", "fingerprint"), "damaged: lacks 'fingerprint'"),
        (lambda f: (f / "metrics.json").unlink(), "no metrics.json"),
        (lambda f: (f / "weights.safetensors").unlink(), "weights file .* does not exist"),
        (lambda f: (f / "weights.safetensors").write_bytes(b""), "not a readable safetensors file"),
        (
            lambda f: (f / "weights.safetensors").write_bytes((f / "weights.safetensors").read_bytes()[:-7]),
            "not a readable safetensors file .*cut off or damaged",
        ),
        (lambda f: (f / "weights.safetensors").write_bytes(b"PK\x03\x04 zip"), "is a pickle, which can run code"),
        (lambda f: shutil.rmtree(f), "the folder does not exist"),
    ],
)
def test_damaged_run_folders(copy, damage, text):
    damage(copy)
    with pytest.raises(FileError, match=text) as caught:
        load_run(copy)
    assert "\n\n" not in str(caught.value)


def test_no_pickle_is_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("the pickle was loaded",)

    model = nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    torch.save(model.state_dict(), tmp_path / "zip.safetensors")
    torch.save(model.state_dict(), tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    (tmp_path / "bomb.safetensors").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "plain.safetensors").write_bytes(pickle.dumps([1, 2], protocol=0))
    save_file(model.state_dict(), tmp_path / "named.pth")
    for name in ("a.pt", "zip.safetensors", "old.safetensors", "bomb.safetensors", "named.pth"):
        with pytest.raises(FileError, match=r"is a pickle, which can run code.*(?s:.)*save_file\(torch.load"):
            load_weights(model, tmp_path / name)
    with pytest.raises(FileError, match="not a readable safetensors file"):
        load_weights(model, tmp_path / "plain.safetensors")
    with pytest.raises(FileError, match="is a folder"):
        load_weights(model, tmp_path)


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    good = {k: v + 1 for k, v in before.items()}
    cases = [
        ({k: v for k, v in good.items() if k != "1.bias"}, r"1 missing \(1.bias\)"),
        (good | {"2.bias": torch.zeros(2)}, r"1 not in the model \(2.bias\)"),
        ({k.replace("0.", "O."): v for k, v in good.items()}, "2 missing.*2 not in the model.*Did you mean 'O.weight'"),
        (good | {"1.weight": torch.zeros(7, 5)}, r"1.weight has shape \(7, 5\) in the file and \(2, 5\) in the model"),
    ]
    for state, text in cases:
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(FileError, match=text):
            load_weights(model, tmp_path / "w.safetensors")
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    save_file(good, tmp_path / "w.safetensors", {"a": "b"})
    assert load_weights(model, tmp_path / "w.safetensors") == {"a": "b"}
    assert all(torch.equal(v, good[k]) for k, v in model.state_dict().items())


def test_tied_weights_may_be_stored_once(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight = model["a"].weight
    save_file({"a.weight": torch.eye(3)}, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model["b"].weight, torch.eye(3))


def test_rebuild_gives_the_same_names(trained):
    description = json.loads((trained / "config.json").read_text())
    assert set(rebuild(description["model"]).state_dict()) == set(load_file(trained / "weights.safetensors"))

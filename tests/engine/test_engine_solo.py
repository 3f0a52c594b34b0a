"""Solo twins and their copies, and checkpoints along training: what is written, kept and refused."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fusionscope.engine import TrainConfig, load_run, load_weights, train
from fusionscope.engine import _loop as loop
from fusionscope.engine._checkpoints import evenly, thin
from fusionscope.engine._folder import rebuild
from fusionscope.errors import FileError, InputError
from fusionscope.nn import build_model


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> str:
    """Three modalities of three kinds, two of them maps of unlike sizes, smaller than the dense target."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("toy") / "toy.npz"
    mask = rng.integers(0, 2, (83, 19, 23))
    np.savez(
        path,
        x=rng.normal(size=(83, 5)).astype("f4"),
        m=(mask[:, :11, :13] + rng.normal(size=(83, 11, 13))).astype("f4"),
        v=rng.normal(size=(83, 3, 7, 5)).astype("f4"),
        label=np.arange(83) % 3,
        mask=mask.astype("i2"),
        split=np.repeat([0, 1, 2], [53, 13, 17]),
    )
    return f"npz:{path}?inputs=x:NC,m:NHW,v:NTHW&target=%s&split=split"


def config(data: str, out, **changes) -> TrainConfig:
    return TrainConfig(
        data=data, out=str(out), **{"epochs": 2, "width": 4, "batch_size": 16, "accelerator": "cpu"} | changes
    )


def same(one, two) -> bool:
    first, second = load_file(one / "weights.safetensors"), load_file(two / "weights.safetensors")
    return set(first) == set(second) and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def family(toy, tmp_path_factory):
    """A joint run with its twins and one copy of each, seed 7."""
    out = tmp_path_factory.mktemp("runs") / "joint"
    return train(config(toy % "label", out, solo=True, copies=1, seed=7, checkpoints=2, augment=0.5), quiet=True)


def test_each_twin_is_the_run_that_its_modality_alone_would_give(toy, family, tmp_path):
    assert sorted(p.name for p in (family / "solo").iterdir()) == ["m", "m-seed9", "v", "v-seed9", "x", "x-seed9"]
    settings = {"augment": 0.5, "seed": 7}
    assert same(family, train(config(toy % "label", tmp_path / "joint", **settings), quiet=True)), (
        "solo changes nothing"
    )
    alone = train(config(toy % "label", tmp_path / "v", modalities=("v",), **settings | {"seed": 8}), quiet=True)
    assert same(family / "solo" / "v", alone)
    other = train(config(toy % "label", tmp_path / "9", modalities=("v",), **settings | {"seed": 9}), quiet=True)
    assert same(family / "solo" / "v-seed9", other)
    assert not same(alone, other)
    scores = [json.loads((f / "metrics.json").read_text())["test"] for f in (family / "solo" / "v", alone)]
    assert scores[0] == scores[1]


def test_a_run_reaches_its_twins_and_copies(family, toy, tmp_path):
    run = load_run(family)
    assert list(run.solo) == list(run.copies) == ["x", "m", "v"]
    for m, twin in run.solo.items():
        again = load_run(family / "solo" / m)
        assert twin.model.modalities == twin.data.modalities == again.data.modalities == (m,)
        assert (twin.config, twin.config.seed, twin.config.solo) == (again.config, 8, False)
        assert [copy.config.seed for copy in run.copies[m]] == [9]
        assert (twin.solo, twin.copies) == ({}, {})
        assert list(twin.checkpoints) == [0, 2]
    assert run.solo is run.solo, "read once"
    assert load_run(family, data=False).solo["x"].data is None
    plain = load_run(train(config(toy % "label", tmp_path / "plain", epochs=1), quiet=True))
    assert (plain.solo, plain.copies, plain.checkpoints) == ({}, {}, {})


def test_no_twin_starts_from_the_joint_models_weights(family):
    """With one seed the first modality's encoder would: the last check shows that this test can fail."""
    run = load_run(family)
    start = load_file(run.checkpoints[0])
    for m, twin in run.solo.items():
        weights = [k for k in start if k.startswith(f"encoders.{m}.") and k.endswith("weight") and start[k].ndim > 1]
        others = [load_file(one.checkpoints[0]) for one in (twin, *run.copies[m])]
        for one, two in itertools.combinations([start, *others], 2):
            assert weights
            assert not any(torch.equal(one[k], two[k]) for k in weights)
    torch.manual_seed(7)
    same_seed = rebuild(run.solo["x"].description["model"]).state_dict()
    assert all(torch.equal(same_seed[k], start[k]) for k in start if k.startswith("encoders.x."))


def shapes(model, inputs: dict) -> dict[str, tuple[int, ...]]:
    """The output shape of every call inside the encoders, by module path."""
    found: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: found.update({name: tuple(out.shape)}))
        for name, module in model.named_modules()
        if name.startswith("encoders.")
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return found


def test_levels_of_dense_twins_are_those_of_the_joint_model(toy, tmp_path):
    run = load_run(train(config(toy % "mask", tmp_path / "run", epochs=1, solo=True), quiet=True))
    batch = next(iter(run.data.loader("test", 3)))["inputs"]
    joint, state = shapes(run.model, batch), run.model.state_dict()
    for m, twin in run.solo.items():
        mine = {k: s for k, s in joint.items() if k.startswith(f"encoders.{m}")}
        assert shapes(twin.model, {m: batch[m]}) == mine
        weights = {k: v.shape for k, v in state.items() if k.startswith(f"encoders.{m}.")}
        assert {k: v.shape for k, v in twin.model.state_dict().items() if k.startswith("encoders.")} == weights
        assert twin.model({m: batch[m]}).shape == (3, 2, 19, 23)
    small = build_model({"m": (1, 11, 13)}, {"m": "NCHW"}, "dense", 2, width=4)
    assert shapes(small.eval(), {"m": batch["m"]}) != shapes(run.solo["m"].model, {"m": batch["m"]}), "it can fail"


def test_the_data_is_loaded_once(toy, tmp_path, monkeypatch):
    from fusionscope.engine import _rehearse, _train

    calls, held = [], []
    real_load, real_job = _rehearse.load_data, _train.Job

    class Job(real_job):
        def _prepare(self):
            super()._prepare()
            held.append(self.splits["train"].inputs)

    monkeypatch.setattr(_rehearse, "load_data", lambda *a, **k: calls.append(1) or real_load(*a, **k))
    monkeypatch.setattr(_train, "Job", Job)
    train(config(toy % "label", tmp_path / "run", epochs=1, solo=True), quiet=True)
    assert len(calls) == 1
    assert [list(inputs) for inputs in held] == [["x", "m", "v"], ["x"], ["m"], ["v"]]
    assert all(inputs[m] is held[0][m] for inputs in held[1:] for m in inputs)


def test_ctrl_c_in_a_twin_keeps_the_finished_runs(toy, tmp_path, monkeypatch, capsys):
    real, calls = loop.evaluate, itertools.count()

    def evaluate(*arguments):
        if next(calls) == 2 * 3 + 1:  # per run two epochs and the test: the second epoch of the second twin
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr("fusionscope.engine._job.evaluate", evaluate)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config(toy % "label", out, solo=True))
    shown = capsys.readouterr().err
    assert "solo x train   1/2" in shown
    assert f"interrupted: {out}/solo/m is not written yet; --resume completes it" in shown
    assert [p.name for p in (out / "solo").iterdir()] == ["x"]
    run = load_run(out)
    assert not run.metrics["interrupted"]
    assert list(run.solo) == ["x"]
    train(config(toy % "label", out / "solo" / "m", modalities=("m",), seed=1), quiet=True)
    assert list(load_run(out).solo) == ["x", "m"], "added as the message says"


def test_overwrite_replaces_twins_and_checkpoints(toy, tmp_path):
    out = tmp_path / "run"
    train(config(toy % "label", out, solo=True, copies=1, checkpoints=3), quiet=True)
    with pytest.raises(FileError, match="not empty"):
        train(config(toy % "label", out), quiet=True)
    train(config(toy % "label", out, solo=True, modalities=("x", "m"), overwrite=True), quiet=True)
    assert sorted(p.name for p in (out / "solo").iterdir()) == ["m", "x"]
    train(config(toy % "label", out, overwrite=True), quiet=True)
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "history.csv",
        "metrics.json",
        "weights.safetensors",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"solo": True, "modalities": ("x",)}, "solo needs two modalities or more.*'x' only.*leave solo"),
        ({"copies": 2}, r"set solo \(--solo\) too, or leave copies out"),
        ({"solo": True, "copies": -1}, "copies must be at least 0, got -1"),
        ({"checkpoints": -3}, "checkpoints must be at least 0, got -3"),
        ({"checkpoints": 1}, "checkpoints must be 0 or at least 2.*got 1"),
    ],
)
def test_settings_that_make_no_sense(toy, tmp_path, changes, text):
    with pytest.raises(InputError, match=text):
        train(config(toy % "label", tmp_path / "run", **changes), quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("a/b", "c"), "named after modality 'a/b'"),
        (("a", "a-seed2"), "'a-seed2' and 'a-seed2'"),
        (("A", "a"), "are one"),
    ],
)
def test_modalities_that_cannot_be_folders(tmp_path, names, text):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", label=np.arange(40) % 2, **{n: rng.normal(size=(40, 3)) for n in names})
    data = f"npz:{tmp_path / 'd.npz'}?inputs={','.join(f'{n}:NC' for n in names)}"
    with pytest.raises(InputError, match=text):
        train(config(data, tmp_path / "run", solo=True, copies=1), quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["d.npz"]


def test_a_stranger_among_the_twins_is_refused(toy, tmp_path):
    out = train(config(toy % "label", tmp_path / "run", epochs=1, solo=True, copies=1), quiet=True)
    (out / "solo" / "x").rename(out / "solo" / "old")
    (out / "solo" / "m-seed2").rename(out / "solo" / "x")
    with pytest.raises(FileError, match="is no solo twin of .*expected a run of 'x' alone.*found one of m on"):
        _ = load_run(out).solo
    (out / "solo" / "x" / "config.json").unlink()
    with pytest.raises(FileError, match="x is not a run folder"):
        _ = load_run(out).solo
    assert list(load_run(out).copies) == ["x", "v"]


@pytest.mark.parametrize("count", [2, 3, 5, 11])
def test_wherever_training_ends_the_evenly_spaced_epochs_are_there(count):
    for epochs in (1, 7, 23):
        kept: dict[int, int] = {}
        for epoch in range(epochs + 1):
            kept = thin(kept | {epoch: epoch}, epoch, epochs, count)
            chosen = evenly(epoch, count)
            assert set(chosen) <= set(kept)
            assert (chosen[0], chosen[-1], len(chosen)) == (0, epoch, min(count, epoch + 1))
            assert np.ptp(np.diff(chosen)) <= 1 if epoch else True
        assert list(kept) == evenly(epochs, count), "at the end nothing superfluous is left"


def test_checkpoints_are_the_weights_along_the_training(toy, tmp_path, monkeypatch):
    """Validation never improves after epoch 2: with patience 3 training ends after epoch 5."""
    scripted = iter([0.2, 0.6] + [0.1] * 9)
    seen = []
    real = loop.evaluate

    def evaluate(fabric, model, *rest):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {**real(fabric, model, *rest), "accuracy": next(scripted), "loss": 1.0}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    settings = {"epochs": 20, "patience": 3, "checkpoints": 3, "refit": True, "seed": 5}
    run = load_run(train(config(toy % "label", tmp_path / "run", **settings), quiet=True))
    assert [(epoch, path.name) for epoch, path in run.checkpoints.items()] == [
        (0, "epoch-0000.safetensors"),
        (3, "epoch-0003.safetensors"),
        (5, "epoch-0005.safetensors"),
    ]
    assert run.metrics["refit_epochs"] == 5, "a refit follows, and keeps no checkpoints"
    torch.manual_seed(5)
    expected = {0: rebuild(run.description["model"]).state_dict(), 3: seen[2], 5: seen[4]}
    for epoch, path in run.checkpoints.items():
        metadata = load_weights(run.model, path)
        assert metadata["epoch"] == str(epoch)
        assert all(torch.equal(v, expected[epoch][k]) for k, v in run.model.state_dict().items())
    assert not torch.equal(seen[2]["encoders.x.stages.0.0.weight"], seen[4]["encoders.x.stages.0.0.weight"])


def test_ctrl_c_keeps_the_checkpoints_so_far(toy, tmp_path, monkeypatch):
    real, calls = loop.evaluate, itertools.count()

    def evaluate(*arguments):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        train(config(toy % "label", tmp_path / "run", epochs=9, checkpoints=3, solo=True), quiet=True)
    run = load_run(tmp_path / "run")
    assert run.metrics["interrupted"]
    assert (list(run.checkpoints), run.solo) == ([0, 2, 4], {})

"""Training: determinism, early stop, interruption, scores, augmentation."""

from __future__ import annotations

import csv
import json

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fusionscope.engine import TrainConfig, load_run, train
from fusionscope.engine import _loop as loop
from fusionscope.engine._augment import Augment
from fusionscope.engine._scores import Scores, task_loss
from fusionscope.errors import FileError, InputError, ModelError


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> str:
    """Class = 3 bits: one in the mean of a vector, one in a sequence's direction, one where a map is bright."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (180, 3))
    sign = 2.0 * bits - 1
    x = rng.normal(size=(180, 5)) + 2 * sign[:, :1]
    s = rng.normal(size=(180, 17, 3)) * 0.3 + np.linspace(-1, 1, 17)[:, None] * sign[:, 1, None, None]
    m = rng.normal(size=(180, 11, 13)) * 0.3
    m[:, :, :6] += sign[:, 2, None, None]
    path = tmp_path_factory.mktemp("toy") / "toy.npz"
    np.savez(
        path,
        x=x.astype("f4"),
        s=s.astype("f4"),
        m=m.astype("f4"),
        label=bits @ [4, 2, 1],
        mask=(np.broadcast_to(np.arange(13) < 6, m.shape) == bits[:, 2, None, None].astype(bool)).astype("i2"),
        value=(1000 + 70 * sign[:, 0] + 7 * sign[:, 1]).astype("f4"),
        split=np.repeat([0, 1, 2], [120, 20, 40]),
    )
    return f"npz:{path}?inputs=x:NC,s:NTC,m:NHW&target=%s"


def config(data: str, out, **changes) -> TrainConfig:
    settings = {"epochs": 4, "width": 4, "batch_size": 16, "accelerator": "cpu", "lr": 0.01} | changes
    return TrainConfig(data=data, out=str(out), **settings)


def history(folder) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_learns_planted_classes_of_which_each_modality_knows_one_bit(toy, tmp_path):
    run = load_run(train(config(toy % "label", tmp_path / "all", epochs=8), quiet=True))
    assert run.metrics["test"]["accuracy"] > 0.9
    solo = load_run(train(config(toy % "label", tmp_path / "x", epochs=8, modalities=("x",)), quiet=True))
    assert solo.model.modalities == solo.data.modalities == ("x",)
    assert solo.metrics["test"]["accuracy"] < 0.5, "one bit of three: at best 1/4 in expectation"
    assert (
        run.description["training"]["class_counts"]
        == np.bincount([int(run.data.splits["train"][i]["target"]) for i in range(120)], minlength=8).tolist()
    )


def test_dense_and_regression(toy, tmp_path):
    data = toy.replace("x:NC,s:NTC,", "")
    dense = load_run(train(config(data % "mask", tmp_path / "d", epochs=10, augment=0.2), quiet=True))
    assert dense.metrics["metric"] == "miou"
    assert dense.metrics["test"]["miou"] > 0.85
    wide = load_run(train(config(toy % "value", tmp_path / "r", epochs=10, auxiliary=0.5, lr=0.03), quiet=True))
    assert wide.metrics["test"]["r2"] > 0.8, "a target of 1000 ± 70"
    assert wide.model({m: v[None] for m, v in wide.data.splits["test"][0]["inputs"].items()}).shape == (1,)


def test_same_seed_gives_the_same_bits_and_leaves_the_global_rng_alone(toy, tmp_path):
    settings = {"augment": 1.0, "dropout": 0.3, "modality_dropout": 0.2, "auxiliary": 0.5, "epochs": 2, "refit": True}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    runs = [
        train(config(toy % "label", tmp_path / n, seed=s, **settings), quiet=True)
        for n, s in zip("abc", (7, 7, 8), strict=True)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = (load_file(run / "weights.safetensors") for run in runs)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)
    assert [r["phase"] for r in history(runs[0])] == ["train"] * 2 + ["refit"] * 2
    assert json.loads((runs[0] / "config.json").read_text())["training"]["splits"] == ["train", "val"]


def test_early_stop_keeps_the_best_weights(toy, tmp_path, monkeypatch):
    """Validation improves twice, then never: with patience 3 the training ends after epoch 5 with epoch 2's weights."""
    scripted = iter([0.2, 0.6, 0.5, 0.6, 0.1, 0.9, 0.9])
    seen = []
    real = loop.evaluate

    def evaluate(fabric, model, *rest):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {**real(fabric, model, *rest), "accuracy": next(scripted), "loss": 1.0}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    folder = train(config(toy % "label", tmp_path / "run", epochs=20, patience=3), quiet=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (len(seen), metrics["best_epoch"], metrics["epochs"], metrics["stopped_early"]) == (5, 2, 5, True)
    weights = load_file(folder / "weights.safetensors")
    assert all(torch.equal(weights[k], seen[1][k]) for k in weights)


def test_ctrl_c_saves_the_best_so_far(toy, tmp_path, monkeypatch, capsys):
    real, calls = loop.evaluate, []

    def evaluate(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        train(config(toy % "label", tmp_path / "run"))
    assert "interrupted: the best weights so far" in capsys.readouterr().err
    run = load_run(tmp_path / "run")
    assert run.metrics["interrupted"]
    assert run.metrics["test"] is None
    assert len(history(tmp_path / "run")) == 2


def test_ctrl_c_while_refitting_keeps_the_selected_weights(toy, tmp_path, monkeypatch):
    plain = train(config(toy % "label", tmp_path / "plain", epochs=2), quiet=True)
    refitting = []

    class Interrupting(loop.Reporter):
        def phase(self, name, steps, done=0):
            super().phase(name, steps, done)
            refitting[:] = [name == "refit"]

        def epoch(self, *arguments):
            if refitting[0]:
                raise KeyboardInterrupt

    monkeypatch.setattr("fusionscope.engine._train.Reporter", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(config(toy % "label", tmp_path / "run", epochs=2, refit=True), quiet=True)
    one, two = (load_file(f / "weights.safetensors") for f in (plain, tmp_path / "run"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert load_run(tmp_path / "run").description["training"]["splits"] == ["train"]


def test_ctrl_c_before_the_first_epoch_leaves_nothing(toy, tmp_path, monkeypatch, capsys):
    def evaluate(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        train(config(toy % "label", tmp_path / "run"))
    assert "nothing to save" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_line_per_epoch_without_a_terminal(toy, tmp_path, capsys):
    train(config(toy % "label", tmp_path / "run", epochs=2))
    lines = capsys.readouterr().err.splitlines()
    assert [line[:11] for line in lines[:2]] == ["train   1/2", "train   2/2"]
    assert lines[2].startswith("test accuracy")
    assert len(lines) == 3


def test_a_loss_that_explodes_is_an_error(toy, tmp_path):
    with pytest.raises(ModelError, match=r"the training loss became (nan|inf) in epoch \d.*lower --lr"):
        train(config(toy % "value", tmp_path / "run", lr=1e30, precision="32-true"), quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lr": -1.0}, "lr must be more than 0, got -1"),
        ({"epochs": 0}, "epochs must be more than 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"lr": float("nan")}, "lr must be"),
        ({"lr": float("inf")}, "lr must be"),
        ({"modalities": ("y",)}, "no modality 'y' in npz"),
        ({"modalities": ("x", "x")}, "named twice"),
        ({"devices": 3, "accelerator": "cuda"}, "cannot use accelerator 'cuda' with 3 devices"),
    ],
)
def test_settings_that_make_no_sense(toy, tmp_path, changes, text):
    with pytest.raises(InputError, match=text):
        train(config(toy % "label", tmp_path / "run", **changes), quiet=True)


def test_the_run_folder_is_checked_before_training(toy, tmp_path, monkeypatch):
    def load(*_, **__):
        pytest.fail("the data must not be touched")

    monkeypatch.setattr("fusionscope.engine._rehearse.load_data", load)
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("x")
    cases = [
        (full, False, "not empty; choose another one, or set overwrite"),
        (full, True, "not replaced, because it does not look like a run folder: it holds thesis.tex"),
        (full / "thesis.tex", False, "is a file"),
        (full / "thesis.tex" / "run", False, "cannot"),
        ("/proc/run", False, "cannot write to the folder"),
    ]
    for out, overwrite, text in cases:
        with pytest.raises(FileError, match=text):
            train(config(toy % "label", out, overwrite=overwrite), quiet=True)
    monkeypatch.chdir(full)
    with pytest.raises(FileError, match="holds the folder you are in"):
        train(config(toy % "label", "."), quiet=True)


def test_overwrite_replaces_a_run(toy, tmp_path):
    for seed in (0, 1):
        folder = train(config(toy % "label", tmp_path / "run", epochs=1, seed=seed, overwrite=True), quiet=True)
        (folder / "dissection").mkdir()
    assert load_run(folder, data=False).config.seed == 1
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_config_refuses_unknown_fields():
    with pytest.raises(msgspec.ValidationError, match="unknown field `lrr`"):
        msgspec.convert({"data": "digits", "out": "x", "lrr": 1}, TrainConfig)


def test_scores_by_hand():
    scores = Scores("dense", ("a", "b", "c"))
    target = torch.tensor([[[0, 0, 1, -1]]])
    output = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 2]]]), 3).permute(0, 3, 1, 2).float()
    scores.update(output, target, torch.tensor(2.0))
    result = scores.compute()
    assert result["miou"] == pytest.approx(0.5), "a: 1/2, b: 1/2, c occurs at an ignored pixel only"
    assert result["pixel_accuracy"] == pytest.approx(2 / 3)
    assert result["iou"] == {"a": 0.5, "b": 0.5}
    assert result["loss"] == 2.0
    scores = Scores("classification", ("a", "b", "c"))
    scores.update(torch.eye(3)[torch.tensor([0, 0, 0, 1])], torch.tensor([0, 0, 1, 1]), torch.tensor(0.0))
    result = scores.compute()
    assert (result["accuracy"], result["balanced_accuracy"]) == (0.75, 0.75)
    assert result["recall"] == {"a": 1.0, "b": 0.5}


def test_loss_ignores_negative_targets():
    output = torch.randn(2, 3, 5, 7)
    target = torch.randint(0, 3, (2, 5, 7))
    masked = target.clone()
    masked[:, 2:] = -7
    one = torch.ones(1)
    expected = torch.nn.functional.cross_entropy(output[:, :, :2], target[:, :2])
    torch.testing.assert_close(task_loss("dense", output, masked, 0.0, one), expected)
    assert task_loss("dense", output, torch.full_like(target, -1), 0.1, one) == 0


def test_augment_moves_dense_maps_and_target_together():
    """The map shows its own label: after any move the two still agree wherever the target counts."""
    label = torch.zeros(19, 23, 23, dtype=torch.int64)
    label[:, 3:13, 5:19] = 1
    label[:, 6:9, 11:15] = 2
    change = Augment({"m": "NCHW", "n": "NCHW"}, target="dense", strength=1.0, flips=True, seed=3)
    shown = label[:, None].float()
    inputs, target = change({"m": shown, "n": shown}, label)
    assert torch.equal(target.unique(), torch.tensor([-1, 0, 1, 2]))
    corr = torch.corrcoef(torch.stack([inputs["m"][:, 0][target >= 0], target[target >= 0].float()]))[0, 1]
    assert corr > 0.9
    assert not torch.equal(target, label)
    assert torch.equal(shown[:, 0].long(), label), "the arguments stay as they are"
    shifted = torch.corrcoef(torch.stack([inputs["m"].roll(6, 2)[:, 0][target >= 0], target[target >= 0].float()]))
    assert shifted[0, 1] < 0.7, "the check can fail"


@pytest.mark.parametrize("axes", ["NC", "NTC", "NCHW", "NTCHW"])
def test_augment_is_seeded_and_scaled(axes):
    shape = {"NC": (7,), "NTC": (13, 7), "NCHW": (3, 11, 13), "NTCHW": (5, 3, 11, 13)}[axes]
    x, y = torch.randn(17, *shape), torch.zeros(17, dtype=torch.int64)

    def changed(strength, seed=0):
        return Augment({"x": axes}, target="classification", strength=strength, seed=seed)({"x": x}, y)[0]["x"]

    assert torch.equal(changed(0.0), x)
    assert torch.equal(changed(1.0), changed(1.0))
    assert not torch.equal(changed(1.0), changed(1.0, seed=1))
    assert changed(1.0).shape == x.shape
    assert (changed(0.1) - x).norm() < (changed(1.0) - x).norm()


def test_flips_without_strength_permute_pixels():
    x = torch.arange(5 * 7.0).view(1, 1, 5, 7).expand(29, 1, 5, 7)
    change = Augment({"x": "NCHW"}, target="classification", strength=0.0, flips=True)
    out = change({"x": x}, torch.zeros(29))[0]["x"].round()
    allowed = [f.flatten().tolist() for f in (x[0], x[0].flip(1), x[0].flip(2), x[0].flip(1, 2))]
    found = [o.flatten().tolist() for o in out]
    assert all(o in allowed for o in found)
    assert all(a in found for a in allowed)

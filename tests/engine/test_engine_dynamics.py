"""Training dynamics: planted cases, slow references, and that recording changes nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fusionscope.data import load_data
from fusionscope.engine._dynamics import QUANTITIES, Recorder
from fusionscope.engine._dynamics_probe import Probe, named_targets, probe_of
from fusionscope.engine._memory import Memory, remember
from fusionscope.engine._scores import task_loss
from fusionscope.measures.functional import cka
from fusionscope.nn import Classifier, FusionNet, Segmenter, build_model
from fusionscope.tracing import rng_state

AXES = {"x": "NC", "m": "NCHW", "s": "NTC"}
CLASSES = ("ant", "bee", "cat")


def toy(count: int = 41, names: str = "xms") -> Memory:
    """Three classes that every modality tells with some noise."""
    g = torch.Generator().manual_seed(7)
    y = torch.arange(count) % 3
    shapes = {"x": (5,), "m": (2, 11, 13), "s": (17, 4)}
    hint = F.one_hot(y, 3).float()
    inputs = {}
    for m in names:
        noise = torch.randn(count, *shapes[m], generator=g)
        way = torch.randn(3, *shapes[m], generator=g)
        inputs[m] = noise + torch.einsum("bk,k...->b...", hint, way)
    return Memory(inputs, y)


def net(names: str = "xms", **changes) -> FusionNet:
    torch.manual_seed(3)
    shapes = {m: tuple(x.shape[1:]) for m, x in toy(5, names).inputs.items()}
    settings = {"width": 4, "dropout": 0.2, "calibration": len(names) > 1} | changes
    return build_model(shapes, {m: AXES[m] for m in names}, "classification", 3, **settings)


def ce(output, target):
    return task_loss("classification", output, target, 0.0, torch.ones(1))


def recorder(model, data, **changes) -> Recorder:
    task = changes.pop("task", "classification")
    probe = changes.pop("probe", None) or probe_of(model, data, task=task, train_size=300, seed=1)
    names = tuple(data.inputs)
    settings = {"axes": {m: AXES.get(m, "NC") for m in names}, "classes": CLASSES, "criterion": ce, "epochs": 4}
    return Recorder(model, task=task, modalities=names, probe=probe, **settings | changes)


def learn(model, data, found, epochs, criterion=ce, lr=1e-2):
    """A bare loop; without a recorder the same."""
    opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for epoch in epochs:
        model.train()
        for at in torch.randperm(len(data), generator=torch.Generator().manual_seed(epoch)).split(21):
            batch = data.__getitems__(at.tolist())
            opt.zero_grad()
            model.loss(model.outputs(batch["inputs"]), batch["target"], criterion).backward()
            if found is not None:
                found.step()
            opt.step()
        model.eval()
        if found is not None:
            found.epoch(epoch)


def read(found: Recorder, folder) -> pd.DataFrame:
    found.write(folder / "dynamics")
    return pd.read_csv(folder / "dynamics" / "dynamics.csv", dtype={"reason": str, "other": str}).fillna(
        {"reason": "", "other": "", "modality": ""}
    )


def pick(table: pd.DataFrame, quantity: str, modality: str | None = None) -> pd.Series:
    rows = table[table.quantity == quantity]
    rows = rows if modality is None else rows[rows.modality == modality]
    return rows.set_index("epoch")["mean"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A short training with everything recorded: the recorder, its table, its folder."""
    model, data = net(), toy()
    found = recorder(model, data)
    found.epoch(0)
    learn(model, data, found, range(1, 5))
    folder = tmp_path_factory.mktemp("run")
    return found, read(found, folder), folder / "dynamics"


def test_a_modality_that_is_uninformative_for_half_of_training_shows_in_the_tables(tmp_path):
    data = load_data("scenes?train=150&val=60&test=20&size=32&cells=3")
    train, val = remember(data.splits["train"]), remember(data.splits["val"])
    torch.manual_seed(0)
    model = build_model(
        data.shapes, data.axes, "dense", len(data.classes), width=8, modality_dropout=0.5, target_size=(32, 32)
    )

    def criterion(output, target):
        return task_loss("dense", output, target, 0.0, torch.ones(1))

    epochs = 12
    found = Recorder(
        model,
        task="dense",
        modalities=data.modalities,
        axes=data.axes,
        classes=data.classes,
        criterion=criterion,
        probe=probe_of(model, val, task="dense", train_size=150),
        epochs=epochs,
        steps=10,
    )
    found.epoch(0)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(1, epochs + 1):
        model.train()
        for at in torch.randperm(150).split(15):
            batch = train.__getitems__(at.tolist())
            inputs = dict(batch["inputs"])
            if epoch <= epochs // 2:
                inputs["depth"] = train.inputs["depth"][torch.randperm(150)[:15]]
            opt.zero_grad()
            model.loss(model.outputs(inputs), batch["target"], criterion).backward()
            found.step()
            opt.step()
        found.epoch(epoch)
    table = read(found, tmp_path)
    alone, norm = pick(table, "value", "depth"), pick(table, "gradient norm", "depth")
    chance = 0.1  # the mIoU of one class everywhere; five other seeds gave 0.18 to 0.27 at the end
    assert alone.loc[:6].max() < chance < 0.12 < alone[12]
    assert pick(table, "value", "rgb")[6] > 2 * chance
    assert norm.loc[9:].mean() > 2 * norm.loc[4:6].mean()
    ratio = pick(table, "discrepancy", "depth")
    assert ratio[12] > ratio[6] + 0.05
    same = pick(table, "similarity to final", "depth")
    assert same[12] == pytest.approx(1)
    assert same.loc[:6].max() < 0.9


def test_recording_leaves_the_training_as_it_is():
    states = []
    for on in (False, True):
        model, data = net(modality_dropout=0.2), toy()
        torch.manual_seed(11)
        found = recorder(model, data) if on else None
        if found is not None:
            model.train()
            model.encoders["x"].eval()  # each module's own mode is put back
            modes = [m.training for m in model.modules()]
            before, grads = rng_state(), [p.grad for p in model.parameters()]
            found.epoch(0)
            after = rng_state()
            assert torch.equal(before["torch"], after["torch"])
            assert all(a is b for a, b in zip(grads, (p.grad for p in model.parameters()), strict=True))
            assert modes == [m.training for m in model.modules()]
        learn(model, data, found, range(1, 4))
        states.append(model.state_dict() | {"rng": torch.get_rng_state()})
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_gradient_norms_are_those_of_a_slow_reference(tmp_path):
    model, data = net(), toy()
    found = recorder(model, data, steps=120)
    assert found.every == 3
    expected = {m: [] for m in data.inputs}
    for step in range(7):
        batch = data.__getitems__(list(range(step, step + 11)))
        model.zero_grad()
        (8 * model.loss(model.outputs(batch["inputs"]), batch["target"], ce)).backward()
        found.step(8.0)
        for m in expected if step % 3 == 0 else ():
            squares = 0.0
            for name, p in model.named_parameters():
                if name.startswith(f"encoders.{m}."):
                    squares += sum(v * v for v in (p.grad / 8).flatten().tolist())
            expected[m].append(math.sqrt(squares))
    for p in model.parameters():  # steps that overflow are left out
        p.grad.fill_(math.inf)
    found.count = 0
    found.step()
    found.epoch(1)
    rows = read(found, tmp_path).query("quantity == 'gradient norm'").set_index("modality")
    for m, values in expected.items():
        assert rows["mean"][m] == pytest.approx(np.mean(values), rel=1e-5)
        assert rows["std"][m] == pytest.approx(np.std(values), rel=1e-3)
        assert rows["count"][m] == 3


def test_values_and_ratios_are_those_of_the_model_with_one_modality_present(done):
    found, table, _ = done
    probe, model = found.probe, found.model.eval()
    sums, right = {}, {}
    with torch.no_grad():
        for m in probe.inputs:
            others = {n: torch.zeros(len(probe), dtype=torch.bool) for n in probe.inputs if n != m}
            logits = model(probe.inputs, others)
            right[m] = float((logits.argmax(1) == probe.target).float().mean())
            sums[m] = sum(float(row.softmax(0)[k]) for row, k in zip(logits, probe.target, strict=True))
        right[""] = float((model(probe.inputs).argmax(1) == probe.target).float().mean())
    for m, value in right.items():
        assert pick(table, "value", m)[4] == pytest.approx(value, abs=1e-6)
    for m, mine in sums.items():
        rest = [s for n, s in sums.items() if n != m]
        assert pick(table, "discrepancy", m)[4] == pytest.approx(mine / np.mean(rest), rel=1e-5)


def test_similarity_is_cka_with_the_last_epoch(done):
    found, table, _ = done
    for m in AXES:
        values = pick(table, "similarity to final", m)
        assert values[4] == pytest.approx(1, abs=1e-9)
        for epoch, features in found.features.items():
            expected = float(cka(features[m], found.features[4][m]))
            assert values[epoch] == pytest.approx(expected, abs=2e-3)
        assert values[0] < values[3] <= 1.01


def test_the_gates_of_a_calibration(done):
    found, table, _ = done
    for m in AXES:
        assert pick(table, "instance gate", m)[0] == pytest.approx(torch.tensor(2.0).sigmoid().item())
        assert pick(table, "dimension gate", m)[0] == 0
        assert pick(table, "dimension gate", m)[4] != 0
    rows = table[(table.quantity == "instance gate") & (table.epoch == 4)]
    assert (rows["std"] > 0).all()
    assert (rows["count"] == len(found.probe)).all()


def test_projection_gallery_and_pictures(done):
    found, _, folder = done
    points, units = pd.read_csv(folder / "projection.csv"), pd.read_csv(folder / "gallery.csv")
    epochs = json.loads((folder / "about.json").read_text())["epochs"]
    assert epochs == sorted(points.epoch.unique()) == sorted(units.epoch.unique()) == [0, 1, 3, 4]
    last = points[(points.epoch == 4) & (points.modality == "m")]
    assert last["sample"].tolist() == found.probe.index.tolist()
    assert last.label.tolist() == [CLASSES[k] for k in found.probe.target]
    x = found.features[4]["m"].double()
    size = torch.linalg.svdvals(x - x.mean(0))[:2]
    assert np.allclose(np.sqrt((last[["x", "y"]] ** 2).sum()), size)
    for m in AXES:
        mine = units[units.modality == m]
        assert len({tuple(rows.unit.unique()) for _, rows in mine.groupby("epoch")}) == 1
        for (epoch, unit), rows in mine.groupby(["epoch", "unit"]):
            values = found.features[epoch][m][:, unit]
            assert np.allclose(rows.activation, values.topk(5).values)
            places = [found.probe.index.tolist().index(s) for s in rows["sample"]]
            assert np.allclose(values[places], rows.activation)
    with np.load(folder / "pictures.npz") as file:
        arrays = dict(file)
    assert arrays["pictures/m"].dtype == np.uint8
    assert arrays["pictures/m"].shape[1:] == (11, 13, 3)
    assert arrays["pictures/s"].shape[1:] == (17, 4)
    at = found.probe.index.tolist().index(arrays["samples/x"][1])
    assert np.allclose(arrays["pictures/x"][1], found.probe.inputs["x"][at])
    assert set(arrays["samples/x"]) == set(units[units.modality == "x"]["sample"])


def test_the_record_says_what_it_holds(done):
    found, table, folder = done
    about = json.loads((folder / "about.json").read_text())
    assert (about["metric"], about["task"], about["schema"]) == ("accuracy", "classification", 1)
    assert about["probe"]["size"] == len(found.probe) == 32
    assert set(table.quantity) == set(QUANTITIES) == set(about["quantities"])
    assert about["seconds"] > 0
    assert (table["mean"].isna() == (table.reason != "")).all()


def test_a_recorder_goes_on_from_its_state(tmp_path):
    tables = []
    for broken in (False, True):
        model, data = net(), toy()
        found = recorder(model, data)
        found.epoch(0)
        learn(model, data, found, [1])
        model.zero_grad()
        model.loss(model.outputs(data.inputs), data.target, ce).backward()
        found.step()  # in the middle of an epoch
        if broken:
            state = found.state_dict()
            found = recorder(model, data)
            found.load_state_dict(state)
        learn(model, data, found, range(2, 5))
        read(found, tmp_path / str(broken))
        folder = tmp_path / str(broken) / "dynamics"
        arrays = np.load(folder / "pictures.npz")
        tables.append([p.read_bytes() for p in sorted(folder.glob("*.csv"))] + [arrays["samples/m"].tolist()])
    assert tables[0] == tables[1]

    def check(value):
        assert isinstance(value, dict | list | torch.Tensor | int | float | str | bool | None)
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value if type(value) is list else ()):
            assert isinstance(key, str | int)
            check(inner)

    check(state)


class Plain(nn.Module):
    """A user's model: no ``present``, no features."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Sequential(nn.Linear(5, 7), nn.ReLU()), nn.Conv2d(2, 7, 3)
        self.top = nn.Linear(14, 3)

    def forward(self, x, m):
        return self.top(torch.cat([self.left(x), self.right(m).mean((2, 3))], 1))

    def outputs(self, inputs):
        return {"prediction": self(**inputs)}

    def loss(self, outputs, target, criterion):
        return criterion(outputs["prediction"], target)


def test_a_model_without_present_is_traced(tmp_path):
    model, data = Plain(), toy(names="xm")
    found = recorder(model, data)
    own = {m: {name for name, _ in entries} for m, entries in found.owners.own.items()}
    assert own == {"x": {"left.0.weight", "left.0.bias"}, "m": {"right.weight", "right.bias"}}
    assert set(found.owners.shared) == {"top.weight", "top.bias"}
    found.epoch(0)
    learn(model, data, found, [1, 2])
    table = read(found, tmp_path)
    assert (table.reason == "").all()
    probe = found.probe
    with torch.no_grad():
        alone = model(probe.inputs["x"], probe.inputs["m"].roll(1, 0)).argmax(1)
        features = {"x": model.left(probe.inputs["x"]), "m": model.right(probe.inputs["m"]).mean((2, 3))}
    assert pick(table, "value", "x")[2] == pytest.approx(float((alone == probe.target).float().mean()))
    assert all(torch.allclose(found.features[2][m], x, atol=1e-5) for m, x in features.items())


class Opposed(nn.Module):
    """One weight that the two modalities pull to opposite sides."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def outputs(self, inputs, present=None):
        x = {m: v[:, 0] if present is None or m not in present else v[:, 0] * present[m] for m, v in inputs.items()}
        return {"prediction": self.w * (x["a"] - x["b"])}

    def forward(self, inputs, present=None):
        return self.outputs(inputs, present)["prediction"]

    def loss(self, outputs, target, criterion):
        return criterion(outputs["prediction"], target)


def test_gradients_on_shared_weights_that_agree_and_disagree(tmp_path):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(13, 1, generator=g) + 1
    probe = Probe({"a": x, "b": x.flip(0)}, torch.ones(13), torch.arange(13), 5)
    model = Opposed()
    found = recorder(
        model, Memory(probe.inputs, probe.target), probe=probe, task="regression", criterion=F.mse_loss, classes=()
    )
    found.owners.shared = {"w": ["a", "b"]}  # zero weights hide the wiring from the trace of a product
    found._bind()
    found.epoch(0)
    table = read(found, tmp_path)
    assert pick(table, "gradient cosine")[0] == pytest.approx(-1)
    assert table[table.quantity == "discrepancy"].reason.str.contains("not for regression").all()

    maps = torch.randn(11, 2, 16, 16, generator=g)
    data = Memory({"a": maps, "b": maps.clone()}, torch.arange(11) % 3)
    shared = Classifier.build(
        {m: (2, 16, 16) for m in "ab"}, dict.fromkeys("ab", "NCHW"), 3, shared=True, width=4, fuse="sum"
    )
    found = recorder(shared, data, axes=dict.fromkeys("ab", "NCHW"))
    assert any(name.startswith("shared.") for name in found.owners.shared)
    found.epoch(0)
    table = read(found, tmp_path)
    assert pick(table, "gradient cosine")[0] == pytest.approx(1, abs=1e-5)
    assert pick(table, "discrepancy", "a")[0] == pytest.approx(1, abs=1e-5)


def test_a_shared_encoder_with_exchanges(tmp_path):
    data = load_data("scenes?train=8&val=8&test=8&size=32&cells=3")
    val = remember(data.splits["val"])
    model = Segmenter({"rgb": 3, "depth": 1}, len(data.classes), width=8, encoder_width=8)
    probe = probe_of(model, val, task="dense", train_size=30)
    assert (len(probe), probe.gradients) == (8, 2)
    criterion = lambda o, t: task_loss("dense", o, t, 0.0, torch.ones(1))  # noqa: E731
    found = Recorder(
        model,
        task="dense",
        modalities=data.modalities,
        axes=data.axes,
        classes=data.classes,
        criterion=criterion,
        probe=probe,
        epochs=1,
    )
    rows = {m: {row for name, row in entries if "bn1" in name} for m, entries in found.owners.own.items()}
    assert rows == {"rgb": {0}, "depth": {1}}
    assert "encoder.backbone.conv1.weight" in found.owners.shared
    model.loss(model.outputs(probe.inputs), probe.target, criterion).backward()
    found.step()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found.epoch(0)
    found.epoch(1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert found.features[1]["rgb"].shape == (8, 64)
    table = read(found, tmp_path)
    assert (table.reason == "").all()
    norm = sum(
        float(p.grad[1].square().sum())
        for name, p in model.named_parameters()
        if ".bn" in name or "downsample.1" in name
    ) + float(model.encoder.stems["depth"].weight.grad.square().sum())
    assert pick(table, "gradient norm", "depth")[1] == pytest.approx(math.sqrt(norm), rel=1e-4)


def test_one_modality_and_what_cannot_be_said(tmp_path):
    found = recorder(net("x"), toy(names="x"))
    found.epoch(0)
    table = read(found, tmp_path)
    assert set(table.quantity) == {"value", "similarity to final"}
    assert pick(table, "value", "x")[0] == pick(table, "value", "")[0]

    data = toy(names="xs")
    late = Classifier.build({"x": (5,), "s": (17, 4)}, {"x": "NC", "s": "NTC"}, 3, fuse="late", width=4)
    found = recorder(late, data, probe=probe_of(late, toy(3, "xs"), task="classification", train_size=90))
    found.epoch(0)
    found.epoch(1)
    table = read(found, tmp_path)
    assert table[table.quantity == "gradient cosine"].reason.str.contains("no weights that both reach").all()
    assert (table[table.quantity == "gradient norm"].reason == "no gradient reached its weights").all()
    assert table[table.quantity == "similarity to final"].reason.str.contains("fewer than 4 samples").all()


def test_the_probe_is_balanced_random_and_the_same_for_a_seed():
    model = net()
    target = torch.tensor([0] * 60 + [1] * 13 + [2] * 11)
    data = Memory({m: x for m, x in toy(84).inputs.items()}, target)
    probe = probe_of(model, data, task="classification", train_size=180, seed=5)
    assert len(probe) == 19
    assert sorted(torch.bincount(probe.target).tolist()) == [6, 6, 7]
    assert torch.equal(data.target[probe.index], probe.target)
    assert torch.equal(data.inputs["m"][probe.index], probe.inputs["m"])
    again = probe_of(model, data, task="classification", train_size=180, seed=5)
    other = probe_of(model, data, task="classification", train_size=180, seed=6)
    assert torch.equal(probe.index, again.index)
    assert not torch.equal(probe.index, other.index)
    assert len(probe_of(model, data, task="regression", train_size=10**6)) == 84


def test_labels_of_all_kinds_of_target():
    maps = torch.tensor([[[2, 2], [0, -1]], [[-1, -1], [-1, -1]]])
    assert named_targets(maps, "dense", CLASSES) == ["cat", ""]
    assert named_targets(torch.tensor([[1, 0, 1], [0, 0, 0]]), "multilabel", CLASSES) == ["ant+cat", ""]
    assert named_targets(torch.tensor([0.5, -2.0]), "regression", ()) == ["0.5", "-2"]
    assert named_targets(torch.rand(2, 1, 3, 3), "translation", ()) == ["", ""]

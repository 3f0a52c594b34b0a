"""A user's own model through the whole loop: trained, resumed, read back, dissected, mended."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fusionscope as fs
from fusionscope.engine import TrainConfig, load_run, score_conditions, train
from fusionscope.errors import InputError

MODELS = """
import torch
from torch import nn
import fusionscope as fs


class Two(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(5, 16), nn.ReLU())
        self.right = nn.Sequential(nn.Linear(7, 16), nn.ReLU())
        self.head = nn.Linear(32, classes)

    def forward(self, x, m):
        return self.head(torch.cat([self.left(x), self.right(m)], 1))


def plain():
    return Two()


def calibrated():
    model = Two()
    fs.nn.attach_calibration(model, {"x": torch.randn(4, 5), "m": torch.randn(4, 7)})
    return model


def wrong():
    return Two(classes=4)


def nothing():
    return 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 97)
    np.savez(
        tmp_path / "toy.npz",
        x=(rng.normal(size=(97, 5)) + label[:, None]).astype("f4"),
        m=(rng.normal(size=(97, 7)) + label[:, None]).astype("f4"),
        label=label,
        split=np.repeat([0, 1, 2], [61, 17, 19]),
    )
    (tmp_path / "own_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    return tmp_path


def settings(place: Path, out: str, **changes: Any) -> TrainConfig:
    usual: dict[str, Any] = {"epochs": 12, "batch_size": 12, "accelerator": "cpu", "lr": 0.02}
    data = f"npz:{place}/toy.npz?inputs=x:NC,m:NC&target=label"
    return TrainConfig(data=data, out=str(place / out), **usual | changes)


def test_an_own_model_is_trained_and_measured(place: Path) -> None:
    out = train(settings(place, "plain", build="own_models:plain", dynamics=True, checkpoints=2), quiet=True)
    run = load_run(out)
    assert type(run.model).__name__ == "Two"
    assert set(load_file(out / "weights.safetensors")) == set(run.model.state_dict()), "its own names"
    assert run.metrics["test"]["accuracy"] > 0.7
    assert run.data is not None
    found = fs.dissect(run.model, run.data.loader("test", 19), measures=("removal",), checkpoints=None)
    removal = found.tables["removal"].set_index("subset")["value"]
    assert removal.max() == pytest.approx(run.metrics["test"]["accuracy"])
    scored = score_conditions(out, severities=(3,))
    clean = scored[(scored["condition"] == "clean") & (scored["metric"] == "accuracy")]["value"]
    assert clean.item() == pytest.approx(run.metrics["test"]["accuracy"])
    assert run.dynamics is not None
    norms = run.dynamics.tables["dynamics"].query("quantity == 'gradient norm' and epoch == 12")
    assert (norms["mean"] > 0).all()
    assert set(norms["modality"]) == {"x", "m"}


def test_a_mended_model_is_a_variant_like_any_other(place: Path) -> None:
    run = load_run(train(settings(place, "mended", build="own_models:calibrated", epochs=3), quiet=True))
    assert any("calibration" in name for name in run.model.state_dict())
    inputs = {"x": torch.randn(2, 5), "m": torch.randn(2, 7)}
    assert run.model(**inputs).shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"build": "own_models:wrong"}, r"gives \[2, 4\] for 2 samples; classification of .* needs \[2, 3\]"),
        ({"build": "own_models:plane"}, "has no 'plane'. Did you mean 'plain'"),
        ({"build": "own_models:nothing"}, "gave a int; expected a torch"),
        ({"build": "own_models:plain", "modalities": ("x",)}, "m"),
        ({"build": "own_models:plain", "model": "classifier"}, "are two models: leave one out"),
        ({"build": "own_models:plain", "solo": True}, "solo twins are the model with one modality"),
        ({"build": "own_models:plain", "width": 8}, "width = 8 is for the models"),
        ({"build": "own_models:plain", "modulation": 0.5}, "modulation"),
        ({"build": "own_models:plain", "auxiliary": 0.5}, "auxiliary"),
    ],
)
def test_what_does_not_fit_is_one_message_before_training(place: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        train(settings(place, "no", **changes), quiet=True)
    assert not [p for p in place.iterdir() if p.name.startswith("no")]

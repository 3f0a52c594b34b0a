"""Loggers: what they get, that a run that goes on repeats nothing, and what is said where a package is missing."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest
from lightning_fabric.loggers import Logger

from fusionscope.engine import TrainConfig, _logging
from fusionscope.engine._logging import check_loggers, open_loggers
from fusionscope.errors import InputError

ROWS = [
    {"phase": "train", "epoch": e, "lr": 0.1, "train_loss": 1 / e, "val_loss": 2.0, "val_f1": 0.5, "note": None}
    for e in (1, 2, 3)
]


class Fake(Logger):
    """Keeps what it is told."""

    def __init__(self, run: str | None):
        self.run = run or "run7"
        self.told: list[tuple] = []
        self.broken = False
        self.experiment = SimpleNamespace(finish=lambda exit_code: self.told.append(("exit", exit_code)))

    name = property(lambda self: "fake")
    version = property(lambda self: self.run)

    def log_metrics(self, metrics, step=None):
        if self.broken:
            raise ConnectionError("gone")
        self.told.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs):
        self.told.append(("settings", params))

    def finalize(self, status):
        self.told.append(("end", status))


@pytest.fixture
def fakes(monkeypatch):
    made: list[Fake] = []

    def make(name: str, place, title: str, run: str | None) -> Fake:
        made.append(Fake(run))
        return made[-1]

    monkeypatch.setattr(_logging, "_open", make)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return made


def config(*names) -> TrainConfig:
    return TrainConfig(data="digits", out="somewhere/run", loggers=names)


def test_what_a_logger_gets(fakes, tmp_path):
    logs = open_loggers(("wandb",), tmp_path, config("wandb"))
    logs.row(ROWS[0], 1)
    logs.row({"phase": "refit", "epoch": 1, "train_loss": 3.0, "val_loss": float("nan"), "held": True}, 2)
    logs.finish()
    (_, settings), first, second, *end = fakes[0].told
    assert settings["data"] == "digits"
    assert "resume" not in settings
    assert first == (1, {"epoch": 1, "lr": 0.1, "train/loss": 1, "val/loss": 2, "val/f1": 0.5})
    assert second == (2, {"refit/epoch": 1, "refit/loss": 3})
    assert end == [("end", "success"), ("exit", 0)]


def test_a_run_that_goes_on_repeats_nothing(fakes, tmp_path):
    logs = open_loggers(("mlflow",), tmp_path, config("mlflow"))
    for step, row in enumerate(ROWS[:2], 1):
        logs.row(row, step)
    again = open_loggers(("mlflow", "wandb"), tmp_path, config("mlflow", "wandb"))  # killed at step 1
    for step, row in enumerate(ROWS[1:], 2):
        again.row(row, step)
    again.finish("failed")
    _, second, third = fakes
    assert second.run == "run7"
    assert [x[0] for x in second.told] == [3, "end", "exit"]
    assert [x[0] for x in third.told] == ["settings", 2, 3, "end", "exit"]  # new: begins here
    assert second.told[-1] == ("exit", 1)
    state = json.loads((tmp_path / "logs" / "logged.json").read_text())
    assert state == {name: {"step": 3, "run": "run7"} for name in ("mlflow", "wandb")}


def test_a_logger_that_fails_later_is_dropped_and_training_goes_on(fakes, tmp_path):
    logs = open_loggers(("mlflow", "wandb"), tmp_path, config())
    fakes[0].broken = True
    with pytest.warns(UserWarning, match="the logger 'mlflow' is dropped: ConnectionError: gone"):
        logs.row(ROWS[0], 1)
    logs.row(ROWS[1], 2)
    assert list(logs.loggers) == ["wandb"]
    assert [x[0] for x in fakes[1].told] == ["settings", 1, 2]


def test_without_loggers_nothing_is_written(tmp_path):
    logs = open_loggers((), tmp_path, config())
    logs.row(ROWS[0], 1)
    logs.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "there", "message"),
    [
        ("tensorboard", (), "needs tensorboard or tensorboardX, which is not installed: `pip install tensorboard`"),
        ("wandb", (), "`pip install lightning wandb`, or leave wandb out of loggers"),
        ("wandb", ("wandb",), "needs lightning or pytorch_lightning, which is not installed: `pip install lightning`"),
        ("mlflow", ("pytorch_lightning",), "needs mlflow, which is not installed: `pip install mlflow`"),
    ],
)
def test_what_is_missing_is_named_with_the_command(monkeypatch, tmp_path, name, there, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: object() if package in there else None)
    with pytest.raises(InputError) as error:
        check_loggers((name,))
    assert message in str(error.value)
    with pytest.raises(InputError):
        open_loggers((name,), tmp_path, config(name))


def test_a_logger_that_cannot_start_is_found_before_training(monkeypatch, tmp_path):
    def refused(*args):
        raise RuntimeError("no API key")

    monkeypatch.setattr(_logging, "_open", refused)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match="'wandb' does not start: RuntimeError: no API key. `wandb login` once, or"):
        open_loggers(("wandb",), tmp_path, config("wandb"))

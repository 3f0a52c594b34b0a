"""``fusionscope train FILE.toml``: settings from a file, overrides, one message for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusionscope.cli import main
from fusionscope.engine import TrainConfig, _checks, read_config
from fusionscope.errors import FileError, InputError

FILE = """
data = "digits"
epochs = 1
width = 4
lr = 0.01
accelerator = "cpu"
modalities = ["bottom"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(FILE)
    return path


def test_options_go_before_the_file_and_the_file_before_the_defaults(file: Path) -> None:
    out = file.parent / "run"
    main(["train", str(file), "--lr=0.005", "--out", str(out), "--batch-size", "16"])
    settings = json.loads((out / "config.json").read_text())["train"]
    assert {k: settings[k] for k in ("data", "epochs", "lr", "batch_size", "modalities", "patience")} == {
        "data": "digits",
        "epochs": 1,
        "lr": 0.005,
        "batch_size": 16,
        "modalities": ["bottom"],
        "patience": 15,
    }


def test_variables_of_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('data = "npz:$FOLDER/${NAME}.npz?target=label"')
    with pytest.raises(InputError, match=r"data = .* needs the environment variable FOLDER, .* or give --data"):
        read_config(file)
    assert read_config(file, skip={"data"}) == {}
    monkeypatch.setenv("FOLDER", "/a b")
    monkeypatch.setenv("NAME", "leaves")
    assert read_config(file) == {"data": "npz:/a b/leaves.npz?target=label"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "no setting 'epoch'. Did you mean 'epochs'"),
        ('lr = "high"', "lr = 'high': expected a number, got a text"),
        ("epochs = 2.5", "epochs = 2.5: expected a whole number, got a number"),
        ('solo = "yes"', "solo = 'yes': expected true or false, got a text"),
        ("data = 3", "data = 3: expected a text, got a whole number"),
        ('modalities = "top"', "modalities = 'top': expected a list of texts, got a text: write ['top']"),
        ('loggers = ["wandbb"]', "'wandbb': expected one of tensorboard, wandb, mlflow. Did you mean 'wandb'?"),
        ('precision = "8"', "precision = '8': expected one of 32-true, 16-mixed, bf16-mixed."),
        (
            'model = "clasifier"',
            "model = 'clasifier': expected one of auto, classifier, sequence, segmenter, translator",
        ),
        ("[train]\nlr = 1", "no setting 'train'."),
        ("lr = ", "no TOML file"),
    ],
)
def test_mistakes_are_one_message_before_anything_is_loaded(
    file: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(file), "--out", str(file.parent / "run")])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("fusionscope: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no.toml: No such file"):
        read_config(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--lr abc", "--lr abc: expected a number"),
        ("--epochs=2.5", "--epochs 2.5: expected a whole number"),
        ("--eppochs 3", "train: no option --eppochs. Did you mean '--epochs'? `fusionscope train --help` has all"),
        ("--no-sole", "train: no option --no-sole. Did you mean '--solo'?"),
        ("-x 3", "train: no option -x."),
        ("--batch-size --lr 1", "--batch-size needs a value: a whole number"),
        ("--model", "--model needs a value: one of auto, classifier"),
        (
            "--model clasifier",
            "--model clasifier: expected one of auto, classifier, sequence, segmenter, translator. Did",
        ),
        ("--loggers tensorboard wandbb", "--loggers wandbb: expected one of tensorboard, wandb, mlflow. Did you mean"),
        ("--solo yes", "--solo yes: a switch takes no value; leave it out, or write --no-solo"),
        (
            "--lr 1 small.toml",
            "train: after --lr, 'small.toml' belongs to no option: only a FILE.toml goes without a name",
        ),
        ("digits --lr 1", "train: 'digits' belongs to no option"),
        ("--lr 1", "train: --out must be given"),
    ],
)
def test_mistakes_in_options_are_one_message_too(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    # the data are in the file, --out is nowhere
    with pytest.raises(SystemExit) as ended:
        main(["train", str(file), *arguments.split()])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fusionscope: error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian --data digits", "no command 'trian': one of train, dissect, trace, report. Did you mean 'train'?"),
        ("dissect a b", "dissect: 'b' belongs to no option: only RUN goes without a name, and comes first"),
        ("dissect a --no-references b", "dissect: after --no-references, 'b' belongs to no option"),
        ("dissect --measures removl", "--measures removl: expected one of"),
        ("report --out x.html", "report: FOLDER must be given"),
    ],
)
def test_mistakes_of_other_commands(capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"fusionscope: error: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": "high"}, "lr = 'high': expected a number, got a text"),
        ({"out": " "}, "out is empty: expected the folder to write"),
        ({"lr": float("nan")}, "lr must be more than 0, got nan"),
        ({"ema": 1.5}, "ema must be at least 0 and less than 1, got 1.5"),
        ({"warmup": 1.0}, "warmup must be at least 0 and less than 1"),
        ({"clip": -1}, "clip must be at least 0, got -1"),
        ({"seed": 2**63}, r"seed must be at least 0 and less than 2\*\*63"),
        ({"momentum": 0.5}, r"momentum = 0.5 is of optimizer 'sgd', and optimizer is 'adamw': set"),
        ({"modulation_epochs": 3}, "modulation_epochs = 3 says how to modulate gradients, and modulation is 0: set"),
        ({"batch_size": 32, "accumulate": 5}, "cannot be shared equally among accumulate = 5 parts: take .* 30 or 35,"),
        ({"batch_size": 8, "accumulate": 8}, "one sample for each, and batch norms need two: take batch_size 16 or"),
        ({"loggers": ("wandb", "wandb")}, "names one twice"),
    ],
)
def test_settings_that_cannot_be(changes: dict, message: str) -> None:
    config = TrainConfig(**{"data": "no such data", "out": "run"} | changes)
    with pytest.raises(InputError, match=message):
        _checks.check_settings(config)


def test_devices_share_a_batch() -> None:
    config = TrainConfig(data="digits", out="run", batch_size=30)
    _checks.check_share(config, 5)
    with pytest.raises(InputError, match="cannot be shared equally among 4 devices: take batch_size 28 or 32"):
        _checks.check_share(config, 4)

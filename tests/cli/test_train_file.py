"""``fusionscope train FILE.toml``: settings from a file, overrides, one message for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusionscope.cli import main
from fusionscope.engine import read_config
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
        ('lr = "high"', "lr = 'high': expected `float`, got `str`"),
        ('precision = "8"', "precision = '8': invalid enum value"),
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

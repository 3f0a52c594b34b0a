"""The commands as a user runs them: what they write, and one clear message with exit code 2 for bad input."""

from __future__ import annotations

import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fusionscope as fs
from fusionscope.cli import main
from fusionscope.errors import FileError
from tests.browser import open_page

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.top, self.bottom, self.head = nn.Linear(32, 7), nn.Linear(32, 7), nn.Linear(14, 10)

    def forward(self, top, bottom):
        parts = [self.top(top.flatten(1)), self.bottom(bottom.flatten(1))]
        return self.head(torch.cat(parts, 1).relu())

class Failing(Net):
    def forward(self, top, bottom):
        return self.head(top)

class OneOnly(Net):
    def forward(self, top):
        return self.top(top.flatten(1))

def loader():
    return [{"top": torch.randn(13, 1, 4, 8), "bottom": torch.randn(13, 1, 4, 8), "label": torch.arange(13) % 10}
            for _ in range(3)]

number = 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module and weights for it, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    (tmp_path / "mine.py").write_text(MODEL)
    sys.modules.pop("mine", None)
    import mine  # ty: ignore[import-not-found]

    save_file(mine.Net().state_dict(), tmp_path / "good.safetensors")
    return tmp_path


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must exit with code 2, and return its one message."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    assert shown.err.startswith("fusionscope: error: ")
    return shown.err


def test_train_dissect_report(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--data", "digits", "--epochs", "2", "--width", "4", "--out", "run"])
    main(["dissect", "run", "--permutations", "20"])
    assert "removal      accuracy" in capsys.readouterr().out
    assert (place / "run" / "report.html").stat().st_size > 500_000
    page = open_page(place / "run" / "report.html")
    assert page.console_errors == []
    assert page.requests == []
    assert page.dom.count("<svg") >= 4
    found = fs.load(place / "run" / "dissection")
    assert found.manifest["parameters"]["empty"] == "majority"
    assert found.manifest["data"]["split"] == "test"
    main(["report", "run/dissection", "--out", "again.html"])
    assert str((place / "again.html").resolve()) in capsys.readouterr().out
    main(["dissect", "run", "--measures", "removal", "--fill", "zero", "--out", "zero"])
    assert list(fs.load(place / "zero").tables) == ["taps", "removal"]


def test_solo_twins_are_run_folders(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--epochs", "1", "--width", "4", "--checkpoints", "2"]
    main(["train", "--data", "digits", *small, "--solo", "--copies", "1", "--out", "run"])
    shown = capsys.readouterr()
    assert shown.out == f"run folder: {place / 'run'}\n"
    assert "solo top-seed2 train   1/1" in shown.err
    run = fs.load_run("run")
    assert [list(run.solo), list(run.copies), list(run.checkpoints)] == [["top", "bottom"], ["top", "bottom"], [0, 1]]
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert [o for o in ("--solo", "--copies INT", "--checkpoints INT") if o not in text] == []


@pytest.mark.parametrize("columns", [0, 1, 2])
def test_regression(place: Path, columns: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(90, 3)), rng.normal(size=(90, 2))
    y = (a.sum(1) + 0.1 * b[:, 0])[:, None].repeat(max(columns, 1), 1)
    np.savez(place / "real.npz", a=a, b=b, label=y if columns else y[:, 0])
    main(["train", "--data", "npz:real.npz?inputs=a:NC,b:NC", "--epochs", "3", "--width", "4", "--out", "run"])
    main(["dissect", "run", "--permutations", "20"])
    found = fs.load(place / "run" / "dissection")
    assert found.manifest["parameters"]["empty"] == "majority"
    assert found.tables["removal"]["metric"].unique().tolist() == ["r2"]
    assert "npz:real.npz" in repr(fs.load_run("run"))
    with pytest.raises(FileError, match=r"Did you mean run.dissection\?"):
        fs.load("run")


def test_the_split_of_a_run_is_kept_when_the_data_is_named_again(place: Path) -> None:
    main(["train", "--data", "digits", "--data-seed", "5", "--epochs", "1", "--width", "4", "--out", "run"])
    for name, more in (("one", []), ("two", ["--data", "digits", "--seed", "0"])):
        main(["dissect", "run", "--measures", "removal", "--out", name, *more])
    one, two = (fs.load(place / name).tables["removal"]["value"][0] for name in ("one", "two"))
    assert one == two


def test_a_model_of_ones_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ["--weights", "good.safetensors"]
    main(["dissect", "--model", "mine:Net", *weights, "--data", "digits", "--out", "a/found", "--permutations", "20"])
    main(["dissect", "--model", "mine:Net", "--data", "mine:loader", "--out", "b/found", "--permutations", "20"])
    assert fs.load(place / "a" / "found").manifest["data"]["spec"] == "digits"
    assert fs.load(place / "b" / "found").manifest["data"]["samples"] == 39
    assert (place / "b" / "found.html").exists()


def write_bad_files(place: Path) -> None:
    torch.save({"w": torch.ones(2)}, place / "torch.pt")
    (place / "broken.py").write_text("def build(:")
    (place / "pickle.safetensors").write_bytes(pickle.dumps({"w": 1}))
    (place / "cut.safetensors").write_bytes((place / "good.safetensors").read_bytes()[:100])
    save_file({"other": torch.ones(2)}, place / "other.safetensors")
    np.savez(place / "nan.npz", a=np.full((20, 3), np.nan, np.float32), b=np.ones((20, 2)), y=np.arange(20) % 2)
    np.savez(place / "fine.npz", a=np.random.default_rng(0).normal(size=(60, 3)), y=np.arange(60) % 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --data scene --out r", "Did you mean 'scenes'"),
        ("train --data npz:fine.npz?inputs=b:NC&target=y --out r", "no array 'b'|'b'"),
        ("train --data npz:nan.npz?inputs=a:NC,b:NC&target=y --out r", "NaN"),
        ("train --data npz:missing.npz?inputs=a:NC&target=y --out r", "missing.npz"),
        ("train --data digits --modalities tops --out r", "Did you mean 'top'"),
        ("dissect nowhere", "nowhere"),
        ("dissect", "give a run folder or --model"),
        ("dissect --model mine:Net --out d", "say what to read"),
        ("dissect --model mine:Net --data digits", "--out FOLDER"),
        ("dissect --model mine --data digits --out d", "takes package.module:function"),
        ("dissect --model min:Net --data digits --out d", "cannot import 'min'"),
        ("dissect --model mine:Nett --data digits --out d", "has no 'Nett'"),
        ("dissect --model mine:number --data digits --out d", "mine:number is a int"),
        ("dissect --model mine:loader --data digits --out d", "gave a list; expected a torch.nn"),
        ("dissect --model mine:Net --weights torch.pt --data digits --out d", "pickle"),
        ("dissect --model mine:Net --weights pickle.safetensors --data digits --out d", "pickle|safetensors"),
        ("dissect --model mine:Net --weights cut.safetensors --data digits --out d", "cut.safetensors"),
        ("dissect --model mine:Net --weights other.safetensors --data digits --out d", "does not fit the model"),
        ("dissect --model mine:Net --weights none.safetensors --data digits --out d", "none.safetensors"),
        ("dissect --model mine:Net --data digits --split tst --out d", "Did you mean 'test'"),
        ("dissect --model mine:OneOnly --data digits --out d", r"forward\(top\) does not take"),
        ("dissect --model mine:Failing --data digits --out d", "the model raised RuntimeError.*\n.*keyword call"),
        ("dissect --model mine:Net --data digits --out good.safetensors/d", "cannot write to the folder"),
        ("dissect --model mine:Net --data digits --out .", "is not a dissection"),
        ("dissect --model mine:Net --data digits --out d --device cuda:99", "device"),
        ("dissect --model mine:Net --data digits --out d --permutations 2", "permutations"),
        (
            "dissect --model mine:Net --data images:folder --out d",
            "folder is not a folder; expected one with a folder of images",
        ),
        ("report mine.py", "holds no dissection"),
        ("dissect --model broken:build --data digits --out d", "importing 'broken' raised SyntaxError"),
        ("dissect --model mine:Net --data digits --out d --report mine.py", "mine.py exists and is no HTML file"),
        ("dissect --model mine:Net --data digits --out d --seed -1", "seed"),
        ("train --data digits --batch-size 1 --out r", "batch_size must be at least 2"),
        ("train --data digits --modalities top --solo --out r", r"two modalities or more.*leave solo \(--solo\) out"),
        ("train --resume", r"resume needs the folder to go on with: give out \(--out\)"),
        ("train --data digits --copies 2 --out r", r"set solo \(--solo\) too"),
        ("train --data digits --checkpoints 1 --out r", "checkpoints must be 0 or at least 2"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    write_bad_files(place)
    before = sorted(place.rglob("*"))
    text = fails(capsys, *arguments.split())
    assert re.search(message, text), text
    assert [p for p in sorted(place.rglob("*")) if "__pycache__" not in str(p)] == [
        p for p in before if "__pycache__" not in str(p)
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_an_unwritable_folder_is_told_before_any_work(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "locked").mkdir(mode=0o500)
    assert "cannot write" in fails(capsys, "train", "--data", "digits", "--out", "locked/run")


def test_a_full_disk_or_a_file_in_the_way_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "taken").write_text("")
    assert "taken" in fails(capsys, "train", "--data", "digits", "--out", "taken/run")
    assert "taken" in fails(capsys, "train", "--data", "digits", "--out", "taken")


def test_help_has_examples_and_unknown_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["train"], ["dissect"], ["trace"], ["report"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
        assert "Examples:" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", "digits", "--out", "r", "--epoch", "3"])
    assert stop.value.code == 2
    assert "--epochs" in capsys.readouterr().err
    main(["--version"])
    assert capsys.readouterr().out == f"fusionscope {fs.__version__}\n"

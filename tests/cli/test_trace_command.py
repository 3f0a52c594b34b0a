"""``fusionscope trace`` as a user runs it: the tree, the two files, and one clear message with exit code 2."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fusionscope as fs
from fusionscope.cli import main
from fusionscope.report import trace_svg

MODEL = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rgb, self.depth, self.head = nn.Linear(5, 7), nn.Linear(3, 7), nn.Linear(14, 2)

    def forward(self, rgb, depth):
        return self.head(torch.cat([self.rgb(rgb), self.depth(depth)], 1))

class Blind(Net):
    def forward(self, rgb, depth):
        return self.head(torch.cat([self.rgb(rgb), self.rgb(rgb)], 1))

class Failing(Net):
    def forward(self, rgb, depth):
        return self.head(rgb)

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.image, self.head = nn.Embedding(11, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, input_ids, attention_mask, pixel_values):
        words = (self.words(input_ids) * attention_mask.unsqueeze(-1)).sum(1)
        return self.head(words + self.image(pixel_values))

def batch():
    return {"rgb": torch.randn(13, 5), "depth": torch.randn(13, 3), "label": torch.arange(13) % 2}

def pair():
    return torch.randn(13, 5), torch.randn(13, 3), torch.arange(13) % 2

def words():
    mask = torch.arange(7)[None] < torch.arange(1, 8)[:, None]
    return {"input_ids": torch.randint(0, 11, (7, 7)), "attention_mask": mask, "pixel_values": torch.randn(7, 3)}

def one():
    return {name: value[:1] for name, value in batch().items()}

def same():
    return {**batch(), "depth": torch.ones(13, 3)}

def loader():
    return DataLoader(TensorDataset(torch.randn(13, 5), torch.randn(13, 3)), 4)

def loop():
    return iter(loader())

def several():
    return [batch() for _ in range(3)]

def fails():
    raise KeyError("rgb")

def number():
    return 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a user's module and weights for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    (tmp_path / "theirs.py").write_text(MODEL)
    sys.modules.pop("theirs", None)
    import theirs  # ty: ignore[import-not-found]

    state = theirs.Net().state_dict()
    save_file(state, tmp_path / "good.safetensors")
    save_file({**state, "depth.weight": torch.zeros(7, 3)}, tmp_path / "blind.safetensors")
    return tmp_path


def read(folder: Path) -> dict:
    return json.loads((folder / "trace.json").read_text(encoding="utf-8"))


def test_the_tree_is_printed_and_both_files_are_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["trace", "--model", "theirs:Net", "--batch", "theirs:batch"])
    shown = capsys.readouterr().out
    assert "Trace of Net: rgb, depth" in shown
    assert "depth, rgb joined: functional, in the model, before head#0 (Linear), which mixes them" in shown
    assert str((place / "trace" / "trace.json").resolve()) in shown
    found = read(place / "trace")
    assert found["modalities"] == ["rgb", "depth"]
    drawn = (place / "trace" / "trace.svg").read_text(encoding="utf-8")
    assert drawn == trace_svg(found) + "\n"
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert sorted(path.name for path in (place / "trace").iterdir()) == ["trace.json", "trace.svg"]


def test_a_second_trace_replaces_the_first(place: Path) -> None:
    for model in ("Net", "Blind"):
        main(["trace", "--model", f"theirs:{model}", "--batch", "theirs:batch", "--out", "a/found"])
    assert read(place / "a" / "found")["model"] == "Blind"


def test_weights_are_loaded(place: Path) -> None:
    def seen(weights: str) -> list[str]:
        main(["trace", "--model", "theirs:Net", "--batch", "theirs:batch", "--weights", weights])
        return next(c for c in read(place / "trace")["calls"] if not c["path"])["depends_on"]

    assert seen("good.safetensors") == ["depth", "rgb"]
    assert seen("blind.safetensors") == ["rgb"]


def test_names_for_a_tuple_and_groups_for_a_dict(place: Path) -> None:
    main(["trace", "--model", "theirs:Net", "--batch", "theirs:pair", "--modalities", "rgb", "depth"])
    assert read(place / "trace")["modalities"] == ["rgb", "depth"]
    grouped = ["text=input_ids,attention_mask", "image=pixel_values"]
    main(["trace", "--model", "theirs:Reader", "--batch", "theirs:words", "--modalities", *grouped])
    found = read(place / "trace")
    assert found["modalities"] == ["text", "image"]
    assert next(c for c in found["calls"] if c["path"] == "image")["depends_on"] == ["image"]


def test_a_run_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--data", "digits", "--epochs", "1", "--width", "4", "--out", "run"])
    main(["trace", "run", "--out", "found"])
    assert "Trace of FusionNet: top, bottom" in capsys.readouterr().out
    assert read(place / "found")["batch_size"] == 16
    main(["trace", "run", "--out", "found", "--split", "val"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give a run folder, or --model package.module:function and --batch"),
        ("--model theirs:Net", "--batch package.module:function"),
        ("--batch theirs:batch", "--model package.module:function"),
        ("nowhere", "nowhere is not a run folder"),
        ("nowhere --model theirs:Net", "leave out --model"),
        ("nowhere --modalities rgb", "leave out --modalities"),
        ("--model theirs:Net --batch theirs:loader", r"gave a DataLoader.*next\(iter\(loader\)\)"),
        ("--model theirs:Net --batch theirs:loop", r"gave a _SingleProcessDataLoaderIter.*next\(\)"),
        ("--model theirs:Net --batch theirs:several", "gave a list of 3 dicts.*the first"),
        (
            "--model theirs:Net --batch theirs:number",
            "theirs:number: cannot tell the modalities of a batch that is a int",
        ),
        ("--model theirs:Net --batch theirs:pair", "(?s)a tuple of .*On the command line: --modalities rgb depth"),
        ("--model theirs:Net --batch theirs:fails", r"calling theirs:fails\(\) raised KeyError"),
        ("--model theirs:Net --batch theirs:batsh", "has no 'batsh'. Did you mean 'batch'"),
        ("--model theirs:Net --batch theirs", "--batch takes package.module:function"),
        ("--model them:Net --batch theirs:batch", "cannot import 'them'"),
        ("--model theirs:batch --batch theirs:batch", "gave a dict; expected a torch.nn"),
        ("--model theirs:Net --batch theirs:one", "at least two in the batch"),
        ("--model theirs:Net --batch theirs:same", "'depth' is constant"),
        (
            "--model theirs:Net --batch theirs:batch --modalities rgb deep",
            "needs the key 'deep', which the batch has not",
        ),
        (
            "--model theirs:Net --batch theirs:batch --modalities rgb,depth",
            "cannot read 'rgb,depth'; write --modalities",
        ),
        ("--model theirs:Net --batch theirs:batch --modalities rgb= depth", "cannot read 'rgb='"),
        ("--model theirs:Net --batch theirs:batch --modalities x=rgb x=depth", "'x' is named twice"),
        ("--model theirs:Net --batch theirs:words", r"forward\(rgb, depth\) does not take"),
        ("--model theirs:Failing --batch theirs:batch", "(?s)the model raised RuntimeError.*keyword call"),
        ("--model theirs:Net --batch theirs:batch --weights none.safetensors", "none.safetensors"),
        ("--model theirs:Net --batch theirs:batch --out theirs.py", "theirs.py exists and is a file"),
        ("--model theirs:Net --batch theirs:batch --out theirs.py/d", "cannot write to the folder"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["trace", *arguments.split()])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    assert shown.err.startswith("fusionscope: error: ")
    assert re.search(message, shown.err), shown.err
    left = {path.name for path in place.iterdir()} - {"__pycache__"}
    assert left == {"theirs.py", "good.safetensors", "blind.safetensors"}


def test_a_model_that_raises_leaves_the_last_trace_alone(place: Path) -> None:
    main(["trace", "--model", "theirs:Net", "--batch", "theirs:batch"])
    before = read(place / "trace")
    with pytest.raises(SystemExit):
        main(["trace", "--model", "theirs:Failing", "--batch", "theirs:batch"])
    assert read(place / "trace") == before


def test_the_command_finds_what_the_function_finds(place: Path) -> None:
    import theirs  # ty: ignore[import-not-found]

    torch.manual_seed(3)
    main(["trace", "--model", "theirs:Net", "--batch", "theirs:batch"])
    torch.manual_seed(3)
    found = fs.trace(theirs.Net(), theirs.batch()).to_dict()
    said = read(place / "trace")
    assert said["calls"] == found["calls"]
    assert said["fusion_points"] == found["fusion_points"]


def test_the_page_shows_what_the_command_prints(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text(encoding="utf-8")
    source, command, printed = re.findall(r"(?s)```\w+\n(.*?)```", page[page.index("`two.py`") :])
    (place / "two.py").write_text(source)
    main(command.split()[1:])
    shown = capsys.readouterr().out.partition("trace: ")[0]
    assert re.sub(r"[\d.]+ s\)", "s)", shown) == re.sub(r"[\d.]+ s\)", "s)", printed)
    assert ">exchange 1<" in (place / "trace" / "trace.svg").read_text(encoding="utf-8")


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def model(): return torch.nn.Bilinear(3, 4, 2)\n"
        "def batch(): return {'input1': torch.randn(5, 3), 'input2': torch.randn(5, 4)}\n"
    )
    start = "from fusionscope.cli import main; main()"
    command = [sys.executable, "-c", start, "trace", "--model", "mine:model", "--batch", "mine:batch"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.close()
    assert "Traceback" not in run.stderr.read()
    run.stderr.close()
    assert run.wait() == 141
    assert (tmp_path / "trace" / "trace.json").exists()

"""Studies: what a file may say, how a folder goes on, and what workers make of failures, deaths and interruptions."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from rich.console import Console

from fusionscope.engine import Study, load_study, read_study, run_study
from fusionscope.engine import _rehearse as rehearsal
from fusionscope.engine import _run_study as parent
from fusionscope.engine._board import Board, time_left
from fusionscope.engine._study_folder import check_study, read_failure, save_study, write_failure
from fusionscope.engine._worker import Worker
from fusionscope.errors import FileError, FusionscopeError, InputError

FILE = """
out = "s"
seeds = 2
[train]
epochs = 3
width = 4
[data.all]
data = "digits"
[data.top]
data = "digits"
modalities = ["top"]
lr = 0.01
[variants.plain]
[variants.gated]
fuse = "gated"
epochs = 5
"""

# A worker whose training takes no time, and kills it as often as said.
FAKE = """
import json, os, sys
from pathlib import Path
from fusionscope.engine._worker import Worker
def train(config, data, claim):
    folder, count = Path(config.out), Path(config.out + ".tries")
    tries = int(count.read_text()) + 1 if count.exists() else 1
    folder.parent.mkdir(parents=True, exist_ok=True)
    count.write_text(str(tries))
    if tries <= {deaths}.get(folder.name, 0):
        os.kill(os.getpid(), 9)
    folder.mkdir()
    metrics = dict(metric="accuracy", val=dict(accuracy=0.7), seconds=60.0, interrupted=False)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.json").touch()
class Table:
    def to_csv(self, path, index):
        path.touch()
Worker(Path(sys.argv[1]), sys.argv[2:], train=train, score=lambda *_, **__: Table(), load=lambda *_, **__: 0).work()
"""


def fake_train(config: Any, data: Any = None, claim: Any = None) -> Path:
    folder = Path(config.out)
    folder.mkdir(parents=True)
    metrics = {"metric": "accuracy", "val": {"accuracy": 0.5 + config.seed / 10}, "test": {"accuracy": 0.25}}
    (folder / "config.json").write_text("{}")
    (folder / "metrics.json").write_text(json.dumps(metrics | {"seconds": 60.0, "interrupted": False}))
    return folder


def fake_score(folder: Path, severities: Any, data: Any) -> pd.DataFrame:
    return pd.DataFrame({"severity": list(severities)})


def small(out: Path, **changes: Any) -> Study:
    given = {"seeds": 2, "train": {"data": "digits"}, "variants": {"plain": {}, "gated": {"fuse": "gated"}}}
    return Study(out=str(out), **given | changes)


def worker(study: Study, **changes: Any) -> Worker:
    save_study(study)
    fakes = {"train": fake_train, "score": fake_score, "load": lambda spec, seed: None}
    return Worker(Path(study.out), **fakes | changes)


def states(study: Study) -> dict[str, str]:
    return {str(run): run.state for run in study.runs}


def test_a_file_becomes_a_grid_and_settings_go_from_train_to_data_to_variant(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(FILE)
    study = read_study(path, workers=3)
    assert (study.workers, study.seeds, len(study.grid())) == (3, (0, 1), 8)
    assert [str(run) for run in study.grid()[:3]] == ["all/plain/seed-0", "all/gated/seed-0", "all/plain/seed-1"]
    config = study.config(study.grid()[-1])
    assert (config.data, config.modalities, config.lr, config.fuse) == ("digits", ("top",), 0.01, "gated")
    assert (config.epochs, config.width, config.seed, config.resume) == (5, 4, 1, True)
    assert config.out == "s/runs/top/gated/seed-1"
    assert [str(r) for r in study.choose(["variant=gated", "seed=1", "data=top"])] == ["top/gated/seed-1"]
    with pytest.raises(InputError, match="no such variant. Did you mean 'gated'"):
        study.choose(["variant=gate"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("seeds", "seed"),
            r"study.toml: seed is a setting of a training; the study sets it by seeds. Did you mean 'seeds'",
        ),
        (("seeds", "seedz"), r"study.toml: no setting 'seedz'. Did you mean 'seeds'"),
        (('fuse = "gated"', "fuse = 3"), r"\[variants.gated\]: fuse = 3: expected a text, got a whole number"),
        (("width = 4", "widht = 4"), r"\[train\]: no setting 'widht'. Did you mean 'width'"),
        (("width = 4", "seed = 4"), r"\[train\]: seed is set by the study itself \(seeds\)"),
        (("width = 4", "resume = true"), r"\[train\]: resume is set by the study itself"),
        (("width = 4", "devices = 2"), r"\[train\]: each run of a study has one device"),
        (("width = 4", 'data = "digits"'), r"\[train\]: data sets have their own tables"),
        (("epochs = 5", 'data = "scenes"'), r"\[variants.gated\]: data sets have their own tables"),
        (("[variants.plain]", '[variants."a/b"]'), r"\[variants.a/b\]: the name becomes a folder"),
        (("[variants.plain]", "[variants.Gated]"), "differ in case only"),
        (("seeds = 2", "seeds = 0"), "seeds must be a number of at least 1"),
        (("seeds = 2", "seeds = [1, 1]"), "seeds must be .* a list of different ones"),
        (("seeds = 2", "severities = [6]"), "severities must be different numbers of 1 to 5"),
        (("seeds = 2", "epochs = 2"), r"epochs is a setting of a training; write it under \[train\]"),
        (('data = "digits"\n[data', 'data = "npz:$NOWHERE/x"\n[data'), "variable NOWHERE, which is not set; set it .*"),
        (('out = "s"', ""), "say where the study goes"),
        (('data = "digits"\n[data', "lr = 1.0\n[data"), r"\[data.all\] lacks data"),
    ],
)
def test_a_mistake_names_table_key_and_mend(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(InputError, match=message):
        read_study(path)


def test_one_data_set_may_stand_among_the_settings_of_every_run(tmp_path: Path) -> None:
    assert list(small(tmp_path).data) == ["digits"]
    study = small(tmp_path, train={"data": "npz:/some where/my set.npz?inputs=a:NC&target=b"})
    assert list(study.data) == ["my-set"]


def test_a_second_start_may_add_only_and_names_what_differs(tmp_path: Path) -> None:
    study = small(tmp_path / "s")
    save_study(study)
    more = small(tmp_path / "s", seeds=3, workers=2, variants=study.variants | {"sum": {"fuse": "sum"}})
    save_study(more)
    assert len(load_study(tmp_path / "s").grid()) == 9
    with pytest.raises(InputError, match=r"seeds: 2 would be left out; \[variants.sum\] would be left out"):
        check_study(study)
    other = small(tmp_path / "s", seeds=3, variants=more.variants | {"plain": {"lr": 0.1}}, severities=(2,))
    with pytest.raises(InputError, match=r"severities: .* -> \[2\]; variants.plain.lr: not set -> 0.1"):
        check_study(other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(FileError, match="not empty: it holds thesis.tex"):
        check_study(small(tmp_path / "full"))
    (tmp_path / "s" / "study.json").write_text("{}")
    with pytest.raises(FileError, match="is no study of schema 1"):
        load_study(tmp_path / "s")


def test_a_worker_does_all_records_failures_and_tries_them_again_when_they_are_cleared(tmp_path: Path) -> None:
    def picky(config: Any, data: Any, claim: Any) -> Path:
        if config.fuse == "gated" and config.seed == 1:
            raise RuntimeError("too hot")
        return fake_train(config)

    loads = []
    study = small(tmp_path)
    worker(study, train=picky, load=lambda spec, seed: loads.append(spec)).work()
    assert loads == ["digits"], "one data set is loaded once"
    found = states(study)
    assert found.pop("digits/gated/seed-1") == "failed"
    assert set(found.values()) == {"done"}
    run = study.choose(["variant=gated", "seed=1"])[0]
    told = read_failure(study, run)
    assert (told["kind"], told["error"]) == ("error", "RuntimeError: too hot")
    assert "in picky" in told["traceback"]
    assert {"host", "time"} <= set(told)
    assert list(pd.read_csv(study.runs[0].conditions)["severity"]) == [1, 3, 5]
    worker(study).work()
    assert study.look(run).state == "failed", "a failure is left alone"
    study.failure_path(run).unlink()
    worker(study).work()
    assert set(states(study).values()) == {"done"}


def test_only_the_conditions_are_made_where_those_are_missing(tmp_path: Path) -> None:
    study = small(tmp_path, conditions=False)
    worker(study).work()
    assert set(states(study).values()) == {"done"}
    asked = small(tmp_path)
    assert set(states(asked).values()) == {"unfinished"}
    worker(asked, train=None).work()
    assert set(states(asked).values()) == {"done"}


def test_a_run_is_done_with_its_solo_twins_only(tmp_path: Path) -> None:
    def joint(config: Any, data: Any, claim: Any) -> Path:
        folder = fake_train(config)
        about = {"train": {"seed": config.seed, "solo": True, "copies": 1}, "data": {"modalities": ["a", "b"]}}
        (folder / "config.json").write_text(json.dumps(about))
        raise KeyboardInterrupt

    study = small(tmp_path, seeds=(3,), variants={"plain": {}})
    with pytest.raises(KeyboardInterrupt):
        worker(study, train=joint).work()
    assert list(states(study).values()) == ["unfinished"]

    def twins(config: Any, data: Any, claim: Any) -> Path:
        for name in ("a", "b", "a-seed5", "b-seed5"):
            assert study.runs[0].state == "running"
            fake_train(msgspec.structs.replace(config, out=f"{config.out}/solo/{name}"))
        return Path(config.out)

    worker(study, train=twins).work()
    assert list(states(study).values()) == ["done"]


def test_a_training_that_leaves_no_run_is_a_failure_and_an_interruption_none(tmp_path: Path) -> None:
    study = small(tmp_path)
    worker(study, train=lambda config, data, claim: Path(config.out)).work()
    assert set(states(study).values()) == {"failed"}

    def stopped(config: Any, data: Any, claim: Any) -> Path:
        Path(f"{config.out}.unfinished").mkdir(parents=True)
        raise KeyboardInterrupt

    study = small(tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        worker(study, train=stopped).work()
    assert list(states(study).values()) == ["unfinished", "pending", "pending", "pending"]


def test_a_worker_that_lost_its_claim_writes_no_conditions(tmp_path: Path) -> None:
    study = small(tmp_path, seeds=1, variants={"plain": {}})

    def slow(folder: Path, severities: Any, data: Any) -> pd.DataFrame:
        (tmp_path / "claims" / study.runs[0].name / "000002.json").touch()
        return fake_score(folder, severities, data)

    assert worker(study, score=slow).one()
    assert not study.runs[0].conditions.exists()
    assert not study.failure_path(study.runs[0]).exists()


def crew(study: Study, deaths: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> tuple[parent.Parent, io.StringIO]:
    monkeypatch.setattr(parent, "TICK", 0.02)
    text = io.StringIO()
    save_study(study)
    code = FAKE.replace("{deaths}", str(deaths))
    board = Board(study, console=Console(file=text, width=200))
    return parent.Parent(study, (), board, (sys.executable, "-c", code)), text


def test_workers_that_die_are_replaced_and_a_run_that_kills_three_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small(tmp_path, workers=1, seeds=3, variants={"plain": {}})
    one, text = crew(study, {"seed-0": 2, "seed-1": 9}, monkeypatch)
    one.run()
    assert states(study) == {
        "digits/plain/seed-0": "done",
        "digits/plain/seed-1": "failed",
        "digits/plain/seed-2": "done",
    }
    told = read_failure(study, study.runs[1])
    assert told["kind"] == "death"
    assert "died 3 times, the last time by signal 9 (SIGKILL), perhaps for lack of memory" in told["error"]
    assert "digits/plain/seed-0: its worker died by signal 9 (SIGKILL)" in text.getvalue()
    assert "digits/plain/seed-2 done: val accuracy 0.700, 60 s (3 of 3" in text.getvalue()


def test_workers_that_cannot_start_end_the_study_with_what_they_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = crew(small(tmp_path), {}, monkeypatch)
    one.crew.command = (sys.executable, "-S", "-c", "raise SystemExit('no room')")
    with pytest.raises(FusionscopeError, match="workers end before they begin a run; the last said:\nno room"):
        one.run()


def test_the_board_counts_scores_and_guesses_the_time_left(tmp_path: Path) -> None:
    study = small(tmp_path)
    save_study(study)
    first, second, third, _ = study.grid()
    fake_train(study.config(first))
    first.conditions.touch()
    write_failure(study, second, "error", "x", "")
    third.unfinished.mkdir(parents=True)
    (third.unfinished / "history.csv").write_text("epoch\n" + "".join(f"{i}\n" for i in range(30)))
    with study.claims.take(third.name):
        runs = study.runs
        board, text = Board(study, quiet=True), io.StringIO()
        assert board.seconds(runs) == pytest.approx(60 * 0.5 + 60)
        Console(file=text, width=120).print(board.table(runs))
    shown = text.getvalue()
    assert "seed 1: epoch 30/60" in shown
    assert "accuracy 0.500" in shown
    assert "1 of 4 runs done, 1 running, 1 failed" in shown
    assert time_left(30.0, 2) == "about 15 s left"


def test_every_combination_is_tried_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def rehearse(config: Any, data: Any = None) -> Any:
        tried.append((config.data, config.fuse))
        if config.fuse == "gated":
            raise InputError("fuse 'gated' does not fit")
        return data

    monkeypatch.setattr(rehearsal, "rehearse", rehearse, raising=False)
    with pytest.raises(InputError, match=r"^\[variants.gated\] fuse \(with \[data.digits\]\): fuse 'gated' does not"):
        run_study(small(tmp_path / "s"), quiet=True)
    assert tried == [("digits", "auto"), ("digits", "gated")]
    assert not (tmp_path / "s" / "study.json").exists(), "a study that was refused can be mended"
    with pytest.raises(InputError, match=r"^\[data.digits\] data .*: unknown data"):
        run_study(small(tmp_path / "s", train={}, data={"digits": {"data": "digit"}}), quiet=True)

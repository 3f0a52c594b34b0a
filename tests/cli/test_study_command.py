"""``fusionscope study``: one message for each mistake, a table, exit codes, and one real study from file to table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fusionscope.cli import main
from fusionscope.engine import load_run, load_study
from fusionscope.engine._study_folder import save_study, write_failure

FILE = """
out = "s"
seeds = 1
workers = 2
threads = 1
conditions = false
[train]
data = "digits"
model = "classifier"
epochs = 1
width = 4
accelerator = "cpu"
[variants.plain]
[variants.top]
modalities = ["top"]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(FILE)
    return path


def ends(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["study", *arguments])
    shown = capsys.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err


def test_a_study_from_file_to_table_and_a_second_start_trains_nothing(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["study", str(file), "--workers", "1"])
    shown = capsys.readouterr()
    assert "digits/top/seed-0 done: val accuracy" in shown.err
    assert "next: fusionscope compare s" in shown.out
    run = load_run("s/runs/digits/top/seed-0", data=False)
    assert (run.modalities, run.config.seed) == (("top",), 0)
    assert Path("s/study.toml").read_text() == FILE
    assert not list(Path("s/runs").rglob("*.unfinished"))
    before = Path("s/runs/digits/top/seed-0/metrics.json").stat().st_mtime_ns
    code = "import sys; from fusionscope.cli import main; main(['study', 's', '--quiet']); exit('torch' in sys.modules)"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, ""), "a complete study is found complete, without torch"
    assert again.stdout.count("1/1") == 2
    assert Path("s/runs/digits/top/seed-0/metrics.json").stat().st_mtime_ns == before


def test_mistakes_are_one_message_with_table_and_key_before_anything_is_trained(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for change, message in (
        (("width = 4", "widht = 4"), "[train]: no setting 'widht'. Did you mean 'width'"),
        (
            ('modalities = ["top"]', 'modalities = ["up"]'),
            "[variants.top] modalities (with [data.digits]): modalities: no modality",
        ),
        (('"digits"', '"digit"'), "[data.digit] data"),
    ):
        file.write_text(FILE.replace(*change))
        code, _, error = ends(capsys, str(file), "--quiet")
        assert code == 2
        assert message in error
        assert error.startswith("fusionscope: error: ")
        assert not Path("s/study.json").exists()
    file.write_text(FILE)
    code, _, error = ends(capsys, str(file), "--only", "variant=plane")
    assert (code, "Did you mean 'plain'" in error) == (2, True)


def test_failed_runs_end_with_1_their_list_and_the_command_to_try_again(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fusionscope.engine import read_study

    study = read_study(file)
    save_study(study)
    for run in study.grid():
        write_failure(study, run, "error", "ValueError: no luck\nat all", "Traceback ...")
    code, out, error = ends(capsys, str(file), "--quiet")
    assert code == 1
    assert "0/1" in out
    assert "digits/plain/seed-0: ValueError: no luck (s/failures/digits--plain--seed-0.json)" in error
    assert f"fusionscope study {file} --retry" in error
    assert json.loads(Path("s/failures/digits--plain--seed-0.json").read_text())["kind"] == "error"


def test_check_tries_all_and_writes_no_study(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["study", str(file), "--check"])
    assert "2 combinations of data and variant tried; 0 of 2 runs done" in capsys.readouterr().err
    assert not Path("s/study.json").exists()
    with pytest.raises(Exception, match="not the folder of a study"):
        load_study("s")

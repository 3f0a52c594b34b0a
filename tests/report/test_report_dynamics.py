"""How the modalities learned: the folder that is read back, the section of the page, and reports of runs."""

from __future__ import annotations

import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fusionscope as fs
from fusionscope.cli import main
from fusionscope.engine import TrainConfig, dissection_of, load_run, train
from fusionscope.errors import FileError
from fusionscope.report import _dynamics_prose as said
from fusionscope.report import write_report
from fusionscope.report._dynamics import Learning
from fusionscope.report._dynamics_gallery import shrunk
from fusionscope.report._page import render
from fusionscope.report._view import View
from tests.browser import Chromium
from tests.report import factory
from tests.report import factory_dynamics as planted

KINDS = {"rgb": "image", "depth": "image"}


@cache
def learned(**more: Any) -> planted.Kept:
    return planted.learned(dict(KINDS), **more)


def learning(rows: list[dict[str, Any]], kinds: dict[str, str] = KINDS, **more: Any) -> Learning:
    return Learning(View(planted.learned(dict(kinds), rows=rows, **more)))


def text_of(page: str) -> str:
    section = page.partition('<section id="dynamics">')[2].partition("</section>")[0]
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", section).split()))


# --- the section ---


def test_the_section_holds_the_planted_numbers() -> None:
    page = render(View(learned()))
    text = text_of(page)
    for part in (
        "rgb alone rose from 0.15 to 0.72 (accuracy), half the way by epoch 4",
        "depth alone rose from 0.10 to 0.65",
        "rgb was learned first: when it was half-way, depth was shown to be less than half-way.",
        "All together: 0.10 at epoch 0, 0.80 at the end.",
        "larger on rgb's own parameters than on depth's in 20 of 20 epochs",
        "agreed: rgb and depth (0.42",
        "clearly better alone than the rest: rgb (1.8",
        "clearly worse: depth (0.6",
        "on 16 of 256 samples of the val split",
        "marks epoch 17",
        "5 of 5: class 3",
    ):
        assert part in text, part
    assert '<a href="#dynamics">Training</a>' in page
    assert page.count("<symbol ") == len(set(re.findall(r'href="#(g\d-\d+)"', page)))
    bare = render(View(factory.Dissected({}, learned().manifest, {})))
    assert len(page) - len(bare) < 500_000


def test_a_page_without_dynamics_has_no_section_and_one_with_them_keeps_the_others() -> None:
    page = render(View(factory.scenes()))
    assert "dynamics" not in page.partition("<main>")[2].partition("<script")[0]
    assert "#dynamics" not in page
    both = render(View(planted.learned(dict(KINDS), list(factory.OWNERS), whole=factory.scenes())))
    names = re.findall(r'<section id="(\w+)"', page)
    assert re.findall(r'<section id="(\w+)"', both) == [*names, "dynamics"]
    assert page.partition("<main>")[2].partition('<section id="removal">')[0].split("<dt>")[0] in both


def test_noise_is_not_called_a_difference() -> None:
    flat = [r | {"mean": 0.5 + 0.01 * (r["epoch"] % 3)} for r in planted.rows(["rgb", "depth"]) if r["modality"]]
    text = " ".join(said.findings(learning([r for r in flat if r["quantity"] == "value"])))
    assert text.count("did not change beyond noise") == 2
    assert "learned first" not in text
    same = [r | {"mean": 0.1 + 0.03 * r["epoch"]} for r in flat if r["quantity"] == "value"]
    assert "Which was learned first is not told apart." in " ".join(said.findings(learning(same)))
    miou = " ".join(said.findings(learning(planted.rows(["rgb", "depth"]), metric="miou", task="dense")))
    assert "no interval is known" in miou
    assert "rgb alone went from 0.15 to 0.72 (mIoU)" in miou
    assert "learned first" not in miou
    even = [r | {"mean": 1.1} for r in flat if r["quantity"] == "discrepancy"]
    assert "even: rgb (1.10 at the end) and depth" in " ".join(said.findings(learning(even)))
    small = [r | {"mean": 0.04} for r in flat if r["quantity"] == "gradient cosine"]
    assert "had little to do with each other: rgb and depth (0.04" in " ".join(said.findings(learning(small)))


def test_calibration_that_damps_is_told() -> None:
    kinds = {"rgb": "image", "audio": "sequence"}
    text = " ".join(said.findings(learning(planted.rows(list(kinds)), kinds)))
    assert "damped: audio (0.61 ± 0.11)" in text
    assert "about as it began: rgb (0.88 ± 0.11)" in text


def test_missing_quantities_are_told_in_words() -> None:
    rows = [r for r in planted.rows(["rgb", "depth"], shared=False) if "gate" not in r["quantity"]]
    text = text_of(render(View(planted.learned(dict(KINDS), rows=rows))))
    assert f"No cosine of gradients of rgb and depth: {planted.REASON}." in text
    assert "Not recorded in this run: calibration gate per sample and calibration gate per dimension." in text
    assert "nan" not in text.lower().split()


@pytest.mark.parametrize(
    ("kinds", "labels", "more"),
    [
        ({"x": "vector"}, ["a", "b"], {"rows": planted.rows(["x"], epochs=1)}),
        ({"a": "vector", "b": "sequence"}, ["-2.5", "0", "3.25"], {"metric": "r2", "task": "regression"}),
        ({f"m{i}": "image" for i in range(5)}, [f"class {i}" for i in range(27)], {}),
        (dict.fromkeys(factory.NASTY, "image"), ["</script>", '"><img src=x>'], {}),
    ],
    ids=["one epoch", "numbers", "many", "nasty"],
)
def test_every_chart_draws_in_silence(
    browser: Chromium, tmp_path: Path, kinds: dict[str, str], labels: list[str], more: dict[str, Any]
) -> None:
    path = write_report(planted.learned(kinds, labels, **more), tmp_path / "r.html")
    browser.open(path)
    boxes = "[...document.querySelectorAll('[data-chart]')]"
    found = browser.result(f"{boxes}.length", f"{boxes}.filter(b => b.querySelectorAll('svg path').length > 1).length")
    assert (found.console_errors, found.warnings, found.requests) == ([], [], [])
    assert found.values[0] == found.values[1] > 5
    if len(kinds) != 2:
        browser.open(path, width=400, height=800)
        assert browser.evaluate("document.documentElement.scrollWidth") == 400
    assert path.stat().st_size < 909_250 + 500_000


@pytest.fixture(scope="module")
def browser():
    with Chromium() as chromium:
        yield chromium


def test_pictures_shrink_by_means() -> None:
    image = np.zeros((6, 4, 3), np.uint8)
    image[:3] = 200
    assert shrunk(image, 2).shape == (2, 1, 3)
    assert shrunk(image, 2)[:, 0, 0].tolist() == [202, 0]
    assert shrunk(np.zeros((100, 9)), 16).shape == (16, 4)
    assert shrunk(np.array([0.0, -3, 1, 2]), 4).tolist() == [-3, 2]


# --- the folder ---


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not dissected, without dynamics."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return Path(train(TrainConfig(data="digits", epochs=1, width=4, out=str(folder))))


@pytest.fixture
def dynamics(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run with a ``dynamics`` folder."""
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    kinds = {"top": "image", "bottom": "sequence"}
    return planted.write(copy / "dynamics", list(kinds), kinds, [str(i) for i in range(10)])


def test_a_run_knows_its_dynamics(run_folder: Path, dynamics: Path) -> None:
    assert load_run(run_folder, data=False).dynamics is None
    found = load_run(dynamics.parent, data=False).dynamics
    assert found is not None
    assert list(found.tables) == ["dynamics", "projection", "gallery"]
    assert found.tables["projection"]["label"].tolist()[:2] == ["0", "1"]
    assert found.arrays["dynamics/pictures/top"].shape[1:] == (96, 96, 3)
    assert found.about["metric"] == "accuracy"
    assert "21 epochs" in repr(found)
    given = pd.DataFrame(planted.rows(["top", "bottom"]))
    pd.testing.assert_frame_equal(found.tables["dynamics"], given, check_dtype=False)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dynamics.csv", lambda text: text.replace("quantity", "quality", 1), "expected a column 'quantity'"),
        ("dynamics.csv", lambda text: text[: len(text) // 2] + "\n1,x,y,z,abc,,3,\n", "dynamics"),
        ("gallery.csv", None, "lacks gallery.csv"),
        ("projection.csv", lambda text: "", "damaged"),
        ("about.json", lambda text: text[:-3], "damaged"),
        ("about.json", lambda text: "[]", "expected an object, found list"),
        ("about.json", lambda text: json.dumps({"schema": 2}), "newer than the 1 known here; upgrade"),
        ("pictures.npz", lambda text: "no archive", "damaged"),
    ],
)
def test_a_damaged_folder_is_one_message(dynamics: Path, name: str, change: Any, message: str) -> None:
    path = dynamics / name
    if change is None:
        path.unlink()
    else:
        path.write_text(change("" if name.endswith("npz") else path.read_text()))
    with pytest.raises(FileError, match=message):
        _ = load_run(dynamics.parent, data=False).dynamics


@pytest.mark.parametrize(
    "held",
    [
        {"pictures/top": np.zeros((3, 4, 4, 3), np.uint8), "samples/top": np.arange(2)},
        {"pictures/top": np.zeros((3, 4, 4, 3), np.uint8)},
        {"other": np.zeros(3)},
        {"pictures/top": np.array([{}, {}], object), "samples/top": np.arange(2)},
        {"pictures/top": np.array(["a", "b"]), "samples/top": np.arange(2)},
    ],
    ids=["lengths", "no samples", "stranger", "pickle", "text"],
)
def test_pictures_that_do_not_fit_are_refused(dynamics: Path, held: dict[str, np.ndarray]) -> None:
    np.savez(dynamics / "pictures.npz", **held)
    with pytest.raises(FileError, match="damaged"):
        _ = load_run(dynamics.parent, data=False).dynamics


# --- reports of runs ---


def test_report_of_a_run_that_was_not_dissected(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(run_folder)])
    path = run_folder / "report.html"
    assert str(path) in capsys.readouterr().out
    page = path.read_text(encoding="utf-8")
    assert "how its modalities learned" in page
    assert re.findall(r'<section id="(\w+)"', page) == ["summary", "dynamics"]
    assert "It was trained for 1 epoch; the weights of epoch 1 were kept; test accuracy is" in page
    assert page.count('data-chart="dynamics-') == 2
    assert "nothing was measured" in repr(dissection_of(load_run(run_folder, data=False)))


def test_report_of_a_run_with_dynamics_before_and_after_dissect(
    dynamics: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dynamics.parent
    main(["report", str(run), "--out", str(run.parent / "alone.html")])
    assert "top alone rose from" in (run.parent / "alone.html").read_text(encoding="utf-8")
    main(["dissect", str(run), "--measures", "removal"])
    kept = fs.load(run / "dissection")
    assert kept.manifest["dynamics"]["probe"]["size"] == planted.PROBE
    assert {"history", "dynamics", "projection", "gallery", "removal"} <= set(kept.tables)
    assert kept.tables["projection"]["label"].tolist()[:2] == ["0", "1"]
    pages = [(run / "report.html").read_text(encoding="utf-8")]
    for given in (run, run / "dissection"):
        main(["report", str(given)])
        pages.append((run / "report.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1] == pages[2]
    assert 'id="removal"' in pages[0]
    assert "top alone rose from" in pages[0]
    capsys.readouterr()
    (dynamics / "about.json").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["report", str(run)])
    assert stop.value.code == 2
    assert "lacks about.json" in capsys.readouterr().err

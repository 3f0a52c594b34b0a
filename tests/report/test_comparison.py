"""A comparison on disk: tables, escaping, charts; nothing foreign is replaced."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from planted_study import plant

from fusionscope.cli import main
from fusionscope.engine import compare
from fusionscope.errors import FileError, InputError
from fusionscope.report import comparison_sheets, write_comparison
from fusionscope.report._compare_tables import Cell, Sheet, escape_tex, latex, markdown


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    effects = {"con_cat": 0.0, "calibrated": 0.03, "gated": 0.0}
    return plant(tmp_path_factory.mktemp("studies") / "s", effects, seeds=tuple(range(9)), data=("utd_mhad",))


def test_the_command_writes_everything_and_says_it(study, capsys):
    main(["compare", str(study), "--formats", "svg"])
    said = " ".join(capsys.readouterr().out.split())
    assert "calibrated is better than con_cat on utd_mhad, clean: +0.0" in said
    assert "gated is not shown to differ from con_cat" in said
    assert "corrected by Holm's method for 14 comparisons" in said
    out = study / "comparison"
    tables = {"conditions", "means", "differences", "curves", "robustness", "missing"}
    drawn = {f"{name}.svg" for name in ("scores", "differences", "robustness")}
    assert {p.name for p in out.iterdir()} == {
        *(f"{name}.csv" for name in tables),
        *drawn,
        "comparison.md",
        "comparison.tex",
        "about.json",
    }
    found = compare(study)
    again = pd.read_csv(out / "differences.csv", keep_default_na=False)
    assert again["p"].tolist() == pytest.approx(found.differences["p"].tolist())
    assert json.loads((out / "about.json").read_text())["sentences"] == list(found.sentences)
    for name in ("scores", "differences", "robustness"):
        root = ET.fromstring((out / f"{name}.svg").read_text())
        words = " ".join(root.itertext())
        assert "calibrated" in words
        assert "utd_mhad" in words
        assert "var(--" not in (out / f"{name}.svg").read_text()


def test_only_what_is_shown_is_bold(study):
    text = "\n".join(map(latex, comparison_sheets(compare(study))))
    bold = [line for line in text.splitlines() if "textbf" in line]
    assert len(bold) == 7 + 7, "calibrated among the means of 7 conditions, and the verdicts on it"
    assert all("better" in line or re.search(r"& \\textbf\{0\.\d+ \$\\pm\$ 0\.\d+\} &", line) for line in bold)
    equal = compare(study, conditions=["clean"], baseline="gated")
    assert "**" in markdown(comparison_sheets(equal)[0]).replace(comparison_sheets(equal)[0].caption, "")[4:]
    none = compare(study, conditions=["clean"], alpha=1e-9)
    assert "textbf" not in "".join(map(latex, comparison_sheets(none)))


def test_names_are_escaped():
    told = "50 % of a_b & {c} ~ ^ # $ \\ <1"
    written = escape_tex(told)
    assert re.sub(r"\\text\w+\{\}|\\[{}$&#%_]", "", written).isascii()
    assert not re.search(r"(?<!\\)[%&#_$]", written)
    sheet = Sheet("a|b", ("x_1", "y"), ((Cell("p|q*"), Cell("<0.001", True)),))
    assert markdown(sheet).splitlines()[-1] == r"| p\|q\* | **\<0.001** |"
    assert latex(sheet).count(r"\\") == 2
    assert r"x\_1 & y \\" in latex(sheet)
    assert r"\textbf{\textless{}0.001}" in latex(sheet)


def test_an_earlier_comparison_is_replaced_and_nothing_else(study, tmp_path):
    found = compare(study, conditions=["clean"])
    out = write_comparison(found, tmp_path / "a", formats=())
    (out / "means.csv").write_text("old")
    assert write_comparison(found, out, formats=()) == out
    assert (out / "means.csv").read_text().startswith("data,condition")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("all of it")
    with pytest.raises(FileError, match="holds something that is no comparison"):
        write_comparison(found, mine, formats=())
    with pytest.raises(FileError, match="is a file"):
        write_comparison(found, mine / "thesis.tex", formats=())
    with pytest.raises(InputError, match="formats are svg, png, pdf, got 'jpg'"):
        write_comparison(found, tmp_path / "b", formats=("jpg",))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "mine"]


def test_a_study_of_one_variant_has_no_differences(tmp_path):
    found = compare(plant(tmp_path / "s", {"only": 0.0}, seeds=(0, 1), conditions=False))
    out = write_comparison(found, formats=("png", "pdf"))
    assert sorted(p.name for p in out.glob("*.p*")) == ["scores.pdf", "scores.png"]
    assert (out / "scores.png").read_bytes()[:4] == b"\x89PNG"
    assert (out / "scores.pdf").read_bytes()[:4] == b"%PDF"
    assert "| clean | 0.7" in (out / "comparison.md").read_text()

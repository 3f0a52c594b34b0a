"""The page: structure, escaping, and what it draws in a browser, where it must be silent and ask for nothing."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fusionscope.errors import FileError
from fusionscope.report import DissectionLike, write_report
from fusionscope.report._page import CONCEPTS_DRAWN, render, safe_json
from fusionscope.report._vega import vega_bundle
from fusionscope.report._view import View
from tests.browser import Chromium
from tests.report import factory, factory_semantics, traces

EVERY = factory.EVERY | factory_semantics.EVERY
FULL = ["concepts", "variance", "within", "joint", "collaboration", "units", "pairwise"]
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Tags with their attributes, text by enclosing tag, and whether every tag is closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.data: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes the wrong element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            if self.tags[-1][1].get("id"):
                self.data[str(self.tags[-1][1]["id"])] = data
        elif data.strip():
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    return {name: write_report(make(), folder / f"{name}.html") for name, make in EVERY.items()}


@pytest.fixture(scope="session")
def pages(reports: dict[str, Path]) -> dict[str, Page]:
    return {name: Page(path.read_text(encoding="utf-8")) for name, path in reports.items()}


@pytest.fixture(scope="module")
def browser():
    with Chromium() as chromium:
        yield chromium


def test_a_dissection_is_recognised_by_its_parts() -> None:
    assert isinstance(factory.scenes(), DissectionLike)


@pytest.mark.parametrize("name", EVERY)
def test_structure(pages: dict[str, Page], name: str) -> None:
    page = pages[name]
    assert page.open == []
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    sections = [a["id"] for a in page.all("section")]
    more = [] if name in factory.EVERY else [s for s in FULL if name != "concepts many" or s != "collaboration"]
    assert sections == ["summary", "trace", "removal", "similarity", *more, "selectivity"]
    assert [str(a["href"])[1:] for a in page.all("a")][1 : len(sections) + 1] == sections
    links = [str(a["href"]) for a in page.all("a")]
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    assert not [t for t, a in page.tags if a.get("src") or (t == "link" and a.get("href") != "data:,")]
    charts = json.loads(page.data["chart-data"])["charts"]
    boxes = [a for _, a in page.tags if a.get("data-chart")]
    assert sorted(str(a["data-chart"]) for a in boxes) == sorted(charts)
    assert all(a.get("aria-label") and a.get("role") == "img" for a in boxes)


def test_what_was_run_is_printed(pages: dict[str, Page]) -> None:
    text = " ".join(pages["scenes"].text)
    for said in (
        "214,731 parameters",
        "scenes?train=2000, test split",
        "resample",
        "majority",
        "torch 2.13.0",
        "total 9.3",
    ):
        assert said in text


def test_planted_truth_stands_beside_what_was_found(pages: dict[str, Page]) -> None:
    text = pages["scenes"].text
    assert text.count("✓") == 12
    assert text.count("✗") == 0
    assert text.count("geometry") == 3
    assert "Planted truth beside what was found" not in pages["actions"].text


def test_a_fact_not_recovered_gets_a_cross(tmp_path: Path) -> None:
    whole = factory.scenes()
    whole.tables["recovery"].loc[0, "agrees"] = False
    text = Page(write_report(whole, tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert (text.count("✓"), text.count("✗")) == (11, 1)


def test_messages_and_unused_modules_are_shown(pages: dict[str, Page]) -> None:
    text = pages["actions"].text
    assert "rows interact in norm0" in text
    assert "depth reaches no output in this batch" in text
    assert "aux.classifier" in text


def test_missing_numbers_show_their_reason(pages: dict[str, Page]) -> None:
    text = pages["failed"].text
    assert "not computed: no labelled sample" in text
    assert "not computed: fewer than 4 samples in every batch" in text
    assert "not computed: one class only" in text
    assert not any(re.search(r"\bnan\b", t, re.I) for t in text)


@pytest.mark.parametrize(("name", "total"), [("scenes", 9), ("actions", 28), ("many", 101)])
def test_charts_of_concepts_are_capped_and_the_rest_is_in_the_table(
    pages: dict[str, Page], name: str, total: int
) -> None:
    page = pages[name]
    drawn = [a for _, a in page.tags if str(a.get("data-chart", "")).startswith("selectivity")]
    assert len(drawn) == min(total, CONCEPTS_DRAWN)
    last = [c for c in factory.EVERY[name]().manifest["classes"]][-1]
    assert last in page.text


@pytest.mark.parametrize("name", ["nasty", "concepts nasty"])
def test_names_cannot_become_markup(reports: dict[str, Path], pages: dict[str, Page], name: str) -> None:
    source, page = reports[name].read_text(encoding="utf-8"), pages[name]
    assert len(page.all("script")) == 3
    assert not page.all("img")
    assert not page.all("u")
    assert not page.all("i") or all("onerror" not in a for a in page.all("i"))
    assert "{{ 7 * 7 }} <!-- & \u2028" in page.text
    assert source.count("</script") == 3


def test_json_for_scripts() -> None:
    nasty = {"k": ["</script><!--", "\u2028&", 'quote"', 1.5]}
    written = safe_json(nasty)
    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == nasty


def test_the_bundle_cannot_end_its_script() -> None:
    assert "</script" not in vega_bundle()
    assert "<!--" not in vega_bundle()


@pytest.mark.parametrize("name", EVERY)
def test_every_chart_draws_in_silence(browser: Chromium, reports: dict[str, Path], name: str) -> None:
    browser.open(reports[name])
    boxes = "[...document.querySelectorAll('[data-chart]')]"
    result = browser.result(f"{boxes}.length", f"{boxes}.filter(b => b.querySelectorAll('svg path').length > 3).length")
    assert result.console_errors == []
    assert result.warnings == []
    assert result.requests == []
    assert result.values[0] == result.values[1]
    assert (result.values[0] > 0) == (name != "empty")


def test_the_charts_hold_what_was_planted(browser: Chromium, reports: dict[str, Path]) -> None:
    browser.open(reports["scenes"])
    cells = "[...document.querySelectorAll('[data-chart=cka-0] {}')]"
    shown = browser.evaluate(f"{cells.format('.role-mark.mark-text text')}.map(t => t.textContent)")
    assert shown[::5] == [".05", ".20", ".37", ".61"]
    inside = browser.evaluate(f"{cells.format('.role-mark.mark-symbol path')}.length")
    assert inside == 7  # level 0 of either stream with any level of the other
    fills = "[...document.querySelectorAll('[data-chart]')].find(c => c.ariaLabel.startsWith('poster'))"
    dots = f"[...{fills}.querySelectorAll('.role-mark.mark-symbol path')]"
    colours = browser.evaluate(f"{dots}.map(p => p.getAttribute('fill'))")
    assert sorted(colours) == ["var(--m0)"] * 4 + ["var(--paper)"] * 4
    bars = browser.evaluate(
        "[...document.querySelectorAll('[data-chart=removal] .mark-rect path')].map(p => p.getBBox().width)"
    )
    assert bars[1] / bars[0] == pytest.approx(0.6 / 0.8, abs=0.01)
    assert bars[2] / bars[0] == pytest.approx(0.3 / 0.8, abs=0.01)


def test_tooltips_show_names_as_text(browser: Chromium, reports: dict[str, Path]) -> None:
    browser.open(reports["nasty"])
    browser.hover("[data-chart=cka-0] .mark-rect path")
    tip = "document.getElementById('vg-tooltip-element')"
    browser.evaluate("new Promise(r => setTimeout(r, 100))")
    assert browser.evaluate(f"{tip}.textContent.includes('<b>x</b> 0 with a+b 0')")
    assert browser.evaluate(f"{tip}.querySelectorAll('b, script, img').length") == 0
    assert browser.result().requests == []


@pytest.mark.parametrize("name", ["scenes", "many", "nasty", "concepts", "concepts many", "concepts nasty"])
def test_a_narrow_window_scrolls_only_inside_boxes(browser: Chromium, reports: dict[str, Path], name: str) -> None:
    browser.open(reports[name], width=400, height=800)
    assert browser.evaluate("document.documentElement.scrollWidth") == 400


def test_dark_mode_changes_paper_and_charts(browser: Chromium, reports: dict[str, Path]) -> None:
    seen = {}
    for dark in (False, True):
        browser.open(reports["scenes"], dark=dark)
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        bar = browser.evaluate("getComputedStyle(document.querySelector('[data-chart=removal] .mark-rect path')).fill")
        seen[dark] = (paper, bar)
    assert seen[False][0] == "rgb(255, 255, 255)"
    assert seen[False][0] != seen[True][0]
    assert seen[False][1] != seen[True][1]


def test_the_policy_stops_what_is_planted_in_the_page(
    browser: Chromium, reports: dict[str, Path], tmp_path: Path
) -> None:
    source = reports["scenes"].read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(source.replace("</main>", "<script>window.ranAnyway = 1</script></main>"), encoding="utf-8")
    browser.open(broken)
    assert browser.evaluate("window.ranAnyway === undefined")
    assert browser.result().console_errors != []


def test_a_chart_that_fails_is_noticed(browser: Chromium, reports: dict[str, Path], tmp_path: Path) -> None:
    source = reports["single"].read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(source.replace('data-chart="removal"', 'data-chart="remova"'), encoding="utf-8")
    browser.open(broken)
    assert browser.result().console_errors == ["Error: no chart named remova"]
    assert browser.evaluate("document.querySelector('[data-chart=remova]').textContent.includes('could not be drawn')")


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert write_report(factory.single(), path) == path
    assert os.listdir(path.parent) == ["report.html"]
    blocker = tmp_path / "file"
    blocker.write_text("x")
    with pytest.raises(FileError, match="cannot write to the folder"):
        write_report(factory.single(), blocker / "report.html")
    with pytest.raises(FileError, match="is a folder"):
        write_report(factory.single(), tmp_path)


def test_the_same_dissection_gives_the_same_page(tmp_path: Path) -> None:
    first, second = (write_report(factory.scenes(), tmp_path / f"{n}.html").read_bytes() for n in "ab")
    assert first == second


def test_the_page_explains_bars_and_dashed_boxes_where_there_are_any() -> None:
    whole = factory.scenes()
    for given, bars, dashed in ((traces.old(), 0, 0), (traces.parallel(), 1, 0), (traces.gated(), 1, 1)):
        page = render(View(factory.Dissected(whole.tables, whole.manifest, given)))
        assert page.count("a bar across the lanes") == bars
        assert page.count("a dashed box a call that is wired") == dashed
        assert ("wired to depth, inactive here" in page) == bool(dashed)

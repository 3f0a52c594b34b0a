"""The browser helper must see the faults that other tests rely on it to see."""

from __future__ import annotations

from pathlib import Path

from tests.browser import Chromium, open_page

GOOD = (
    "<!doctype html><meta charset=utf-8><title>t</title><body><script>document.body.innerHTML='<p>drawn</p>'</script>"
)


def page(folder: Path, extra: str) -> Path:
    path = folder / "page.html"
    path.write_text(GOOD + extra, encoding="utf-8")
    return path


def test_a_good_page_is_clean(tmp_path: Path) -> None:
    result = open_page(page(tmp_path, ""), "1 + 1")
    assert "<p>drawn</p>" in result.dom
    assert result.console_errors == []
    assert result.requests == []
    assert result.values == [2]


def test_planted_faults_are_seen(tmp_path: Path) -> None:
    with Chromium() as browser:
        browser.open(page(tmp_path, "<script>console.error('planted', 7)</script>"))
        assert browser.result().console_errors == ["planted 7"]
        browser.open(page(tmp_path, "<script>undefined_name()</script>"))
        assert "undefined_name is not defined" in browser.result().console_errors[0]
        browser.open(page(tmp_path, "<img src='http://fusionscope.invalid/pixel.png'>"))
        assert browser.result().requests == ["http://fusionscope.invalid/pixel.png"]
        browser.open(page(tmp_path, "<link rel=stylesheet href='neighbour.css'>"))
        assert browser.result().requests[0].endswith("/neighbour.css")
        browser.open(page(tmp_path, ""))
        assert browser.result().console_errors == []

"""What a terminal shows while a model trains."""

import io

import pytest
from rich.console import Console

from fusionscope.engine._progress import Reporter


@pytest.mark.parametrize("width", [80, 200])
def test_the_time_left_and_the_scores_fit_into_a_terminal_of_80_columns(width: int) -> None:
    shown = io.StringIO()
    with Reporter(console=Console(file=shown, force_terminal=True, width=width, highlight=False)) as reporter:
        reporter.phase("train", 13200)
        reporter.epoch(13, 40, "loss 1.293  val loss 0.139  val accuracy 0.970  *")
        reporter.step()
    assert "val accuracy 0.970" in shown.getvalue()
    assert "-:--:--" in shown.getvalue()
    assert "…" not in shown.getvalue()
    assert ("13200" in shown.getvalue()) == (width == 200)

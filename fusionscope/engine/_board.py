"""What a study shows while it runs: a live table in a terminal, a line per event elsewhere."""

from __future__ import annotations

import csv
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ._metrics import restored
from ._study import Study, StudyRun, is_trained
from ._study_folder import read_failure


class Board:
    """Show how the runs of a study stand, on standard error. With ``quiet`` nothing is shown."""

    def __init__(self, study: Study, *, quiet: bool = False, console: Console | None = None):
        self.study = study
        self.console = console or Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
        self.live: Live | None = None
        if self.console.is_terminal and not quiet:
            self.live = Live(console=self.console, refresh_per_second=2, transient=True)
        self.states: dict[str, str] = {}
        self.scores: dict[str, tuple[str, float, float]] = {}

    def __enter__(self) -> Board:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, text: str) -> None:
        """Print a line, above the table where there is one."""
        self.console.print(text, markup=False)

    def update(self, runs: Sequence[StudyRun]) -> None:
        """Show the runs as they are; print what changed since the last time."""
        left = f", {time_left(self.seconds(runs), self.study.workers)}"
        for run in runs:
            before = self.states.get(run.name)
            if before not in (None, run.state) and run.state in ("done", "failed"):
                count = Counter(r.state for r in runs)
                score = self.score(run)
                told = f": val {score[0]} {score[1]:.3f}, {score[2]:.0f} s" if score else ""
                if run.state == "failed":
                    told = f": {why(self.study, run)}"
                self.say(f"{run} {run.state}{told} ({count['done'] + count['failed']} of {len(runs)}{left})")
            self.states[run.name] = run.state
        if self.live is not None:
            self.live.update(self.table(runs, f"{progress(runs)}{left}"))

    def table(self, runs: Sequence[StudyRun], caption: str = "") -> Table:
        """A row per data set and variant."""
        split = "test" if runs and all(run.state in ("done", "failed") for run in runs) else "val"
        table = Table(caption=caption or progress(runs), caption_justify="left")
        for name in ("data", "variant"):
            table.add_column(name)
        for name in ("done", "failed", f"mean {split} score ± sd"):
            table.add_column(name, justify="right")
        table.add_column("running")
        groups: dict[tuple[str, str], list[StudyRun]] = {}
        for run in runs:
            groups.setdefault((run.data, run.variant), []).append(run)
        for (data, variant), group in groups.items():
            count = Counter(run.state for run in group)
            found = [s for run in group if run.state == "done" and (s := self.score(run, split))]
            scores = [s[1] for s in found]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            score = f"{found[0][0]} {statistics.mean(scores):.3f}{spread}" if found else ""
            running = ", ".join(_doing(self.study, run) for run in group if run.state == "running")
            failed = str(count["failed"] or "")
            table.add_row(data, variant, f"{count['done']}/{len(group)}", failed, score, running)
        return table

    def score(self, run: StudyRun, split: str = "val") -> tuple[str, float, float] | None:
        """Metric, score and seconds of a trained run; None where it has none."""
        key = f"{run.name} {split}"
        if key not in self.scores:
            try:
                metrics = restored(json.loads((run.folder / "metrics.json").read_text(encoding="utf-8")))
                self.scores[key] = (metrics["metric"], metrics[split][metrics["metric"]], metrics["seconds"])
            except (OSError, ValueError, KeyError, TypeError):
                return None
        return self.scores[key]

    def seconds(self, runs: Sequence[StudyRun]) -> float | None:
        """Seconds of one worker that all open runs will still take, from those that are done; None before the first.

        A running one counts with the epochs that it has left.
        """
        took: dict[tuple[str, str], list[float]] = {}
        for run in runs:
            if run.state == "done" and (score := self.score(run)):
                took.setdefault((run.data, run.variant), []).append(score[2])
        everything = [s for group in took.values() for s in group]
        if not everything:
            return None
        total = 0.0
        for run in runs:
            if run.state in ("done", "failed"):
                continue
            epoch, epochs = epochs_done(self.study, run) if run.state != "pending" else (0, 1)
            total += statistics.mean(took.get((run.data, run.variant), everything)) * max(0.0, 1 - epoch / epochs)
        return total


def epochs_done(study: Study, run: StudyRun) -> tuple[int, int]:
    """How many epochs an unfinished training has made, and how many it will make at most."""
    epochs = study.config(run).epochs
    try:
        with (run.unfinished / "history.csv").open(newline="", encoding="utf-8") as file:
            return min(sum(1 for _ in csv.DictReader(file)), epochs), epochs
    except (OSError, ValueError, csv.Error):
        return 0, epochs


def why(study: Study, run: StudyRun) -> str:
    """The first line of what a failed run raised."""
    return (read_failure(study, run).get("error", "") or "not told").splitlines()[0]


def progress(runs: Sequence[StudyRun]) -> str:
    """Counts of the states in words."""
    count = Counter(run.state for run in runs)
    rest = [f"{count[s]} {s}" for s in ("running", "unfinished", "failed") if count[s]]
    return ", ".join([f"{count['done']} of {len(runs)} runs done", *rest])


def time_left(seconds: float | None, workers: int) -> str:
    """
    >>> time_left(7300.0, 2)
    'about 1 h 1 min left'
    """
    if seconds is None:
        return "time left not known yet"
    rest = seconds / workers
    if rest < 100:
        return f"about {rest:.0f} s left"
    minutes = round(rest / 60)
    return f"about {minutes} min left" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min left"


def _doing(study: Study, run: StudyRun) -> str:
    if is_trained(run.folder):
        return f"seed {run.seed}: conditions"
    epoch, epochs = epochs_done(study, run)
    return f"seed {run.seed}: epoch {epoch}/{epochs}"

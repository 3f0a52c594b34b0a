"""``run_study``: check everything, then let workers train until no run is left."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from fusionscope.errors import FusionscopeError, InputError

from ._board import Board, progress, why
from ._claims import machine
from ._crew import Crew, Member, tail
from ._study import Study, StudyRun
from ._study_folder import check_study, load_study, save_study, write_failure
from ._worker import LOST

ATTEMPTS = 3
TICK = 0.5


def run_study(
    study: Study,
    *,
    only: Sequence[str] = (),
    retry: bool = False,
    check: bool = False,
    quiet: bool = False,
    file: str | Path | None = None,
) -> Study:
    """Train every run of the study that is not done, in worker processes, and score it under its conditions.

    Before anything starts, each variant that was not begun yet is built and tried on one batch of each data set. Runs
    are claimed, so several machines may work on one study folder at once. When killed at any moment, a second start
    loses no finished run and goes on with the unfinished ones. A run that fails is recorded, with its traceback, and
    left alone until ``retry``; one whose process dies is tried 3 times before.

    Args:
        study: the grid; where its folder holds a part of it already, that is gone on with.
        only: words that choose runs, such as ("variant=sum", "seed=0").
        retry: also train what failed before.
        check: stop after the checks.
        quiet: show nothing.
        file: the file the study was read from, to be copied into its folder.

    Returns:
        The study as it lies in its folder; ``.runs`` has the state of each.

    Raises:
        InputError: if a setting does not fit, or the folder holds this study with other settings.
        FileError: if a folder cannot be written or data not be read.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the workers have made their snapshots.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a study starts its workers itself: run it without torchrun, and set workers")
    runs = study.choose(only)
    check_study(study)
    board = Board(study, quiet=quiet)
    states = [study.look(run) for run in runs]
    begun = {(run.data, run.variant) for run in states if run.state in ("done", "unfinished", "running") and not check}
    again = ("pending", "failed") if retry else ("pending",)
    fresh = [run for run in states if check or (run.state in again and (run.data, run.variant) not in begun)]
    rehearsed = _rehearse_all(study, fresh, board)
    if check:
        board.say(f"the settings fit: {rehearsed} combinations of data and variant tried; {progress(states)}")
        return study
    save_study(study, None if file is None else Path(file))
    if retry:
        for run in runs:
            study.failure_path(run).unlink(missing_ok=True)
    Parent(study, only, board).run()
    return load_study(study.out)


class Parent:
    """Keeps the workers at work until no run of the choice is open; those of other machines are waited for."""

    def __init__(self, study: Study, only: Sequence[str], board: Board, command: Sequence[str] = ()):
        self.study, self.board = study, board
        self.crew = Crew(study, only, command)
        self.runs = study.choose(only)
        self.deaths: Counter[str] = Counter()
        self.idle_deaths = 0

    def run(self) -> None:
        """Return when every run is done or failed."""
        with _stopping() as asked, self.board as board:
            try:
                while not self.step():
                    if asked():
                        raise KeyboardInterrupt
                    time.sleep(TICK)
            except KeyboardInterrupt:
                board.say("stopping: the workers make their snapshots (Ctrl-C again: at once)")
                raise
            finally:
                self.crew.stop(wait=lambda: _wait(asked))

    def step(self) -> bool:
        """Look at workers and runs once, start what is missing; True when all is over."""
        for member in self.crew.ended():
            if member.process.returncode not in (0, LOST):
                self._died(member)
        # what is done stays so, and need not be looked at again
        runs = self.runs = [run if run.state == "done" else self.study.look(run) for run in self.runs]
        self.board.update(runs)
        unowned = sum(run.state in ("pending", "unfinished") for run in runs)
        holding = {self._owner(run) for run in runs if run.state == "running"}
        idle = sum(m.process.pid not in holding for m in self.crew.members.values())
        for _ in range(min(self.study.workers - len(self.crew.members), unowned - idle)):
            self.crew.start()
        return not self.crew.members and all(run.state in ("done", "failed") for run in runs)

    def _owner(self, run: StudyRun) -> int:
        """The process of this machine that works on the run, else 0."""
        owner = self.study.claims.owner(run.name) or {}
        return owner.get("pid", 0) if owner.get("machine") == machine() else 0

    def _died(self, member: Member) -> None:
        """Count the death of a worker against the run that it had claimed."""
        code = member.process.returncode
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        claims, pid = self.study.claims, member.process.pid
        run = next((r for r in self.runs if claims.left_by(r.name, pid)), None)
        if run is None:
            self.idle_deaths += 1
            self.board.say(f"a worker ended by {how}{hint}")
            if self.idle_deaths >= ATTEMPTS:
                raise FusionscopeError(f"workers end before they begin a run; the last said:\n{tail(member)}")
            return
        self.idle_deaths = 0
        self.deaths[run.name] += 1
        count = self.deaths[run.name]
        self.board.say(f"{run}: its worker died by {how}{hint} (attempt {count} of {ATTEMPTS})")
        if count >= ATTEMPTS:
            error = f"the worker died {count} times, the last time by {how}{hint}"
            write_failure(self.study, run, "death", error, f"end of {member.log}:\n{tail(member)}")


def study_summary(study: Study) -> list[str]:
    """Print the table of a study on standard output; return a line per failed run: which, why, and where it is told."""
    found, runs = [], study.runs
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(Board(study, quiet=True).table(runs))
    for run in runs:
        if run.state == "failed":
            found.append(f"{run}: {why(study, run)} ({study.failure_path(run)})")
    return found


def _rehearse_all(study: Study, runs: Sequence[StudyRun], board: Board) -> int:
    """Try every combination of data set and variant that has something to train; one data set in memory at a time."""
    if not runs:  # a study that is only gone on with needs no torch here
        return 0
    from fusionscope.data import load_data

    from . import _rehearse

    first: dict[tuple[str, str], StudyRun] = {}
    for run in runs:
        first.setdefault((run.data, run.variant), run)
    key, data = None, None
    for run in first.values():
        config = study.config(run)
        board.say(f"checking {run.data} with {run.variant}")
        try:
            if key != (config.data, config.data_seed):
                key, data = (config.data, config.data_seed), None
                data = load_data(config.data, seed=config.data_seed)
            _rehearse.rehearse(config, data)
        except FusionscopeError as error:
            raise InputError(f"{_blame(study, run, str(error))}: {error}") from error
    return len(first)


def _blame(study: Study, run: StudyRun, error: str) -> str:
    """The tables that set what the message speaks of, else those of the combination."""
    tables = {f"[variants.{run.variant}]": study.variants[run.variant], f"[data.{run.data}]": study.data[run.data]}
    words = set(re.findall(r"\w+", error))
    for name, table in (tables | {"[train]": study.train}).items():
        keys = [key for key in table if key in words or any(repr(v) in error for v in _texts(table[key]))]
        if keys:
            other = f"with [data.{run.data}]" if "variants" in name else f"with [variants.{run.variant}]"
            return f"{name} {', '.join(keys)} ({other})"
    return " with ".join(tables)


def _texts(value: Any) -> list[str]:
    return [v for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, str)]


@contextmanager
def _stopping() -> Any:
    """While entered, SIGTERM is like Ctrl-C, and both only set what the function yielded tells."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield lambda: len(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(asked: Callable[[], int]) -> None:
    """A short while; a second Ctrl-C ends the waiting."""
    time.sleep(0.05)
    if asked() > 1:
        raise KeyboardInterrupt

"""What training shows: a bar in a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

# In a narrower terminal the bar and the steps would leave no room for the time left and the scores.
ROOMY = 130


class Reporter:
    """Show how a training goes, on standard error. With ``quiet`` nothing is shown.

    Use as a context manager: the bar is taken down whatever happens. A ``title`` stands before each phase's name.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None, title: str = ""):
        self.title = title
        self.console = console or Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
        self.bar: Progress | None = None
        self.started = time.perf_counter()
        if self.console.is_terminal and not quiet:
            roomy = self.console.width >= ROOMY
            self.bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                *((BarColumn(), MofNCompleteColumn()) if roomy else ()),
                TimeRemainingColumn(table_column=Column(min_width=7, no_wrap=True)),
                TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=self.console,
            )

    def __enter__(self) -> Reporter:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def phase(self, name: str, steps: int, done: int = 0) -> None:
        """Begin a phase of so many optimiser steps, of which some were done before."""
        self.name = f"{self.title} {name}".lstrip()
        if self.bar is not None:
            self.task = self.bar.add_task(self.name, total=steps, completed=done, text="")

    def step(self) -> None:
        """One optimiser step was made."""
        if self.bar is not None:
            self.bar.advance(self.task)

    def epoch(self, epoch: int, epochs: int, text: str) -> None:
        """One epoch ended."""
        if self.bar is not None:
            self.bar.update(self.task, text=f"epoch {epoch}/{epochs} {text}")
        else:
            seconds = time.perf_counter() - self.started
            self.say(f"{self.name} {epoch:3d}/{epochs}  {text}  {seconds:5.0f} s")

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

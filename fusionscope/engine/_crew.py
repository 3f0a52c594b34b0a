"""The worker processes of one machine, as their parent sees them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ._study import Study

STOP_SECONDS = 120.0


@dataclass
class Member:
    """One worker process."""

    place: int
    process: subprocess.Popen
    log: Path
    start: int


class Crew:
    """Starts workers, and sees them end.

    Args:
        study: whose workers they are.
        only: words that choose runs.
        command: what a worker is, in tests.
    """

    def __init__(self, study: Study, only: Sequence[str] = (), command: Sequence[str] = ()):
        self.study, self.only = study, only
        self.command = tuple(command) or (sys.executable, "-m", "fusionscope.engine._worker")
        self.members: dict[int, Member] = {}
        self.logs = Path(study.out) / "logs"
        self.environments = list(_environments(study))

    def start(self) -> None:
        """Start one more, in the lowest place that is free."""
        place = next(i for i in range(self.study.workers) if i not in self.members)
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{os.uname().nodename}-worker-{place}.log"
        with log.open("ab") as file:
            start = file.tell()
            process = subprocess.Popen(
                [*self.command, self.study.out, *self.only],
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends: then the worker stops
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environments[place],
            )
        self.members[place] = Member(place, process, log, start)

    def ended(self) -> list[Member]:
        """Take those that have ended from the crew."""
        found = [m for m in self.members.values() if m.process.poll() is not None]
        for member in found:
            _pipe(member).close()
            del self.members[member.place]
        return found

    def stop(self, seconds: float = STOP_SECONDS, wait: Callable[[], None] = lambda: time.sleep(0.05)) -> None:
        """Ask all to make their snapshots and end; after so many seconds, or a second Ctrl-C, kill them."""
        for member in self.members.values():
            _pipe(member).close()
        limit = time.monotonic() + seconds
        try:
            while time.monotonic() < limit and any(m.process.poll() is None for m in self.members.values()):
                wait()
        finally:
            for member in self.members.values():
                if member.process.poll() is None:
                    member.process.kill()
                member.process.wait()
            self.members.clear()


def tail(member: Member, characters: int = 2000) -> str:
    """The end of what a worker has said."""
    with member.log.open("rb") as file:
        file.seek(member.start)
        return file.read()[-characters:].decode("utf-8", "replace").strip()


def _pipe(member: Member) -> IO[bytes]:
    assert member.process.stdin is not None
    return member.process.stdin


def _environments(study: Study) -> Sequence[dict[str, str]]:
    """Per place what its worker gets: its threads, and one of the CUDA devices in turn."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(study.threads or max(1, cores // study.workers))
    devices = _devices() if study.workers > 1 else []
    shared = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    return [
        shared | ({"CUDA_VISIBLE_DEVICES": devices[place % len(devices)]} if devices else {})
        for place in range(study.workers)
    ]


def _devices() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(index) for index in range(sum(p.name[6:].isdecimal() for p in Path("/dev").glob("nvidia*")))]

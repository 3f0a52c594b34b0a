"""Claims: who works on what, among processes and machines that share one folder.

Each claim on a name is a new file ``NAME/000001.json``, ``NAME/000002.json``, ...; the highest number owns the name.
Files are made with O_EXCL and never removed or renamed, so of all that try to follow number 7 exactly one makes number
8: nobody can take over a claim that was already followed, nor be followed without finding out. A release is a file
``NAME/000007.free`` beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from fusionscope.errors import FileError

BEAT, STALE = 10.0, 90.0


class LostClaim(Exception):
    """Another process has taken over, since no sign of life was seen for long."""


@cache
def machine() -> str:
    """Name the set of processes that this one can see: host, boot and process namespace."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass
    return " ".join(parts)


def started(pid: int) -> str:
    """Return when a process of this machine was started, in words of the system; "" where that is not told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def alive(pid: int, start: str) -> bool:
    """Whether the process with this number is the one that was started then; a zombie is dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    if not start:
        return True
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == start and fields[0] not in "ZX"


class Claims:
    """The claims in one folder.

    Args:
        folder: where they lie; on a file system shared by all that work.
        beat: seconds between signs of life.
        stale: seconds without one after which a claim may be taken over. Measured by the file system's own clock.
    """

    def __init__(self, folder: Path, *, beat: float = BEAT, stale: float = STALE):
        self.folder, self.beat, self.stale = folder, beat, stale

    def take(self, name: str, lost: Callable[[], None] | None = None) -> Claim | None:
        """Claim ``name``; None where another has it. ``lost`` is called, from a thread, if the claim is lost later.

        Raises:
            FileError: if the folder cannot be written.
        """
        place = self.folder / name
        try:
            place.mkdir(parents=True, exist_ok=True)
            newest = _newest(place)
            if newest and not self._is_free(place, newest):
                return None
            made = _make(place, newest + 1)
        except OSError as error:
            raise FileError(f"cannot write claims to {place}: {error.strerror or error}") from error
        return Claim(place, newest + 1, self.beat, lost) if made else None

    def owner(self, name: str) -> dict[str, Any] | None:
        """Return what the live claim says (host, machine, pid, start, since); None where there is none."""
        place = self.folder / name
        newest = _newest(place)
        if not newest or self._is_free(place, newest):
            return None
        return _read(place, newest)[0]

    def left_by(self, name: str, pid: int) -> bool:
        """Whether this machine's process with that number once had the claim and did not release it."""
        place = self.folder / name
        mine = [n for n in range(_newest(place), 0, -1) if _owns(_read(place, n)[0], pid)]
        return bool(mine) and not (place / f"{mine[0]:06d}.free").exists()

    def now(self) -> float:
        """The time by the clock that stamps files in the folder; the local one where it cannot be written."""
        path = self.folder / f".clock-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        try:
            path.touch()
            os.utime(path)
            try:
                return path.stat().st_mtime
            finally:
                path.unlink(missing_ok=True)
        except OSError:
            return time.time()

    def _is_free(self, place: Path, number: int) -> bool:
        """Whether the claim was released, or shows no life."""
        if (place / f"{number:06d}.free").exists():
            return True
        said, touched = _read(place, number)
        if said.get("machine") == machine() and not alive(said["pid"], said["start"]):
            return True
        return self.now() - touched > self.stale


class Claim:
    """A claim that is held: shows life from a thread until it is released. Use it as a context manager."""

    def __init__(self, place: Path, number: int, beat: float, lost: Callable[[], None] | None):
        self.place, self.number, self.on_lost = place, number, lost
        self.lock, self.over = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self._live, args=(beat,), daemon=True)
        self.thread.start()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    @property
    def lost(self) -> bool:
        """Whether another process has followed."""
        return (self.place / f"{self.number + 1:06d}.json").exists()

    def confirm(self) -> None:
        """Follow oneself: proof that nobody else did. Call it before anything is written that others could write too.

        Raises:
            LostClaim: if another process has followed.
        """
        with self.lock:
            if not _make(self.place, self.number + 1):
                self.over.set()
                raise LostClaim(f"{self.place.name} was taken over by another process; nothing was written")
            self.number += 1

    def release(self) -> None:
        """Let others have it; harmless when it is lost."""
        self.over.set()
        self.thread.join()
        with contextlib.suppress(OSError):  # else it goes stale by itself
            (self.place / f"{self.number:06d}.free").touch()

    def _live(self, beat: float) -> None:
        while not self.over.wait(beat):
            with self.lock:
                try:
                    os.utime(self.place / f"{self.number:06d}.json")
                    lost = self.lost
                except OSError:
                    continue  # the file system is away; it may come back
            if lost and not self.over.is_set():
                if self.on_lost is not None:
                    self.on_lost()
                return


def _owns(said: dict[str, Any], pid: int) -> bool:
    return said.get("machine") == machine() and said.get("pid") == pid


def _newest(place: Path) -> int:
    try:
        return max((int(name[:-5]) for name in os.listdir(place) if name.endswith(".json")), default=0)
    except FileNotFoundError:
        return 0


def _make(place: Path, number: int) -> bool:
    pid = os.getpid()
    said = {"host": socket.gethostname(), "machine": machine(), "pid": pid, "start": started(pid), "since": time.time()}
    try:
        file = os.open(place / f"{number:06d}.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(file, json.dumps(said).encode())
    finally:
        os.close(file)
    return True


def _read(place: Path, number: int) -> tuple[dict[str, Any], float]:
    """What a claim says ({} while it is being written) and when it last showed life."""
    with (place / f"{number:06d}.json").open(encoding="utf-8") as file:
        touched = os.fstat(file.fileno()).st_mtime
        try:
            return json.load(file), touched
        except ValueError:
            return {}, touched

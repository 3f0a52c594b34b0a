"""Claims: never two owners, the dead are followed, and whoever was followed finds out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from fusionscope.engine import _claims
from fusionscope.engine._claims import Claims, LostClaim

HAMMER = """
import os, sys
from pathlib import Path
from fusionscope.engine._claims import Claims, alive
folder = Path(sys.argv[1])
claims, inside, done = Claims(folder / "claims"), folder / "inside", 0
while done < int(sys.argv[2]) and not (folder / "stop").exists():
    claim = claims.take("run")
    if claim is None:
        continue
    with claim:
        owner = inside.read_text() if inside.exists() else ""
        if owner and alive(int(owner), ""):  # one that was killed leaves its name, or nothing of it
            (folder / "two-owners").touch()
        inside.write_text(str(os.getpid()))
        claim.confirm()
        if inside.read_text() != str(os.getpid()):
            (folder / "two-owners").touch()
        inside.unlink()
        done += 1
"""


def age(claim: _claims.Claim, seconds: float = 1000.0) -> None:
    """Let a claim's last sign of life be long ago, as if its owner hung."""
    claim.over.set()
    claim.thread.join()
    past = time.time() - seconds
    os.utime(claim.place / f"{claim.number:06d}.json", (past, past))


def test_one_owner_at_a_time_and_the_next_after_a_release(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with claims.take("a"):
        assert claims.take("a") is None
        assert claims.owner("a")["pid"] == os.getpid()
        with claims.take("b"):
            pass
    assert claims.owner("a") is None
    with claims.take("a"):
        assert claims.take("a") is None


def test_a_silent_claim_is_followed_and_its_owner_finds_out(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    old = claims.take("a")
    age(old, 80)
    assert claims.take("a") is None, "80 s of silence are not enough"
    age(old, 100)
    new = claims.take("a")
    assert old.lost
    with pytest.raises(LostClaim, match="a was taken over"):
        old.confirm()
    old.release()
    assert claims.take("a") is None, "the release of a lost claim frees nothing"
    new.confirm()
    new.confirm()
    new.release()
    with claims.take("a"):
        pass


def test_a_living_claim_stays_young_and_a_lost_one_is_told(tmp_path: Path) -> None:
    told = threading.Event()
    claims = Claims(tmp_path, beat=0.01)
    claim = claims.take("a", told.set)
    path = claim.place / "000001.json"
    os.utime(path, (1, 1))
    while path.stat().st_mtime == 1:
        time.sleep(0.01)
    assert not told.is_set()
    (claim.place / "000002.json").touch()
    assert told.wait(20)
    claim.release()


def test_a_dead_process_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from fusionscope.engine._claims import Claims\n"
        "Claims(Path(sys.argv[1])).take('a'); os.kill(os.getpid(), 9)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    child.wait()
    claims = Claims(tmp_path)
    assert claims.left_by("a", child.pid)
    with claims.take("a"):
        pass
    assert claims.left_by("a", child.pid), "also when another had it since"
    assert not claims.left_by("a", os.getpid())


def test_a_number_that_went_to_another_process_does_not_keep_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_claims, "started", lambda pid: "1")
        age(Claims(tmp_path).take("a"), 0)
    assert Claims(tmp_path).take("a") is not None


def test_a_claim_cut_off_while_it_was_written_waits_until_it_is_stale(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.mkdir()
    (place / "000001.json").touch()
    assert Claims(tmp_path).take("a") is None
    os.utime(place / "000001.json", (1, 1))
    assert Claims(tmp_path).take("a") is not None


def hammer(folder: Path) -> Counter[int]:
    """8 threads claim one name, 60 times together; some hang and are followed. Counts owners of each number."""
    claims, owners, lock = Claims(folder), Counter(), threading.Lock()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        while sum(owners.values()) < 60:
            claim = claims.take("a")
            if claim is None:
                continue
            with lock:
                owners[claim.number] += 1
            if claim.number % 3:
                claim.release()
            else:
                age(claim)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return owners


def test_threads_that_hammer_never_share_a_claim(tmp_path: Path) -> None:
    assert set(hammer(tmp_path).values()) == {1}


def test_the_hammer_finds_claims_without_exclusive_creation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(place: Path, number: int) -> bool:
        path = place / f"{number:06d}.json"
        if path.exists():
            return False
        time.sleep(0.001)
        path.write_text("{}")
        return True

    monkeypatch.setattr(_claims, "_make", broken)
    assert max(hammer(tmp_path).values()) > 1


def test_processes_that_hammer_and_are_killed_never_share_a_claim(tmp_path: Path) -> None:
    def start() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", HAMMER, str(tmp_path), "40"])

    victims, others = [start() for _ in range(2)], [start() for _ in range(2)]
    while not (tmp_path / "claims" / "run" / "000020.json").exists():
        time.sleep(0.005)
    for process in victims:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [process.wait(60) for process in others] == [0, 0]
    assert not (tmp_path / "two-owners").exists()

"""A worker of a study: claim a run, train it, score it under its conditions, go on, until nothing can be claimed.

``python -m fusionscope.engine._worker STUDY [variant=NAME ...]``, started by :func:`run_study` with a pipe as standard
input. It stops, with a snapshot, when the pipe is closed (also by the death of the parent) or a signal comes.
"""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusionscope._files import atomic_write

from ._claims import Claim, LostClaim
from ._config import TrainConfig
from ._study import Study, StudyRun, is_trained
from ._study_folder import load_study, write_failure

LOST = 3  # exit code of a worker whose claim was taken over
Train = Callable[..., Path]


class Worker:
    """What a worker does; ``train``, ``score`` and ``load`` can be others in tests."""

    def __init__(
        self,
        folder: Path,
        only: Sequence[str] = (),
        *,
        train: Train | None = None,
        score: Callable[..., Any] | None = None,
        load: Callable[..., Any] | None = None,
        lost: Callable[[], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.folder, self.only, self.lost, self.stopping = folder, only, lost, stopping
        self.train, self.score, self.load = train or _train, score or _score, load or _load
        self.loaded: tuple[tuple[str, int], Any] | None = None

    def work(self) -> None:
        """Work until nothing can be claimed any more. The study is read anew for each run: runs may be added."""
        while not self.stopping() and self.one():
            pass

    def one(self) -> bool:
        """Do one run; False where none can be claimed."""
        study = load_study(self.folder)
        for run in study.choose(self.only):
            if study.look(run).state in ("done", "failed", "running"):
                continue
            claim = study.claims.take(run.name, self.lost)
            if claim is None:
                continue
            with claim:
                if study.closed(run):  # somebody finished it between the look and the claim
                    continue
                self._do(study, run, claim)
            return True
        return False

    def _do(self, study: Study, run: StudyRun, claim: Claim) -> None:
        began = time.perf_counter()
        print(f"--- {run}", file=sys.stderr, flush=True)
        for leftover in run.folder.parent.glob(f".{run.folder.name}.*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in run.folder.glob(f".{run.conditions.name}.*"):
            leftover.unlink(missing_ok=True)
        try:
            config = study.config(run)
            data = self._data(config)
            if not is_trained(run.folder):
                self.train(config, data=data, claim=claim)
            if not is_trained(run.folder):
                raise RuntimeError(f"the training of {run} ended and left no complete run in {run.folder}")
            if study.conditions and not run.conditions.exists():
                table = self.score(run.folder, severities=study.severities, data=data)
                claim.confirm()
                with atomic_write(run.conditions) as temporary:
                    table.to_csv(temporary, index=False)
        except KeyboardInterrupt:
            raise
        except LostClaim as error:
            print(error, file=sys.stderr, flush=True)
        except BaseException as error:
            text = traceback.format_exc()
            print(text, file=sys.stderr, flush=True)
            write_failure(study, run, "error", f"{type(error).__name__}: {error}", text)
        else:
            study.failure_path(run).unlink(missing_ok=True)
            print(f"--- {run} done in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    def _data(self, config: TrainConfig) -> Any:
        """The data set of a run, which stays loaded until a run needs another."""
        key = (config.data, config.data_seed)
        if self.loaded is None or self.loaded[0] != key:
            self.loaded = None  # never two of them in memory
            self.loaded = (key, self.load(config.data, seed=config.data_seed))
        return self.loaded[1]


def main(arguments: Sequence[str]) -> int:
    """Work, and stop when the parent says so or is gone."""
    stopping = threading.Event()

    def stop() -> None:
        if not stopping.is_set():
            stopping.set()
            _thread.interrupt_main(signal.SIGINT)  # the loop's own handler waits for the end of a step

    # Ctrl-C reaches all processes of a terminal at once, and the parent asks too: a worker is to be interrupted once.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    both = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, both)
    threading.Thread(target=lambda: (signal.sigwait(both), stop()), daemon=True).start()
    threading.Thread(target=lambda: (os.read(0, 1), stop()), daemon=True).start()
    try:
        _prepare()
        Worker(Path(arguments[0]), arguments[1:], lost=lambda: os._exit(LOST), stopping=stopping.is_set).work()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        return 130
    return 0


def _prepare() -> None:
    """Import what takes long before anything is claimed, and use the threads that the parent allots."""
    import torch

    from . import _conditions, _train  # noqa: F401

    if threads := os.environ.get("OMP_NUM_THREADS", ""):
        torch.set_num_threads(int(threads))


def _load(spec: str, seed: int) -> Any:
    """Load a data set; it stays in memory, where it fits, for all runs."""
    from fusionscope.data import load_data

    from ._memory import remember

    data = load_data(spec, seed=seed)
    return replace(data, splits={name: remember(split) for name, split in data.splits.items()})


def _train(config: TrainConfig, data: Any, claim: Claim) -> Path:
    from ._train import train

    return train(config, data=data, before_writing=claim.confirm)


def _score(folder: Path, severities: Sequence[int], data: Any) -> Any:
    from ._conditions import score_conditions

    return score_conditions(folder, severities=severities, data=data)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # threads that wait for the parent must not keep a worker alive

"""``train``: from a config to a run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from fusionscope._files import writable_parent
from fusionscope.data import DataSplits

from ._checks import check_settings
from ._config import TrainConfig
from ._folder import SOLO, check_target
from ._job import Job
from ._memory import choose
from ._progress import Reporter
from ._ranks import make_fabric
from ._rehearse import rehearse
from ._solo import twins


def train(
    config: TrainConfig,
    *,
    quiet: bool = False,
    data: DataSplits | None = None,
    before_writing: Callable[[], None] | None = None,
) -> Path:
    """Train the model that the config names and write the run folder; return its path.

    The weights with the best validation score are kept. With ``config.refit``, validation only says how long to train:
    the model is then trained anew, from the same seed, on train + val for as many epochs as the first training took
    until it ended or was stopped, with a schedule of that length. The test split is scored once, at the end, and takes
    part in no choice. On the CPU, one seed gives one result, bit for bit.

    While it runs, ``OUT.unfinished`` holds snapshots and ``history.csv``; with ``config.resume`` a training that was
    stopped in any way goes on from there, to the same bits on the CPU. Ctrl-C or SIGTERM ends the step, makes a
    snapshot, saves the best weights so far as the run folder, with ``"interrupted": true`` and without test scores,
    and raises ``KeyboardInterrupt``.

    With ``config.solo``, each modality's solo twin is trained once the joint run is written, then the twins' copies;
    :attr:`Run.solo` and :attr:`Run.copies` read them.

    With ``config.checkpoints``, weights along the training with validation are kept too (:attr:`Run.checkpoints`):
    the first training's only, none of a refit's. As nobody knows before where it ends, more are held in memory while
    it runs: at most half of all epochs' weights for 5 checkpoints, three quarters for 20.

    Under ``torchrun`` the processes it started train one model: each step takes the samples that one process would.

    Args:
        config: all settings.
        quiet: show nothing.
        data: the config's data where it is loaded already.
        before_writing: called before the run folder is written; what it raises ends the training without one.

    Raises:
        InputError: if a setting is out of range, or model and data do not fit (found out with one batch, before
            training).
        FileError: if the run folder cannot be written (found out before training) or the data cannot be read.
        ModelError: if the loss becomes infinite or NaN.
    """
    check_settings(config)
    config, resume = msgspec.structs.replace(config, resume=False), config.resume
    out = writable_parent(check_target(config.out, config.overwrite, resume=resume))
    data = rehearse(config, data)
    fabric = make_fabric(config)
    quiet = quiet or not fabric.is_global_zero
    cuda = list(range(torch.cuda.device_count())) if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        data = choose(data, config.modalities)
        job = Job(config, data, fabric, Reporter(quiet=quiet), out, resume)
        job.before_writing = before_writing
        job.complete("interrupted: the best weights so far (epoch {epoch}) are in {out}; --resume completes it")
        data = replace(data, splits=data.splits | job.splits)
        for twin in twins(config, data):
            name = Path(twin.out).name
            reporter = Reporter(quiet=quiet, title=f"solo {name}")
            one = Job(twin, choose(data, twin.modalities), fabric, reporter, out / SOLO / name, resume)
            one.before_writing = before_writing
            one.complete("")
    return out

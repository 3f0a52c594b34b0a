"""The run folder: ``config.json``, ``weights.safetensors``, ``history.csv``, ``metrics.json``.

Where asked for, also ``checkpoints/epoch-NNNN.safetensors``, ``solo/``, which holds a run folder per solo twin, and
``dynamics/``, how the modalities learned.
"""

from __future__ import annotations

import csv
import json
import os
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
from torch import nn

from fusionscope._files import atomic_write
from fusionscope.data import DataSplits, load_data
from fusionscope.errors import FileError, InputError

from ._config import TrainConfig
from ._dynamics_folder import DYNAMICS, Dynamics, read_dynamics
from ._memory import choose
from ._metrics import metrics_text, restored
from ._models import rebuild
from ._own import inner
from ._snapshot import STATE, unfinished
from ._weights import load_weights, save_weights

SCHEMA = 1
KIND = "fusionscope run"
CONFIG, WEIGHTS, HISTORY, METRICS = "config.json", "weights.safetensors", "history.csv", "metrics.json"
CHECKPOINTS, SOLO = "checkpoints", "solo"
FREE = {"out", "overwrite", "resume", "snapshot", "workers", "loggers", "solo", "copies"}  # do not change the weights
OURS = {CONFIG, WEIGHTS, HISTORY, METRICS, CHECKPOINTS, SOLO, "dissection", "report.html", DYNAMICS, "logs"}
OURS |= {"conditions.csv"}  # of a study


@dataclass(frozen=True, repr=False)
class Run:
    """A trained model with what it was trained on.

    Attributes:
        folder: where it was read from.
        config: the settings of the training.
        model: the model with its weights, in evaluation mode, on the CPU.
        data: the splits, with the model's modalities only; None with ``load_run(..., data=False)``.
        description: all of ``config.json``.
        metrics: all of ``metrics.json``.
    """

    folder: Path
    config: TrainConfig
    model: nn.Module
    data: DataSplits | None
    description: dict[str, Any]
    metrics: dict[str, Any]

    def __repr__(self) -> str:
        test = (self.metrics.get("test") or {}).get(self.metrics.get("metric", ""))
        score = "not scored" if test is None else f"test {self.metrics['metric']} {test:.3f}"
        names = ", ".join(self.modalities)
        return f"Run({self.folder}: {names} of {self.config.data}, seed {self.config.seed}; {score})"

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the model takes, in order."""
        return tuple(self.description["data"]["modalities"])

    @property
    def checkpoints(self) -> dict[int, Path]:
        """The weights kept along the training with validation, by epoch, ascending; 0 is before training.

        Empty without ``TrainConfig.checkpoints``. ``load_weights(run.model, run.checkpoints[epoch])`` loads one.
        """
        found = {int(p.stem.removeprefix("epoch-")): p for p in (self.folder / CHECKPOINTS).glob("epoch-*.safetensors")}
        return dict(sorted(found.items()))

    @cached_property
    def solo(self) -> dict[str, Run]:
        """The solo twins by modality, those that were trained; read when first asked for.

        A twin is what a run with that modality alone, the same settings and the joint run's seed + 1 gives. Twin and
        joint model share neither initial weights nor the order of samples.

        Raises:
            FileError: if a twin's folder is damaged, or holds a run of another modality or other data.
        """
        return {m: self._twin(m, m) for m in self.modalities if (self.folder / SOLO / m).is_dir()}

    @cached_property
    def copies(self) -> dict[str, list[Run]]:
        """Further trainings of the solo twins with other seeds, by modality, ascending by seed; read when asked for.

        Their seeds are the joint run's + 2, + 3, ... Modalities without copies are left out.

        Raises:
            FileError: as for ``solo``.
        """
        found: dict[str, dict[int, Run]] = {}
        for folder in (self.folder / SOLO).glob("*-seed*"):
            name, _, seed = folder.name.rpartition("-seed")
            if name in self.modalities and seed.isdecimal() and folder.name not in self.modalities:
                found.setdefault(name, {})[int(seed)] = self._twin(name, folder.name)
        return {m: [run for _, run in sorted(found[m].items())] for m in self.modalities if m in found}

    @cached_property
    def dynamics(self) -> Dynamics | None:
        """What was recorded along the training; None without ``TrainConfig.dynamics``; read when asked for.

        Raises:
            FileError: if the folder is damaged.
        """
        return read_dynamics(self.folder / DYNAMICS) if (self.folder / DYNAMICS).is_dir() else None

    @cached_property
    def history(self) -> pd.DataFrame:
        """``history.csv``: phase, epoch, learning rate, losses and validation score; read when asked for.

        Raises:
            FileError: if the file is missing or damaged.
        """
        try:
            return pd.read_csv(self.folder / HISTORY)
        except (OSError, ValueError) as error:
            raise FileError(f"cannot read {self.folder / HISTORY}: {error}") from error

    def _twin(self, modality: str, name: str) -> Run:
        run = load_run(self.folder / SOLO / name, data=False)
        here, there = (one.description["data"]["fingerprint"] for one in (self, run))
        if run.modalities != (modality,) or here != there:
            raise FileError(
                f"{run.folder} is no solo twin of {self.folder}: expected a run of {modality!r} alone on data with "
                f"fingerprint {here}, found one of {', '.join(run.modalities)} on {there}; remove that folder"
            )
        return run if self.data is None else replace(run, data=choose(self.data, (modality,)))


def check_target(out: str | Path, overwrite: bool, *, resume: bool = False) -> Path:
    """Return the absolute path of the run folder to write, or say why it cannot be written.

    With ``resume``, a run may be there: complete or interrupted, the same that would be written.

    Raises:
        FileError: if it is a file, holds something and neither ``overwrite`` nor ``resume`` is set, holds something
            that is no run, or a training of that name is not finished.
    """
    try:
        path = Path(out).expanduser().resolve()
        if path.exists() and not path.is_dir():
            raise FileError(f"the run folder {out} is a file; choose another name")
        if path.name.endswith(".unfinished"):
            raise FileError(
                f"the run folder {out} has the name of one that is not finished, which the training of "
                f"{path.name.removesuffix('.unfinished')} would replace; choose another name"
            )
        cwd = Path.cwd()
        if path == cwd or path in cwd.parents:
            raise FileError(f"the run folder {out} holds the folder you are in; choose a new folder inside it")
        if not (overwrite or resume) and (unfinished(path) / STATE).exists():
            raise FileError(
                f"{unfinished(path)} holds a training that was stopped: set resume (--resume) to go on with it, or "
                "overwrite (--overwrite) to begin anew"
            )
        if not path.is_dir() or not any(path.iterdir()):
            return path
    except PermissionError as error:
        raise FileError(f"cannot read {out}: {error.strerror}; choose another output folder") from error
    if not (overwrite or resume):
        raise FileError(
            f"the run folder {out} is not empty; choose another one, or set overwrite (--overwrite) to replace it, or "
            "resume (--resume) to go on with what is not finished"
        )
    strangers = sorted({p.name for p in path.iterdir()} - OURS)
    if strangers or not _is_run(path):
        found = f"it holds {', '.join(strangers[:3])}" if strangers else f"it has no {CONFIG} of a run"
        raise FileError(
            f"{out} is not replaced, because it does not look like a run folder: {found}; choose another one"
        )
    return path


def is_complete(path: Path, config: TrainConfig, fingerprint: str) -> bool:
    """Whether a run of these settings and data is there with its test scores.

    Raises:
        InputError: if a run of other settings or data is there, and not to be overwritten.
    """
    if not _is_run(path):
        return False
    try:
        told = _read_json(path, CONFIG)
        check_same(path, told.get("train", {}), config)
        if told.get("data", {}).get("fingerprint") != fingerprint:
            raise InputError(
                f"the data of {config.data} changed since {path} was trained; begin anew with --overwrite, or choose "
                "another --out"
            )
    except InputError:
        if config.overwrite:
            return False
        raise
    return not _read_json(path, METRICS).get("interrupted", True)


def check_same(folder: Path, before: dict[str, Any], config: TrainConfig) -> None:
    """Refuse to go on with a training of other settings.

    Raises:
        InputError: if one that matters for the weights differs.
    """
    defaults, now = (json.loads(msgspec.json.encode(c)) for c in (TrainConfig(data="", out=""), config))
    differ = [k for k in now if k not in FREE and before.get(k, defaults[k]) != now[k]]
    if differ:
        shown = ", ".join(f"{k} = {before.get(k, defaults[k])!r} there and {now[k]!r} now" for k in differ[:4])
        raise InputError(
            f"{folder} was begun with other settings: {shown}. Give the same to go on with it, another --out, or "
            "--overwrite without --resume to begin anew"
        )


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write ``history.csv``: a row per epoch."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with atomic_write(folder / HISTORY) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(history)


def write_run(
    folder: Path,
    description: dict[str, Any],
    state: dict[str, Any],
    history: list[dict],
    metrics: dict[str, Any],
    checkpoints: dict[int, dict[str, Any]],
) -> None:
    """Write all files of one run into ``folder``."""
    text = json.dumps(description, indent=2, ensure_ascii=False)
    try:
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        (folder / METRICS).write_text(metrics_text(metrics), encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot write the run folder: {error.strerror or error}") from error
    write_history(folder, history)
    save_weights(folder / WEIGHTS, state, {"fusionscope": text})
    for epoch, weights in checkpoints.items():
        path = folder / CHECKPOINTS / f"epoch-{epoch:04d}.safetensors"
        save_weights(path, weights, {"fusionscope": text, "epoch": str(epoch)})


def load_run(folder: str | Path, *, data: bool = True) -> Run:
    """Read a run folder that :func:`train` wrote.

    Args:
        folder: the run folder.
        data: also load the data it was trained on.

    Raises:
        FileError: if the folder, one of its files or the data's file is missing, damaged or does not fit.
        InputError: if the data cannot be loaded.
    """
    folder = Path(folder)
    description = _read_json(folder, CONFIG)
    if description.get("kind") != KIND:
        raise FileError(f"{folder / CONFIG} is not the config of a fusionscope run")
    if description.get("schema") != SCHEMA:
        raise FileError(
            f"{folder} has schema {description.get('schema')!r}, this fusionscope reads {SCHEMA}; use the version that "
            f"wrote it ({description.get('versions', {}).get('fusionscope', 'unknown')})"
        )
    try:
        config = msgspec.convert(description["train"], TrainConfig)
        model = inner(rebuild(description["model"], untrained=False))
        fingerprint = description["data"]["fingerprint"]
    except (KeyError, TypeError, ValueError, InputError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise FileError(f"{folder / CONFIG} is damaged: {what}") from error
    load_weights(model, folder / WEIGHTS)
    metrics = restored(_read_json(folder, METRICS))
    splits = None
    if data:
        splits = choose(load_data(config.data, seed=config.data_seed), description["data"]["modalities"])
        if splits.fingerprint != fingerprint:
            warnings.warn(
                f"the data of {config.data} changed since {folder} was trained (fingerprint {splits.fingerprint}, then "
                f"{fingerprint}); its scores may no longer hold",
                UserWarning,
                stacklevel=2,
            )
    return Run(folder, config, model.eval(), splits, description, metrics)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        present = ", ".join(sorted(os.listdir(folder))[:5]) if folder.is_dir() else "the folder does not exist"
        raise FileError(f"{folder} is not a run folder: no {name} ({present or 'the folder is empty'})") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FileError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise FileError(f"{path} is damaged: expected an object, found {type(found).__name__}")
    return found


def _is_run(path: Path) -> bool:
    try:
        return _read_json(path, CONFIG).get("kind") == KIND
    except FileError:
        return False

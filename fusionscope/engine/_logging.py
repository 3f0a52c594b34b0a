"""Loggers beside history.csv: TensorBoard, Weights & Biases, MLflow, all by Lightning's own classes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from lightning_fabric.loggers import Logger, TensorBoardLogger

from fusionscope._files import atomic_write
from fusionscope.errors import InputError

from ._config import TrainConfig

LOGS = "logs"
STATE = "logged.json"
# of each logger: packages that it needs, any one of a group, the first of which is what we suggest
NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "tensorboard": (("tensorboard", "tensorboardX"),),
    "wandb": (("lightning", "pytorch_lightning"), ("wandb",)),
    "mlflow": (("lightning", "pytorch_lightning"), ("mlflow",)),
}
MENDS = {
    "tensorboard": "is its folder writable?",
    "wandb": "`wandb login` once, or set WANDB_MODE=offline and `wandb sync` the folder later",
    "mlflow": "check MLFLOW_TRACKING_URI, or unset it to log into the run's folder",
}
NOT_OF_THE_MODEL = ("overwrite", "resume", "snapshot")  # may differ when a run goes on


class Logs:
    """The open loggers of one run, and how far each got, so that a run that goes on repeats nothing.

    Args:
        loggers: by name.
        path: file that keeps the last step logged and the runs' ids.
        settings: logged once as hyperparameters.
        known: what such a file said of the part of the run before.

    Attributes:
        loggers: those that still work; one that fails later is dropped with a warning, training goes on.
    """

    def __init__(
        self, loggers: Mapping[str, Logger], path: Path, settings: Mapping[str, Any], known: Mapping[str, Any]
    ):
        self.loggers = dict(loggers)
        self._path = path
        self._steps: dict[str, int] = {name: int(known.get(name, {}).get("step", -1)) for name in loggers}
        self._runs = {name: known[name]["run"] if name in known else _run(name, x) for name, x in loggers.items()}
        for name in [name for name, step in self._steps.items() if step < 0]:
            self._steps[name] = 0
            self._each(lambda x: x.log_hyperparams(dict(settings)), (name,))
        self._save()

    def row(self, row: Mapping[str, Any], step: int) -> None:
        """Log the numbers of a row of history.csv, ``train_loss`` as ``train/loss``.

        Args:
            row: column to value; the phase ``refit`` becomes part of the names, as in ``refit/loss``.
            step: rows so far, this one included; a step that was logged before is left out.
        """
        if not self.loggers:
            return
        numbers = _named(row)
        due = [name for name in self.loggers if self._steps[name] < step]

        def log(logger: Logger) -> None:
            logger.log_metrics(numbers, step)
            logger.save()

        self._each(log, due)
        self._steps.update(dict.fromkeys(due, step))
        self._save()

    def finish(self, status: str = "success") -> None:
        """Close all loggers, ``success`` or ``failed``; the folder can then be moved."""

        def close(logger: Logger) -> None:
            logger.finalize(status)
            # W&B keeps one run open per process, which the next training would go on to fill
            if callable(end := getattr(getattr(logger, "experiment", None), "finish", None)):
                cast(Callable[..., None], end)(exit_code=int(status != "success"))

        self._each(close, tuple(self.loggers))
        self.loggers.clear()

    def _each(self, action: Callable[[Logger], object], names: Sequence[str]) -> None:
        for name in names:
            try:
                action(self.loggers[name])
            except Exception as error:  # whatever a server answers, the training is worth more
                del self.loggers[name]
                warnings.warn(f"the logger {name!r} is dropped: {type(error).__name__}: {error}", stacklevel=3)

    def _save(self) -> None:
        if self.loggers:
            state = {name: {"step": self._steps[name], "run": self._runs[name]} for name in self._steps}
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def check_loggers(names: Sequence[str]) -> None:
    """Check that what the loggers need is installed, without importing it.

    Raises:
        InputError: if not; it names the pip command.
    """
    for name in names:
        missing = [group for group in NEEDS[name] if not any(importlib.util.find_spec(x) for x in group)]
        if missing:
            what = " and ".join(" or ".join(group) for group in missing)
            raise InputError(
                f"the logger {name!r} needs {what}, which is not installed: `pip install "
                f"{' '.join(group[0] for group in missing)}`, or leave {name} out of loggers (history.csv is always "
                "written)"
            )


def open_loggers(names: Sequence[str], folder: str | Path, config: TrainConfig) -> Logs:
    """Open loggers for one run, on one rank only; they write into ``FOLDER/logs``, which may be moved afterwards.

    TensorBoard's files lie in ``logs/tensorboard``; W&B's (project ``WANDB_PROJECT`` or fusionscope) in ``logs/wandb``
    and, unless ``WANDB_MODE=offline``, with its server; MLflow's in ``logs/mlflow/mlflow.db``, or where
    ``MLFLOW_TRACKING_URI`` says. In a folder where a run stopped they go on: the same W&B or MLflow run, another file
    of TensorBoard's in the same place, without the steps that were logged before.

    Raises:
        InputError: if a package is missing, or a logger cannot start.
    """
    if not names:
        return Logs({}, Path(folder) / LOGS / STATE, {}, {})
    check_loggers(names)
    place = Path(folder) / LOGS
    place.mkdir(parents=True, exist_ok=True)
    known = _known(place / STATE)
    loggers: dict[str, Logger] = {}
    for name in dict.fromkeys(names):
        try:
            loggers[name] = _open(name, place, Path(config.out).name, known.get(name, {}).get("run"))
            _ = cast(Any, loggers[name]).experiment  # starts it, so that what is wrong is found before training
        except Exception as error:
            raise InputError(
                f"the logger {name!r} does not start: {type(error).__name__}: {error}. {MENDS[name][:1].upper()}"
                f"{MENDS[name][1:]}; or leave {name} out of loggers"
            ) from error
    settings = {k: v for k, v in msgspec.to_builtins(config).items() if k not in NOT_OF_THE_MODEL}
    return Logs(loggers, place / STATE, settings, known)


def _open(name: str, place: Path, title: str, run: str | None) -> Logger:
    if name == "tensorboard":
        return TensorBoardLogger(place, name="tensorboard", version="")
    package = next(p for p in NEEDS[name][0] if importlib.util.find_spec(p))
    module = importlib.import_module("lightning.pytorch.loggers" if package == "lightning" else f"{package}.loggers")
    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT", "fusionscope")
        return module.WandbLogger(name=title, project=project, save_dir=str(place), id=run)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        (place / "mlflow").mkdir(exist_ok=True)
        uri = f"sqlite:///{(place / 'mlflow' / 'mlflow.db').resolve()}"
    return module.MLFlowLogger("fusionscope", run_name=title, tracking_uri=uri, run_id=run)


def _run(name: str, logger: Logger) -> str | None:
    return None if name == "tensorboard" or logger.version is None else str(logger.version)


def _known(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _named(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name: ``train_loss`` to ``train/loss``, ``val_accuracy`` to ``val/accuracy``, the rest as it is."""
    refit = row.get("phase") == "refit"
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            continue
        part, _, rest = key.partition("_")
        name = f"{part}/{rest}" if rest and part in ("train", "val") else key
        found[f"refit/{name.removeprefix('train/')}" if refit else name] = float(value)
    return found

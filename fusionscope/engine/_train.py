"""``train``: from a config to a run folder."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from fusionscope._files import atomic_folder, writable_parent
from fusionscope.data import DataSplits, load_data
from fusionscope.errors import InputError
from fusionscope.nn import Translator, VectorHead

from ._checks import check_settings
from ._config import TrainConfig
from ._folder import KIND, SCHEMA, SOLO, check_target, write_run
from ._loop import Fit, evaluate, fit
from ._memory import Memory, choose, remember
from ._models import describe, rebuild, settings_in_words
from ._progress import Reporter
from ._scores import METRIC
from ._solo import twins


def train(config: TrainConfig, *, quiet: bool = False) -> Path:
    """Train the baseline and write the run folder; return its path.

    The weights with the best validation score are kept. With ``config.refit``, validation only says how long to train:
    the model is then trained anew, from the same seed, on train + val for as many epochs as the first training took
    until it ended or was stopped, with a schedule of that length. The test split is scored once, at the end, and takes
    part in no choice. On the CPU, one seed gives one result, bit for bit.

    When interrupted (Ctrl-C), the best weights so far are saved, with ``"interrupted": true`` and without test scores,
    before ``KeyboardInterrupt`` goes on.

    With ``config.solo``, each modality's solo twin is trained once the joint run is written, then the twins' copies;
    :attr:`Run.solo` and :attr:`Run.copies` read them. When interrupted there, the runs that were finished are kept.

    With ``config.checkpoints``, weights along the training with validation are kept too (:attr:`Run.checkpoints`):
    the first training's only, none of a refit's. As nobody knows before where it ends, more are held in memory while
    it runs: at most half of all epochs' weights for 5 checkpoints, three quarters for 20.

    Raises:
        InputError: if a setting is out of range, or the data cannot be trained on.
        FileError: if the run folder cannot be written (found out before training) or the data cannot be read.
        ModelError: if the loss becomes infinite or NaN.
    """
    check_settings(config)
    out = writable_parent(check_target(config.out, config.overwrite))
    data = choose(load_data(config.data, seed=config.data_seed), config.modalities)
    solo = twins(config, data)
    fabric = _fabric(config)
    quiet = quiet or not fabric.is_global_zero
    cuda = list(range(torch.cuda.device_count())) if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        data = _train_joint(_Job(config, data, fabric, Reporter(quiet=quiet)), out)
        for twin in solo:
            name = Path(twin.out).name
            reporter = Reporter(quiet=quiet, title=f"solo {name}")
            _train_twin(_Job(twin, choose(data, twin.modalities), fabric, reporter), out / SOLO / name)
    return out


def _train_joint(job: _Job, out: Path) -> DataSplits:
    """Train and write; return the data as the job holds it, so that it is loaded once."""
    reporter = job.reporter
    try:
        with reporter:
            job.run()
    except KeyboardInterrupt:
        if job.best.state is not None:
            job.write(out)
            reporter.say(f"interrupted: the best weights so far (epoch {job.best.epoch}) are in {job.config.out}")
        else:
            reporter.say("interrupted before the first epoch was over: nothing to save")
        raise
    job.write(out)
    reporter.say(job.summary(job.config.out))
    return replace(job.data, splits=job.data.splits | job.splits)


def _train_twin(job: _Job, out: Path) -> None:
    """Train and write; half a training is not kept, as it could be taken for a twin."""
    reporter, config = job.reporter, job.config
    try:
        with reporter:
            job.run()
    except KeyboardInterrupt:
        reporter.say(
            f"interrupted: {config.out} is not written, the runs before it are. To add it, train with the same "
            f"settings, without --solo, and --modalities {config.modalities[0]} --seed {config.seed} --out {config.out}"
        )
        raise
    job.write(out)
    reporter.say(job.summary(config.out))


class _Job:
    """One training with all that its run folder tells."""

    def __init__(self, config: TrainConfig, data: DataSplits, fabric: Fabric, reporter: Reporter):
        self.config, self.data, self.fabric, self.reporter = config, data, fabric, reporter
        self.splits = {name: remember(split) for name, split in data.splits.items() if name != "test"}
        self.began = time.perf_counter()
        self.train_on, self.refitted = ["train"], False
        self.counts, self.centre, self.scale, target_shape = _targets(self.splits["train"], data)
        self.outputs = len(data.classes) or self.scale.numel()
        self.selection, self.refit, self.test = Fit(), Fit(), None
        self.spec = describe(config, data, self.outputs, target_shape)

    @property
    def best(self) -> Fit:
        return self.refit if self.refitted else self.selection

    def run(self) -> None:
        config, splits = self.config, self.splits
        model = self._fit(splits["train"], splits["val"], config.epochs, self.selection, "train")
        if config.refit:
            both = _join(splits["train"], splits["val"])
            model = self._fit(both, None, len(self.selection.history), self.refit, "refit")
            self.refitted = True  # an interrupted refit counts for nothing: the weights of the selection are kept
            self.train_on = ["train", "val"]
            self.counts = _targets(both, self.data)[0]
        self.test = self._score(model, self.data.splits["test"])

    def _fit(self, train: Dataset, val: Dataset | None, epochs: int, result: Fit, phase: str) -> nn.Module:
        try:
            return self._fitted(train, val, epochs, result, phase)
        except InputError as error:  # of a part, which does not know what the user has set
            raise InputError(f"{error} (settings: {settings_in_words(self.config)})") from error

    def _fitted(self, train: Dataset, val: Dataset | None, epochs: int, result: Fit, phase: str) -> nn.Module:
        torch.manual_seed(self.config.seed)
        model = rebuild(self.spec)
        if self.data.task == "regression":
            cast(VectorHead, model.head).set_range(self.centre, self.scale)
        elif self.data.task == "translation":
            cast(Translator, model).set_range(self.centre, self.scale)
        self.spec["parameters"] = sum(p.numel() for p in model.parameters())
        fit(
            self.fabric,
            model,
            self.config,
            train,
            val,
            task=self.data.task,
            axes=self.data.axes,
            classes=self.data.classes,
            n_outputs=self.outputs,
            centre=self.centre,
            scale=self.scale,
            epochs=epochs,
            reporter=self.reporter,
            result=result,
            phase=phase,
        )
        return model

    def _score(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        return evaluate(self.fabric, model, dataset, self.data.task, self.data.classes, self.config, self.scale)

    def write(self, out: Path) -> None:
        if not self.fabric.is_global_zero:
            return
        state = cast(dict[str, Tensor], self.best.state)
        with atomic_folder(out) as folder:
            history = self.selection.history + self.refit.history
            checkpoints = self.selection.checkpoints(self.config.checkpoints)
            write_run(folder, self._description(), state, history, self._metrics(), checkpoints)

    def _description(self) -> dict[str, Any]:
        data = self.data
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "train": msgspec.to_builtins(self.config),
            "model": self.spec,
            "data": {
                "spec": data.spec,
                "fingerprint": data.fingerprint,
                "task": data.task,
                "modalities": list(data.modalities),
                "axes": dict(data.axes),
                "shapes": {m: list(s) for m, s in data.shapes.items()},
                "classes": list(data.classes),
                "sizes": {name: data.size(name) for name in data.splits},
                "truth": data.truth,
            },
            "training": {
                "splits": self.train_on,
                "class_counts": self.counts,
                "target_mean": self.centre.tolist() if data.task == "regression" else None,
                "target_std": self.scale.tolist() if data.task == "regression" else None,
            },
            "versions": {
                "fusionscope": importlib.metadata.version("fusionscope"),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }

    def _metrics(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "metric": METRIC[self.data.task],
            "test": self.test,
            "val": self.selection.scores,
            "val_is_trained_on": self.refitted,
            "best_epoch": self.selection.epoch,
            "epochs": len(self.selection.history),
            "refit_epochs": len(self.refit.history),
            "stopped_early": self.selection.stopped,
            "interrupted": self.test is None,
            "seconds": round(time.perf_counter() - self.began, 1),
        }

    def summary(self, out: str) -> str:
        name = METRIC[self.data.task]
        test = cast(dict[str, Any], self.test)
        return (
            f"test {name} {test[name]:.3f} ({self.data.size('test')} samples; val {self.selection.scores[name]:.3f} at "
            f"epoch {self.selection.epoch}; {time.perf_counter() - self.began:.0f} s) -> {out}"
        )


def _targets(train: Dataset, data: DataSplits) -> tuple[list[int] | None, Tensor, Tensor, tuple[int, ...]]:
    """Class counts (samples, or pixels that are not ignored), a target's shape, and between them centre and scale.

    Mean and standard deviation of values to regress; of images the middle and half the width of each channel's range,
    which is 0 to 1 for values between.
    """
    loaded = train.target if isinstance(train, Memory) else None
    if loaded is None:
        loaded = torch.cat([batch["target"] for batch in DataLoader(train, batch_size=256)])
    shape = tuple(loaded.shape[1:])
    if data.task == "translation":
        low, high = loaded.amin((0, 2, 3)).float().clamp(max=0), loaded.amax((0, 2, 3)).float().clamp(min=1)
        return None, (low + high) / 2, (high - low) / 2, shape
    if data.task != "regression":
        counts = torch.bincount(loaded[loaded >= 0].flatten(), minlength=len(data.classes))
        return counts.tolist(), torch.zeros(1), torch.ones(1), shape
    flat = loaded.double().reshape(len(loaded), -1)
    std = flat.std(0, correction=0)
    return None, flat.mean(0).float(), torch.where(std > 0, std, 1.0).float(), shape


def _join(train: Dataset, val: Dataset) -> Dataset:
    return train + val if isinstance(train, Memory) and isinstance(val, Memory) else ConcatDataset([train, val])


def _fabric(config: TrainConfig) -> Fabric:
    try:
        fabric = Fabric(accelerator=config.accelerator, devices=config.devices, precision=config.precision)
        fabric.launch()
    except (RuntimeError, ValueError, ImportError) as error:
        raise InputError(
            f"cannot use accelerator {config.accelerator!r} with {config.devices} devices: {error}; "
            "--accelerator auto takes what is there"
        ) from error
    return fabric

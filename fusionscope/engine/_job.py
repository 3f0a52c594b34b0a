"""One training, from its data to its run folder: the selection of weights, a refit, the test."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from fusionscope._files import atomic_folder
from fusionscope.data import DataSplits
from fusionscope.errors import InputError, ModelError
from fusionscope.nn import Translator, VectorHead

from ._checks import check_samples
from ._config import TrainConfig
from ._dynamics_folder import DYNAMICS
from ._folder import KIND, METRICS, SCHEMA, check_same, is_complete, write_history, write_run
from ._logging import LOGS, open_loggers
from ._loop import Fit, Loop
from ._memory import Memory, remember
from ._models import describe, rebuild
from ._progress import Reporter
from ._scores import METRIC
from ._snapshot import STATE, is_newer, load_snapshot, remove_snapshot, save_snapshot, unfinished
from ._trainee import evaluate


class Job:
    """One training with all that its run folder tells."""

    def __init__(
        self, config: TrainConfig, data: DataSplits, fabric: Fabric, reporter: Reporter, out: Path, resume: bool
    ):
        self.config, self.data, self.fabric, self.reporter = config, data, fabric, reporter
        self.out, self.folder = out, unfinished(out)
        self.splits: dict[str, Dataset] = {}
        self.train_on, self.refitted = ["train"], False
        self.selection, self.refit, self.test = Fit(), Fit(), None
        self.began, self.loop_state = time.perf_counter(), None
        self.logs = open_loggers((), out, config)
        self.before_writing: Callable[[], None] | None = None
        # a snapshot newer than a complete run is of one that was to overwrite it
        complete = resume and is_complete(out, config, data.fingerprint) and not is_newer(self.folder, out / METRICS)
        self.finished = fabric.broadcast(complete)
        self.state = None if self.finished else fabric.broadcast(self._found(resume))

    def _found(self, resume: bool) -> dict[str, Any] | None:
        """The snapshot to go on from, if that is wanted and there is one; what else lies there is removed."""
        if not self.fabric.is_global_zero:
            return None
        if resume:
            state = load_snapshot(self.folder)
            if state is not None:
                check_same(self.folder, state["config"], self.config)
                if state["fingerprint"] != self.data.fingerprint:
                    raise InputError(
                        f"the data of {self.config.data} changed since {self.folder} was begun: its training cannot go "
                        "on; begin anew with overwrite (--overwrite)"
                    )
                return state
        remove_snapshot(self.folder)
        self.folder.mkdir(parents=True)
        return None

    def complete(self, interrupted: str) -> None:
        """Train and write, unless that is done; ``interrupted`` says what to print when best weights are saved then.

        Without it nothing is saved but the snapshot: half a twin could be taken for a twin.
        """
        reporter = self.reporter
        if self.finished:
            reporter.say(f"complete already: {self.config.out}")
            remove_snapshot(self.folder)
            return
        try:
            self._prepare()
            with reporter:
                self.run()
        except KeyboardInterrupt:
            if interrupted and self.best.state is not None:
                self.logs.finish("failed")
                self.write()
                reporter.say(interrupted.format(epoch=self.best.epoch, out=self.config.out))
            elif not interrupted or self._has_snapshot():
                reporter.say(f"interrupted: {self.config.out} is not written yet; --resume completes it")
            else:
                reporter.say("interrupted before the first epoch was over: nothing to save")
            raise
        except ModelError:
            remove_snapshot(self.folder)
            raise
        finally:
            self.logs.finish("success" if self.test else "failed")
            if self.fabric.is_global_zero and not (self.test or self._has_snapshot()):
                remove_snapshot(self.folder)
        self.write()
        if self.fabric.is_global_zero:
            remove_snapshot(self.folder)
        self.fabric.barrier()
        reporter.say(self.summary(self.config.out))

    def _has_snapshot(self) -> bool:
        return (self.folder / STATE).exists()

    def _prepare(self) -> None:
        data = self.data
        check_samples(data.size("train"), self.config, self.fabric.world_size)
        self.splits = {name: remember(split) for name, split in data.splits.items() if name != "test"}
        self.counts, self.centre, self.scale, target_shape = _targets(self.splits["train"], data)
        self.outputs = len(data.classes) or self.scale.numel()
        self.spec = describe(self.config, data, self.outputs, target_shape)
        if self.fabric.is_global_zero:
            self.logs = open_loggers(self.config.loggers, self.folder, self.config)
        if self.state is not None:
            state, self.state = self.state, None
            self.selection, self.refit = Fit(**state["selection"]), Fit(**state["refit"])
            self.began -= state["seconds"]
            self.loop_state = state["loop"]
            where = f"{self.loop_state['phase']} epoch {self.loop_state['epoch']}, step {self.loop_state['step']}"
            self.reporter.say(f"going on from the snapshot in {self.folder} ({where})")

    def _save(self, loop: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            state = {
                "config": msgspec.to_builtins(self.config),
                "fingerprint": self.data.fingerprint,
                "seconds": time.perf_counter() - self.began,
                "selection": vars(self.selection),
                "refit": vars(self.refit),
                "loop": loop,
            }
            save_snapshot(self.folder, state)

    def _log(self, row: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            history = self.selection.history + self.refit.history
            write_history(self.folder, history)
            self.logs.row(row, len(history))

    @property
    def best(self) -> Fit:
        return self.refit if self.refitted else self.selection

    def run(self) -> None:
        config, splits = self.config, self.splits
        model = None
        if self.loop_state is None or self.loop_state["phase"] == "train":
            model = self._fit(splits["train"], splits["val"], config.epochs, self.selection, "train")
        if config.refit:
            both = _join(splits["train"], splits["val"])
            model = self._fit(both, None, len(self.selection.history), self.refit, "refit")
            self.refitted = True  # an interrupted refit counts for nothing: the weights of the selection are kept
            self.train_on = ["train", "val"]
            self.counts = _targets(both, self.data)[0]
        self.test = self._score(cast(nn.Module, model), self.data.splits["test"])

    def _fit(self, train: Dataset, val: Dataset | None, epochs: int, result: Fit, phase: str) -> nn.Module:
        torch.manual_seed(self.config.seed)
        model = rebuild(self.spec)
        if self.config.build:
            pass  # whose head must give the target's own unit
        elif self.data.task == "regression":
            cast(VectorHead, model.head).set_range(self.centre, self.scale)
        elif self.data.task == "translation":
            cast(Translator, model).set_range(self.centre, self.scale)
        self.spec["parameters"] = sum(p.numel() for p in model.parameters())
        if self.fabric.global_rank:  # other dropout than on the first rank
            torch.manual_seed(self.config.seed + self.fabric.global_rank)
        loop = Loop(
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
            save=self._save,
            log=self._log,
        )
        if self.loop_state is not None:
            state, self.loop_state = self.loop_state, None
            loop.load_state_dict(state)
        try:
            loop.run()
        finally:
            if loop.recorder is not None and result.history:
                loop.recorder.write(self.folder / DYNAMICS)
        return model

    def _score(self, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
        return evaluate(self.fabric, model, dataset, self.data.task, self.data.classes, self.config, self.scale)

    def write(self) -> None:
        if not self.fabric.is_global_zero:
            return
        if self.before_writing is not None:
            self.before_writing()
        state = cast(dict[str, Tensor], self.best.state)
        with atomic_folder(self.out) as folder:
            history = self.selection.history + self.refit.history
            checkpoints = self.selection.checkpoints(self.config.checkpoints)
            write_run(folder, self._description(), state, history, self._metrics(), checkpoints)
            for name in (DYNAMICS, LOGS):
                if (self.folder / name).is_dir():
                    shutil.copytree(self.folder / name, folder / name, symlinks=True)

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
    """Class counts (samples with a class or label, or pixels that are not ignored), a target's shape, and between them
    centre and scale.

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
    if data.task == "multilabel":
        return loaded.sum(0).long().tolist(), torch.zeros(1), torch.ones(1), shape
    if data.task != "regression":
        counts = torch.bincount(loaded[loaded >= 0].flatten(), minlength=len(data.classes))
        return counts.tolist(), torch.zeros(1), torch.ones(1), shape
    flat = loaded.double().reshape(len(loaded), -1)
    std = flat.std(0, correction=0)
    return None, flat.mean(0).float(), torch.where(std > 0, std, 1.0).float(), shape


def _join(train: Dataset, val: Dataset) -> Dataset:
    return train + val if isinstance(train, Memory) and isinstance(val, Memory) else ConcatDataset([train, val])

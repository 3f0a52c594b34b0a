"""The training loop: one model, one data set, until its epochs are over or validation stops improving."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from fusionscope.errors import ModelError
from fusionscope.nn import Translator

from ._adversary import Adversary
from ._augment import Augment
from ._checkpoints import evenly, thin
from ._config import TrainConfig
from ._dynamics import Recorder
from ._dynamics_probe import probe_of
from ._interrupt import Interrupt
from ._modulation import modulator_of
from ._optim import Ema, load_optimizer, make_optimizer, rate, set_rate
from ._order import Feed, Order, samples
from ._own import inner
from ._progress import Reporter
from ._ranks import gathered, mine, summed, synchronised
from ._scores import METRIC, task_loss
from ._trainee import Trainable, Trainee, evaluate, unsafe_layout

AGREE = 32  # steps between two looks of several ranks at whether a snapshot is due


@dataclass
class Fit:
    """How far a training has come; filled while it runs, so that an interruption loses nothing.

    Attributes:
        state: the best weights so far, by the validation score, or the last ones without validation; None before the
            first epoch ended.
        epoch: the epoch they are from, counted from 1; 0 before the first.
        scores: their validation scores.
        history: one row per epoch.
        stopped: whether the patience ran out.
        kept: weights by epoch, among them all that may become checkpoints; empty without ``config.checkpoints``.
    """

    state: dict[str, Tensor] | None = None
    epoch: int = 0
    scores: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def checkpoints(self, count: int) -> dict[int, dict[str, Tensor]]:
        """Return ``count`` of the weights, evenly spaced from before the first epoch to after the last."""
        return {epoch: self.kept[epoch] for epoch in evenly(max(self.kept), count)} if self.kept else {}


class Loop:
    """Train ``model`` and fill ``result``; :meth:`run` leaves the model with the weights of ``result.state``.

    With ``val``, every epoch is scored and the best weights are kept (ties: the lower loss); after ``config.patience``
    epochs without a better score it stops. Checkpoints are kept with ``val`` only.

    At the end of every step the loop is a value, :meth:`state_dict`: weights, optimiser, random states, place in the
    data. Loaded into a loop made with the same arguments it goes on to the same bits, on one device with one thread
    count. ``save`` is given that value when a snapshot is due, and ``log`` each epoch's row.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        config: TrainConfig,
        train: Dataset,
        val: Dataset | None,
        *,
        task: str,
        axes: dict[str, str],
        classes: tuple[str, ...],
        n_outputs: int,
        centre: Tensor,
        scale: Tensor,
        epochs: int,
        reporter: Reporter,
        result: Fit,
        phase: str = "train",
        save: Callable[[dict[str, Any]], None] | None = None,
        log: Callable[[dict[str, Any]], None] | None = None,
    ):
        self.fabric, self.model, self.config, self.val = fabric, model, config, val
        self.task, self.classes, self.epochs, self.phase = task, classes, epochs, phase
        self.reporter, self.result, self.save, self.log = reporter, result, save, log
        trainee = Trainee(model, task, n_outputs, config.auxiliary)
        if not unsafe_layout(trainee, fabric.device):  # a quarter faster on CPUs; weights are saved contiguous
            trainee.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        self.trainee = synchronised(trainee, fabric)
        self.optimizer = make_optimizer(trainee, config)
        ranks, rank = fabric.world_size, fabric.global_rank
        self.order = Order(
            samples(train), config.batch_size, config.seed, rank=rank, ranks=ranks, parts=config.accumulate
        )
        self.feed = Feed(train, config.workers, pin=fabric.device.type == "cuda")
        self.steps = self.order.steps * epochs
        self.wrapped, self.stepping = fabric.setup(self.trainee, self.optimizer)
        plain = fabric.world_size == 1 and config.precision == "32-true"
        self.forward = self.trainee if plain else self.wrapped  # Fabric's wrapper does nothing then, but takes its time
        self.augment = Augment(axes, target=task, strength=config.augment, flips=config.flips, seed=config.seed + rank)
        self.centre, self.scale = centre, scale.to(fabric.device)
        self.ema = Ema(trainee, config.ema) if config.ema else None
        self.adversary = None
        if config.adversarial:
            sizes = cast(Translator, model).channels
            self.adversary = Adversary(sizes, n_outputs, width=config.width, centre=centre, scale=self.scale)
            self.adversary.setup(fabric)
        self.modulator = modulator_of(model, config, task, fabric)
        self.recorder = None
        if config.dynamics and val is not None and fabric.is_global_zero:
            device = fabric.device
            self.recorder = Recorder(
                model,
                task=task,
                modalities=tuple(axes),
                axes=axes,
                classes=classes,
                criterion=lambda p, t: task_loss(task, p, t, config.label_smoothing, self.scale),
                probe=probe_of(
                    model, val, task=task, train_size=samples(train), epochs=epochs, seed=config.seed, device=device
                ),
                epochs=epochs,
                steps=self.order.steps,
                data_range=2 * float(scale.max()),
            )
        self.scaler = fabric.strategy.precision
        self.epoch, self.step = 1, 0
        self.total = torch.zeros((), device=fabric.device)
        self.seconds = self.waited = 0.0
        self.saved = time.perf_counter()
        self.keep = 0 if val is None else config.checkpoints
        if self.keep and not result.kept:
            result.kept = {0: self._copy()}

    def run(self) -> Fit:
        """Train until it is over.

        Raises:
            ModelError: if the loss is no longer finite.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, with a snapshot saved.
        """
        result, fabric = self.result, self.fabric
        self.reporter.phase(self.phase, self.steps, (self.epoch - 1) * self.order.steps + self.step)
        with Interrupt(self.reporter.say, defer=fabric.world_size == 1) as self.interrupt:
            if self.recorder is not None and (self.epoch, self.step) == (1, 0):
                self.recorder.epoch(0)
            while self.epoch <= self.epochs and not result.stopped:
                self._train()
                self._close()
                self.epoch, self.step = self.epoch + 1, 0
                self.total.zero_()
                self.seconds = self.waited = 0.0
                self._pause(boundary=True)
        if result.state is not None:
            inner(self.model).load_state_dict(result.state)
        return result

    def _train(self) -> None:
        """Take the steps of this epoch that are left."""
        self.trainee.train()
        began = time.perf_counter()
        batches = self.feed.read(self.order.epoch(self.epoch, self.step))
        while self.step < self.order.steps:
            share = rate(self.config, (self.epoch - 1) * self.order.steps + self.step, self.steps)
            set_rate(self.optimizer, share)
            self._step(batches)
            self.step += 1
            now = time.perf_counter()
            self.seconds, began = self.seconds + now - began, now
            self.reporter.step()
            self._pause()

    def _step(self, batches: Iterator[dict[str, Any]]) -> None:
        config, fabric, adversary = self.config, self.fabric, self.adversary
        parts = config.accumulate
        self.stepping.zero_grad()
        for part in range(parts):
            inputs, target = self._fetch(batches)
            alone = fabric.world_size > 1 and part < parts - 1
            with fabric.no_backward_sync(self.wrapped) if alone else nullcontext():
                outputs, extra = self.forward(inputs)

                def criterion(output: Tensor, target: Tensor, inputs: dict[str, Tensor] = inputs) -> Tensor:
                    if adversary is not None:
                        return adversary.generator_loss(inputs, output, target)
                    return task_loss(self.task, output, target, config.label_smoothing, self.scale)

                if self.modulator is not None:
                    self.modulator.observe(outputs, target)
                main = cast(Trainable, self.model).loss(outputs, target, criterion)
                aside = [criterion(x, target) for x in extra]
                whole = main + config.auxiliary * sum(aside) if aside else main
                fabric.backward(whole / parts if parts > 1 else whole)
            self.total += main.detach() / parts
        if self.modulator is not None:
            self.modulator.apply(self.epoch)
        if self.recorder is not None:
            self.recorder.step(self._scale())
        if config.clip:
            fabric.clip_gradients(self.wrapped, self.stepping, max_norm=config.clip, error_if_nonfinite=False)
        self.stepping.step()
        if self.ema is not None:
            self.ema.update()
        if adversary is not None:
            adversary.step(inputs, adversary.fakes(outputs), target)

    def _fetch(self, batches: Iterator[dict[str, Any]]) -> tuple[dict[str, Tensor], Tensor]:
        began = time.perf_counter()
        batch = self.fabric.to_device(next(batches))
        found = self.augment(batch["inputs"], batch["target"])
        self.waited += time.perf_counter() - began
        return found

    def _close(self) -> None:
        """Score the epoch's end, write its row down, keep the weights if they are the best."""
        config, result, epoch = self.config, self.result, self.epoch
        began = time.perf_counter()
        loss = summed(self.total, self.fabric) / (self.order.steps * self.fabric.world_size)
        if not math.isfinite(loss):
            raise ModelError(
                f"the training loss became {loss} in epoch {epoch}; lower --lr (it is {config.lr:g}), or set --clip 1"
                + ("" if config.precision == "32-true" else ", or train with --precision 32-true")
            )
        last = rate(config, (epoch - 1) * self.order.steps, self.steps) * config.lr
        row: dict[str, Any] = {"phase": self.phase, "epoch": epoch, "lr": last, "train_loss": loss}
        text = f"loss {loss:.3f}"
        scores: dict[str, Any] = {}
        if self.ema is None:
            scores, state = self._score(epoch)
        else:
            with self.ema.applied():
                scores, state = self._score(epoch)
        if self.modulator is not None:
            row |= {f"rho_{m}": rho for m, rho in self.modulator.ratios.items()}
        if scores:
            metric = METRIC[self.task]
            row |= {"val_loss": scores["loss"], f"val_{metric}": scores[metric]}
            text += f"  val loss {scores['loss']:.3f}  val {metric} {scores[metric]:.3f}"
            text += "  *" if result.epoch == epoch else ""
        self.seconds += time.perf_counter() - began
        row |= {"seconds": round(self.seconds, 3), "data_seconds": round(self.waited, 3)}
        result.history.append(row)
        if self.keep:
            result.kept = thin(result.kept | {epoch: state}, epoch, self.epochs, self.keep)
        if self.log is not None:
            self.log(row)
        self.reporter.epoch(epoch, self.epochs, text)
        if self.val is not None and config.patience and epoch - result.epoch >= config.patience:
            result.stopped = True

    def _score(self, epoch: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Score the weights as they are; return the scores and, where they are wanted, the weights."""
        result, config = self.result, self.config
        scores: dict[str, Any] = {}
        if self.val is not None:
            scores = evaluate(self.fabric, self.model, self.val, self.task, self.classes, config, self.scale)
        if self.recorder is not None:
            self.recorder.epoch(epoch)
        state: dict[str, Tensor] = {}
        if result.state is None or self._rank(epoch, scores) > self._rank(result.epoch, result.scores):
            state = result.state = self._copy()
            result.epoch, result.scores = epoch, scores
        elif self.keep:
            state = self._copy()
        return scores, state

    def _rank(self, epoch: int, scores: dict[str, Any]) -> tuple[float, float]:
        # an adversary is there to make pictures sharp, which costs PSNR: then the last weights are kept
        if not scores or self.adversary is not None:
            return float(epoch), 0.0
        score = scores[METRIC[self.task]]
        return (-math.inf if math.isnan(score) else score), -scores["loss"]

    def _pause(self, boundary: bool = False) -> None:
        """Save a snapshot if one is due, and stop if that was asked for."""
        if self.save is None:
            if self.interrupt.asked:
                raise KeyboardInterrupt
            return
        due = time.perf_counter() - self.saved >= self.config.snapshot
        if self.fabric.world_size > 1:
            if not boundary and self.step % AGREE and self.config.snapshot:
                return
            due = self.fabric.broadcast(due)
        if due or self.interrupt.asked:
            self.save(self.state_dict())
            self.saved = time.perf_counter()
        if self.interrupt.asked:
            raise KeyboardInterrupt

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on, and nothing else. On several ranks, all must ask."""
        own = {
            "rng": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.fabric.device) if self.fabric.device.type == "cuda" else None,
            "augment": self.augment.generator.get_state(),
        }
        return {
            "phase": self.phase,
            "epoch": self.epoch,
            "step": self.step,
            "total": self.total,
            "seconds": [self.seconds, self.waited],
            "trainee": self.trainee.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
            "ranks": gathered(own, self.fabric),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.total.copy_(state["total"])
        self.seconds, self.waited = state["seconds"]
        self.trainee.load_state_dict(state["trainee"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for name, part in self._parts().items():
            part.load_state_dict(state["parts"][name])
        own = mine(state["ranks"], self.fabric)
        self.augment.generator.set_state(own["augment"])
        torch.set_rng_state(own["rng"])
        if own["cuda"] is not None:
            torch.cuda.set_rng_state(own["cuda"], self.fabric.device)

    def _parts(self) -> dict[str, Any]:
        """What else has a state."""
        found = {
            "ema": self.ema,
            "adversary": self.adversary,
            "modulator": self.modulator,
            "recorder": self.recorder,
        }
        return {name: part for name, part in found.items() if part is not None}

    def _scale(self) -> float:
        """What mixed precision multiplies the loss by."""
        scaler = getattr(self.scaler, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def _copy(self) -> dict[str, Tensor]:
        return {k: v.detach().cpu().clone() for k, v in inner(self.model).state_dict().items()}

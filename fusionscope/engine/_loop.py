"""The training loop: one model, one data set, until its epochs are over or validation stops improving."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fusionscope.errors import ModelError
from fusionscope.nn import LearnedEnsemble, Pooled, Translator, VectorHead

from ._adversary import Adversary
from ._augment import Augment
from ._checkpoints import evenly, thin
from ._config import TrainConfig
from ._memory import loader
from ._progress import Reporter
from ._scores import METRIC, Scores, task_loss

EVALUATION_BATCH = 128


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


class Trainable(Protocol):
    """What the loop asks of a model beside ``forward``: all that its loss needs, and that loss."""

    def outputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]: ...

    def loss(
        self, outputs: dict[str, Tensor], target: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor: ...


class Trainee(nn.Module):
    """The model, with a linear head per modality for the auxiliary loss; the heads are not part of what is saved."""

    def __init__(self, model: nn.Module, task: str, n_outputs: int, auxiliary: float):
        super().__init__()
        self.model = model
        heads: dict[str, nn.Module] = {}
        for name, channels in _channels(model).items() if auxiliary > 0 else ():
            linear = nn.Sequential(Pooled(nn.Identity(), channels), nn.Linear(channels, n_outputs))
            heads[name] = nn.Conv2d(channels, n_outputs, 1) if task == "dense" else linear
        self.heads = nn.ModuleDict(heads)
        self.task = task

    def forward(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        outputs = cast(Trainable, self.model).outputs(inputs)
        extra = [head(outputs[f"{name} features"]) for name, head in self.heads.items()]
        if self.task == "dense":
            size = outputs["prediction"].shape[2:]
            extra = [nn.functional.interpolate(x, size, mode="bilinear") for x in extra]
        if self.task == "regression":
            extra = [cast(VectorHead, self.model.head).rescale(x) for x in extra]
        return outputs, extra


def fit(
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
) -> Fit:
    """Train ``model`` and fill ``result``; the model is left with the weights of ``result.state``.

    AdamW, one warm-up, cosine decay to zero over ``epochs``. With ``val``, every epoch is scored and the best weights
    are kept (ties: the lower loss); after ``config.patience`` epochs without a better score it stops. Checkpoints are
    kept with ``val`` only.

    Raises:
        ModelError: if the loss is no longer finite.
    """
    trainee = Trainee(model, task, n_outputs, config.auxiliary)
    if not _unsafe_layout(trainee, fabric.device):  # a quarter faster on CPUs; weights are saved contiguous
        trainee.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    optimizer = torch.optim.AdamW(_groups(trainee, config), lr=config.lr)
    data = loader(train, config.batch_size, seed=config.seed, workers=config.workers)
    batches = cast(DataLoader, fabric.setup_dataloaders(data))
    steps = len(batches) * epochs
    warm = max(1, round(0.05 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    wrapped, opt = fabric.setup(trainee, optimizer)
    augment = Augment(
        axes, target=task, strength=config.augment, flips=config.flips, seed=config.seed + fabric.global_rank
    )
    scale = scale.to(fabric.device)
    metric = METRIC[task]
    trainable = cast(Trainable, model)
    adversary = None
    if config.adversarial:
        sizes = cast(Translator, model).channels
        adversary = Adversary(sizes, n_outputs, width=config.width, centre=centre, scale=scale).setup(fabric)

    best = (-math.inf, -math.inf)
    count = 0 if val is None else config.checkpoints
    if count:
        result.kept = {0: _copy(model)}
    reporter.phase(phase, steps)
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        trainee.train()
        total = torch.zeros((), device=fabric.device)
        rate = optimizer.param_groups[0]["lr"]
        for batch in batches:
            inputs, target = augment(batch["inputs"], batch["target"])
            outputs, extra = wrapped(inputs)

            def criterion(output: Tensor, target: Tensor, inputs: dict[str, Tensor] = inputs) -> Tensor:
                if adversary is not None:
                    return adversary.generator_loss(inputs, output, target)
                return task_loss(task, output, target, config.label_smoothing, scale)

            main = trainable.loss(outputs, target, criterion)
            aside = [criterion(x, target) for x in extra]
            opt.zero_grad()
            fabric.backward(main + config.auxiliary * sum(aside) if aside else main)
            opt.step()
            schedule.step()
            if adversary is not None:
                adversary.step(inputs, adversary.fakes(outputs), target)
            total += main.detach()
            reporter.step()
        loss = float(total) / len(batches)
        if not math.isfinite(loss):
            raise ModelError(
                f"the training loss became {loss} in epoch {epoch}; lower --lr (it is {config.lr:g})"
                + ("" if config.precision == "32-true" else ", or train with --precision 32-true")
            )
        row: dict[str, Any] = {"phase": phase, "epoch": epoch, "lr": rate, "train_loss": loss}
        text = f"loss {loss:.3f}"
        scores: dict[str, Any] = {}
        if val is not None:
            scores = evaluate(fabric, model, val, task, classes, config, scale)
            row |= {"val_loss": scores["loss"], f"val_{metric}": scores[metric]}
            text += f"  val loss {scores['loss']:.3f}  val {metric} {scores[metric]:.3f}"
        # an adversary is there to make pictures sharp, which costs PSNR: then the last weights are kept
        rank = (scores[metric], -scores["loss"]) if scores and adversary is None else (float(epoch), 0.0)
        if rank > best:
            best = rank
            result.state = _copy(model)
            result.epoch, result.scores = epoch, scores
            text += "  *" if scores else ""
        result.history.append(row | {"seconds": round(time.perf_counter() - began, 3)})
        if count:
            state = result.state if result.epoch == epoch and result.state is not None else _copy(model)
            result.kept = thin(result.kept | {epoch: state}, epoch, epochs, count)
        reporter.epoch(epoch, epochs, text)
        if val is not None and config.patience and epoch - result.epoch >= config.patience:
            result.stopped = True
            break
    if result.state is not None:
        model.load_state_dict(result.state)
    return result


@torch.no_grad()
def evaluate(
    fabric: Fabric,
    model: nn.Module,
    dataset: Dataset,
    task: str,
    classes: tuple[str, ...],
    config: TrainConfig,
    scale: Tensor,
) -> dict[str, Any]:
    """Score the model on a whole data set, without sharing it among ranks; the model is left in evaluation mode."""
    model.eval()
    size = max(1, min(EVALUATION_BATCH, len(cast(Sized, dataset))))
    batches = fabric.setup_dataloaders(loader(dataset, size, workers=config.workers), use_distributed_sampler=False)
    scores = Scores(task, classes, fabric.device, data_range=2 * float(scale.max()))
    for batch in cast(Iterable[dict[str, Any]], batches):
        with fabric.autocast():
            output = model(batch["inputs"])
        output = output.float()
        scores.update(output, batch["target"], task_loss(task, output, batch["target"], 0.0, scale.to(fabric.device)))
    # batch norms see other samples on each rank: one rank's scores decide for all, so that all stop together
    return fabric.broadcast(scores.compute())


def _unsafe_layout(module: nn.Module, device: torch.device) -> bool:
    """Whether channels-last training could corrupt memory: torch 2.13's CPU kernels do so in the backward pass of 1x1
    convolutions with a stride, on large maps of fewer than 16 channels."""
    return device.type == "cpu" and any(
        m.kernel_size == (1, 1) and m.stride != (1, 1) and m.in_channels % 16 > 0
        for m in module.modules()
        if isinstance(m, nn.Conv2d)
    )


def _channels(model: nn.Module) -> dict[str, int]:
    """Channels of each modality's features; with a shared encoder the model itself says them."""
    if isinstance(found := getattr(model, "channels", None), dict):
        return found
    return {name: int(cast(int, e.channels)) for name, e in cast(nn.ModuleDict, model.encoders).items()}


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def _groups(module: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Matrices and kernels with weight decay, the rest without; weights of an ensemble with a rate ten times as high.

    Those are logits of a softmax and must move by whole units, which few hundred steps at a network's rate cannot do.
    """
    weighing = {id(p) for m in module.modules() if isinstance(m, LearnedEnsemble) for p in m.parameters()}
    parameters = [p for p in module.parameters() if p.requires_grad]
    plain = [p for p in parameters if id(p) not in weighing]
    found: list[dict[str, Any]] = [
        {"params": [p for p in plain if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in plain if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if weighing:
        found.append(
            {"params": [p for p in parameters if id(p) in weighing], "weight_decay": 0.0, "lr": 10 * config.lr}
        )
    return found

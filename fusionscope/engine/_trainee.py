"""What the loop trains: a model, its auxiliary heads, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from fusionscope.nn import Pooled, VectorHead

from ._config import TrainConfig
from ._memory import loader
from ._order import samples
from ._scores import Scores, task_loss

EVALUATION_BATCH = 128


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
    size = max(1, min(EVALUATION_BATCH, samples(dataset)))
    data_range = 2 * float(scale.max())
    scores = Scores(task, classes, fabric.device, data_range=data_range, sentiment=config.sentiment)
    scale = scale.to(fabric.device)
    for batch in loader(dataset, size, workers=config.workers):
        batch = fabric.to_device(batch)
        with fabric.autocast():
            output = model(batch["inputs"])
        output = output.float()
        scores.update(output, batch["target"], task_loss(task, output, batch["target"], 0.0, scale))
    # batch norms see other samples on each rank: one rank's scores decide for all, so that all stop together
    return fabric.broadcast(scores.compute())


def unsafe_layout(module: nn.Module, device: torch.device) -> bool:
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

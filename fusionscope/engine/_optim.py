"""The optimiser, its learning rate along the steps, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope.nn import LearnedEnsemble

from ._config import TrainConfig

FALL, TENTH = 0.7, 0.1  # of the schedule "step"


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum; each group keeps its own peak rate as ``peak``."""
    groups = _groups(module, config)
    if config.optimizer == "sgd":
        found: torch.optim.Optimizer = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0
        )
    else:
        found = torch.optim.AdamW(groups, lr=config.lr)
    for group in found.param_groups:
        group["peak"] = group["lr"]
    return found


def rate(config: TrainConfig, step: int, steps: int) -> float:
    """The share of the peak learning rate that step ``step`` of ``steps`` (counted from 0) is taken with.

    >>> config = TrainConfig(data="digits", out="r", warmup=0.1)
    >>> [round(rate(config, step, 20), 3) for step in (0, 1, 10, 19)]
    [0.5, 0.994, 0.5, 0.006]
    """
    warm = max(1, round(config.warmup * steps))
    along = step / steps
    falls = {
        "cosine": 0.5 * (1 + math.cos(math.pi * along)),
        "linear": 1 - along,
        "step": 1.0 if along < FALL else TENTH,
        "constant": 1.0,
    }
    return min((step + 1) / warm, falls[config.schedule])


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Give every group that share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict; the state of a parameter gets its memory format, as it had when it was made."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def laid(index: int, value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == parameters[index].shape and value.ndim:
            return torch.empty_like(parameters[index], dtype=value.dtype).copy_(value)
        return value

    with torch.no_grad():
        own = {i: {k: laid(i, v) for k, v in values.items()} for i, values in state["state"].items()}
    optimizer.load_state_dict({**state, "state": own})


class Ema:
    """Exponential moving average of the parameters: ``a <- d a + (1 - d) p``.

    ``d = min(decay, (1 + n) / (10 + n))`` with ``n`` counting the updates, so that the untrained weights are soon
    forgotten.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.parameters = list(module.parameters())
        self.values = [p.detach().clone() for p in self.parameters]
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are now into the average."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - keep)

    @contextmanager
    def applied(self) -> Generator[None]:
        """Within, the parameters are their averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for mine, value in zip(self.values, state["values"], strict=True):
            mine.copy_(value)


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

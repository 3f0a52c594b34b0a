"""Whether the settings of a training can be: their types, ranges, and what excludes what. No data needed."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import msgspec

from fusionscope._settings import misfit
from fusionscope.errors import InputError

from ._config import TrainConfig
from ._logging import check_loggers

RANGES: dict[str, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
    "more than 0": (("epochs", "batch_size", "accumulate", "lr", "width", "devices"), lambda v: v > 0),
    "at least 0 and less than 1": (
        ("dropout", "modality_dropout", "label_smoothing", "momentum", "warmup", "ema"),
        lambda v: 0 <= v < 1,
    ),
    "at least 0": (
        (
            "snapshot",
            "patience",
            "checkpoints",
            "copies",
            "weight_decay",
            "clip",
            "modulation",
            "modulation_epochs",
            "auxiliary",
            "augment",
            "workers",
        ),
        lambda v: v >= 0,
    ),
    "at least 0 and less than 2**63": (("seed", "data_seed"), lambda v: 0 <= v < 2**63),
}


def check_settings(config: TrainConfig) -> None:
    """Refuse settings that cannot be, whatever the data; what depends on the data is told when the model is described.

    Raises:
        InputError: of the first one found, with its name, its value and what to write instead.
    """
    _types(config)
    for name, wanted in (("data", "a data specification, such as 'scenes'"), ("out", "the folder to write")):
        if not getattr(config, name).strip():
            raise InputError(f"{name} is empty: expected {wanted}")
    for wanted, (names, fits) in RANGES.items():
        for name in names:
            value = getattr(config, name)
            if not (fits(value) and value != inf):
                raise InputError(f"{name} must be {wanted}, got {value}")
    _steps(config)
    _extras(config)


def check_share(config: TrainConfig, world: int) -> None:
    """Refuse a batch that ``world`` devices cannot share in equal parts of two samples or more.

    Raises:
        InputError: if the batch size is no multiple of devices times parts, or a part has one sample only.
    """
    parts = world * config.accumulate
    words = f"accumulate = {config.accumulate} part{'s' * (config.accumulate > 1)}"
    if world > 1:
        words = f"{world} devices" + f" with {words} each" * (config.accumulate > 1)
    if config.batch_size % parts:
        below, above = config.batch_size // parts * parts, -(-config.batch_size // parts) * parts
        choice = f"{below} or {above}" if below >= 2 * parts else str(max(above, 2 * parts))
        raise InputError(
            f"batch_size = {config.batch_size} is the whole step's and cannot be shared equally among {words}: take "
            f"batch_size {choice}, or another accumulate"
        )
    if config.batch_size < 2 * parts:
        raise InputError(
            f"batch_size = {config.batch_size} shared among {words} leaves one sample for each, and batch norms "
            f"need two: take batch_size {2 * parts} or more, or a smaller accumulate"
        )


def check_samples(count: int, config: TrainConfig, world: int) -> None:
    """Refuse a training split that gives ``world`` devices less than two samples for each part of a step.

    Raises:
        InputError: if there are too few samples.
    """
    needed = 2 * world * config.accumulate
    if count < needed:
        raise InputError(
            f"the training split of {config.data} has {count} sample{'s' * (count != 1)}; {world} device"
            f"{'s' * (world > 1)} with accumulate = {config.accumulate} need {needed} or more, two for each part of a "
            "step: give more samples, or a smaller accumulate"
        )


def _types(config: TrainConfig) -> None:
    """Of settings from Python, which nothing has checked so far."""
    for field in msgspec.structs.fields(TrainConfig):
        value = getattr(config, field.name)
        if said := misfit(value, field.type):
            raise InputError(f"{field.name} = {value!r}: {said}")


def _steps(config: TrainConfig) -> None:
    """What a step of the optimiser is made of."""
    if config.batch_size < 2:
        raise InputError("batch_size must be at least 2, since batch norms need two samples, got 1")
    check_share(config, 1)
    if config.optimizer != "sgd" and config.momentum != _default("momentum"):
        raise InputError(
            f"momentum = {config.momentum} is of optimizer 'sgd', and optimizer is {config.optimizer!r}: set "
            "optimizer = 'sgd' (--optimizer sgd), or leave momentum out"
        )
    if not config.modulation:
        for name in ("modulation_noise", "modulation_epochs"):
            if getattr(config, name) != _default(name):
                raise InputError(
                    f"{name} = {getattr(config, name)} says how to modulate gradients, and modulation is 0: set "
                    f"modulation (--modulation 0.8), or leave {name} out"
                )


def _extras(config: TrainConfig) -> None:
    """Checkpoints, twins, loggers."""
    if config.checkpoints == 1:
        raise InputError("checkpoints must be 0 or at least 2, since the first and the last are always kept, got 1")
    if config.copies and not config.solo:
        raise InputError("copies are further trainings of the solo twins; set solo (--solo) too, or leave copies out")
    if len(set(config.loggers)) < len(config.loggers):
        raise InputError(f"loggers = {list(config.loggers)} names one twice; name each once")
    check_loggers(config.loggers)


def _default(name: str) -> Any:
    return next(field.default for field in msgspec.structs.fields(TrainConfig) if field.name == name)

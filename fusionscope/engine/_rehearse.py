"""What would go wrong in a training, found out with two samples before it begins."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from fusionscope.data import DataSplits, load_data
from fusionscope.errors import InputError

from ._checks import check_samples, check_settings
from ._config import TrainConfig
from ._memory import choose, loader
from ._models import describe, rebuild, settings_in_words
from ._modulation import refuse
from ._scores import task_loss
from ._solo import twins


def rehearse(config: TrainConfig, data: DataSplits | None = None) -> DataSplits:
    """Find out what would go wrong before anything is trained: load the data, build the model and every solo twin's,
    compute one loss of two samples.

    Returns:
        The data as loaded, with all modalities.

    Raises:
        InputError: if a setting is out of range, or settings, parts and data do not fit one another.
        FileError: if the data cannot be read.
    """
    check_settings(config)
    data = load_data(config.data, seed=config.data_seed) if data is None else data
    check_samples(data.size("train"), config, 1)
    chosen = choose(data, config.modalities)
    for one in [config, *twins(config, chosen)[: len(chosen.modalities)]]:
        try:
            _rehearse(one, choose(chosen, one.modalities))
        except InputError as error:
            which = "" if one is config else f"the solo twin of {one.modalities[0]}: "
            raise InputError(f"{which}{error}") from error
    return data


def _check_shape(prediction: Tensor, target: Tensor, outputs: int, data: DataSplits, build: str) -> None:
    """Losses would broadcast what does not fit."""
    several = data.task in ("classification", "dense")
    wanted = [len(target), outputs, *target.shape[1:]] if several else list(target.shape)
    if list(prediction.shape) != wanted:
        raise InputError(
            f"the model of build = {build!r} gives {list(prediction.shape)} for {len(target)} samples; {data.task} of "
            f"{data.spec} needs {wanted}"
        )


def _rehearse(config: TrainConfig, data: DataSplits) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        batch = next(iter(loader(data.splits["train"], 2)))
        target = batch["target"]
        outputs = len(data.classes) or math.prod(target.shape[1:2])
        spec = describe(config, data, outputs, tuple(target.shape[1:]))
        try:
            model = cast(Any, rebuild(spec, untrained=False))
            if config.modulation:
                refuse(model, data.task, config.modulation)
            found = model.outputs(batch["inputs"])
            if config.build:
                _check_shape(found["prediction"], target, outputs, data, config.build)
            one = torch.ones(1)
            model.loss(found, target, lambda p, t: task_loss(data.task, p, t, config.label_smoothing, one))
        except InputError as error:  # of a part, which does not know what the user has set
            raise InputError(f"{error} (settings: {settings_in_words(config)})") from error
        except RuntimeError as error:
            shapes = ", ".join(f"{m} {list(x.shape[1:])}" for m, x in batch["inputs"].items())
            raise InputError(
                f"the model cannot take the data: {str(error).splitlines()[0]} (samples: {shapes}; settings: "
                f"{settings_in_words(config)})"
            ) from error

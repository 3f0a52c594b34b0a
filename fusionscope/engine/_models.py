"""From settings and data to the model to train, and back from the description that a run folder keeps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from fusionscope.data import DataSplits
from fusionscope.errors import InputError
from fusionscope.nn import (
    Classifier,
    Segmenter,
    SequenceModel,
    Translator,
    build_model,
    hf_configuration,
    hf_from_configuration,
)

from ._config import TrainConfig
from ._own import own_model

TASKS = {
    "auto": ("classification", "multilabel", "dense", "regression", "translation"),
    "classifier": ("classification", "multilabel", "regression"),
    "sequence": ("classification", "multilabel", "regression"),
    "segmenter": ("dense",),
    "translator": ("translation",),
    "own": ("classification", "multilabel", "dense", "regression", "translation"),
}
# settings that only some models read, with what they are where nobody set them
BUILT = ("auto", "classifier", "sequence", "segmenter", "translator")
READERS = {
    "width": (16, BUILT),
    "dropout": (0.1, BUILT),
    "encoder": ("auto", ("classifier", "sequence", "segmenter")),
    "fuse": ("auto", ("classifier", "sequence")),
    "calibration": (False, ("auto", "classifier", "sequence")),
    "shared": (False, ("classifier",)),
    "exchange": ("auto", ("classifier", "segmenter", "translator")),
    "norm": ("private", ("classifier", "segmenter", "translator")),
    "modality_dropout": (0.0, ("auto", "classifier", "sequence")),
    "auxiliary": (0.0, ("auto", "classifier", "sequence")),
    "adversarial": (False, ("translator",)),
}


def describe(config: TrainConfig, data: DataSplits, outputs: int, target_shape: Sequence[int]) -> dict[str, Any]:
    """Return what :func:`rebuild` needs for the model that ``config`` asks for.

    Raises:
        InputError: if the model is not for the data's task, or does not read a setting that was given.
    """
    kind = _kind(config, data)
    _check_task(config, data, outputs)
    if config.build:
        return {"name": "own", "function": config.build, "modalities": list(data.modalities)}
    shapes = {m: list(s) for m, s in data.shapes.items()}
    several = len(shapes) > 1
    exchange = config.exchange if config.exchange != "auto" else "asym_fusion"
    if kind in ("segmenter", "translator"):
        flat = [m for m, axes in data.axes.items() if axes != "NCHW"]
        if flat:
            raise InputError(f"the {kind} takes maps (NCHW); {flat[0]!r} has axes {data.axes[flat[0]]}: leave it out")
        shared = {
            "channels": {m: s[0] for m, s in shapes.items()},
            "exchange": exchange if several else "none",
            "norm": config.norm,
            "dropout": config.dropout,
        }
        if kind == "translator":
            return {"name": "Translator", "outputs": outputs, "width": config.width} | shared
        encoder = "resnet18" if config.encoder == "auto" else config.encoder
        widths = {"encoder_width": config.width, "width": 4 * config.width}
        return {"name": "Segmenter", "classes": outputs, "encoder": encoder} | widths | shared
    common: dict[str, Any] = {
        "shapes": shapes,
        "axes": dict(data.axes),
        "n_outputs": outputs,
        "width": config.width,
        "dropout": config.dropout,
        "modality_dropout": config.modality_dropout,
    }
    if kind == "auto":
        dense = data.task == "dense"
        size = list(target_shape) if dense else None
        more = {"calibration": True} if config.calibration else {}
        return {"name": "FusionNet", "task": data.task, "target_size": size, "fuse": "concat"} | common | more
    chosen: dict[str, Any] = {"encoder": config.encoder, "calibration": config.calibration}
    if config.encoder.startswith("hf:"):
        chosen["encoder_config"] = hf_configuration(config.encoder)
    if kind == "sequence":
        fuse = "cross_attention" if config.fuse == "auto" else config.fuse
        return {"name": "SequenceModel", "task": data.task, "fuse": fuse} | common | chosen
    fuse = "concat" if config.fuse == "auto" else config.fuse
    if config.shared and several:
        chosen |= {"shared": True, "norm": config.norm, "exchange": exchange if config.exchange != "auto" else "none"}
    return {"name": "Classifier", "task": data.task, "fuse": fuse} | common | chosen


def rebuild(description: Mapping[str, Any], *, untrained: bool = True) -> nn.Module:
    """Build the model of such a description.

    Args:
        description: as ``describe`` returned it.
        untrained: load the published weights of an encoder ``hf:NAME``. Without, neither these nor the hub are needed.

    Raises:
        InputError: if a setting is unknown or does not fit.
        KeyError: if one is missing.
    """
    settings = {k: v for k, v in description.items() if k not in ("name", "parameters")}
    encoder = settings.pop("encoder_config", None)
    if encoder is not None and not untrained:
        settings["encoder"] = hf_from_configuration(encoder)
    if settings.get("exchange") == "none":
        settings["exchange"] = None
    if settings.get("target_size") is not None:
        settings["target_size"] = tuple(settings["target_size"])
    builders: dict[str, Callable[..., nn.Module]] = {
        "FusionNet": build_model,
        "Classifier": Classifier.build,
        "SequenceModel": SequenceModel.build,
        "Segmenter": Segmenter,
        "Translator": Translator,
        "own": own_model,
    }
    build = builders[description["name"]]
    for name, parameter in inspect.signature(build).parameters.items():
        if parameter.default is parameter.empty and name not in settings:
            raise KeyError(name)
    return build(**settings)


def _kind(config: TrainConfig, data: DataSplits) -> str:
    kind = "own" if config.build else config.model
    if config.build and config.model != "auto":
        raise InputError(f"model = {config.model!r} and build = {config.build!r} are two models: leave one out")
    if config.build and config.solo:
        raise InputError(
            f"solo twins are the model with one modality, and build = {config.build!r} takes them all: write a "
            "function for each modality alone and train it with --modalities"
        )
    if kind == "auto" and data.task == "translation":
        kind = "translator"
    if data.task not in TASKS[kind]:
        fitting = [name for name, tasks in TASKS.items() if data.task in tasks and name != "own"]
        raise InputError(
            f"model = {kind!r} is for {' or '.join(TASKS[kind])}, but the target of {data.spec} asks for {data.task}: "
            f"take {' or '.join(map(repr, fitting))}"
        )
    for name, (default, readers) in READERS.items():
        if getattr(config, name) != default and kind not in readers:
            raise InputError(
                f"{name} = {getattr(config, name)!r} is for the models {', '.join(map(repr, readers))}; the model here "
                f"is {'your own' if config.build else repr(kind)}: choose another (--model), or leave {name} out"
            )
    if config.adversarial and config.accumulate > 1:
        raise InputError(
            f"accumulate = {config.accumulate} with adversarial: the discriminator would see the last part of each "
            "step only; leave one of the two out"
        )
    if config.exchange not in ("auto", "none") and kind == "classifier" and not config.shared:
        raise InputError(f"exchange = {config.exchange!r} works inside a shared encoder: set shared (--shared) too")
    if config.norm != "private" and kind == "classifier" and not config.shared:
        raise InputError(f"norm = {config.norm!r} is of a shared encoder: set shared (--shared) too, or leave norm out")
    if config.exchange == "channel_exchange" and config.norm in ("statistics", "shared"):
        raise InputError(
            f"exchange = 'channel_exchange' goes by each modality's own norm scales, which norm = {config.norm!r} "
            "shares: take norm = 'private' or 'affine'"
        )
    return kind


def _check_task(config: TrainConfig, data: DataSplits, outputs: int) -> None:
    """Refuse settings that are for other targets."""
    asks = f"the target of {data.spec} asks for {data.task}"
    if config.label_smoothing and data.task in ("regression", "translation"):
        raise InputError(f"label_smoothing = {config.label_smoothing} is for classes; {asks}: leave it out")
    if config.sentiment and (data.task != "regression" or outputs != 1):
        wrong = asks + (f" of {outputs} numbers" if data.task == "regression" else "")
        raise InputError(
            f"sentiment = True is for one number to predict, from -3 to 3; {wrong}: leave it out, or save the target "
            "as floats [N]"
        )


def settings_in_words(config: TrainConfig) -> str:
    """The settings that make the model, for messages: its name, its width, and what is not as by default.

    >>> settings_in_words(TrainConfig(data="digits", out="r", model="classifier", fuse="gated"))
    "model = 'classifier', fuse = 'gated', width = 16"
    """
    changed = [name for name, (default, _) in READERS.items() if getattr(config, name) != default]
    names = ("build",) if config.build else dict.fromkeys(("model", *changed, "width"))
    return ", ".join(f"{name} = {getattr(config, name)!r}" for name in names)

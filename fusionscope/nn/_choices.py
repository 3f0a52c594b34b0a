"""From names and shapes to encoders and fuses, for the models that build themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import nn

from fusionscope.errors import InputError, did_you_mean

from . import _resnet
from ._calibration import ContextualCalibration
from ._encoders import ClipEncoder, MapEncoder, SequenceEncoder, VectorEncoder
from ._fuse_names import ENSEMBLES, FUSES
from ._hf import hf_backbone
from ._late import OfLogits
from ._standardise import RawNorm
from ._transformer import TokenEncoder
from ._wrappers import Frames, Pooled

Shape = Sequence[int]
RESNETS: dict[str, Callable[..., _resnet.ResNet]] = {
    f"resnet{n}": getattr(_resnet, f"resnet{n}") for n in (18, 34, 50, 101, 152)
}
ENCODERS = ("auto", *RESNETS, "conv", "transformer", "hf:NAME")
SMALL = 64


def choices(encoder: Any, axes: Mapping[str, str]) -> dict[str, Any]:
    """Return one choice per modality, from such a mapping or from one choice for all that it can serve.

    A backbone for maps leaves vectors and sequences at ``auto``; ``conv`` and ``transformer`` are for sequences.

    Raises:
        InputError: if a name is unknown, in a mapping not for its modality, or for none of several.
    """
    if isinstance(encoder, Mapping):
        unknown = [m for m in encoder if m not in axes]
        if unknown:
            raise InputError(
                f"encoder= names the unknown modality {unknown[0]!r}; there are {', '.join(map(repr, axes))}."
                + did_you_mean(unknown[0], axes)
            )
        found = {m: encoder.get(m, "auto") for m in axes}
        for m, choice in found.items():
            if not serves(choice, axes[m]):
                raise InputError(f"the encoder {choice!r} does not take modality {m!r} with axes {axes[m]}")
        return found
    served = {m: serves(encoder, kind) for m, kind in axes.items()}
    if len(axes) > 1 and not any(served.values()):  # one alone may be a solo twin
        raise InputError(f"encoder = {encoder!r} is for none of the modalities, whose axes are {dict(axes)}")
    return {m: encoder if served[m] else "auto" for m in axes}


def serves(choice: Any, kind: str) -> bool:
    """Whether an encoder can take inputs with axes ``kind``."""
    if isinstance(choice, str) and choice not in ENCODERS[:-1] and not choice.startswith("hf:"):
        raise InputError(f"unknown encoder {choice!r}: one of {', '.join(ENCODERS)}.{did_you_mean(choice, ENCODERS)}")
    if isinstance(choice, str) and choice == "auto":
        return True
    return kind == "NTC" if choice in ("conv", "transformer") else kind in ("NCHW", "NTCHW")


def backbone(choice: Any, inputs: int, size: Shape, width: int, dropout: float = 0.0) -> nn.Module:
    """Return what encodes maps of ``inputs`` channels: a module with ``channels``, returning a vector, map or list."""
    if isinstance(choice, nn.Module):
        return copy.deepcopy(choice)
    if isinstance(choice, str) and choice in RESNETS:
        return RESNETS[choice](inputs, small=min(size) <= SMALL)
    if isinstance(choice, str) and choice == "auto":
        return MapEncoder(inputs, width, dropout)
    return hf_backbone(choice, inputs)


def standardised(choice: Any) -> bool:
    """Whether an encoder chosen by name needs its input standardised; modules get what there is."""
    return not isinstance(choice, nn.Module) and choice != "auto"


def map_encoder(choice: Any, inputs: int, size: Shape, width: int, dropout: float) -> nn.Module:
    """Return a module ``[B,C,H,W] -> [B,D]``."""
    net = backbone(choice, inputs, size, width, dropout)
    if not standardised(choice):
        return net if isinstance(net, MapEncoder) else Pooled(net)
    return Pooled(nn.Sequential(RawNorm(inputs), net), cast(Any, net).channels[-1])


def vector_encoder(choice: Any, shape: Shape, kind: str, width: int, dropout: float) -> nn.Module:
    """Return a module from a modality of these axes to ``[B,D]``."""
    if kind == "NC":
        return VectorEncoder(shape[-1], width, dropout)
    if kind == "NTC":
        if choice == "transformer":
            return Pooled(TokenEncoder(shape[-1], width, dropout=dropout))
        return SequenceEncoder(shape[-1], width, dropout)
    if kind == "NCHW":
        return map_encoder(choice, shape[-3], shape[-2:], width, dropout)
    if choice == "auto":
        return ClipEncoder(shape[-3], width, dropout)
    return Pooled(Frames(map_encoder(choice, shape[-3], shape[-2:], width, dropout)))


def token_encoder(choice: Any, shape: Shape, kind: str, width: int, dropout: float) -> nn.Module:
    """Return a module from a modality of these axes to a sequence, a map of an eighth of the size, or a vector."""
    if kind == "NC":
        return VectorEncoder(shape[-1], width, dropout)
    if kind == "NTC":
        if choice == "transformer":
            return TokenEncoder(shape[-1], width, dropout=dropout)
        return SequenceEncoder(shape[-1], width, dropout, keep_time=True)
    if kind == "NTCHW":
        return Frames(map_encoder(choice, shape[-3], shape[-2:], width, dropout))
    if choice == "auto":
        return MapEncoder(shape[-3], width, dropout, (-(-shape[-2] // 8), -(-shape[-1] // 8)))
    return map_encoder(choice, shape[-3], shape[-2:], width, dropout)


def fuse_of(
    choice: str | nn.Module, channels: Mapping[str, int], n_outputs: int, width: int, task: str = "classification"
) -> nn.Module:
    """Return the fuse of this name for features of these channels, or for ``n_outputs`` logits; or the module itself.

    Raises:
        InputError: if there is none of this name, or it is a fuse of logits that are not the task's.
    """
    if isinstance(choice, nn.Module):
        return _fitting(choice, choice, task)
    if choice in ENSEMBLES:
        return _fitting(choice, cast(Any, ENSEMBLES[choice])(dict.fromkeys(channels, n_outputs)), task)
    if choice not in FUSES:
        known = (*FUSES, *ENSEMBLES)
        raise InputError(f"unknown fuse {choice!r}: one of {', '.join(known)}.{did_you_mean(choice, known)}")
    options: dict[str, Any] = {}
    if choice in ("sum", "mean", "sum_and_product") and len(set(channels.values())) > 1:
        options["out"] = max(channels.values())
    if choice == "tensor":
        # what comes out has prod_m (project + 1) channels
        options["project"] = int(4096 ** (1 / max(2, len(channels))))
    if choice.endswith("attention"):
        options["width"] = 4 * -(-width // 2)
    return cast(Any, FUSES[choice])(channels, **options)


def _fitting(choice: str | nn.Module, fuse: nn.Module, task: str) -> nn.Module:
    """Return the fuse, unless it is one of logits and the task has none, or none that exclude each other."""
    if not isinstance(fuse, OfLogits) or task == "classification" or (task == "multilabel" and fuse.apart):
        return fuse
    name = f"fuse = {choice!r}" if isinstance(choice, str) else type(fuse).__name__
    if task == "multilabel":
        raise InputError(
            f"{name} fuses logits of classes of which one is true, but several labels may be (task 'multilabel'): take "
            "'late' (the mean of the logits), 'learned_ensemble', or a fuse of features such as 'concat'"
        )
    raise InputError(f"{name} fuses logits of classes; for {task} take a fuse of features such as 'concat'")


def calibration_of(choice: bool | nn.Module | None, channels: Mapping[str, int]) -> nn.Module | None:
    """Return the calibrator for features of these channels, the module itself, or None."""
    if isinstance(choice, nn.Module):
        return choice
    return ContextualCalibration(channels) if choice else None

"""The trainable baseline: an encoder per modality, one fuse, one head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionscope.errors import InputError, did_you_mean

from ._calibration import ContextualCalibration
from ._encoders import ClipEncoder, MapEncoder, SequenceEncoder, VectorEncoder
from ._fuse import Concat
from ._heads import DenseHead, VectorHead, half
from ._part import check_present, drop, hide, named

TASKS = ("classification", "multilabel", "dense", "regression")
FUSES = ("concat",)
RANKS = {"NC": 1, "NTC": 2, "NCHW": 3, "NTCHW": 4}


class FusionNet(nn.Module):
    """``head(fuse(calibration({m: encoders[m](inputs[m])})))``.

    While training, ``modality_dropout`` is the probability that a modality of a sample is taken for absent behind the
    encoders (arXiv:1501.00102); one of each sample's always stays.

    Attributes:
        encoders: one module per modality; each sees nothing but its modality.
        calibration: an exchange between the encoders and the fuse, such as :class:`ContextualCalibration`; or None.
        fuse: the features of all modalities to one tensor; without calibration the only place where they meet.
        head: the fused features to the prediction.
        modalities: the names the model takes, in order.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fuse: nn.Module,
        head: nn.Module,
        calibration: nn.Module | None = None,
        modality_dropout: float = 0.0,
    ):
        super().__init__()
        self.modalities = tuple(encoders)
        self.encoders = nn.ModuleDict(dict(encoders))
        self.calibration = calibration
        self.fuse = fuse
        self.head = head
        self.modality_dropout = modality_dropout

    def encode(
        self, inputs: dict[str, Tensor], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> dict[str, Tensor]:
        """Return every modality's features before the fuse: ``[B,D]``, or ``[B,D,h,w]`` for dense prediction.

        Inputs of absent samples count as zeros.

        Raises:
            InputError: if a modality is missing or unknown, or ``present`` does not fit.
        """
        if not isinstance(inputs, Mapping):
            raise InputError(f"this model takes a dict {{modality: tensor}}, got a {type(inputs).__name__}")
        for name in inputs:
            if name not in self.encoders:
                raise InputError(
                    f"unknown modality {name!r}: this model takes {', '.join(map(repr, self.modalities))}."
                    + did_you_mean(name, self.modalities)
                )
        missing = [name for name in self.modalities if name not in inputs]
        if missing:
            raise InputError(
                f"missing {_plural('modality', missing)} {', '.join(map(repr, missing))}: this model takes "
                f"{', '.join(map(repr, self.modalities))}, got {', '.join(map(repr, inputs)) or 'nothing'}; to run "
                "without a modality, give any values and present={modality: all False}, fill it in "
                "(fusionscope.dissection does), or train a model without it"
            )
        first = inputs[self.modalities[0]].shape[0]
        if any(inputs[name].shape[0] != first for name in self.modalities):
            sizes = ", ".join(f"{name} {len(inputs[name])}" for name in self.modalities)
            raise InputError(f"all modalities must have the same number of samples, got {sizes}")
        check_present(present, inputs, "this model")
        return {name: self.encoders[name](hide(inputs[name], present, name)) for name in self.modalities}

    def predict(
        self, features: dict[str, Tensor], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> Float[Tensor, "b ..."]:
        """From the features of :meth:`encode` to the prediction."""
        if self.calibration is not None:
            features = self.calibration(features, present)
        return self.head(self.fuse(features, present))

    def forward(
        self, inputs: dict[str, Tensor], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> Float[Tensor, "b ..."]:
        """Return logits ``[B,K]`` or ``[B,K,H,W]``; for regression ``[B]`` or ``[B,K]``.

        ``present`` says which samples have which modality; one that it does not name is there in all.
        """
        features = self.encode(inputs, present)
        return self.predict(features, self._dropped(features, present))

    def outputs(
        self, inputs: dict[str, Tensor], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> dict[str, Tensor]:
        """Return the ``prediction`` and each modality's features before calibration and fuse, as ``NAME features``."""
        features = self.encode(inputs, present)
        present = self._dropped(features, present)
        return {"prediction": self.predict(features, present)} | {f"{m} features": x for m, x in features.items()}

    def loss(
        self, outputs: dict[str, Tensor], target: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, ""]:
        """Return ``criterion(prediction, target)``."""
        return criterion(outputs["prediction"], target)

    def _dropped(
        self, features: dict[str, Tensor], present: dict[str, Bool[Tensor, " b"]] | None
    ) -> dict[str, Bool[Tensor, " b"]] | None:
        if not self.training or not self.modality_dropout or len(self.modalities) < 2:
            return present
        return drop(present, self.modalities, features[self.modalities[0]], self.modality_dropout)

    def extra_repr(self) -> str:
        return f"modality_dropout={self.modality_dropout}" if self.modality_dropout else ""


def build_model(
    shapes: Mapping[str, Sequence[int]],
    axes: Mapping[str, str],
    task: str,
    n_outputs: int,
    *,
    width: int = 16,
    dropout: float = 0.0,
    modality_dropout: float = 0.0,
    target_size: tuple[int, int] | None = None,
    fuse: str = "concat",
    calibration: bool = False,
) -> FusionNet:
    """Build the baseline for data of these shapes.

    Args:
        shapes: per-sample shape of each modality, without the sample axis.
        axes: the axes of each: ``NC`` (vector), ``NTC`` (sequence), ``NCHW`` (map) or ``NTCHW`` (clip).
        task: ``classification``, ``multilabel`` (a logit per label), ``dense`` or ``regression``.
        n_outputs: number of classes or labels K, or of values to regress.
        width: channels of the first stage; the deepest has four times as many.
        dropout: in the head, and on whole input channels of each encoder at a quarter of this rate.
        modality_dropout: probability that a modality of a training sample is taken for absent behind the encoders.
        target_size: (H, W) of dense targets; by default that of the largest map. Vectors and sequences alone need it;
            they can only tell what is in the whole map, not where.
        fuse: ``concat``.
        calibration: put a :class:`ContextualCalibration` in front of the fuse.

    Raises:
        InputError: if axes or task are unknown, or there is nothing to make a dense prediction from.

    >>> import torch
    >>> model = build_model({"rgb": (3, 17, 19), "imu": (23, 6)}, {"rgb": "NCHW", "imu": "NTC"}, "classification", 5)
    >>> model.eval()({"rgb": torch.zeros(2, 3, 17, 19), "imu": torch.zeros(2, 23, 6)}).shape
    torch.Size([2, 5])
    """
    _check(shapes, axes, task, fuse)
    sizes: dict[str, tuple[int, int]] = {m: (s[-2], s[-1]) for m, s in shapes.items() if axes[m] in ("NCHW", "NTCHW")}
    common: tuple[int, int] | None = None
    if task == "dense":
        if not sizes and target_size is None:
            raise InputError(f"dense prediction needs at least one map (NCHW); the modalities' axes are {dict(axes)}")
        target_size = target_size or max(sizes.values())
        common = half(target_size)
    encoders = {m: _encoder(shapes[m], axes[m], width, dropout / 4, common) for m in shapes}
    joint = Concat(tuple(encoders))
    widths = {m: int(e.channels) for m, e in encoders.items()}
    calibrator = ContextualCalibration(widths) if calibration else None
    channels = sum(widths.values())
    if task == "dense" and target_size is not None:
        head: nn.Module = DenseHead(channels, n_outputs, target_size, hidden=2 * width, dropout=dropout)
    else:
        head = VectorHead(channels, n_outputs, hidden=8 * width, dropout=dropout, regression=task == "regression")
    return FusionNet(encoders, joint, head, calibrator, modality_dropout)


class _Spread(nn.Module):
    """A vector encoder whose features are repeated over the map, for dense prediction."""

    def __init__(self, encoder: VectorEncoder | SequenceEncoder, size: tuple[int, int]):
        super().__init__()
        self.encoder = encoder
        self.size = size
        self.channels = encoder.channels

    def forward(self, x: Tensor) -> Float[Tensor, "b d h w"]:
        return self.encoder(x)[:, :, None, None].expand(-1, -1, *self.size)


def _encoder(shape: Sequence[int], axes: str, width: int, dropout: float, size: tuple[int, int] | None):
    if axes in ("NC", "NTC"):
        flat = (VectorEncoder if axes == "NC" else SequenceEncoder)(shape[-1], width, dropout)
        return flat if size is None else _Spread(flat, size)
    return (MapEncoder if axes == "NCHW" else ClipEncoder)(shape[-3], width, dropout, size)


def _check(shapes: Mapping[str, Sequence[int]], axes: Mapping[str, str], task: str, fuse: str) -> None:
    if not shapes:
        raise InputError("a model needs at least one modality; `shapes` is empty")
    named(tuple(shapes), "a model")
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}: one of {', '.join(TASKS)}.{did_you_mean(task, TASKS)}")
    if fuse not in FUSES:
        raise InputError(f"unknown fuse {fuse!r}: one of {', '.join(FUSES)}.{did_you_mean(fuse, FUSES)}")
    for name, shape in shapes.items():
        kind = axes.get(name)
        if kind not in RANKS:
            raise InputError(
                f"no encoder for modality {name!r} with axes {kind!r}; known: NC (vector), NTC (sequence), NCHW (map), "
                "NTCHW (clip)"
            )
        if len(shape) != RANKS[kind]:
            raise InputError(
                f"modality {name!r} has axes {kind}, so {RANKS[kind]} per sample, but shape {tuple(shape)}"
            )


def _plural(word: str, things: Sequence[object]) -> str:
    return word if len(things) == 1 else word.removesuffix("y") + "ies"

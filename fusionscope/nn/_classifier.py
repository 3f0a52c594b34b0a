"""A classifier of any mix of vectors, sequences, maps and clips, assembled from the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fusionscope.errors import InputError

from ._assembled import Assembled
from ._choices import backbone, calibration_of, choices, fuse_of, standardised, vector_encoder
from ._exchange_names import exchange_of
from ._heads import VectorHead
from ._late import OfLogits
from ._model import _check
from ._share import share
from ._standardise import RawNorm
from ._wrappers import Pooled


class Classifier(Assembled):
    """Classify or regress from a vector per modality: encoders, optional exchange and calibration, a fuse, a head.

    ``prediction = head(fuse(calibration({m: encoder_m(x_m)})))``, ``[B,K]``. The encoders may be one shared encoder
    with exchanges inside; the fuse may be one of logits, then every modality has a head of its own in front of it.

    :meth:`build` makes one for data of given shapes; the constructor takes the parts themselves, see
    :class:`FusionNet`, with ``shared`` an encoder made by :func:`share` and ``head`` a mapping where the fuse is one of
    logits.

    >>> import torch
    >>> model = Classifier.build({"rgb": (3, 17, 19), "imu": (23, 6)}, {"rgb": "NCHW", "imu": "NTC"}, 5, fuse="gated")
    >>> model.eval()({"rgb": torch.zeros(2, 3, 17, 19), "imu": torch.zeros(2, 23, 6)}).shape
    torch.Size([2, 5])
    """

    @classmethod
    def build(
        cls,
        shapes: Mapping[str, Sequence[int]],
        axes: Mapping[str, str],
        n_outputs: int,
        *,
        task: str = "classification",
        encoder: Any = "auto",
        fuse: str | nn.Module = "concat",
        calibration: bool | nn.Module | None = False,
        shared: bool = False,
        norm: str = "private",
        exchange: str | nn.Module | None = None,
        at: Sequence[str] | None = None,
        width: int = 16,
        dropout: float = 0.0,
        modality_dropout: float = 0.0,
    ) -> Classifier:
        """Build a classifier for data of these shapes.

        Args:
            shapes: per-sample shape of each modality, without the sample axis.
            axes: the axes of each: ``NC`` (vector), ``NTC`` (sequence), ``NCHW`` (map) or ``NTCHW`` (clip).
            n_outputs: number of classes or labels K, or of values to regress.
            task: ``classification``, ``multilabel`` (a logit per label) or ``regression``.
            encoder: ``auto`` (our small ones), for maps and clips ``resnet18`` (34, 50, 101, 152; with the small stem
                up to 64 pixels), ``hf:NAME``, a configuration of ``transformers`` or a module (copied for each
                modality), for sequences ``conv`` or ``transformer``; or ``{modality: such a choice}``. Modalities
                that a choice is not for get ``auto``. Inputs of named encoders are standardised first.
            fuse: ``concat``, ``sum``, ``mean``, ``sum_and_product``, ``gated``, ``tensor``, ``low_rank_tensor``,
                ``bilinear``, ``cross_attention``, ``bottleneck_attention``; of logits ``late``, ``learned_ensemble``,
                ``evidential``, ``student`` (not for regression; the last two not for ``multilabel``); or a module (with
                ``channels``) for features of this model's channels.
            calibration: True for :class:`ContextualCalibration`, or any exchange of vectors.
            shared: one encoder for all maps, see :func:`share`, which takes ``norm``, ``exchange`` and ``at``.
            norm: as of :func:`share`.
            exchange: ``channel_shuffle``, ``pixel_shift``, ``asym_fusion``, ``channel_exchange`` or a module.
            at: where the exchanges go; by default as :func:`share` puts them.
            width: channels of the first stage of ``auto`` encoders; the features have four times as many.
            dropout: in the heads, and on whole input channels of ``auto`` encoders at a quarter of this rate.
            modality_dropout: probability that a modality of a training sample is taken for absent.

        Raises:
            InputError: if axes, a name or a setting is unknown or does not fit the others.
        """
        check_per_sample(cls.__name__, shapes, axes, task)
        chosen = choices(encoder, axes)
        together = tuple(m for m, kind in axes.items() if kind == "NCHW") if shared else ()
        if shared and len(together) < 2:
            raise InputError(f"shared=True needs two maps (NCHW) or more; the modalities' axes are {dict(axes)}")
        if exchange is not None and not shared:
            raise InputError(
                "exchange= goes inside a shared encoder: give shared=True, or calibration=MODULE to exchange between "
                "the encoders' outputs"
            )
        alone = [m for m in shapes if m not in together]
        encoders: dict[str, nn.Module] = {
            m: vector_encoder(chosen[m], shapes[m], axes[m], width, dropout / 4) for m in alone
        }
        channels = {m: int(e.channels) for m, e in encoders.items()}  # ty: ignore[invalid-argument-type]
        one = None
        if shared:
            inputs = {m: shapes[m][-3] for m in together}
            one, before, size = _shared(
                chosen, inputs, shapes, width, dropout / 4, norm, exchange_of(exchange, len(together)), at
            )
            encoders |= before
            channels |= dict.fromkeys(together, size)
        channels = {m: channels[m] for m in shapes}
        part = fuse_of(fuse, channels, n_outputs, width, task)
        return cls(
            {m: encoders[m] for m in shapes},
            part,
            heads_of(part, channels, n_outputs, 8 * width, dropout, task == "regression"),
            calibration_of(calibration, channels),
            shared=one,
            modality_dropout=modality_dropout,
        )


def check_per_sample(name: str, shapes: Mapping[str, Sequence[int]], axes: Mapping[str, str], task: str) -> None:
    """Refuse what no model can be built for, and maps to predict.

    Raises:
        InputError: if axes, a shape or the task is unknown or does not fit.
    """
    _check(shapes, axes, task, "concat")
    if task == "dense":
        raise InputError(
            f"a {name} predicts per sample: task 'classification', 'multilabel' or 'regression', not 'dense'"
        )


def heads_of(
    fuse: nn.Module, channels: Mapping[str, int], n_outputs: int, hidden: int, dropout: float, regression: bool = False
) -> nn.Module | dict[str, nn.Module]:
    """Return one head behind a fuse of features, or a head per modality before a fuse of logits.

    Raises:
        InputError: if a fuse of features does not say its channels.
    """
    if isinstance(fuse, OfLogits):
        outputs = fuse.inputs * n_outputs
        return {m: VectorHead(c, outputs, hidden=hidden, dropout=dropout) for m, c in channels.items()}
    size = getattr(fuse, "channels", None)
    if not isinstance(size, int):
        raise InputError(
            f"the fuse {type(fuse).__name__} must say in an attribute `channels` how many come out of it (for Concat, "
            "give {modality: channels})"
        )
    return VectorHead(size, n_outputs, hidden=hidden, dropout=dropout, regression=regression)


def _shared(
    chosen: Mapping[str, Any],
    inputs: Mapping[str, int],
    shapes: Mapping[str, Sequence[int]],
    width: int,
    dropout: float,
    norm: str,
    exchange: nn.Module | None,
    at: Sequence[str] | None,
) -> tuple[nn.Module, dict[str, nn.Module], int]:
    """Return the shared encoder, what comes before it for each modality, and the channels of its features."""
    first, *others = inputs
    choice = chosen[first]
    if any(chosen[m] is not choice for m in others):
        raise InputError(f"shared=True takes one encoder for all maps, got {dict(chosen)}")
    if len({tuple(shapes[m][-2:]) for m in inputs}) > 1:
        raise InputError(f"shared=True needs maps of one size, got { ({m: tuple(shapes[m]) for m in inputs}) }")
    net = Pooled(backbone(choice, inputs[first], shapes[first][-2:], width, dropout))
    before: dict[str, nn.Module] = {m: RawNorm(c) if standardised(choice) else nn.Identity() for m, c in inputs.items()}
    return share(net, dict(inputs), norm=norm, exchange=exchange, at=at), before, net.channels

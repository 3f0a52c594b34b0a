"""A model of sequences (and whatever goes with them) that lets modalities attend to each other over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ._assembled import Assembled
from ._choices import calibration_of, choices, fuse_of, token_encoder
from ._classifier import check_per_sample, heads_of


class SequenceModel(Assembled):
    """Classify or regress from sequences: encoders that keep time, optional calibration, a fuse by attention, a head.

    ``prediction = head(fuse(calibration({m: encoder_m(x_m)})))`` with features ``[B,T_m,D]``, each of its own length;
    a map goes in as a grid of tokens, a vector as one token. Fused by :class:`CrossAttention` or
    :class:`BottleneckAttention`. A fuse that works step by step, or of logits, gets each modality's mean over time.

    :meth:`build` makes one for data of given shapes; the constructor takes the parts themselves, see
    :class:`FusionNet`.

    >>> import torch
    >>> model = SequenceModel.build({"audio": (23, 5), "video": (7, 3, 17, 19)}, {"audio": "NTC", "video": "NTCHW"}, 11)
    >>> model.eval()({"audio": torch.zeros(2, 23, 5), "video": torch.zeros(2, 7, 3, 17, 19)}).shape
    torch.Size([2, 11])
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
        fuse: str | nn.Module = "cross_attention",
        calibration: bool | nn.Module | None = False,
        width: int = 16,
        dropout: float = 0.0,
        modality_dropout: float = 0.0,
    ) -> SequenceModel:
        """Build a model for data of these shapes.

        Args:
            shapes: per-sample shape of each modality, without the sample axis.
            axes: the axes of each: ``NC`` (vector), ``NTC`` (sequence), ``NCHW`` (map) or ``NTCHW`` (clip: every frame
                through one encoder of maps).
            n_outputs: number of classes or labels K, or of values to regress.
            task: ``classification``, ``multilabel`` (a logit per label) or ``regression``.
            encoder: for sequences ``auto`` or ``conv`` (a quarter of the steps comes out) or ``transformer``, for maps
                and clips as of :meth:`Classifier.build`; or ``{modality: such a choice}``.
            fuse: ``cross_attention``, ``bottleneck_attention``, or as of :meth:`Classifier.build`.
            calibration: True for :class:`ContextualCalibration`, or any exchange.
            width: channels of the encoders' first stage; features have four times as many, the
                tokens of attention twice.
            dropout: in the heads, and on whole input channels of the encoders at a quarter of this rate.
            modality_dropout: probability that a modality of a training sample is taken for absent.

        Raises:
            InputError: if axes, a name or a setting is unknown or does not fit the others.
        """
        check_per_sample(cls.__name__, shapes, axes, task)
        chosen = choices(encoder, axes)
        encoders = {m: token_encoder(chosen[m], shapes[m], axes[m], width, dropout / 4) for m in shapes}
        channels = {m: int(e.channels) for m, e in encoders.items()}  # ty: ignore[invalid-argument-type]
        part = fuse_of(fuse, channels, n_outputs, width, task)
        return cls(
            encoders,
            part,
            heads_of(part, channels, n_outputs, 8 * width, dropout, task == "regression"),
            calibration_of(calibration, channels),
            modality_dropout=modality_dropout,
        )

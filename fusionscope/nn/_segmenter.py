"""Dense prediction with one shared encoder and one shared decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from fusionscope.errors import InputError, did_you_mean

from . import _resnet
from ._exchange_names import exchange_of
from ._late import LearnedEnsemble
from ._part import dimensions, hide
from ._refine import RefineNet
from ._rows import interleave, separate
from ._share import share
from ._standardise import Standardise

ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
Maps = dict[str, Shaped[Tensor, "b ..."]]
Present = dict[str, Bool[Tensor, " b"]] | None
Criterion = Callable[[Tensor, Tensor], Tensor]


class Segmenter(nn.Module):
    """Per-pixel logits from maps of several modalities: ``{m: [B,C_m,H,W]} -> [B,K,H,W]``, after AsymFusion.

    One encoder for all modalities with private norms and an exchange (:func:`share`), one light-weight RefineNet
    decoder (:class:`RefineNet`) and one 3x3 classifier, both without norms and so entirely shared, give logits per
    modality, enlarged bilinearly to the inputs' size; :class:`LearnedEnsemble` weighs them. The loss is ``sum_m CE(l_m)
    + CE(sum_m a_m stopgrad(l_m))`` and what the exchange demands: each modality learns by itself, the ensemble's term
    trains ``a`` alone. Inputs may be of any unit and number type: they are first standardised per modality and
    channel. Source: Wang et al. 2020, arXiv:2108.05009, with the light decoder of arXiv:1810.03272 (*reconstruction*:
    the published model has RefineNet's full one).

    Args:
        channels: of each modality, or one number that all ``modalities`` share. An encoder given by name takes the
            most; others get a stem of their own.
        classes: number of classes K.
        encoder: "resnet18", "resnet34", "resnet50", "resnet101" or "resnet152", or a module that returns a list of maps
            of falling resolution and has their ``channels``.
        exchange: among the modalities, inside the encoder: "asym_fusion", "channel_shuffle", "pixel_shift",
            "channel_exchange" or a module; None, or one modality: the modalities meet in the ensemble only.
        norm: what :func:`share` does with norms.
        width: channels of the decoder.
        dropout: on the two deepest stages and before the classifier.
        encoder_width: channels of the stem of an encoder given by name.
        modalities: names, if ``channels`` is a number.

    Attributes:
        modalities: their names, in order.
        encoder, decoder, classifier, ensemble: the parts.

    Raises:
        InputError: if the encoder is unknown, a modality is missing or unknown or has other channels, or the
            modalities differ in size.

    >>> import torch
    >>> model = Segmenter({"rgb": 3, "depth": 1}, classes=5, width=8, encoder_width=8)
    >>> x = {"rgb": torch.rand(2, 3, 61, 67), "depth": torch.rand(2, 1, 61, 67)}
    >>> model(x).shape
    torch.Size([2, 5, 61, 67])
    >>> outputs = model.outputs(x)
    >>> list(outputs)
    ['prediction', 'rgb', 'depth']
    >>> loss = model.loss(outputs, torch.zeros(2, 61, 67, dtype=torch.long), torch.nn.functional.cross_entropy)
    """

    def __init__(
        self,
        channels: Mapping[str, int] | int,
        classes: int,
        encoder: str | nn.Module = "resnet18",
        exchange: str | nn.Module | None = "asym_fusion",
        norm: str = "private",
        width: int = 256,
        dropout: float = 0.5,
        *,
        encoder_width: int = 64,
        modalities: Sequence[str] | None = None,
    ):
        super().__init__()
        sizes = model_sizes(channels, modalities, "Segmenter")
        self.modalities = tuple(sizes)
        self.standardise = Standardise(sizes, "Segmenter")
        backbone = _encoder(encoder, sizes, encoder_width)
        stages = getattr(backbone, "channels", None)
        if not isinstance(stages, Sequence):
            raise InputError(
                f"Segmenter needs an encoder that returns a list of maps and has their channels as .channels, got "
                f"{type(backbone).__name__} with channels {stages}"
            )
        self.encoder = share(backbone, sizes, norm=norm, exchange=exchange_of(exchange, len(sizes)))
        self.decoder = RefineNet(tuple(stages), width, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, classes, 3, padding=1)
        self.ensemble = LearnedEnsemble(classes, self.modalities)

    def outputs(self, inputs: Maps, present: Present = None) -> dict[str, Float[Tensor, "b k h w"]]:
        """Return the ensemble's logits as ``prediction`` and each modality's under its name (zeros where absent)."""
        x = self.standardise(inputs, present)
        size = next(iter(x.values())).shape[2:]
        maps = self.encoder(x, present)
        levels = [interleave({m: maps[m][i] for m in self.modalities}) for i in range(len(self.decoder.inputs))]
        logits = self.classifier(self.dropout(self.decoder(levels)))
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        own = {m: hide(v, present, m) for m, v in separate(logits, self.modalities).items()}
        return {"prediction": self.ensemble(own, present), **own}

    def forward(self, inputs: dict[str, Shaped[Tensor, "b ..."]], present: Present = None) -> Float[Tensor, "b k h w"]:
        """Return the ensemble's logits; no gradient but that of the ensemble's weights comes through them."""
        return self.outputs(inputs, present)["prediction"]

    def loss(self, outputs: dict[str, Tensor], target: Tensor, criterion: Criterion) -> Float[Tensor, ""]:
        """Return ``sum_m criterion(l_m, target) + criterion(prediction, target) + penalty``.

        Logits of absent modalities are zeros: a constant in the loss, without gradient.
        """
        return ensemble_loss(outputs, target, criterion, self.modalities) + self.encoder.penalty()


def model_sizes(channels: Mapping[str, int] | int, modalities: Sequence[str] | None, part: str) -> dict[str, int]:
    """Return ``{modality: channels}`` of a model whose outputs are named by the modalities."""
    sizes = dimensions(channels, modalities, part)
    if "prediction" in sizes:
        raise InputError(f"{part} names an output 'prediction' beside those of the modalities; rename that modality")
    return sizes


def ensemble_loss(
    outputs: dict[str, Tensor], target: Tensor, criterion: Criterion, modalities: Sequence[str]
) -> Float[Tensor, ""]:
    """Sum of the criterion over each modality's output and the ensemble's.

    Raises:
        InputError: if the target is not of the inputs' size.
    """
    made, wanted = tuple(outputs["prediction"].shape[2:]), tuple(target.shape[-2:])
    if made != wanted:
        raise InputError(
            f"this model's output is as large as its inputs, {made[0]}x{made[1]}, but the target is "
            f"{wanted[0]}x{wanted[1]}: resize one of them"
        )
    return torch.stack([criterion(outputs[name], target) for name in (*modalities, "prediction")]).sum()


def _encoder(encoder: str | nn.Module, sizes: Mapping[str, int], width: int) -> nn.Module:
    if isinstance(encoder, nn.Module):
        return encoder
    if encoder not in ENCODERS:
        raise InputError(
            f"unknown encoder {encoder!r}: one of {', '.join(ENCODERS)}, or a module that returns a list of maps."
            + did_you_mean(encoder, ENCODERS)
        )
    return getattr(_resnet, encoder)(max(sizes.values()), width=width)

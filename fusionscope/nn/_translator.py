"""Image to image: one shared generator for any number of source modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._exchange_names import exchange_of
from ._late import LearnedEnsemble
from ._part import hide
from ._segmenter import Criterion, Maps, Present, ensemble_loss, model_sizes
from ._share import share
from ._standardise import Standardise
from ._unet import UNet


class Translator(nn.Module):
    """An image from images of other modalities: ``{m: [B,C_m,H,W]} -> [B,outputs,H,W]``, of any size.

    One :class:`UNet` for all sources with private instance norms and an exchange (:func:`share`) gives an image per
    source, ``p_m = centre + scale * tanh(UNet(x_m))``; :class:`LearnedEnsemble` weighs them. The loss is ``sum_m
    criterion(p_m) + criterion(sum_m a_m stopgrad(p_m))``, where the criterion may be adversarial, and what the exchange
    demands. Inputs may be of any unit and number type: they are first standardised per modality and channel. With one
    source there is no exchange and the ensemble is that source's image.

    After the image translation of Channel Exchanging Networks (arXiv:2011.05005) and AsymFusion (arXiv:2108.05009),
    whose generator is that of arXiv:1611.07004 (*reconstruction*: widths, blocks and resizing are :class:`UNet`'s).

    Args:
        channels: of each source, or one number that all ``modalities`` share. The generator takes the most; others
            get a stem of their own.
        outputs: channels of the image to make.
        width: channels of the generator's first convolution.
        depth: how often the generator halves the map.
        exchange: among the sources, in every halving block: "asym_fusion", "channel_shuffle", "pixel_shift",
            "channel_exchange", a module or None.
        norm: what :func:`share` does with norms.
        dropout: in the generator's two deepest enlarging blocks.
        modalities: names, if ``channels`` is a number.

    Attributes:
        modalities: the sources' names, in order.
        channels: of each source.
        generator, ensemble: the parts.

    Raises:
        InputError: if a modality is missing or unknown or has other channels, if they differ in size, or are too
            small for ``depth``.

    >>> import torch
    >>> model = Translator({"texture": 3, "shade": 1}, outputs=2, width=8, depth=3)
    >>> model.set_range(torch.tensor([50.0, 0.0]), torch.tensor([50.0, 1.0]))
    >>> out = model({"texture": torch.rand(2, 3, 29, 31), "shade": torch.rand(2, 1, 29, 31)})
    >>> out.shape, bool((out[:, 0] >= 0).all() and (out[:, 0] <= 100).all())
    (torch.Size([2, 2, 29, 31]), True)
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: Mapping[str, int] | int,
        outputs: int,
        width: int = 32,
        depth: int = 4,
        exchange: str | nn.Module | None = "asym_fusion",
        norm: str = "private",
        dropout: float = 0.0,
        *,
        modalities: Sequence[str] | None = None,
    ):
        super().__init__()
        sizes = model_sizes(channels, modalities, "Translator")
        self.modalities, self.channels = tuple(sizes), sizes
        self.standardise = Standardise(sizes, "Translator")
        backbone = UNet(max(sizes.values()), outputs, width=width, depth=depth, dropout=dropout)
        found = exchange_of(exchange, len(sizes))
        at = None if found is None else backbone.blocks
        self.generator = share(backbone, sizes, norm=norm, exchange=found, at=at)
        self.ensemble = LearnedEnsemble(outputs, self.modalities)
        self.register_buffer("centre", torch.full((outputs,), 0.5))
        self.register_buffer("scale", torch.full((outputs,), 0.5))

    def set_range(self, centre: Float[Tensor, " k"], scale: Float[Tensor, " k"]) -> None:
        """Set the middle of the target's values and half the width of their range, per channel.

        ``centre ± scale`` is the most that can come out. 0.5 and 0.5 at first, for images in 0..1.

        Raises:
            InputError: if a scale is not above 0.
        """
        if not (torch.as_tensor(scale) > 0).all():
            raise InputError(f"half the width of a range must be above 0, got {torch.as_tensor(scale).tolist()}")
        self.centre.copy_(centre)
        self.scale.copy_(scale)

    def outputs(self, inputs: Maps, present: Present = None) -> dict[str, Float[Tensor, "b k h w"]]:
        """Return the ensemble's image as ``prediction`` and each source's under its name (``centre`` where absent)."""
        made = self.generator(self.standardise(inputs, present), present)
        own = {m: hide(torch.tanh(made[m]), present, m) for m in self.modalities}
        return {name: self._rescale(x) for name, x in {"prediction": self.ensemble(own, present), **own}.items()}

    def forward(self, inputs: dict[str, Shaped[Tensor, "b ..."]], present: Present = None) -> Float[Tensor, "b k h w"]:
        """Return the ensemble's image; no gradient but that of the ensemble's weights comes through it."""
        return self.outputs(inputs, present)["prediction"]

    def loss(self, outputs: dict[str, Tensor], target: Tensor, criterion: Criterion) -> Float[Tensor, ""]:
        """Return ``sum_m criterion(p_m, target) + criterion(prediction, target) + penalty``.

        Absent sources' images are constant, without gradient.
        """
        return ensemble_loss(outputs, target, criterion, self.modalities) + self.generator.penalty()

    def _rescale(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        return self.centre[:, None, None] + self.scale[:, None, None] * x

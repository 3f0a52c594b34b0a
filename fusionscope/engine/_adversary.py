"""Adversarial training: the losses of generator and discriminator, and the discriminator's own steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from fusionscope.errors import InputError, did_you_mean
from fusionscope.nn import PatchDiscriminator

from ._optim import load_optimizer

LOSSES = ("least squares", "bce")


class Adversary:
    """A discriminator with its optimiser, for alternating steps with a generator.

    One training step::

        outputs = model.outputs(inputs)
        loss = model.loss(outputs, target, lambda p, t: adversary.generator_loss(inputs, p, t))
        (the generator's own zero_grad, backward, step)
        adversary.step(inputs, adversary.fakes(outputs), target)

    Generator: ``l1 * mean|p - t| / scale + g(D(x, p), 1)``; discriminator: ``(g(D(x, t), 1) + g(D(x, p), 0)) / 2``
    averaged over the fakes ``p``, with gradients stopped there. ``g`` is the squared distance (least squares,
    arXiv:1611.04076) or the cross-entropy of the logits. Source: Isola et al. 2017, arXiv:1611.07004 (``l1 = 100`` for
    images in -1..1, hence ``scale``; Adam with beta1 0.5).

    Args:
        channels: of each input modality.
        outputs: channels of the target.
        width: channels of the discriminator's first convolution.
        depth: its number of convolutions with stride 2.
        l1: weight of the absolute error; the adversarial term has weight 1.
        loss: "least squares" or "bce".
        lr: learning rate of the discriminator's Adam.
        centre: middle of the target's values, per channel or one number.
        scale: half the width of their range; 0.5 and 0.5 suit targets in 0..1.

    Attributes:
        discriminator: the module; it is no part of the generator and of what is saved with it.
        optimizer: over its parameters only.

    Raises:
        InputError: if the loss is unknown or a number cannot be.

    >>> import torch
    >>> adversary = Adversary({"vi": 3}, 1, width=4, depth=1)
    >>> x, p, t = {"vi": torch.rand(2, 3, 11, 13)}, torch.rand(2, 1, 11, 13), torch.rand(2, 1, 11, 13)
    >>> adversary.generator_loss(x, p, t) > 100 * 2 * (p - t).abs().mean()
    tensor(True)
    >>> losses = [adversary.step(x, [p], t).item() for _ in range(20)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        outputs: int,
        *,
        width: int = 64,
        depth: int = 3,
        l1: float = 100.0,
        loss: str = "least squares",
        lr: float = 2e-4,
        centre: float | Float[Tensor, " c"] = 0.5,
        scale: float | Float[Tensor, " c"] = 0.5,
    ):
        if loss not in LOSSES:
            raise InputError(
                f"unknown adversarial loss {loss!r}: one of {', '.join(LOSSES)}.{did_you_mean(loss, LOSSES)}"
            )
        if not (l1 >= 0 and lr > 0):
            raise InputError(f"expected l1 of at least 0 and lr above 0, got {l1} and {lr}")
        self.discriminator = PatchDiscriminator(channels, outputs, width=width, depth=depth, centre=centre, scale=scale)
        self.l1, self.loss = l1, loss
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=(0.5, 0.999))
        self._wrapped, self._optimizer, self._fabric = self.discriminator, self.optimizer, None

    def setup(self, fabric: Fabric) -> Adversary:
        """Move to the device, precision and strategy of ``fabric``; returns itself."""
        self._wrapped, self._optimizer = fabric.setup(self.discriminator, self.optimizer)
        self._fabric = fabric
        return self

    def generator_loss(
        self, inputs: dict[str, Tensor], prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        """What the generator minimises for one prediction; no gradient reaches the discriminator."""
        error = ((prediction - target) / self.discriminator.scale[:, None, None]).abs().mean()
        # not the wrapped module: its reducer would wait for gradients that never come
        self.discriminator.requires_grad_(False)
        try:
            said = self.discriminator(inputs, prediction.float())
        finally:
            self.discriminator.requires_grad_(True)
        return self.l1 * error + self._distance(said, 1.0)

    def discriminator_loss(
        self, inputs: dict[str, Tensor], fakes: Sequence[Float[Tensor, "b c h w"]], target: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        """What the discriminator minimises: the mean over ``fakes``, each against the target."""
        everything = [target.float(), *(fake.detach().float() for fake in fakes)]
        count = len(everything)
        whole = {m: x.repeat(count, *[1] * (x.ndim - 1)) for m, x in inputs.items()}
        # one forward for all: under DDP two before one backward are not allowed, and the statistics are the same
        real, *others = self._wrapped(whole, torch.cat(everything)).chunk(count)
        wrong = torch.stack([self._distance(said, 0.0) for said in others]).mean()
        return (self._distance(real, 1.0) + wrong) / 2

    def step(
        self, inputs: dict[str, Tensor], fakes: Sequence[Float[Tensor, "b c h w"]], target: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        """Take one step of the discriminator's optimiser; return its loss before, without gradient."""
        loss = self.discriminator_loss(inputs, fakes, target)
        self._optimizer.zero_grad()
        if self._fabric is None:
            loss.backward()
        else:
            self._fabric.backward(loss)
        self._optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """The discriminator's weights and its optimiser's state."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.discriminator.load_state_dict(state["discriminator"])
        load_optimizer(self.optimizer, state["optimizer"])

    @staticmethod
    def fakes(outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The predictions per modality among a model's outputs; the one prediction where there are none."""
        own = [x for name, x in outputs.items() if name != "prediction"]
        return own or [outputs["prediction"]]

    def _distance(self, said: Tensor, goal: float) -> Float[Tensor, ""]:
        said, wanted = said.float(), torch.full_like(said, goal, dtype=torch.float32)
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(said, wanted)
        return F.mse_loss(said, wanted)

"""OGM-GE: damp the gradients of the encoder that does better alone, so that the others have something left to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._config import TrainConfig

TASKS = ("classification", "multilabel", "dense")


def modulation_coefficient(rho: Float[Tensor, " m"], alpha: float) -> Float[Tensor, " m"]:
    """Return what the gradients are multiplied by: ``1 - tanh(alpha rho)`` where ``rho > 1``, else 1.

    Args:
        rho: discrepancy ratios, see :func:`discrepancy_ratios`.
        alpha: strength; 0.8 on CREMA-D and 0.1 on VGGSound in the source.

    Source: arXiv:2203.15332.

    >>> import torch
    >>> modulation_coefficient(torch.tensor([1.5, 2.0, 0.5]), 0.1)
    tensor([0.8511, 0.8026, 1.0000])
    """
    return torch.where(rho > 1, 1 - torch.tanh(alpha * rho), torch.ones_like(rho))


def discrepancy_ratios(s: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Return ``rho_m = s_m / mean_{n != m} s_n``: how much better a modality alone does than the others alone.

    For two modalities the source's ratio; the mean over the others is *our choice* for more of them.

    Args:
        s: of each modality, the sum over samples of the probability of what is right, from that modality alone.

    Source: arXiv:2203.15332.

    >>> import torch
    >>> discrepancy_ratios(torch.tensor([3.0, 1.0, 2.0]))
    tensor([2.0000, 0.4000, 1.0000])
    """
    return s * (len(s) - 1) / (s.sum() - s)


class Modulator:
    """On-the-fly gradient modulation with generalisation enhancement (OGM-GE) for a model with an encoder per modality.

    With ``s_m`` the sum over the batch of the probability of what is right when only modality m's features are present,
    ``rho_m`` its :func:`discrepancy_ratios` and ``k_m`` its :func:`modulation_coefficient`, the gradient ``g`` of every
    weight matrix and kernel of encoder m becomes ``k_m g``, plus noise ``N(0, std(g) + 1e-8)`` with ``noise``: all
    encoders', also those that are not damped, as in the released code.

    Source: arXiv:2203.15332. There the head is linear on a concatenation, and ``s_m`` comes from ``W_m phi_m + b/2``.
    *Our extension* to any fuse and head is the model's own prediction with the other modalities ``present`` nowhere
    (for a linear head ``W_m phi_m + b``), in evaluation mode. Theirs are kernels of convolutions; here also the weights
    of linear, recurrent and attention layers (parameters of two axes or more).

    The optimiser should be SGD, as in the source: Adam divides each gradient by its usual size and so nearly undoes a
    factor that stays the same.

    Use::

        modulator.observe(outputs, target)  # after each forward: model.outputs(inputs)
        loss.backward()
        modulator.apply(epoch)              # once per step, before clipping

    Args:
        model: with ``encoders``, ``predict`` and ``outputs``: :class:`FusionNet`, :class:`Classifier`,
            :class:`SequenceModel`.
        task: classification, multilabel or dense.
        alpha: strength of the damping.
        noise: add the noise.
        epochs: modulate in the first so many only (0: in all).
        seed: seeds the noise; all ranks must give the same.
        fabric: adds up ``s_m`` over the ranks, so that all modulate alike, and gives the precision.

    Attributes:
        ratios: ``{modality: rho_m}`` of the last step; empty before the first, and once ``epochs`` are over.

    Raises:
        InputError: if the task has no classes, or the model's encoders are not one per modality.

    >>> import torch
    >>> from fusionscope.nn import build_model
    >>> model = build_model({"a": (5,), "b": (7,)}, {"a": "NC", "b": "NC"}, "classification", 3)
    >>> modulator = Modulator(model, "classification", alpha=0.5)
    >>> inputs, target = {"a": torch.randn(4, 5), "b": torch.randn(4, 7)}, torch.tensor([0, 1, 2, 0])
    >>> outputs = model.outputs(inputs)
    >>> modulator.observe(outputs, target)
    >>> torch.nn.functional.cross_entropy(outputs["prediction"], target).backward()
    >>> modulator.apply(epoch=1)
    >>> sorted(modulator.ratios)
    ['a', 'b']
    """

    def __init__(
        self,
        model: nn.Module,
        task: str,
        *,
        alpha: float,
        noise: bool = True,
        epochs: int = 0,
        seed: int = 0,
        fabric: Fabric | None = None,
    ):
        refuse(model, task, alpha)
        self.model, self.task, self.alpha, self.noise, self.epochs, self.seed = model, task, alpha, noise, epochs, seed
        self._fabric = fabric
        encoders = cast(Mapping[str, nn.Module], model.encoders)
        self.modalities = tuple(cast(Sequence[str], model.modalities))
        self._weights = {
            m: [p for p in encoders[m].parameters() if p.ndim > 1 and p.requires_grad] for m in self.modalities
        }
        inside = {id(x) for x in cast(nn.Module, model.encoders).modules()}
        self._behind = [x for x in model.modules() if id(x) not in inside]
        self._device = next(model.parameters()).device if fabric is None else fabric.device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._sum: Tensor | None = None
        self._rho: Tensor | None = None
        self._over = False

    @property
    def ratios(self) -> dict[str, float]:
        return {} if self._rho is None else dict(zip(self.modalities, self._rho.tolist(), strict=True))

    @torch.no_grad()
    def observe(self, outputs: Mapping[str, Tensor], target: Tensor) -> None:
        """Add a micro-batch to ``s_m``; it runs what stands behind the encoders once, on all modalities in turn."""
        if self._over:
            return
        features = {m: outputs[f"{m} features"].detach() for m in self.modalities}
        modes = [x.training for x in self._behind]
        try:
            for x in self._behind:
                x.training = False
            with nullcontext() if self._fabric is None else cast(AbstractContextManager, self._fabric.autocast()):
                prediction = alone(self.model, features)
        finally:
            for x, mode in zip(self._behind, modes, strict=True):
                x.training = mode
        s = rightness(prediction, target, self.task)
        self._sum = s if self._sum is None else self._sum + s

    @torch.no_grad()
    def apply(self, epoch: int) -> None:
        """Change the gradients of the encoders in place, by what was observed since the last call.

        Args:
            epoch: counted from 1.
        """
        found, self._sum = self._sum, None
        self._over = bool(self.epochs) and epoch > self.epochs
        if self._over:
            self._rho = None  # else every later epoch would be told the last one's
        if self._over or found is None:
            return
        if self._fabric is not None:
            found = cast(Tensor, self._fabric.all_reduce(found, reduce_op="sum"))
        self._rho = discrepancy_ratios(found)
        for k, weights in zip(modulation_coefficient(self._rho, self.alpha), self._weights.values(), strict=True):
            for weight in weights:
                if weight.grad is not None:
                    self._modulate(weight.grad, k)

    def _modulate(self, grad: Tensor, k: Tensor) -> None:
        if not self.noise:
            grad.mul_(k)
            return
        std = grad.std() if grad.numel() > 1 else torch.zeros_like(k)
        noise = torch.randn(grad.shape, generator=self._generator, dtype=grad.dtype, device=grad.device)
        grad.mul_(k).addcmul_(noise, std.to(grad.dtype) + 1e-8)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the noise and the last ratios."""
        rho = None if self._rho is None else self._rho.cpu()
        return {"noise": self._generator.get_state(), "device": self._device.type, "rho": rho}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called; on another kind of device the noise begins anew."""
        if state["device"] == self._device.type:
            self._generator.set_state(state["noise"].cpu())
        self._rho = None if state["rho"] is None else state["rho"].to(self._device)


def modulator_of(model: nn.Module, config: TrainConfig, task: str, fabric: Fabric) -> Modulator | None:
    """Return the modulator that the config asks for, of a model that is on its device; None without."""
    if not config.modulation:
        return None
    return Modulator(
        model,
        task,
        alpha=config.modulation,
        noise=config.modulation_noise,
        epochs=config.modulation_epochs,
        seed=config.seed,
        fabric=fabric,
    )


def alone(model: nn.Module, features: Mapping[str, Tensor]) -> Float[Tensor, "m b ..."]:
    """Return the model's prediction from each modality's features alone, ``[M,B,...]``, by one forward of M B rows."""
    names = list(features)
    count, size = len(names), len(features[names[0]])
    rows = {m: x.repeat(count, *[1] * (x.ndim - 1)) for m, x in features.items()}
    mine = torch.eye(count, dtype=torch.bool, device=rows[names[0]].device).repeat_interleave(size, 1)
    prediction = cast(Any, model).predict(rows, present=dict(zip(names, mine, strict=True)))
    return prediction.unflatten(0, (count, size)).float()


def rightness(prediction: Float[Tensor, "m b ..."], target: Tensor, task: str) -> Float[Tensor, " m"]:
    """Return ``s_m``: the sum over samples, or pixels, of the probability of the right class; negative targets count
    for nothing. With several labels: the sum over samples of the mean probability of each label's right side."""
    if task == "multilabel":
        sign = 2 * target.to(prediction.dtype) - 1
        return torch.sigmoid(prediction * sign).mean(2).sum(1)
    known = target >= 0
    index = target.clamp(min=0)[None, :, None].expand(len(prediction), -1, 1, *target.shape[1:])
    right = prediction.softmax(2).gather(2, index).squeeze(2)
    return (right * known).flatten(1).sum(1)


def refuse(model: nn.Module, task: str, alpha: float) -> None:
    """Check that a model of this task can be modulated.

    Raises:
        InputError: if not.
    """
    if not 0 < alpha < float("inf"):
        raise InputError(f"modulation must be more than 0 (alpha of OGM-GE, as 0.5), got {alpha}")
    if task not in TASKS:
        raise InputError(
            f"modulation = {alpha} compares the probability of the right class from each modality alone; the task here "
            f"is {task}, which has none: leave modulation out"
        )
    name = type(model).__name__
    if not hasattr(model, "encoders") or not hasattr(model, "predict"):
        raise InputError(
            f"modulation = {alpha} needs an encoder of each modality's own, but the {name} shares one encoder: take "
            "model = 'auto', 'classifier' or 'sequence', or leave modulation out"
        )
    if getattr(model, "shared", None) is not None:
        raise InputError(
            f"modulation = {alpha} damps one modality's encoder and not the other's, but shared = true gives them one: "
            "leave shared (--shared) out, or modulation"
        )
    modalities = tuple(cast(Sequence[str], model.modalities))
    if len(modalities) < 2:
        raise InputError(
            f"modulation = {alpha} compares modalities, but there is {modalities[0]!r} only: leave modulation out"
        )
    owner: dict[int, str] = {}
    for m, encoder in cast(Mapping[str, nn.Module], model.encoders).items():
        for p in encoder.parameters():
            if owner.setdefault(id(p), m) != m:
                raise InputError(
                    f"modulation = {alpha} damps one modality's encoder and not the other's, but those of "
                    f"{owner[id(p)]!r} and {m!r} have weights in common: leave modulation out"
                )

"""What the assembled models share: encoders, calibration, a fuse of features or of logits, heads, losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._late import LearnedEnsemble, OfLogits
from ._model import FusionNet
from ._part import pool
from ._wrappers import last_channels

Present = dict[str, Bool[Tensor, " b"]] | None


class Assembled(FusionNet):
    """``head(fuse(calibration(shared(encoders))))``, or with a fuse of logits ``fuse(heads(calibration(...)))``.

    Args:
        encoders: one module per modality; of those that ``shared`` takes, what comes before it.
        fuse: the features of all modalities to one tensor, or their logits (:class:`LateFusion` and its kin).
        head: the fused features to the prediction; for a fuse of logits ``{modality: its head}``.
        calibration: an exchange between the encoders and the fuse, such as :class:`ContextualCalibration`.
        shared: an encoder for some modalities together, as :func:`share` makes it.
        modality_dropout: probability that a modality of a training sample is taken for absent behind the encoders; one
            of each sample's always stays.

    Attributes:
        channels: channels of each modality's features.
        heads: the modalities' own heads, of a fuse of logits; else empty.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fuse: nn.Module,
        head: nn.Module | Mapping[str, nn.Module],
        calibration: nn.Module | None = None,
        *,
        shared: nn.Module | None = None,
        modality_dropout: float = 0.0,
    ):
        name = type(self).__name__
        single = isinstance(head, nn.Module) and not isinstance(head, nn.ModuleDict)
        if single == isinstance(fuse, OfLogits):
            wanted = "{modality: head}" if single else "one head"
            raise InputError(f"{name}: with the fuse {type(fuse).__name__}, give {wanted}, got {type(head).__name__}")
        whole = cast(nn.Module, head) if single else nn.Identity()
        super().__init__(encoders, fuse, whole, calibration, modality_dropout)
        self.heads = nn.ModuleDict({} if single else dict(cast(Mapping[str, nn.Module], head)))
        if self.heads and set(self.heads) != set(self.modalities):
            raise InputError(
                f"{name}: a head for each of {', '.join(map(repr, self.modalities))}, got heads for {list(self.heads)}"
            )
        self.shared = shared
        together = () if shared is None else tuple(cast(Any, shared).modalities)
        for m in together:
            if m not in self.modalities:
                raise InputError(f"{name}: the shared encoder takes {m!r}, which has no entry in encoders")
        self.channels = {
            m: last_channels(cast(nn.Module, shared) if m in together else e, name) for m, e in self.encoders.items()
        }

    def encode(self, inputs: dict[str, Tensor], present: Present = None) -> dict[str, Tensor]:
        """Return every modality's features before the fuse. Inputs of absent samples count as zeros.

        Raises:
            InputError: if a modality is missing or unknown, or ``present`` does not fit.
        """
        x = super().encode(inputs, present)
        if self.shared is not None:
            taken = cast(Any, self.shared).modalities
            x |= self.shared(
                {m: x[m] for m in taken}, present and ({m: p for m, p in present.items() if m in taken} or None)
            )
        return x

    def predict(self, features: dict[str, Tensor], present: Present = None) -> Float[Tensor, "b ..."]:
        """From the features of :meth:`encode` to the prediction."""
        x = self._with_calibration(features, present)
        if self.heads:
            return self.fuse(self._logits(x), present)
        if getattr(self.fuse, "keeps_locations", False):
            x = {m: pool(v) for m, v in x.items()}
        return self.head(pool(self.fuse(x, present)))

    def outputs(self, inputs: dict[str, Tensor], present: Present = None) -> dict[str, Tensor]:
        """Return the ``prediction``, each modality's ``NAME features`` and what a fuse of logits needs for its loss."""
        features = self.encode(inputs, present)
        present = self._dropped(features, present)
        found = {f"{m} features": x for m, x in features.items()}
        if not self.heads:
            return {"prediction": self.predict(features, present)} | found
        logits = self._logits(self._with_calibration(features, present))
        found |= {f"{m} logits": x for m, x in logits.items()}
        found |= {f"{m} present": x for m, x in (present or {}).items()}
        return {"prediction": self.fuse(logits, present)} | found

    def loss(
        self, outputs: dict[str, Tensor], target: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, ""]:
        """Return ``criterion(prediction, target)``, or the loss of the fuse where it has its own; and all penalties."""
        found = self._criterion(outputs, target, criterion)
        for part in (self.shared, self.calibration, self.fuse):
            if hasattr(part, "penalty"):
                found = found + cast(Any, part).penalty()
        return found

    def _criterion(self, outputs: dict[str, Tensor], target: Tensor, criterion: Callable[..., Tensor]) -> Tensor:
        if not self.heads or not hasattr(self.fuse, "loss"):
            return criterion(outputs["prediction"], target)
        logits = {m: outputs[f"{m} logits"] for m in self.modalities}
        present = {m: outputs[f"{m} present"] for m in self.modalities if f"{m} present" in outputs} or None
        if isinstance(self.fuse, LearnedEnsemble):
            return self.fuse.loss(logits, target, criterion, present)
        return cast(Any, self.fuse).loss(logits, target, present)

    def _with_calibration(self, features: dict[str, Tensor], present: Present) -> dict[str, Tensor]:
        return features if self.calibration is None else self.calibration(features, present)

    def _logits(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: self.heads[m](pool(features[m])) for m in self.modalities}

    def extra_repr(self) -> str:
        return ", ".join([*(f"{m}={c}" for m, c in self.channels.items()), super().extra_repr()]).removesuffix(", ")

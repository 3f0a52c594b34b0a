"""A user's own model as the training loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fusionscope._function import call_function
from fusionscope.batch import Adapter, Batch


class OwnModel(nn.Module):
    """Calls any model with a dict of modalities: by keyword, with the dict or positionally, whichever it takes.

    It adds no weights, and its state dict has the names of the model's own.

    Attributes:
        model: the user's.
        modalities: what it is given, in this order.
    """

    def __init__(self, model: nn.Module, modalities: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.modalities = modalities
        self.adapter = Adapter()

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the model's prediction."""
        batch = Batch({m: inputs[m] for m in self.modalities})
        return self.adapter.output(self.adapter.call(self.model, batch))

    def outputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the prediction."""
        return {"prediction": self(inputs)}

    def loss(self, outputs: dict[str, Tensor], target: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return ``criterion(prediction, target)``."""
        return criterion(outputs["prediction"], target)


def own_model(function: str, modalities: list[str]) -> nn.Module:
    """Build it from ``package.module:function``."""
    return dressed(call_function(function, "build", nn.Module), modalities)


def dressed(model: nn.Module, modalities: Sequence[str]) -> nn.Module:
    """The model as the loop calls it: itself where it has ``outputs`` and ``loss``."""
    ready = hasattr(model, "outputs") and hasattr(model, "loss")
    return model if ready else OwnModel(model, tuple(modalities))


def inner(model: nn.Module) -> nn.Module:
    """The user's model, or the model itself: what weights are saved of."""
    return model.model if isinstance(model, OwnModel) else model

"""What the decision instruments get of one batch: its prediction, and a way to run the model on changed copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusionscope.batch import Batch
from fusionscope.dissection._reuse import Reuse, Version
from fusionscope.dissection._sources import Source
from fusionscope.dissection._task import Task
from fusionscope.errors import InputError


@dataclass(frozen=True)
class Step:
    """One batch at hand.

    Attributes:
        batch: the batch, on the model's device.
        index: its number in the whole run.
        start: the place of its first sample in the reading order.
        prediction: of the unchanged batch, in the form that scores take.
    """

    batch: Batch
    index: int
    start: int
    prediction: Tensor
    main: Source
    task: Task
    reuse: Reuse
    rng: dict[str, Any]

    def predict(self, changed: Batch, versions: Mapping[str, Version]) -> Tensor:
        """Run the model on a changed copy of the batch; ``versions`` as in :class:`Reuse`."""
        return self.task.prediction(self.reuse.run(changed, versions, self.rng), changed.target)

    def real(self, *but: str) -> dict[str, Version]:
        """The versions of the modalities where all values are real, ``but`` some that nobody shares."""
        return {m: None if m in but else "real" for m in self.main.modalities}

    def about(self, row: int) -> dict[str, Any]:
        """Group, label and predicted class of one sample, as the tables write them."""
        group = None if self.batch.group is None else int(self.batch.group[row])
        said = {"group": "" if group is None else str(group), "label": "", "predicted": ""}
        if self.task.kind == "classification":
            label = int(self.batch.target[row])
            said["label"] = self.task.classes[label] if label >= 0 else ""
            said["predicted"] = self.task.classes[int(self.prediction[row].argmax())]
        return said

    @property
    def ids(self) -> Tensor:
        """The place of each sample in the reading order."""
        return torch.arange(self.start, self.start + self.batch.size)


def attempt(make: Callable[[], Tensor]) -> tuple[Tensor | None, str]:
    """Return what ``make`` gives, or None and what was raised, in one line."""
    try:
        return make(), ""
    except InputError as error:  # ours, of a fill-in or a corruption that does not fit; it says how to mend it
        return None, str(error)
    except Exception as error:
        said = str(error).strip().split("\n")[0][:160]
        return None, f"the model raised {type(error).__name__}: {said}" if said else f"it raised {type(error).__name__}"

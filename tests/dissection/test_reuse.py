"""Results of encoders are reused exactly, or not at all."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import fusionscope as fs
from fusionscope.dissection import _decisions

from .decision_models import NAMES, Known, planted


def removal(model: nn.Module, data: list[Any], **more: Any) -> fs.Dissection:
    return fs.dissect(model, data, measures=("removal",), progress=False, **more)


def test_each_encoder_runs_twice_per_batch_and_the_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = Known("xor"), planted("xor", 0, 7 * 64)
    calls: list[str] = []
    for name, encoder in model.encoders.items():
        weight = encoder.weight  # hooks see calls that are skipped too, so count what is computed

        def counted(x: Tensor, name: str = name, weight: Tensor = weight) -> Tensor:
            calls.append(name)
            return x @ weight.T

        encoder.forward = counted  # ty: ignore[invalid-assignment]
    found = removal(model, data)
    each = len(calls) / len(NAMES)
    traced = found.manifest["forwards"]["trace"]
    once = traced + 1 + 8  # the task is inferred; the first batch runs all subsets plainly too
    assert each <= once + 2 * 7 + 1
    monkeypatch.setattr(_decisions, "Reuse", Plain)
    pd.testing.assert_frame_equal(found.tables["removal"], removal(model, data).tables["removal"])
    assert len(calls) / len(NAMES) - each >= 7 * 8 - 1
    assert all("forward" in vars(encoder) for encoder in model.encoders.values())


class Plain(_decisions.Reuse):
    """Reuses nothing."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.owner = {}


def test_an_encoder_that_looks_elsewhere_is_found_out_on_the_first_batch() -> None:
    class Doubling(nn.Linear):
        def forward(self, x: Tensor, twice: bool) -> Tensor:
            return super().forward(x) * (2 if twice else 1)

    class Net(Known):
        """Leans on ``a`` twice as much where ``b`` is missing altogether, which no trace of other samples shows."""

        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            evidence = self.encoders["a"](a, not b.any())[:, 0]
            return torch.stack([-evidence, evidence], 1)

    model = Net("first")
    doubling = Doubling(3, 1, bias=False)
    doubling.weight.data = model.encoders["b"].weight.data
    model.encoders["a"] = doubling
    data = planted("first", 1, 128)
    found = removal(model, data, fill="zero", metric="loglik")
    table = found.tables["removal"].set_index("subset")["value"]
    plain = []
    with torch.no_grad():
        for batch in data:
            x = batch["inputs"]
            logits = model(x["a"], 0 * x["b"], x["c"]).log_softmax(1)
            plain.append(logits.gather(1, batch["target"][:, None])[:, 0])
    assert table["a+c"] == pytest.approx(float(torch.cat(plain).double().mean()), rel=1e-5)
    assert any("are not reused" in note for note in found.manifest["messages"])


def test_wrappers_are_gone_afterwards_also_after_an_error() -> None:
    model, data = Known("copy"), planted("copy", 2, 128)
    removal(model, data)
    assert not any("forward" in vars(module) for module in model.modules())

    def interrupt(module: nn.Module, args: Any) -> None:
        if len(seen) > 20:
            raise KeyboardInterrupt
        seen.append(1)

    seen: list[int] = []
    handle = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        removal(model, data)
    handle.remove()
    assert not any("forward" in vars(module) for module in model.modules())

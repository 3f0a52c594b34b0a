"""Dissecting odd models: each of these gave a wrong number or a crash once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fusionscope as fs
from fusionscope.dissection import check_folder
from fusionscope.dissection._choices import check_arguments
from fusionscope.dissection._task import infer_task
from fusionscope.errors import InputError

from .test_dissect import CLASSES, OnlyA, batches


def values(found: fs.Dissection) -> dict[str, float]:
    """The removal table as ``{subset: value}``."""
    return dict(zip(found.tables["removal"]["subset"], found.tables["removal"]["value"], strict=True))


def run(model: nn.Module, data: list[Any], **arguments: Any) -> fs.Dissection:
    """Dissect for the removal table only."""
    return fs.dissect(model, data, measures="removal", progress=False, **arguments)


def test_a_model_that_keeps_state_is_rolled_back_before_every_forward() -> None:
    class Drift(OnlyA):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            self.count += 1
            return super().forward(inputs) * (1 if self.count < 3 else -1)

    found = run(Drift(), batches(3))
    assert values(found) == values(run(OnlyA(), batches(3)))
    assert any("keeps state between forwards" in note for note in found.manifest["messages"])


def test_all_subsets_of_a_batch_see_the_same_noise_and_the_loader_keeps_its_own() -> None:
    class Noisy(OnlyA):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return super().forward({"a": inputs["a"], "b": 0 * inputs["b"]}) + torch.randn(len(inputs["a"]), CLASSES)

    drawn: list[float] = []

    def loader() -> Any:
        for batch in batches(4):
            drawn.append(float(torch.rand(())))
            yield batch

    model = Noisy()
    torch.manual_seed(5)
    found = values(run(model, loader()))
    assert found["a"] == found["a+b"]
    torch.manual_seed(5)
    assert drawn == [float(torch.rand(())) for _ in range(4)]


def test_a_fill_function_cannot_spoil_the_data() -> None:
    data = batches(2)
    kept = [{k: v.clone() for k, v in b.items()} for b in data]
    spoiled = run(OnlyA(), data, fill=lambda name, tensor, batch: tensor.zero_())
    assert values(spoiled) == values(run(OnlyA(), data, fill="zero"))
    assert all(torch.equal(b[k], c[k]) for b, c in zip(data, kept, strict=True) for k in b)


def test_fill_present_reaches_the_model_or_is_refused() -> None:
    class Masked(OnlyA):
        def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor] | None = None) -> Tensor:
            masks = {m: 1.0 if present is None else present[m][:, None].float() for m in inputs}
            return super().forward({m: inputs[m] * masks[m] for m in inputs})

    assert values(run(Masked(), batches(2), fill="present")) == values(run(OnlyA(), batches(2), fill="zero"))
    with pytest.raises(InputError, match="fill='present' needs a model whose forward takes `present`"):
        run(OnlyA(), batches(2), fill="present")


def test_forms_of_logits() -> None:
    labels = torch.randint(0, 3, (7, 11))
    last = nn.functional.one_hot(labels, 3).float()
    task = infer_task(last, labels)
    assert (task.kind, len(task.classes)) == ("dense", 3)
    assert torch.equal(task.prediction(last, labels).argmax(1), labels)
    first = last.movedim(-1, 1)
    assert torch.equal(infer_task(first, labels).prediction(first, labels), first)
    masks = torch.randint(0, 2, (7, 5, 5))
    logits = (masks * 2.0 - 1)[:, None]
    assert infer_task(logits, masks).classes == ("0", "1")
    assert torch.equal(infer_task(logits, masks).prediction(logits, masks).argmax(1), masks)
    small = torch.zeros(7, 3, 2, 2)
    assert infer_task(small, masks).prediction(small, masks).shape == (7, 3, 5, 5)
    flags = torch.tensor([0, 1, 1])
    for scores in (flags * 2.0 - 1, (flags * 2.0 - 1)[:, None]):
        assert torch.equal(infer_task(scores, flags).prediction(scores, flags).argmax(1), flags)
    (note,) = infer_task(flags[:, None].float(), flags[:, None].float()).notes
    assert "scored as a regression; if they are two classes" in note
    assert infer_task(torch.zeros(3), torch.tensor([0.0, 0.5, 1.0])).notes == ()
    with pytest.raises(InputError, match="squeeze the target's axis of size 1"):
        infer_task(torch.zeros(7, 3, 5, 5), torch.zeros(7, 1, 5, 5, dtype=torch.long).repeat(1, 1, 1, 1)[:, :, None])
    with pytest.raises(InputError, match="mark what is to be ignored with a negative label"):
        infer_task(torch.zeros(7, 3), torch.full((7,), 255))


def test_targets_that_are_no_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"several labels per sample are a target \[B, K\] of 0 and 1"):
        infer_task(torch.zeros(7, 3), torch.arange(21).view(7, 3))
    with pytest.raises(InputError, match="squeeze the target"):
        infer_task(torch.zeros(7, 3), torch.ones(7, 1, dtype=torch.long))
    with pytest.raises(InputError, match="2 class names were given, but the target has 3 labels"):
        infer_task(torch.zeros(7, 3), torch.ones(7, 3), ["a", "b"])
    assert (
        infer_task(torch.zeros(7, 3), torch.eye(3)[torch.arange(7) % 3])
        .notes[0]
        .startswith("every sample of the first")
    )


def test_mixed_up_arguments_are_named() -> None:
    data = fs.load_data("digits")
    for arguments, message in (
        ((batches(1), OnlyA()), "expected a torch.nn.Module"),
        ((OnlyA(), data), r"got DataSplits; give data\.loader"),
        ((OnlyA(), data.splits["test"]), "use a DataLoader"),
        ((OnlyA(), 3), "expected a loader of batches, got a int"),
    ):
        with pytest.raises(InputError, match=message):
            check_arguments(*arguments)
    with pytest.raises(InputError, match=r"give next\(iter\(loader\)\)"):
        fs.trace(OnlyA(), data.loader("test", 5))


def test_a_modality_that_varies_late_in_the_batch_is_traced() -> None:
    data = batches(2)
    data[0]["b"][:20] = 0.0
    assert run(OnlyA(), data).manifest["data"]["samples"] == 62


def test_taps_whose_units_are_unknown_are_named() -> None:
    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(CLASSES, 7))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x @ self.weight, x @ self.weight * 2], 1)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = Matrix(), Matrix(), nn.Linear(7, CLASSES)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head((self.a(a) + self.b(b)).mean(1))

    with pytest.raises(InputError, match=r"cannot tell which axis of a#0, b#0 holds units.*layouts=\{'a': 'N\?\?'"):
        fs.dissect(Odd(), batches(2), progress=False)
    found = fs.dissect(Odd(), batches(2), layouts={"a": "NTC", "b": "NTC"}, progress=False)
    assert found.tables["taps"]["units"].tolist() == [7, 7]


def test_one_tap_for_two_modalities_is_refused() -> None:
    with pytest.raises(InputError, match=r"taps= names encoders\.a\.1#0 twice"):
        fs.dissect(OnlyA(), batches(2), taps={"a": ["encoders.a.1"], "b": ["encoders.a.1"]}, progress=False)


def test_a_lone_sample_of_another_form_is_left_out() -> None:
    class Padded(OnlyA):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return super().forward({m: x[:, :CLASSES] for m, x in inputs.items()})

    data = batches(2)
    data.append({**{m: torch.randn(1, CLASSES + 2) for m in "ab"}, "label": torch.tensor([1])})
    found = fs.dissect(Padded(), data, progress=False)
    assert any("1 samples came alone" in note for note in found.manifest["messages"])


def test_an_empty_folder_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert check_folder(tmp_path / "empty") == tmp_path / "empty"

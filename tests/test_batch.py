"""The contract between a user's data, a user's model and fusionscope."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusionscope.batch import Adapter, Batch, unwrap
from fusionscope.errors import InputError

B = 5
RGB, DEPTH, Y = torch.randn(B, 3, 7, 7), torch.randn(B, 2), torch.zeros(B)


class ByKeyword(nn.Module):
    def forward(self, rgb: Tensor, depth: Tensor, scale: float = 1.0) -> Tensor:
        return rgb.mean((1, 2, 3)) * scale + 10 * depth.mean(1)


class ByDict(nn.Module):
    def forward(self, batch: Any) -> Tensor:
        return batch["rgb"].mean((1, 2, 3)) + 10 * batch["depth"].mean(1)


class ByList(nn.Module):
    def forward(self, xs: list[Tensor]) -> Tensor:
        return xs[0].mean((1, 2, 3)) + 10 * xs[1].mean(1)


class ByPosition(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) + 10 * y.mean(1)


class ByKwargs(nn.Module):
    def forward(self, **inputs: Tensor) -> Tensor:
        return inputs["rgb"].mean((1, 2, 3)) + 10 * inputs["depth"].mean(1)


class ByStar(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].mean((1, 2, 3)) + 10 * inputs[1].mean(1)


EXPECTED = RGB.mean((1, 2, 3)) + 10 * DEPTH.mean(1)


@pytest.mark.parametrize(
    ("model", "style"),
    [
        (ByKeyword(), "keyword"),
        (ByDict(), "dict"),
        (ByList(), "list"),
        (ByPosition(), "positional"),
        (ByKwargs(), "keyword"),
        (ByStar(), "positional"),
    ],
)
@pytest.mark.parametrize(
    ("raw", "modalities"),
    [
        (({"rgb": RGB, "depth": DEPTH}, Y), None),
        ({"rgb": RGB, "depth": DEPTH, "label": Y}, None),
        ({"inputs": {"rgb": RGB, "depth": DEPTH}, "target": Y}, None),
        ((RGB, DEPTH, Y), ("rgb", "depth")),
        ((RGB, DEPTH), ("rgb", "depth")),
    ],
)
def test_every_batch_form_reaches_every_model(model: nn.Module, style: str, raw: Any, modalities: Any) -> None:
    adapter = Adapter(modalities)
    batch = adapter.batch(raw)
    assert batch.modalities == ("rgb", "depth")
    assert adapter.style(model, batch.inputs) == style
    assert torch.equal(adapter.call(model, batch), EXPECTED)


def test_a_list_of_modalities_goes_to_a_model_that_takes_a_list() -> None:
    class Untyped(nn.Module):
        def forward(self, xs: Any) -> Tensor:
            return xs[0].mean((1, 2, 3)) + 10 * xs[1].mean(1)

    adapter = Adapter(("rgb", "depth"))
    batch = adapter.batch(([RGB, DEPTH], Y))
    assert batch.target is Y
    assert torch.equal(adapter.call(Untyped(), batch), EXPECTED)


def test_a_modality_of_several_tensors_goes_back_under_its_own_keys() -> None:
    class Text(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
            return (input_ids * attention_mask).sum(1) + pixel_values.sum(1)

    raw = {
        "input_ids": torch.ones(B, 3, dtype=torch.long),
        "attention_mask": torch.ones(B, 3, dtype=torch.long),
        "pixel_values": torch.ones(B, 2),
        "labels": Y,
    }
    adapter = Adapter({"text": ["input_ids", "attention_mask"], "image": "pixel_values"})
    batch = adapter.batch(raw)
    assert batch.modalities == ("text", "image")
    assert set(batch.inputs["text"]) == {"input_ids", "attention_mask"}
    assert adapter.call(Text(), batch).tolist() == [5.0] * B
    taken = batch.take(torch.tensor([0, 2]))
    assert taken.inputs["text"]["input_ids"].shape == (2, 3)


def test_present_is_given_to_a_model_that_takes_it() -> None:
    class Net(nn.Module):
        def forward(self, rgb: Tensor, depth: Tensor, present: dict[str, Tensor] | None = None) -> Any:
            return present

    flags = {"rgb": torch.ones(B, dtype=torch.bool)}
    assert Adapter().call(Net(), Batch({"rgb": RGB, "depth": DEPTH}, Y, flags)) is flags


@pytest.mark.parametrize(
    ("raw", "adapter", "message"),
    [
        (
            (RGB, DEPTH, Y),
            Adapter(),
            r"cannot tell the modalities of a batch that is a tuple of \[5, 3, 7, 7\] float32",
        ),
        ((RGB, Y, Y, Y), Adapter(("rgb", "depth")), r"with modalities=\('rgb', 'depth'\)"),
        (RGB, Adapter(), r'adapter = fs.Adapter\(modalities=\("rgb", "depth"\)\)'),
        ({"rgb": RGB, "label": Y}, Adapter(target="labl"), "no target key 'labl'.*Did you mean 'label'"),
        ({"rgb": RGB, "dept": DEPTH}, Adapter(("rgb", "depth")), "needs the key 'depth'.*Did you mean 'dept'"),
        ({"rgb": RGB, "depth": DEPTH[:3]}, Adapter(), "numbers of samples differ: rgb 5, depth 3"),
        (({"rgb": "a.png"}, Y), Adapter(), "needs at least one modality"),
        (({}, Y), Adapter(), "needs at least one modality"),
        ({"rgb": torch.tensor(1.0)}, Adapter(), "is a scalar"),
        ({"rgb": RGB.where(RGB < 2, torch.nan)}, Adapter(), "'rgb' holds NaN or infinite values in . of 5 samples"),
    ],
)
def test_what_cannot_be_read_says_what_was_seen_and_what_to_write(raw: Any, adapter: Adapter, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapter.batch(raw)


def test_a_model_that_does_not_take_a_modality() -> None:
    batch = Batch({"rgb": RGB, "dept": DEPTH})
    with pytest.raises(
        InputError, match=r"forward\(rgb, depth, scale\) does not take .*rgb, dept.*Did you mean 'depth'"
    ):
        Adapter().call(ByKeyword(), batch)
    custom = Adapter(call=lambda model, inputs: model(inputs["rgb"], inputs["dept"]))
    assert torch.equal(custom.call(ByKeyword(), batch), EXPECTED)


def test_an_exception_in_the_model_says_how_it_was_called() -> None:
    with pytest.raises(RuntimeError) as caught:
        Adapter().call(nn.Sequential(nn.Linear(2, 2)), Batch({"x": torch.zeros(B, 3)}))
    assert caught.value.__notes__ == ["fusionscope called Sequential (positional call) with x [5, 3] float32"]


def test_the_prediction_is_found() -> None:
    logits, other = torch.zeros(B, 2), torch.zeros(B)
    assert Adapter().output(logits) is logits
    assert Adapter().output({"loss": other, "logits": logits}) is logits
    assert Adapter().output((logits,)) is logits
    assert Adapter(output=1).output((other, logits)) is logits
    assert Adapter(output=lambda out: out["a"]).output({"a": logits, "b": other}) is logits
    with pytest.raises(InputError, match=r"cannot tell which output is the prediction: .*0 \[5\] float32, 1 \[5, 2\]"):
        Adapter().output((other, logits))


def test_batches_join_and_move() -> None:
    batch = Batch({"rgb": RGB, "depth": DEPTH}, Y, {"rgb": torch.ones(B, dtype=torch.bool)}, torch.arange(B))
    joined = batch.join(batch.take(torch.tensor([1, 3])))
    assert (joined.size, joined.group.tolist()) == (7, [0, 1, 2, 3, 4, 1, 3])
    copied = batch.clone()
    copied.inputs["rgb"].zero_()
    assert batch.inputs["rgb"].abs().sum() > 0
    assert batch.to("cpu").size == B


def test_wrappers_are_looked_through() -> None:
    inner = ByKeyword()
    assert unwrap(nn.DataParallel(inner)) is inner

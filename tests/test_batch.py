"""The contract between a user's data, a user's model and fusionscope."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fusionscope._nest import map_tensors, tensors
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


def test_joining_pairs_parts_by_name() -> None:
    flags = {"rgb": torch.ones(B, dtype=torch.bool), "depth": torch.zeros(B, dtype=torch.bool)}
    one = Batch({"rgb": RGB, "pair": {"a": RGB, "b": DEPTH}}, Y, flags)
    two = Batch({"pair": {"b": DEPTH + 1, "a": RGB + 1}, "rgb": RGB + 2}, Y, dict(reversed(flags.items())))
    joined = one.join(two)
    assert torch.equal(joined.inputs["rgb"], torch.cat([RGB, RGB + 2]))
    assert torch.equal(joined.inputs["pair"]["b"], torch.cat([DEPTH, DEPTH + 1]))
    assert joined.present["rgb"].all()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Batch({"rgb": RGB[..., :3]}, Y), r"cannot join rgb \[5, 3, 7, 7\] .*with \[5, 3, 7, 3\]"),
        (Batch({"rgb": RGB.double()}, Y), "float32 with .*float64"),
        (Batch({"rgb": {"a": RGB}}, Y), "cannot join rgb with rgb.a: the tensors are not the same"),
        (Batch({"rgb": RGB}, Y, group=torch.arange(B)), "cannot join no tensor with a tensor"),
        (Batch({"rgb": RGB}, Y, {"rgb": torch.ones(B, dtype=torch.bool)}), "cannot join no tensor with rgb"),
        (Batch({"rgb": RGB}), "cannot join a Tensor with a NoneType"),
    ],
)
def test_what_cannot_be_joined_is_an_error(other: Batch, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Batch({"rgb": RGB}, Y).join(other)


def test_targets_without_a_sample_axis_are_taken_and_joined() -> None:
    boxes = [torch.ones(n, 4) * n for n in (3, 0, B, 1, 2)]
    target = {"boxes": boxes, "name": list("abcde"), "label": torch.arange(B), "anchors": torch.ones(7, 4), "step": 3}
    batch = Batch({"rgb": RGB}, target)
    taken = batch.take(torch.tensor([4, 2])).target
    assert [len(box) for box in taken["boxes"]] == [2, B]
    assert (taken["name"], taken["label"].tolist()) == (["e", "c"], [4, 2])
    assert (len(taken["anchors"]), taken["step"]) == (7, 3)
    joined = batch.join(batch.take(torch.tensor([2]))).target
    assert [len(box) for box in joined["boxes"]] == [3, 0, B, 1, 2, B]
    assert (joined["name"][-2:], joined["label"].tolist()) == (["e", "c"], [0, 1, 2, 3, 4, 2])
    both = Batch({"rgb": RGB}, [Y, Y + 1])
    assert [len(part) for part in both.join(both.take(torch.tensor([0, 1]))).target] == [7, 7]
    with pytest.raises(InputError, match="cannot join"):
        batch.join(Batch({"rgb": RGB}, {**target, "anchors": torch.zeros(7, 4)}))
    detection = [{"boxes": box, "labels": box[:, 0]} for box in boxes]
    whole = Batch({"rgb": RGB}, detection)
    assert len(whole.join(whole.take(torch.tensor([3]))).target) == B + 1


@dataclasses.dataclass
class Returned:
    loss: Tensor
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


def test_the_advice_on_the_output_works() -> None:
    logits, other = torch.zeros(B, 2), torch.zeros(B)
    returned = Returned(other, logits, (other, logits))
    assert Adapter().output(returned) is logits
    assert Adapter().output(namedtuple("Pair", "loss pred")(other, logits)) is logits
    assert Adapter(output="hidden.1").output(returned) is logits
    assert Adapter(output="logits").output(returned) is logits
    assert Adapter(output="1").output((other, logits)) is logits
    assert Adapter(output=-1).output((other, logits)) is logits
    assert Adapter(output="a").output({"a": [logits], "b": other}) is logits
    with pytest.raises(InputError, match=r"no single tensor 'hiden.0': .*hidden.0 \[5\].*Did you mean 'hidden.0'"):
        Adapter(output="hiden.0").output(returned)
    for wanted in (7, "hidden"):
        with pytest.raises(InputError, match="no single tensor"):
            Adapter(output=wanted).output(returned)


def test_a_tuple_may_start_with_a_modality_that_is_a_dict() -> None:
    tokens = {"ids": torch.ones(B, 3), "mask": torch.ones(B, 3)}
    batch = Adapter(("text", "image")).batch((tokens, RGB, Y))
    assert batch.modalities == ("text", "image")
    assert batch.target is Y
    assert batch.inputs["text"] is tokens
    with pytest.raises(InputError, match="needs the key 'depth'.*Did you mean 'dept'"):
        Adapter(("rgb", "depth")).batch(({"rgb": RGB, "dept": DEPTH}, Y))
    group = torch.arange(B)
    assert Adapter().batch(({"rgb": RGB}, Y, group)).group is group
    for third in (DEPTH, torch.ones(B), torch.ones(B, dtype=torch.bool), {"lengths": group}):
        with pytest.raises(InputError, match="cannot tell the modalities"):
            Adapter().batch(({"rgb": RGB}, Y, third))


def test_groups_may_be_strings_lists_or_arrays() -> None:
    adapter = Adapter(target="y")
    names = [["bob", "ann", "bob", "eve", "ann"], np.array(["eve", "bob", "zoe", "ann", "eve"])]
    ids = [adapter.batch({"rgb": RGB, "y": Y, "group": group}).group.tolist() for group in names]
    assert ids == [[0, 1, 0, 2, 1], [2, 0, 3, 1, 2]]
    for numbers in ([4, 4, 1, 1, 1], np.array([4, 4, 1, 1, 1]), torch.tensor([4, 4, 1, 1, 1])):
        assert adapter.batch({"rgb": RGB, "y": Y, "group": numbers}).group.tolist() == [4, 4, 1, 1, 1]
    for wrong in ([1, "a", 2, 3, 4], torch.ones(B), torch.ones(B, 2, dtype=torch.long), "ann", 3):
        with pytest.raises(InputError, match="`group` must hold one integer or string per sample"):
            adapter.batch({"rgb": RGB, "y": Y, "group": wrong})
    with pytest.raises(InputError, match="numbers of samples differ.*group 2"):
        adapter.batch({"rgb": RGB, "y": Y, "group": ["a", "b"]})


def test_wrong_flags_and_numpy_arrays_are_errors_that_say_so() -> None:
    for flags in (torch.ones(B), ["rgb"], {"rgb": [True] * B}):
        with pytest.raises(InputError, match=r"`present` must say .* bool tensors \[B\]: \{'rgb': tensor\}; it is a"):
            Adapter().batch({"rgb": RGB, "label": Y, "present": flags})
    array = np.zeros((B, 3))
    for raw in ({"rgb": array, "label": Y}, {"rgb": RGB, "depth": {"a": array}}, ({"rgb": {"a": RGB, "b": array}}, Y)):
        with pytest.raises(InputError, match=r"are numpy arrays; .*torch.from_numpy.*DataLoader"):
            Adapter().batch(raw)
    with pytest.raises(InputError, match="'depth' are numpy arrays"):
        Adapter(("rgb", "depth")).batch((RGB, array, Y))


def test_a_modality_may_have_a_target_s_name() -> None:
    batch = Adapter(("x", "y")).batch({"x": RGB, "y": DEPTH})
    assert (batch.modalities, batch.target) == (("x", "y"), None)
    batch = Adapter({"one": ["x", "y"], "two": "group"}).batch({"x": RGB, "y": DEPTH, "group": RGB, "label": Y})
    assert batch.target is Y
    assert batch.group is None
    assert Adapter(("x", "y")).batch({"inputs": {"x": RGB, "y": DEPTH}, "y": Y}).target is Y


@dataclasses.dataclass
class ModelOutput(OrderedDict):
    """As in transformers: entries and fields are the same, and fields that are None are no entries."""

    loss: Any = None
    logits: Any = None
    hidden: Any = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        made, _, *rest = super().__reduce__()
        return made, tuple(getattr(self, field.name) for field in dataclasses.fields(self)), *rest


class BatchEncoding(UserDict):
    def __init__(self, data: dict[str, Any], encodings: Any = None) -> None:
        super().__init__(data)
        self.encodings = encodings

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


def test_dicts_of_other_libraries_are_nests() -> None:
    output = ModelOutput(logits=RGB, hidden=(DEPTH,))
    assert [path for path, _ in tensors(output)] == ["logits", "hidden.0"]
    changed = map_tensors(lambda tensor: tensor + 1, output)
    assert type(changed) is ModelOutput
    assert changed.logits is changed["logits"]
    assert torch.equal(changed.logits, RGB + 1)
    assert output.logits is output["logits"] is RGB
    assert Adapter().output(output) is RGB

    encoding = BatchEncoding({"ids": RGB, "mask": DEPTH}, encodings="kept")
    raw = {"text": encoding, "label": Y}
    batch = Adapter().batch(raw).take(torch.tensor([1, 0]))
    assert type(batch.inputs["text"]) is BatchEncoding
    assert batch.inputs["text"].encodings == "kept"
    assert torch.equal(batch.inputs["text"].ids, RGB[[1, 0]])
    assert encoding.ids is RGB
    assert Adapter().batch((encoding, Y)).modalities == ("ids", "mask")
    assert Adapter(("text", "image")).batch((encoding, RGB, Y)).inputs["text"] is encoding

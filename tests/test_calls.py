"""How a model is called: by keyword, with a dict, with a list, or by position; and who is given `present`."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusionscope.batch import Adapter, Batch, takes_present
from fusionscope.errors import InputError

from .test_batch import DEPTH, RGB, B, ByDict, ByKeyword, ByKwargs, ByList, ByPosition, ByStar, Y


class KeywordFlags(nn.Module):
    def forward(self, rgb: Tensor, depth: Tensor, present: dict[str, Tensor]) -> Any:
        return present


class DictFlags(nn.Module):
    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Any:
        return present


class ListFlags(nn.Module):
    def forward(self, xs: list[Tensor], *, present: dict[str, Tensor]) -> Any:
        return present


class PositionFlags(nn.Module):
    def forward(self, x: Tensor, y: Tensor, present: Any = None) -> Any:
        return present


@pytest.mark.parametrize("model", [KeywordFlags(), DictFlags(), ListFlags(), PositionFlags()])
def test_present_is_given_in_every_style(model: nn.Module) -> None:
    flags = {"rgb": torch.ones(B, dtype=torch.bool)}
    assert takes_present(model)
    assert not takes_present(ByKwargs())
    batch = Batch({"rgb": RGB, "depth": DEPTH}, Y, flags)
    assert Adapter().call(model, batch) is flags
    assert Adapter(call=lambda model, inputs: model).call(model, batch) is model
    without = dataclasses.replace(batch, present=None)
    if isinstance(model, PositionFlags):
        assert Adapter().call(model, without) is None
        with pytest.raises(InputError, match="does not take the batch's a, b, c"):
            Adapter().call(model, Batch({"a": RGB, "b": RGB, "c": RGB}))
    else:
        with pytest.raises(InputError, match="needs `present`, which the batch has not"):
            Adapter().call(model, without)


class Swapped(nn.Module):
    def forward(self, depth_map: Tensor, rgb_img: Tensor) -> Tensor:
        return rgb_img.mean((1, 2, 3)) + 10 * depth_map.mean(1)


def test_modalities_are_not_mixed_up_by_position() -> None:
    batch = Batch({"rgb": RGB, "depth": DEPTH}, Y)
    with pytest.raises(InputError, match="'depth_map' would get 'rgb', which looks meant for 'rgb_img'") as caught:
        Adapter().call(Swapped(), batch)
    assert "model(depth_map=inputs['depth'], rgb_img=inputs['rgb'])" in str(caught.value)
    with pytest.raises(InputError, match=r"model\(depth_map=inputs\['sound'\], rgb_img=inputs\['rgb'\]\)"):
        Adapter().style(Swapped(), {"rgb": RGB, "sound": DEPTH})
    assert Adapter().style(Swapped(), {"depth": DEPTH, "rgb": RGB}) == "positional"
    assert Adapter().style(Swapped(), {"d": DEPTH, "r": RGB}) == "positional"


@pytest.mark.parametrize(
    ("model", "adapter", "words"),
    [
        (ByPosition(), Adapter(), "called by position: rgb as x, depth as y"),
        (ByStar(), Adapter(), "called by position: rgb, depth"),
        (ByKeyword(), Adapter(), "called by keyword"),
        (ByDict(), Adapter(), "called with one dict"),
        (ListFlags(), Adapter(), "called with one list"),
        (ByList(), Adapter(call=lambda model, inputs: model([*inputs.values()])), "called by your function"),
    ],
)
def test_the_call_is_described(model: nn.Module, adapter: Adapter, words: str) -> None:
    assert adapter.describe_call(model, {"rgb": RGB, "depth": DEPTH}) == words


def test_a_model_that_unpacks_a_tuple_gets_a_hint() -> None:
    class Unpacks(nn.Module):
        def forward(self, x):
            a, b = x
            return a.mean((1, 2, 3)) + b.mean(1)

    call = "fs.Adapter(call=lambda model, inputs: model(list(inputs.values())))"
    for raw, hinted in (((RGB, DEPTH, Y), True), ({"rgb": RGB, "depth": DEPTH}, False)):
        adapter = Adapter(("rgb", "depth"))
        with pytest.raises(AttributeError) as caught:
            adapter.call(Unpacks(), adapter.batch(raw))
        assert (call in caught.value.__notes__[0]) == hinted
    advised = Adapter(("rgb", "depth"), call=lambda model, inputs: model(list(inputs.values())))
    assert advised.call(Unpacks(), advised.batch((RGB, DEPTH, Y))).shape == (B,)

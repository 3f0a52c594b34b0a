"""``trace`` on models whose wiring is known."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fusionscope.batch import Adapter
from fusionscope.errors import InputError, ModelError
from fusionscope.tracing import Trace, trace

from .models import B, Encoders, Interleaved, ListParallel, Sequence, Siamese, Stacked, images


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def seen(found: Trace, path: str) -> list[tuple[str, str]]:
    """``(slot, modalities)`` of every call of a path."""
    return [(call.slot, "+".join(sorted(call.depends_on))) for call in found.calls if call.path == path]


@pytest.mark.parametrize("channels", [{"rgb": 3, "depth": 1}, {"rgb": 3, "depth": 1, "thermal": 2}])
def test_an_encoder_per_modality(channels: dict[str, int]) -> None:
    found = trace(Encoders(**channels), images(**channels))
    for name in channels:
        assert [call.path for call in found.streams[name]] == [
            f"encoders.{name}.{leaf}" for leaf in ("0", "1", "2", "3.0", "3.1", "4.0", "4.1")
        ]
    assert [call.path for call in found.fused] == ["head"]
    (point,) = found.fusion_points
    assert point.functional
    assert (point.kind, point.parent, point.modalities) == ("join", "", frozenset(channels))
    assert point.call is not None
    assert point.call.path == "head"
    assert point.mixed_by is point.call
    assert found.unused == ("spare",)


def test_default_taps_and_levels() -> None:
    found = trace(Encoders(rgb=3, depth=1), images(rgb=3, depth=1))
    assert [tap.call.path for tap in found.taps["rgb"]] == ["encoders.rgb.2", "encoders.rgb.3", "encoders.rgb.4"]
    assert [tap.locations for tap in found.taps["depth"]] == [(16, 16), (8, 8), (4, 4)]
    assert [tap.units for tap in found.taps["depth"]] == [5, 11, 13]
    assert [tap.depth for tap in found.taps["rgb"]] == pytest.approx([2 / 4, 3 / 4, 1])
    early, late = found.levels(2)
    assert early["rgb"].level == early["depth"].level == 0
    assert late["rgb"].level == late["depth"].level == 2
    with pytest.raises(InputError, match="1 or more"):
        found.levels(0)


def test_siamese_calls_are_kept_apart() -> None:
    found = trace(Siamese(), images(a=3, b=3))
    assert seen(found, "encoder.0") == [("", "a"), ("", "b")]
    assert {call.index for call in found.streams["a"]} == {0}
    assert {call.index for call in found.streams["b"]} == {1}
    (point,) = found.fusion_points
    assert (point.functional, point.kind) == (True, "mix")
    assert "functional, in the model, before head#0" in str(point)


def test_modalities_in_blocks_on_the_batch_axis() -> None:
    found = trace(Stacked(), images(a=3, b=3))
    assert seen(found, "encoder.3.0") == [("[0:7]", "a"), ("[7:14]", "b")]
    assert found.streams["b"][0].shape == (B, 5, 16, 16)
    assert any("rows [0:7] a, [7:14] b" in message for message in found.messages)
    assert [tap.id for tap in found.taps["b"]] == ["encoder.2#0[7:14]", "encoder.3#0[7:14]", "encoder.4#0[7:14]"]


def test_modalities_interleaved_on_the_batch_axis() -> None:
    found = trace(Interleaved(), images(a=3, b=3))
    assert seen(found, "encoder.3.0") == [("[0::2]", "a"), ("[1::2]", "b")]
    assert not any(call.fused for call in found.calls if call.path.startswith("encoder"))


def test_list_in_list_out() -> None:
    found = trace(ListParallel(), (list(images(a=3, b=3).values()), torch.zeros(B)), modalities=("a", "b"))
    assert [(c.path, c.output) for c in found.streams["a"]] == [("first", "0")]
    assert [(c.path, c.output) for c in found.streams["b"]] == [("first", "1")]
    assert [(c.path, c.kind) for c in found.fused if c.path in ("swap", "second")] == [
        ("swap", "join"),
        ("swap", "join"),
        ("second", "mix"),
        ("second", "mix"),
    ]
    assert [[c.id for c in stretch] for stretch in found.lanes["b"]] == [
        ["first#0:1"],
        ["swap#0:1", "second#0:1", "head#1"],
    ]
    point, late = found.fusion_points
    assert (late.round, late.call, late.kind) == (1, None, "mix")
    assert (point.functional, point.kind, point.call.path if point.call else "") == (False, "join", "swap")
    assert point.mixed_by is not None
    assert point.mixed_by.path == "second"


def test_several_tensors_time_major_and_attention() -> None:
    batch = {
        "audio": torch.randn(B, 17, 5),
        "input_ids": torch.randint(0, 31, (B, 19)),
        "attention_mask": (torch.arange(19) < torch.randint(5, 19, (B, 1))).long(),
        "label": torch.zeros(B),
    }
    modalities = {"audio": "audio", "text": ["input_ids", "attention_mask"]}
    found = trace(Sequence(), batch, modalities=modalities)
    lstm = found.call("lstm")
    assert (lstm.depends_on, lstm.shape, lstm.axes.sample, lstm.axes.unit) == ({"audio"}, (17, B, 12), 1, 2)
    assert found.call("embed").depends_on == {"text"}
    (point,) = found.fusion_points
    assert (point.functional, point.kind, point.call.path if point.call else "") == (False, "mix", "attend")


def test_dead_modality_and_constant_calls() -> None:
    class Dead(Encoders):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            x, y = (self.encoders[name](inputs[name]) for name in ("rgb", "depth"))
            return self.head(torch.cat([x, y * 0.0], 1))

    found = trace(Dead(rgb=3, depth=1), images(rgb=3, depth=1))
    assert found.call("head").depends_on == {"rgb"}
    assert found.fusion_points == ()
    assert "depth reaches no output in this batch" in found.messages
    assert len(found.streams["depth"]) == 7


def test_in_place_on_inputs_and_outputs() -> None:
    class InPlace(Siamese):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            a.mul_(2)
            x = self.encoder[0](a)
            first = self.encoder[1](x)
            first.add_(self.encoder[0](b))
            return self.head(first.mean((2, 3)).repeat(1, 3)[:, :13])

    batch = images(a=3, b=3)
    kept = copy.deepcopy(batch)
    found = trace(InPlace(), batch)
    assert seen(found, "encoder.1") == [("", "a")]
    assert seen(found, "encoder.0") == [("", "a"), ("", "b")]
    assert all(torch.equal(batch[m], kept[m]) for m in batch)


def test_meetings_after_an_exchange_are_rounds_of_their_own() -> None:
    class TwoStage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a1, self.b1, self.a2, self.b2 = (nn.Linear(5, 5) for _ in range(4))
            self.head = nn.Linear(5, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            x, y = self.a1(a), self.b1(b)
            x, y = self.a2(x + 0.1 * y).relu(), self.b2(y - 0.1 * x).relu()
            return self.head(x * y)

    found = trace(TwoStage(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert [(p.round, p.call.path) for p in found.fusion_points if p.call] == [(0, "a2"), (0, "b2"), (1, "head")]
    assert [[c.path for c in stretch] for stretch in found.lanes["a"]] == [["a1"], ["a2"]]


def test_fused_by_the_model_after_the_last_call() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 11), nn.Linear(3, 11)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.a(a) @ self.b(b).T

    found = trace(Late(), {"a": torch.randn(B, 5), "b": torch.randn(B, 3)})
    (point,) = found.fusion_points
    assert (point.call, point.parent, point.functional) == (None, "", True)
    assert any("rows interact" in message for message in found.messages)
    assert found.fused == []


def test_functional_fusion_names_the_container() -> None:
    class Fusion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(5, 5)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.project(x) + self.project(y)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fusion, self.head = Fusion(), nn.Linear(5, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.fusion(a, b).relu() * 2)

    found = trace(Net(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    (point,) = found.fusion_points
    assert point.functional
    assert str(point).startswith("a, b mixed: functional, in ")


@pytest.mark.parametrize("size", [4, 5, 13])
def test_batch_equal_to_other_axes(size: int) -> None:
    """B equal to the number of time steps, channels or heads."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.linear, self.head = nn.GRU(size, size), nn.Linear(size, size), nn.Linear(size, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            x, _ = self.gru(a.transpose(0, 1))
            return self.head(x.mean(0) + self.linear(b))

    found = trace(Net(), {"a": torch.randn(size, size, size), "b": torch.randn(size, size)})
    assert (found.call("gru").axes.sample, found.call("gru").axes.unit) == (1, 2)
    assert found.call("linear").axes.sample == 0


def test_a_path_that_depends_on_the_input_is_conditional() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            x = self.a(a) if float(b[0, 0]) > 0 else a
            return self.head(x + self.b(b))

    b = torch.randn(B, 5)
    b[0, 0], b[1:, 0] = 1.0, -1.0
    found = trace(Branch(), {"a": torch.randn(B, 5), "b": b})
    assert found.call("a").conditional
    assert found.call("a").depends_on == {"a", "b"}


def test_dropout_left_on_and_private_generator() -> None:
    class Noisy(nn.Module):
        def __init__(self, private: bool) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
            self.generator = torch.Generator().manual_seed(1) if private else None

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            noise = torch.rand(a.shape, generator=self.generator)
            return self.head(nn.functional.dropout(self.a(a), training=True) * noise + self.b(b))

    batch = {"a": torch.randn(B, 5), "b": torch.randn(B, 5)}
    for private in (False, True):
        found = trace(Noisy(private), batch)
        assert [c.path for c in found.streams["a"]] == ["a"]
        assert all(c.deterministic for c in found.calls)


class Stateful(Encoders):
    """Everything a forward can disturb: buffers, attributes, caches, hooks, generators, modes."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__(rgb=3, depth=1)
        self.register_buffer("steps", torch.zeros(()))
        self.ema = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.count, self.seen, self.cache, self.fail = 0, [1, 2], None, fail
        self.encoders["depth"].eval()
        self.head.weight.grad = torch.ones_like(self.head.weight)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        self.steps += 1
        self.ema.data.add_(1)
        self.count += 1
        self.seen.append(self.count)
        self.cache = inputs["rgb"].mean()
        self.encoders["rgb"].train()
        inputs["depth"].add_(torch.rand(1))
        out = super().forward(inputs)
        if self.fail:
            raise ZeroDivisionError("planted")
        return out


@pytest.mark.parametrize("fail", [False, True])
def test_model_and_batch_are_left_as_found(fail: bool) -> None:
    model, batch = Stateful(fail).train(), images(rgb=3, depth=1)
    model.encoders["depth"].eval()
    kept_batch = copy.deepcopy(batch)
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    grad = model.head.weight.grad
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    if fail:
        with pytest.raises(ZeroDivisionError, match="planted") as caught:
            trace(model, batch)
        assert any("fusionscope called Stateful (dict call)" in note for note in caught.value.__notes__)
    else:
        found = trace(model, batch)
        assert any("keeps state between forwards" in message for message in found.messages)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert (model.count, model.seen, model.cache) == (0, [1, 2], None)
    assert modes == [m.training for m in model.modules()]
    assert model.head.weight.grad is grad
    assert grad is not None
    assert torch.equal(grad, torch.ones_like(grad))
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(batch[m], kept_batch[m]) for m in batch)
    assert torch.backends.mha.get_fastpath_enabled()


def test_state_that_cannot_be_rolled_back_is_an_error() -> None:
    memory = []

    class Hidden(Siamese):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            memory.append(a.clone())
            last = memory[-1] if len(memory) < 4 else memory[-4]
            return super().forward(a + last, b)

    with pytest.raises(ModelError, match="keeps state between forwards that cannot be rolled back"):
        trace(Hidden(), images(a=3, b=3))


def test_bad_batches() -> None:
    model = Encoders(rgb=3, depth=1)
    with pytest.raises(InputError, match="at least two in the batch, and this one has 1"):
        trace(model, {"rgb": torch.randn(1, 3, 16, 16), "depth": torch.randn(1, 1, 16, 16)})
    with pytest.raises(InputError, match="'depth' is constant: all 7 samples"):
        trace(model, {"rgb": torch.randn(B, 3, 16, 16), "depth": torch.ones(B, 1, 16, 16)})


def test_layouts_say_what_cannot_be_told() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.unfold(1, 3, 2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.head = Odd(), nn.Linear(3, 2)

        def forward(self, a: Tensor) -> Tensor:
            return self.head(2 * self.odd(a)).mean(1)

    batch = {"a": torch.randn(B, 11)}
    assert trace(Net(), batch).call("odd").axes.unit is None
    found = trace(Net(), batch, layouts={"odd": "NTC"})
    assert (found.call("odd").axes.unit, found.call("odd").axes.location) == (2, (1,))
    with pytest.raises(InputError, match="one letter for each of its 3 axes"):
        trace(Net(), batch, layouts={"odd": "NC"})
    with pytest.raises(InputError, match="Did you mean 'odd'"):
        trace(Net(), batch, layouts={"od": "NTC"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_compiled_and_data_parallel() -> None:
    model = Siamese()
    model.encoder[3] = torch.compile(model.encoder[3], backend="eager")
    model.encoder[4] = torch.jit.script(model.encoder[4].eval())
    found = trace(nn.DataParallel(model), images(a=3, b=3), adapter=Adapter())
    assert seen(found, "encoder.3.0") == [("", "a"), ("", "b")]
    assert [call.path for call in found.streams["b"]][-1] == "encoder.3.1"
    assert seen(found, "head") == [("", "a+b")]


def test_half_precision() -> None:
    found = trace(Siamese().bfloat16(), {k: v.bfloat16() for k, v in images(a=3, b=3).items()})
    assert [tap.level for tap in found.taps["a"]] == [0, 1, 2]


def test_the_tree_and_the_plain_data() -> None:
    found = trace(Encoders(rgb=3, depth=1), images(rgb=3, depth=1))
    text = str(found)
    assert "rgb  (7 calls)" in text
    assert "encoders.rgb.2 ReLU [7, 5, 16, 16]  <- level 0" in text
    assert "never called, though it has parameters: spare" in text
    data = found.to_dict()
    assert [call["id"] for call in data["calls"] if call["tap"]] == [
        tap.id for m in ("rgb", "depth") for tap in found.taps[m]
    ]
    assert data["fusion_points"][0]["call"] == "head#0"

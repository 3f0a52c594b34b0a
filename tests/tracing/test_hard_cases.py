"""Cases that a careful reader found: each was wrong once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fusionscope.batch import Adapter
from fusionscope.errors import InputError, ModelError
from fusionscope.tracing import trace

B = 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Fused(nn.Module):
    """Two encoders made by ``make``, their outputs averaged over all locations, one linear head."""

    def __init__(self, a: nn.Module, b: nn.Module, units: int) -> None:
        super().__init__()
        self.a, self.b, self.head = a, b, nn.Linear(2 * units, 3)

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.pool(self.a(a)), self.pool(self.b(b))], 1))


class LayerNorm2d(nn.LayerNorm):
    """Normalises the channels of maps, as ConvNeXt does."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Permuting(nn.Module):
    """A convolution, then a linear layer on channels-last maps, then back."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(c_in, c_out, 3, 2, 1), LayerNorm2d(c_out), nn.Linear(c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x + self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_unit_axes_survive_permutes() -> None:
    encoders = [nn.Sequential(Permuting(3, 6), Permuting(6, 10)) for _ in range(2)]
    found = trace(Fused(*encoders, units=10), {"a": torch.randn(B, 3, 28, 36), "b": torch.randn(B, 3, 28, 36)})
    assert found.call("a.0.norm").axes.unit == 1
    assert found.call("a.0.linear").axes.unit == 3
    assert [(tap.id, tap.units, tap.locations) for tap in found.taps["b"]] == [
        ("b.0#0", 6, (14, 18)),
        ("b.1#0", 10, (7, 9)),
    ]


def test_the_result_of_attention_is_measured_not_its_weights() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.linear = nn.MultiheadAttention(12, 3, batch_first=True), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.attend(x, x, x)
            return self.linear(y)[..., None]

    found = trace(Fused(Attention(), Attention(), 31), {"a": torch.randn(B, 31, 12), "b": torch.randn(B, 31, 12)})
    assert found.call("a.attend").shape == (B, 31, 12)
    assert found.call("a.attend").output == "0"


def test_parametrized_layers_stay_leaves() -> None:
    a, b = (nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 11, 1)) for _ in range(2))
    torch.nn.utils.parametrizations.weight_norm(a[0])
    found = trace(Fused(a, b, 11), {"a": torch.randn(B, 3, 4, 4), "b": torch.randn(B, 3, 4, 4)})
    assert [call.path for call in found.streams["a"]] == ["a.0", "a.1", "a.2"]
    assert "before head#0" in str(found.fusion_points[0])
    assert found.unused == ()


class Dual(nn.Module):
    """Two encoders whose features are compared by methods, never by ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Linear(5, 11), nn.ReLU(), nn.Linear(11, 13)) for _ in range(2))

    def encode_a(self, x: Tensor) -> Tensor:
        return self.a(x)

    def encode_b(self, x: Tensor) -> Tensor:
        return self.b(x)


def test_a_function_that_calls_the_models_methods() -> None:
    adapter = Adapter(call=lambda model, inputs: model.encode_a(inputs["a"]) * model.encode_b(inputs["b"]))
    found = trace(Dual(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)}, adapter=adapter)
    (point,) = found.fusion_points
    assert (point.call, point.functional, point.kind) == (None, True, "mix")
    assert not any("reaches no output" in message for message in found.messages)
    assert [tap.id for tap in found.taps["a"]] == ["a.1#0", "a.2#0"]


def test_features_given_back_beside_the_prediction_are_still_measured() -> None:
    class Both(Dual):
        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            x, y = self.a(a), self.b(b)
            return {"logits": x + y, "x": x, "y": y}

    found = trace(Both(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert [tap.id for tap in found.taps["b"]] == ["b.1#0", "b.2#0"]

    class Pair(Dual):
        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(a), self.b(b)

    found = trace(Pair(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert [tap.id for tap in found.taps["b"]] == ["b.1#0", "b.2#0"]


def test_a_batch_cut_to_its_longest_sample() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.gru, self.head = nn.Linear(3, 5), nn.GRU(5, 5, batch_first=True), nn.Linear(7, 2)

        def forward(self, frames: Tensor, lengths: Tensor, b: Tensor) -> Tensor:
            x, _ = self.gru(self.embed(frames[:, : int(lengths.max())]))
            return self.head(torch.cat([x.sum(1), b], 1))

    lengths = torch.tensor([4, 5, 3, 19, 6, 4, 5])
    batch = {"frames": torch.randn(B, 19, 3), "lengths": lengths, "b": torch.randn(B, 2)}
    found = trace(Cut(), batch, modalities={"clip": ["frames", "lengths"], "b": "b"})
    assert found.call("gru").axes.sample == 0
    assert not found.call("gru").batch_coupled


def test_inference_tensors_and_attributes_that_cannot_be_written() -> None:
    class Frozen(Dual):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.zeros(1, 5).expand(B, 5)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            with torch.inference_mode():
                x = self.a(a)
            self.last = a.clone()
            return x.clone() + self.b(b)

    model, batch = Frozen(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)}
    with torch.inference_mode():
        model(**batch)
    kept = model.last.clone()
    found = trace(model, batch)
    assert torch.equal(model.last, kept)
    assert [call.path for call in found.streams["a"]] == ["a.0", "a.1", "a.2"]
    with torch.inference_mode():
        assert len(trace(model, batch).calls) == len(found.calls)


def test_a_call_that_fails_on_stretched_values_is_retried() -> None:
    class Coin(Dual):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.out = nn.Sigmoid(), nn.Linear(13, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.out(torch.bernoulli(self.gate(self.a(a) + self.b(b))))

    found = trace(Coin(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert [point.call.path for point in found.fusion_points if point.call] == ["gate"]


def test_what_a_forward_creates_is_rolled_back_between_runs() -> None:
    class Lazy(Dual):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            if not hasattr(self, "seen"):
                self.register_buffer("seen", torch.zeros(()))
            self.seen += 1
            return self.a(a) * self.seen + self.b(b)

    found = trace(Lazy(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert not any("rows interact" in message for message in found.messages)


def test_lazy_modules_and_both_ways_of_naming_are_refused() -> None:
    batch = {"a": torch.randn(B, 5), "b": torch.randn(B, 5)}
    model = Fused(nn.LazyLinear(3), nn.LazyLinear(3), 3)
    with pytest.raises(ModelError, match="run the model on one batch first"):
        trace(model, batch)
    with pytest.raises(InputError, match="not both"):
        trace(Dual(), batch, modalities=("a", "b"), adapter=Adapter())


def test_dataclass_outputs() -> None:
    @dataclass
    class Output:
        logits: Tensor
        note: str

    class Net(Dual):
        def forward(self, a: Tensor, b: Tensor) -> Output:
            return Output(self.a(a) + self.b(b), "fine")

    found = trace(Net(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert found.calls[0].output == "logits"
    assert found.calls[0].depends_on == {"a", "b"}


def test_an_expert_that_is_chosen_by_content() -> None:
    """Every value but half of them must vanish, or a router sends the same tensors on."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.experts = nn.Linear(5, 3), nn.ModuleList(nn.Linear(5, 7) for _ in range(3))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            chosen, out = self.router(a).argmax(1), a.new_zeros(len(a), self.experts[0].out_features)
            for number, expert in enumerate(self.experts):
                rows = (chosen == number).nonzero()[:, 0]
                if len(rows):
                    out[rows] = expert(a[rows])
            return out + b[:, :1]

    for seed in range(8):
        torch.manual_seed(seed)
        model, size = Experts(), 7 if seed % 2 else 8
        model.experts = nn.ModuleList(nn.Linear(5, 2 * size) for _ in range(3))
        found = trace(model, {"a": torch.randn(size, 5), "b": torch.randn(size, 5)})
        experts = [call for call in found.calls if call.path.startswith("experts")]
        assert {call.depends_on for call in experts} == {frozenset("a")}
        assert not [tap.id for tap in found.taps["a"] if "experts" in tap.id]


def test_lengths_of_their_own_that_cannot_be_changed_are_unknown() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.b = nn.GRU(3, 5, batch_first=True), nn.Linear(2, 5)

        def forward(self, frames: Tensor, lengths: Tensor, b: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(frames, lengths, batch_first=True)
            return self.gru(packed)[1][0] + self.b(b)

    lengths = torch.tensor([9, 8, 7, 5, 4, 3, 2])
    found = trace(Packed(), {"frames": torch.randn(B, 9, 3), "lengths": lengths, "b": torch.randn(B, 2)})
    assert all(call.state("lengths") == "unknown" for call in found.calls)
    assert any("unknown: the model fails on other samples' values of it" in message for message in found.messages)


@pytest.mark.parametrize("width", [5, 64])
def test_rounding_of_another_shape_is_no_interaction(width: int) -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.b = nn.GRU(3, width, batch_first=True), nn.Linear(2, width)

        def forward(self, frames: Tensor, lengths: Tensor, b: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
            states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=9)
            return self.b(b) + states.sum(1)

    batch = {"frames": torch.randn(B, 9, 3), "lengths": torch.tensor([3, 9, 5, 7, 2, 8, 4]), "b": torch.randn(B, 2)}
    found = trace(Packed(), batch, modalities={"audio": ["frames", "lengths"], "b": "b"})
    assert not found.calls[0].batch_coupled
    assert not any("rows interact" in message for message in found.messages)


def test_a_queue_that_each_forward_writes_is_rolled_back_whole() -> None:
    class Queue(Dual):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("queue", torch.randn(5, 20_000))
            self.at = 40

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            self.queue[:, self.at : self.at + B] = b.T
            self.at += B
            return {"logits": self.b(b), "against": self.a(a).mean() + a @ self.queue[:, 100:]}

    model = Queue()
    kept = model.queue.clone()
    found = trace(model, {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert found.call("model#0:against").depends_on == {"a"}
    assert torch.equal(model.queue, kept)


def test_state_in_tuples_arrays_flags_and_numbers() -> None:
    class Odd(Dual):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.seen = (torch.zeros(13), torch.zeros(13)), np.zeros(3)
            self.aux, self.best, self.ready = 0.0, float("nan"), False
            self.scale = nn.Parameter(torch.ones(13))
            self.register_buffer("last", -torch.zeros(13))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            if not self.ready:
                self.scale.data.copy_(a.std())
                self.ready = True
            x, y = self.a(a) * self.scale + self.hidden[0], self.b(b)
            self.hidden, self.aux = (x[0], y[0]), x.mean(1)
            self.seen += 1
            self.last.fill_(float("nan"))
            return x + y

    model, batch = Odd(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)}
    hidden = model.hidden
    found = trace(model, batch)
    assert [call.path for call in found.streams["a"]] == ["a.0", "a.1", "a.2"]
    assert model.hidden is hidden
    assert (model.aux, model.ready, model.seen.tolist()) == (0.0, False, [0, 0, 0])
    assert torch.equal(model.scale, torch.ones(13))
    assert torch.equal(torch.signbit(model.last), torch.ones(13, dtype=torch.bool))


def test_what_holds_no_tensor_we_know_hides_no_taps() -> None:
    class Holder:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    class Wrapped(Dual):
        def forward(self, a: Tensor, b: Tensor) -> object:
            return Holder(self.one(a).tensor + self.b(b))

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(5, 11), nn.ReLU(), nn.Linear(11, 13))

        def forward(self, x: Tensor) -> object:
            return Holder(self.layers(x))

    model = Wrapped()
    model.one = One()
    found = trace(model, {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert [tap.id for tap in found.taps["a"]] == ["one.layers.1#0", "one.layers.2#0"]
    assert any("no tensor was found in what the model returns" in message for message in found.messages)


def test_tensors_that_cannot_be_read_are_named() -> None:
    class Mapped(Dual):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(13, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.vmap(self.head)(self.a(a) + self.b(b))

    found = trace(Mapped(), {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert found.calls[0].depends_on == {"a", "b"}
    assert any("head#0: holds tensors whose values cannot be read" in message for message in found.messages)


def test_sizes_of_effects_do_not_count_other_noise() -> None:
    class Gate(Dual):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.shift, self.head = (
                nn.Parameter(torch.zeros(1)),
                nn.Parameter(torch.zeros(13)),
                nn.Identity(),
            )

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.a(a) + 1e-3 * self.gate * self.b(b)) + self.shift

    model = Gate()
    model.a[2].bias.data.mul_(100)
    found = trace(model, {"a": torch.randn(B, 5), "b": torch.randn(B, 5)})
    assert found.call("head").state("b") == "wired"
    assert found.call("head").effects["b"] < 1e-4


def test_sparse_modalities_are_refused() -> None:
    with pytest.raises(InputError, match="'a' is a sparse or nested tensor; make it dense first"):
        trace(Dual(), {"a": torch.randn(B, 5).to_sparse(), "b": torch.randn(B, 5)})

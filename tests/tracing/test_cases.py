"""What real models do to a tracer: gates, masks, branches, packed sequences, noise, exceptions, odd batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fusionscope.errors import InputError, ModelError
from fusionscope.tracing import Trace, trace

from .models import B


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Pair(nn.Module):
    """Two linear encoders and a head; subclasses say how they meet."""

    def __init__(self, **extra: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 11), nn.Linear(5, 11), nn.Linear(11, 3)
        for name, module in extra.items():
            self.add_module(name, module)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.meet(self.a(a).tanh(), self.b(b).tanh()))

    def meet(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def pair() -> dict[str, Tensor]:
    return {"a": torch.randn(B, 5), "b": torch.randn(B, 5)}


def told(found: Trace, words: str) -> bool:
    return any(words in message for message in found.messages)


# ------------------------------------------------------------------ where


def test_early_fusion_leaves_no_stream() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(10, 11), nn.Linear(11, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.first(torch.cat([a, b], 1)))

    found = trace(Early(), pair())
    assert found.streams == {"a": [], "b": []}
    assert found.taps == {"a": [], "b": []}
    (point,) = found.fusion_points
    assert (point.functional, point.kind, point.call.path if point.call else "") == (True, "join", "first")


def test_middle_and_late_fusion() -> None:
    middle = Pair()
    found = trace(middle, pair())
    assert [p.call.path for p in found.fusion_points if p.call] == ["head"]

    class Late(Pair):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.a(a)) + self.head(self.b(b))

    found = trace(Late(), pair())
    assert [(p.call, p.functional, p.kind) for p in found.fusion_points] == [(None, True, "mix")]
    assert [c.id for c in found.streams["b"]] == ["b#0", "head#1"]


def test_tokens_side_by_side_are_separable_until_the_mean() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(5, 11), nn.GELU(), nn.LayerNorm(11))
            self.head = nn.Linear(11, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.layers(torch.cat([a, b], 1)).mean(1))

    found = trace(Tokens(), {"a": torch.randn(B, 13, 5), "b": torch.randn(B, 17, 5)})
    (point,) = found.fusion_points
    assert (point.kind, point.functional) == ("join", True)
    assert [(c.path, c.kind) for c in found.fused] == [
        ("layers.0", None),
        ("layers.1", None),
        ("layers.2", None),
        ("head", None),
    ]
    assert point.mixed_by is not None
    assert point.mixed_by.path == "head"


def test_transformer_encoder_shows_its_calls_without_the_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 19, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    class Net(Pair):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.encoder(a).mean(1)[:, :11] + self.b(b))

    found = trace(Net(encoder=encoder).eval(), {"a": torch.randn(B, 13, 12), "b": torch.randn(B, 5)})
    assert "encoder.layers.1.linear1#0" in [c.id for c in found.streams["a"]]
    assert [tap.call.axes.unit for tap in found.taps["a"]] == [2, 2]
    assert torch.backends.mha.get_fastpath_enabled()


def test_packed_sequences_keep_their_lengths() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.gru, self.b = nn.Linear(5, 7), nn.GRU(7, 11, batch_first=True), nn.Linear(5, 11)

        def forward(self, frames: Tensor, lengths: Tensor, b: Tensor) -> Tensor:
            packed = pack_padded_sequence(self.embed(frames), lengths, batch_first=True)  # sorted, else it raises
            states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
            return states.sum(1) + self.b(b)

    lengths = torch.tensor([13, 11, 8, 8, 5, 3, 2])
    batch = {"frames": torch.randn(B, 13, 5), "lengths": lengths, "b": torch.randn(B, 5)}
    found = trace(Packed(), batch, modalities={"audio": ["frames", "lengths"], "b": "b"})
    assert [c.path for c in found.streams["audio"]] == ["embed", "gru"]
    assert told(found, "audio: the model fails on other samples' values (RuntimeError")
    assert told(found, "its integer tensors (lengths, masks, ids) were kept")


def test_lengths_from_another_modality_are_pointed_out() -> None:
    class Misa(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.gru, self.head = nn.Embedding(31, 11), nn.GRU(5, 11, batch_first=True), nn.Linear(22, 3)

        def forward(self, audio: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
            packed = pack_padded_sequence(audio, lengths, batch_first=True, enforce_sorted=False)
            _, last = self.gru(packed)
            return self.head(torch.cat([last[0], self.text(ids).mean(1)], 1))

    lengths = torch.tensor([3, 11, 8, 13, 5, 9, 2])
    batch = {"audio": torch.randn(B, 13, 5), "ids": torch.randint(0, 31, (B, 13)), "lengths": lengths}
    found = trace(Misa(), batch, modalities={"audio": "audio", "text": ["ids", "lengths"]})
    assert found.call("gru#0:1").depends_on == {"audio", "text"}
    assert told(found, "gru#0: besides audio, also depends on text, by integers: if that is its mask or lengths")
    own = trace(Misa(), batch, modalities={"audio": "audio", "text": "ids", "lengths": "lengths"})
    assert own.call("text").depends_on == {"text"}


# ----------------------------------------------------------------- whether


def test_a_gate_that_starts_at_zero_is_wired_but_inactive() -> None:
    class Gated(Pair):
        def __init__(self) -> None:
            super().__init__(after=nn.Linear(11, 11))
            self.gate = nn.Parameter(torch.zeros(1))

        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            return self.after(x + self.gate * y)

    model = Gated()
    found = trace(model, pair())
    after = found.call("after")
    assert (after.depends_on, after.wired_to) == ({"a"}, {"a", "b"})
    assert [after.state(m) for m in "ab"] == ["yes", "wired"]
    assert [p.call.path for p in found.fusion_points if p.call] == ["after"]
    assert told(found, "wired to b, inactive: parameters that are all zero hide it (gate)")
    assert told(found, "b reaches no output in this batch: parameters that are all zero hide it")
    assert [c.path for c in found.streams["a"]] == ["a"]
    assert torch.equal(model.gate, torch.zeros(1))


def test_a_last_layer_that_starts_at_zero() -> None:
    class Zero(Pair):
        def __init__(self) -> None:
            super().__init__(side=nn.Linear(11, 11))
            nn.init.zeros_(self.side.weight)
            nn.init.zeros_(self.side.bias)

        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            return x + self.side(y)

    found = trace(Zero(), pair())
    assert [c.path for c in found.streams["b"]] == ["b", "side"]
    assert found.call("head").state("b") == "wired"
    assert [tap.call.path for tap in found.taps["b"]] == ["b"]


def test_zero_biases_cost_no_run() -> None:
    model = Pair()
    for layer in (model.a, model.b, model.head):
        nn.init.zeros_(layer.bias)
    assert trace(model, pair()).forwards == trace(Pair(), pair()).forwards


def test_a_saturated_unit_and_masked_tokens() -> None:
    class Dead(Pair):
        def __init__(self) -> None:
            super().__init__(relu=nn.ReLU())

        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            return x + self.relu(y - 5)

    found = trace(Dead(), pair())
    assert found.call("relu").depends_on == frozenset()
    assert told(found, "b reaches no output in this batch")

    class Masked(Pair):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            scores = torch.cat([self.a(a)[:, :, None], self.b(b)[:, :, None].fill_(-1e9)], 1).softmax(1)
            return self.head(scores[:, :11, 0])

    found = trace(Masked(), pair())
    assert found.call("head").depends_on == {"a"}


def test_a_weak_effect_is_labelled_and_not_denied() -> None:
    class Weak(Pair):
        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            return x + 3e-8 * y

    found = trace(Weak(), pair())
    head = found.call("head")
    assert head.depends_on == {"a", "b"}
    assert (head.state("a"), head.state("b")) == ("yes", "weak")
    assert 0 < head.effects["b"] < 1e-6
    assert told(found, "depends on b only weakly")


@pytest.mark.parametrize(("threshold", "flips"), [(0.0, True), (-99.0, False)])
def test_a_branch_on_the_inputs_mean(threshold: float, flips: bool) -> None:
    class Branch(Pair):
        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            return self.extra(x) if float(self.seen[0].mean()) > threshold else x

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            self.seen = b
            return super().forward(a, b)

    batch = pair()
    batch["b"] = batch["b"].abs() * torch.tensor([1.0, -1, -1, -1, -1, -1, -1])[:, None]
    found = trace(Branch(extra=nn.Linear(11, 11)), batch)
    extra = found.call("extra")
    assert extra.conditional is flips
    assert extra.depends_on == ({"a", "b"} if flips else {"a"})
    assert told(found, "extra is called 1 times, 0 when b changes") is flips


def test_a_private_generator_never_gives_a_false_no() -> None:
    generator = np.random.default_rng(0)

    class Noisy(Pair):
        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            return x + 0.001 * torch.from_numpy(generator.standard_normal(x.shape)).float() + y

    found = trace(Noisy(after=nn.Linear(3, 2)), pair())
    head = found.call("head")
    assert not head.deterministic
    assert head.depends_on == {"a", "b"}
    assert [c.path for c in found.streams["a"]] == ["a"]

    class Drowned(Pair):
        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            return x + 10 * torch.from_numpy(generator.standard_normal(x.shape)).float() + 0.01 * y

    found = trace(Drowned(), pair())
    assert found.call("head").state("b") == "unknown"
    assert told(found, "whether it depends on b is unknown")


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draw = np.random.default_rng(0).standard_normal

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_numpy(self.draw(x.shape)).float()


def test_a_stream_goes_on_through_private_noise() -> None:
    class Inside(Pair):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.more(self.noise(self.a(a))) + self.b(b))

    found = trace(Inside(noise=Noise(), more=nn.Linear(11, 11)), pair())
    assert [c.path for c in found.streams["a"]] == ["a", "noise", "more"]
    assert [c.path for c in found.streams["b"]] == ["b"]


# -------------------------------------------------------------------- rows


def test_attention_over_the_batch_and_contrastive_logits() -> None:
    class Batchwise(Pair):
        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            return self.norm((x @ x.T).softmax(1) @ x) + y

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            x, y = self.a(a), self.b(b)
            return {"logits": super().forward(a, b), "pairs": x @ y.T}

    found = trace(Batchwise(norm=nn.LayerNorm(11)), pair())
    norm = found.call("norm")
    assert norm.batch_coupled
    assert norm.depends_on == {"a"}
    assert found.calls[0].batch_coupled
    assert told(found, "rows interact: per-sample features are not defined here")
    assert "norm#0" not in [tap.id for tap in found.taps["a"]]


def test_a_batch_mean_is_seen_although_it_is_symmetric() -> None:
    class Loss(Pair):
        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            out = super().forward(a, b)
            return {"logits": out, "loss": self.scale((out.mean() + self.b(b).mean())[None])}

    found = trace(Loss(scale=nn.Linear(1, 1)), pair())
    assert found.call("scale").depends_on == {"a", "b"}
    assert found.call("scale").axes.sample is None


def test_not_a_number_and_equal_samples() -> None:
    class Broken(Pair):
        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y.abs().log().index_fill(0, torch.tensor([2]), torch.nan)

    batch = pair()
    batch["a"][1:] = batch["a"][0]
    batch["a"][3] += 1
    found = trace(Broken(), batch)
    assert told(found, "non-finite values")
    assert found.call("head").depends_on == {"a", "b"}
    assert [c.path for c in found.streams["a"]] == ["a"]


# ------------------------------------------------------------------- model


def test_an_exception_caught_inside_forward() -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            self.inner(x)
            raise ArithmeticError("planted")

    class Careful(Pair):
        def meet(self, x: Tensor, y: Tensor) -> Tensor:
            try:
                return self.fragile(x[:, :5])
            except ArithmeticError:
                return self.spare(x) + y

    found = trace(Careful(fragile=Fragile(), spare=nn.Linear(11, 11)), pair())
    assert found.call("spare").parent == ("", 0)
    assert found.call("spare").depends_on == {"a"}
    assert "fragile" not in [c.path for c in found.calls]


def test_one_sample_with_a_donor() -> None:
    one, other = ({"a": torch.randn(1, 5), "b": torch.randn(1, 5)} for _ in range(2))
    with pytest.raises(InputError, match="give another one as donor="):
        trace(Pair(), one)
    found = trace(Pair(), one, donor=other)
    assert [c.path for c in found.streams["a"]] == ["a"]
    assert found.batch_size == 2


def test_sharded_models_are_refused() -> None:
    sharded = type("FSDPModule", (), {})
    model = Pair()
    model.a.__class__ = type("FSDPLinear", (sharded, nn.Linear), {})
    with pytest.raises(ModelError, match=r"a is sharded \(FSDP\).*gathered weights"):
        trace(model, pair())

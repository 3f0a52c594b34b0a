"""Fuses by attention: the layer against loops, and what comes from whom."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusionscope.errors import InputError
from fusionscope.nn import BottleneckAttention, CrossAttention
from fusionscope.nn._attention_fuses import Layer, _positions

SIZES = {"a": 2, "b": 3, "c": 5}
LENGTHS = {"a": 7, "b": 11, "c": 13}


def sequences(batch: int = 3, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {m: torch.randn(batch, LENGTHS[m], c) for m, c in SIZES.items()}


def made(kind: type, sizes: dict[str, int] = SIZES, **settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    fuse = kind(sizes, width=8, heads=2, **settings)
    for p in fuse.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return fuse


def normed(norm: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    deviation = ((x - x.mean()) ** 2).mean().sqrt()
    return (x - x.mean()) / (deviation**2 + norm.eps).sqrt() * norm.weight + norm.bias


def slow_layer(layer: Layer, x: Tensor, source: Tensor | None) -> Tensor:
    """One sample, step by step, head by head, channel by channel."""
    width = x.shape[1]
    size = width // layer.heads
    sources = (
        [normed(layer.norm, row) for row in x] if source is None else [normed(layer.source_norm, r) for r in source]
    )
    pairs = [layer.key_value.weight @ s + layer.key_value.bias for s in sources]
    rows = []
    for row in x:
        query = layer.query.weight @ normed(layer.norm, row) + layer.query.bias
        heads = []
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            scores = [math.exp((query[part] @ p[:width][part]).item() / math.sqrt(size)) for p in pairs]
            heads.append(sum(s / sum(scores) * p[width:][part] for s, p in zip(scores, pairs, strict=True)))
        row = row + layer.out[0].weight @ torch.cat(heads) + layer.out[0].bias
        hidden = layer.feed[1].weight @ normed(layer.feed[0], row) + layer.feed[1].bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        rows.append(row + layer.feed[3].weight @ hidden + layer.feed[3].bias)
    return torch.stack(rows)


@pytest.mark.parametrize("cross", [False, True])
def test_layer_by_loops(cross):
    torch.manual_seed(0)
    layer = Layer(6, 3, source=10 if cross else None)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x, source = torch.randn(2, 5, 6), torch.randn(2, 7, 10) if cross else None
    with torch.no_grad():
        out = layer(x, source)
        for i in range(2):
            expected = slow_layer(layer, x[i], None if source is None else source[i])
            torch.testing.assert_close(out[i], expected, rtol=1e-4, atol=1e-4)


def test_positions():
    x = torch.zeros(2, 5, 3)
    found = _positions(x, 8)
    for t in range(5):
        angles = [t / 10000 ** (2 * i / 8) for i in range(4)]
        expected = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])
        torch.testing.assert_close(found[t], expected)
    grid = _positions(torch.zeros(2, 3, 5, 7), 16).view(5, 7, 16)
    torch.testing.assert_close(grid[3, 4], torch.cat([_positions(x, 8)[3], _positions(x, 8)[4]]))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_cross_attention_step_by_step(pooling):
    fuse = made(CrossAttention, pooling=pooling)
    x = sequences()
    tokens = {m: fuse.embed[m](x[m]) + _positions(x[m], 8) for m in x}
    parts = []
    for m in x:
        gathered = []
        for n in x:
            if n != m:
                z = tokens[m]
                for layer in fuse.cross[m][n]:
                    z = layer(z, tokens[n])
                gathered.append(z)
        z = torch.cat(gathered, 2)
        for layer in fuse.memory[m]:
            z = layer(z)
        z = fuse.norms[m](z)
        parts.append(z.sum(1) / z.shape[1] if pooling == "mean" else z[:, LENGTHS[m] - 1])
    assert fuse.channels == 3 * 2 * 8
    torch.testing.assert_close(fuse(x), torch.cat(parts, 1))


def test_every_target_hears_every_source_and_no_absent_one():
    fuse = made(CrossAttention).eval()
    x, other = sequences(), sequences(seed=1)
    plain = fuse(x).view(3, 3, 16)
    for changed in SIZES:
        moved = (fuse({**x, changed: other[changed]}).view(3, 3, 16) - plain).abs().amax((0, 2)) > 1e-4
        assert moved.all()
    absent = {"b": torch.zeros(3, dtype=torch.bool)}
    out = fuse(x, absent).view(3, 3, 16)
    assert torch.equal(out[:, 1], torch.zeros(3, 16))
    assert (out[:, [0, 2]] != plain[:, [0, 2]]).all()


def test_what_is_gathered_from_the_absent_is_zero():
    """With nobody else there, a target's tokens only go through their own feed-forward and self-attention layers."""
    fuse = made(CrossAttention)
    x = sequences()
    absent = {m: torch.zeros(3, dtype=torch.bool) for m in ("b", "c")}
    token = fuse.embed["a"](x["a"]) + _positions(x["a"], 8)
    streams = []
    for n in ("b", "c"):
        z = token
        for layer in fuse.cross["a"][n]:
            z = z + layer.feed(z)
        streams.append(z)
    expected = fuse.norms["a"](fuse.memory["a"](torch.cat(streams, 2))).mean(1)
    out = fuse(x, absent)
    torch.testing.assert_close(out[:, :16], expected)
    assert torch.equal(out[:, 16:], torch.zeros(3, 32))


def slow_bottleneck(fuse: BottleneckAttention, x: dict[str, Tensor]) -> Tensor:
    """One sample, with the modalities that are in ``x`` only."""
    z = {
        m: torch.cat([fuse.classes[list(SIZES).index(m)][None], fuse.embed[m](v) + _positions(v[None], 8)])
        for m, v in x.items()
    }
    shared = fuse.bottleneck
    for layer in fuse.layers:
        own = []
        for m in z:
            y = layer[m](torch.cat([z[m], shared])[None])[0]
            z[m] = y[: len(z[m])]
            own.append(y[len(z[m]) :])
        shared = sum(own) / len(own)
    return sum(fuse.norm(v[0]) for v in z.values()) / len(z)


@pytest.mark.parametrize("layers", [2, 3])
def test_bottleneck_step_by_step(layers):
    """An absent modality leaves exactly what the fuse of the others would give."""
    fuse = made(BottleneckAttention, layers=layers)
    x = sequences()
    present = {"b": torch.tensor([True, False, True]), "c": torch.tensor([True, True, False])}
    whole, some = fuse(x), fuse(x, present)
    for i in range(3):
        sample = {m: v[i] for m, v in x.items()}
        torch.testing.assert_close(whole[i], slow_bottleneck(fuse, sample), rtol=1e-4, atol=1e-4)
        left = {m: v for m, v in sample.items() if m not in present or present[m][i]}
        torch.testing.assert_close(some[i], slow_bottleneck(fuse, left), rtol=1e-4, atol=1e-4)


def test_bottleneck_order_of_modalities_does_not_matter():
    fuse = made(BottleneckAttention)
    other = made(BottleneckAttention, {m: SIZES[m] for m in "cab"})
    state = fuse.state_dict()
    other.load_state_dict({**state, "classes": state["classes"][[2, 0, 1]]})
    torch.testing.assert_close(other(sequences()), fuse(sequences()))


@pytest.mark.parametrize("kind", [CrossAttention, BottleneckAttention])
def test_the_order_of_steps_and_places_matters(kind):
    fuse = made(kind)
    x = {**sequences(), "a": torch.randn(3, 2, 5, 7)}
    plain = fuse(x)
    for changed in ({"b": x["b"].flip(1)}, {"a": x["a"].flip(2)}, {"a": x["a"].flip(3)}):
        assert (fuse({**x, **changed}) - plain).abs().max() > 1e-4


@pytest.mark.parametrize("kind", [CrossAttention, BottleneckAttention])
def test_dropout_is_for_training(kind):
    fuse = made(kind, dropout=0.5)
    x = sequences()
    assert not torch.equal(fuse(x), fuse(x))
    assert torch.equal(fuse.eval()(x), fuse(x))


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        (CrossAttention, {"width": 10, "heads": 2}, "multiple of heads and of 4, got width 10"),
        (BottleneckAttention, {"width": 8, "heads": 3}, "multiple of heads"),
        (CrossAttention, {"pooling": "max"}, "'mean' or 'last', got 'max'"),
        (CrossAttention, {"layers": 0}, "1 layers or more"),
        (BottleneckAttention, {"layers": 1}, "2 layers or more, got 1"),
        (BottleneckAttention, {"bottlenecks": 0}, "1 bottleneck token or more"),
    ],
)
def test_errors(kind, settings, text):
    with pytest.raises(InputError, match=text):
        kind(SIZES, **settings)


def test_unequal_batches_are_an_error():
    x = sequences()
    with pytest.raises(InputError, match="same number of samples.*a \\[2, 7, 2\\]"):
        CrossAttention(SIZES)({**x, "a": x["a"][:2]})

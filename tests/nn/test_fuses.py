"""Fuses of features against slow references and closed forms; what the table of laws does not say."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from fusionscope.errors import InputError
from fusionscope.nn import Bilinear, Concat, Gated, LowRankTensorFusion, Mean, Sum, SumAndProduct, TensorFusion
from fusionscope.nn._fuse_names import ENSEMBLES, FUSES

SIZES = {"a": 2, "b": 3, "c": 5}
SHAPES = {"vectors": (), "sequences": (7,), "maps": (7, 11)}


def draw(sizes: dict[str, int] = SIZES, locations: tuple[int, ...] = (), batch: int = 13) -> dict[str, Tensor]:
    """Random features; channels first for maps, last for sequences."""
    torch.manual_seed(1)
    shape = {m: (*locations, c) if len(locations) < 2 else (c, *locations) for m, c in sizes.items()}
    return {m: torch.randn(batch, *s) for m, s in shape.items()}


def at(features: dict[str, Tensor], place: tuple[int, ...]) -> dict[str, Tensor]:
    """The vectors ``[B,C]`` of one location."""
    return {m: x[:, place[0]] if len(place) == 1 else x[(..., *place)] for m, x in features.items()}


def linear(module: torch.nn.Module, x: Tensor) -> Tensor:
    return (module.weight * x).sum(-1) + module.bias


def slow_sum(fuse: Sum, x: dict[str, Tensor]) -> list[Tensor]:
    return [linear(fuse.project[m], v) for m, v in x.items()]


def slow_gated(fuse: Gated, x: dict[str, Tensor]) -> Tensor:
    together = torch.cat(list(x.values()))
    scores = linear(fuse.gate, together).view(len(x), -1)
    z = scores.exp() / scores.exp().sum(0) if fuse.tied else 1 / (1 + (-scores).exp())
    return sum(z[i] * linear(fuse.value[m], v).tanh() for i, (m, v) in enumerate(x.items()))


def slow_tensor(fuse: TensorFusion, x: dict[str, Tensor]) -> Tensor:
    vectors = [[1.0, *v.tolist()] for v in x.values()]
    return torch.tensor([math.prod(values) for values in itertools.product(*vectors)])


def slow_low_rank(fuse: LowRankTensorFusion, x: dict[str, Tensor]) -> Tensor:
    out = fuse.bias.clone()
    for r in range(fuse.rank):
        for o in range(fuse.channels):
            row = r * fuse.channels + o
            factors = [(fuse.factors[m].weight[row] * v).sum() + fuse.factors[m].bias[row] for m, v in x.items()]
            out[o] += fuse.weight[r] * math.prod(factors)
    return out


def slow_bilinear(fuse: Bilinear, x: dict[str, Tensor]) -> Tensor:
    out = fuse.bias.clone()
    for (m, n), form in zip(itertools.combinations(x, 2), fuse.forms, strict=True):
        weight = form.weight.view(fuse.channels, len(x[n]), len(x[m]))
        out += torch.stack([x[n] @ w @ x[m] for w in weight])
    return out


REFERENCES = {
    "concat": (lambda s: Concat(s), lambda f, x: torch.cat(list(x.values()))),
    "sum": (lambda s: Sum(s, out=17), lambda f, x: sum(slow_sum(f, x))),
    "mean": (lambda s: Mean(s, out=17), lambda f, x: sum(slow_sum(f, x)) / len(x)),
    "product": (lambda s: SumAndProduct(s, out=17), lambda f, x: sum(slow_sum(f, x)) + math.prod(slow_sum(f, x))),
    "gated": (lambda s: Gated(s, out=17), slow_gated),
    "gated the other way": (lambda s: Gated(s, out=17, tied=len(s) != 2), slow_gated),
    "tensor": (lambda s: TensorFusion(s), slow_tensor),
    "low rank": (lambda s: LowRankTensorFusion(s, out=17, rank=3), slow_low_rank),
    "bilinear": (lambda s: Bilinear(s, out=17), slow_bilinear),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", REFERENCES)
def test_slow_reference(name, count, kind):
    """Sample by sample, location by location."""
    sizes = dict(list(SIZES.items())[:count])
    build, reference = REFERENCES[name]
    torch.manual_seed(0)
    fuse = build(sizes)
    for p in fuse.parameters():
        torch.nn.init.normal_(p)
    x = draw(sizes, SHAPES[kind])
    out = fuse(x)
    assert (
        out.shape == (13, fuse.channels)
        if kind == "vectors"
        else out.numel() == 13 * fuse.channels * 7 * (11 if kind == "maps" else 1)
    )
    for place in [(0,) * len(SHAPES[kind]), tuple(n - 2 for n in SHAPES[kind])]:
        vectors = at(x, place) if place else x
        got = at({"": out}, place)[""] if place else out
        for b in (0, 11):
            expected = reference(fuse, {m: v[b] for m, v in vectors.items()})
            torch.testing.assert_close(got[b], expected, rtol=1e-4, atol=1e-4)


def test_gated_by_hand():
    fuse = Gated({"a": 1, "b": 1})
    with torch.no_grad():
        for m, w in (("a", 2.0), ("b", 3.0)):
            fuse.value[m].weight.fill_(w)
            fuse.value[m].bias.zero_()
        fuse.gate.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        fuse.gate.bias.copy_(torch.tensor([0.5, 0.0]))
    z = 1 / (1 + math.exp(-(0.7 - 0.2 + 0.5)))
    x = {"a": torch.tensor([[0.7]]), "b": torch.tensor([[0.2]])}
    assert fuse(x).item() == pytest.approx(z * math.tanh(1.4) + (1 - z) * math.tanh(0.6), abs=1e-6)
    gates = fuse.gates(x)
    assert gates["a"].item() == pytest.approx(z, abs=1e-6)
    assert gates["b"].item() == pytest.approx(1 - z, abs=1e-6)


def test_gates_are_in_the_paper_s_form_by_default():
    assert [Gated(7, modalities=names).tied for names in (("a",), ("a", "b"), tuple(SIZES))] == [False, True, False]


@pytest.mark.parametrize("count", [2, 3])
def test_low_rank_of_full_rank_is_any_map_of_the_tensor(count):
    """Unit vectors of all modalities but the last pick one slice of the weight tensor per rank."""
    sizes = dict(list(SIZES.items())[:count])
    tensor = TensorFusion(sizes)
    torch.manual_seed(2)
    weight = torch.randn(11, *(c + 1 for c in sizes.values()))
    rows = list(itertools.product(*(range(c + 1) for c in list(sizes.values())[:-1])))
    fuse = LowRankTensorFusion(sizes, out=11, rank=len(rows))
    with torch.no_grad():
        fuse.weight.fill_(1.0)
        fuse.bias.copy_(torch.randn(11))
        for i, m in enumerate(sizes):
            full = torch.zeros(len(rows), 11, sizes[m] + 1)
            for r, row in enumerate(rows):
                if i < count - 1:
                    full[r, :, row[i]] = 1.0
                else:
                    full[r] = weight[(slice(None), *row)]
            fuse.factors[m].bias.copy_(full[..., 0].flatten())
            fuse.factors[m].weight.copy_(full[..., 1:].flatten(0, 1))
    x = draw(sizes)
    torch.testing.assert_close(fuse(x), tensor(x) @ weight.flatten(1).T + fuse.bias, rtol=1e-4, atol=1e-4)
    present = {"a": torch.arange(13) % 2 == 0, "b": torch.arange(13) % 3 > 0}
    some = torch.stack([present.get(m, torch.ones(13, dtype=torch.bool)) for m in sizes]).any(0)
    expected = tensor(x, present) @ weight.flatten(1).T + fuse.bias
    torch.testing.assert_close(fuse(x, present)[some], expected[some], rtol=1e-4, atol=1e-4)


def test_one_present_modality():
    """What each fuse gives where only b is there."""
    x = {"a": torch.full((1, 2), torch.nan), "b": torch.tensor([[3.0, 5.0]])}
    absent = {"a": torch.tensor([False])}
    b = x["b"]
    names = ("a", "b")
    assert torch.equal(Sum(2, modalities=names)(x, absent), b)
    assert torch.equal(Mean(2, modalities=names)(x, absent), b)
    assert torch.equal(SumAndProduct(2, modalities=names)(x, absent), 2 * b)
    assert TensorFusion(2, modalities=names)(x, absent).tolist() == [[1, 3, 5, 0, 0, 0, 0, 0, 0]]
    gated = Gated(2, modalities=names)
    torch.testing.assert_close(gated(x, absent), gated.value["b"](b).tanh())
    assert {m: z.tolist() for m, z in gated.gates(x, absent).items()} == {"a": [[0, 0]], "b": [[1, 1]]}
    bilinear = Bilinear(2, modalities=names)
    torch.nn.init.normal_(bilinear.bias)
    assert torch.equal(bilinear(x, absent)[0], bilinear.bias)
    low = LowRankTensorFusion(2, modalities=names, rank=1)
    expected = low.weight * low.factors["a"].bias * low.factors["b"](b) + low.bias
    torch.testing.assert_close(low(x, absent), expected)


@pytest.mark.parametrize("name", FUSES)
def test_nobody_present_gives_zeros(name):
    torch.manual_seed(0)
    fuse = FUSES[name]({"a": 5, "b": 5})
    for p in fuse.parameters():
        torch.nn.init.normal_(p)
    x = {m: torch.full((3, 5), torch.nan) for m in ("a", "b")}
    x["a"][2] = 1.0
    present = {"a": torch.tensor([False, False, True]), "b": torch.tensor([False, False, False])}
    out = fuse(x, present)
    assert out.shape == (3, fuse.channels)
    assert torch.equal(out[:2], torch.zeros(2, fuse.channels))
    assert out.isfinite().all()
    assert out[2].abs().sum() > 0
    if out.requires_grad:
        out.sum().backward()
        assert all(p.grad.isfinite().all() for p in fuse.parameters())


@pytest.mark.parametrize("name", ["sum", "mean", "sum_and_product", "low_rank_tensor"])
def test_the_order_of_modalities_does_not_matter(name):
    torch.manual_seed(0)
    one, two = FUSES[name]({"a": 5, "b": 5, "c": 5}), FUSES[name]({"c": 5, "a": 5, "b": 5})
    two.load_state_dict(one.state_dict())
    x = draw(dict.fromkeys("abc", 5))
    present = {"a": torch.arange(13) % 2 == 0, "c": torch.arange(13) % 3 == 0}
    torch.testing.assert_close(two(x, present), one(x, present))


def test_tensor_fusion_of_another_order_is_the_tensor_transposed():
    x = draw()
    one, two = TensorFusion(SIZES)(x), TensorFusion({m: SIZES[m] for m in "cab"})(x)
    torch.testing.assert_close(two.view(13, 6, 3, 4).permute(0, 2, 3, 1).flatten(1), one)


@pytest.mark.parametrize("name", FUSES)
def test_by_name_and_with_one_modality(name):
    fuse = FUSES[name]({"a": 5})
    assert fuse.modalities == ("a",)
    out = fuse({"a": torch.randn(3, 5, 7, 11)})
    assert out.shape == ((3, fuse.channels, 7, 11) if fuse.keeps_locations else (3, fuse.channels))


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles_by_name(name):
    fuse = ENSEMBLES[name](5, modalities=("a", "b"))
    assert fuse({m: torch.randn(3, 5 * fuse.inputs, 7, 11) for m in "ab"}).shape == (3, 5, 7, 11)
    assert fuse.channels == 5


def test_errors():
    with pytest.raises(InputError, match=r"Sum adds channel by channel.*\{'a': 2, 'b': 3, 'c': 5\}; give out=5"):
        Sum(SIZES)
    with pytest.raises(InputError, match=r"TensorFusion of .*2,146,689 channels.*give project="):
        TensorFusion(128, modalities=tuple(SIZES))
    with pytest.raises(InputError, match=r"must differ in their channels only.*got a \[2, 7, 3\], b \[2, 5, 3\]"):
        Mean(3, modalities=("a", "b"))({"a": torch.zeros(2, 7, 3), "b": torch.zeros(2, 5, 3)})
    with pytest.raises(InputError, match=r"must differ in their channels only"):
        Gated(3, modalities=("a", "b"))({"a": torch.zeros(2, 3), "b": torch.zeros(2, 5, 3)})
    with pytest.raises(InputError, match="'a' must have 3 channels"):
        Concat({"a": 3, "b": 5})({"a": torch.zeros(2, 5), "b": torch.zeros(2, 5)})
    with pytest.raises(InputError, match="rank of 1 or more"):
        LowRankTensorFusion(SIZES, rank=0)
    with pytest.raises(InputError, match=r"Sum\(3\): name the modalities"):
        Sum(3)

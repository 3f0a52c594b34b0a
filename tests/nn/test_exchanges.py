"""Channel shuffle, pixel shift and AsymFusion against known answers and a slow reference."""

from __future__ import annotations

import copy
import io
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from fusionscope.errors import InputError
from fusionscope.nn import AsymFusion, ChannelShuffle, PixelShift
from fusionscope.nn.functional import channel_shuffle, pixel_shift
from fusionscope.nn.functional._exchanges import head_size

from .exchange_block import Bottleneck, shift_slowly

NAMES = ("rgb", "depth", "audio")


def maps(*shape: int, modalities: int = 2, seed: int = 0, grad: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(shape, generator=generator).requires_grad_(grad) for m in NAMES[:modalities]}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[m], b[m]) for m in a)


def test_known_answers():
    x0 = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(1, 5, 3, 3)
    x = {"rgb": x0, "depth": 10 * x0}
    shuffled, moved, fused = channel_shuffle(x), pixel_shift(x), AsymFusion()(x)
    assert torch.equal(shuffled["rgb"][:, 4], x["depth"][:, 4])
    assert torch.equal(shuffled["depth"][:, 4], x["rgb"][:, 4])
    assert torch.equal(shuffled["rgb"][:, :4], x0[:, :4])
    assert moved["rgb"][0].tolist() == [
        [[0, 0, 0], [1, 2, 3], [4, 5, 6]],
        [[0, 1, 2], [0, 4, 5], [0, 7, 8]],
        [[2, 3, 0], [5, 6, 0], [8, 9, 0]],
        [[4, 5, 6], [7, 8, 9], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
    ]
    assert torch.equal(moved["depth"], 10 * moved["rgb"])
    assert fused["rgb"][0, 0].tolist() == [[1, 2, 3], [14, 25, 36], [47, 58, 69]]
    assert torch.equal(fused["rgb"][:, 4], x0[:, 4])


def test_group_sizes():
    for channels, size in {64: 48, 128: 100, 256: 204, 512: 408, 5: 4, 10: 8, 13: 8}.items():
        assert head_size(channels, 1 / 5, "part") == size
    # In floating point, C (1 - 3/10) and C (1 - 4/5) fall short of some whole numbers.
    for ratio in (Fraction(1, 5), Fraction(1, 10), Fraction(1, 3), Fraction(1, 2), Fraction(3, 10), Fraction(4, 5)):
        for channels in range(20, 1000):
            size = 4 * math.floor(channels * (1 - ratio) / 4)
            assert head_size(channels, float(ratio), "part") == size
            assert channels - size >= channels * ratio


@pytest.mark.parametrize("channels", [64, 128, 10, 13, 5])
@pytest.mark.parametrize("training", [True, False])
def test_bottleneck_equals_the_released_algorithm(channels, training):
    block = Bottleneck(channels, NAMES[:2], AsymFusion()).train(training)
    x, y = maps(3, 2 * channels, 5, 7, grad=True), maps(3, 2 * channels, 5, 7, grad=True)
    twin = copy.deepcopy(block)
    got, expected = block(x), twin.slow(y)
    for m in x:
        torch.testing.assert_close(got[m], expected[m])
    (got["rgb"].square().sum() + got["depth"].sum()).backward()
    (expected["rgb"].square().sum() + expected["depth"].sum()).backward()
    for m in x:
        torch.testing.assert_close(x[m].grad, y[m].grad, rtol=1e-4, atol=1e-3)
    for (name, p), q in zip(block.named_parameters(), twin.parameters(), strict=True):
        scale = q.grad.abs().max()
        assert (p.grad - q.grad).abs().max() <= 1e-4 * scale, name
    assert block.part._pair.heads is None


@pytest.mark.parametrize("modalities", [2, 3])
def test_shift_is_the_slow_one_and_reverse_its_adjoint(modalities):
    x = maps(2, 23, 3, 5, modalities=modalities)
    for reverse in (False, True):
        got = pixel_shift(x, reverse=reverse)
        assert same(got, {m: shift_slowly(v, reverse) for m, v in x.items()})
    other = maps(2, 23, 3, 5, modalities=modalities, seed=1)
    left = sum((pixel_shift(x)[m] * other[m]).sum() for m in x)
    right = sum((pixel_shift(other, reverse=True)[m] * x[m]).sum() for m in x)
    torch.testing.assert_close(left, right)


def test_cycle_of_three_and_its_inverse():
    x = maps(2, 23, 3, 5, modalities=3)
    y = channel_shuffle(x)
    for m, n in zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True):
        assert torch.equal(y[m], torch.cat([x[m][:, :16], x[n][:, 16:]], 1))
    assert same(channel_shuffle(y, inverse=True), x)
    assert not same(channel_shuffle(y), x)
    assert same(ChannelShuffle(inverse=True)(ChannelShuffle()(x)), x)
    # The order is that of the names, if given.
    turned = ChannelShuffle(modalities=NAMES[::-1])(x)
    assert torch.equal(turned["rgb"][:, 16:], x["audio"][:, 16:])
    # Under partial presence the modalities that a sample has form the cycle.
    present = {"depth": torch.tensor([True, False]), "audio": torch.tensor([True, True])}
    y = channel_shuffle(x, present=present)
    assert torch.equal(y["rgb"][1, 16:], x["audio"][1, 16:])
    assert torch.equal(y["rgb"][0, 16:], x["depth"][0, 16:])
    back = channel_shuffle(y, inverse=True, present=present)
    assert same(back, {**x, "depth": torch.stack([x["depth"][0], torch.zeros(23, 3, 5)])})


def test_three_modalities_with_an_identity_between():
    x = maps(2, 13, 3, 5, modalities=3)
    got = AsymFusion()(x)
    for m in x:
        expected = x[m] + sum(shift_slowly(x[n]) for n in x if n != m)
        torch.testing.assert_close(got[m], expected)
    assert {m: v.shape for m, v in PixelShift()(x).items()} == {m: v.shape for m, v in x.items()}
    for m, v in PixelShift()(x).items():
        torch.testing.assert_close(v, got[m])


def test_absent_partners():
    """A sample with one modality keeps it as it is; an absent modality adds nothing."""
    x = maps(3, 13, 3, 5)
    present = {"depth": torch.tensor([True, False, True])}
    for part in (ChannelShuffle(), PixelShift(), AsymFusion()):
        whole, got = part(x), part(x, present)
        assert torch.equal(got["rgb"][1], x["rgb"][1])
        assert (got["depth"][1] == 0).all()
        for m in x:
            assert torch.equal(got[m][::2], whole[m][::2])
    # What the middle makes of nothing (a bias) goes nowhere.
    part = AsymFusion(second_shift=True)
    y = part.before(x, present)
    got = part.after({m: v + 1 for m, v in y.items()}, present)
    assert torch.equal(got["rgb"][1], x["rgb"][1] + 1)
    assert (got["depth"][1] == 0).all()


def fuse(x: dict[str, Tensor], middle: float = 2.0, **settings: object) -> dict[str, Tensor]:
    part = AsymFusion(**settings)
    return part.after({m: middle * v for m, v in part.before(x).items()})


def test_ablations():
    x = maps(2, 13, 3, 5)
    a, b = x["rgb"], x["depth"]
    head = torch.arange(13) < 8
    mask = head[:, None, None]
    assert same(fuse(x, shuffle=False, shift=False), {m: 2 * v for m, v in x.items()})
    assert same(fuse(x, shift=False), {m: 2 * v for m, v in x.items()})
    for shuffle in (True, False):
        got = fuse(x, shuffle=shuffle)
        torch.testing.assert_close(got["rgb"], 2 * a + shift_slowly(b))
        torch.testing.assert_close(got["depth"], 2 * b + shift_slowly(a))
    # The middle sees what is shuffled.
    assert torch.equal(AsymFusion(shift=False).before(x)["rgb"], torch.where(mask, a, b))
    assert same(AsymFusion(shuffle=False).before(x), x)
    # One way: the receiver's tail becomes the other's, the other stays as it is.
    got = fuse(x, receivers=("depth",))
    assert torch.equal(got["rgb"], 2 * a)
    torch.testing.assert_close(got["depth"], torch.where(mask, 2 * b + shift_slowly(a), 2 * a))
    torch.testing.assert_close(fuse(x, receivers="rgb")["rgb"], torch.where(mask, 2 * a + shift_slowly(b), 2 * b))
    # The second shift, of what the first gave.
    v, u = 2 * a + shift_slowly(b), 2 * b + shift_slowly(a)
    torch.testing.assert_close(fuse(x, second_shift=True)["rgb"], v + shift_slowly(u, reverse=True))
    got = fuse(x, ratio=1 / 2, shift=False, receivers=("rgb",))
    assert torch.equal(got["rgb"], 2 * torch.where(torch.arange(13)[:, None, None] < 4, a, b))


def test_tokens_are_maps_with_a_prefix():
    x = maps(2, 13, 3, 5, modalities=3)
    extra = maps(2, 2, 13, modalities=3, seed=1)
    tokens = {m: torch.cat([extra[m], v.flatten(2).mT], 1) for m, v in x.items()}

    def check(got: dict[str, Tensor], expected: dict[str, Tensor], first: dict[str, Tensor]) -> None:
        for m in x:
            assert got[m].is_contiguous()
            torch.testing.assert_close(got[m], torch.cat([first[m], expected[m].flatten(2).mT], 1))

    zero = {m: torch.zeros(2, 2, 13) for m in x}
    check(pixel_shift(tokens, grid=(3, 5), prefix=2), pixel_shift(x), zero)
    check(channel_shuffle(tokens, prefix=2), channel_shuffle(x), extra)
    check(PixelShift(grid=(3, 5), prefix=2)(tokens), PixelShift()(x), extra)
    for grid in ((3, 5), (6, 10), (11, 20)):  # halved, rounded up
        check(AsymFusion(grid=grid, prefix=2)(tokens), AsymFusion()(x), extra)
    vectors = maps(3, 13)
    assert same(
        channel_shuffle(vectors),
        {m: v[..., 0, 0] for m, v in channel_shuffle({m: v[..., None, None] for m, v in vectors.items()}).items()},
    )


@pytest.mark.parametrize("layout", ["rows", "channels last", "rows, channels last", "transposed"])
def test_strided_features(layout):
    x = maps(3, 13, 4, 5, modalities=3, grad=True)
    rows = torch.stack(list(x.values()), 1).flatten(0, 1)
    if "last" in layout:
        rows = rows.contiguous(memory_format=torch.channels_last)
    views = {m: rows.unflatten(0, (3, 3))[:, i] for i, m in enumerate(x)}
    if layout == "channels last":
        views = {m: v.contiguous(memory_format=torch.channels_last) for m, v in x.items()}
    if layout == "transposed":
        views = {m: v.transpose(2, 3).contiguous().transpose(2, 3) for m, v in x.items()}
    weights = maps(3, 13, 4, 5, modalities=3, seed=1)
    for part in (ChannelShuffle(), PixelShift(), AsymFusion(second_shift=True)):
        got, expected = part(views), part({m: v.contiguous() for m, v in x.items()})
        assert same(got, expected)
        if "last" in layout:
            assert all(v.is_contiguous(memory_format=torch.channels_last) for v in got.values())
        one, two = (
            torch.autograd.grad(sum((y[m] * weights[m]).sum() for m in y), list(x.values()), retain_graph=True)
            for y in (got, expected)
        )
        assert all(torch.equal(p, q) for p, q in zip(one, two, strict=True))


def test_gradients_of_all_orders():
    x = {m: v.detach().double().requires_grad_() for m, v in maps(1, 5, 2, 2).items()}

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        y = AsymFusion()(dict(zip(x, (v.sin() for v in values), strict=True)))
        return (*y.values(), *pixel_shift(y).values())

    assert torch.autograd.gradcheck(run, tuple(x.values()))
    assert torch.autograd.gradgradcheck(run, tuple(x.values()))


def test_the_pair_stays_a_pair():
    x = maps(2, 13, 3, 5)
    part = AsymFusion()
    part.before(x)  # a forward that failed after it
    stream = io.BytesIO()
    torch.save(part, stream)
    assert stream.tell() < 10_000
    stream.seek(0)
    for twin in (copy.deepcopy(part), torch.load(stream, weights_only=False)):
        assert twin._pair.heads is None
        assert same(twin.after(twin.before(x)), part.after(part.before(x)))
        assert twin.after._pair is twin.before._pair is twin._pair is not part._pair
    assert [n for n, _ in part.named_modules()] == ["", "before", "after"]


def test_nothing_stale_stays():
    x, other = maps(2, 13, 3, 5), maps(2, 13, 3, 5, seed=1)
    part = AsymFusion()
    with pytest.raises(InputError, match="needs AsymFusion.before"):
        part.after(x)
    part.before(other)
    assert same(part.after(part.before(x)), AsymFusion()(x))
    with pytest.raises(InputError, match="needs AsymFusion.before"):
        part.after(x)
    handle = part.after.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        part(x)
    handle.remove()
    assert part._pair.heads is None
    part.before(x)
    with pytest.raises(InputError, match="keeps channels and size"):
        part.after({m: v[..., ::2] for m, v in x.items()})
    assert part._pair.heads is None
    part.before(x)
    with pytest.raises(InputError):
        part.before({"rgb": x["rgb"]})
    assert part._pair.heads is None
    # A middle that works in place leaves what is kept alone.
    for shuffle in (True, False):
        part = AsymFusion(shuffle=shuffle)
        y = part.before({m: v.clone() for m, v in x.items()})
        assert same(part.after({m: v.mul_(2) for m, v in y.items()}), fuse(x, shuffle=shuffle))


@pytest.mark.parametrize("part", [ChannelShuffle(), PixelShift(), AsymFusion(), channel_shuffle, pixel_shift])
def test_errors(part):
    x = maps(2, 13, 3, 5)
    with pytest.raises(InputError, match="two or more.*rgb"):
        part({"rgb": x["rgb"]})
    with pytest.raises(InputError, match="needs 5 channels or more.*got 4"):
        part({m: v[:, :4] for m, v in x.items()})
    with pytest.raises(InputError, match=r"the same for every modality.*\[2, 12, 3, 5\]"):
        part({"rgb": x["rgb"], "depth": x["depth"][:, :12]})
    if "huffle" not in str(part).split("(")[0]:
        with pytest.raises(InputError, match="vectors"):
            part({m: v[..., 0, 0] for m, v in x.items()})
        with pytest.raises(InputError, match="give grid="):
            part({m: v.flatten(2).mT for m, v in x.items()})


def test_errors_of_settings():
    tokens = {m: v.flatten(2).mT for m, v in maps(2, 13, 3, 5).items()}
    for part in (ChannelShuffle, PixelShift, AsymFusion):
        for ratio in (0.0, 1.0, -0.2):
            with pytest.raises(InputError, match="0 < ratio < 1"):
                part(ratio)
        with pytest.raises(InputError, match="2 modalities or more"):
            part(modalities=("rgb",))
    for grid in ((3, 4), (4, 4), (12, 5), (0, 0)):
        with pytest.raises(InputError, match=f"15 tokens.*{grid[0]} x {grid[1]}"):
            pixel_shift(tokens, grid=grid)
    with pytest.raises(InputError, match="14 tokens"):
        AsymFusion(grid=(3, 5), prefix=1)(tokens)
    for prefix in (15, -1):
        with pytest.raises(InputError, match="prefix"):
            channel_shuffle(tokens, prefix=prefix)
    with pytest.raises(InputError, match="prefix"):
        channel_shuffle(maps(2, 13, 3, 5), prefix=1)
    with pytest.raises(InputError, match="second_shift"):
        AsymFusion(shift=False, second_shift=True)
    with pytest.raises(InputError, match="'dept'.*mean 'depth'"):
        AsymFusion(receivers=("dept",))(maps(2, 13, 3, 5))
    with pytest.raises(InputError, match="'dept'.*mean 'depth'"):
        AsymFusion(receivers=("dept",), modalities=NAMES)

"""Channel exchanging against a loop over samples and channels, and its penalty."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fusionscope.errors import InputError
from fusionscope.nn import ChannelExchange

NAMES = ("rgb", "depth", "audio")
SHAPES = {"vectors": (3, 13), "sequences": (3, 5, 13), "maps": (3, 13, 2, 5)}


def drawn(shape: tuple[int, ...], modalities: int, grad: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    x = {m: torch.randn(shape).requires_grad_(grad) for m in NAMES[:modalities]}
    scales = {m: torch.where(torch.rand(13) < 0.5, 0.01, 0.5) * torch.randn(13).sign() for m in x}
    return x, scales


def slowly(x: dict[str, Tensor], scales: dict[str, Tensor], present: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sample by sample, channel by channel; the channels are the last axis."""
    out = {m: torch.zeros_like(v) for m, v in x.items()}
    for m in x:
        for b in range(len(x[m])):
            others = [n for n in x if n != m and present[n][b]]
            for c in range(x[m].shape[-1]):
                value = x[m][b, ..., c]
                if abs(scales[m][c]) < 2e-2 and others:
                    value = sum(x[n][b, ..., c] for n in others) / len(others)
                if present[m][b]:
                    out[m][b, ..., c] = value
    return out


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("modalities", [2, 3])
def test_equals_the_loop(kind, modalities):
    x, scales = drawn(SHAPES[kind], modalities)
    whole = {m: torch.ones(3, dtype=torch.bool) for m in x}
    some = {**whole, "depth": torch.tensor([True, False, False])}
    if modalities == 3:
        some["audio"] = torch.tensor([False, True, False])
    for present in (None, whole, some):
        got = ChannelExchange()(x, present, scales)
        last = {m: v.movedim(1, -1) if v.ndim == 4 else v for m, v in x.items()}
        for m, y in slowly(last, scales, present or whole).items():
            torch.testing.assert_close(got[m], y.movedim(-1, 1) if y.ndim == 4 else y)


def test_replaced_channels_pass_no_gradient_to_their_own():
    x, scales = drawn((3, 13, 2, 5), 2, grad=True)
    idle = scales["rgb"].abs() < 2e-2
    ChannelExchange()(x, scales=scales)["rgb"].sum().backward()
    assert torch.equal(x["rgb"].grad, (~idle).float()[:, None, None].expand(3, 13, 2, 5))
    assert torch.equal(x["depth"].grad, idle.float()[:, None, None].expand(3, 13, 2, 5))


def test_penalty_is_on_disjoint_parts():
    scales = {m: torch.arange(1.0, 14.0) * (-1) ** i for i, m in enumerate(NAMES)}
    leaves = {m: s.requires_grad_() for m, s in scales.items()}
    exchange = ChannelExchange(weight=0.5)
    exchange.penalty({m: leaves[m] for m in NAMES[:2]}).backward()
    first = torch.arange(13) < 6
    assert torch.equal(leaves["rgb"].grad, 0.5 * first)
    assert torch.equal(leaves["depth"].grad, -0.5 * ~first)
    torch.testing.assert_close(exchange.penalty(leaves), torch.tensor(0.5 * sum(range(1, 14))))
    touched = torch.zeros(13)
    for m, gradient in zip(NAMES, torch.autograd.grad(exchange.penalty(leaves), list(leaves.values())), strict=True):
        assert 4 <= gradient.count_nonzero() <= 5, m
        touched += gradient != 0
    assert (touched == 1).all()


def test_own_norms_are_applied_first():
    norms = {m: nn.BatchNorm2d(13) for m in NAMES[:2]}
    x, scales = drawn((3, 13, 2, 5), 2)
    for m, norm in norms.items():
        norm.weight.data = scales[m]
    part = ChannelExchange(norms=copy.deepcopy(norms))
    got = part(x)
    expected = ChannelExchange()({m: norms[m](v) for m, v in x.items()}, scales=scales)
    for m in x:
        assert torch.equal(got[m], expected[m])
    torch.testing.assert_close(part.penalty(), ChannelExchange().penalty(scales))
    part.penalty().backward()
    assert part.norms["depth"].weight.grad.abs().sum() > 0


def test_errors():
    x, scales = drawn((3, 13), 3)
    with pytest.raises(InputError, match="Pass scales="):
        ChannelExchange()(x)
    with pytest.raises(InputError, match=r"missing: \['audio'\]"):
        ChannelExchange()(x, scales={m: scales[m] for m in NAMES[:2]})
    with pytest.raises(InputError, match="affine"):
        ChannelExchange(norms={m: nn.BatchNorm1d(13, affine=False) for m in NAMES})
    with pytest.raises(InputError, match="one scale per channel"):
        ChannelExchange().penalty({**scales, "rgb": torch.ones(11)})
    with pytest.raises(InputError, match="11 scales for 13 channels"):
        ChannelExchange()(x, scales={m: s[:11] for m, s in scales.items()})
    with pytest.raises(InputError, match="two or more"):
        ChannelExchange()({"rgb": x["rgb"]}, scales=scales)
    with pytest.raises(InputError, match="2 modalities or more"):
        ChannelExchange(norms={"rgb": nn.LayerNorm(13)})
    with pytest.raises(InputError, match="0 or more"):
        ChannelExchange(threshold=-1.0)

"""Encoders that keep time, and what pools and wraps backbones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fusionscope.errors import InputError
from fusionscope.nn import MapEncoder, Pooled, ResNet, SequenceEncoder, TokenEncoder
from fusionscope.nn._standardise import RawNorm
from fusionscope.nn._wrappers import Frames


@pytest.mark.parametrize(("encoder", "steps"), [(SequenceEncoder(5, 3, keep_time=True), 6), (TokenEncoder(5, 3), 23)])
def test_time_is_kept(encoder, steps):
    x = torch.randn(2, 23, 5)
    out = encoder(x)
    assert out.shape == (2, steps, 12)
    (out * torch.randn_like(out)).sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_keeping_time_is_all_that_differs():
    torch.manual_seed(0)
    pooled, kept = SequenceEncoder(5, 3).eval(), SequenceEncoder(5, 3, keep_time=True).eval()
    kept.load_state_dict(pooled.state_dict())
    x = torch.randn(2, 23, 5)
    torch.testing.assert_close(kept(x).mean(1), pooled(x))


def test_tokens_know_their_place_and_samples_do_not_mix():
    torch.manual_seed(0)
    encoder = TokenEncoder(5, 3, layers=1).eval()
    x = torch.randn(3, 17, 5)
    out = encoder(x)
    torch.testing.assert_close(torch.cat([encoder(x[i : i + 1]) for i in range(3)]), out, rtol=1e-4, atol=1e-5)
    # constant input: what tells the tokens apart (away from the padded ends) is their position alone
    flat = encoder(torch.ones(1, 17, 5))[0, 3:14]
    assert torch.cdist(flat, flat).add(torch.eye(11)).min() > 1e-3


def test_every_token_attends_to_all():
    torch.manual_seed(0)
    encoder = TokenEncoder(5, 3, layers=1).eval()
    x = torch.randn(1, 17, 5)
    changed = x.clone()
    changed[0, 16] += 3
    assert (encoder(changed)[0, 0] != encoder(x)[0, 0]).any()


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_steps_per_token(stride):
    assert TokenEncoder(5, 3, stride=stride)(torch.randn(2, 23, 5)).shape == (2, -(-23 // stride), 12)


def test_unit_and_type_of_the_input_do_not_matter():
    encoder = TokenEncoder(5, 3)
    x = torch.randint(0, 9, (3, 23, 5))
    torch.testing.assert_close(encoder(x), encoder(1000.0 * x + 70), rtol=1e-3, atol=1e-3)
    maps = torch.randint(0, 255, (3, 2, 5, 7), dtype=torch.uint8)
    out = RawNorm(2)(maps)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var((0, 2, 3), unbiased=False), torch.ones(2), rtol=0, atol=1e-5)


def test_pooled_maps_lists_tokens_and_vectors():
    x = torch.randn(2, 7, 3, 5)
    assert torch.equal(Pooled(nn.Identity(), 7)(x), x.mean((2, 3)))
    tokens = x.flatten(2).transpose(1, 2)
    assert torch.equal(Pooled(nn.Identity(), 7)(tokens), tokens.mean(1))
    assert torch.equal(Pooled(nn.Identity(), 7)(x[:, :, 0, 0]), x[:, :, 0, 0])
    net = ResNet(2, (1, 1), width=3)
    encoder = Pooled(net)
    assert encoder.channels == 6
    maps = torch.randn(2, 2, 29, 37)
    assert torch.equal(encoder.eval()(maps), net(maps)[-1].mean((2, 3)))
    with pytest.raises(InputError, match="how many channels Identity returns"):
        Pooled(nn.Identity())


def test_clips_frame_by_frame():
    encoder = MapEncoder(2, 3).eval()
    clip = torch.randn(3, 5, 2, 11, 13)
    out = Frames(encoder)(clip)
    assert out.shape == (3, 5, 12)
    torch.testing.assert_close(out[1, 2], encoder(clip[1, 2:3])[0])


def test_errors():
    with pytest.raises(InputError, match="heads=5"):
        TokenEncoder(3, heads=5)
    with pytest.raises(InputError, match="inputs=0"):
        TokenEncoder(0)

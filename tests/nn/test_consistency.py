"""The consistent and special parts, and their losses in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusionscope.errors import InputError
from fusionscope.measures.functional import cka
from fusionscope.nn import ConsistencySpeciality

NAMES = ("rgb", "depth", "audio")


def moved(part: ConsistencySpeciality) -> ConsistencySpeciality:
    for p in part.parameters():
        torch.nn.init.normal_(p)
    return part


def slowly(part: ConsistencySpeciality, x: dict[str, Tensor], present: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sample by sample; channels are the last axis."""
    c = part.split
    out = {m: torch.zeros_like(v) for m, v in x.items()}
    for b in range(len(x["rgb"])):
        there = [m for m in x if present[m][b]]
        for m in there:
            others = [x[n][b, ..., c:] for n in there if n != m]
            special = x[m][b, ..., c:]
            if others:
                special = special + (sum(others) / len(others)) @ part.others[m].weight.T
            common = sum(x[n][b, ..., :c] for n in there) / len(there)
            out[m][b] = torch.cat([common, special], -1)
    return out


@pytest.mark.parametrize("shape", [(5, 11), (5, 7, 11), (5, 11, 3, 2)])
@pytest.mark.parametrize("modalities", [2, 3])
def test_equals_the_loop(shape, modalities):
    names = NAMES[:modalities]
    part = moved(ConsistencySpeciality(11, names))
    assert part.split == 5
    x = {m: torch.randn(shape) for m in names}
    whole = {m: torch.ones(5, dtype=torch.bool) for m in names}
    some = {**whole, "rgb": torch.tensor([True, False, True, False, True])}
    some["depth"] = torch.tensor([True, True, False, False, True])
    for present in (None, whole, some):
        got = part(x, present)
        last = {m: v.movedim(1, -1) if v.ndim == 4 else v for m, v in x.items()}
        for m, y in slowly(part, last, present or whole).items():
            torch.testing.assert_close(got[m], y.movedim(-1, 1) if y.ndim == 4 else y)


def test_switches():
    x = {m: torch.randn(5, 10) for m in NAMES}
    mean = torch.stack(list(x.values())).mean(0)
    start = ConsistencySpeciality(10, NAMES, ratio=0.3)(x)
    assert torch.equal(start["rgb"][:, 3:], x["rgb"][:, 3:])
    torch.testing.assert_close(start["rgb"][:, :3], mean[:, :3])
    only = moved(ConsistencySpeciality(10, NAMES, special=False))
    assert list(only.parameters()) == []
    assert torch.equal(only(x)["audio"][:, 5:], x["audio"][:, 5:])
    assert list(only.losses(x)) == ["consistency"]
    only = moved(ConsistencySpeciality(10, NAMES, consistent=False))
    assert torch.equal(only(x)["audio"][:, :5], x["audio"][:, :5])
    assert not torch.allclose(only(x)["audio"][:, 5:], x["audio"][:, 5:])
    assert list(only.losses(x)) == ["speciality"]


def test_losses_in_closed_form():
    part = ConsistencySpeciality(2, NAMES[:2], weights=(1.0, 10.0))
    line = torch.arange(1.0, 6.0)
    x = {"rgb": torch.stack([line, line], 1), "depth": torch.stack([line**2, torch.tensor([2.0, 1, 5, 3, 4])], 1)}
    losses = part.losses(x)
    torch.testing.assert_close(losses["consistency"], torch.tensor(1 - 0.984602), atol=1e-6, rtol=0)
    torch.testing.assert_close(losses["speciality"], torch.tensor(4.70968), atol=1e-5, rtol=0)
    # Far from zero, scaled and turned over, they stay.
    far = part.losses({"rgb": 1e4 + 3 * x["rgb"], "depth": -x["depth"]})
    torch.testing.assert_close(far, losses, atol=1e-4, rtol=0)
    # Maps are averaged over space.
    spread = torch.randn(5, 2, 3, 5)
    spread = spread - spread.mean((2, 3), keepdim=True)
    got = part.losses({m: v[:, :, None, None] + spread for m, v in x.items()})
    torch.testing.assert_close(got, losses, atol=1e-5, rtol=0)


def test_losses_are_the_measure_of_all_pairs():
    x = {m: torch.randn(13, 7) for m in NAMES}
    part = ConsistencySpeciality(7, NAMES, weights=(0.3, 0.7))
    pairs = [(x[m], x[n]) for m, n in (("rgb", "depth"), ("rgb", "audio"), ("depth", "audio"))]
    consistency = 0.3 * (1 - sum(cka(a[:, :3], b[:, :3]) for a, b in pairs) / 3)
    speciality = 0.7 * sum(cka(a[:, 3:], b[:, 3:]).abs() for a, b in pairs) / 3
    losses = part.losses(x)
    torch.testing.assert_close(losses["consistency"], consistency.float())
    torch.testing.assert_close(losses["speciality"], speciality.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(part.losses(x), losses)
    # Samples that lack one of the two are left out.
    present = {"rgb": torch.arange(13) > 4}
    two = ConsistencySpeciality(7, NAMES[:2], weights=(1.0, 1.0))
    worse = {m: torch.where(torch.arange(13)[:, None] > 4, x[m], torch.nan if m == "rgb" else 5.0) for m in NAMES[:2]}
    got = two.losses(worse, present)
    torch.testing.assert_close(got["consistency"], 1 - cka(x["rgb"][5:, :3], x["depth"][5:, :3]).float())


def test_gradients_of_the_losses():
    part = ConsistencySpeciality(7, NAMES)
    x = {m: torch.randn(6, 7, dtype=torch.float64, requires_grad=True) for m in NAMES}

    def losses(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.losses(dict(zip(NAMES, values, strict=True))).values())

    assert torch.autograd.gradcheck(losses, tuple(x.values()))


@pytest.mark.parametrize("case", ["three samples", "constant", "too few present"])
def test_where_there_is_no_cka(case):
    x = {m: torch.randn(3 if case == "three samples" else 6, 6) for m in NAMES[:2]}
    present = None
    if case == "constant":
        x["rgb"][:] = 1e3 + torch.rand(6)
    if case == "too few present":
        present = {"rgb": torch.arange(6) < 3}
    for v in x.values():
        v.requires_grad_()
    losses = ConsistencySpeciality(6, NAMES[:2]).losses(x, present)
    assert losses == {"consistency": torch.tensor(0.1), "speciality": torch.tensor(0.0)}
    sum(losses.values()).backward()
    assert all((v.grad == 0).all() for v in x.values())


def test_errors():
    with pytest.raises(InputError, match="same number of channels"):
        ConsistencySpeciality({"rgb": 5, "depth": 7})
    with pytest.raises(InputError, match="two modalities"):
        ConsistencySpeciality({"rgb": 5})
    for ratio in (0.0, 0.1, 1.0):
        with pytest.raises(InputError, match="leaves a part empty"):
            ConsistencySpeciality(5, NAMES, ratio=ratio)
    part = ConsistencySpeciality(5, NAMES)
    x = {m: torch.randn(4, 5, 7, 3) for m in NAMES}
    with pytest.raises(InputError, match="same for every modality"):
        part({**x, "audio": x["audio"][..., :2]})
    with pytest.raises(InputError, match="'audio' must have 5 channels"):
        part({**x, "audio": x["audio"][:, :2]})
    with pytest.raises(InputError, match="depth"):
        part.losses({"rgb": x["rgb"], "audio": x["audio"]})

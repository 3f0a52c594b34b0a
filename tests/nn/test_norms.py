"""ModalityNorm against one plain norm per modality, called one after another."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fusionscope.errors import InputError
from fusionscope.nn import ModalityNorm
from fusionscope.nn._norms import is_norm
from fusionscope.nn._rows import interleave, separate
from fusionscope.nn._standardise import Standardise

from .parts_norms import OwnNorm

NAMES = ("rgb", "depth", "ir")
NORMS = {
    "batch": (nn.BatchNorm2d(7), (7, 3, 5)),
    "batch momentum none": (nn.BatchNorm2d(7, momentum=None), (7, 3, 5)),
    "batch untracked": (nn.BatchNorm2d(7, track_running_stats=False), (7, 3, 5)),
    "batch plain": (nn.BatchNorm2d(7, affine=False), (7, 3, 5)),
    "batch vectors": (nn.BatchNorm1d(7), (7,)),
    "batch steps": (nn.BatchNorm1d(7), (7, 5)),
    "batch volumes": (nn.BatchNorm3d(7), (7, 2, 3, 5)),
    "layer": (nn.LayerNorm(7), (5, 7)),
    "layer without bias": (nn.LayerNorm(7, bias=False), (5, 7)),
    "layer of two axes": (nn.LayerNorm((5, 7)), (3, 5, 7)),
    "group": (nn.GroupNorm(3, 6), (6, 3, 5)),
    "instance": (nn.InstanceNorm2d(7, affine=True), (7, 3, 5)),
    "instance tracked": (nn.InstanceNorm2d(7, affine=True, track_running_stats=True), (7, 3, 5)),
    "unknown": (OwnNorm(7), (5, 7)),
    "unknown batch": (nn.SyncBatchNorm(7), (7, 3, 5)),
    "root mean square": (nn.RMSNorm(7), (5, 7)),
}
norms = pytest.mark.parametrize("name", [n for n in NORMS if n != "unknown batch"])


def shaken(norm: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in norm.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
        for b in norm.buffers():
            if b.is_floating_point():
                b.copy_(torch.rand(b.shape, generator=generator) + 0.5)
    return norm


def case(name: str, rows: int = 1, batch: int = 4) -> tuple[ModalityNorm, dict[str, nn.Module], dict[str, Tensor]]:
    """The norm, a plain one per modality with its values, and features that differ in mean and spread."""
    made = shaken(ModalityNorm(NORMS[name][0], NAMES, rows=rows))
    generator = torch.Generator().manual_seed(2)
    x = {m: (i + 1) * torch.randn(batch * rows, *NORMS[name][1], generator=generator) + i for i, m in enumerate(NAMES)}
    return made, {m: made.of(m) for m in NAMES}, x


def joined(x: dict[str, Tensor], rows: int = 1) -> Tensor:
    return torch.stack([v.unflatten(0, (-1, rows)) for v in x.values()], 1).flatten(0, 2)


def assert_same_values(norm: ModalityNorm, plain: dict[str, nn.Module]) -> None:
    for m in plain:
        for key, value in norm.of(m).state_dict().items():
            torch.testing.assert_close(
                value, plain[m].state_dict()[key], msg=lambda text, k=key, m=m: f"{m} {k} {text}"
            )


@norms
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_equals_a_norm_per_modality(name: str, training: bool, rows: int) -> None:
    norm, plain, x = case(name, rows)
    norm.train(training)
    for _ in range(2):
        got = separate(norm(joined(x, rows)), NAMES, rows)
        for m in NAMES:
            torch.testing.assert_close(got[m], plain[m].train(training)(x[m]), rtol=1e-4, atol=1e-5)
    assert_same_values(norm, plain)


@pytest.mark.parametrize("name", ["batch", "batch momentum none", "group", "instance", "instance tracked"])
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_memory(name: str, training: bool) -> None:
    norm, plain, x = case(name)
    x = {m: v.contiguous(memory_format=torch.channels_last) for m, v in x.items()}
    rows = interleave(x)
    assert rows.is_contiguous(memory_format=torch.channels_last)
    out = norm.train(training)(rows)
    if name.startswith("batch"):
        assert out.is_contiguous(memory_format=torch.channels_last)
    got = separate(out, NAMES)
    for m in NAMES:
        torch.testing.assert_close(got[m], plain[m].train(training)(x[m]), rtol=1e-4, atol=1e-5)
    assert_same_values(norm, plain)


@norms
@pytest.mark.parametrize("active", [("depth",), ("rgb", "depth"), ("rgb", "ir")])
def test_active_subset(name: str, active: tuple[str, ...]) -> None:
    norm, plain, x = case(name)
    norm.active = active
    got = separate(norm.train()(joined({m: x[m] for m in active})), active)
    for m in active:
        torch.testing.assert_close(got[m], plain[m].train()(x[m]), rtol=1e-4, atol=1e-5)
    assert_same_values(norm, plain)


@norms
def test_gradients_equal_those_of_plain_norms(name: str) -> None:
    norm, plain, x = case(name)
    x = {m: v.requires_grad_() for m, v in x.items()}
    weights = torch.randn(joined(x).shape, generator=torch.Generator().manual_seed(5))
    (norm.train()(joined(x)) * weights).sum().backward()
    got = {m: v.grad for m, v in x.items()}
    for m, w in separate(weights, NAMES).items():
        twin = x[m].detach().requires_grad_()
        (plain[m].train()(twin) * w).sum().backward()
        torch.testing.assert_close(got[m], twin.grad, rtol=1e-3, atol=1e-4)
        if norm.copies is None and norm.weight is not None:
            mine = norm.weight.grad[NAMES.index(m)]
            torch.testing.assert_close(mine, plain[m].weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in NORMS if n.startswith(("batch", "instance"))] + ["unknown"])
@pytest.mark.parametrize("rows", [1, 3])
def test_absent_rows_stay_out_of_statistics(name: str, rows: int) -> None:
    norm, plain, x = case(name, rows, batch=5)
    present = {"rgb": torch.tensor([True, False, True, True, False]), "ir": torch.zeros(5, dtype=torch.bool)}
    some = present["rgb"].repeat_interleave(rows)
    x["rgb"][~some], x["ir"][:] = torch.nan, torch.nan
    norm.present = present
    got = separate(norm.train()(joined(x, rows)), NAMES, rows)
    torch.testing.assert_close(got["rgb"][some], plain["rgb"].train()(x["rgb"][some]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got["depth"], plain["depth"].train()(x["depth"]), rtol=1e-4, atol=1e-5)
    assert (got["rgb"][~some] == 0).all()
    assert (got["ir"] == 0).all()
    assert_same_values(norm, plain)


def test_private_affine_shares_statistics_and_the_reverse() -> None:
    x = joined(case("batch")[2])
    affine = shaken(ModalityNorm(nn.BatchNorm2d(7), NAMES, "affine")).train()
    pooled = nn.BatchNorm2d(7, affine=False)
    pooled.load_state_dict(affine.state_dict(), strict=False)
    y = separate(pooled(x), NAMES)
    got = separate(affine(x), NAMES)
    for i, m in enumerate(NAMES):
        expected = y[m] * affine.weight[i, :, None, None] + affine.bias[i, :, None, None]
        torch.testing.assert_close(got[m], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(affine.running_var, pooled.running_var)
    statistics = shaken(ModalityNorm(nn.BatchNorm2d(7), NAMES, "statistics")).train()
    assert statistics.weight.shape == (7,)
    assert statistics.running_mean.shape == (3, 7)
    plain = {m: statistics.of(m) for m in NAMES}
    for m, rows in separate(x, NAMES).items():
        torch.testing.assert_close(separate(statistics(x), NAMES)[m], plain[m](rows), rtol=1e-4, atol=1e-5)
    shared = shaken(ModalityNorm(nn.BatchNorm2d(7), NAMES, "none")).train()
    twin = shared.of("rgb")
    torch.testing.assert_close(shared(x), twin(x))
    torch.testing.assert_close(shared.running_mean, twin.running_mean)


@pytest.mark.parametrize("private", ["affine", "none"])
@pytest.mark.parametrize("name", ["batch", "instance tracked"])
def test_shared_statistics_leave_absent_rows_out(name: str, private: str) -> None:
    _, _, x = case(name)
    norm = shaken(ModalityNorm(NORMS[name][0], NAMES, private)).train()
    plain = norm.of("rgb")
    whole = separate(copy.deepcopy(norm)(joined(x)), NAMES)
    keep = torch.tensor([True, False, True, True])
    norm.present = {m: keep for m in NAMES}
    got = separate(norm(joined(x)), NAMES)
    some = copy.deepcopy(plain).train()
    some(joined({m: v[keep] for m, v in x.items()}))
    torch.testing.assert_close(norm.running_mean, some.running_mean)
    torch.testing.assert_close(norm.running_var, some.running_var)
    assert not torch.allclose(got["rgb"][0], whole["rgb"][0]) or name != "batch"


@pytest.mark.parametrize("name", ["batch", "unknown batch"])
def test_frozen_uses_running_statistics_in_training(name: str) -> None:
    norm, plain, x = case(name)
    norm.frozen = True
    before = copy.deepcopy(norm.state_dict())
    got = separate(norm.train()(joined(x)), NAMES)
    for m in NAMES:
        torch.testing.assert_close(got[m], plain[m].eval()(x[m]), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in norm.state_dict().items())
    got["rgb"].square().sum().backward()
    assert norm.scales()["rgb"].requires_grad


def test_what_is_a_norm() -> None:
    class ConvNorm(nn.Sequential):
        pass

    class WeightNormed(nn.Linear):
        pass

    assert is_norm(nn.SyncBatchNorm(3))
    assert is_norm(nn.RMSNorm(3))
    assert is_norm(OwnNorm(3))
    assert not is_norm(nn.Identity())
    assert not is_norm(ConvNorm(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    assert not is_norm(WeightNormed(3, 3))


def test_reads_as_the_norm_it_was() -> None:
    norm = ModalityNorm(nn.LayerNorm(7, eps=1e-3), NAMES)
    assert norm.eps == 1e-3
    assert norm.normalized_shape == (7,)
    own = ModalityNorm(OwnNorm(7, eps=1e-3), NAMES)
    assert own.eps == 1e-3
    assert [s.shape for s in own.scales().values()] == [(7,)] * 3
    with pytest.raises(AttributeError, match="colour"):
        own.colour  # noqa: B018


def test_features_of_unequal_length_and_errors() -> None:
    norm = ModalityNorm(nn.LayerNorm(7), ("text", "audio"))
    x = {"text": torch.randn(3, 5, 7), "audio": torch.randn(3, 11, 7)}
    torch.testing.assert_close(norm(x)["audio"], nn.LayerNorm(7)(x["audio"]))
    pooled = ModalityNorm(nn.BatchNorm1d(7), ("text", "audio"), "affine")
    with pytest.raises(InputError, match="equal shapes"):
        pooled(x)
    with pytest.raises(InputError, match="private must be"):
        ModalityNorm(nn.LayerNorm(7), ("text", "audio"), "all")
    with pytest.raises(InputError, match="Did you mean 'audio'"):
        norm.active = ("audoi",)


@pytest.mark.parametrize(
    "part", [ModalityNorm(nn.BatchNorm2d(5), ("rgb", "depth")), Standardise({"rgb": 5, "depth": 5})]
)
def test_one_backward_through_forwards_with_and_without_absent_samples(part: nn.Module) -> None:
    x = {m: torch.randn(3, 5, 2, 7, requires_grad=True) for m in ("rgb", "depth")}
    outs = [part(x), part(x, {"depth": torch.tensor([True, False, True])}), part(x)]
    sum(y.square().sum() for out in outs for y in out.values()).backward()
    assert all(v.grad is not None and v.grad.isfinite().all() for v in x.values())

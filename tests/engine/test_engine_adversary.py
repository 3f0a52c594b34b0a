"""Alternating steps of generator and discriminator, and the scores of translations."""

from __future__ import annotations

import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fusionscope.engine._adversary import Adversary
from fusionscope.engine._scores import METRIC, Scores, task_loss
from fusionscope.errors import InputError
from fusionscope.nn import Translator


def batch() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    return {"vi": torch.rand(3, 2, 13, 17)}, torch.rand(3, 1, 13, 17), torch.rand(3, 1, 13, 17)


def constant(adversary: Adversary, value: float) -> None:
    """Let the discriminator say ``value`` whatever it sees."""
    last = adversary.discriminator.layers[-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, value)


@pytest.mark.parametrize("loss", ["least squares", "bce"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_losses_against_closed_forms(loss, value):
    adversary = Adversary({"vi": 2}, 1, width=2, depth=1, l1=7.0, loss=loss, scale=2.0)
    constant(adversary, value)
    x, made, target = batch()
    if loss == "bce":
        real, fake = math.log1p(math.exp(-value)), math.log1p(math.exp(value))
    else:
        real, fake = (value - 1) ** 2, value**2
    error = (made - target).abs().mean() / 2
    assert adversary.generator_loss(x, made, target).item() == pytest.approx(7 * error.item() + real, rel=1e-5)
    assert adversary.discriminator_loss(x, [made, made], target).item() == pytest.approx((real + fake) / 2, rel=1e-5)


def test_each_side_moves_alone():
    adversary = Adversary({"vi": 2}, 1, width=2, depth=1)
    x, made, target = batch()
    made.requires_grad_()
    adversary.generator_loss(x, made, target).backward()
    assert made.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in adversary.discriminator.parameters())
    made.grad = None
    before = [p.detach().clone() for p in adversary.discriminator.parameters()]
    adversary.step(x, [made], target)
    assert made.grad is None
    assert all((a != b).any() for a, b in zip(before, adversary.discriminator.parameters(), strict=True))


@pytest.mark.parametrize("loss", ["least squares", "bce"])
def test_it_learns_to_tell_them_apart_and_what_to_demand(loss):
    adversary = Adversary({"vi": 2}, 1, width=4, depth=1, loss=loss, lr=1e-2).setup(Fabric(accelerator="cpu"))
    x, _, target = batch()
    made = target.flip(3).requires_grad_()
    first = adversary.step(x, [made, made * 0.9], target)
    for _ in range(30):
        last = adversary.step(x, [made, made * 0.9], target)
    assert last < first / 2
    adversary.l1 = 0.0
    demand = adversary.generator_loss(x, made, target)
    assert demand > 2 * adversary.generator_loss(x, target, target)


def test_what_counts_as_made():
    one, two = torch.zeros(1), torch.ones(1)
    assert Adversary.fakes({"prediction": one, "vi": two}) == [two]
    assert Adversary.fakes({"prediction": one}) == [one]


def test_bad_settings():
    with pytest.raises(InputError, match="unknown adversarial loss 'hinge': one of least squares, bce"):
        Adversary({"vi": 1}, 1, loss="hinge")
    with pytest.raises(InputError, match="expected l1 of at least 0 and lr above 0, got -1.0"):
        Adversary({"vi": 1}, 1, l1=-1.0)


def test_psnr_of_a_constant_error():
    """PSNR = 10 log10(range² / error²), per image, then averaged."""
    scores = Scores("translation", (), data_range=2.0)
    target = torch.rand(3, 2, 13, 17)
    errors = torch.tensor([0.1, 0.2, 0.4])
    output = target + errors[:, None, None, None]
    for rows in ([0, 1], [2]):
        loss = task_loss("translation", output[rows], target[rows], 0.0, torch.ones(1))
        scores.update(output[rows], target[rows], loss)
    found = scores.compute()
    assert found["psnr"] == pytest.approx((20 * torch.log10(2 / errors)).mean().item(), abs=1e-4)
    assert found["mae"] == pytest.approx(0.7 / 3, abs=1e-6)
    assert found["loss"] == pytest.approx(0.7 / 3, abs=1e-6)
    assert METRIC["translation"] in found


def test_ssim_of_constants_and_of_equals():
    """For constants a and b: (2ab + C1) / (a² + b² + C1) with C1 = (0.01 range)²; 1 for equal pictures."""
    scores = Scores("translation", ())
    a, b = 0.3, 0.7
    scores.update(torch.full((1, 1, 13, 17), a), torch.full((1, 1, 13, 17), b), torch.zeros(()))
    assert scores.compute()["ssim"] == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-4)
    target = torch.rand(1, 1, 13, 17)
    scores.update(target, target + 1e-6, torch.zeros(()))
    assert scores.compute()["ssim"] == pytest.approx((1 + (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)) / 2, abs=1e-4)


def test_ssim_against_the_formula_with_windows():
    torch.manual_seed(0)
    x, y = torch.rand(1, 1, 29, 31), torch.rand(1, 1, 29, 31)
    line = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    window = (line / line.sum())[:, None] * (line / line.sum())

    def mean(v: Tensor) -> Tensor:
        patches = v[0, 0].unfold(0, 11, 1).unfold(1, 11, 1)
        return (patches * window).sum((2, 3))

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    scores = Scores("translation", ())
    scores.update(x, y, torch.zeros(()))
    assert scores.compute()["ssim"] == pytest.approx(expected.mean().item(), abs=1e-3)


def test_small_pictures_have_no_ssim():
    scores = Scores("translation", ())
    scores.update(torch.rand(2, 1, 10, 31), torch.rand(2, 1, 10, 31), torch.zeros(()))
    assert set(scores.compute()) == {"loss", "psnr", "mae"}


def test_translation_loss_in_units_of_the_scale():
    target = torch.zeros(2, 2, 3, 5)
    output = torch.ones(2, 2, 3, 5)
    assert task_loss("translation", output, target, 0.0, torch.tensor([2.0, 4.0])).item() == pytest.approx(0.375)


def test_an_adversary_makes_sharp_what_the_absolute_error_blurs():
    """A pattern of random sign that the input says nothing of: its median is flat, each possible target is not."""
    pattern = (torch.arange(16) // 4 % 2 * 2 - 1.0).expand(16, 1, 16, 16)

    def strength(adversarial: bool) -> float:
        torch.manual_seed(0)
        model = Translator({"x": 1}, 1, width=8, depth=2)
        adversary = Adversary({"x": 1}, 1, width=8, depth=1, l1=1.0, lr=5e-3)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.5, 0.999))
        for _ in range(120):
            x = {"x": torch.randn(16, 1, 16, 16)}
            target = 0.5 + 0.4 * (torch.randint(0, 2, (16, 1, 1, 1)) * 2 - 1) * pattern
            outputs = model.outputs(x)

            def criterion(made: Tensor, wanted: Tensor, x: dict[str, Tensor] = x) -> Tensor:
                return adversary.generator_loss(x, made, wanted) if adversarial else (made - wanted).abs().mean()

            optimizer.zero_grad()
            model.loss(outputs, target, criterion).backward()
            optimizer.step()
            if adversarial:
                adversary.step(x, adversary.fakes(outputs), target)
        return (model({"x": torch.randn(29, 1, 16, 16)}) - 0.5).abs().mean().item()

    assert strength(False) < 0.15
    assert 0.3 < strength(True) < 0.5

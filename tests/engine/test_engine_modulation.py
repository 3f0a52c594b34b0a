"""OGM-GE: published coefficients, what each modality says alone, and what happens to the gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fusionscope.engine import TrainConfig
from fusionscope.engine._modulation import (
    Modulator,
    alone,
    discrepancy_ratios,
    modulation_coefficient,
    modulator_of,
    rightness,
)
from fusionscope.errors import InputError
from fusionscope.nn import Classifier, Concat, FusionNet, Segmenter, SequenceModel, build_model

SHAPES = {"a": (5,), "b": (23, 3), "c": (2, 11, 13)}
AXES = {"a": "NC", "b": "NTC", "c": "NCHW"}


def batch(size: int = 7, classes: int = 3, names: str = "abc") -> tuple[dict[str, Tensor], Tensor]:
    return {m: torch.randn(size, *SHAPES[m]) for m in names}, torch.randint(classes, (size,))


def classifier(names: str = "abc", **settings) -> Classifier:
    shapes, axes = {m: SHAPES[m] for m in names}, {m: AXES[m] for m in names}
    return Classifier.build(shapes, axes, 3, width=4, dropout=0.5, **settings)


def backward(model: nn.Module, inputs: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
    outputs = model.outputs(inputs)
    nn.functional.cross_entropy(outputs["prediction"], target).backward()
    return outputs


@pytest.mark.parametrize(
    ("alpha", "rho", "k"),
    [(0.1, 1.5, 0.851115), (0.1, 2, 0.802625), (0.1, 5, 0.537883), (0.8, 1.5, 0.166345), (0.8, 2, 0.078332)],
)
def test_published_coefficients(alpha, rho, k):
    found = modulation_coefficient(torch.tensor([rho, 1 / rho, 1.0], dtype=torch.float64), alpha)
    assert found.tolist() == pytest.approx([k, 1, 1], abs=1e-6)


def test_ratios_of_two_are_each_others_inverse_and_of_three_go_by_the_mean_of_the_others():
    assert discrepancy_ratios(torch.tensor([3.0, 2.0])).tolist() == pytest.approx([1.5, 2 / 3])
    assert discrepancy_ratios(torch.tensor([6.0, 2.0, 1.0])).tolist() == pytest.approx([4, 2 / 3.5, 1 / 4])
    nothing = modulation_coefficient(discrepancy_ratios(torch.zeros(2)), 0.5)
    assert nothing.tolist() == [1, 1]  # where no pixel of a batch has a class


def test_with_a_linear_head_each_modality_alone_is_the_papers_but_for_half_the_bias():
    sizes = {"a": 5, "b": 3}
    head = nn.Linear(8, 4)
    model = FusionNet({m: nn.Identity() for m in sizes}, Concat(sizes), head)
    features = {m: torch.randn(7, c) for m, c in sizes.items()}
    with torch.no_grad():
        found = alone(model, features)
        paper_a = features["a"] @ head.weight[:, :5].T + head.bias / 2
        paper_b = features["b"] @ head.weight[:, 5:].T + head.bias / 2
    torch.testing.assert_close(found, torch.stack([paper_a, paper_b]) + head.bias / 2)
    target = torch.randint(4, (7,))
    right = torch.stack([x.softmax(1)[range(7), target].sum() for x in found])
    torch.testing.assert_close(rightness(found, target, "classification"), right)


def test_rightness_of_pixels_and_of_labels():
    logits = torch.randn(2, 3, 5, 7, 11)  # modalities, samples, classes, rows, columns
    target = torch.randint(-1, 5, (3, 7, 11))
    expected = [
        sum(
            float(logits[m, b, :, i, j].softmax(0)[target[b, i, j]])
            for b in range(3)
            for i in range(7)
            for j in range(11)
            if target[b, i, j] >= 0
        )
        for m in range(2)
    ]
    assert rightness(logits, target, "dense").tolist() == pytest.approx(expected, rel=1e-5)
    logits, labels = torch.randn(2, 3, 5), torch.randint(2, (3, 5))
    p = logits.sigmoid()
    expected = torch.where(labels.bool(), p, 1 - p).mean(2).sum(1)
    torch.testing.assert_close(rightness(logits, labels, "multilabel"), expected)
    torch.testing.assert_close(rightness(logits, labels.float(), "multilabel"), expected)


def test_observing_leaves_the_model_the_gradients_and_the_random_numbers_as_they_are():
    model = classifier(fuse="gated", calibration=True).train()
    model.head.eval()  # each module's own mode comes back, not the model's
    twin = copy.deepcopy(model)
    modulator = Modulator(model, "classification", alpha=0.5)
    inputs, target = batch()
    torch.manual_seed(1)
    outputs = model.outputs(inputs)
    state, modes, random = copy.deepcopy(model.state_dict()), [x.training for x in model.modules()], torch.rand(1)
    torch.manual_seed(1)
    twin.outputs(inputs)
    modulator.observe(outputs, target)
    assert torch.rand(1) == random
    assert modes == [x.training for x in model.modules()]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(InputError):  # also when the model raises
        modulator.observe({f"{m} features": torch.zeros(7, 1) for m in "abc"}, target)
    assert modes == [x.training for x in model.modules()]


@pytest.mark.parametrize("noise", [False, True])
def test_gradients_of_encoders_are_scaled_and_get_noise_of_their_own_spread(noise):
    model = classifier()
    inputs, target = batch(31)
    modulator = Modulator(model, "classification", alpha=0.7, noise=noise, seed=3)
    outputs = backward(model, inputs, target)
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    modulator.observe({k: v[:17] for k, v in outputs.items()}, target[:17])  # two parts of a batch
    modulator.observe({k: v[17:] for k, v in outputs.items()}, target[17:])
    modulator.apply(1)
    model.eval()
    with torch.no_grad():
        s = rightness(alone(model, {m: outputs[f"{m} features"] for m in "abc"}), target, "classification")
    rho = discrepancy_ratios(s)
    assert list(modulator.ratios.values()) == pytest.approx(rho.tolist(), rel=1e-5)
    k = dict(zip("abc", modulation_coefficient(rho, 0.7).tolist(), strict=True))
    assert min(k.values()) < 1
    for name, p in model.named_parameters():
        parts = name.split(".")
        if parts[0] != "encoders" or p.ndim < 2:
            assert torch.equal(p.grad, before[name]), name
        elif not noise:
            torch.testing.assert_close(p.grad, before[name] * k[parts[1]])
        elif p.numel() > 400:
            added = p.grad - before[name] * k[parts[1]]
            assert added.std() / before[name].std() == pytest.approx(1, abs=0.15), name
            assert abs(added.mean() / before[name].std()) < 0.2


def test_what_resumes_draws_the_same_noise_and_two_of_a_seed_draw_alike():
    model = classifier("ab")
    inputs, target = batch(names="ab")
    one, two = (Modulator(model, "classification", alpha=0.7, seed=5) for _ in range(2))

    def step(modulator: Modulator) -> list[Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        modulator.observe(backward(model, inputs, target), target)
        modulator.apply(1)
        return [p.grad.clone() for p in model.encoders.parameters()]

    model.eval()
    assert all(torch.equal(a, b) for a, b in zip(step(one), step(two), strict=True))
    later = Modulator(model, "classification", alpha=0.7, seed=99)
    later.load_state_dict(copy.deepcopy(one.state_dict()))
    assert later.ratios == one.ratios
    first, again = step(one), step(later)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, step(one), strict=True))


def test_after_its_epochs_nothing_is_changed():
    model = classifier("ab")
    inputs, target = batch(names="ab")
    modulator = Modulator(model, "classification", alpha=0.7, epochs=2)
    for epoch, changed in ((2, True), (3, False), (4, False)):
        model.zero_grad()
        modulator.observe(backward(model, inputs, target), target)
        before = [p.grad.clone() for p in model.encoders.parameters()]
        modulator.apply(epoch)
        after = [p.grad for p in model.encoders.parameters()]
        assert changed == any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert changed == bool(modulator.ratios)


def test_all_ranks_go_by_the_sum_over_ranks():
    class Two:
        """The other rank saw three times as much of b."""

        device = torch.device("cpu")

        def autocast(self):
            return torch.autocast("cpu", enabled=False)

        def all_reduce(self, s: Tensor, reduce_op: str) -> Tensor:
            assert reduce_op == "sum"
            self.seen = s.clone()
            return s + torch.tensor([0.0, 3.0])

    model, fabric = classifier("ab"), Two()
    inputs, target = batch(names="ab")
    modulator = Modulator(model, "classification", alpha=0.7)
    modulator._fabric = fabric
    modulator.observe(backward(model, inputs, target), target)
    modulator.apply(1)
    a, b = fabric.seen.tolist()
    assert modulator.ratios["b"] == pytest.approx((b + 3) / a)


@pytest.mark.parametrize(
    "fuse", ["late", "learned_ensemble", "evidential", "student", "sum_and_product", "low_rank_tensor", "bilinear"]
)
def test_any_fuse_says_what_each_modality_says_alone(fuse):
    names = "ab" if fuse == "bilinear" else "abc"
    model = classifier(names, fuse=fuse)
    inputs, target = batch(names=names)
    modulator = Modulator(model, "classification", alpha=0.5)
    modulator.observe(backward(model, inputs, target), target)
    modulator.apply(1)
    assert len(modulator.ratios) == len(names)
    assert all(0 < x < float("inf") for x in modulator.ratios.values())


def test_sequences_of_other_lengths_and_maps():
    shapes, axes = {"a": (23, 3), "b": (11, 5)}, {"a": "NTC", "b": "NTC"}
    inputs = {m: torch.randn(5, *s) for m, s in shapes.items()}
    model = SequenceModel.build(shapes, axes, 3, width=4)
    target = torch.randint(3, (5,))
    modulator = Modulator(model, "classification", alpha=0.5)
    modulator.observe(backward(model, inputs, target), target)
    modulator.apply(1)
    assert len(modulator.ratios) == 2
    model = build_model({"a": (3, 13, 11), "b": (1, 13, 11)}, {"a": "NCHW", "b": "NCHW"}, "dense", 3, width=4)
    target = torch.randint(-1, 3, (5, 13, 11))
    modulator = Modulator(model, "dense", alpha=0.5)
    outputs = model.outputs({"a": torch.randn(5, 3, 13, 11), "b": torch.randn(5, 1, 13, 11)})
    nn.functional.cross_entropy(outputs["prediction"], target, ignore_index=-1).backward()
    modulator.observe(outputs, target)
    modulator.apply(1)
    assert len(modulator.ratios) == 2


def test_refusals_say_why_and_what_to_do():
    model = classifier("ab")
    with pytest.raises(InputError, match="the task here is regression, which has none: leave modulation out"):
        Modulator(model, "regression", alpha=0.5)
    with pytest.raises(InputError, match="modulation must be more than 0"):
        Modulator(model, "classification", alpha=-1.0)
    with pytest.raises(InputError, match="the Segmenter shares one encoder: take model = 'auto'"):
        Modulator(Segmenter({"a": 3, "b": 1}, 3, encoder_width=4, width=8), "dense", alpha=0.5)
    maps = {"c": (2, 11, 13), "d": (2, 11, 13)}
    shared = Classifier.build(maps, dict.fromkeys(maps, "NCHW"), 3, width=4, shared=True)
    with pytest.raises(InputError, match="but shared = true gives them one"):
        Modulator(shared, "classification", alpha=0.5)
    with pytest.raises(InputError, match="there is 'a' only"):
        Modulator(classifier("a"), "classification", alpha=0.5)
    encoder = nn.Linear(5, 3)
    tied = FusionNet({"a": encoder, "b": encoder}, Concat({"a": 3, "b": 3}), nn.Linear(6, 3))
    with pytest.raises(InputError, match="those of 'a' and 'b' have weights in common"):
        Modulator(tied, "classification", alpha=0.5)


def planted(seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Three frequencies in two sequences of random phase, one with half as much noise as the other."""
    random = torch.Generator().manual_seed(seed)
    target = torch.arange(480) % 3
    time = torch.arange(16)[None, :, None] / 16
    tone = 2 * torch.pi * (1 + 2 * target[:, None, None]) * time

    def sequence(noise: float) -> Tensor:
        phase = 2 * torch.pi * torch.rand(480, 1, 3, generator=random)
        return (tone + phase).sin() + noise * torch.randn(480, 16, 3, generator=random)

    return {"strong": sequence(0.4), "weak": sequence(0.9)}, target


def alone_after_training(seed: int, alpha: float) -> float:
    """Accuracy of the weak modality alone on samples that were held back."""
    torch.manual_seed(seed)
    inputs, target = planted(seed)
    shapes, axes = dict.fromkeys(inputs, (16, 3)), dict.fromkeys(inputs, "NTC")
    model = Classifier.build(shapes, axes, 3, width=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, nesterov=True)
    modulator = Modulator(model, "classification", alpha=alpha, seed=seed) if alpha else None
    for epoch in range(1, 9):
        for rows in torch.randperm(240).split(24):
            outputs = model.outputs({m: x[rows] for m, x in inputs.items()})
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs["prediction"], target[rows]).backward()
            if modulator is not None:
                modulator.observe(outputs, target[rows])
                modulator.apply(epoch)
            optimizer.step()
    nobody = torch.zeros(240, dtype=torch.bool)
    with torch.no_grad():
        logits = model.eval()({m: x[240:] for m, x in inputs.items()}, present={"strong": nobody})
    return float((logits.argmax(1) == target[240:]).double().mean())


def test_modulation_helps_the_modality_that_is_left_behind():
    """benchmarks/modulation.py has five seeds, intervals and three modalities."""
    gains = [alone_after_training(seed, 1.0) - alone_after_training(seed, 0.0) for seed in (0, 1)]
    assert sum(gains) / 2 > 0.05, gains


def test_what_the_settings_ask_for():
    model, fabric = classifier("ab"), Fabric(accelerator="cpu", devices=1)
    settings = {"data": "digits", "out": "r", "modulation_noise": False, "modulation_epochs": 3, "seed": 7}
    assert modulator_of(model, TrainConfig(**settings), "classification", fabric) is None
    found = modulator_of(model, TrainConfig(modulation=0.3, **settings), "classification", fabric)
    assert (found.alpha, found.noise, found.epochs, found.seed) == (0.3, False, 3, 7)

"""Fuses of logits: closed forms, the learned ensemble's gradients, Dempster's rule, fused Student t's."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, distributions
from torch.nn.functional import cross_entropy

from fusionscope.errors import InputError
from fusionscope.nn import Evidential, LateFusion, LearnedEnsemble, StudentFusion
from fusionscope.nn._student import NIG, Student, fuse_students, normal_inverse_gamma

NAMES = ("a", "b", "c")
ABSENT = {"a": torch.tensor([False, True, False, True, False]), "b": torch.tensor([True, False, False, True, False])}
NOBODY = {**ABSENT, "c": torch.tensor([True, True, True, True, False])}


def logits(channels: int = 7, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {m: 2 * torch.randn(5, channels) for m in NAMES}


def who(i: int) -> list[str]:
    return [m for m in NAMES if NOBODY[m][i]]


@pytest.mark.parametrize("mode", LateFusion.MODES)
def test_late_fusion_by_sample(mode):
    fuse, x = LateFusion(7, modalities=NAMES, mode=mode), logits()
    out = fuse(x, NOBODY).softmax(1)
    for i in range(5):
        each = [x[m][i] for m in who(i)]
        if not each:
            expected = torch.ones(7)
        elif mode == "mean":
            expected = torch.stack(each).mean(0).exp()
        elif mode == "product":
            expected = torch.stack([v.softmax(0) for v in each]).prod(0)
        else:
            expected = torch.stack([v.softmax(0) for v in each]).mean(0)
        torch.testing.assert_close(out[i], expected / expected.sum())
    assert torch.equal(fuse(x, NOBODY)[4], torch.zeros(7))


def test_ensemble_weights():
    fuse, x = LearnedEnsemble(7, modalities=NAMES), logits()
    torch.testing.assert_close(fuse(x), sum(x.values()) / 3)
    with torch.no_grad():
        fuse.alpha.copy_(torch.tensor([0.0, math.log(2), math.log(5)]))
    share = {"a": 1.0, "b": 2.0, "c": 5.0}
    for name, weight in fuse.weights.items():
        assert weight.item() == pytest.approx(share[name] / 8)
    out = fuse(x, NOBODY)
    for i in range(4):
        expected = sum(share[m] * x[m][i] for m in who(i)) / sum(share[m] for m in who(i))
        torch.testing.assert_close(out[i], expected)
    assert torch.equal(out[4], torch.zeros(7))
    with torch.no_grad():
        fuse.alpha.copy_(torch.tensor([500.0, 0.0, 0.0]))
    assert torch.equal(fuse(x, {"a": torch.zeros(5, dtype=torch.bool)}), (x["b"] + x["c"]) / 2)


def test_ensemble_gradient_reaches_only_alpha():
    fuse = LearnedEnsemble(7, modalities=NAMES)
    x = {m: v.requires_grad_() for m, v in logits().items()}
    target = torch.tensor([0, 1, 2, 3, 4])
    cross_entropy(fuse(x), target).backward()
    assert fuse.alpha.grad.abs().min() > 0
    assert [m for m in x if x[m].grad is not None] == []
    only_alpha = fuse.alpha.grad.clone()
    fuse.alpha.grad = None
    loss = fuse.loss(x, target, cross_entropy)
    loss.backward()
    expected = sum(cross_entropy(v, target) for v in x.values()) + cross_entropy(sum(x.values()) / 3, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(fuse.alpha.grad, only_alpha)
    for m, v in x.items():
        alone = v.detach().requires_grad_()
        cross_entropy(alone, target).backward()
        torch.testing.assert_close(v.grad, alone.grad, msg=m)


def test_ensemble_loss_of_absent_modalities():
    fuse = LearnedEnsemble(7, modalities=NAMES)
    x = logits()
    x["a"][~ABSENT["a"]] = torch.nan
    x = {m: v.requires_grad_() for m, v in x.items()}
    loss = fuse.loss(x, torch.tensor([0, 1, 2, 3, 4]), cross_entropy, ABSENT)
    loss.backward()
    assert loss.isfinite()
    assert (x["a"].grad[~ABSENT["a"]] == 0).all()
    assert (x["a"].grad[ABSENT["a"]] != 0).all()


def from_evidence(*values: float) -> Tensor:
    """Logits whose softplus is this."""
    return torch.tensor([[math.log(math.expm1(v)) if v else -80.0 for v in values]])


def dempster(one: tuple[list[float], float], two: tuple[list[float], float]) -> tuple[list[float], float]:
    """The reduced rule, term by term."""
    (b1, u1), (b2, u2) = one, two
    conflict = sum(b1[i] * b2[j] for i, j in itertools.permutations(range(len(b1)), 2))
    belief = [(p * q + p * u2 + q * u1) / (1 - conflict) for p, q in zip(b1, b2, strict=True)]
    return belief, u1 * u2 / (1 - conflict)


def test_dempster_by_hand():
    """b = (2/3, 0), u = 1/3 with b = (0, 1/3), u = 2/3: C = 2/9, so (4/7, 1/7), u = 2/7."""
    fuse = Evidential(2, modalities=("a", "b"))
    x = {"a": from_evidence(4, 0), "b": from_evidence(0, 1)}
    for modality, belief, uncertainty in (
        ("a", [2 / 3, 0], 1 / 3),
        ("b", [0, 1 / 3], 2 / 3),
        (None, [4 / 7, 1 / 7], 2 / 7),
    ):
        found = fuse.opinion(x, modality=modality)
        torch.testing.assert_close(found.belief, torch.tensor([belief]))
        torch.testing.assert_close(found.uncertainty, torch.tensor([uncertainty]))
    # expected probabilities: belief + uncertainty / K
    torch.testing.assert_close(fuse(x).exp(), torch.tensor([[5 / 7, 2 / 7]]))


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)))
def test_dempster_of_three_in_any_order(order):
    x = logits()
    found = Evidential(7, modalities=order).opinion(x, NOBODY)
    out = Evidential(7, modalities=order)(x, NOBODY)
    for i in range(5):
        opinion: tuple[list[float], float] = ([0.0] * 7, 1.0)
        for m in who(i):
            e = [math.log1p(math.exp(v)) for v in x[m][i].tolist()]
            opinion = dempster(opinion, ([v / (sum(e) + 7) for v in e], 7 / (sum(e) + 7)))
        torch.testing.assert_close(found.belief[i], torch.tensor(opinion[0]))
        torch.testing.assert_close(found.uncertainty[i], torch.tensor(opinion[1]))
        torch.testing.assert_close(found.belief[i].sum() + found.uncertainty[i], torch.tensor(1.0))
        torch.testing.assert_close(out[i].exp(), found.belief[i] + found.uncertainty[i] / 7)
    torch.testing.assert_close(out[4], torch.full((7,), -math.log(7)))


def test_evidence_agrees_and_conflicts():
    """Agreeing sources grow surer; sources in conflict end between, and huge evidence stays finite."""
    fuse = Evidential(3, modalities=("a", "b"))
    sure, other = torch.tensor([[5.0, -5.0, -5.0]]), torch.tensor([[-5.0, 5.0, -5.0]])
    alone = fuse.opinion({"a": sure, "b": sure}, modality="a").uncertainty
    assert fuse.opinion({"a": sure, "b": sure}).uncertainty < alone / 2
    torch.testing.assert_close(fuse({"a": sure, "b": other})[0, 0], fuse({"a": sure, "b": other})[0, 1])
    huge = {"a": 1e4 * sure, "b": 1e4 * other}
    assert fuse(huge).isfinite().all()


def test_evidential_loss_against_torch_and_quadrature():
    fuse = Evidential(7, modalities=("a",))
    x, target = {"a": logits()["a"]}, torch.tensor([0, 1, 2, 3, 6])
    alpha = x["a"].exp().log1p() + 1
    wrong = alpha.clone()
    wrong[torch.arange(5), target] = 1.0
    divergence = distributions.kl_divergence(distributions.Dirichlet(wrong), distributions.Dirichlet(torch.ones(7)))
    others = alpha.sum(1) - alpha[torch.arange(5), target]
    fit = [expected_surprise(alpha[i, y].item(), others[i].item()) for i, y in enumerate(target)]
    # the fused opinion is the modality's own here
    expected = 2 * (torch.tensor(fit).mean() + 0.3 * divergence.mean())
    torch.testing.assert_close(fuse.loss(x, target, annealing=0.3), expected.float(), rtol=1e-4, atol=1e-5)


def expected_surprise(a: float, b: float) -> float:
    """Of ``-log p`` where p has a beta distribution, as one class of a Dirichlet has."""
    beta = distributions.Beta(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    return quad(lambda p: -math.log(p) * beta.log_prob(torch.tensor(p, dtype=torch.float64)).exp().item(), 0, 1)[0]


@pytest.mark.parametrize("kind", [Evidential, StudentFusion])
def test_losses_over_maps_leave_out_what_has_no_label_and_who_is_absent(kind):
    torch.manual_seed(0)
    fuse = kind(3, modalities=("a", "b"))
    flat = {m: torch.randn(5, 3 * fuse.inputs) for m in ("a", "b")}
    target = torch.tensor([0, 1, 2, 1, 0])
    maps = {m: v.T[None, :, None] for m, v in flat.items()}
    torch.testing.assert_close(fuse.loss(maps, target[None, None]), fuse.loss(flat, target))
    hidden = torch.tensor([0, 1, -1, 1, -1])
    left = {m: v[hidden >= 0] for m, v in flat.items()}
    torch.testing.assert_close(fuse.loss(flat, hidden), fuse.loss(left, target[hidden >= 0]))
    one = kind(3, modalities=("a",))
    absent = {"b": torch.zeros(5, dtype=torch.bool)}
    broken = {"a": flat["a"], "b": torch.full((5, 3 * fuse.inputs), torch.nan, requires_grad=True)}
    loss = fuse.loss(broken, target, absent)
    torch.testing.assert_close(loss, one.loss({"a": flat["a"]}, target))
    loss.backward()
    assert (broken["b"].grad == 0).all()


def test_student_of_the_specification():
    t = NIG(torch.zeros(1), torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([1.5])).marginal()
    assert (t.df.item(), t.squared_scale.item()) == (6.0, 0.75)
    one = Student(torch.tensor([4.0]), torch.tensor([1.0]), torch.tensor([0.5]))
    two = Student(torch.tensor([6.0]), torch.tensor([2.0]), torch.tensor([0.8]))
    assert two.variance.item() == pytest.approx(1.2)
    for fused in (fuse_students(one, two), fuse_students(two, one)):
        assert fused.df.item() == 4
        assert fused.squared_scale.item() == pytest.approx(0.55)
        assert fused.loc.item() == pytest.approx(1.6)
    matched = Student(one.df, two.loc, 2 * fuse_students(one, two).squared_scale - one.squared_scale)
    assert matched.squared_scale.item() == pytest.approx(0.6)
    assert matched.variance.item() == pytest.approx(1.2)


def test_student_densities():
    torch.manual_seed(0)
    nig = normal_inverse_gamma(torch.randn(5, 12))
    t, y = nig.marginal(), torch.randn(5, 3)
    expected = -distributions.StudentT(t.df, t.loc, t.squared_scale.sqrt()).log_prob(y)
    torch.testing.assert_close(t.nll(y), expected)
    gamma, v, alpha, beta = nig
    omega = 2 * beta * (1 + v)
    nll = (
        0.5 * (math.pi / v).log()
        - alpha * omega.log()
        + (alpha + 0.5) * (v * (y - gamma) ** 2 + omega).log()
        + torch.lgamma(alpha)
        - torch.lgamma(alpha + 0.5)
    )
    torch.testing.assert_close(t.nll(y), nll)
    far = normal_inverse_gamma(torch.tensor([[0.0, -1e3, -1e3, -1e3], [0.0, 1e3, 1e3, 1e3]])).marginal()
    assert far.variance.isfinite().all()
    assert (far.df > 2).all()
    assert far.df.max() == 40


def test_which_student_lends_its_degrees_of_freedom():
    def student(*df: float) -> Student:
        return Student(torch.tensor([df]), torch.zeros(1, len(df)), torch.ones(1, len(df)))

    def winner(one: Student, two: Student) -> list[float]:
        return fuse_students(one, two).df[0].tolist()

    assert winner(student(3, 3, 9), student(4, 4, 4)) == [3, 3, 9], "fewer in more classes"
    assert winner(student(4, 4, 4), student(3, 3, 9)) == [3, 3, 9]
    assert winner(student(5, 9), student(6, 4)) == [6, 4], "a tie: the smallest of all"
    assert winner(student(6, 4), student(5, 9)) == [6, 4]
    assert winner(student(7, 7), student(7, 7)) == [7, 7]


def test_students_are_folded_over_who_is_there():
    fuse, x = StudentFusion(3, modalities=NAMES), logits(12)
    found = fuse.distribution(x, NOBODY)
    out = fuse(x, NOBODY)
    for i in range(4):
        t: Student | None = None
        for m in who(i):
            own = fuse.distribution(x, modality=m)
            own = Student(*(v[i : i + 1] for v in own))
            t = own if t is None else fuse_students(t, own)
        for value, expected in zip(found, t, strict=True):
            torch.testing.assert_close(value[i : i + 1], expected)
        assert torch.equal(out[i], found.loc[i])
    assert torch.equal(out[4], torch.zeros(3))


def test_student_loss_term_by_term():
    fuse, x, target = StudentFusion(3, modalities=NAMES), logits(12), torch.tensor([0, 1, 2, 1, 0])
    t = fuse.distribution(x)
    total, rankings = 0.0, 0
    for i, y in enumerate(target):
        label = torch.eye(3)[y]
        confidence = t.loc[i].softmax(0).max()
        total += distributions.StudentT(t.df, t.loc, t.squared_scale.sqrt()).log_prob(label)[i].mean().neg()
        total += 0.5 * cross_entropy(t.loc[i], y)
        for m in NAMES:
            gamma, v, alpha, beta = normal_inverse_gamma(x[m][i])
            own = Student(2 * alpha, gamma, beta * (1 + v) / (v * alpha))
            total += own.nll(label).mean() + 0.01 * cross_entropy(gamma, y) * (v + alpha + 1 / beta).mean()
            if gamma.argmax() == y and gamma.softmax(0).max() > confidence:
                total += 10 * (gamma.softmax(0).max() - confidence)
                rankings += 1
    assert rankings > 0
    torch.testing.assert_close(fuse.loss(x, target), total / 5)


def test_errors():
    with pytest.raises(InputError, match=r"same classes, got \{'a': 2, 'b': 3\}"):
        LateFusion({"a": 2, "b": 3})
    with pytest.raises(InputError, match="Did you mean 'product'"):
        LateFusion(3, modalities=NAMES, mode="prodct")
    with pytest.raises(InputError, match="'a' must have 12 channels"):
        StudentFusion(3, modalities=("a",))({"a": torch.zeros(5, 3)})

"""Contextual calibration: its formulas written slowly, its properties, and a misleading modality that it finds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from fusionscope.errors import InputError
from fusionscope.nn import ContextualCalibration

from .parts import MAPS, UNEQUAL_SEQUENCES, UNEQUAL_VECTORS
from .parts_calibration import MIXED, PAIR, calibration
from .test_part_laws import shaken

OPTIONS = (
    {},
    {"support": False},
    {"conflict": False},
    {"support": False, "conflict": False},
    {"dimension": False},
    {"instance": False},
    {"mode": "residual"},
    {"mode": "residual", "instance": False},
    {"detach": True},
    {"summary": "max"},
    {"summary": "attention"},
)
every = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "usual")


def draw(shapes: dict[str, tuple[int, ...]], batch: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(batch, *s, generator=generator) for m, s in shapes.items()}


def part(shapes: dict[str, tuple[int, ...]], **options) -> ContextualCalibration:
    torch.manual_seed(0)
    made = calibration(shapes, **options)()
    assert isinstance(made, ContextualCalibration)
    return made


def violent(made: ContextualCalibration, scale: float = 30.0) -> ContextualCalibration:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p += scale * torch.randn(p.shape, generator=generator)
    return made


def reference(made: ContextualCalibration, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Methods 3.2, a sample and a modality at a time, for the mean summary with all present."""
    names, out = list(features), {m: x.clone() for m, x in features.items()}
    weights = dict(made.named_parameters())
    for b in range(len(features[names[0]])):
        z = {}
        for m in names:
            x = features[m][b]
            u = x if x.ndim == 1 else x.mean(0) if x.ndim == 2 else x.mean((1, 2))
            y = weights[f"project.{m}.weight"] @ u
            y = (y - y.mean()) / (y.var(unbiased=False) + 1e-5).sqrt()
            z[m] = y * weights["norm.weight"] + weights["norm.bias"]
        for k, m in enumerate(names):
            others = [z[n] for n in names if n != m]
            c = torch.stack(others).mean(0)
            cos = [torch.dot(z[m], o) / (z[m].norm() * o.norm()) for o in others]
            a = torch.dot(z[m], c) / (z[m].norm() * c.norm())
            far = ((z[m] - c) ** 2).sum() / len(c)
            cues = [z[m], c, z[m] * c, a[None]]
            cues += [max(cos)[None]] if len(others) > 1 else []
            cues += [(z[m] - c).abs(), far[None]]
            cues += [min(cos)[None]] if len(others) > 1 else []
            h = weights["cues.weight"] @ torch.cat(cues) + weights["cues.bias"] + weights["embedding"][k]
            h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
            i = torch.sigmoid(weights["instance.weight"][0] @ h + weights["instance.bias"][0])
            g = torch.tanh(weights[f"dimension.{m}.weight"] @ h)
            factor = i / (1 / (1 + math.exp(-2))) * (1 + g)
            x = features[m][b]
            out[m][b] = x * (factor[:, None, None] if x.ndim == 3 else factor)
    return out


@pytest.mark.parametrize("shapes", [UNEQUAL_VECTORS, UNEQUAL_SEQUENCES, MAPS, MIXED, PAIR])
def test_the_formulas(shapes):
    made, x = shaken(part(shapes)), draw(shapes)
    got, expected = made(x), reference(made, x)
    for m in shapes:
        torch.testing.assert_close(got[m], expected[m], rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize("shapes", [MIXED, PAIR, {"rgb": (11,)}])
def test_identity_at_initialisation(shapes, options):
    x = draw(shapes, 1009)
    for m, out in part(shapes, **options)(x).items():
        assert torch.equal(out, x[m])


@every
def test_no_sign_flips_and_the_factor_stays_in_range(options):
    made = violent(part(MIXED, **options))
    x = draw(MIXED, 211)
    top = 2.0 if options.get("mode") == "residual" else 2 / torch.sigmoid(torch.tensor(2.0)).item()
    for m, out in made(x).items():
        assert out.isfinite().all()
        assert (out * x[m] >= 0).all()
        factor = made.gates(x)[m].factor
        assert factor.min() >= 0
        assert factor.max() <= top + 1e-5
        assert factor.std() > 0.01


def test_gates_say_what_is_done():
    made, x = shaken(part(MIXED)), draw(MIXED)
    gates, out = made.gates(x), made(x)
    for m, shape in MIXED.items():
        gate = gates[m]
        assert gate.instance.shape == (5,)
        assert gate.dimension.shape == gate.factor.shape == (5, shape[0] if len(shape) != 2 else shape[1])
        expected = gate.instance[:, None] / torch.sigmoid(torch.tensor(2.0)) * (1 + gate.dimension)
        torch.testing.assert_close(gate.factor, expected)
    torch.testing.assert_close(out["audio"], x["audio"] * gates["audio"].factor)
    torch.testing.assert_close(out["depth"], x["depth"] * gates["depth"].factor[:, None])
    start = part(MIXED).gates(x)["rgb"]
    assert start.instance[0].item() == pytest.approx(0.8807970779)
    assert (start.dimension == 0).all()
    found = torch.stack([gate.dimension.abs().mean() for gate in gates.values()]).mean()
    torch.testing.assert_close(made.sparsity(x, weight=0.3), 0.3 * found)
    made.sparsity(x).backward()
    assert made.cues.weight.grad is not None


def test_order_does_not_matter_when_shared():
    made = shaken(part(MAPS, shared=True))
    x = draw(MAPS)
    out = made(x)
    for order in itertools.permutations(MAPS):
        renamed = made({name: x[other] for name, other in zip(MAPS, order, strict=True)})
        for name, other in zip(MAPS, order, strict=True):
            torch.testing.assert_close(renamed[name], out[other])
    assert not torch.allclose(made(draw(MAPS, seed=1))["rgb"] / draw(MAPS, seed=1)["rgb"], out["rgb"] / x["rgb"])


def test_modalities_differ_when_not_shared():
    shapes = {"rgb": (11,), "depth": (11,)}
    made, x = shaken(part(shapes)), torch.randn(5, 11)
    out = made({"rgb": x, "depth": x})
    assert not torch.allclose(out["rgb"], out["depth"], rtol=1e-3)


def test_two_equal_modalities_support_each_other():
    """z_1 = z_2 gives no conflict and cosine 1."""
    made = part({"rgb": (11,), "depth": (11,)}, shared=True)
    x = torch.randn(5, 11)
    z = made.norm(made.project["all"](torch.stack([x, x], 1)))
    cues = made._compare(z, made.others[None])
    d = z.shape[2]
    torch.testing.assert_close(cues[..., 3 * d], torch.ones(5, 2))
    torch.testing.assert_close(cues[..., 3 * d + 1 :], torch.zeros(5, 2, d + 1), rtol=0, atol=1e-5)


def test_absent_modalities():
    made = violent(part(MIXED), 1.0)
    x = draw(MIXED, 7)
    present = {m: torch.ones(7, dtype=torch.bool) for m in MIXED}
    present["rgb"][0] = present["depth"][0] = False  # audio alone
    present["rgb"][1] = False
    out, gates = made(x, present), made.gates(x, present)
    assert torch.equal(out["audio"][0], x["audio"][0])
    assert (out["rgb"][:2] == 0).all()
    assert gates["audio"].factor[0].eq(1).all()
    assert gates["rgb"].factor[:2].eq(0).all()
    two = violent(part({m: MIXED[m] for m in ("depth", "audio")}), 1.0)
    assert two.channels == {"depth": 7, "audio": 13}
    # what is absent has no say: another value of it changes nothing, its presence does
    other = made({**x, "rgb": x["rgb"] + 1}, present)
    torch.testing.assert_close(other["audio"][:2], out["audio"][:2], rtol=0, atol=0)
    assert not torch.allclose(made(x)["audio"][1], out["audio"][1])
    nobody = {m: torch.zeros(7, dtype=torch.bool) for m in MIXED}
    assert all((v == 0).all() for v in made(x, nobody).values())


def test_zero_and_constant_features_stay_finite():
    for options in OPTIONS:
        made = violent(part(PAIR, **options))
        for value in (0.0, 1.0, 1e6):
            x = {m: torch.full((3, *s), value, requires_grad=True) for m, s in PAIR.items()}
            out = made(x)
            assert all(v.isfinite().all() for v in out.values()), (options, value)
            torch.stack([v.sum() for v in out.values()]).sum().backward()
            assert all(v.grad.isfinite().all() for v in x.values()), (options, value)


def test_detach_stops_gradients_to_other_modalities():
    for detach in (False, True):
        made = shaken(part(PAIR, detach=detach))
        x = {m: v.requires_grad_() for m, v in draw(PAIR).items()}
        made(x)["rgb"].sum().backward()
        grad = x["audio"].grad
        assert (grad is None or not grad.any()) == detach
        assert x["rgb"].grad.abs().sum() > 0


def test_after_the_fusion():
    """The fused vector as one more modality, the only one gated."""
    made = shaken(part({**UNEQUAL_VECTORS, "fused": (31,)}, gated=("fused",)))
    x = draw(UNEQUAL_VECTORS)
    fused = torch.cat(list(x.values()), 1)
    out = made({**x, "fused": fused})
    assert all(torch.equal(out[m], x[m]) for m in x)
    assert not torch.allclose(out["fused"], fused)
    assert set(made.gates({**x, "fused": fused})) == {"fused"}
    assert [n for n, _ in made.named_parameters() if n.startswith("dimension")] == ["dimension.fused.weight"]


@pytest.mark.parametrize("summary", ["mean", "max", "attention"])
def test_steps_that_do_not_count(summary):
    """A padded sequence is calibrated as the short one; a sequence of no steps is finite."""
    made = shaken(part(PAIR, summary=summary))
    x = draw(PAIR)
    long = torch.cat([x["audio"], torch.full((5, 2, 13), torch.nan)], 1)
    steps = torch.ones(5, 7, dtype=torch.bool)
    steps[:, 5:] = False
    out = made({"rgb": x["rgb"], "audio": long}, steps={"audio": steps})
    torch.testing.assert_close(out["rgb"], made(x)["rgb"])
    steps[0] = False
    assert made({"rgb": x["rgb"], "audio": x["audio"]}, steps={"audio": steps[:, :5]})["rgb"].isfinite().all()
    with pytest.raises(InputError, match=r"steps\['rgb'\]"):
        made(x, steps={"rgb": steps})


def test_attention_starts_as_the_mean():
    mean, attention = part(PAIR), part(PAIR, summary="attention")
    attention.load_state_dict(mean.state_dict() | {k: v for k, v in attention.state_dict().items() if "score" in k})
    x = draw(PAIR)
    for made in (mean, attention):
        nn.init.constant_(made.instance.weight, 0.1)
    torch.testing.assert_close(mean(x), attention(x))


def test_number_of_parameters():
    """About sum (d_m d + r d_m) + r (4 d + 2), as the methods page says."""
    made = ContextualCalibration({"text": 300, "audio": 74})
    count = sum(p.numel() for p in made.parameters())
    expected = (300 + 74) * (64 + 32) + 32 * (4 * 64 + 2)
    assert expected < count < expected + 300


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "prodct"}, "Did you mean 'product'"),
        ({"summary": "median"}, "mean, max, attention"),
        ({"gated": ("smell",)}, "smell"),
        ({"shared": True}, "equal channels"),
        ({"dimension": False, "instance": False}, "nothing to scale by"),
        ({"dimension": False, "mode": "residual"}, "nothing to scale by"),
    ],
)
def test_errors(options, words):
    with pytest.raises(InputError, match=words):
        ContextualCalibration({"rgb": 11, "audio": 13}, **options)


def test_a_misleading_modality_is_turned_down_where_it_misleads():
    """A head learnt where all three tell the class; then, on half the samples, one tells another, the others agree."""
    fallen = []
    for seed in range(3):
        torch.manual_seed(seed)
        codes = {m: torch.randn(5, 11) for m in ("a", "b", "c")}

        def batch(share: float, codes: dict[str, Tensor] = codes) -> tuple[dict[str, Tensor], Tensor, Tensor]:
            y, wrong = torch.randint(5, (128,)), torch.rand(128) < share
            lie = torch.where(wrong, (y + torch.randint(1, 5, (128,))) % 5, y)
            x = {m: codes[m][lie if m == "c" else y] for m in codes}
            return {m: v + 0.5 * torch.randn_like(v) for m, v in x.items()}, y, wrong

        head = nn.Linear(33, 5)
        made = ContextualCalibration(11, ("a", "b", "c"), dim=16, hidden=16, dimension=False)
        for learner, share in ((head, 0.0), (made, 0.5)):
            steps = torch.optim.Adam(learner.parameters(), 2e-2)
            for _ in range(40):
                x, y, _ = batch(share)
                loss = nn.functional.cross_entropy(head(torch.cat(list(made(x).values()), 1)), y)
                steps.zero_grad()
                loss.backward()
                steps.step()
        x, _, wrong = batch(0.5)
        gate = made.gates(x)["c"].instance
        fallen.append((gate[wrong].mean() / gate[~wrong].mean()).item())
    assert max(fallen) < 0.6, fallen


def test_attention_keeps_double_precision() -> None:
    calibration = shaken(ContextualCalibration({"rgb": 5, "depth": 3}, summary="attention")).double()
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    u = ((x @ calibration.score["rgb"].weight[0]).softmax(1)[..., None] * x).sum(1)
    expected = calibration.project["rgb"](u)
    torch.testing.assert_close(calibration._summary("rgb", x, None), expected, rtol=0, atol=1e-12)

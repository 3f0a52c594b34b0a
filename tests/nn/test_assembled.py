"""Classifier and SequenceModel: what they are built of, who is present, losses, and what ``trace`` finds in them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from fusionscope.errors import InputError
from fusionscope.nn import (
    Classifier,
    Concat,
    ContextualCalibration,
    CrossAttention,
    LateFusion,
    LearnedEnsemble,
    ResNet,
    SequenceModel,
    TokenEncoder,
    VectorEncoder,
    VectorHead,
    attach_calibration,
    detach_calibration,
)
from fusionscope.nn._fuse_names import ENSEMBLES, FUSES
from fusionscope.nn._standardise import RawNorm
from fusionscope.tracing import Trace, trace

SHAPES = {"vec": (7,), "seq": (23, 5), "map": (3, 17, 19), "clip": (5, 2, 11, 13)}
AXES = {"vec": "NC", "seq": "NTC", "map": "NCHW", "clip": "NTCHW"}
PAIR, PAIR_AXES = {"a": (7,), "b": (5,)}, {"a": "NC", "b": "NC"}
TWINS, TWINS_AXES = {"rgb": (3, 13, 11), "depth": (1, 13, 11)}, {"rgb": "NCHW", "depth": "NCHW"}
TARGET = torch.arange(7) % 3


def sample(shapes, batch: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(batch, *s, generator=generator) for m, s in shapes.items()}


def idle(model: nn.Module) -> list[str]:
    return [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("kind", [Classifier, SequenceModel])
@pytest.mark.parametrize("fuse", [*FUSES, *ENSEMBLES])
def test_any_mix_through_any_fuse(kind, fuse):
    model = kind.build(SHAPES, AXES, 3, fuse=fuse, width=3, calibration=True)
    outputs = model.outputs(sample(SHAPES))
    assert outputs["prediction"].shape == (7, 3)
    assert all(outputs[f"{m} features"].shape[1] == c or m in ("seq", "clip") for m, c in model.channels.items())
    model.loss(outputs, TARGET, cross_entropy).backward()
    assert idle(model) == []
    assert model.modalities == tuple(SHAPES)
    assert "vec=12, seq=12" in repr(model)


def test_sequences_keep_their_lengths():
    model = SequenceModel.build(SHAPES, AXES, 3, width=3)
    features = model.encode(sample(SHAPES))
    assert {m: tuple(x.shape[1:]) for m, x in features.items()} == {
        "vec": (12,),
        "seq": (6, 12),
        "map": (3, 3, 3),
        "clip": (5, 12),
    }


@pytest.mark.parametrize("kind", [Classifier, SequenceModel])
@pytest.mark.parametrize(("values", "shape"), [(1, (7,)), (3, (7, 3))])
def test_regression(kind, values, shape):
    model = kind.build(PAIR, PAIR_AXES, values, task="regression", width=2)
    assert isinstance(model.head, VectorHead)
    assert model(sample(PAIR)).shape == shape


def test_encoders_by_name_and_module(monkeypatch):
    own = ResNet(2, (1, 1), width=3)
    model = Classifier.build(SHAPES, AXES, 3, encoder={"clip": own, "seq": "transformer"}, fuse="sum", width=2)
    assert model.channels == {"vec": 8, "seq": 8, "map": 8, "clip": 6}
    assert not any(p is q for p in own.parameters() for q in model.parameters()), "modules are copied"
    kinds = {type(part) for part in model.encoders["clip"].modules()}
    assert ResNet in kinds
    assert RawNorm not in kinds, "what goes into a user's module is left as it is"
    assert model(sample(SHAPES)).shape == (7, 3)
    for name in ("kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda *_, **__: None)
    named = Classifier.build(SHAPES, AXES, 3, encoder="resnet18", width=2)
    assert named.channels == {"vec": 8, "seq": 8, "map": 512, "clip": 512}
    assert RawNorm in {type(part) for part in named.encoders["map"].modules()}
    stems = [part.conv1.kernel_size for part in named.modules() if isinstance(part, ResNet)]
    assert stems == [(3, 3), (3, 3)], "small maps get the small stem"


@pytest.mark.parametrize("training", [True, False])
def test_absent_inputs_do_not_matter(training):
    """Not even in training, where batch norms see the whole batch."""
    torch.manual_seed(0)
    model = Classifier.build(SHAPES, AXES, 3, width=2, calibration=True).train(training)
    inputs = sample(SHAPES)
    present = {"map": torch.arange(7) % 2 == 0, "seq": torch.arange(7) != 3}
    expected = model(inputs, present)
    worse = {m: x.clone() for m, x in inputs.items()}
    for m, mask in present.items():
        worse[m][~mask] = torch.nan
    assert torch.equal(model(worse, present), expected)
    assert not torch.equal(model(inputs), expected)


def test_modality_dropout():
    model = Classifier.build(PAIR, PAIR_AXES, 3, width=2, fuse="mean", modality_dropout=0.5)
    inputs = sample(PAIR, batch=997)
    features = model.encode(inputs)
    dropped = model._dropped(features, {"a": torch.arange(997) % 3 != 0})
    assert (dropped["a"] | dropped["b"]).all()
    assert not dropped["a"][::3].any()
    assert dropped["b"][::3].all(), "the only modality stays"
    assert 0.15 < (~dropped["b"]).float().mean() < 0.35
    assert model.eval()._dropped(features, None) is None


def test_losses_of_a_learned_ensemble():
    """Each modality learns from its own logits, the ensemble from its weights' gradient alone."""
    model = Classifier.build(PAIR, PAIR_AXES, 3, width=2, fuse="learned_ensemble")
    outputs = model.outputs(sample(PAIR))
    logits = {m: outputs[f"{m} logits"] for m in PAIR}
    terms = [cross_entropy(x, TARGET) for x in (*logits.values(), outputs["prediction"])]
    torch.testing.assert_close(model.loss(outputs, TARGET, cross_entropy), torch.stack(terms).sum())
    torch.testing.assert_close(outputs["prediction"], (logits["a"] + logits["b"]) / 2)


def test_absent_logits_have_no_part_in_the_loss():
    model = Classifier.build(PAIR, PAIR_AXES, 3, width=2, fuse="learned_ensemble").eval()
    inputs, present = sample(PAIR), {"b": torch.zeros(7, dtype=torch.bool)}
    outputs = model.outputs(inputs, present)
    assert torch.equal(outputs["prediction"], outputs["a logits"])
    model.loss(outputs, TARGET, cross_entropy).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.heads["b"].parameters())


def test_penalty_joins_the_loss():
    model = Classifier.build(TWINS, TWINS_AXES, 3, width=4, shared=True, exchange="channel_exchange")
    outputs = model.outputs(sample(TWINS))
    penalty = model.shared.penalty()
    assert penalty > 0
    expected = cross_entropy(outputs["prediction"], TARGET) + penalty
    torch.testing.assert_close(model.loss(outputs, TARGET, cross_entropy), expected)


def test_shared_weights_are_there_once():
    options = {"encoder": ResNet(blocks=(1, 2), width=8, small=True), "width": 4}
    apart = Classifier.build({m: (3, 13, 11) for m in TWINS}, TWINS_AXES, 3, **options)
    model = Classifier.build({m: (3, 13, 11) for m in TWINS}, TWINS_AXES, 3, shared=True, **options)
    assert model.channels == apart.channels == {"rgb": 16, "depth": 16}
    one = sum(p.numel() for p in apart.encoders["rgb"].parameters())
    norms = sum(p.numel() for n, p in apart.encoders["rgb"].named_parameters() if p.ndim == 1)
    assert sum(p.numel() for p in model.shared.parameters()) == one + norms


def learned(model: Classifier | SequenceModel, inputs: dict[str, torch.Tensor]) -> Trace:
    """Train a few steps, then trace."""
    for _ in range(3):
        gradients = torch.autograd.grad(
            model.loss(model.outputs(inputs), TARGET, cross_entropy), list(model.parameters())
        )
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    return trace(model.eval(), inputs)


def ends(found: Trace) -> dict[str, tuple[str, str]]:
    return {m: (calls[0].path, calls[-1].path) for m, calls in found.streams.items()}


def test_trace_of_a_classifier():
    """Pure streams up to the calibrator, whose gates are wired before training and active after it."""
    torch.manual_seed(0)
    model = Classifier.build(PAIR, PAIR_AXES, 3, width=2, calibration=True).eval()
    inputs = sample(PAIR)
    before = trace(model, inputs)
    after = learned(model.train(), inputs)
    gates = {"calibration.instance", "calibration.dimension.a", "calibration.dimension.b"}
    for found, active in ((before, set()), (after, set(PAIR))):
        assert ends(found) == {m: (f"encoders.{m}.stem.0", f"calibration.project.{m}") for m in PAIR}
        assert {c.path for c in found.calls if c.path in gates and c.wired_to == set(PAIR)} == gates
        assert all(c.depends_on == active for c in found.calls if c.path in gates)
        assert all(len(c.wired_to) == 1 for c in found.calls if c.path.startswith("encoders."))
        point = found.fusion_points[0]
        assert (point.parent, point.functional, point.mixed_by.path) == ("calibration", True, "calibration.cues")


def test_trace_of_a_shared_encoder_with_exchanges():
    torch.manual_seed(0)
    backbone = ResNet(blocks=(1, 1), width=8, small=True)
    model = Classifier.build(TWINS, TWINS_AXES, 3, encoder=backbone, shared=True, exchange="channel_shuffle").eval()
    inputs = sample(TWINS)
    for found in (trace(model, inputs), learned(model.train(), inputs)):
        assert ends(found) == {m: (f"encoders.{m}", "shared.backbone.backbone.layer1.0.relu") for m in TWINS}
        places = [(p.call.path, p.exchange) for p in found.fusion_points]
        assert places == [
            ("shared.exchanges.0.exchange", True),
            ("shared.exchanges.1.exchange", True),
            ("fuse", False),
        ]
        assert all(p.modalities == set(TWINS) for p in found.fusion_points)
        conv = [c for c in found.calls if c.path == "shared.backbone.backbone.conv1"]
        assert [(c.slot, c.depends_on) for c in conv] == [("[0::2]", {"rgb"}), ("[1::2]", {"depth"})]


def test_trace_of_a_sequence_model():
    shapes = {"audio": (23, 5), "text": (11, 3)}
    torch.manual_seed(0)
    fuse = CrossAttention(8, ("audio", "text"), width=8, heads=2, layers=1, self_layers=0)
    encoders = {m: TokenEncoder(s[1], 2, layers=1) for m, s in shapes.items()}
    model = SequenceModel(encoders, fuse, VectorHead(16, 3, hidden=5)).eval()
    inputs = sample(shapes)
    for found in (trace(model, inputs), learned(model.train(), inputs)):
        first = {m: calls[0].path for m, calls in found.streams.items()}
        assert first == {m: f"encoders.{m}.stem.0" for m in shapes}
        assert all(c.depends_on == {m} for m in shapes for c in found.calls if c.path.startswith(f"encoders.{m}."))
        parents = [p.parent for p in found.fusion_points]
        assert parents[:2] == ["fuse.cross.audio.text.0", "fuse.cross.text.audio.0"]
        assert all(p.modalities == set(shapes) and p.parent.startswith("fuse") for p in found.fusion_points)
        assert [c.depends_on for c in found.calls if c.path == "head"] == [set(shapes)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Classifier.build(PAIR, PAIR_AXES, 3, width=2, fuse="late"),
        lambda: Classifier.build(TWINS, TWINS_AXES, 3, width=2, shared=True, exchange="channel_shuffle"),
        lambda: SequenceModel.build(PAIR, PAIR_AXES, 3, width=2, fuse="bottleneck_attention"),
    ],
    ids=["late", "shared", "sequence"],
)
def test_calibration_can_be_attached_and_detached(build):
    torch.manual_seed(0)
    model = build().eval()
    inputs = sample(TWINS if "rgb" in model.modalities else PAIR)
    expected = model(inputs)
    attach_calibration(model, inputs)
    torch.testing.assert_close(model(inputs), expected, rtol=0, atol=1e-6)
    detach_calibration(model)
    assert torch.equal(model(inputs), expected)


BUILD = {"shapes": PAIR, "axes": PAIR_AXES, "n_outputs": 3}
MAPS = {"shapes": TWINS, "axes": TWINS_AXES}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"encoder": "resnet19"}, "unknown encoder 'resnet19'.*Did you mean 'resnet18'"),
        ({"encoder": {"a": "resnet18"}}, "'resnet18' does not take modality 'a' with axes NC"),
        ({"encoder": {"a": "transformer"}}, "'transformer' does not take modality 'a' with axes NC"),
        ({"encoder": {"c": "auto"}}, "unknown modality 'c'"),
        ({"fuse": "gatd"}, "unknown fuse 'gatd'.*Did you mean 'gated'"),
        ({"fuse": Concat(("a", "b"))}, "must say in an attribute `channels`"),
        ({"task": "dense"}, "a Classifier predicts per sample: .*'multilabel' or 'regression', not 'dense'"),
        ({"shared": True}, "two maps .NCHW. or more"),
        ({"exchange": "asym_fusion"}, "give shared=True, or calibration="),
        (MAPS | {"shared": True, "exchange": "asymfusion"}, "Did you mean 'asym_fusion'"),
        (MAPS | {"shared": True, "encoder": {"rgb": "resnet18"}}, "one encoder for all maps"),
        ({"shapes": {"a": (3, 7, 7), "b": (3, 7, 5)}, "axes": {"a": "NCHW", "b": "NCHW"}, "shared": True}, "one size"),
    ],
)
def test_errors_of_building(change, text):
    with pytest.raises(InputError, match=text):
        Classifier.build(**(BUILD | change))


@pytest.mark.parametrize("kind", [Classifier, SequenceModel])
def test_fuses_of_logits_that_exclude_each_other_are_not_for_labels(kind):
    for fuse in ("evidential", "student", LateFusion(3, modalities=("a", "b"), mode="product")):
        with pytest.raises(InputError, match=r"several labels may be .*: take 'late' .*, 'learned_ensemble', or"):
            kind.build(**BUILD, task="multilabel", fuse=fuse)
    with pytest.raises(InputError, match=r"LearnedEnsemble fuses logits of classes; for regression take"):
        kind.build(**BUILD, task="regression", fuse=LearnedEnsemble(3, modalities=("a", "b")))
    flags = (torch.arange(21).view(7, 3) % 2).float()
    for fuse in ("late", "learned_ensemble", "gated"):
        model = kind.build(**BUILD, task="multilabel", fuse=fuse, width=2)
        outputs = model.outputs(sample(PAIR))
        assert outputs["prediction"].shape == flags.shape
        model.loss(outputs, flags, binary_cross_entropy_with_logits).backward()
        assert idle(model) == []


def test_errors_of_sequence_models():
    with pytest.raises(InputError, match="not 'dense'"):
        SequenceModel.build(**BUILD, task="dense")
    with pytest.raises(InputError, match="fuse = 'late' fuses logits of classes; for regression take"):
        SequenceModel.build(**BUILD, task="regression", fuse="late")


def test_errors_of_the_parts():
    encoders = {"a": VectorEncoder(7, 2), "b": VectorEncoder(5, 2)}
    head, late = VectorHead(16, 3), LateFusion(3, modalities=("a", "b"))
    with pytest.raises(InputError, match=r"Concat, give one head, got dict"):
        Classifier(encoders, Concat({"a": 8, "b": 8}), {"a": head})
    with pytest.raises(InputError, match=r"LateFusion, give {modality: head}, got VectorHead"):
        Classifier(encoders, late, head)
    with pytest.raises(InputError, match=r"a head for each of 'a', 'b'"):
        Classifier(encoders, late, {"a": head})
    with pytest.raises(InputError, match="how many channels Linear returns"):
        Classifier({"a": nn.Linear(3, 5)}, Concat({"a": 5}), head)


def test_errors_of_presence():
    model = Classifier.build(PAIR, PAIR_AXES, 3, width=2, calibration=ContextualCalibration(8, ("a", "b")))
    inputs = sample(PAIR)
    with pytest.raises(InputError, match="present names the unknown modality 'c'"):
        model(inputs, {"c": torch.ones(7, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"present\['a'\] must be a bool per sample, \[7\], got torch.bool of \[5\]"):
        model(inputs, {"a": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"missing modality 'b'.*present={modality: all False}"):
        model({"a": inputs["a"]}, {"b": torch.zeros(7, dtype=torch.bool)})

"""The baseline's parts: shapes (prime sizes), purity of streams, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fusionscope.errors import InputError
from fusionscope.nn import ClipEncoder, Concat, DenseHead, MapEncoder, SequenceEncoder, VectorEncoder, build_model
from fusionscope.nn._blocks import Deltas, Residual
from fusionscope.nn._part import drop

SHAPES = {"vec": (7,), "seq": (23, 5), "map": (3, 17, 19), "clip": (5, 2, 11, 13)}
AXES = {"vec": "NC", "seq": "NTC", "map": "NCHW", "clip": "NTCHW"}
OUTPUTS = {
    "classification": (11, (2, 11)),
    "dense": (11, (2, 11, 17, 19)),
    "regression": (1, (2,)),
    "multilabel": (5, (2, 5)),
}


def sample(batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(batch, *s, generator=generator) for m, s in SHAPES.items()}


@pytest.mark.parametrize("task", OUTPUTS)
def test_output_shape_and_every_parameter_learns(task):
    outputs, shape = OUTPUTS[task]
    model = build_model(SHAPES, AXES, task, outputs, width=4)
    out = model(sample())
    assert out.shape == shape
    (out * torch.randn(shape)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert model.modalities == tuple(SHAPES)


def test_regression_of_several_values():
    model = build_model(SHAPES, AXES, "regression", 3, width=4).eval()
    model.head.set_range(torch.tensor([100.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
    out = model(sample())
    assert out.shape == (2, 3)
    assert (out[:, 0] > 90).all()
    assert (out[:, 2] == 0).all()


@pytest.mark.parametrize("task", OUTPUTS)
def test_streams_see_one_modality_only(task):
    """Changing one modality changes its own features and no other's."""
    model = build_model(SHAPES, AXES, task, OUTPUTS[task][0], width=4).eval()
    before, other = sample(), sample(seed=1)
    plain = model.encode(before)
    for changed in SHAPES:
        now = model.encode({**before, changed: other[changed]})
        assert [m for m in SHAPES if not torch.equal(now[m], plain[m])] == [changed]


def test_samples_are_independent_in_evaluation():
    model = build_model(SHAPES, AXES, "dense", 3, width=4).eval()
    inputs = sample(batch=5)
    alone = torch.cat([model({m: x[i : i + 1] for m, x in inputs.items()}) for i in range(5)])
    torch.testing.assert_close(model(inputs), alone, rtol=1e-4, atol=1e-5)


def test_dense_target_size_and_maps_of_different_sizes():
    shapes, axes = {"a": (3, 17, 19), "b": (1, 29, 31)}, {"a": "NCHW", "b": "NCHW"}
    inputs = {m: torch.randn(2, *s) for m, s in shapes.items()}
    assert build_model(shapes, axes, "dense", 5, width=4)(inputs).shape == (2, 5, 29, 31)
    assert build_model(shapes, axes, "dense", 5, width=4, target_size=(17, 19))(inputs).shape == (2, 5, 17, 19)


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [
        (VectorEncoder(7, 4), (2, 7)),
        (SequenceEncoder(5, 4), (2, 23, 5)),
        (MapEncoder(3, 4), (2, 3, 17, 19)),
        (ClipEncoder(2, 4), (2, 5, 2, 11, 13)),
    ],
)
def test_encoders_take_integers_and_expose_norms_and_activations(encoder, shape):
    out = encoder(torch.randint(0, 255, shape, dtype=torch.uint8))
    assert out.shape == (2, encoder.channels)
    kinds = {type(m) for m in encoder.modules()}
    assert nn.ReLU in kinds
    assert kinds & {nn.BatchNorm1d, nn.BatchNorm2d}


def test_encoder_ignores_the_unit_of_its_input():
    """The first norm learns mean and scale: metres or millimetres, the training-mode output is the same."""
    encoder = SequenceEncoder(5, 4)
    x = torch.randn(3, 23, 5)
    torch.testing.assert_close(encoder(x), encoder(1000 * x + 70), rtol=1e-3, atol=1e-3)


def test_deltas_by_hand():
    x = torch.tensor([[[1.0, 4.0, 2.0]]])
    assert Deltas()(x).tolist() == [[[1.0, 4.0, 2.0], [0.0, 3.0, -2.0]]]


@pytest.mark.parametrize("length", [2, 3, 13, 17])
def test_strided_residual_keeps_odd_ends(length):
    assert Residual(1, 3, 5, stride=2)(torch.randn(2, 3, length)).shape == (2, 5, (length + 1) // 2)


def test_dense_head_places_subpixels():
    """The logits of pixel (2i+r, 2j+s) come from position (i, j) alone when the 3x3 kernel is a centre tap."""
    torch.manual_seed(0)
    head = DenseHead(1, 1, (5, 7), hidden=8).eval()
    with torch.no_grad():
        head.layers[0].weight.zero_()
        head.layers[0].weight[:, :, 1, 1] = 1.0
    x = torch.zeros(1, 1, 3, 4)
    changed = x.clone()
    changed[0, 0, 1, 2] = 5.0
    moved = (head(x) != head(changed))[0, 0].nonzero().tolist()
    assert moved
    assert {(r // 2, c // 2) for r, c in moved} == {(1, 2)}


def test_concat_order_and_present():
    fuse = Concat(("b", "a"))
    features = {"a": torch.ones(999, 2, 3, 1), "b": 2 * torch.ones(999, 1, 3, 1)}
    assert fuse(features)[0, :, 0, 0].tolist() == [2, 1, 1]
    present = {"a": torch.arange(999) % 3 != 0}
    assert (fuse(features, present)[:, 1:, 0, 0].sum(1) == 2.0 * present["a"]).all()


def test_modality_dropout_always_leaves_one():
    like = torch.zeros(999, 1)
    torch.manual_seed(0)
    kept = drop(None, ("a", "b"), like, 0.5)
    assert (kept["a"] | kept["b"]).all()
    # each is dropped with probability 1/2, but never both: 1/4 of samples lose b only, 1/4 lose a only, the draw of
    # two drops is settled in favour of either, so 3/4 of the both-dropped half quarter each stay
    for m in ("a", "b"):
        assert 0.3 < (~kept[m]).float().mean() < 0.45
    never = drop({"b": torch.zeros(999, dtype=torch.bool)}, ("a", "b"), like, 0.5)
    assert never["a"].all(), "the only present modality is never dropped"


def test_unknown_and_missing_modalities():
    model = build_model({"rgb": (3,), "depth": (5,)}, {"rgb": "NC", "depth": "NC"}, "classification", 2, width=4)
    x = {"rgb": torch.zeros(2, 3), "depth": torch.zeros(2, 5)}
    with pytest.raises(
        InputError, match=r"unknown modality 'dept': this model takes 'rgb', 'depth'. Did you mean 'depth'"
    ):
        model({"rgb": x["rgb"], "dept": x["depth"]})
    with pytest.raises(InputError, match="missing modality 'depth': this model takes 'rgb', 'depth', got 'rgb'"):
        model({"rgb": x["rgb"]})
    with pytest.raises(InputError, match="missing modalities 'rgb', 'depth'.*got nothing"):
        model({})
    with pytest.raises(InputError, match="the same number of samples, got rgb 2, depth 1"):
        model({"rgb": x["rgb"], "depth": x["depth"][:1]})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shapes": {}}, "at least one modality"),
        ({"task": "clasification"}, "Did you mean 'classification'"),
        ({"fuse": "concta"}, "Did you mean 'concat'"),
        ({"axes": {"x": "NCT"}}, "no encoder for modality 'x' with axes 'NCT'"),
        ({"axes": {"x": "NTC"}}, r"has axes NTC, so 2 per sample, but shape \(7,\)"),
        ({"task": "dense"}, "at least one map"),
        ({"shapes": {"a.b": (7,)}, "axes": {"a.b": "NC"}}, "rename it"),
        ({"shapes": {"keys": (7,)}, "axes": {"keys": "NC"}}, "rename it"),
    ],
)
def test_build_errors(change, text):
    arguments = {"shapes": {"x": (7,)}, "axes": {"x": "NC"}, "task": "classification", "n_outputs": 2} | change
    with pytest.raises(InputError, match=text):
        build_model(**arguments)


def test_concat_errors():
    with pytest.raises(InputError, match=r"missing: 'b'"):
        Concat(("a", "b"))({"a": torch.zeros(2, 3)})
    with pytest.raises(InputError, match=r"channels only .*got a \[2, 5, 3\], b \[2, 7, 3\]"):
        Concat(("a", "b"))({"a": torch.zeros(2, 5, 3), "b": torch.zeros(2, 7, 3)})


def test_nothing_imports_torch_until_used():
    import subprocess
    import sys

    code = "import sys, fusionscope.nn, fusionscope.engine as e; e.TrainConfig; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"

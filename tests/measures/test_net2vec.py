"""Net2Vec: the batched fit against a slow loop per concept, planted concepts, and packed bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fusionscope.errors import InputError
from fusionscope.measures.functional import (
    _net2vec,
    binarise,
    net2vec_fit,
    net2vec_maps,
    pack_bits,
    unpack_bits,
)
from fusionscope.measures.functional._net2vec import set_ious

N, U, C = 13, 5, 3


def scenes(seed=0, n=N, grid=(3, 7), size=(5, 11)):
    """Random units and masks; concept 1 is in few images, some pixels carry no label."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, U, *grid, generator=g, dtype=torch.float64)
    masks = torch.rand(n, C, *size, generator=g) < 0.3
    masks[4:, 1] = False
    masks[2, 0] = False
    labelled = torch.rand(n, *size, generator=g) < 0.9
    return x, masks & labelled.unsqueeze(1), labelled


def slow_fit(x, masks, labelled, c, start, variant, batches, only, log=None, alpha=None):
    """One concept by autograd and torch's own optimisers, image by image and unit by unit."""
    w = start.clone().requires_grad_()
    b = torch.zeros((), dtype=w.dtype, requires_grad=True)
    stable = variant == "stable" if log is None else log
    images = [i for i in range(len(x)) if bool(masks[i, c].any()) or not only]
    share = [float(masks[i, c].sum()) / float(labelled[i].sum()) for i in images]
    alpha = 1 - sum(share) / len(share) if alpha is None else alpha
    if variant == "published":
        optimiser = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    else:
        optimiser = torch.optim.Adam([w, b], lr=0.1)
    for batch in batches(images):
        loss, pixels = torch.zeros((), dtype=w.dtype), 0
        for i in batch:
            mixed = sum(w[k] * x[i, k].to(w.dtype) for k in range(len(w)))
            z = F.interpolate(mixed[None, None], labelled[i].shape, mode="bilinear", align_corners=False)[0, 0] + b
            M, L, known = z.sigmoid(), masks[i, c], labelled[i]
            if stable:
                loss = loss - alpha * M[L & known].log().sum() - (1 - alpha) * (1 - M)[~L & known].log().sum()
            else:
                loss = loss - alpha * M[L & known].sum() - (1 - alpha) * (1 - M)[~L & known].sum()
            pixels += int(known.sum())
        optimiser.zero_grad()
        (loss / (pixels if variant == "stable" else len(batch))).backward()
        optimiser.step()
    return w.detach(), b.detach()


def in_turn(batch, seed, epochs=0, steps=0):
    """The documented order: one shuffle of all images per epoch, each concept taking its own in that order."""

    def batches(images):
        out, epoch = [], 0
        while (epochs and epoch < epochs) or len(out) < steps:
            mine = [i for i in np.random.default_rng([seed, epoch]).permutation(N) if i in images]
            out += [mine[i : i + batch] for i in range(0, len(mine), batch)]
            epoch += 1
        return out[:steps] if steps else out

    return batches


@pytest.mark.parametrize("variant", ["published", "stable"])
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("only", [True, False])
def test_the_batched_fit_equals_a_slow_loop_per_concept(variant, batch, only):
    x, masks, labelled = scenes()
    binary = binarise(x, torch.full((U,), 0.4))
    start = torch.randn(C, U, dtype=torch.float64)
    settings = dict(epochs=3, steps=7, batch=batch, lr=0.1, only_containing=only, seed=5)
    fit = net2vec_fit(
        binary.double() if variant == "published" else x, masks, labelled, variant, init=start, **settings
    )
    many = {"epochs": 3} if variant == "published" else {"steps": 7}
    scale = x.square().mean((0, 2, 3)).sqrt()
    for c in range(C):
        features = binary if variant == "published" else x / scale.view(-1, 1, 1)
        w, b = slow_fit(features, masks, labelled, c, start[c], variant, in_turn(batch or N, 5, **many), only)
        w = w if variant == "published" else w / scale
        np.testing.assert_allclose(fit.weights[c], w, rtol=1e-9)
        np.testing.assert_allclose(fit.bias[c], b, rtol=1e-9, atol=1e-15)
        alone = net2vec_fit(
            binary.double() if variant == "published" else x,
            masks[:, c : c + 1],
            labelled,
            variant,
            init=start[c : c + 1],
            **settings,
        )
        np.testing.assert_allclose(alone.weights[0], fit.weights[c], rtol=1e-9)
        np.testing.assert_allclose(alone.threshold[0], fit.threshold[c])


@pytest.mark.parametrize("broken", [{"log": True}, {"alpha": 0.5}, {"only": False}, {"labelled": None}])
def test_the_published_loss_rejects_a_logarithm_no_balance_other_images_and_unlabelled_pixels(broken):
    x, masks, labelled = scenes()
    binary, start = binarise(x, torch.full((U,), 0.4)).double(), torch.randn(C, U, dtype=torch.float64)
    fit = net2vec_fit(binary, masks, labelled, "published", epochs=3, batch=3, lr=0.1, init=start)
    change = {"only": True, "labelled": labelled} | broken
    known = torch.ones_like(labelled) if change.pop("labelled") is None else labelled
    only = change.pop("only")
    w, _ = slow_fit(binary, masks, known, 1, start[1], "published", in_turn(3, 0, epochs=3), only, **change)
    assert not np.allclose(fit.weights[1], w, rtol=1e-3)


def test_the_published_setting_is_the_default():
    x, masks, labelled = scenes()
    fit = net2vec_fit(x > 0, masks, labelled, "published")
    assert fit.weights.dtype == torch.float32
    assert fit.threshold.tolist() == [0.5] * C
    assert not fit.bias.any()
    start = net2vec_fit(x > 0, masks, labelled, "published", epochs=0).weights
    assert start.abs().max() <= U**-0.5
    assert 0 < (fit.weights - start).abs().max() < 1
    again = net2vec_fit(x > 0, masks, labelled, "published")
    assert torch.equal(fit.weights, again.weights)
    assert not torch.equal(fit.weights, net2vec_fit(x > 0, masks, labelled, "published", seed=1).weights)


def planted(n=40, seed=0):
    """Concept 0 is where units 1 and 3 both fire; concept 1 is where unit 2 is silent; concept 2 is nowhere."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, U, 5, 7, generator=g)
    on = x > 0.3
    return x, torch.stack([on[:, 1] & on[:, 3], ~on[:, 2], torch.zeros_like(on[:, 0])], 1)


@pytest.mark.parametrize("kind", ["binary", "raw", "numpy"])
def test_stable_fit_finds_planted_concepts_in_new_images(kind):
    x, masks = planted()
    inputs = {"binary": x > 0.3, "raw": x * torch.arange(1.0, 6).view(-1, 1, 1), "numpy": (x > 0.3).numpy()}[kind]
    fit = net2vec_fit(inputs[:30], masks[:30].numpy() if kind == "numpy" else masks[:30], steps=500)
    guess = net2vec_maps(inputs[30:], fit.weights, fit.bias, (5, 7)) > fit.threshold.view(-1, 1, 1)
    iou = set_ious(guess, masks[30:], torch.ones(10, 5, 7, dtype=torch.bool))
    if kind == "raw":
        assert iou[0] > 0.5
        assert iou[1] > 0.9
    else:
        assert iou[:2].tolist() == [1, 1]
    assert iou[2].isnan()
    for value in (fit.weights[2], fit.bias[2], fit.threshold[2]):
        assert value.isnan().all()
    assert fit.weights[:2].isfinite().all()


def test_fits_inside_inference_mode_and_for_steps_and_samples():
    x, masks, labelled = scenes()
    with torch.inference_mode():
        inside = net2vec_fit(x.clone(), masks.clone(), labelled.clone(), steps=5)
    assert torch.equal(inside.weights, net2vec_fit(x, masks, labelled, steps=5).weights)
    fit = net2vec_fit(x[..., 0], masks[..., 0], labelled[..., 0], steps=5)
    assert net2vec_maps(x[..., 0], fit.weights, fit.bias, (17,)).shape == (N, C, 17)
    fit = net2vec_fit(x[..., 0, 0], masks[..., 0, 0], labelled[..., 0, 0], steps=5)
    assert net2vec_maps(x[..., 0, 0], fit.weights, fit.bias).shape == (N, C)


def test_concepts_are_fitted_in_parts_where_memory_is_short(monkeypatch):
    x, masks, labelled = scenes()
    whole = net2vec_fit(x, masks, labelled, "published", batch=3)
    monkeypatch.setattr(_net2vec, "BUDGET", 1)
    np.testing.assert_allclose(net2vec_fit(x, masks, labelled, "published", batch=3).weights, whole.weights)


def test_set_iou_adds_before_it_divides():
    guess = torch.tensor([[[1, 1, 1, 1]], [[1, 0, 0, 0]]]).bool()
    mask = torch.tensor([[[1, 0, 0, 0]], [[1, 0, 0, 0]]]).bool()
    assert set_ious(guess, mask, torch.ones(2, 4, dtype=torch.bool)).tolist() == [2 / 5]  # not the mean of 1/4 and 1


def test_wrong_shapes_and_variants_are_errors():
    x, masks, labelled = scenes()
    with pytest.raises(InputError, match=r"equally many location axes, got \(13, 5, 3\), \(13, 3, 5, 11\)"):
        net2vec_fit(x[..., 0], masks, labelled)
    with pytest.raises(InputError, match="'published' or 'stable', got 'old'"):
        net2vec_fit(x, masks, labelled, "old")


@pytest.mark.parametrize("shape", [(3,), (8,), (3, 5, 7), ()])
def test_bits_are_packed_as_numpy_packs_them(shape):
    binary = torch.rand(11, *shape) < 0.5
    packed = pack_bits(binary)
    np.testing.assert_array_equal(packed, np.packbits(binary.reshape(11, -1).numpy(), axis=1))
    assert torch.equal(unpack_bits(packed, shape), binary)
    with pytest.raises(InputError, match="bytes per sample"):
        unpack_bits(packed, (*shape, 17))

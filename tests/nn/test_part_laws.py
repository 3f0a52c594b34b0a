"""Laws that every part obeys, whatever it does; the table is in ``parts.py``."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fusionscope.errors import InputError
from fusionscope.nn._part import hide

from .parts import Case, features, parts, presence

ROOT = Path(__file__).parents[2]
names = pytest.mark.parametrize("name", parts())


def made(name: str) -> tuple[Case, torch.nn.Module]:
    case = parts()[name]
    torch.manual_seed(0)
    return case, case.build()


def tensors(out: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return list(out.values()) if isinstance(out, dict) else [out]


def loss(out: Tensor | dict[str, Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.stack([(x.float() * torch.randn(x.shape, generator=generator)).sum() for x in tensors(out)]).sum()


def shaken(part: torch.nn.Module) -> torch.nn.Module:
    """Move every parameter a little: parts that start as the identity then do something."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in part.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return part


@names
def test_shapes(name):
    case, part = made(name)
    out = part(features(case))
    if case.exchange:
        assert {m: x.shape[1:] for m, x in out.items()} == dict(case.shapes)
    else:
        assert isinstance(out, Tensor)
        assert len(out) == 5


@names
def test_gradients_reach_every_modality_and_parameter(name):
    case, part = made(name)
    x = features(case, grad=True)
    loss(shaken(part)(x)).backward()
    assert [m for m in x if x[m].grad is None or not x[m].grad.abs().sum() > 0] == []
    idle = [n for n, p in part.named_parameters() if p.grad is None and not n.endswith(case.idle or ("\0",))]
    assert idle == []


@names
def test_samples_do_not_mix_in_evaluation(name):
    case, part = made(name)
    shaken(part).eval()
    x = features(case)
    alone = [tensors(part({m: v[i : i + 1] for m, v in x.items()})) for i in range(5)]
    for whole, *rows in zip(tensors(part(x)), *alone, strict=True):
        torch.testing.assert_close(torch.cat(rows), whole, rtol=1e-4, atol=1e-5)


@names
def test_what_is_absent_does_not_matter(name):
    """Absent samples' values change nothing, not even where they are NaN; nothing that comes out is NaN."""
    case, part = made(name)
    shaken(part).eval()
    x, present = features(case), presence(case)
    expected = tensors(part(x, present))
    worse = {m: v.clone() for m, v in x.items()}
    for m in worse:
        worse[m][~present[m]] = torch.nan
    got = tensors(part(worse, present))
    for one, two in zip(got, expected, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, two)
    whole = {m: torch.ones_like(p) for m, p in present.items()}
    for one, two in zip(tensors(part(x, whole)), tensors(part(x)), strict=True):
        torch.testing.assert_close(one, two)


@names
def test_absent_samples_pass_no_gradient(name):
    case, part = made(name)
    x, present = features(case, grad=True), presence(case)
    loss(shaken(part).eval()(x, present)).backward()
    for m in x:
        assert x[m].grad.isfinite().all()
        assert (x[m].grad[~present[m]] == 0).all()


@names
def test_mixed_precision(name):
    case, part = made(name)
    shaken(part).eval()
    x = features(case, grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = part(x)
        low = part({m: v.bfloat16() for m, v in x.items()})
        loss(out).backward()
    for exact, one, two in zip(tensors(part(x)), tensors(out), tensors(low), strict=True):
        scale = exact.detach().abs().mean() + 1
        assert (exact - one.float()).abs().mean() < 0.05 * scale
        assert (exact - two.float()).abs().mean() < 0.05 * scale


@names
def test_copies_and_weights(name):
    case, part = made(name)
    shaken(part).eval()
    x = features(case)
    expected = tensors(part(x))
    torch.manual_seed(5)
    other = case.build().eval()
    other.load_state_dict(part.state_dict())
    stream = io.BytesIO()
    torch.save(part, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(part), other, torch.load(stream, weights_only=False)):
        assert all(torch.equal(a, b) for a, b in zip(tensors(twin(x)), expected, strict=True))
    assert repr(part)


@names
def test_a_presence_of_unknown_modalities_is_refused(name):
    case, part = made(name)
    with pytest.raises(InputError, match="smell"):
        part(features(case), {"smell": next(iter(presence(case).values()))})


@pytest.mark.parametrize("mask", [torch.ones(5), torch.tensor([True]), torch.ones(5, 1, dtype=torch.bool)])
def test_presence_is_a_bool_per_sample(mask):
    with pytest.raises(InputError, match=r"present\['rgb'\] must be a bool per sample, \[5\]"):
        hide(torch.zeros(5, 3), {"rgb": mask}, "rgb")


@names
def test_errors_name_the_modality(name):
    case, part = made(name)
    x = features(case)
    gone = x.pop(next(iter(case.shapes)))
    with pytest.raises(InputError, match=next(iter(case.shapes))):
        part(x)
    with pytest.raises(InputError, match="smell"):
        part({**x, next(iter(case.shapes)): gone, "smell": gone})


def test_compile_without_graph_breaks_and_export():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.nn.compile_parts"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {}

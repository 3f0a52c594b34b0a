"""The exact decomposition: gates with known values, theorems, a peer, and a certificate that cannot be fooled."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measures_information import slow_atoms

from fusionscope.errors import InputError
from fusionscope.measures.functional import _broja_solver as solver
from fusionscope.measures.functional import broja

B = (0, 1)
AND = 0.31127812445913283  # 3/4 log2(4/3)


def uniform(*outcomes):
    return [(*o, 1 / len(outcomes)) for o in outcomes]


def table(cells):
    p = np.zeros(tuple(max(c[k] for c in cells) + 1 for k in range(3)))
    for a, b, y, mass in cells:
        p[a, b, y] += mass
    return p


def of_two(function):
    return uniform(*[(a, b, function(a, b)) for a in B for b in B])


def views(e1, e2):
    return [
        (a, b, y, 0.5 * (1 - e1 if a == y else e1) * (1 - e2 if b == y else e2))
        for a, b, y in itertools.product(B, repeat=3)
    ]


def correlated_and(rho):
    return [(a, b, a & b, ((1 + rho) if a == b else (1 - rho)) / 4) for a in B for b in B]


# methods.md, T.1: R, U1, U2, S in bits.
GATES = {
    "AND": (of_two(lambda a, b: a & b), AND, 0, 0, 0.5),
    "OR": (of_two(lambda a, b: a | b), AND, 0, 0, 0.5),
    "XOR": (of_two(lambda a, b: a ^ b), 0, 0, 0, 1),
    "RDN": (uniform((0, 0, 0), (1, 1, 1)), 1, 0, 0, 0),
    "UNQ": (of_two(lambda a, b: a), 0, 1, 0, 0),
    "COPY": (of_two(lambda a, b: 2 * a + b), 0, 1, 1, 0),
    "SUM": (of_two(lambda a, b: a + b), 0.5, 0, 0, 1),
    "INDEP": (uniform(*itertools.product(B, B, B)), 0, 0, 0, 0),
    "RDN+XOR": (
        uniform(*[(2 * r + a, 2 * r + b, 2 * r + (a ^ b)) for a, b, r in itertools.product(B, B, B)]),
        1, 0, 0, 1,
    ),
    "RDNUNQXOR": (
        uniform(
            *[
                (4 * a + 2 * r + u, 4 * b + 2 * r + v, 8 * (a ^ b) + 4 * r + 2 * u + v)
                for a, b, r, u, v in itertools.product(B, repeat=5)
            ]
        ),
        1, 1, 1, 1,
    ),
    "PwUnq": (uniform((0, 1, 1), (1, 0, 1), (0, 2, 2), (2, 0, 2)), 0.5, 0, 0, 0.5),
    "ReducedOR": ([(0, 0, 0, 0.5), (0, 1, 1, 0.25), (1, 0, 1, 0.25)], AND, 0, 0, 1 - AND),
    "W": (uniform((0, 0, 1), (0, 1, 0), (1, 0, 0)), np.log2(3) - 4 / 3, 0, 0, 2 / 3),
    "DIFF": (uniform((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 1)), 0.122556, 0.188722, 0.188722, 0),
    "NOTTWO": (uniform((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)), 0.019973, 0, 0, 0.550977),
    "BOOM": (uniform((0, 0, 1), (0, 0, 2), (0, 2, 0), (1, 2, 1), (2, 0, 2), (2, 1, 2)), 1 / 3, 1 / 3, 1 / 3, 0.125815),
    "ImperfectRDN": ([(0, 0, 0, 0.499), (0, 1, 0, 0.001), (1, 1, 1, 0.5)], 0.989590, 0.010410, 0, 0),
    "RND": (uniform(*[(a, b, (a, b)[r]) for a, b, r in itertools.product(B, B, B)]), 0.188722, 0, 0, 0.311278),
    "X2 in X1, AND": (uniform(*[(2 * a + b, b, a & b) for a in B for b in B]), AND, 0.5, 0, 0),
    "X2 in X1, XOR": (uniform(*[(2 * a + b, b, a ^ b) for a in B for b in B]), 0, 1, 0, 0),
    "AND, rho .25": (correlated_and(0.25), 0.418821, 0, 0, 0.477217),
    "AND, rho .5": (correlated_and(0.5), 0.548795, 0, 0, 0.405639),
    "AND, rho .75": (correlated_and(0.75), 0.716917, 0, 0, 0.271782),
    "AND, rho 1": (correlated_and(1), 1, 0, 0, 0),
    "views .1 .1": (views(0.1, 0.1), 0.531004, 0, 0, 0.211081),
    "views .1 .2": (views(0.1, 0.2), 0.278072, 0.252933, 0, 0.104818),
    "views 0 .1": (views(0, 0.1), 0.531004, 0.468996, 0, 0),
}  # fmt: skip


def parts(found):
    return np.array([found.redundancy, found.unique1, found.unique2, found.synergy])


def identities(found):
    """What R and U, computed by separate formulas, must add up to."""
    r, u1, u2, s = parts(found)
    sums = [r + u1 - found.information1, r + u2 - found.information2, r + u1 + u2 + s - found.information12]
    return np.abs(sums).max()


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_gates(gate):
    found = broja(table(gate[0]))
    np.testing.assert_allclose(parts(found), gate[1:], rtol=0, atol=1e-6)
    assert 0 <= found.gap + 1e-15 < 1e-8
    assert found.reason == ""
    assert isinstance(found.redundancy, np.float64)
    np.testing.assert_allclose(parts(broja(table(gate[0]), unit="nats")), np.array(gate[1:]) * np.log(2), atol=1e-6)


def test_random_tables_keep_the_identities():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(30, 0.5), 1000).reshape(10, 100, 3, 5, 2)
    p[:, :30][rng.random((10, 30, 3, 5, 2)) < 0.4] = 0  # supports with holes
    found = broja(p, workers=2)
    assert found.synergy.shape == (10, 100)
    assert (found.reason == "").all()
    assert identities(found) < 1e-12
    assert parts(found).min() > -1e-8
    assert found.gap.max() < 1e-7
    alone = broja(p[3, 7])
    np.testing.assert_allclose([alone.redundancy, alone.gap], [found.redundancy[3, 7], found.gap[3, 7]], atol=1e-12)


def test_agrees_with_alternating_minimisation():
    p = np.random.default_rng(1).dirichlet(np.ones(30), 11).reshape(-1, 5, 2, 3)
    slow = slow_atoms(p)
    found = broja(p)
    np.testing.assert_allclose(parts(found), slow[:, :4].T, atol=1e-4)
    np.testing.assert_allclose([found.information1, found.information2, found.information12], slow[:, 4:].T, atol=1e-12)


def test_agrees_with_dit():
    pytest.importorskip("dit", reason="dit is not installed: pip install -c constraints.txt -e '.[peers]'")
    pytest.importorskip("ecos", reason="ecos, which dit's method='cone' needs, is not installed")
    import dit
    from dit.pid import PID_BROJA

    p = np.random.default_rng(2).dirichlet(np.ones(30), 50).reshape(-1, 3, 5, 2)
    outcomes = list(itertools.product(range(3), range(5), range(2)))
    nodes = [((0,), (1,)), ((0,),), ((1,),), ((0, 1),)]
    theirs = []
    for cells in p:
        peer = PID_BROJA(dit.Distribution(outcomes, cells.ravel()), [(0,), (1,)], (2,), method="cone")
        theirs.append([peer.get_pi(node) for node in nodes])
    np.testing.assert_allclose(parts(broja(p)).T, theirs, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 1.0]))
def test_theorems(seed, spread):
    rng = np.random.default_rng(seed)
    # Equal channels: no unique parts.
    channel = rng.dirichlet(np.full(3, spread), 2)  # p(x|y)
    prior = rng.dirichlet(np.ones(2))
    found = broja(np.einsum("y,yi,yj->ijy", prior, channel, channel))
    np.testing.assert_allclose(
        parts(found), [found.information1, 0, 0, found.information12 - found.information1], atol=1e-7
    )
    # X2 is a garbling of X1: no synergy, nothing of its own.
    garble = rng.dirichlet(np.full(5, spread), 3)
    found = broja(np.einsum("y,yi,ij->ijy", prior, channel, garble))
    expected = [found.information2, found.information1 - found.information2, 0, 0]
    np.testing.assert_allclose(parts(found), expected, atol=1e-7)
    # The sources' names and the order of states do not matter; nor do states that never occur; counts are normalised.
    p = rng.dirichlet(np.full(30, spread)).reshape(3, 5, 2)
    found, turned = broja(p), broja(p.swapaxes(0, 1)[::-1, :, ::-1])
    np.testing.assert_allclose(parts(turned)[[0, 2, 1, 3]], parts(found), atol=1e-7)
    padded = np.zeros((7, 5, 3))
    padded[2:5, :, 1:] = 11 * p
    np.testing.assert_allclose(parts(broja(padded)), parts(found), atol=1e-7)


def test_certificate_is_a_bound_for_any_multipliers():
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.full(30, 0.3), 23).reshape(-1, 3, 5, 2)
    p1, p2 = p.sum(2), p.sum(1)
    best = solver.minimise(p)
    true = solver.neg_entropy(best.q)
    np.testing.assert_allclose(best.q.sum(2), p1, atol=1e-15)
    np.testing.assert_allclose(best.q.sum(1), p2, atol=1e-15)
    for size in (1e-9, 1e-3, 1.0):
        l1, l2 = (v + size * rng.normal(size=v.shape) for v in (best.lambda1, best.lambda2))
        bound = solver.lower_bound(l1, l2, p1, p2)[2]
        assert (bound <= true + 1e-12).all()
    # Other feasible tables are no better than the bound.
    for q in (
        p,
        p1[:, :, None] * p2[:, None] / p.sum((1, 2), keepdims=True),
        solver.repair(rng.random(p.shape), p1, p2),
    ):
        assert (solver.neg_entropy(np.nan_to_num(q)) >= best.bound).all()


class Stub:
    """A solver that returns what it was given, or raises."""

    def __init__(self, found):
        self.found = found

    def __call__(self, *args):
        return self

    def solve(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize("how", ["raises", "zeros", "NaN", "wrong"])
def test_a_failing_solver_is_never_believed(monkeypatch, how):
    class Found:
        status = "Solved"
        obj_val = obj_val_dual = -1.0

        def __init__(self, value):
            self.x = self.z = np.full(999, value)

    found = RuntimeError("no factors") if how == "raises" else Found({"zeros": 0.0, "NaN": np.nan, "wrong": 7.0}[how])
    start = solver.Programme.__init__

    def broken(self, *args):
        start(self, *args)
        self.solver = Stub(found)

    monkeypatch.setattr(solver.Programme, "__init__", broken)
    result = broja(table(GATES["AND"][0]))
    assert np.isnan(parts(result)).all()
    assert "the certified gap is" in result.reason
    assert result.gap > 0.1
    assert "no factors" in result.reason or how != "raises"
    assert result.information12 == pytest.approx(0.5 + AND)


def test_sources_without_choice():
    assert np.allclose(parts(broja(np.ones((1, 1, 1)))), 0)
    assert np.allclose(parts(broja(np.eye(3)[:, None])), [0, np.log2(3), 0, 0])
    assert np.allclose(parts(broja(torch.ones(2, 3, 5, dtype=torch.int64))), 0, atol=1e-9)


@pytest.mark.parametrize(
    ("p", "settings", "text"),
    [
        (np.ones((2, 3)), {}, "last three axes"),
        (np.zeros((0, 2, 2, 2)), {}, "with entries"),
        (-np.ones((2, 2, 2)), {}, "negative or not finite"),
        (np.full((2, 2, 2), np.nan), {}, "negative or not finite"),
        (np.stack([np.ones((2, 2, 2)), np.zeros((2, 2, 2))]), {}, "leave it out"),
        (np.ones((2, 2, 2)), {"unit": "bit"}, "did you mean"),
        (np.ones((2, 2, 2)), {"workers": 0}, "workers=1"),
    ],
)
def test_errors(p, settings, text):
    with pytest.raises(InputError, match=f"(?i){text}"):
        broja(p, **settings)

"""Games of modalities: known answers, axioms, slow references, identities of the published tables."""

from __future__ import annotations

import itertools
import pickle

import games_naive as naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionscope.errors import InputError
from fusionscope.measures.functional import (
    benjamini_hochberg,
    intershap,
    mean_test,
    sample_valuation,
    shape_scores,
    shapley,
)


def game(names, V):
    return {S: V(S) for S in naive.subsets(names)}


def two(v12, v1, v2, v0):
    return {frozenset("ab"): v12, frozenset("a"): v1, frozenset("b"): v2, frozenset(): v0}


def weighted(S, weights, quota):
    return float(sum(weights[p] for p in S) >= quota)


@pytest.mark.parametrize(
    ("names", "V", "wanted"),
    [
        ("L12", lambda S: float("L" in S and len(S) > 1), (2 / 3, 1 / 6, 1 / 6)),
        ("012", lambda S: float({"0", "1"} <= S), (1 / 2, 1 / 2, 0)),
        ("123", lambda S: float(max(map(int, S), default=0)), (1 / 3, 5 / 6, 11 / 6)),
        ("abc", lambda S: weighted(S, {"a": 50, "b": 49, "c": 1}, 51), (2 / 3, 1 / 6, 1 / 6)),
    ],
    ids=["glove", "unanimity", "airport", "vote"],
)
def test_known_games(names, V, wanted):
    """Methods, T.3."""
    assert list(shapley(game(names, V)).values()) == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize(
    ("V", "wanted"),
    [
        ((1, 0.5, 0.5, 0.5), (0.25, 0.25, 0.5)),
        ((1, 0.75, 0.75, 0.75), (0.125, 0.125, 0.25)),
        ((1, 1, 1, 0.5), (0.25, 0.25, -0.5)),
        ((1, 1, 0.5, 0.5), (0.5, 0, 0)),
        ((1, 0.5, 0.5, 0.25), (0.375, 0.375, 0.25)),
        ((0.8, 0.6, 0.5, 0.4), (0.3125, 0.1875, 0.125)),
    ],
    ids=["xor", "and", "redundant", "unique", "copy", "Z is not 1"],
)
def test_shape_of_toy_games(V, wanted):
    """Methods, T.4, and the toy of section 0 (7)."""
    scores = shape_scores(two(*V))
    found = (*scores.contribution.values(), float(scores.cooperation))
    assert found == pytest.approx(wanted, abs=1e-15)
    assert scores.cooperation[{"b", "a"}] == float(scores.cooperation)
    assert list(scores.cooperation) == [frozenset("ab")]
    assert pickle.loads(pickle.dumps(scores)).cooperation[{"a", "b"}] == scores.cooperation


@pytest.mark.parametrize(
    ("accuracy", "chance", "first", "second", "cooperation"),
    [
        (95.01, 33.33, 0.52, 64.40, 1.04),
        (80.22, 71.04, -0.01, 11.46, -0.02),
        (82.47, 33.33, 21.34, 38.25, 42.52),
    ],
)
def test_published_rows_are_consistent(accuracy, chance, first, second, cooperation):
    """(S1 + S2) Z = V(all) - V(none), and V({m}) solved from the row gives the row back (arXiv 2205.00302)."""
    assert (first + second) / 100 * accuracy == pytest.approx(accuracy - chance, abs=0.02)
    # phi_m = V(m) - V(none) + C/2, so V({m}) follows from S_m and C.
    alone = [chance + (s - cooperation / 2) / 100 * accuracy for s in (first, second)]
    scores = shape_scores(two(accuracy, *alone, chance))
    assert 100 * float(scores.cooperation) == pytest.approx(cooperation, abs=0.05)
    assert [100 * s for s in scores.contribution.values()] == pytest.approx([first, second], abs=0.02)


numbers = st.integers(-999, 999).map(lambda k: k / 10)


@st.composite
def games(draw, most=4):
    names = "abcd"[: draw(st.integers(1, most))]
    return names, {S: draw(numbers) for S in naive.subsets(names)}


few = settings(max_examples=40, deadline=None)


@few
@given(games())
def test_all_indices_agree_with_games_played_out(drawn):
    names, V = drawn
    wanted = naive.shapley(list(names), V.__getitem__)
    assert shapley(V) == pytest.approx(wanted, abs=1e-9)
    scores, whole = shape_scores(V), V[frozenset(names)]
    if abs(whole) > 1e-3:
        assert len(scores.cooperation) == 2 ** len(names) - len(names) - 1
        for A, C in scores.cooperation.items():
            assert C * whole == pytest.approx(naive.cooperation(names, V.__getitem__, A), abs=1e-8)
    matrix = intershap(V).matrix
    for i, j in itertools.permutations(names, 2):
        assert matrix[i, j] == pytest.approx(naive.interaction(names, V.__getitem__, i, j), abs=1e-9)
    for i in names:
        assert sum(matrix[i, j] for j in names) == pytest.approx(wanted[i], abs=1e-8)


@few
@given(games())
def test_efficiency(drawn):
    names, V = drawn
    assert sum(shapley(V).values()) == pytest.approx(V[frozenset(names)] - V[frozenset()], abs=1e-8)


@few
@given(games(), st.data())
def test_symmetry(drawn, data):
    names, V = drawn
    renamed = dict(zip(names, data.draw(st.permutations(names)), strict=True))
    moved = {frozenset(renamed[name] for name in S): value for S, value in V.items()}
    moved = {S: moved[S] for S in V}  # the order of the modalities stays
    assert {renamed[name]: value for name, value in shapley(V).items()} == pytest.approx(shapley(moved), abs=1e-9)


@few
@given(games(3), numbers)
def test_a_dummy_gets_what_it_adds_and_cooperates_with_nobody(drawn, worth):
    names, V = drawn
    more = V | {S | {"dummy"}: value + worth for S, value in V.items()}
    found = shapley(more)
    assert found.pop("dummy") == pytest.approx(worth, abs=1e-9)
    assert found == pytest.approx(shapley(V), abs=1e-9)
    whole = more[frozenset([*names, "dummy"])]
    if abs(whole) > 1e-3:
        for A, C in shape_scores(more).cooperation.items():
            if len(A) == 2 and "dummy" in A:
                assert C * whole == pytest.approx(0, abs=1e-9)
    matrix = intershap(more).matrix
    assert [matrix["dummy", name] for name in names] == pytest.approx([0] * len(names), abs=1e-9)


@few
@given(games(), st.data())
def test_additivity(drawn, data):
    names, V = drawn
    other = {S: data.draw(numbers) for S in V}
    both = shapley({S: V[S] + other[S] for S in V})
    apart = shapley(V), shapley(other)
    assert both == pytest.approx({name: apart[0][name] + apart[1][name] for name in names}, abs=1e-9)


def test_the_axioms_reject_wrong_weights(monkeypatch):
    from fusionscope.measures.functional import _games

    right = _games.shapley_weights
    monkeypatch.setattr(_games, "shapley_weights", lambda M: right(M) * (1 + 0.1 * (np.arange(M) == 0))[:, None])
    for test in (test_efficiency, test_symmetry, test_all_indices_agree_with_games_played_out):
        with pytest.raises(AssertionError):
            test()


def test_intershap_of_xor_and_of_an_additive_game():
    assert intershap(two(1, 0.5, 0.5, 0.5)) == 1
    assert intershap(game("abc", lambda S: 0.1 + 0.2 * ("a" in S) + 0.3 * ("b" in S) - 0.1 * ("c" in S))) == 0
    assert intershap(two(0.8, 0.6, 0.5, 0.4)) == pytest.approx(0.1 / (0.1 + 0.2 + 0.1))
    assert np.isnan(intershap(two(1, 1, 1, 1)))
    assert intershap({frozenset(): 0.0, frozenset("a"): 1.0}) == 0


def test_arrays_and_tensors_per_sample():
    rng = np.random.default_rng(0)
    V = game("abc", lambda S: rng.normal(size=7))
    found = shapley(V)
    for n in range(7):
        one = shapley({S: float(value[n]) for S, value in V.items()})
        assert one == pytest.approx({name: value[n] for name, value in found.items()})
    tensors = {S: torch.tensor(value, requires_grad=True) for S, value in V.items()}
    assert all(isinstance(value, torch.Tensor) and value.requires_grad for value in shapley(tensors).values())
    np.testing.assert_allclose(shapley(tensors)["b"].detach(), found["b"])
    mean = {S: float(value.mean()) for S, value in V.items()}
    assert float(intershap(tensors)) == pytest.approx(float(intershap(mean)))
    assert float(shape_scores(V).cooperation) == pytest.approx(float(shape_scores(mean).cooperation))


def test_keys_may_be_any_collection_of_names():
    V = {(): 0.4, ("rgb",): 0.6, ("depth",): 0.5, ("depth", "rgb"): 0.8}
    assert shapley(V) == pytest.approx({"rgb": 0.25, "depth": 0.15})
    assert list(shapley(V)) == ["rgb", "depth"]


def test_wrong_games():
    with pytest.raises(InputError, match=r"every subset of \['a', 'b'\], got none for \['a', 'b'\]"):
        shapley({(): 0, ("a",): 1, ("b",): 1})
    with pytest.raises(InputError, match="got none for {'b'}"):
        shapley({(): 0, ("a",): 1, ("a", "b"): 1})
    with pytest.raises(InputError, match="expected sets of modalities as keys, got 'ab'"):
        shapley({"ab": 1})
    with pytest.raises(InputError, match="expected numbers"):
        shapley({frozenset(): 0.0, frozenset("a"): "one"})
    with pytest.raises(InputError, match="twice"):
        shapley({("a", "b"): 1, ("b", "a"): 1})
    with pytest.raises(InputError, match="one shape"):
        shapley({(): 0, ("a",): np.zeros(3)})
    with pytest.raises(InputError, match="1 to 16 modalities, got 0"):
        shapley({(): 0})
    with pytest.raises(InputError, match="two modalities or more"):
        shape_scores(two(1, 1, 1, 0)).cooperation[{"a"}]


def test_valuation_of_two_modalities_is_the_published_formula():
    rng = np.random.default_rng(0)
    right = {frozenset(S): rng.random(31) < 0.6 for S in ("a", "b", "ab")}
    va, vb, vab = right[frozenset("a")] * 1.0, right[frozenset("b")] * 1.0, right[frozenset("ab")] * 2.0
    found = sample_valuation(right)
    np.testing.assert_allclose(found["a"], (va + vab - vb) / 2)
    np.testing.assert_allclose(found["b"], (vb + vab - va) / 2)
    right[frozenset("b")] = np.where(np.arange(31) == 3, np.nan, right[frozenset("b")])
    assert np.flatnonzero(np.isnan(sample_valuation(right)["a"])).tolist() == [3]


def test_valuation_of_three_modalities_by_orders():
    rng = np.random.default_rng(0)
    right = {S: rng.random(5) < 0.6 for S in naive.subsets("abc") if S}
    found = sample_valuation(right)
    for n in range(5):
        wanted = naive.shapley("abc", lambda S, n=n: len(S) * float(right[S][n]) if S else 0.0)
        assert {name: value[n] for name, value in found.items()} == pytest.approx(wanted)


def test_false_discovery_rate_by_hand():
    p = np.array([[0.005, 0.009], [0.05, np.nan], [0.04, 0.9]])
    q = benjamini_hochberg(p)
    np.testing.assert_allclose(q, [[0.0225, 0.0225], [0.0625, np.nan], [0.0625, 0.9]])
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all()
    with pytest.raises(InputError, match="between 0 and 1"):
        benjamini_hochberg(np.array([0.5, 1.2]))


def test_false_discovery_rate_agrees_with_scipy():
    from scipy.stats import false_discovery_control

    p = np.random.default_rng(0).random(53) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))


def test_mean_test_holds_its_level_and_finds_what_is_there():
    rng = np.random.default_rng(0)
    skewed = (rng.random((4000, 12)) < 0.1).astype(float)  # mean 0.1, mostly 0
    bounded = rng.beta(0.3, 0.3, (4000, 12))  # mean 0.5
    for draws, mean in ((skewed, 0.1), (bounded, 0.5)):
        p = mean_test(draws, np.full(4000, mean))
        for alpha in (0.2, 0.05, 0.01):
            assert (p <= alpha).mean() <= alpha + 2 * (alpha / 4000) ** 0.5
    assert (mean_test(skewed, np.full(4000, 0.005)) <= 0.05).mean() > 0.3
    assert np.isnan(mean_test(np.array([[np.nan, 1.0]]), np.array([0.5])))[0]
    assert mean_test(np.array([[0.3, 0.0]]), np.array([0.0]))[0] < 1e-100
    with pytest.raises(InputError, match="negative"):
        mean_test(np.array([[-1.0]]), np.array([1.0]))

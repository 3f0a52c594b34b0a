"""Which changes leave which similarity measure as it is: one table, from which every check is made, in both directions.

For each measure and law the table says whether the law holds. Where it holds, a broken measure must be rejected; where
it does not, the change must show.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from fusionscope.measures.functional import channel_correlation, cka, mutual_knn, procrustes, rsa, svcca

N, D = 41, 7
TOLERANCE, VISIBLE = 1e-8, 1e-3


def draw(seed):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    z, spread = normal(N, 3), torch.linspace(0.2, 3, D, dtype=torch.float64)
    x = (z @ normal(3, D) + normal(N, D)) * spread + normal(D)
    return x, 0.6 * x + (z @ normal(3, D) + normal(N, D)) * spread.flip(0), normal, g


def rotation(x, y, normal, g):
    return x @ torch.linalg.qr(normal(D, D))[0], y @ torch.linalg.qr(normal(D, D))[0]


def linear_map(x, y, normal, g):
    left, right = (torch.linalg.qr(normal(D, D))[0] for _ in range(2))
    return x @ (left * torch.logspace(-1.5, 1, D, dtype=torch.float64)) @ right, y


def order_of_units(x, y, normal, g):
    return x[:, torch.randperm(D, generator=g)], y


def order_of_samples(x, y, normal, g):
    order = torch.randperm(N, generator=g)
    return x[order], y[order]


def one_order_of_samples(x, y, normal, g):
    return x[torch.randperm(N, generator=g)], y


CHANGES = {
    "symmetric": lambda x, y, *_: (y, x),
    "rotation": rotation,
    "scale": lambda x, y, *_: (7.3 * x, y / 311),
    "translation": lambda x, y, normal, g: (x + 5 * normal(D), y - 5 * normal(D)),
    "linear map": linear_map,
    "order of units": order_of_units,
    "order of samples": order_of_samples,
    "order of samples on one side": one_order_of_samples,
}


@dataclass(frozen=True)
class Measure:
    """A measure with a value per pair, and the laws it obeys."""

    value: object
    laws: frozenset

    def __call__(self, x, y):
        return self.value(x, y).mean().item()


ALWAYS = {"identity", "symmetric", "scale", "order of samples"}
MOVES = ALWAYS | {"rotation", "translation", "order of units"}
MEASURES = {
    "cka unbiased": Measure(cka, frozenset(MOVES)),
    "cka biased": Measure(partial(cka, estimator="biased"), frozenset(MOVES)),
    "cka rbf": Measure(partial(cka, kernel="rbf"), frozenset(MOVES)),
    "procrustes": Measure(procrustes, frozenset(MOVES)),
    "svcca": Measure(partial(svcca, keep=0.9), frozenset(MOVES)),
    "svcca of all": Measure(partial(svcca, keep=1.0), frozenset(MOVES | {"linear map"})),
    "rsa correlation": Measure(rsa, frozenset(ALWAYS | {"order of units"})),
    "rsa euclidean": Measure(partial(rsa, distance="euclidean"), frozenset(MOVES)),
    "knn cosine": Measure(partial(mutual_knn, k=5), frozenset(ALWAYS | {"rotation", "order of units"})),
    "knn euclidean": Measure(partial(mutual_knn, k=5, distance="euclidean"), frozenset(MOVES)),
    "channel correlation": Measure(channel_correlation, frozenset(ALWAYS | {"translation"})),
}
LAWS = ["identity", *CHANGES]


def bend(x):
    """Units of their own weight, bent: no measure keeps a law after this."""
    x = (x - 0.5) * torch.linspace(0.3, 2, x.shape[1], dtype=x.dtype)
    return x + 0.3 * x.square()


def broken(measure, law):
    """A variant of the measure that breaks this law."""
    if law == "identity":
        return lambda x, y: 0.99 * measure(x, y)
    if law == "symmetric":
        return lambda x, y: measure(bend(x), y)
    if law == "order of samples":
        drift = torch.outer(torch.linspace(0, 5, N), torch.linspace(-1, 1, D)).double()
        return lambda x, y: measure(x + drift, y)
    if law == "linear map":
        return lambda x, y: measure(x[:, :3], y[:, :3])
    return lambda x, y: measure(bend(x), bend(y))


def gap(value, law, seed):
    x, y, normal, g = draw(seed)
    if law == "identity":
        return abs(value(x, x.clone()) - 1)
    return abs(value(*CHANGES[law](x, y, normal, g)) - value(x, y))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", MEASURES)
def test_law(name, law):
    measure = MEASURES[name]
    gaps = [gap(measure, law, seed) for seed in range(5)]
    if law in measure.laws:
        assert max(gaps) < TOLERANCE
        assert max(gap(broken(measure, law), law, seed) for seed in range(5)) > VISIBLE
    else:
        assert max(gaps) > VISIBLE


def test_every_law_is_known():
    assert {law for measure in MEASURES.values() for law in measure.laws} < set(LAWS)

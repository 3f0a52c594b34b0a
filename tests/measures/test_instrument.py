"""The base class: what it adds to torchmetrics, and what ``reduce`` may leave behind."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from measures_registry import CASES, feed_taps
from torchmetrics import Metric

from fusionscope.errors import InputError
from fusionscope.measures import EtaSquared, Instrument, MinibatchCKA

TAP_CASES = ["cka", "cka-rbf", "eta-samples", "eta-steps", "eta-pixels"]
TAP_CASES += ["whole-image", "whole-location", "pairwise", "channels-image", "channels-location"]
tap_cases = pytest.mark.parametrize("name", TAP_CASES)


class Plain(Metric):
    """A sum in float64, on torchmetrics alone."""

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, x):
        self.total += x.double().sum()

    def compute(self):
        return self.total


class Ours(Instrument):
    """The same on our base."""

    update, compute = Plain.update, Plain.compute

    def __init__(self):
        Instrument.__init__(self)
        self.add_state("total", torch.zeros((), dtype=torch.float64), "sum")


class Reducible(Plain):
    full_state_update = False


def test_float64_survives_to_dtype_only_on_our_base():
    assert Plain().to(torch.bfloat16).total.dtype == torch.bfloat16
    assert Ours().to(torch.bfloat16).total.dtype == torch.float64
    assert Plain().set_dtype(torch.half).total.dtype == torch.half
    assert Ours().set_dtype(torch.half).total.dtype == torch.float64


def test_full_state_update_is_off_only_on_our_base():
    assert Plain().full_state_update is None
    with pytest.raises(RuntimeError, match="merge_state"):
        Plain().merge_state(Plain())
    assert Ours().full_state_update is False


@pytest.mark.parametrize(("kind", "value"), [(Reducible, 2.0), (Ours, 5.0)])
def test_a_merge_drops_the_computed_value_only_on_our_base(kind, value):
    a, b = kind(), kind()
    a.update(torch.tensor(2.0))
    b.update(torch.tensor(3.0))
    assert a.compute() == 2
    a.merge_state(b)
    assert a.compute() == value


def test_a_dictionary_of_states_merges():
    a, b = Ours(), Ours()
    b.update(torch.tensor(3.0))
    a.merge_state(b.metric_state)
    assert a.compute() == 3


def test_unlike_instruments_do_not_merge():
    with pytest.raises(InputError, match="expected a MinibatchCKA to merge, got a EtaSquared"):
        MinibatchCKA(["a"]).merge(EtaSquared(["a"], 2))
    with pytest.raises(InputError, match=r"equal settings, got seed: 0 and 1; make both"):
        MinibatchCKA(["a"]).merge(MinibatchCKA(["a"], seed=1))


def test_a_failing_compute_leaves_the_instrument_usable():
    class Failing(Ours):
        def compute(self):
            raise KeyError("no")

    metric = Failing()
    for _ in range(2):
        with pytest.raises(KeyError):
            metric.compute()
    assert not metric._is_synced


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def assert_reduce_is_light(metric, x, context, tap="a"):
    reduced = metric.reduce(x, context, tap)
    for t in tensors(reduced):
        assert not t.requires_grad
        assert t.is_inference()
        assert t.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    alive = weakref.ref(x.untyped_storage())
    grad = weakref.ref(x)
    del x
    gc.collect()
    assert grad() is None
    assert alive() is None
    return reduced


@tap_cases
def test_reduce_keeps_no_activation_and_no_graph(name):
    case = CASES[name]
    features, target = case.batches()[0]
    metric = case.make()
    context = metric.context(len(features["a"]), target, 0)
    for tap in list(features):
        leaf = features.pop(tap).requires_grad_()
        assert_reduce_is_light(metric, leaf * 1.0, context, tap)


def test_the_check_of_reduce_rejects_a_view_and_a_kept_activation():
    class View(MinibatchCKA):
        def _reduce(self, features, context, tap):
            return (features[:1],)

    class Keeper(MinibatchCKA):
        def _reduce(self, features, context, tap):
            self.kept = features
            return super()._reduce(features, context, tap)

    for kind in (View, Keeper):
        metric = kind(["a"])
        with pytest.raises(AssertionError):
            assert_reduce_is_light(metric, torch.randn(7, 3) * 1.0, metric.context(7, None, 0))


@tap_cases
def test_autocast_does_not_lower_precision(name):
    case = CASES[name]
    plain, cast = case.make(), case.make()
    for index, batch in enumerate(case.batches()):
        feed_taps(plain, batch, index)
        with torch.autocast("cpu", torch.bfloat16):
            feed_taps(cast, batch, index)
    for key, state in plain.metric_state.items():
        assert torch.equal(state, cast.metric_state[key]), key


@tap_cases
def test_update_and_compute_inside_and_outside_inference_mode(name):
    case = CASES[name]
    metric, batches = case.make(), case.batches()
    with torch.inference_mode():
        feed_taps(metric, batches[0], 0)
        metric.compute()
    feed_taps(metric, batches[1], 1)
    metric.reset()
    feed_taps(metric, batches[0], 0)


@tap_cases
def test_features_are_left_as_they_were(name):
    case = CASES[name]
    batch = case.batches()[0]
    before = {tap: x.clone() for tap, x in batch[0].items()}
    feed_taps(case.make(), batch, 0)
    for tap, x in batch[0].items():
        assert torch.equal(x, before[tap])


@tap_cases
def test_wrong_rows_and_taps_are_errors(name):
    case = CASES[name]
    metric = case.make()
    features, target = case.batches()[0]
    context = metric.context(7, target, 0)
    with pytest.raises(InputError, match=r"batch's 7 samples, got shape \(5, 3\); put the sample axis first"):
        metric.reduce(torch.zeros(5, 3), context)
    with pytest.raises(InputError, match=r"got shape \(7,\)"):
        metric.reduce(torch.zeros(7), context)
    with pytest.raises(InputError, match=r"expected exactly the taps \['a', 'b'.*got \['a'\]"):
        metric.update({"a": metric.reduce(features["a"], context)}, context)


class Largest(Instrument):
    """A largest value, of unknown length at first."""

    def __init__(self):
        super().__init__()
        self.add_state("top", torch.zeros(0, dtype=torch.float64), "max")

    def update(self, x):
        self.accumulate("top", x.double())

    def compute(self):
        return self.top


@pytest.mark.parametrize("kind", [Largest, type("Summed", (Largest,), {"_how": lambda self, name: torch.add})])
def test_a_largest_value_merges_as_such(kind):
    a, b, empty = kind(), kind(), kind()
    a.update(torch.tensor([2.0, -3.0]))
    a.update(torch.tensor([1.0, -1.0]))
    b.update(torch.tensor([-5.0, 7.0]))
    merged = empty.merge(a).merge(b).merge(kind()).compute().tolist()
    assert (merged == [2.0, 7.0]) == (kind is Largest)

"""Laws that hold for every instrument of the table; beside each, a broken instrument that the law must reject."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from measures_registry import CASES, feed_all, rank_worker, run
from torchmetrics import Metric

from fusionscope.measures import Instrument

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def assert_same(found, wanted, rtol=1e-9, atol=1e-11):
    for key, value in wanted.items():
        if value.dtype.kind in "fi":
            np.testing.assert_allclose(found[key], value, rtol=rtol, atol=atol, err_msg=key)
        else:
            np.testing.assert_array_equal(found[key], value, err_msg=key)


def check_reference(case, dtype=torch.float32, **broken):
    batches = case.cast(case.batches(), dtype)
    wide = case.cast(batches, torch.float64)
    wanted = case.reference(case.make(), wide)
    assert_same(run(case, batches, **broken), wanted, rtol=case.tolerance, atol=case.tolerance)


def check_merge(case, make=None):
    make = make or case.make
    batches = case.batches()
    parts = [make(), make(), make()]
    for number in range(parts[0].passes):
        if number:
            whole = parts[2].merge(parts[0]).merge(parts[1])
            whole.advance()
            parts = [copy.deepcopy(whole) for _ in parts]
        for index, batch in enumerate(batches):
            case.feed(parts[index % 2], batch, index)
    for part in parts:
        part.compute()
    # An instrument that has seen nothing takes part too, on the left.
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert_same(case.read(merged.compute()), run(case, batches))
    assert_same(case.read(parts[0].merge(parts[1]).compute()), run(case, batches))


def check_casts(case, make=None):
    metric = (make or case.make)()
    case.feed(metric, case.batches()[0], 0)
    before = {k: v for k, v in metric.metric_state.items()}
    holder = torch.nn.Sequential(metric)
    casts = [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.bfloat16), lambda m: m.float()]
    casts += [lambda m: m[0].set_dtype(torch.half), lambda m: m.to("cpu", torch.float16), lambda m: m.double()]
    for cast in casts:
        metric.compute()
        cast(holder)
        for name, value in metric.metric_state.items():
            for now, was in zip(
                value if isinstance(value, list) else [value],
                before[name] if isinstance(value, list) else [before[name]],
                strict=True,
            ):
                assert now.dtype == was.dtype
                assert torch.equal(now.nan_to_num(), was.nan_to_num())
    metric.reset()
    feed_all(metric, case.batches(), case.feed)
    assert_same(case.read(metric.compute()), run(case, case.batches()))


def through_pickle(metric):
    return pickle.loads(pickle.dumps(metric))


def check_pickle(case, again=through_pickle):
    metric = case.make()
    batches = case.batches()
    case.feed(metric, batches[0], 0)
    metric = again(metric)
    for index, batch in enumerate(batches[1:], 1):
        case.feed(metric, batch, index)
    for _ in range(1, metric.passes):
        metric.advance()
        metric = again(metric)
        for index, batch in enumerate(batches):
            case.feed(metric, batch, index)
    result = through_pickle(metric.compute())
    assert_same(case.read(result), run(case, batches))


def check_nothing(case, **broken):
    for name, (batches, field, text) in case.nothing.items():
        result = run(case, batches(), **broken)
        tap = field.rpartition(".")[0]
        value = result[field]
        reason = result[f"{tap}.reason" if tap else "reason"]
        hit = np.isnan(value).reshape(len(value), -1)
        assert hit.any(), name
        words = reason.reshape(len(reason), -1)
        for row, said in zip(hit, np.broadcast_to(words, (len(words), max(words.shape[1], 1))), strict=True):
            if row.all():
                assert any(re.search(text, s) for s in said), (name, said)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_agrees_with_the_slow_reference(case, dtype):
    check_reference(case, dtype)


@every_case
def test_reference_rejects_a_forgotten_batch_and_low_precision(case):
    def forgetful(metric, batch, index):
        if index:
            case.feed(metric, batch, index)

    def coarse(metric, batch, index):
        case.feed(metric, case.cast([batch], torch.bfloat16)[0], index)

    with pytest.raises(AssertionError):
        check_reference(case, feed=forgetful)
    if not case.name.startswith("table") or case.name.endswith("regression"):
        with pytest.raises(AssertionError):
            check_reference(case, feed=coarse)


@every_case
def test_merged_parts_equal_the_whole(case):
    check_merge(case)


@every_case
def test_merge_rejects_a_stale_value_and_a_merge_that_does_nothing(case):
    kind = type(case.make())
    stale = type("Stale", (kind,), {"merge_state": lambda self, other: Metric.merge_state(self, other)})
    idle = type("Idle", (kind,), {"merge_state": lambda self, other: None})
    for broken in (stale, idle):

        def make(broken=broken):
            metric = case.make()
            metric.__class__ = broken
            return metric

        with pytest.raises(AssertionError):
            check_merge(case, make)


@every_case
def test_states_survive_casts(case):
    check_casts(case)


@every_case
def test_cast_check_rejects_plain_torchmetrics(case):
    def make():
        metric = case.make()
        metric.__class__ = type("Plain", (type(metric),), {"_apply": Metric._apply})
        metric.compute_with_cache = False
        return metric

    with pytest.raises(AssertionError):
        check_casts(case, make)


@every_case
def test_pickles_midway(case):
    check_pickle(case)


@every_case
def test_pickle_check_rejects_lost_states(case):
    def lossy(metric):
        other = through_pickle(metric)
        other.reset()
        return other

    with pytest.raises(AssertionError):
        check_pickle(case, lossy)


@every_case
def test_nothing_to_measure_is_nan_with_a_reason(case):
    check_nothing(case)


@every_case
def test_nothing_check_rejects_clamped_and_unexplained_values(case):
    def clamped(result):
        return {k: np.nan_to_num(v) if v.dtype.kind == "f" else v for k, v in case.read(result).items()}

    def silent(result):
        return {k: np.full_like(v, "") if k.endswith("reason") else v for k, v in case.read(result).items()}

    for broken in (clamped, silent):
        with pytest.raises(AssertionError):
            check_nothing(case, read=broken)


@every_case
def test_before_any_batch(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(case, [])
    for key in ("matrix", "a.epsilon2", "a.best_epsilon2", "value"):
        assert key not in result or np.isnan(result[key]).all()
    for key in ("reason", "a.reason"):
        if len(result.get(key, ())):
            assert "no batch" in str(result[key].ravel()[0])


@every_case
def test_constants_of_the_class(case):
    metric = case.make()
    assert isinstance(metric, Instrument)
    assert metric.full_state_update is False
    assert all(v.dtype in (torch.float64, torch.int64) for v in metric.metric_state.values() if not isinstance(v, list))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "torchmetrics", "fusionscope.measures._instrument"])
    outbox = context.Queue()
    store = tmp_path_factory.mktemp("ranks") / "store"
    workers = [context.Process(target=rank_worker, args=(rank, str(store), outbox)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = dict(outbox.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(timeout=20)
    return found


@every_case
@pytest.mark.parametrize("deal", ["dealt", "idle"])
def test_two_ranks_equal_one_process(case, deal, two_ranks):
    whole = run(case, case.batches())
    for rank in range(2):
        assert_same(two_ranks[rank][case.name, deal], whole)


@every_case
def test_rank_check_rejects_unsynchronised_ranks(case, two_ranks):
    with pytest.raises(AssertionError):
        assert_same(two_ranks[0][case.name, "unsynced"], run(case, case.batches()))

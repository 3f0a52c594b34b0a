"""A training that is stopped at any moment goes on to the same bits."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusionscope.engine import TrainConfig, load_run, train
from fusionscope.engine import _job as job
from fusionscope.engine import _loop as loop
from fusionscope.engine._checks import check_samples
from fusionscope.engine._config import stored_config
from fusionscope.engine._optim import Ema, make_optimizer, rate
from fusionscope.engine._order import Order
from fusionscope.engine._snapshot import load_snapshot, save_snapshot
from fusionscope.errors import FileError, InputError


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs that would save anything."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 97)
    path = tmp_path_factory.mktemp("toy") / "toy.npz"
    np.savez(
        path,
        x=(rng.normal(size=(97, 5)) + label[:, None]).astype("f4"),
        m=(rng.normal(size=(97, 7, 11)) + label[:, None, None]).astype("f4"),
        label=label,
        split=np.repeat([0, 1, 2], [61, 17, 19]),
    )
    return f"npz:{path}?inputs=x:NC,m:NHW&target=label"


def settings(data: str, out: Path, **changes: Any) -> TrainConfig:
    usual: dict[str, Any] = {
        "epochs": 3,
        "width": 4,
        "batch_size": 12,
        "accelerator": "cpu",
        "lr": 0.01,
        "dropout": 0.3,
        "augment": 1.0,
        "snapshot": 0.0,
    }
    return TrainConfig(data=data, out=str(out), **usual | changes)


def files(folder: Path) -> dict[str, bytes]:
    """Contents of all files, but for the times in two of them."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name in found:
        if name.endswith(("metrics.json", "about.json")):
            found[name] = json.dumps(json.loads(found[name]) | {"seconds": 0}).encode()
        elif name.endswith("history.csv"):
            rows = list(csv.DictReader(found[name].decode().splitlines()))
            found[name] = json.dumps([{k: v for k, v in r.items() if "seconds" not in k} for r in rows]).encode()
    return found


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"refit": True, "checkpoints": 3},
    "everything": {
        "optimizer": "sgd",
        "ema": 0.9,
        "clip": 0.5,
        "accumulate": 2,
        "auxiliary": 0.3,
        "modality_dropout": 0.3,
        "solo": True,
        "schedule": "linear",
        "modulation": 0.5,
        "dynamics": True,
    },
}
# per epoch 5 steps; a snapshot follows every step and every epoch's end
KILLS = {"plain": [("_step", 3), ("_close", 2), ("save", 7), ("evaluate", 1), ("_step", 12), ("write", 1)]}
KILLS["everything"] = [("_step", 8), ("save", 21), ("write", 2)]


def killing(monkeypatch: pytest.MonkeyPatch, what: str, at: int) -> None:
    """Let the ``at``-th call of one of the functions die, before it has done anything or (a save) half through."""
    place: Any = {
        "_step": loop.Loop,
        "_close": loop.Loop,
        "save": job,
        "evaluate": loop,
        "write": job.Job,
    }[what]
    name = {"save": "save_snapshot"}.get(what, what)
    real: Callable[..., Any] = getattr(place, name)
    calls = iter(range(1, 10_000))

    def dying(*arguments: Any, **named: Any) -> Any:
        if next(calls) == at:
            if what == "save":
                (arguments[0] / "state-999.safetensors").write_bytes(b"half")
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(place, name, dying)


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, toy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(settings(toy, folder, **VARIANTS[request.param]), quiet=True)
    return request.param, files(folder)


def test_killed_anywhere_it_goes_on_to_the_same_bits(
    variant: tuple[str, dict[str, bytes]], toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, whole = variant
    out = tmp_path / "run"
    for what, at in KILLS[name]:
        with monkeypatch.context() as patch:
            killing(patch, what, at)
            with pytest.raises(Killed):
                train(settings(toy, out, **VARIANTS[name], resume=True), quiet=True)
    train(settings(toy, out, **VARIANTS[name], resume=True), quiet=True)
    resumed = files(out)
    assert set(resumed) == set(whole)
    changed = {n: c for n, c in resumed.items() if c.replace(str(out).encode(), b"OUT") != c}
    assert all(b"OUT" not in whole[n] for n in changed)
    for file in whole:
        if file.endswith(".safetensors"):
            one, two = (load(content) for content in (whole[file], resumed[file]))
            assert all(torch.equal(one[k], two[k]) for k in one), file
        elif not file.endswith("config.json"):
            assert whole[file] == resumed[file], file
    assert [p.name for p in tmp_path.iterdir()] == ["run"], "nothing unfinished stays"


def load(content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load as read

    return read(content)


def test_the_check_of_bits_can_fail(
    toy: str, tmp_path: Path, variant: tuple[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the random state forgotten, or the place in the data, other weights come out."""
    name, whole = variant
    real = loop.Loop.load_state_dict
    for forgotten in ("rng", "place"):
        out = tmp_path / forgotten
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killing(patch, "_step", {"plain": 19, "everything": 4}[name])  # of plain, the weights are the refit's
            train(settings(toy, out, **VARIANTS[name]), quiet=True)

        def load_state_dict(self: Any, state: dict[str, Any], forgotten: str = forgotten) -> None:
            before = torch.get_rng_state()
            real(self, state)
            if forgotten == "rng":
                torch.set_rng_state(before)
            else:
                self.step += 1

        with monkeypatch.context() as patch:
            patch.setattr(loop.Loop, "load_state_dict", load_state_dict)
            train(settings(toy, out, **VARIANTS[name] | {"solo": False}, resume=True), quiet=True)
        one, two = load(whole["weights.safetensors"]), load((out / "weights.safetensors").read_bytes())
        assert not all(torch.equal(one[k], two[k]) for k in one)


def test_signals_end_the_step_and_save(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(settings(toy, tmp_path / "whole"), quiet=True)
    real = loop.Loop._step
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, as in a background job
    for number in (signal.SIGINT, signal.SIGTERM):
        calls = iter(range(100))

        def step(self: Any, batches: Any, number: int = number, calls: Iterator[int] = calls) -> None:
            if next(calls) == 7:
                os.kill(os.getpid(), number)
            real(self, batches)

        out = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(loop.Loop, "_step", step)
            train(settings(toy, out, snapshot=1000.0), quiet=True)
        assert load_run(out, data=False).metrics["interrupted"]
        with pytest.raises(FileError, match=r"holds a training that was stopped: set resume"):
            train(settings(toy, out), quiet=True)
        train(settings(toy, out, resume=True), quiet=True)
        one, two = (load((f / "weights.safetensors").read_bytes()) for f in (whole, out))
        assert all(torch.equal(one[k], two[k]) for k in one)
        assert not load_run(out, data=False).metrics["interrupted"]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_what_is_complete_is_left_alone_and_other_settings_are_refused(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = train(settings(toy, tmp_path / "run", epochs=1), quiet=True)
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    train(settings(toy, out, epochs=1, resume=True), quiet=True)
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before
    with pytest.raises(InputError, match=r"begun with other settings: lr = 0\.01 there and 0\.02 now"):
        train(settings(toy, out, epochs=1, resume=True, lr=0.02), quiet=True)
    train(settings(toy, out, epochs=1, resume=True, solo=True), quiet=True)
    assert set(load_run(out).solo) == {"x", "m"}, "twins can be added later"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, "_step", 3)
        train(settings(toy, out, epochs=1, overwrite=True), quiet=True)
    train(settings(toy, out, epochs=1, overwrite=True, resume=True), quiet=True)
    assert (out / "metrics.json").stat().st_mtime_ns > before[out / "metrics.json"], "overwritten after all"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, "_step", 3)
        train(settings(toy, tmp_path / "two"), quiet=True)
    with pytest.raises(InputError, match="begun with other settings: epochs = 3 there and 4 now"):
        train(settings(toy, tmp_path / "two", epochs=4, resume=True), quiet=True)
    state = tmp_path / "two.unfinished" / "state.json"
    state.write_text(state.read_text()[:-9])
    with pytest.raises(FileError, match="is damaged .* remove it and train anew"):
        train(settings(toy, tmp_path / "two", resume=True), quiet=True)
    train(settings(toy, tmp_path / "two", epochs=1, overwrite=True), quiet=True)
    assert not state.parent.exists()


def test_a_complete_run_of_other_data_is_not_taken_for_this_one(toy: str, tmp_path: Path) -> None:
    path = Path(toy.partition(":")[2].partition("?")[0])
    arrays = dict(np.load(path))
    here = tmp_path / "here.npz"
    np.savez(here, **arrays)
    data = toy.replace(str(path), str(here))
    out = train(settings(data, tmp_path / "run", epochs=1), quiet=True)
    np.savez(here, **arrays | {"x": -arrays["x"]})
    with pytest.raises(InputError, match="the data of .* changed since"):
        train(settings(data, out, epochs=1, resume=True), quiet=True)
    train(settings(data, out, epochs=1, resume=True, overwrite=True), quiet=True)
    train(settings(data, out, epochs=1, resume=True), quiet=True)


def test_a_finished_run_is_not_taken_for_another_ones_snapshots(toy: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="has the name of one that is not finished"):
        train(settings(toy, tmp_path / "run.unfinished"), quiet=True)


def test_the_settings_of_a_begun_run_are_found_with_a_slash_at_the_end(tmp_path: Path) -> None:
    save_snapshot(tmp_path / "run.unfinished", {"config": {"lr": 0.5}})
    assert stored_config(f"{tmp_path}/run/") == stored_config(f"{tmp_path}/run") == {"lr": 0.5}


def test_fewer_samples_than_a_step_has_parts_are_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(17, 5)).astype("f4")
    np.savez(tmp_path / "few.npz", x=x, y=np.arange(17) % 3, split=np.repeat([0, 1, 2], [5, 5, 7]))
    few = f"npz:{tmp_path}/few.npz?inputs=x:NC&target=y"
    with pytest.raises(InputError, match="has 5 samples; 1 device with accumulate = 3 need 6 or more"):
        train(settings(few, tmp_path / "run", accumulate=3), quiet=True)
    with pytest.raises(InputError, match="2 devices with accumulate = 2 need 8 or more"):
        check_samples(5, settings(few, tmp_path / "run", accumulate=2), 2)
    train(settings(few, tmp_path / "run", epochs=1, accumulate=2), quiet=True)


def test_scores_that_are_no_numbers_are_null_in_strict_json_and_nan_when_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.where(np.arange(31) < 20, rng.normal(size=31), 1.0).astype("f4")  # no R2 of a constant
    x = rng.normal(size=(31, 5)).astype("f4")
    np.savez(tmp_path / "flat.npz", x=x, y=y, split=np.repeat([0, 1, 2], [13, 7, 11]))
    out = train(settings(f"npz:{tmp_path}/flat.npz?inputs=x:NC&target=y", tmp_path / "run", epochs=1), quiet=True)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    told = json.loads((out / "metrics.json").read_text(), parse_constant=refuse)
    assert told["test"]["r2"] is None
    assert np.isnan(load_run(out, data=False).metrics["test"]["r2"])
    assert train(settings(f"npz:{tmp_path}/flat.npz?inputs=x:NC&target=y", out, epochs=1, resume=True)) == out


def test_a_snapshot_holds_nested_values(tmp_path: Path) -> None:
    state = {
        "a": [1, None, True, "x", float("inf")],
        "b": {3: {"t": torch.arange(7).view(7, 1).T}, 4: torch.tensor(2.5)},
    }
    for number in range(3):
        save_snapshot(tmp_path, state | {"number": number})
    found = load_snapshot(tmp_path)
    assert found is not None
    assert (found["a"], found["number"]) == (state["a"], 2)
    assert torch.equal(found["b"][3]["t"], state["b"][3]["t"])  # ty: ignore[invalid-argument-type]
    assert found["b"][4] == 2.5
    assert len(list(tmp_path.iterdir())) == 2
    assert load_snapshot(tmp_path / "none") is None
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(FileError, match="is damaged"):
        load_snapshot(tmp_path)


def test_a_step_takes_the_same_samples_however_it_is_shared() -> None:
    whole = Order(61, 12, 5)
    assert whole.steps == 5
    epochs = [whole.epoch(1), whole.epoch(2)]
    assert epochs[0] != epochs[1]
    for ranks, parts in ((2, 1), (1, 3), (2, 3)):
        orders = [Order(61, 12, 5, rank=r, ranks=ranks, parts=parts) for r in range(ranks)]
        lists = [order.epoch(2, start=1) for order in orders]
        for step, expected in enumerate(epochs[1][1:]):
            taken = [i for found in lists for part in found[step * parts : (step + 1) * parts] for i in part]
            assert sorted(taken) == sorted(expected)
    assert Order(61, 12, 5).epoch(2) == epochs[1], "an epoch can be asked for without those before it"
    assert (Order(7, 32, 0, ranks=2, parts=2).batch, Order(3, 32, 0, ranks=2, parts=2).steps) == (4, 0)


def test_schedules_and_averages() -> None:
    config = TrainConfig(data="digits", out="r", warmup=0.1, lr=0.1)
    shares = {
        s: [rate(TrainConfig(data="digits", out="r", warmup=0.1, schedule=s), i, 100) for i in range(100)]
        for s in ("cosine", "linear", "step", "constant")
    }
    assert all(max(found) == found[found.index(max(found))] <= 1 for found in shares.values())
    assert all(found[:9] == [(i + 1) / 10 for i in range(9)] for found in shares.values())
    assert shares["step"][69:71] == [1.0, 0.1]
    assert shares["constant"][-1] == 1.0
    assert shares["linear"][50] == 0.5
    layer = torch.nn.Linear(2, 3)
    ema = Ema(layer, 0.9)
    value = layer.weight.detach().clone()
    for n in range(1, 40):
        with torch.no_grad():
            layer.weight += 1
        ema.update()
        keep = min(0.9, (1 + n) / (10 + n))
        value = keep * value + (1 - keep) * layer.weight.detach()
    last = layer.weight.detach().clone()
    with ema.applied():
        torch.testing.assert_close(layer.weight.detach(), value)
    assert torch.equal(layer.weight.detach(), last)
    sgd = make_optimizer(layer, TrainConfig(data="digits", out="r", optimizer="sgd", lr=0.3, momentum=0.8))
    assert isinstance(sgd, torch.optim.SGD)
    assert [(g["lr"], g["momentum"], g["nesterov"]) for g in sgd.param_groups] == [(0.3, 0.8, True)] * 2
    assert isinstance(make_optimizer(layer, config), torch.optim.AdamW)

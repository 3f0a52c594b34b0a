"""Two processes, started as ``torchrun`` starts them, train what one process trains."""

from __future__ import annotations

import csv
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing, nn

from fusionscope.engine import TrainConfig, train
from fusionscope.engine import _job as job
from fusionscope.engine import _loop as loop
from fusionscope.engine import _rehearse as rehearsal
from fusionscope.errors import InputError

STEPS = 10


class Killed(BaseException):
    pass


def without_batch_norm(description: Any, *, untrained: bool = True) -> nn.Module:
    """The model with group norms, whose values do not depend on who shares a batch."""
    model = REBUILD(description, untrained=untrained)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, nn.GroupNorm(1, module.num_features))
    return model


REBUILD = job.rebuild


def settings(folder: Path, out: str, **changes: Any) -> TrainConfig:
    # one step per epoch, so that history.csv has every step's loss
    return TrainConfig(
        data=f"npz:{folder}/toy.npz?inputs=x:NC,m:NHW&target=label",
        out=str(folder / out),
        epochs=changes.pop("epochs", STEPS),
        patience=0,
        width=4,
        batch_size=60,
        dropout=0.0,
        warmup=0.0,
        lr=0.01,
        accelerator="cpu",
        **changes,
    )


def worker(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(settings(folder, "norms", epochs=1), quiet=True)
    told = [str(w.message) for w in said if "batch norms take their statistics" in str(w.message)]
    (folder / f"warned{rank}").write_text(str(len(told)))
    job.rebuild = rehearsal.rebuild = without_batch_norm
    train(settings(folder, "two", accumulate=3), quiet=True)
    halves = {"accumulate": 3, "augment": 0.5, "epochs": 4}
    real = loop.Loop._step

    def dying(self: loop.Loop, batches: Any) -> None:
        if self.epoch == 3:
            raise Killed
        real(self, batches)

    loop.Loop._step = dying
    try:
        train(settings(folder, "resumed", **halves, snapshot=0.0), quiet=True)
    except Killed:
        loop.Loop._step = real
    train(settings(folder, "resumed", **halves, resume=True), quiet=True)
    train(settings(folder, "whole", **halves), quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import socket

    place = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 97)
    np.savez(
        place / "toy.npz",
        x=(rng.normal(size=(97, 5)) + label[:, None]).astype("f4"),
        m=(rng.normal(size=(97, 7, 11)) + label[:, None, None]).astype("f4"),
        label=label,
        split=np.repeat([0, 1, 2], [60, 18, 19]),
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # torch and Fabric are then imported once, and not again for each rank
    preload = ["fusionscope.engine._train", "fusionscope.measures._instrument"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    multiprocessing.start_processes(worker, (place, port), nprocs=2, start_method="forkserver")
    return place


def losses(folder: Path) -> list[float]:
    with (folder / "history.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def test_two_ranks_take_the_steps_of_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "rebuild", without_batch_norm)
    one = losses(train(settings(folder, "one"), quiet=True))
    two = losses(folder / "two")
    assert len(one) == len(two) == STEPS
    assert one[-1] < 0.7 * one[0]
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    parts = losses(train(settings(folder, "parts", accumulate=5), quiet=True))
    np.testing.assert_allclose(parts, one, rtol=0, atol=1e-5)
    with_norms = losses(folder / "norms")
    assert abs(with_norms[0] - losses(train(settings(folder, "other", seed=1, epochs=1), quiet=True))[0]) > 1e-5, (
        "it can fail"
    )


def test_batch_norms_apart_are_warned_about_once(folder: Path) -> None:
    assert [(folder / f"warned{rank}").read_text() for rank in range(2)] == ["1", "0"]


def test_ranks_resume_to_the_same_bits(folder: Path) -> None:
    one, two = (load_file(folder / name / "weights.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"batch_size = 60 .* cannot be shared equally among"):
        train(settings(folder, str(tmp_path / "no"), accumulate=7), quiet=True)

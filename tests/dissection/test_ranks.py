"""Two processes that share the batches of a dissection give the tables of one."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

import fusionscope as fs


class Late(nn.Module):
    """A late fusion whose last linear layer can be split by modality; ``b`` is dead where it is negative."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.a, self.b = nn.Linear(3, 5), nn.Sequential(nn.Linear(2, 7), nn.ReLU())
        self.head = nn.Linear(12, outputs)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out = self.head(input=torch.cat([self.a(a), self.b(b)], 1))
        return out if out.shape[1] > 1 else out[:, 0]


class Fussy(Late):
    """Raises where the first sample has another ``a`` than its own, in the one batch that is marked."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if float(b[0, 0]) == 77.0 and float(a[0, 0]) != 99.0:
            raise ValueError("that is not my a")
        return super().forward(a, b)


def case(name: str) -> tuple[nn.Module, list[Any]]:
    """A model and its batches: ``lone`` leaves a rank without one, ``odd`` gives rank 1 a constant modality, on
    ``fussy`` the model raises on rank 1 only."""
    torch.manual_seed(3)
    batches = [
        {"a": torch.randn(11, 3), "b": torch.randn(11, 2), "label": torch.randint(0, 3, (11,))}
        for _ in range(1 if name == "lone" else 3)
    ]
    if name == "odd":
        batches[1]["b"] = torch.full_like(batches[1]["b"], -9.0)
    if name == "fussy":
        batches[1]["a"][0, 0], batches[1]["b"][0, 0] = 99.0, 77.0
        return Fussy(3), batches
    if name == "regression":
        for scale, batch in enumerate(batches, 1):
            batch["label"] = scale * torch.randn(11)
    return Late(1 if name == "regression" else 3), batches


def measured(name: str) -> fs.Dissection:
    measures = ("contribution",) if name == "fussy" else ("contribution", "valuation", "imbalance")
    return fs.dissect(*case(name), measures=measures, progress=False)


CASES = ("lone", "odd", "regression", "fussy")


def worker(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=limit)
    for name in CASES:
        measured(name).save(Path(folder) / f"{name}{rank}")
        distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.start_processes(worker, (str(folder / "store"), str(folder)), nprocs=2, start_method="spawn")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_give_the_tables_of_one(name: str, two_ranks: Path) -> None:
    whole = measured(name)
    for rank in range(2):
        found = fs.load(two_ranks / f"{name}{rank}")
        assert list(found.tables) == list(whole.tables)
        for table, expected in whole.tables.items():
            pd.testing.assert_frame_equal(found.tables[table], expected, rtol=0, atol=1e-9)
        assert found.manifest["messages"] == whole.manifest["messages"]
    if name == "fussy":
        assert whole.tables["contribution"]["reason"].str.contains("that is not my a").any()
        return
    ratio = whole.tables["imbalance"].set_index("measure")
    if name != "regression":
        assert ratio.loc["discrepancy ratio", "value"].notna().all()

"""Every part under DistributedDataParallel on two ranks: each parameter gets the mean of the ranks' gradients."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from fusionscope.nn import ModalityNorm

from .parts import features, parts, presence
from .test_part_laws import loss

NAMES = [name for name, case in parts().items() if not case.idle]


def gradients(part: nn.Module, name: str, rank: int) -> dict[str, Tensor]:
    """Two steps, the second with absent samples: a parameter without a gradient in the first would stop DDP there."""
    case = parts()[name]
    part.zero_grad()
    torch.manual_seed(rank)
    x = features(case, seed=rank)
    loss(part(x)).backward()
    loss(part(x, presence(case))).backward()
    return {key.removeprefix("module."): p.grad for key, p in part.named_parameters() if p.grad is not None}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return parts()[name].build()


def normalised(rank: int | None) -> dict[str, Tensor]:
    """Outputs, gradients and running statistics of a batch norm of two modalities; a rank has every second sample."""
    torch.manual_seed(0)
    norm = ModalityNorm(nn.BatchNorm2d(3), ("a", "b"))
    norm.synchronised = rank is not None
    own = slice(None) if rank is None else slice(rank, None, 2)
    x = {m: (torch.randn(14, 3, 5, 7) * (2 + i))[own].requires_grad_() for i, m in enumerate(norm.modalities)}
    weights = torch.randn(14, 3, 5, 7)[own]
    y = norm(x)
    sum((v * weights).square().sum() for v in y.values()).backward()
    found = {f"{m} out": v.detach() for m, v in y.items()} | {f"{m} grad": v.grad for m, v in x.items()}
    return found | {"mean": norm.running_mean, "var": norm.running_var}


def worker(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=limit)
    found = {}
    for name in NAMES:
        part = built(name)
        if any(p.requires_grad for p in part.parameters()):
            found[name] = gradients(nn.parallel.DistributedDataParallel(part), name, rank)
    found["synchronised norm"] = normalised(rank)
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("parts")
    multiprocessing.start_processes(worker, (str(folder / "store"), str(folder)), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_gradients_are_the_mean_over_the_ranks(two_ranks):
    for name, first in two_ranks[0].items():
        if name not in NAMES:
            continue
        alone = [gradients(built(name), name, rank) for rank in range(2)]
        for key, value in first.items():
            torch.testing.assert_close(value, two_ranks[1][name][key], rtol=0, atol=0)
            expected = (alone[0][key] + alone[1][key]) / 2
            torch.testing.assert_close(
                value, expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name, k=key: f"{n} {k}: {m}"
            )
    with_weights = [n for n in NAMES if any(p.requires_grad for p in built(n).parameters())]
    assert list(two_ranks[0])[:-1] == with_weights


def test_a_synchronised_norm_is_the_norm_of_the_whole_batch(two_ranks):
    whole = normalised(None)
    for rank, part in enumerate(two_ranks):
        for key, value in part["synchronised norm"].items():
            expected = whole[key] if key in ("mean", "var") else whole[key][rank::2]
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")

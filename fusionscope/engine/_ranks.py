"""Several processes train one model: under ``torchrun``, or those that Fabric starts."""

from __future__ import annotations

import os
import warnings
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fusionscope.errors import InputError
from fusionscope.nn import ModalityNorm

from ._checks import check_share
from ._config import TrainConfig


def make_fabric(config: TrainConfig) -> Fabric:
    """Start Lightning Fabric with the config's devices, or with the processes that ``torchrun`` has started.

    Raises:
        InputError: if there is no such device, or the batch cannot be shared among them.
    """
    devices, nodes = config.devices, 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    several = devices * nodes > 1
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if several else "auto",
            precision=config.precision,
        )
        fabric.launch()
    except (RuntimeError, ValueError, ImportError) as error:
        raise InputError(
            f"cannot use accelerator {config.accelerator!r} with {devices} devices: {str(error).rstrip('.')}; "
            "--accelerator auto takes what is there"
        ) from error
    if config.precision == "16-mixed" and fabric.device.type == "cpu":
        raise InputError("precision = '16-mixed' is of GPUs: take 'bf16-mixed' on the CPU (--precision bf16-mixed)")
    check_share(config, fabric.world_size)
    return fabric


def synchronised(module: nn.Module, fabric: Fabric) -> nn.Module:
    """On several GPUs, let batch norms take their statistics over all of them; on CPUs, warn that they do not."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    ours = [m for m in module.modules() if isinstance(m, ModalityNorm) and m.kind == "batch"]
    if fabric.world_size == 1 or not (norms or ours):
        return module
    if fabric.device.type == "cuda":
        for norm in ours:
            norm.synchronised = True
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if fabric.is_global_zero:
        warnings.warn(
            f"{len(norms) + len(ours)} batch norms take their statistics on each of {fabric.world_size} ranks apart, "
            "from its share of the batch: on CPUs they are not synchronised",
            UserWarning,
            stacklevel=2,
        )
    return module


def summed(value: Tensor, fabric: Fabric) -> float:
    """Return the sum over all ranks."""
    return float(value) if fabric.world_size == 1 else float(cast(Tensor, fabric.all_reduce(value, reduce_op="sum")))


def gathered(own: dict[str, Any], fabric: Fabric) -> list[dict[str, Any]]:
    """Return every rank's value, in order."""
    if fabric.world_size == 1:
        return [own]
    found: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(found, own)
    return found


def mine(states: list[dict[str, Any]], fabric: Fabric) -> dict[str, Any]:
    """Return this rank's value of what :func:`gathered` returned.

    Raises:
        InputError: if another number of ranks wrote it.
    """
    if len(states) != fabric.world_size:
        raise InputError(
            f"this training was begun on {len(states)} devices and goes on only there; now there are "
            f"{fabric.world_size}. Give as many, or begin anew with overwrite (--overwrite)"
        )
    return states[fabric.global_rank]

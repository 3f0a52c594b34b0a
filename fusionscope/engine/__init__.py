"""Training: one run from a config to a folder, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._config import TrainConfig as TrainConfig
    from ._config import read_config as read_config
    from ._config import stored_config as stored_config
    from ._folder import Run as Run
    from ._folder import load_run as load_run
    from ._train import train as train
    from ._weights import load_weights as load_weights

__all__ = ["Run", "TrainConfig", "load_run", "load_weights", "read_config", "stored_config", "train"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Run": "_folder",
        "TrainConfig": "_config",
        "load_run": "_folder",
        "load_weights": "_weights",
        "read_config": "_config",
        "stored_config": "_config",
        "train": "_train",
    },
)

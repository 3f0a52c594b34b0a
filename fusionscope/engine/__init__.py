"""Training: one run from a config to a folder, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._config import TrainConfig as TrainConfig
    from ._config import read_config as read_config
    from ._config import stored_config as stored_config
    from ._dynamics_folder import Dynamics as Dynamics
    from ._folder import Run as Run
    from ._folder import load_run as load_run
    from ._told import dissection_of as dissection_of
    from ._told import with_training as with_training
    from ._train import train as train
    from ._weights import load_weights as load_weights

__all__ = [
    "Dynamics",
    "Run",
    "TrainConfig",
    "dissection_of",
    "load_run",
    "load_weights",
    "read_config",
    "stored_config",
    "train",
    "with_training",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Dynamics": "_dynamics_folder",
        "Run": "_folder",
        "TrainConfig": "_config",
        "dissection_of": "_told",
        "load_run": "_folder",
        "load_weights": "_weights",
        "read_config": "_config",
        "stored_config": "_config",
        "train": "_train",
        "with_training": "_told",
    },
)

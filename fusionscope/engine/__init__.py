"""Training: one run from a config to a folder, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._compare import Comparison as Comparison
    from ._compare import compare as compare
    from ._conditions import score_conditions as score_conditions
    from ._config import TrainConfig as TrainConfig
    from ._config import read_config as read_config
    from ._folder import Run as Run
    from ._folder import load_run as load_run
    from ._train import train as train
    from ._weights import load_weights as load_weights

__all__ = [
    "Comparison",
    "Run",
    "TrainConfig",
    "compare",
    "load_run",
    "load_weights",
    "read_config",
    "score_conditions",
    "train",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Comparison": "_compare",
        "Run": "_folder",
        "TrainConfig": "_config",
        "compare": "_compare",
        "load_run": "_folder",
        "load_weights": "_weights",
        "read_config": "_config",
        "score_conditions": "_conditions",
        "train": "_train",
    },
)

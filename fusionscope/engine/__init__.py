"""Training: one run from a config to a folder and back, and studies of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._compare import Comparison as Comparison
    from ._compare import compare as compare
    from ._conditions import score_conditions as score_conditions
    from ._config import TrainConfig as TrainConfig
    from ._config import read_config as read_config
    from ._config import stored_config as stored_config
    from ._dynamics_folder import Dynamics as Dynamics
    from ._folder import Run as Run
    from ._folder import load_run as load_run
    from ._modulation import Modulator as Modulator
    from ._run_study import run_study as run_study
    from ._run_study import study_summary as study_summary
    from ._study import Study as Study
    from ._study import StudyRun as StudyRun
    from ._study import read_study as read_study
    from ._study_folder import load_study as load_study
    from ._told import dissection_of as dissection_of
    from ._told import with_training as with_training
    from ._train import train as train
    from ._weights import load_weights as load_weights

__all__ = [
    "Comparison",
    "Dynamics",
    "Modulator",
    "Run",
    "Study",
    "StudyRun",
    "TrainConfig",
    "compare",
    "dissection_of",
    "load_run",
    "load_study",
    "load_weights",
    "read_config",
    "read_study",
    "run_study",
    "score_conditions",
    "stored_config",
    "study_summary",
    "train",
    "with_training",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Comparison": "_compare",
        "Dynamics": "_dynamics_folder",
        "Modulator": "_modulation",
        "Run": "_folder",
        "Study": "_study",
        "StudyRun": "_study",
        "TrainConfig": "_config",
        "compare": "_compare",
        "dissection_of": "_told",
        "load_run": "_folder",
        "load_study": "_study_folder",
        "load_weights": "_weights",
        "read_config": "_config",
        "read_study": "_study",
        "run_study": "_run_study",
        "score_conditions": "_conditions",
        "stored_config": "_config",
        "study_summary": "_run_study",
        "train": "_train",
        "with_training": "_told",
    },
)

"""Data sources: scenes with planted truth, scikit-learn's digits, and readers of ``.npz`` files."""

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._load import load_data as load_data
    from ._scene_table import SCENE_TABLE as SCENE_TABLE
    from ._scene_table import SceneTable as SceneTable
    from ._scenes import SceneDataset as SceneDataset
    from ._splits import DataSplits as DataSplits

__getattr__, __dir__ = attach(
    __name__,
    {
        "SCENE_TABLE": "_scene_table",
        "DataSplits": "_splits",
        "SceneDataset": "_scenes",
        "SceneTable": "_scene_table",
        "load_data": "_load",
    },
)

__all__ = ["SCENE_TABLE", "DataSplits", "SceneDataset", "SceneTable", "load_data"]

"""Data sources (rendered scenes, digits, readers of ``.npz`` files and image folders), corruptions of modalities."""

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._corruption_layouts import modality_kind as modality_kind
    from ._corruption_statistics import CorruptionStatistics as CorruptionStatistics
    from ._corruptions import corrupt as corrupt
    from ._corruptions import corruptions as corruptions
    from ._load import load_data as load_data
    from ._scene_table import SCENE_TABLE as SCENE_TABLE
    from ._scene_table import SceneTable as SceneTable
    from ._scenes import SceneDataset as SceneDataset
    from ._splits import DataSplits as DataSplits

__getattr__, __dir__ = attach(
    __name__,
    {
        "SCENE_TABLE": "_scene_table",
        "CorruptionStatistics": "_corruption_statistics",
        "DataSplits": "_splits",
        "SceneDataset": "_scenes",
        "SceneTable": "_scene_table",
        "corrupt": "_corruptions",
        "corruptions": "_corruptions",
        "load_data": "_load",
        "modality_kind": "_corruption_layouts",
    },
)

__all__ = [
    "SCENE_TABLE",
    "CorruptionStatistics",
    "DataSplits",
    "SceneDataset",
    "SceneTable",
    "corrupt",
    "corruptions",
    "load_data",
    "modality_kind",
]

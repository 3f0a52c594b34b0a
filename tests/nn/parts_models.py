"""The assembled models in the table of parts: they obey the laws as their parts do."""

from __future__ import annotations

from torch import nn

from fusionscope.nn import Classifier, ResNet, SequenceModel

from .parts import Case

MIX: dict[str, tuple[int, ...]] = {"rgb": (3, 13, 11), "depth": (1, 13, 11), "audio": (17, 5)}
MIX_AXES = {"rgb": "NCHW", "depth": "NCHW", "audio": "NTC"}
PAIR: dict[str, tuple[int, ...]] = {"text": (7,), "audio": (13, 5)}
PAIR_AXES = {"text": "NC", "audio": "NTC"}


def shared() -> nn.Module:
    backbone = ResNet(blocks=(1, 2), width=8, small=True)
    return Classifier.build(MIX, MIX_AXES, 5, encoder=backbone, shared=True, exchange="asym_fusion", width=4)


PARTS: dict[str, Case] = {
    "Classifier, shared encoder with AsymFusion": Case(shared, MIX, compiled=False),
    "Classifier, calibrated, ensemble of logits": Case(
        lambda: Classifier.build(PAIR, PAIR_AXES, 5, fuse="late", calibration=True, width=4), PAIR
    ),
    "SequenceModel, cross-attention": Case(
        lambda: SequenceModel.build(PAIR, PAIR_AXES, 5, encoder="transformer", width=4), PAIR, compiled=False
    ),
    "SequenceModel, calibrated, regression": Case(
        lambda: SequenceModel.build(
            PAIR, PAIR_AXES, 1, task="regression", fuse="bottleneck_attention", calibration=True, width=4
        ),
        PAIR,
        compiled=False,
    ),
}

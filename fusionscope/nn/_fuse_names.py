"""Fuses by name, for settings."""

from __future__ import annotations

from torch import nn

from ._attention_fuses import BottleneckAttention, CrossAttention
from ._evidential import Evidential
from ._fuse import Concat, Mean, Sum, SumAndProduct
from ._gated import Gated
from ._late import LateFusion, LearnedEnsemble
from ._student import StudentFusion
from ._tensor_fusion import Bilinear, LowRankTensorFusion, TensorFusion

# of features: `FUSES[name]({modality: channels})`; `.keeps_locations` says whether maps stay maps
FUSES: dict[str, type[nn.Module]] = {
    "concat": Concat,
    "sum": Sum,
    "mean": Mean,
    "sum_and_product": SumAndProduct,
    "gated": Gated,
    "tensor": TensorFusion,
    "low_rank_tensor": LowRankTensorFusion,
    "bilinear": Bilinear,
    "cross_attention": CrossAttention,
    "bottleneck_attention": BottleneckAttention,
}
# of logits: `ENSEMBLES[name]({modality: classes})`; each modality's head gives `.inputs` numbers per class
ENSEMBLES: dict[str, type[nn.Module]] = {
    "late": LateFusion,
    "learned_ensemble": LearnedEnsemble,
    "evidential": Evidential,
    "student": StudentFusion,
}

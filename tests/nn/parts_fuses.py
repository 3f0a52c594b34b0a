"""The fuses' lines in the table of parts."""

from __future__ import annotations

from fusionscope.nn import (
    Bilinear,
    BottleneckAttention,
    Concat,
    CrossAttention,
    Evidential,
    Gated,
    LateFusion,
    LearnedEnsemble,
    LowRankTensorFusion,
    Mean,
    StudentFusion,
    Sum,
    SumAndProduct,
    TensorFusion,
)

from .parts import MAPS, SEQUENCES, UNEQUAL_SEQUENCES, UNEQUAL_VECTORS, VECTORS, Case

C = {m: s[0] for m, s in UNEQUAL_VECTORS.items()}
PAIR = {m: C[m] for m in ("rgb", "depth")}
MIXED_SIZES = {m: C[m] for m in ("rgb", "audio")}
PAIR_VECTORS = {m: UNEQUAL_VECTORS[m] for m in PAIR}
PAIR_MAPS = {"rgb": (11, 5, 3), "depth": (7, 5, 3)}
PAIR_SEQUENCES = {"rgb": (5, 11), "depth": (5, 7)}
MIXED_PAIR = {"rgb": (11, 5, 3), "audio": (17, 13)}
MIXED = {"rgb": (11, 5, 3), "depth": (7,), "audio": (17, 13)}
NAMES = tuple(VECTORS)

PARTS: dict[str, Case] = {
    "concat sequences": Case(lambda: Concat(PAIR), PAIR_SEQUENCES),
    "sum vectors": Case(lambda: Sum(20, modalities=NAMES), VECTORS, compiled=False),
    "sum projected maps": Case(lambda: Sum(PAIR, out=13), PAIR_MAPS, compiled=False),
    "mean sequences": Case(lambda: Mean(20, modalities=NAMES), SEQUENCES, compiled=False),
    "mean projected vectors": Case(lambda: Mean(C, out=17), UNEQUAL_VECTORS),
    "sum and product maps": Case(lambda: SumAndProduct(20, modalities=NAMES), MAPS),
    "sum and product projected": Case(lambda: SumAndProduct(PAIR, out=5), PAIR_VECTORS, compiled=False),
    "gated two vectors": Case(lambda: Gated(PAIR), PAIR_VECTORS),
    "gated three vectors": Case(lambda: Gated(C, out=17), UNEQUAL_VECTORS, compiled=False),
    "gated tied maps": Case(lambda: Gated(20, modalities=NAMES, tied=True), MAPS, compiled=False),
    "tensor fusion": Case(lambda: TensorFusion(C), UNEQUAL_VECTORS, compiled=False),
    "tensor fusion projected maps": Case(lambda: TensorFusion(PAIR, project=3), PAIR_MAPS),
    "low-rank tensor fusion": Case(lambda: LowRankTensorFusion(C, out=5, rank=3), UNEQUAL_VECTORS, compiled=False),
    "low-rank tensor fusion sequences": Case(lambda: LowRankTensorFusion(PAIR), PAIR_SEQUENCES),
    "bilinear": Case(lambda: Bilinear(C, out=5), UNEQUAL_VECTORS, compiled=False),
    "bilinear maps": Case(lambda: Bilinear(PAIR, out=5), PAIR_MAPS),
    "cross-attention sequences": Case(
        lambda: CrossAttention(C, width=8, heads=2, layers=1), UNEQUAL_SEQUENCES, compiled=False
    ),
    "cross-attention mixed": Case(
        lambda: CrossAttention(C, width=4, heads=2, pooling="last", layers=1), MIXED, compiled=False
    ),
    "cross-attention two mixed": Case(lambda: CrossAttention(MIXED_SIZES, width=8, heads=2, layers=1), MIXED_PAIR),
    "cross-attention two vectors": Case(lambda: CrossAttention(PAIR, width=8, heads=2), PAIR_VECTORS, compiled=False),
    "bottleneck attention sequences": Case(
        lambda: BottleneckAttention(C, width=8, heads=2), UNEQUAL_SEQUENCES, compiled=False
    ),
    "bottleneck attention mixed": Case(
        lambda: BottleneckAttention(C, width=8, heads=2, bottlenecks=1), MIXED, compiled=False
    ),
    "bottleneck attention two mixed": Case(lambda: BottleneckAttention(MIXED_SIZES, width=8, heads=2), MIXED_PAIR),
    "bottleneck attention two maps": Case(
        lambda: BottleneckAttention(PAIR, width=8, heads=2), PAIR_MAPS, compiled=False
    ),
    "late mean maps": Case(lambda: LateFusion(20, modalities=NAMES), MAPS, compiled=False),
    "late product": Case(lambda: LateFusion(20, modalities=NAMES, mode="product"), VECTORS, compiled=False),
    "late mixture sequences": Case(lambda: LateFusion(20, modalities=NAMES, mode="mixture"), SEQUENCES),
    # detached, no gradient reaches the logits through the forward pass: see test_late.py
    "learned ensemble": Case(lambda: LearnedEnsemble(20, modalities=NAMES, detach=False), VECTORS, compiled=False),
    "learned ensemble maps": Case(lambda: LearnedEnsemble(20, modalities=NAMES, detach=False), MAPS),
    "evidential": Case(lambda: Evidential(20, modalities=NAMES), VECTORS, compiled=False),
    "evidential maps": Case(lambda: Evidential(20, modalities=NAMES), MAPS),
    "student": Case(lambda: StudentFusion(5, modalities=NAMES), VECTORS, compiled=False),
    "student maps": Case(lambda: StudentFusion(5, modalities=NAMES), MAPS),
}

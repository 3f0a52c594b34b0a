"""What ``dissect`` can measure. Imports no torch."""

from typing import Literal

Measure = Literal[
    "similarity",
    "selectivity",
    "semantics",
    "units",
    "removal",
    "contribution",
    "valuation",
    "imbalance",
    "information",
    "robustness",
    "perceptual",
    "emap",
    "detectors",
    "pairwise",
]
MEASURES: tuple[Measure, ...] = (
    "similarity",
    "selectivity",
    "semantics",
    "units",
    "removal",
    "contribution",
    "valuation",
    "imbalance",
)
OPTIONAL: tuple[Measure, ...] = ("information", "robustness", "perceptual", "emap", "detectors", "pairwise")

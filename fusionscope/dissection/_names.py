"""What ``dissect`` can measure. Imports no torch."""

from typing import Literal, get_args

Usual = Literal["similarity", "selectivity", "semantics", "units", "removal", "contribution", "valuation", "imbalance"]
WhenAsked = Literal["information", "robustness", "perceptual", "emap", "detectors", "pairwise"]
Measure = Literal[Usual, WhenAsked]
MEASURES: tuple[Measure, ...] = get_args(Usual)
OPTIONAL: tuple[Measure, ...] = get_args(WhenAsked)

"""``compare``: the variants of a study, over its seeds, clean and under removal and corruption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fusionscope.errors import InputError, did_you_mean

from ._compare_read import Results, read_results, records
from ._compare_tables import (
    CONDITIONS,
    LOWER_IS_BETTER,
    conditions_of,
    curves_of,
    differences_of,
    means_of,
    robustness_of,
    rows_of,
)
from ._compare_words import sentences
from ._study_folder import load_study


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """What a study says about its variants.

    Attributes:
        folder: of the study.
        data, variants: their names, in the study's order.
        baseline: the variant that the others are compared with.
        metric: per data set, what is compared.
        alpha: error rate over the whole table of differences; 1 - confidence of the intervals.
        conditions: one row per run and condition: ``data, variant, seed, condition, modality, metric, value``; the
            modality "" is the mean over modalities.
        means: per data set, condition and variant ``mean, sd, n, low, high`` over seeds, and the ``missing`` seeds.
        differences: per data set, condition and variant other than the baseline the paired ``difference`` with
            bootstrap interval ``low, high`` and Student's ``t_low, t_high``, ``p`` of the paired t test,
            ``p_corrected`` (Holm, over all rows of this table), ``p_sign_flip`` of the exact test, and the ``verdict``:
            "better", "worse" or "not shown", by ``p_corrected`` and nothing else.
        curves: one row per run, modality and severity: ``value``, the mean over kinds of corruption.
        robustness: per data set and variant ``relative``, ``effective``, ``mce`` and ``relative_mce``.
        missing: runs without scores (``what`` is "run"), or without those under conditions ("conditions").
        notes: what a reader must know about these tables.
        settings: of the bootstrap, and the conditions asked for.
    """

    folder: Path
    data: tuple[str, ...]
    variants: tuple[str, ...]
    baseline: str
    metric: dict[str, str]
    alpha: float
    conditions: pd.DataFrame = field(repr=False)
    means: pd.DataFrame = field(repr=False)
    differences: pd.DataFrame = field(repr=False)
    curves: pd.DataFrame = field(repr=False)
    robustness: pd.DataFrame = field(repr=False)
    missing: pd.DataFrame = field(repr=False)
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdicts in words, one sentence per data set and variant."""
        return sentences(self.differences, self.alpha)

    @property
    def lower_is_better(self) -> frozenset[str]:
        """The metrics compared here of which less is better."""
        return frozenset(self.metric.values()) & LOWER_IS_BETTER

    def __repr__(self) -> str:
        head = f"Comparison({self.folder}: {', '.join(self.variants)} on {', '.join(self.data)})"
        return "\n".join([head, *(f"  {line}" for line in (*self.sentences, *self.notes))])


def compare(
    study: str | Path,
    *,
    baseline: str | None = None,
    metric: str | None = None,
    conditions: Sequence[str] = CONDITIONS,
    alpha: float = 0.05,
    method: str = "scaled",
    resamples: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare the variants of a study with a baseline, by differences paired over seeds.

    Each variant's score minus the baseline's of the same seed (so of the same initial order of samples, and the same
    damaged test samples), over the seeds that both have. A variant is called better or worse only if the paired t
    test's p-value, corrected by Holm's method over all comparisons of the table (data sets x conditions x variants), is
    ``alpha`` or less. With 5 seeds and 14 comparisons that takes a mean difference of 2.8 standard deviations of the
    differences (with 10 seeds 1.2, with one comparison 1.2 and 0.7): fewer conditions and variants, chosen before
    looking, need less, and so do more seeds. The sign-flip test stands beside it; with 5 seeds it cannot go below
    0.0625. Intervals are not corrected. See ``measures.functional.paired_difference`` and ``mean_interval``.

    Args:
        study: folder of the study, finished or not.
        baseline: variant to compare with; None takes the first of the study.
        metric: score to compare; None takes each data set's main one. Under conditions there are the main one and
            ``loss``.
        conditions: of "clean", "removal" (another sample's values instead of a modality's) and "corruption", those to
            compare and to correct for.
        alpha: error rate over all comparisons together, and of each interval.
        method: bootstrap interval: "scaled", "percentile" or "studentised".
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        FileError: if the folder is no study, or a file in it is damaged.
        InputError: if no run is finished, or a name is unknown.

    >>> print(compare("studies/demo", baseline="concat"))  # doctest: +SKIP
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    unknown = [c for c in conditions if c not in CONDITIONS]
    if unknown or not conditions:
        given = unknown[0] if unknown else ""
        raise InputError(f"conditions are {', '.join(CONDITIONS)}, got {given!r}.{did_you_mean(given, CONDITIONS)}")
    folder = Path(study)
    found = load_study(folder)
    runs = found.runs
    results = read_results(runs)
    variants, data = tuple(found.variants), tuple(d for d in found.data if d in results.metric)
    if not data:
        raise InputError(
            f"no run of {folder} is finished yet ({len(runs)} are planned); run it first: fusionscope study, and "
            "`--retry` those that failed"
        )
    baseline = variants[0] if baseline is None else baseline
    if baseline not in variants:
        raise InputError(
            f"the study has no variant {baseline!r}; its variants are {', '.join(variants)}."
            + did_you_mean(baseline, variants)
        )
    chosen, notes = _metrics(results, data, metric)
    scores = results.scores[
        results.scores["data"].isin(chosen) & results.scores["condition"].isin({*conditions, "clean"})
    ]
    by_run = conditions_of(scores, chosen)
    by_run = by_run[by_run["condition"].isin(conditions)].reset_index(drop=True)
    expected = {name: [r.seed for r in runs if r.data == name and r.variant == baseline] for name in chosen}
    settings: dict[str, Any] = {"alpha": alpha, "method": method, "resamples": resamples, "seed": seed}
    curves = curves_of(scores, chosen)
    return Comparison(
        folder,
        tuple(chosen),
        variants,
        baseline,
        chosen,
        alpha,
        by_run,
        means_of(by_run, variants, expected, **settings),
        differences_of(by_run, variants, baseline, expected, **settings),
        curves,
        robustness_of(scores, curves, chosen, variants, baseline),
        results.missing,
        (*notes, *_notes(results, by_run, conditions, chosen)),
        {"conditions": list(conditions), "method": method, "resamples": resamples, "seed": seed},
    )


def _metrics(results: Results, data: Sequence[str], metric: str | None) -> tuple[dict[str, str], list[str]]:
    """Return what to compare on each data set."""
    if metric is None:
        return {name: results.metric[name] for name in data}, []
    clean = results.scores[results.scores["condition"] == "clean"]
    having = set(clean.loc[clean["metric"] == metric, "data"])
    if not having:
        known = list(dict.fromkeys(clean["metric"]))
        raise InputError(f"no run has the score {metric!r}; there are {', '.join(known)}.{did_you_mean(metric, known)}")
    lacking = [name for name in data if name not in having]
    note = [f"{', '.join(lacking)} left out: no score {metric!r} there"] if lacking else []
    return {name: metric for name in data if name in having}, note


def _notes(results: Results, by_run: pd.DataFrame, conditions: Sequence[str], metric: dict[str, str]) -> list[str]:
    """Say which runs are missing and why a condition is."""
    notes = []
    missing = results.missing[results.missing["data"].isin(metric) | (results.missing["what"] == "run")]
    for what, text in (("run", "no scores yet"), ("conditions", "not scored under removal and corruption")):
        rows = missing[missing["what"] == what]
        if what == "conditions" and not {"removal", "corruption"} & set(conditions):
            continue
        names = [f"{r.data}/{r.variant}/seed-{r.seed} ({r.state})" for r in records(rows)]
        if names:
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            notes.append(f"{text}: {', '.join(names[:6])}{more}")
    for data, name in metric.items():
        rows = results.scores[results.scores["data"] == data]
        for condition in (c for c in conditions if c != "clean"):
            here = rows_of(rows, condition)
            if len(here) and name not in set(here["metric"]):
                known = ", ".join(dict.fromkeys(here["metric"]))
                notes.append(f"{data}: under {condition} there are {known} only, not {name}")
                continue
            here = here[here["metric"] == name]
            if len(here) and here["value"].isna().all():
                reasons = list(dict.fromkeys(reason for reason in here["reason"] if reason))
                notes.append(f"{data}: no score under {condition}: {'; '.join(reasons[:2]) or 'no run has a value'}")
    single: Any = by_run.groupby("data")["seed"].nunique()
    few = [data for data, seeds in single.items() if seeds == 1]
    return notes + [f"{data}: one seed only, which says nothing about the spread" for data in few]

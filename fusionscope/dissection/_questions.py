"""The three questions: across modalities, within one, and what joint training did; as tidy tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from fusionscope.dissection._sources import Source, matched
from fusionscope.measures import MARGIN, CKAResult, Profile, VarianceResult, pressure
from fusionscope.measures.functional import joint_score
from fusionscope.tracing import Tap

Spot = tuple[Source, Tap]
Pair = tuple[Spot, Spot]


def name(spot: Spot) -> str:
    """Return the name of a tap among those of all sources."""
    return spot[0].spot(spot[1])


def placed(a: Spot, b: Spot) -> dict[str, Any]:
    """Return the columns that say which two taps a row is about."""
    return {
        "tap_a": name(a),
        "tap_b": name(b),
        "source_a": a[0].name,
        "source_b": b[0].name,
        "modality_a": a[1].modality,
        "level_a": a[1].level,
        "modality_b": b[1].modality,
        "level_b": b[1].level,
    }


def concepts(result: VarianceResult, spots: Sequence[Spot], names: Sequence[str]) -> pd.DataFrame:
    """One row per tap and concept."""
    rows = []
    for spot in spots:
        found = result.probes.taps[name(spot)]
        for c, concept in enumerate(names):
            row = {
                "tap": name(spot),
                "source": spot[0].name,
                "modality": spot[1].modality,
                "level": spot[1].level,
                "concept": concept,
            }
            for field in ("iou", "null_mean", "null_high", "score", "low", "high", "threshold", "prevalence"):
                row[field] = float(getattr(found, field)[c])
            rows.append(row | {"encoded": bool(found.encoded[c]), "reason": str(found.reason[c])})
    return pd.DataFrame(rows)


def variance(result: VarianceResult, cka: CKAResult | None, spots: Sequence[Spot]) -> pd.DataFrame:
    """One row per ordered pair of taps: semantic variance, and the joint score where CKA was measured as well."""
    at = {tap: i for i, tap in enumerate(result.taps)}
    other = {tap: i for i, tap in enumerate(cka.taps)} if cka is not None else {}
    rows = []
    for a in spots:
        for b in spots:
            i, j = at[name(a)], at[name(b)]
            row = placed(a, b)
            row["sv"] = float(result.matrix[i, j])
            for field in ("raw", "low", "high", "floor", "shuffled"):
                row[field] = float(getattr(result, field)[i, j])
            row["concepts"] = int(result.concepts[i, j])
            alike = float(cka.matrix[other[name(a)], other[name(b)]]) if cka is not None else float("nan")
            told = result.probes.taps[name(a)].score, result.probes.taps[name(b)].score
            both = np.isfinite(told[0]) & np.isfinite(told[1])
            score = joint_score(alike, told[0][both], told[1][both]) if both.any() else (float("nan"),) * 3
            row |= {"similarity": alike, "ratio": score[0], "consistency": score[1], "speciality": score[2]}
            rows.append(row | {"reason": str(result.reason[i, j])})
    return pd.DataFrame(rows)


class Questions:
    """Which pairs of taps each question compares, and the tables that answer it."""

    def __init__(self, sources: Sequence[Source], result: VarianceResult, names: Sequence[str]) -> None:
        self.main = sources[0]
        self.twins = {s.modalities[0]: s for s in sources if s.name.startswith("solo ")}
        self.copies = [s for s in sources if s.name.startswith("copy ")]
        self.epochs = [s for s in sources if s.name.startswith("epoch ")]
        self.result, self.names = result, names
        self.near: dict[str, list[str]] = {}
        for source in sources:
            for modality in source.modalities:
                spots = [source.spot(tap) for tap in source.of(modality)]
                for i, spot in enumerate(spots):
                    self.near[spot] = spots[max(i - 1, 0) : i] + spots[i + 1 : i + 2]
        self.margin = self._margin()

    def _margin(self) -> float:
        """What training anew changes: the largest difference between twins and copies that samples do not explain.

        At least the default, which also stands where there are no copies.
        """
        pairs = [pair for s in self.copies for pair in self._between(s, self.twins.get(s.modalities[0]))]
        beyond = self.result.profile([(name(a), name(b)) for a, b in pairs], near=self.near).beyond
        return max(MARGIN, float(np.nanmax(beyond))) if np.isfinite(beyond).any() else MARGIN

    @staticmethod
    def _between(a: Source, b: Source | None) -> list[Pair]:
        if b is None:
            return []
        common = [m for m in a.modalities if m in b.modalities]
        return [((a, s), (b, t)) for m in common for s, t in matched(a.of(m), b.of(m))]

    def _across(self, first: Source, second: Source, a: str, b: str) -> list[Pair]:
        return [((first, s), (second, t)) for s, t in matched(first.of(a), second.of(b))]

    def pairs(self) -> dict[str, list[Pair]]:
        """Return the pairs of taps that each question compares."""
        modalities = [m for m in self.main.modalities if self.main.of(m)]
        both = list(combinations(modalities, 2))
        found: dict[str, list[Pair]] = {
            "across": [pair for a, b in both for pair in self._across(self.main, self.main, a, b)],
            "within": [
                ((self.main, later), (self.main, earlier))
                for m in modalities
                for earlier, later in zip(self.main.of(m), self.main.of(m)[1:], strict=False)
            ],
            "twin": [pair for twin in self.twins.values() for pair in self._between(self.main, twin)],
            "solo": [pair for joint, pair in self._quartets()],
            "training": [((s, tap), (self.main, tap)) for s in self.epochs for tap in s.taps],
        }
        return {question: pairs for question, pairs in found.items() if pairs}

    def _quartets(self) -> list[tuple[Pair, Pair]]:
        """Pairs of levels in the model, each with the twins' taps of the same places."""
        found = []
        for a, b in combinations([m for m in self.main.modalities if m in self.twins], 2):
            alone = [{s.id: t for s, t in matched(self.main.of(m), self.twins[m].of(m))} for m in (a, b)]
            for s, t in matched(self.main.of(a), self.main.of(b)):
                if s.id in alone[0] and t.id in alone[1]:
                    twins = ((self.twins[a], alone[0][s.id]), (self.twins[b], alone[1][t.id]))
                    found.append((((self.main, s), (self.main, t)), twins))
        return found

    def profile(self) -> pd.DataFrame:
        """One row per question, pair of taps and concept; the limits hold for all rows of a question together."""
        rows = []
        for question, pairs in self.pairs().items():
            near = self.near if question in ("across", "twin", "solo") else None
            found = self.result.profile([(name(a), name(b)) for a, b in pairs], self.margin, near)
            for i, (a, b) in enumerate(pairs):
                rows += [{"question": question, **placed(a, b), **row} for row in self._concepts(found, i)]
        return pd.DataFrame(rows)

    def _concepts(self, found: Profile, i: int) -> Iterable[dict[str, Any]]:
        for c, concept in enumerate(self.names):
            values = {field: float(getattr(found, field)[i, c]) for field in ("d", "low", "high")}
            yield {"concept": concept, **values, "kind": str(found.kind[i, c])}

    def emergence(self) -> pd.DataFrame:
        """One row per stream and concept: where along the stream it is first encoded, and where best."""
        rows = []
        for source in (self.main, *self.twins.values()):
            for modality in source.modalities:
                taps = source.of(modality)
                found = [self.result.probes.taps[source.spot(tap)] for tap in taps]
                for c, concept in enumerate(self.names):
                    scores = np.array([f.score[c] for f in found])
                    if not np.isfinite(scores).any():
                        continue
                    first = next((i for i, f in enumerate(found) if f.encoded[c]), -1)
                    best = int(np.nanargmax(scores))
                    rows.append(
                        {
                            "source": source.name,
                            "modality": modality,
                            "concept": concept,
                            "level": taps[first].level if first >= 0 else -1,
                            "tap": source.spot(taps[first]) if first >= 0 else "",
                            "best_level": taps[best].level,
                            "score": float(scores[best]),
                            "prevalence": float(found[best].prevalence[c]),
                        }
                    )
        return pd.DataFrame(rows)

    def collaboration(self) -> pd.DataFrame:
        """One row per level and cell: the pair of streams in the joint model against the pair of twins."""
        quartets = self._quartets()
        if not quartets:
            return pd.DataFrame()
        joint, solo = ([(name(pair[0]), name(pair[1])) for pair in side] for side in zip(*quartets, strict=True))
        streams = [(pair[0][1].modality, pair[1][1].modality) for pair, _ in quartets]
        near = [
            [k for k in (i - 1, i + 1) if 0 <= k < len(streams) and streams[k] == streams[i]]
            for i in range(len(streams))
        ]
        found = pressure(self.result, joint, solo, self.margin, near)
        rows = []
        for i, (((_, a), (_, b)), _) in enumerate(quartets):
            for cell, concept in enumerate(["", *self.names]):
                row = {
                    "measure": "concept" if concept else "semantic variance",
                    "modality_a": a.modality,
                    "modality_b": b.modality,
                    "level": a.level,
                    "concept": concept,
                }
                for field in ("joint", "solo", "difference", "low", "high"):
                    row[field] = float(getattr(found, field)[i, cell])
                rows.append(row | {"pressure": str(found.pressure[i, cell])})
        return pd.DataFrame(rows)

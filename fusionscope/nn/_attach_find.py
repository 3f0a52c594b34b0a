"""Find where a calibration can sit in a traced model so that everything a modality tells passes through it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from fusionscope._nest import map_tensors, tensors
from fusionscope.errors import InputError
from fusionscope.tracing import Call, FusionPoint, Trace

from ._attach_probe import Prober, differs, failing, gap, unit_of
from ._attach_sites import CallKey, Plan, Site, told

TRIED = 8


class Finder:
    """Proposes sites and keeps those which hold: with their values held, no other value of a modality matters.

    Attributes:
        reasons: why the places that were tried do not serve, in words.
    """

    def __init__(self, prober: Prober, found: Trace, among: Collection[str]) -> None:
        self.prober, self.found = prober, found
        self.among = tuple(m for m in found.modalities if m in among)
        self.reasons: list[str] = []
        self.entries: dict[CallKey, list[Call]] = {}
        for call in found.calls:
            self.entries.setdefault(call.key, []).append(call)
        self.order = {key: place for place, key in enumerate(self.entries)}
        self.parents = dict(found.unlisted) | {key: calls[0].parent for key, calls in self.entries.items()}
        self.pure = {key: only for key in self.entries if (only := self._only(key)) is not None}
        self.outer = [key for key in self.pure if not any(up in self.pure for up in self._above(key))]
        leaves = [key for key, calls in self.entries.items() if calls[0].leaf and key not in self.pure]
        self.end = self.order[leaves[0]] if leaves else len(self.order)
        self.point = self._first_point()

    def plan(self) -> Plan:
        """Return where the calibration goes.

        Raises:
            InputError: if nowhere is exact.
        """
        chain, ends = self._chain(), {m: self._ends(m) for m in self.among}
        self._survey({*chain, *(key for keys in ends.values() for key in keys)})
        proper = [key for key in chain if self._outside(key)]
        found = self._in_front(proper) or self._between(ends) or self._in_front([k for k in chain if k not in proper])
        if found is not None:
            return found
        raise InputError(
            f"no calibration can be put exactly in front of the fusion ({self.point}):\n"
            + "\n".join(f"- {reason}" for reason in dict.fromkeys(self.reasons))
            + "\nWrite it into the model's code: fs.nn.ContextualCalibration takes and gives {modality: features}"
        )

    # ------------------------------------------------------------------ calls

    def _only(self, key: CallKey) -> frozenset[str] | None:
        """The modalities of a call each of whose outputs, or slots, belongs to one at most; else None."""
        sets = [call.wired_to | call.unknown for call in self.entries[key]]
        mixed = any(len(one) > 1 for one in sets)
        return None if mixed or key[0] == "" else frozenset[str]().union(*sets)

    def _above(self, key: CallKey) -> Iterable[CallKey]:
        parent = self.parents.get(key)
        while parent is not None:
            yield parent
            parent = self.parents.get(parent)

    def _first_point(self) -> FusionPoint:
        points = [p for p in self.found.fusion_points if not p.round and len(p.modalities & set(self.among)) > 1]
        if not points:
            raise InputError(
                f"{' and '.join(self.among)} never meet in this model, so there is no fusion to calibrate in front of"
            )
        return min(points, key=lambda p: self.order[p.call.key] if p.call is not None else len(self.order))

    def _chain(self) -> list[CallKey]:
        """The calls that may receive the features: the fused one, the module that fuses, and what encloses them."""
        point, starts = self.point, list[CallKey]()
        if point.call is not None and not point.functional:
            starts.append(point.call.key)
        before = self.order[point.call.key] if point.call is not None else len(self.order)
        homes = [key for key in self.entries if key[0] == point.parent and self.order[key] < before and point.parent]
        starts += homes[-1:]
        starts += [point.call.key] if point.call is not None else []
        chain = [key for start in starts for key in (start, *self._above(start))]
        return [key for key in dict.fromkeys(chain) if key[0] not in ("", "(call)") and key in self.entries]

    def _ends(self, modality: str) -> list[CallKey]:
        """A modality's outermost calls before the fusion, the last first."""
        mine = [key for key in self.outer if modality in self.pure[key] and self.order[key] < self.end]
        return mine[::-1][:TRIED]

    def _outside(self, key: CallKey) -> bool:
        """Whether a modality's stream lies before a call for the most part, not inside it."""
        for m in self.among:
            steps = [k for k, only in self.pure.items() if m in only and self.entries[k][0].leaf]
            steps = [k for k in steps if self.entries[k][0].parametric]
            inside = sum(key == k or key in self._above(k) for k in steps)
            before = sum(self.order[k] < self.order[key] for k in steps)
            if inside > before:
                return False
        return True

    # ----------------------------------------------------------------- survey

    def _survey(self, keys: set[CallKey]) -> None:
        """See what the calls take and give, and which modalities move it."""
        prober, paths = self.prober, {key[0] for key in keys}
        self.seen: dict[str, dict[CallKey, Any]] = {"takes": {}, "gives": {}}
        self.moved: dict[tuple[str, CallKey, str], set[str]] = {}
        self.torn: set[tuple[str, CallKey, str]] = set()

        def keep(side: str, key: CallKey, nest: Any) -> None:
            if key in keys:
                copies: dict[int, Tensor] = {}
                self.seen[side][key] = map_tensors(lambda t: copies.setdefault(id(t), t.detach().clone()), nest)

        def compare(modality: str | None, side: str, key: CallKey, nest: Any) -> None:
            now = dict(tensors(nest))
            for place, was in tensors(self.seen[side].get(key)):
                rows = _rows(was, now.get(place))
                if modality is None:
                    if rows is None or rows - {sample}:
                        self.torn.add((side, key, place))
                elif rows is None or rows:
                    self.moved.setdefault((side, key, place), set()).add(modality)

        def run(batch: Any, see: Any) -> list[Tensor]:
            takes, gives = functools.partial(see, "takes"), functools.partial(see, "gives")
            return prober.run(batch, paths, gives=gives, takes=takes)

        sample = prober.batch.size // 2
        self.base = run(None, keep)
        self.noise = gap(self.base, prober.run())
        met = [set[str]() for _ in self.base]
        for m in self.found.modalities:
            out = failing(functools.partial(run, prober.changed([m]), functools.partial(compare, m)))
            if out is None:
                raise InputError(
                    f"the model fails on other samples' values of {m!r}, so what passes through its fusion cannot be "
                    "seen; give a batch whose samples fit each other (equal lengths)"
                )
            for place, (was, now) in enumerate(zip(self.base, out, strict=False)):
                met[place] |= {m} if differs([was], [now], self.noise) else set()
        # What the model gives of one modality alone, beside its answer, is no way past the fusion.
        self.answers = [place for place, names in enumerate(met) if len(names) > 1] or list(range(len(met)))
        failing(lambda: run(prober.one_changed(sample), functools.partial(compare, None)))

    def _features(self, side: str, key: CallKey, modality: str) -> dict[str, Tensor]:
        """The different tensors of a modality's features among what a call takes or gives."""
        found: dict[int, tuple[str, Tensor]] = {}
        for place, tensor in tensors(self.seen[side].get(key)):
            mine = self.moved.get((side, key, place)) == {modality}
            if mine and tensor.is_floating_point() and (side, key, place) not in self.torn and tensor.ndim > 1:
                found.setdefault(id(tensor), (place, tensor))
        return dict(found.values())

    def _passes(self, sites: Collection[Site], side: str, modalities: Collection[str]) -> list[str]:
        """The modalities that reach the output past their sites; ["?"] where the model fails."""
        takes = side == "takes"
        held = functools.partial(self.prober.held, sites=sites, values=self.seen[side], takes=takes)

        def past(names: Collection[str]) -> bool | None:
            out = failing(lambda: held(self.prober.changed(names)))
            if out is None or len(out) != len(self.base):
                return None
            return differs([out[i] for i in self.answers], [self.base[i] for i in self.answers], self.noise)

        found = past(modalities)
        if found is None:
            return ["?"]
        return [m for m in modalities if past([m])] or list(modalities) if found else []

    # ------------------------------------------------------------------ cases

    def _in_front(self, chain: Collection[CallKey]) -> Plan | None:
        """A call that receives the features as separate tensors."""
        for key in chain:
            sites: dict[str, Site] = {}
            for m in self.among:
                mine = self._features("takes", key, m)
                if len(mine) == 1:
                    ((place, tensor),) = mine.items()
                    sites[m] = Site(key, place, unit_of(self.found, None, m, tensor))
                else:
                    how = f"by {len(mine)} tensors" if mine else "not as a tensor of its own with a row per sample"
                    self.reasons.append(f"{told(key)} receives {m} {how}")
                    break
            else:
                past = self._passes(list(sites.values()), "takes", self.among)
                if not past:
                    return Plan(sites, takes=True)
                self._say_past(past, told(key))
        return None

    def _between(self, ends: dict[str, list[CallKey]]) -> Plan | None:
        """The last call of every stream whose output is all that goes on of it."""
        sites: dict[str, Site] = {}
        for m, keys in ends.items():
            if not keys:
                self.reasons.append(f"no call is {m}'s alone before {self._end_name()}")
            for key in keys:
                for site in self._sites(key, m):
                    past = self._passes([site], "gives", [m])
                    if not past:
                        sites[m] = site
                        break
                    self._say_past(past, f"the output of {told(key)}")
                if m in sites:
                    break
        if len(sites) < len(ends):
            return None
        last = max(self.order[site.key] for site in sites.values())
        skip = [key for key in self.outer if self.order[key] <= last]
        for key in skip:
            late = [m for m in self.pure[key] if m in sites and self.order[key] > self.order[sites[m].key]]
            if late:
                self.reasons.append(
                    f"{told(key)}, behind {late[0]}'s features, runs before the other modalities' features are there, "
                    "so it would run twice"
                )
                return None
        return Plan(sites, skip=frozenset(skip))

    def _sites(self, key: CallKey, modality: str) -> list[Site]:
        calls = [call for call in self.entries[key] if call.wired_to == {modality}]
        if any(call.conditional or call.batch_coupled or not call.deterministic for call in calls):
            self.reasons.append(
                f"{told(key)} ({modality}) is called on some inputs only, mixes the rows, or is not deterministic"
            )
            return []
        slots = [call for call in calls if call.slot]
        if slots:
            axes = slots[0].axes
            if axes.sample != 0 or axes.positions is None or len(axes.positions) != 1:
                self.reasons.append(f"{told(key)} has several rows per sample of {modality}")
                return []
            place = slots[0].output or tensors(self.seen["gives"][key])[0][0]
            tensor = dict(tensors(self.seen["gives"][key]))[place]
            unit = unit_of(self.found, key, modality, tensor)
            return [Site(key, place, unit, axes.per_sample, axes.positions[0], axes.stacked)]
        mine = self._features("gives", key, modality)
        if not mine:
            self.reasons.append(f"{told(key)} gives no features of {modality} with one row per sample, samples first")
        return [Site(key, place, unit_of(self.found, key, modality, x)) for place, x in reversed(mine.items())]

    def _end_name(self) -> str:
        return next((told(key) for key, place in self.order.items() if place == self.end), "the model's output")

    def _say_past(self, past: Collection[str], what: str) -> None:
        if "?" in past:
            self.reasons.append(f"the model fails if {what} is held while its inputs change")
        else:
            self.reasons.append(f"{' and '.join(past)} also reaches the output past {what}")


def _rows(was: Tensor, now: Tensor | None) -> set[int] | None:
    """The indices of the first axis at which two tensors differ; None if that is not what differs."""
    if now is None or now.shape != was.shape or not was.ndim:
        return None if now is None or now.shape != was.shape or not torch.equal(now, was) else set()
    other = (now != was) & ~((now != now) & (was != was))
    return set(other.reshape(len(was), -1).any(1).nonzero()[:, 0].tolist()) if was.numel() else set()

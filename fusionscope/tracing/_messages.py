"""What a trace says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from fusionscope.tracing._analyse import missing_counts
from fusionscope.tracing._call import Call
from fusionscope.tracing._record import CallKey, Recording
from fusionscope.tracing._relation import Base, Relation

NAMED = 3


def messages(
    calls: Sequence[Call],
    base: Base,
    relation: Relation,
    modalities: Sequence[str],
    noised: Sequence[str],
    model: nn.Module,
) -> list[str]:
    """What was ambiguous or odd in a trace."""
    told: list[str] = []
    leaves = [call for call in calls if call.leaf]

    def tell(chosen: Sequence[Call], text: str) -> None:
        if chosen:
            told.append(f"{_names(list(dict.fromkeys(call.id for call in chosen)))}: {text}")

    told += _reached(base, relation, modalities)
    told += _stacked(calls)
    unread = [f"{path or 'model'}#{index}" for path, index in base.run.calls if (path, index) in base.run.unread]
    if unread:
        told.append(
            f"{_names(unread)}: holds tensors whose values cannot be read (nested, quantized, or inside vmap); nothing "
            "is said of them"
        )
    tell([c for c in leaves if not c.finite], "non-finite values")
    tell([c for c in leaves if c.constant and c.wired_to], "constant here: dead or saturated")
    tell(
        [c for c in calls if c.batch_coupled and c.deterministic and c.floating],
        "rows interact: per-sample features are not defined here",
    )
    told += _counts(base, relation)
    tell([c for c in leaves if c.conditional], "called or skipped depending on the input")
    tell(
        [c for c in leaves if not c.deterministic],
        "not deterministic: two equal runs differ, so what it depends on is taken from its inputs",
    )
    for modality in modalities:
        unsure = [c for c in leaves if modality in c.unknown]
        why = "the model fails on other samples' values of it"
        why = why if modality in relation.failed else "the effect does not exceed the noise tenfold"
        tell(unsure, f"whether it depends on {modality} is unknown: {why}")
        hidden = [c for c in leaves if c.state(modality) == "wired"]
        tell(
            hidden,
            f"wired to {modality}, inactive: parameters that are all zero hide it ({_names(noised)}). "
            "This looks untrained: trace the trained weights",
        )
        weak = [c for c in leaves if c.state(modality) == "weak"]
        if weak:
            least = min(c.effects[modality] for c in weak)
            tell(weak, f"depends on {modality} only weakly (down to {least:.0e} of its size)")
    told += _fresh_norms(model)
    told += _masks(calls, relation)
    return told


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _reached(base: Base, relation: Relation, modalities: Sequence[str]) -> list[str]:
    first = next(iter(base.run.calls))
    root = relation.outputs[first]
    if not root:
        return [f"no tensor was found in what {first[0] or 'the model'} returns, so what reaches it is not known"]
    reached = frozenset[str]().union(*(e.depends_on | e.unknown for e in root))
    wired = frozenset[str]().union(*(e.wired_to for e in root))
    return [f"{m} reaches no output in this batch" for m in modalities if m not in reached and m not in wired] + [
        f"{m} reaches no output in this batch: parameters that are all zero hide it"
        for m in modalities
        if m not in reached and m in wired
    ]


def _stacked(calls: Sequence[Call]) -> list[str]:
    slots = [call for call in calls if call.slot and call.stretch in (None, 0)]
    if not slots:
        return []
    first = [call for call in slots if call.key == slots[0].key]
    rows = ", ".join(f"{c.slot} {'+'.join(sorted(c.wired_to)) or 'no modality'}" for c in first)
    return [f"modalities are stacked along the batch axis of {slots[0].path or 'the model'}: rows {rows}"]


def _counts(base: Base, relation: Relation) -> list[str]:
    """Modules that another modality's values call more or less often."""
    runs: dict[str, Recording] = {m: found[0] for m, found in relation.plain.runs.items() if found}
    found = missing_counts(base.run, runs)
    inner = [one for one in found if not any(_inside(one[0], other[0]) and one[2] == other[2] for other in found)]
    told = [
        f"{path} is called {times} times, {now} when {modality} changes" for path, times, modality, now in inner[:NAMED]
    ]
    return [*told, f"{len(inner) - NAMED} more modules are called more or less often then"][
        : len(told) + (len(inner) > NAMED)
    ]


def _inside(path: str, container: str) -> bool:
    return path != container and path.startswith(f"{container}.")


def _fresh_norms(model: nn.Module) -> list[str]:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    counted = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
    if counted and not any(bool(n) for n in counted):
        return ["no batch norm has seen a batch: the model looks untrained; trace the trained weights"]
    return []


def _masks(calls: Sequence[Call], relation: Relation) -> list[str]:
    """Fused calls that get one of their modalities by integers or bools only: lengths, masks, indices."""
    told: dict[tuple[str, str], list[CallKey]] = {}
    for call in calls:
        entries = relation.inputs[call.key]
        if not call.leaf or not call.fused or len(entries) < 2:
            continue
        whole = [e for e in entries if e.print.dtype.is_floating_point]
        for entry in entries:
            if entry.print.dtype.is_floating_point or len(entry.wired_to) != 1:
                continue
            (modality,) = entry.wired_to
            rest = frozenset[str]().union(*(e.wired_to for e in whole)) - {modality}
            own = any(e.wired_to == {modality} for e in whole)
            if rest and not own and any(c.lane == modality for c in calls):
                told.setdefault((modality, "+".join(sorted(rest))), []).append(call.key)
    named = {
        pair: _names([f"{path or 'model'}#{index}" for path, index in dict.fromkeys(k)]) for pair, k in told.items()
    }
    return [
        f"{names}: besides {rest}, also depends on {modality}, by integers: if that is its mask or lengths, pass those "
        "as a modality of their own"
        for (modality, rest), names in named.items()
    ]


def unused_modules(model: nn.Module, paths: Mapping[str, nn.Module], base: Recording) -> list[str]:
    """The modules that own parameters and were not called."""
    fired = {path for path, _ in base.calls}
    found = []
    for path, module in paths.items():
        parent = path.rpartition(".")[0]
        owned_by_attention = isinstance(model.get_submodule(parent), nn.MultiheadAttention) if parent else False
        if isinstance(module, nn.ParameterList | nn.ParameterDict):
            continue
        if path not in fired and any(True for _ in module.parameters(recurse=False)) and not owned_by_attention:
            found.append(path)
    return found

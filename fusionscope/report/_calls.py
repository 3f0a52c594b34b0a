"""What one call's plain data says: its name, its lane, its size, and what is odd about it."""

from __future__ import annotations

import math
from typing import Any

WEAK = 1e-6


def full_name(call: dict[str, Any]) -> str:
    """Return path, index, output and slot, as a trace prints them."""
    return str(call.get("id") or f"{call.get('path') or 'model'}#{call.get('index', 0)}{call.get('slot') or ''}")


def lane_of(call: dict[str, Any]) -> str | None:
    """Return the one modality whose lane the call belongs to, or None."""
    if "lane" in call:
        return None if call["lane"] is None else str(call["lane"])
    depends = call.get("depends_on") or []
    meeting = call.get("fused") and call.get("kind")
    return str(depends[0]) if len(depends) == 1 and not meeting else None


def idle_on(call: dict[str, Any]) -> list[str]:
    """The modalities that the call is wired to but does not depend on here."""
    return [str(m) for m in call.get("wired_to") or [] if m not in (call.get("depends_on") or [])]


def sizes(call: dict[str, Any]) -> str:
    """Return the output's shape without its sample axis, as "16×32×32"."""
    shape = call.get("shape")
    if not isinstance(shape, (list, tuple)):
        return str(shape or "")
    axis = (call.get("axes") or {}).get("sample", 0)
    kept = [str(n) for i, n in enumerate(shape) if i != axis]
    return "×".join(kept) or "scalar"


def remarks(call: dict[str, Any]) -> list[str]:
    """What is to be said of a call beside its name: what it is wired to, how strong effects are, what is unknown.

    >>> remarks({"depends_on": ["rgb"], "wired_to": ["depth", "rgb"]})
    ['wired to depth, inactive here']
    >>> remarks({"depends_on": ["depth", "rgb"], "effects": {"rgb": 0.41, "depth": 3e-8}})
    ['rgb: 0.41; depth: weak (3e-8)']
    """
    said = []
    if idle := idle_on(call):
        said.append(f"wired to {', '.join(idle)}, inactive here")
    # Effects on what is inactive were measured with noise in its parameters, and say nothing about the model as it is.
    effects = {m: size for m, size in (call.get("effects") or {}).items() if m not in idle}
    states = call.get("states") or {}
    if effects:
        said.append("; ".join(f"{m}: {_effect(size, states.get(m))}" for m, size in effects.items()))
    if unknown := call.get("unknown"):
        said.append(f"it cannot be told whether it depends on {', '.join(map(str, unknown))}")
    return said


def _effect(size: Any, state: str | None) -> str:
    if not isinstance(size, int | float) or not math.isfinite(size):
        return "of unknown size"
    mantissa, _, exponent = f"{size:.0e}".partition("e")
    weak = state == "weak" if state else 0 < size < WEAK
    return f"weak ({mantissa}e{int(exponent)})" if weak else f"{size:.2g}"

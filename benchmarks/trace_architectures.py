"""What a trace finds in published architectures, as a table in the docs.

    python benchmarks/trace_architectures.py [--check] [--print]

Builds the small random-weight models of ``tests/tracing/architecture_models.py`` from their configurations, traces
each and writes one line per model into ``docs/tracing.md``, between the markers. ``--check`` writes nothing and fails
where the table there is another one; ``--print`` writes nothing either. Needs ``transformers``; run from the repository
root.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import fusionscope as fs  # noqa: E402
from fusionscope.tracing import FusionPoint  # noqa: E402
from tests.tracing.architectures import ARCHITECTURES, Architecture  # noqa: E402

PAGE = ROOT / "docs" / "tracing.md"
START, END = "<!-- table: architectures -->", "<!-- end -->"
HEAD = ("model", "modalities", "calls", "stream", "they first meet", "kind", "exchanges", "messages", "forwards")
MOST = 3


def main() -> int:
    """Trace all and write, compare or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the table in the docs is another one")
    parser.add_argument("--print", action="store_true", help="print the table")
    options = parser.parse_args()
    rows = [HEAD, ("---",) * len(HEAD), *map(line, ARCHITECTURES)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if options.print:
        print(table)
        return 0
    page = PAGE.read_text(encoding="utf-8")
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        print(f"{PAGE.relative_to(ROOT)} lacks the markers {START} and {END}")
        return 1
    wanted = f"{before}{START}\n\n{table}\n\n{END}{after}"
    if options.check:
        if page != wanted:
            print(f"{PAGE.relative_to(ROOT)} is out of date; run python benchmarks/trace_architectures.py")
        return int(page != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    print(f"wrote {len(ARCHITECTURES)} models to {PAGE.relative_to(ROOT)}")
    return 0


def line(architecture: Architecture) -> tuple[str, ...]:
    """The row of one model."""
    model, batch, modalities = architecture.build()
    found = fs.trace(model, batch, modalities=modalities)
    points = [point for point in found.fusion_points if not point.round]
    exchanges = len({point.round for point in found.fusion_points if point.exchange})
    return (
        architecture.name,
        ", ".join(found.modalities),
        str(len(found.calls)),
        ", ".join(f"{modality} {len(calls)}" for modality, calls in found.streams.items()),
        "<br>".join(where(point) for point in points) or "nowhere",
        ", ".join(dict.fromkeys(point.kind for point in points)),
        str(exchanges) if exchanges else "none",
        "<br>".join(message.replace("|", "\\|") for message in found.messages[:MOST]),
        str(found.forwards),
    )


def where(point: FusionPoint) -> str:
    """Where modalities meet, with the calls as code."""
    call, mixer = point.call, point.mixed_by
    place = f"in `{point.parent}`" if point.parent else "in the model"
    if not point.functional:
        text = f"`{call.path}#{call.index}`"
    else:
        text = f"{place}, before `{call.path}#{call.index}`" if call else f"{place}, before its output"
    if mixer is not None and mixer is not call:
        text += f"; mixed by `{mixer.path}#{mixer.index}`"
    return text


if __name__ == "__main__":
    raise SystemExit(main())

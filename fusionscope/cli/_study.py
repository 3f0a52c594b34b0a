"""``fusionscope study``: a grid of trainings, and what became of it."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from fusionscope.cli._options import StudyOptions
from fusionscope.engine import Study, load_study, read_study, run_study, study_summary
from fusionscope.errors import InputError


def study(options: StudyOptions) -> None:
    """Run the study and print its table; exits with 1 if runs failed."""
    file = Path(options.file)
    done = run_study(
        _read(options, file),
        only=options.only,
        retry=options.retry,
        check=options.check,
        quiet=options.quiet,
        file=None if file.is_dir() else file,
    )
    if options.check:
        return
    failed = study_summary(done)
    if failed:
        print(f"{len(failed)} runs failed:", *failed, sep="\n  ", file=sys.stderr)
        print(f"to train them again: fusionscope study {options.file} --retry", file=sys.stderr)
        sys.exit(1)
    print(f"study: {Path(done.out).resolve()}\nnext: fusionscope compare {done.out}")


def _read(options: StudyOptions, file: Path) -> Study:
    if options.workers < 0:
        raise InputError(f"--workers must be at least 1, got {options.workers}")
    if not file.is_dir():
        given = {"out": options.out} if options.out else {}
        return read_study(file, **given | ({"workers": options.workers} if options.workers else {}))
    if options.out:
        raise InputError(f"{file} is the folder of a study; --out goes with a file")
    found = load_study(file)
    return msgspec.structs.replace(found, workers=options.workers) if options.workers else found

"""The folder of a study: ``study.json``, ``runs/``, ``failures/``, ``claims/``, ``logs/``."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fusionscope._files import atomic_write, writable_parent
from fusionscope.errors import FileError, InputError

from ._config import settings
from ._study import Study, StudyRun, read_json, write_json

KIND, SCHEMA = "fusionscope study", 1
PACKAGES = ("fusionscope", "torch", "numpy", "lightning-fabric")


def load_study(folder: str | Path) -> Study:
    """Read the study that lies in ``folder``, which may have been moved.

    Raises:
        FileError: if it is no study, damaged, or of another version.
    """
    folder = Path(folder)
    if not (folder / "study.json").is_file():
        raise FileError(f"{folder} is not the folder of a study: no study.json")
    found = read_json(folder / "study.json")
    if found.get("kind") != KIND or found.get("schema") != SCHEMA:
        raise FileError(
            f"{folder / 'study.json'} is no study of schema {SCHEMA}, which this fusionscope reads, but "
            f"{found.get('kind')!r} of schema {found.get('schema')!r}; use the version that wrote it"
        )
    try:
        return Study(**settings(found["study"] | {"out": str(folder)}, Study, "study"))
    except (KeyError, TypeError, InputError) as error:
        raise FileError(f"{folder / 'study.json'} is damaged: {error}") from error


def check_study(study: Study) -> None:
    """Refuse a folder that holds something else, or this study with other settings.

    Seeds, variants and data sets may be added, workers, threads and conditions changed.

    Raises:
        FileError: if it cannot be used.
        InputError: if settings differ.
    """
    folder = Path(study.out)
    if folder.exists() and not folder.is_dir():
        raise FileError(f"the study's folder {folder} is a file; choose another name (out, or --out)")
    writable_parent(folder / "study.json")
    if not (folder / "study.json").exists():
        strangers = sorted({p.name for p in folder.iterdir()} - {"claims", "logs", "failures", "runs", "study.toml"})
        if strangers:
            raise FileError(f"{folder} is no study and not empty: it holds {', '.join(strangers[:3])}; choose another")
        return
    changes = list(_changes(load_study(folder), study))
    if changes:
        raise InputError(
            f"{folder} was begun with other settings: {'; '.join(changes[:6])}{'; ...' if len(changes) > 6 else ''}. "
            "Seeds, variants and data sets may be added only; for other changes choose another folder (out, or --out)"
        )


def save_study(study: Study, file: Path | None = None) -> None:
    """Write ``study.json``, and a copy of the file it was read from; machines that start at once do it in turn."""
    folder = Path(study.out)
    while (claim := study.claims.take("study")) is None:
        time.sleep(0.1)
    with claim:
        check_study(study)
        path = folder / "study.json"
        before = read_json(path) if path.exists() else {}
        plain = _plain(study)
        if before.get("study") != plain:
            versions = {name: importlib.metadata.version(name) for name in PACKAGES}
            created = before.get("created", now())
            head = {"kind": KIND, "schema": SCHEMA, "created": created, "changed": now()}
            write_json(path, head | {"versions": before.get("versions", versions), "study": plain})
        if file is not None and file.resolve() != (folder / "study.toml").resolve():
            with atomic_write(folder / "study.toml") as temporary:
                shutil.copyfile(file, temporary)


def write_failure(study: Study, run: StudyRun, kind: str, error: str, traceback: str) -> None:
    """Record why a run failed; ``kind`` is "error" (an exception) or "death" (the process died)."""
    told = {"data": run.data, "variant": run.variant, "seed": run.seed, "kind": kind, "error": error}
    write_json(study.failure_path(run), told | {"traceback": traceback, "host": socket.gethostname(), "time": now()})


def read_failure(study: Study, run: StudyRun) -> dict[str, Any]:
    """Return what :func:`write_failure` wrote; {} where there is none."""
    try:
        return read_json(study.failure_path(run))
    except FileError:
        return {}


def now() -> str:
    """The time in words."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(study: Study) -> dict[str, Any]:
    """The study as it is read back from JSON."""
    return json.loads(msgspec.json.encode(study))


def _changes(old: Study, new: Study) -> Iterator[str]:
    """What differs beyond what may; "KEY: was -> is"."""
    was, now = _plain(old), _plain(new)
    missing = [s for s in was["seeds"] if s not in now["seeds"]]
    if missing:
        yield f"seeds: {', '.join(map(str, missing))} would be left out"
    yield from _different("severities", was["severities"], now["severities"])
    yield from _table_changes("train", was["train"], now["train"])
    for what in ("data", "variants"):
        for name, table in was[what].items():
            if name not in now[what]:
                yield f"[{what}.{name}] would be left out"
            else:
                yield from _table_changes(f"{what}.{name}", table, now[what][name])


def _table_changes(where: str, was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*was, *now]):
        yield from _different(f"{where}.{key}", was.get(key, "not set"), now.get(key, "not set"))


def _different(key: str, was: Any, now: Any) -> Iterator[str]:
    if was != now:
        yield f"{key}: {was} -> {now}"

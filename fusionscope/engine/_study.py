"""What a study is told: data sets, variants and seeds, and the settings of every run. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from fusionscope._files import atomic_write
from fusionscope.errors import FileError, InputError, did_you_mean

from ._claims import Claims
from ._config import TrainConfig, expanded, read_toml, settings, twin_name

CONDITIONS = "conditions.csv"
OWN = {"out": "out", "seed": "seeds", "resume": "every run goes on", "overwrite": "nothing is overwritten"}
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,58}[A-Za-z0-9_])?")
State = Literal["pending", "running", "unfinished", "failed", "done"]


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        data, variant, seed: its place in the grid.
        folder: its run folder, which is there when the run is trained; ``load_run`` reads it.
        state: "pending", "running" (somebody works on it), "unfinished" (begun, nobody works on it), "failed" or
            "done" (trained and, where the study asks for it, scored under its conditions).
    """

    data: str
    variant: str
    seed: int
    folder: Path
    state: State = "pending"

    @property
    def name(self) -> str:
        """What its failure and its claim are called."""
        return f"{self.data}--{self.variant}--seed-{self.seed}"

    @property
    def conditions(self) -> Path:
        """Where its scores without each modality and under corruption lie."""
        return self.folder / CONDITIONS

    @property
    def unfinished(self) -> Path:
        """Where a training keeps what it has until it is over."""
        return self.folder.with_name(f"{self.folder.name}.unfinished")

    def __str__(self) -> str:
        return f"{self.data}/{self.variant}/seed-{self.seed}"


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A grid of trainings, data set x variant x seed, and where it is kept.

    A run's settings are those of ``train``, then of its data set, then of its variant; the later go before the earlier.

    Raises:
        InputError: if a setting does not exist, is of the wrong type or belongs elsewhere, or a name is no good name of
            a folder.

    >>> study = Study(out="studies/digits", seeds=2, train={"data": "digits"}, variants={"sum": {"fuse": "sum"}})
    >>> [str(run) for run in study.grid()]
    ['digits/sum/seed-0', 'digits/sum/seed-1']
    >>> study.config(study.grid()[1]).fuse
    'sum'
    """

    out: str
    """Folder of the study."""
    seeds: int | tuple[int, ...] = 5
    """How many seeds (5: 0 to 4), or which."""
    workers: int = 1
    """Processes on this machine; on CUDA devices they are shared out among them."""
    threads: int = 0
    """Threads of each worker (0: the machine's cores over its workers). Other numbers may change the last digits."""
    conditions: bool = True
    """Also score every finished run without each modality and under corruption."""
    severities: tuple[int, ...] = (1, 3, 5)
    """Severities of the corruptions, of 1 to 5; none (an empty list) leaves them out."""
    train: dict[str, Any] = {}
    """Settings of every run, as in a training file."""
    data: dict[str, dict[str, Any]] = {}
    """Per data set its specification (``data``), and settings for it."""
    variants: dict[str, dict[str, Any]] = {}
    """Per variant its settings."""

    def __post_init__(self) -> None:
        _set(self, "seeds", _seeds(self.seeds))
        _set(self, "train", _table(self.train, "[train]", allow_data=not self.data))
        sets = self.data
        if not sets and "data" in self.train:
            sets = {_name_of(self.train["data"]): {"data": self.train["data"]}}
            _set(self, "train", {k: v for k, v in self.train.items() if k != "data"})
        _set(self, "data", {n: _table(t, f"[data.{n}]", allow_data=True) for n, t in _named("data", sets)})
        _set(self, "variants", {n: _table(t, f"[variants.{n}]") for n, t in _named("variants", self.variants)})
        for name, table in self.data.items():
            if "data" not in table:
                raise InputError(f'[data.{name}] lacks data = "SPEC", as in a training file')
        for key, low in (("workers", 1), ("threads", 0)):
            if getattr(self, key) < low:
                raise InputError(f"{key} must be at least {low}, got {getattr(self, key)}")
        wrong = [s for s in self.severities if not 1 <= s <= 5]
        if wrong or len(set(self.severities)) < len(self.severities):
            raise InputError(f"severities must be different numbers of 1 to 5, got {list(self.severities)}")

    def grid(self) -> list[StudyRun]:
        """All runs, without a look at their folders: data by data, and seed by seed, so that variants stay level."""
        seeds = self.seeds if isinstance(self.seeds, tuple) else ()
        return [StudyRun(d, v, s, self._folder(d, v, s)) for d in self.data for s in seeds for v in self.variants]

    def _folder(self, data: str, variant: str, seed: int) -> Path:
        return Path(self.out) / "runs" / data / variant / f"seed-{seed}"

    @property
    def runs(self) -> list[StudyRun]:
        """All runs with their states as they are now."""
        return [self.look(run) for run in self.grid()]

    def look(self, run: StudyRun) -> StudyRun:
        """Return the run with its state as it is now."""
        return StudyRun(run.data, run.variant, run.seed, run.folder, self._state(run))

    def closed(self, run: StudyRun) -> bool:
        """Whether there is nothing to do for it: it is done, or has failed."""
        return self._is_done(run) or self.failure_path(run).exists()

    def _is_done(self, run: StudyRun) -> bool:
        return is_trained(run.folder) and (run.conditions.exists() or not self.conditions)

    def _state(self, run: StudyRun) -> State:
        if self._is_done(run):
            return "done"
        if self.claims.owner(run.name) is not None:
            return "running"
        if self.failure_path(run).exists():
            return "failed"
        return "unfinished" if run.folder.is_dir() or run.unfinished.is_dir() else "pending"

    @property
    def claims(self) -> Claims:
        """Who works on what."""
        return Claims(Path(self.out) / "claims")

    def failure_path(self, run: StudyRun) -> Path:
        """Where the failure of a run is told."""
        return Path(self.out) / "failures" / f"{run.name}.json"

    def config(self, run: StudyRun) -> TrainConfig:
        """Return the settings of one run."""
        merged = self.train | self.data[run.data] | self.variants[run.variant]
        return TrainConfig(**merged, seed=run.seed, out=str(run.folder), resume=True)

    def choose(self, only: Sequence[str]) -> list[StudyRun]:
        """Return the grid's runs with these words, as ("variant=sum", "variant=concat", "seed=0"); all without words.

        Raises:
            InputError: if a word is none of those, or names what the study does not have.
        """
        wanted: dict[str, set[str]] = {}
        has = {key: {str(getattr(run, key)): None for run in self.grid()} for key in ("data", "variant", "seed")}
        for word in only:
            key, equals, value = word.partition("=")
            if not equals or key not in has:
                raise InputError(f"--only takes data=NAME, variant=NAME or seed=NUMBER, not {word!r}")
            if value not in has[key]:
                raise InputError(
                    f"--only {word}: the study has no such {key}.{did_you_mean(value, has[key])} "
                    f"It has {', '.join(has[key])}"
                )
            wanted.setdefault(key, set()).add(value)
        return [run for run in self.grid() if all(str(getattr(run, k)) in v for k, v in wanted.items())]


def read_study(path: str | Path, **given: Any) -> Study:
    """Read a study from a TOML file; what is ``given`` (out, workers) goes before what the file says.

    In strings, ``$NAME`` or ``${NAME}`` stands for an environment variable: ``data = "npz:$DATA/utd_mhad.npz?..."``.

    Raises:
        FileError: if the file cannot be read, or is no TOML.
        InputError: if it names a setting that does not exist, a value is of the wrong type, or a variable is not set.
    """
    found = read_toml(path) | given
    fields, settable = ({f.name for f in msgspec.structs.fields(kind)} for kind in (Study, TrainConfig))
    for key in found:
        if key in settable and key not in fields:
            place = "write it under [train], [data.NAME] or [variants.NAME]"
            place = "the study sets it by seeds" if key == "seed" else place
            raise InputError(f"{path}: {key} is a setting of a training; {place}.{did_you_mean(key, fields)}")
    mend = "A study has out, seeds, workers, threads, conditions, severities, [train], [data.NAME] and [variants.NAME]."
    values = settings(expanded(found, str(path), option=False), Study, str(path), mend=mend)
    if "out" not in values:
        raise InputError(f'{path}: say where the study goes: out = "studies/NAME", or --out')
    try:
        return Study(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def is_trained(folder: Path) -> bool:
    """Whether a run folder is there whose training ran to its end, with all the solo twins that it asks for."""
    return _ended(folder) and all(_ended(folder / "solo" / name) for name in _twins(folder))


def _ended(folder: Path) -> bool:
    """Folders appear whole, so two files tell."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (folder / "config.json").exists() and not metrics.get("interrupted", True)


def _twins(folder: Path) -> list[str]:
    """The folders of the solo twins that a run's settings ask for."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        asked, modalities = told["train"], told["data"]["modalities"]
        seed, copies = int(asked["seed"]), int(asked.get("copies", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    if not asked.get("solo"):
        return []
    return [twin_name(m, seed + 1 + k, seed) for k in range(copies + 1) for m in modalities]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileError: if it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FileError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise FileError(f"{path} is damaged: expected an object, found {type(found).__name__}")
    return found


def _set(study: Study, key: str, value: Any) -> None:
    msgspec.structs.force_setattr(study, key, value)


def _seeds(given: int | tuple[int, ...]) -> tuple[int, ...]:
    found = tuple(range(given)) if isinstance(given, int) else tuple(given)
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise InputError(f"seeds must be a number of at least 1, or a list of different ones from 0, got {given!r}")
    return found


def _table(table: dict[str, Any], where: str, allow_data: bool = False) -> dict[str, Any]:
    """Check one table of training settings; return plain values, as they are in JSON."""
    for key in table:
        if key in OWN:
            raise InputError(f"{where}: {key} is set by the study itself ({OWN[key]}); leave it out")
    if "data" in table and not allow_data:
        raise InputError(f"{where}: data sets have their own tables; write it as data under [data.NAME]")
    found = settings(table, TrainConfig, where)
    if found.get("devices", 1) != 1:
        raise InputError(f"{where}: each run of a study has one device, got devices = {found['devices']}; set workers")
    return found


def _named(what: str, tables: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    seen: dict[str, str] = {}
    if not tables:
        example = '[data.NAME] with data = "SPEC"' if what == "data" else "[variants.NAME] with lr = 0.001"
        raise InputError(f"the study has no {what}; add a table such as {example}")
    for name, table in tables.items():
        if not NAME.fullmatch(name) or "--" in name or name.endswith(".unfinished"):
            raise InputError(
                f"[{what}.{name}]: the name becomes a folder; use letters, digits, single -, _ and . only, at most 60"
            )
        if name.lower() in seen:
            raise InputError(f"[{what}.{name}] and [{what}.{seen[name.lower()]}] differ in case only; rename one")
        seen[name.lower()] = name
        yield name, table


def _name_of(spec: str) -> str:
    """A folder's name for a data set that has none: the file's, or the kind of data."""
    scheme, _, rest = spec.partition("?")[0].partition(":")
    name = re.sub(r"[^A-Za-z0-9]+", "-", Path(rest).stem or scheme).strip("-")[:60].strip("-")
    return name or "data"

"""``fusionscope trace``: one model, one batch; the tree on the screen, the data and the drawing in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn
from torch.utils.data import DataLoader

from fusionscope._files import atomic_write, writable_parent
from fusionscope._function import call_function
from fusionscope.batch import Adapter, Batch
from fusionscope.cli._options import TraceOptions
from fusionscope.data import DataSplits
from fusionscope.engine import load_run, load_weights
from fusionscope.errors import FileError, InputError
from fusionscope.report import trace_svg
from fusionscope.tracing import trace

SAMPLES = 16
GROUPING = "--modalities rgb depth, or --modalities text=input_ids,attention_mask image=pixel_values"


def trace_model(options: TraceOptions) -> None:
    """Trace the model of the options, print the tree and write both files."""
    adapter = Adapter(read_modalities(options.modalities))
    _check_options(options)
    out = _folder(options.out)
    if options.run:
        trained = load_run(options.run)
        loader = cast(DataSplits, trained.data).loader(options.split, SAMPLES, shuffle=True)
        model, batch = trained.model, next(iter(loader))
    else:
        model = call_function(options.model, "--model", nn.Module)
        if options.weights:
            load_weights(model, options.weights)
        batch = _batch(options.batch, adapter)
    found = trace(model, batch, adapter=adapter)
    plain = found.to_dict()
    texts = {"trace.json": json.dumps(plain, indent=1, ensure_ascii=False) + "\n", "trace.svg": trace_svg(plain) + "\n"}
    for name, text in texts.items():
        with atomic_write(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(found)
    print(f"trace: {(out / 'trace.json').resolve()}\ndrawing: {(out / 'trace.svg').resolve()}")


def read_modalities(words: tuple[str, ...]) -> tuple[str, ...] | dict[str, str | list[str]] | None:
    """Return what ``--modalities`` says: names, or which keys belong to which modality.

    >>> read_modalities(("rgb", "depth"))
    ('rgb', 'depth')
    >>> read_modalities(("text=input_ids,attention_mask", "image"))
    {'text': ['input_ids', 'attention_mask'], 'image': 'image'}
    """
    groups: dict[str, str | list[str]] = {}
    for word in words:
        name, equals, rest = word.partition("=")
        keys = rest.split(",")
        if not name or (equals and not all(keys)) or (not equals and "," in name):
            raise InputError(f"--modalities: cannot read {word!r}; write {GROUPING}")
        if name in groups:
            raise InputError(f"--modalities: {name!r} is named twice; put all its keys together: {name}=KEY,KEY")
        groups[name] = (keys if len(keys) > 1 else rest) if equals else name
    return groups if any("=" in word for word in words) else tuple(groups) or None


def _check_options(options: TraceOptions) -> None:
    """A run folder, or a model and a batch."""
    given = [f"--{name}" for name in ("model", "batch", "weights", "modalities") if getattr(options, name)]
    if options.run and given:
        raise InputError(
            f"{options.run} is taken as a run folder, which has its own model and data; leave out {given[0]}"
        )
    if options.run:
        return
    if not options.model and not options.batch:
        raise InputError(
            "give a run folder, or --model package.module:function and --batch package.module:function for a model of "
            "your own"
        )
    if not options.batch:
        raise InputError(
            "with --model, say what to run it on: --batch package.module:function, a function without arguments that "
            "returns one batch, for example next(iter(loader))"
        )
    if not options.model:
        raise InputError(
            "with --batch, say what to run: --model package.module:function, a function without arguments that returns "
            "a torch.nn.Module"
        )


def _folder(given: str) -> Path:
    """The folder for both files, found writable before any work."""
    out = Path(given)
    if out.exists() and not out.is_dir():
        raise FileError(f"--out: {out} exists and is a file; choose a folder")
    writable_parent(out / "trace.json" if out.exists() else out)
    return out


def _batch(name: str, adapter: Adapter) -> Batch:
    """What the batch function gives, read as one batch."""
    raw: Any = call_function(name, "--batch", object)
    if isinstance(raw, DataLoader):
        raise InputError(
            f"--batch: {name} gave a DataLoader; expected one batch. Let the function return next(iter(loader))"
        )
    if hasattr(raw, "__next__"):
        raise InputError(f"--batch: {name} gave a {type(raw).__name__}; expected one batch. Return next() of it")
    if isinstance(raw, list) and len(raw) > 2 and all(isinstance(one, Mapping) for one in raw):
        raise InputError(
            f"--batch: {name} gave a list of {len(raw)} dicts; expected one batch. Return the first of them"
        )
    try:
        return adapter.batch(raw)
    except InputError as error:
        unnamed = isinstance(raw, list | tuple) and adapter.modalities is None
        hint = f"\nOn the command line: {GROUPING}" if unnamed else ""
        raise InputError(f"--batch: {name}: {error}{hint}") from error

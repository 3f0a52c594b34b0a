"""``npz``: arrays of a file as modalities, by the axes that the user names."""

from __future__ import annotations

from fusionscope.errors import InputError

from ._archive import check_lengths, check_numbers, read_arrays
from ._arrays import ArrayDataset, scaled_view
from ._layout import find_layout
from ._spec import NpzOptions
from ._splits import DataSplits, fingerprint
from ._target import random_split, read_group, read_split, read_target


def load_npz(spec: str, path: str, options: NpzOptions, seed: int) -> DataSplits:
    """Read modalities, target, split and group from an ``.npz`` file.

    uint8 is scaled to [0, 1]; other numbers are standardised per delivered channel by the training samples, in float64.
    Layouts: see ``find_layout``. Classes: see ``read_target``.
    """
    inputs = _parse_inputs(options.inputs)
    extra = [name for name in (options.target, options.group) if name]
    named_split = options.split not in ("", "random")
    if named_split:
        extra.append(options.split)
    leaks = [name for name in inputs if name in extra]
    if leaks:
        raise InputError(f"array {leaks[0]!r} is an input and also target, group or split. Take it out of inputs=.")
    arrays = read_arrays(path, [*inputs, *extra], () if options.split else ("split",))
    count = check_lengths(arrays)
    layouts = {name: find_layout(name, axes, arrays[name].shape) for name, axes in inputs.items()}
    for name in inputs:
        check_numbers(name, arrays[name])
    classes = tuple(options.classes.split(",")) if options.classes else ()
    task, target, classes = read_target(options.target, arrays[options.target], classes, options.ignore)
    group = read_group(options.group, arrays[options.group]) if options.group else None
    split = options.split or "split"
    rows = read_split(split, arrays[split]) if split in arrays else random_split(count, group, seed)
    views = {name: scaled_view(arrays[name], layouts[name], rows["train"]) for name in inputs}
    parts = [task, *classes, target, *(arrays[name] for name in inputs), *(rows[name] for name in rows)]
    parts += [f"{name}:{axes}" for name, axes in inputs.items()] + ([] if group is None else [group])
    return DataSplits(
        spec=spec,
        splits={name: ArrayDataset(views, target, index, group) for name, index in rows.items()},
        modalities=tuple(inputs),
        axes={name: layout.axes for name, layout in layouts.items()},
        shapes={name: layout.shape for name, layout in layouts.items()},
        task=task,
        classes=classes,
        truth=None,
        fingerprint=fingerprint(parts),
    )


def _parse_inputs(text: str) -> dict[str, str]:
    example = "inputs=inertial:NTC,depth:NTHW"
    if not text:
        raise InputError(f"data source 'npz' needs inputs=, the arrays to use and their axes, as in {example}.")
    inputs: dict[str, str] = {}
    for piece in text.split(","):
        name, colon, axes = piece.partition(":")
        if not (name and colon and axes):
            raise InputError(f"cannot read {piece!r} in inputs={text}: expected NAME:AXES, as in {example}.")
        if name in inputs:
            raise InputError(f"input {name!r} is named twice in inputs={text}. Name each array once.")
        inputs[name] = axes
    return inputs

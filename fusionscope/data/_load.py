"""One door to all data sources."""

from __future__ import annotations

from typing import cast

from fusionscope.errors import InputError

from ._spec import DigitsOptions, ImagesOptions, NpzOptions, ScenesOptions, parse_spec
from ._splits import DataSplits, fingerprint


def load_data(spec: str, *, seed: int = 0) -> DataSplits:
    """Load the data that ``spec`` names.

    - ``scenes?train=2000&val=300&test=600&size=64&cells=5&night=0&holes=0``: rendered RGB-D scenes with planted truth;
      ``night`` and ``holes`` are the shares of scenes with dim light and with a depth sensor that fails in places.
    - ``digits?val=0.15&test=0.25``: scikit-learn's handwritten digits, top and bottom halves as two views of one
      sensor.
    - ``npz:FILE?inputs=inertial:NTC,depth:NTHW&target=label``, and optionally ``split=``, ``group=`` (names of arrays
      in the file), ``classes=a,b,c``, ``ignore=255`` (a dense label to leave out). The split array holds 0 or "train",
      1 or "val", 2 or "test"; not given, an array named "split" is used if there is one, else a seeded 70/15/15 split,
      by group where one is given; ``split=random`` asks for the latter. The path may begin with ``~``.

    - ``images:FOLDER?inputs=vi&target=ir``: a folder of images per modality (and for the target), matched by file name
      without its ending; needs Pillow (the extra ``media``). Optionally ``split=index.csv``, a table in FOLDER with the
      columns id and split ("train", "val", "test"; ids that it leaves out are not used), by default ``index.csv`` where
      there is one, else a seeded 70/15/15 split, as with ``split=random``; ``size=120x160`` (height x width) resizes
      everything. Values are scaled to [0, 1], grey images have 1 channel, others 3. The target is another such folder
      XX (a class or a number per image; ``classes=`` as for npz);
      ``group=`` names a column too.

    Axes of an npz input are letters, samples first: N sample, T time, C channel, H, W space, V joint, F frequency. They
    are delivered as NC, NTC, NCHW or NTCHW: V is folded into C; so is F, save where it stands for the missing one of H
    and W; T next to H and W without a C becomes C; a missing C is one channel. uint8 is scaled to [0, 1] (category
    codes too: one-hot them before saving), other numbers are standardised per channel by the training samples.
    Integer or string targets are classes (numbered in sorted order), integer maps [N, H, W] dense classes with
    negatives ignored, integers or booleans [N, K] of 0 and 1 several labels per sample (task "multilabel"), floats
    regression targets, left as they are.

    Args:
        spec: source and options. Values are read as they stand, without percent-decoding.
        seed: fixes what is rendered, or how samples are split.

    Raises:
        InputError: the spec, or the data in a file, is not what was expected.
        FileError: a file is missing, is not an ``.npz`` of plain arrays, or an image cannot be read.

    >>> load_data("digits")  # doctest: +ELLIPSIS
    DataSplits('digits'): train 1078, val 269, test 450; fingerprint ...
      task: classification, 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
      top     NCHW   1x4x8
      bottom  NCHW   1x4x8
    """
    if seed < 0:
        raise InputError(f"expected a seed of 0 or more, got {seed}.")
    source, path, options = parse_spec(spec)
    if source == "scenes":
        return _load_scenes(spec, cast(ScenesOptions, options), seed)
    if source == "digits":
        from ._digits import load_digit_views

        return load_digit_views(spec, cast(DigitsOptions, options), seed)
    if source == "images":
        from ._images import load_images

        return load_images(spec, path, cast(ImagesOptions, options), seed)
    from ._npz import load_npz

    return load_npz(spec, path, cast(NpzOptions, options), seed)


def _load_scenes(spec: str, options: ScenesOptions, seed: int) -> DataSplits:
    from ._scenes import SceneDataset, derive_seed

    splits = {
        name: SceneDataset(
            count,
            seed=derive_seed(name, seed),
            size=options.size,
            cells=options.cells,
            night=options.night,
            holes=options.holes,
        )
        for name, count in (("train", options.train), ("val", options.val), ("test", options.test))
    }
    side = options.size
    return DataSplits(
        spec=spec,
        splits=dict(splits),
        modalities=("rgb", "depth"),
        axes={"rgb": "NCHW", "depth": "NCHW"},
        shapes={"rgb": (3, side, side), "depth": (1, side, side)},
        task="dense",
        classes=splits["train"].classes,
        truth=splits["train"].truth,
        fingerprint=fingerprint(["scenes", *(part for split in splits.values() for part in split.content)]),
    )

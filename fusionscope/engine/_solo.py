"""Solo twins: for each modality of a joint model, a model of its own, trained with the same settings on it alone.

Never with the joint model's seed: the first modality's encoder would start from the same weights in both, and so look
more alike than training makes it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from fusionscope.data import DataSplits
from fusionscope.errors import InputError

from ._config import TrainConfig, twin_name
from ._folder import SOLO


def twins(config: TrainConfig, data: DataSplits) -> list[TrainConfig]:
    """Return the configs of all solo twins, then of their copies, in the order of training.

    Each is the config of an ordinary run with one modality; its ``out`` lies in the joint run's folder. The twins have
    seed ``config.seed + 1``, their copies the seeds after that.

    Raises:
        InputError: if there is one modality only, or the modalities' names cannot be folders side by side.
    """
    if not config.solo:
        return []
    if len(data.modalities) < 2:
        raise InputError(
            f"solo needs two modalities or more, but this run has {data.modalities[0]!r} only, so its model is a solo "
            "twin already; leave solo (--solo) out, or choose more modalities"
        )
    for name in data.modalities:
        if any(mark in name for mark in "/\\:\0"):
            raise InputError(f"a solo twin's folder cannot be named after modality {name!r}; rename the modality")
    pairs = [(m, config.seed + 1 + k) for k in range(config.copies + 1) for m in data.modalities]
    names = [twin_name(m, seed, config.seed) for m, seed in pairs]
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if names.count(name) > 1 or other != name:
            raise InputError(f"the folders {other!r} and {name!r} of solo twins are one; rename a modality")
    # one modality has nothing to be balanced with
    alone = msgspec.structs.replace(
        config, solo=False, copies=0, modulation=0.0, modulation_noise=True, modulation_epochs=0
    )
    return [
        msgspec.structs.replace(alone, modalities=(m,), seed=seed, out=str(Path(config.out) / SOLO / name))
        for (m, seed), name in zip(pairs, names, strict=True)
    ]

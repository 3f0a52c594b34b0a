"""What a training run is told. Imports no torch, so that the command line can show its help quickly."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import msgspec

from fusionscope._settings import misfit
from fusionscope.errors import FileError, InputError, did_you_mean


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one training run; the run folder's ``config.json`` repeats them."""

    data: str
    """Data specification, such as ``scenes``, ``digits``, ``npz:FILE?inputs=...&target=...`` or
    ``images:FOLDER?inputs=...&target=...``."""
    out: str
    """Run folder to write; must be new or empty unless --overwrite."""
    overwrite: bool = False
    """Replace a run folder that already exists, with its dissection, report and solo twins."""
    resume: bool = False
    """Go on where a training of these settings was stopped (OUT.unfinished), to the same weights as if it had not been;
    what is complete stays as it is, what has not begun begins."""
    snapshot: float = 60.0
    """Seconds between the snapshots that --resume goes on from (0: after every step). Ctrl-C makes one too."""
    modalities: tuple[str, ...] = ()
    """Train on these modalities only (default: all of the data's)."""
    model: Literal["auto", "classifier", "sequence", "segmenter", "translator"] = "auto"
    """auto: an encoder per modality, concatenation and a head, for any task (the translator where the target is an
    image). classifier: with any encoder and fuse; sequence: attention over time; segmenter and translator: one encoder
    shared by all modalities, with an exchange."""
    build: str = ""
    """Your own model instead: package.module:function, which returns a torch.nn.Module that takes the modalities."""
    encoder: str = "auto"
    """auto (small ones by kind of input; resnet18 in the segmenter), resnet18 (34, 50, 101, 152), hf:NAME, and for
    sequences conv or transformer."""
    fuse: str = "auto"
    """Of classifier and sequence: concat, sum, mean, sum_and_product, gated, tensor, low_rank_tensor, bilinear,
    cross_attention, bottleneck_attention; of the modalities' logits late, learned_ensemble, evidential, student."""
    calibration: bool = False
    """Put a contextual calibration in front of the fuse."""
    shared: bool = False
    """Of the classifier: one encoder for all maps."""
    exchange: Literal["auto", "none", "channel_shuffle", "pixel_shift", "asym_fusion", "channel_exchange"] = "auto"
    """What modalities exchange inside a shared encoder (auto: asym_fusion in segmenter and translator, else none)."""
    norm: Literal["private", "affine", "statistics", "shared"] = "private"
    """What of a shared encoder's norms each modality has for itself: all, the affine part, the statistics, nothing."""
    adversarial: bool = False
    """Of the translator: train against a discriminator of patches too, and keep the last weights, since sharp pictures
    cost PSNR."""
    seed: int = 0
    """Seeds the initial weights, dropout, shuffling and augmentation."""
    data_seed: int = 0
    """Seeds the data: what is rendered, or how samples are split."""
    epochs: int = 60
    """Most epochs to train; the learning rate falls to zero over this many."""
    patience: int = 15
    """Stop when the validation score has not improved for this many epochs (0: never stop early)."""
    refit: bool = False
    """Then train anew on train + val, for as many epochs as the training with validation ran; keep the last weights."""
    checkpoints: int = 0
    """Keep the weights of this many evenly spaced epochs of the training with validation; the untrained ones (epoch 0)
    and the last epoch's are always among them (0: none; the best weights are kept anyway)."""
    solo: bool = False
    """Also train each modality's solo twin: the same settings on that modality alone, with seed SEED + 1 (so that no
    encoder starts from the joint model's weights), written to OUT/solo/MODALITY."""
    copies: int = 0
    """With --solo: train each solo twin so many times more, with seeds SEED + 2, SEED + 3, ..., written to
    OUT/solo/MODALITY-seedNUMBER; how far apart they are is the noise floor of training anew."""
    batch_size: int = 32
    """Samples per step of the optimiser, over all devices and accumulated parts together."""
    accumulate: int = 1
    """Parts that a device's share of a batch is computed in, one after another, to save memory."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd (with Nesterov momentum)."""
    lr: float = 2e-3
    """Peak learning rate, reached after the warm-up."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 0.01
    """Weight decay, on weight matrices and kernels only."""
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    """How the learning rate falls: to zero along a cosine or a line, to a tenth after 70 % of the steps, or not."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    clip: float = 0.0
    """Largest norm of the gradient of all parameters together (0: unlimited)."""
    ema: float = 0.0
    """Decay per step of the moving average of the weights, which then is scored and saved, as 0.99 (0: none)."""
    width: int = 16
    """Channels of the first stage of every encoder; the deepest has four times as many (eight times in the segmenter's
    ResNet; the classifier's ResNets have their published width)."""
    dropout: float = 0.1
    """Dropout in the head; each encoder drops whole input channels at a quarter of this rate."""
    modality_dropout: float = 0.0
    """Probability that a modality is hidden from the fuse for a training sample."""
    modulation: float = 0.0
    """OGM-GE: how strongly (alpha) the gradients of the encoder that does better alone are damped (0: none)."""
    modulation_noise: bool = True
    """With modulation, also add noise of the gradient's own spread to the encoders (the GE of OGM-GE)."""
    modulation_epochs: int = 0
    """Modulate in the first so many epochs only (0: in all)."""
    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over all classes."""
    auxiliary: float = 0.0
    """Weight of an extra loss per modality, from a linear head that is thrown away after training."""
    augment: float = 0.0
    """Strength of random shifts, stretches, gains and noise on training inputs (0: none, 1: full)."""
    flips: bool = False
    """Also mirror and turn maps by 90 degrees at random (all maps and the target of a sample alike)."""
    sentiment: bool = False
    """The numbers to predict are sentiments from -3 to 3: also score Acc-2, Acc-7 and F1."""
    dynamics: bool = False
    """Record how the modalities learn: gradients, each one alone, gates, features (`fusionscope report OUT`)."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Where every epoch's row goes beside history.csv; the package must be installed."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device kind for Lightning Fabric."""
    devices: int = 1
    """Number of devices; under torchrun, what it started counts."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Arithmetic for Lightning Fabric."""
    workers: int = 0
    """Processes that load data when it does not fit into memory."""


def read_config(path: str | Path, skip: Collection[str] = ()) -> dict[str, Any]:
    """Read settings of :class:`TrainConfig` from a TOML file, but those to ``skip``; the rest keeps its default.

    In strings, ``$NAME`` or ``${NAME}`` stands for an environment variable: ``data = "npz:$DATA/leaves100.npz"``.

    Raises:
        FileError: if the file cannot be read, or is no TOML.
        InputError: if it names a setting that does not exist, a value is of the wrong type, or a variable is not set.
    """
    return settings(expanded(read_toml(path), str(path), skip), TrainConfig, str(path), skip)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        FileError: if the file cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{path} is no TOML file: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def settings(
    found: dict[str, Any],
    kind: type[msgspec.Struct],
    where: str,
    skip: Collection[str] = (),
    mend: str = "`fusionscope train --help` has all.",
) -> dict[str, Any]:
    """Return the values as the struct's types, but those to ``skip``; ``where`` begins every message.

    Raises:
        InputError: if a setting does not exist, or its value is of the wrong type.
    """
    types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key not in types:
            raise InputError(f"{where}: no setting {key!r}.{did_you_mean(key, types)} {mend}")
        if key in skip:
            continue
        if said := misfit(value, types[key]):
            raise InputError(f"{where}: {key} = {value!r}: {said}")
        values[key] = msgspec.convert(value, types[key])
    return values


def stored_config(out: str) -> dict[str, Any]:
    """Return the settings with which a run folder, finished or not, was begun.

    Raises:
        FileError: if there is none.
    """
    if not out:
        raise FileError("resume needs the folder to go on with: give out (--out)")
    folder = Path(out).expanduser()  # a slash at the end is none
    begun = folder.parent / f"{folder.name}.unfinished"
    for path, inside in ((begun / "state.json", "state"), (folder / "config.json", "")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return dict((found[inside]["config"] if inside else found["train"]).items())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise FileError(f"{path} is damaged ({error}); remove {path.parent} and train anew") from error
    raise FileError(f"nothing to resume: there is neither {out}.unfinished nor a run folder {out}")


def twin_name(modality: str, seed: int, joint_seed: int) -> str:
    """Name the folder of a solo twin, or of its copy with another seed."""
    return modality if seed == joint_seed + 1 else f"{modality}-seed{seed}"


def expanded(found: dict[str, Any], where: str, skip: Collection[str] = (), option: bool = True) -> dict[str, Any]:
    """Return the table with ``$NAME`` and ``${NAME}`` in its strings replaced, also in the tables inside it.

    Raises:
        InputError: if a variable is not set; with ``option``, the message also names the option to give instead.
    """

    def one(key: str, value: Any) -> Any:
        def variable(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in os.environ:
                instead = f", or give --{key.replace('_', '-')}" if option else ""
                raise InputError(
                    f"{where}: {key} = {value!r} needs the environment variable {name}, which is not set; set it "
                    f"(export {name}=...){instead}"
                )
            return os.environ[name]

        if isinstance(value, dict):
            return expanded(value, f"{where} [{key}]", (), option)
        return re.sub(r"\$(?:(\w+)|\{(\w+)\})", variable, value) if isinstance(value, str) else value

    return {key: value if key in skip else one(key, value) for key, value in found.items()}

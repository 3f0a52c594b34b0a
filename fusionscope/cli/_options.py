"""What the commands other than ``train`` are told. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import tyro

from fusionscope.dissection import MEASURES, Measure


class DissectOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``fusionscope dissect``."""

    run: Annotated[str, tyro.conf.Positional] = ""
    """Run folder made by `fusionscope train`; leave it out and give --model for a model of your own."""
    model: str = ""
    """Your model: package.module:function, a function without arguments that returns a torch.nn.Module."""
    weights: str = ""
    """Weights for --model, a .safetensors file."""
    data: str = ""
    """Data as for `train`, or package.module:function that returns a loader of batches (default: the run's)."""
    split: str = "test"
    """Which split of the data to read."""
    out: str = ""
    """Folder for the tables (default: RUN/dissection)."""
    report: str = ""
    """Path of the HTML report (default: beside the tables: RUN/report.html, or OUT.html)."""
    measures: tuple[Measure | Literal["all"], ...] = MEASURES
    """Instruments to run; all = every one. Only when named: information, robustness, perceptual and emap (they run the
    model many times more, or solve many programmes), detectors and pairwise."""
    decomposition: Literal["cvx", "batch"] = "cvx"
    """How `information` is estimated: from clusters, with the binning bias, or by learned networks (slow)."""
    kinds: tuple[str, ...] = ()
    """What modalities are, for the corruptions that suit them, as depth=depth audio=audio (default: by shape and name).
    One of image, depth, video, audio, sequence, vector, tokens."""
    baseline: str = ""
    """Run folder or dissection of the model to compare the robustness with."""
    estimator: Literal["ridge", "net2vec", "net2vec-binary", "net2vec-published"] = "ridge"
    """How the concept probes of semantics are fitted; net2vec is slow."""
    references: bool = True
    """With a run folder: compare with the solo twins, their copies and the checkpoints that it holds."""
    batch_size: int = 64
    """Samples per forward."""
    fill: Literal["resample", "zero", "mean", "present"] = "resample"
    """What stands in for an absent modality: another sample's, zeros, the batch mean, or the model's own mask."""
    empty: Literal["auto", "majority", "filled"] = "auto"
    """The value of no modality at all: always the majority class of training, or every modality filled in."""
    metric: Literal["auto", "accuracy", "miou", "f1", "r2", "loglik", "neg_mse"] = "auto"
    """Metric of removal and contribution (auto: accuracy, mIoU, F1 of several labels or R2, by task)."""
    permutations: int = 100
    """Permutations behind each null."""
    alpha: float = 0.05
    """Error rate of bounds and intervals."""
    seed: int = 0
    """Seed of permutations, bootstrap and resampling."""
    device: str = ""
    """Device to run on (default: cuda if there is one)."""


class TraceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``fusionscope trace``."""

    run: Annotated[str, tyro.conf.Positional] = ""
    """Run folder made by `fusionscope train`; leave it out and give --model and --batch for a model of your own."""
    model: str = ""
    """Your model: package.module:function, a function without arguments that returns a torch.nn.Module."""
    batch: str = ""
    """One batch for it: package.module:function, a function without arguments that returns a batch of 2 or more."""
    modalities: tuple[str, ...] = ()
    """Names of a tuple's modalities (rgb depth), or keys grouped to modalities (text=input_ids,attention_mask)."""
    weights: str = ""
    """Weights for --model, a .safetensors file."""
    split: str = "test"
    """With a run folder: which split of its data the batch is taken from."""
    out: str = "trace"
    """Folder for trace.json and trace.svg."""


class ReportOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``fusionscope report``."""

    folder: Annotated[str, tyro.conf.Positional]
    """Folder that `fusionscope dissect` wrote, or a run folder: its dissection if it has one, and its training."""
    out: str = ""
    """Path of the HTML report (default: RUN/report.html, or beside the dissection, under its name)."""


class StudyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``fusionscope study``."""

    file: Annotated[str, tyro.conf.Positional]
    """TOML file of the study, or the folder of one that was begun."""
    out: str = ""
    """Folder of the study (default: the file's out)."""
    workers: int = 0
    """Processes on this machine (default: the file's workers)."""
    only: tuple[str, ...] = ()
    """Train some of the runs only, as variant=concat data=utd seed=0."""
    retry: bool = False
    """Also train what failed before."""
    check: bool = False
    """Try every variant on a batch of every data set, and stop."""
    quiet: bool = False
    """Show no progress, only what came out."""


class CompareOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``fusionscope compare``."""

    study: Annotated[str, tyro.conf.Positional]
    """Folder of the study, finished or not."""
    baseline: str = ""
    """Variant to compare the others with (default: the study's first)."""
    metric: str = ""
    """Score to compare, as loss or balanced_accuracy (default: each data set's main one)."""
    conditions: tuple[Literal["clean", "removal", "corruption"], ...] = ("clean", "removal", "corruption")
    """What to compare, and to correct for: fewer conditions, chosen before looking, need smaller differences."""
    out: str = ""
    """Folder for tables and charts (default: STUDY/comparison)."""
    formats: tuple[Literal["svg", "png", "pdf"], ...] = ("svg", "png", "pdf")
    """Formats of the charts."""
    alpha: float = 0.05
    """Error rate over all comparisons together, and of each interval."""
    method: Literal["scaled", "percentile", "studentised"] = "scaled"
    """Bootstrap interval. With 5 seeds, percentile covers 85 % where 95 % is said, the others 95 %."""
    seed: int = 0
    """Seed of the bootstrap."""

"""``fusionscope``: parse, run one command, turn an expected error into one message and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

from fusionscope import __version__
from fusionscope.errors import FusionscopeError

ABOUT = """\
usage: fusionscope [-h] [--version] {train,study,compare,dissect,trace,report} ...

See what each modality contributes to a multimodal PyTorch model.

Commands (each has its own --help):
  train     train a model (an encoder per modality, concatenation, a head; or another); writes a run folder
  study     train a grid of data sets, variants and seeds; writes a study folder
  compare   compare a study's variants over its seeds, clean, without modalities, corrupted; writes tables and charts
  dissect   measure what each modality contributes, where modalities agree and differ; writes tables and an HTML report
  trace     find which modalities each call of a model depends on and where they meet; writes trace.json and trace.svg
  report    write the HTML report of a run (how its modalities learned) or of a saved dissection

Examples:
  fusionscope train --data scenes --out runs/demo
  fusionscope study studies/utd.toml --workers 2
  fusionscope compare studies/utd
  fusionscope dissect runs/demo
  fusionscope dissect --model my_package.models:build --weights best.safetensors --data my_package.data:loader --out d
  fusionscope trace --model my_package.models:build --batch my_package.data:batch
  fusionscope report d"""

TRAIN = """\
Train a model and write a run folder: by default an encoder per modality, concatenation and a head; --model for others.

Examples:
  fusionscope train --data scenes --out runs/demo
  fusionscope train --data "npz:FILE.npz?inputs=image:NHW,audio:NTC&target=label&split=split" --out runs/av --seed 1
  fusionscope train --data digits --out runs/top --modalities top
  fusionscope train --data digits --out runs/twins --solo --copies 2 --checkpoints 6
  fusionscope train examples/leaves100.toml --out runs/leaves --seed 1
  fusionscope train --resume --out runs/leaves
  torchrun --standalone --nproc-per-node 2 -m fusionscope train examples/leaves100.toml --out runs/leaves-two

A TOML file gives settings by their names below (lr = 0.001, batch_size = 16); options after it go before the file's."""

STUDY = """\
Train a grid of data sets, variants and seeds; each run has its folder, and is scored without each modality and under
corruption too. Stopped or killed at any moment, the same command goes on; several machines may share the folder.

Examples:
  fusionscope study utd.toml --check
  fusionscope study utd.toml --workers 2
  fusionscope study utd.toml --only variant=concat seed=0
  fusionscope study studies/utd --retry

A study's file:
  out = "studies/utd"
  seeds = 5
  [train]
  model = "sequence"
  epochs = 40
  [data.utd]
  data = "npz:$DATA/utd_mhad.npz?inputs=...&target=label"
  [variants.concat]
  fuse = "concat"
  [variants.calibrated]
  calibration = true"""

COMPARE = """\
Compare a study's variants over its seeds with a baseline: clean, without each modality, and with each corrupted.
Differences are paired over seeds, and called so only after correction for all of them; writes tables and charts.

Examples:
  fusionscope compare studies/utd
  fusionscope compare studies/utd --baseline concat --conditions clean --formats svg
  fusionscope compare studies/utd --metric loss --out tables/loss"""

DISSECT = """\
Measure what each modality contributes, where modalities agree and differ; write tables and an HTML report.

Examples:
  fusionscope dissect runs/demo
  fusionscope dissect runs/demo --split val --fill zero --out zero-fill
  fusionscope dissect runs/demo --measures all --kinds depth=depth --out runs/demo/everything
  fusionscope dissect runs/mine --measures robustness --baseline runs/demo/everything
  fusionscope train --data scenes --out runs/twins --solo --copies 1 --checkpoints 4 && fusionscope dissect runs/twins
  fusionscope dissect --model my_package.models:build --weights best.safetensors --data digits --out d"""

TRACE = """\
Find which modalities each call of a model depends on, and where they meet; print it, write trace.json and trace.svg.

Examples:
  fusionscope trace runs/demo
  fusionscope trace --model my_package.models:build --batch my_package.data:batch --out traces/mine
  fusionscope trace --model m:build --batch m:batch --modalities text=input_ids,attention_mask image=pixel_values
  fusionscope trace --model m:build --batch m:batch --modalities rgb depth --weights best.safetensors"""

REPORT = """\
Write the HTML report of a run folder (its dissection, if it has one, and how it was trained) or of a dissection.

Examples:
  fusionscope report runs/demo
  fusionscope report runs/demo/dissection --out demo.html"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (runs of a study failed), 2 (a message says what to mend) or 130."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"fusionscope {__version__}")
        return
    if not arguments or arguments[0] in ("-h", "--help"):
        print(ABOUT)
        sys.exit(0 if arguments else 2)
    try:
        options = _parse(arguments)
        sys.stdout.flush()
    except FusionscopeError as error:
        _fail(str(error))
    except BrokenPipeError:
        _hang_up()
    # Before torch loads: OpenMP threads that spin while they wait make a run several times slower on busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        _run(options)
    except FusionscopeError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader (head, less) has had enough; nothing more can be printed
        _hang_up()
    except KeyboardInterrupt:
        print("fusionscope: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not getattr(error, "from_model", False):
            raise
        notes = "; ".join(getattr(error, "__notes__", []))
        _fail(f"the model raised {type(error).__name__}: {error}\n({notes})")


def _run(options: Any) -> None:
    from fusionscope.cli._options import StudyOptions

    if isinstance(options, StudyOptions):  # which goes on with a study without torch: the workers have it
        from fusionscope.cli._study import study

        study(options)
    else:
        from fusionscope.cli import _commands

        _commands.run(options)


def _hang_up() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _parse(arguments: list[str]) -> Any:
    import msgspec
    import tyro

    from fusionscope.cli._arguments import check_arguments
    from fusionscope.cli._options import CompareOptions, DissectOptions, ReportOptions, StudyOptions, TraceOptions
    from fusionscope.engine import TrainConfig, read_config, stored_config

    commands: dict[str, type[msgspec.Struct]] = {
        "train": TrainConfig,
        "study": StudyOptions,
        "compare": CompareOptions,
        "dissect": DissectOptions,
        "trace": TraceOptions,
        "report": ReportOptions,
    }
    default: Any = tyro.MISSING
    settings: dict[str, Any] = {}
    if arguments[0] == "train" and len(arguments) > 1 and arguments[1].endswith(".toml"):
        path, *rest = arguments[1:]
        given = {option.partition("=")[0].strip("-").replace("-", "_") for option in rest if option.startswith("--")}
        required = {name: tyro.MISSING for name in ("data", "out")}
        settings = read_config(path, skip=given)
        default = TrainConfig(**required | settings)
        arguments = ["train", *rest]
    elif arguments[0] == "train" and "--resume" in arguments and not any(a.startswith("--data") for a in arguments):
        settings = stored_config(_value(arguments, "--out"))
        default = msgspec.convert(settings, TrainConfig)
    check_arguments(arguments[0], arguments[1:], commands, given=list(settings))
    command = (
        Annotated[TrainConfig, tyro.conf.subcommand("train", description=TRAIN, prefix_name=False, default=default)]
        | Annotated[StudyOptions, tyro.conf.subcommand("study", description=STUDY, prefix_name=False)]
        | Annotated[CompareOptions, tyro.conf.subcommand("compare", description=COMPARE, prefix_name=False)]
        | Annotated[DissectOptions, tyro.conf.subcommand("dissect", description=DISSECT, prefix_name=False)]
        | Annotated[TraceOptions, tyro.conf.subcommand("trace", description=TRACE, prefix_name=False)]
        | Annotated[ReportOptions, tyro.conf.subcommand("report", description=REPORT, prefix_name=False)]
    )
    return tyro.cli(command, prog="fusionscope", args=arguments)


def _value(arguments: Sequence[str], name: str) -> str:
    """What an option is given, as ``--out X`` or ``--out=X``; empty where it is not."""
    for option, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if option == name or option.startswith(f"{name}="):
            return following if option == name else option.partition("=")[2]
    return ""


def _fail(message: str) -> None:
    print(f"fusionscope: error: {message}", file=sys.stderr)
    sys.exit(2)

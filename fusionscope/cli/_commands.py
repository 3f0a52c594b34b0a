"""What each command does once its options are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from fusionscope._files import writable_parent
from fusionscope._function import call_function
from fusionscope.cli._options import CompareOptions, DissectOptions, ReportOptions, TraceOptions
from fusionscope.cli._trace import trace_model
from fusionscope.data import DataSplits, load_data
from fusionscope.dissection import Dissection, check_folder, dissect, launched, load, place
from fusionscope.engine import Run, TrainConfig, dissection_of, load_run, load_weights, with_training
from fusionscope.errors import InputError


def run(options: TrainConfig | DissectOptions | TraceOptions | ReportOptions | CompareOptions) -> None:
    """Run the command that the options belong to."""
    if isinstance(options, TrainConfig):
        from fusionscope.engine import train  # Fabric takes seconds to import, which no other command needs

        folder = train(options)
        if not place()[0]:
            print(f"run folder: {folder}")
            if options.dynamics:
                print(f"how the modalities learned: fusionscope report {folder}")
    elif isinstance(options, DissectOptions):
        with launched(options.device) as device:
            _dissect(msgspec.structs.replace(options, device=device))
    elif isinstance(options, TraceOptions):
        trace_model(options)
    elif isinstance(options, CompareOptions):
        from fusionscope.cli._compare import compare_variants

        compare_variants(options)
    else:
        found, beside = _told(Path(options.folder))
        print(f"report: {found.report(_report_path(options.out, beside)).resolve()}")


def _told(folder: Path) -> tuple[Dissection, Path]:
    """Return what a folder tells, a dissection's or a run's, and the folder that the report goes beside."""
    if (folder / "config.json").is_file() and not (folder / "manifest.json").exists():
        return dissection_of(load_run(folder, data=False)), folder / "dissection"
    return load(folder), folder


def _dissect(options: DissectOptions) -> None:
    if bool(options.run) == bool(options.model):
        raise InputError("give a run folder or --model package.module:function, one of the two")
    if not options.out and not options.run:
        raise InputError("with --model, say where the tables go: --out FOLDER")
    out = Path(options.out) if options.out else Path(options.run) / "dissection"
    report = _report_path(options.report, out)
    trained, prior, data = None, None, None
    if options.run:
        if options.weights:
            raise InputError("--weights goes with --model; a run folder has its own")
        trained = load_run(options.run, data=not options.data)
        _refuse_images(trained.description["data"]["task"], options.run)
        model, data, prior = trained.model, trained.data, _prior(trained)
    else:
        model = call_function(options.model, "--model", nn.Module)
        if options.weights:
            load_weights(model, options.weights)
        if not options.data:
            raise InputError("with --model, say what to read: --data SPEC or --data package.module:function")
    loader, about = _loader(options, data, options.seed if trained is None else trained.config.data_seed)
    if isinstance(loader, DataSplits):
        _refuse_images(loader.task, loader.spec)
    if not place()[0]:
        for path in (out, report):
            writable_parent(path)
        check_folder(out)
    splits = loader if isinstance(loader, DataSplits) else None
    found = dissect(
        model,
        splits.loader(options.split, options.batch_size, shuffle=True, seed=options.seed) if splits else loader,
        measures=options.measures,
        classes=(splits.classes or None) if splits else None,
        fill=options.fill,
        empty=None if options.empty == "auto" else options.empty,
        prior=prior,
        metric=None if options.metric == "auto" else options.metric,
        permutations=options.permutations,
        alpha=options.alpha,
        seed=options.seed,
        references={m: run.model for m, run in trained.solo.items()} if trained and options.references else None,
        copies={m: [run.model for run in runs] for m, runs in trained.copies.items()}
        if trained and options.references
        else None,
        checkpoints=trained.checkpoints if trained and options.references else None,
        estimator=options.estimator,
        decomposition=options.decomposition,
        kinds=_kinds(options.kinds),
        baseline=_baseline(options.baseline),
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        truth=splits.truth if splits else None,
        data=about,
    )
    if place()[0]:
        return
    if trained is not None:
        found = with_training(found, trained)
    found.save(out)
    found.report(report)
    print(found)
    print(f"tables: {out.resolve()}\nreport: {report.resolve()}")


def _refuse_images(task: str, where: str) -> None:
    if task == "translation":
        raise InputError(
            f"the target of {where} is an image, and dissect measures classes, pixel classes and numbers only; "
            "`fusionscope trace` shows where such a model's modalities meet"
        )


def _kinds(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"--kinds takes modality=kind, as depth=depth audio=audio, not {pair!r}")
    return dict((pair.partition("=")[0], pair.partition("=")[2]) for pair in pairs)


def _baseline(folder: str) -> Dissection | None:
    if not folder:
        return None
    inner = Path(folder) / "dissection"
    return load(inner if (inner / "manifest.json").is_file() else folder)


def _prior(trained: Run) -> Any:
    """What is known without looking at a sample: class counts, shares of positives per label, or the mean."""
    training, data = trained.description["training"], trained.description["data"]
    if data["task"] == "multilabel":
        samples = sum(data["sizes"][split] for split in training["splits"])
        return [count / samples for count in training["class_counts"]]
    if training["class_counts"] is not None:
        return training["class_counts"]
    mean = training["target_mean"]
    return mean[0] if len(mean) == 1 else mean


def _report_path(given: str, folder: Path) -> Path:
    """Where the report goes: beside the tables, under their name (``report.html`` for a run's own ``dissection``)."""
    if not given:
        return folder.parent / ("report.html" if folder.name == "dissection" else f"{folder.name}.html")
    path = Path(given)
    if path.exists() and path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path} exists and is no HTML file; choose a report path that ends in .html")
    return path


def _loader(options: DissectOptions, data: DataSplits | None, seed: int) -> tuple[Any, dict[str, str]]:
    spec = options.data
    scheme, _, rest = spec.partition(":")
    if data is None and rest.isidentifier() and scheme not in ("npz", "images"):
        loader = call_function(spec, "--data", Iterable)
        return loader, {"spec": spec, "split": ""}
    splits = data if data is not None else load_data(spec, seed=seed)
    return splits, {"spec": splits.spec, "split": options.split}

"""``kill -9`` of a whole study at random moments: no finished run is lost, no file is corrupt, all weights are equal.

    python benchmarks/study_kill.py [--kills 20] [--seed 0] [--folder FOLDER]

A study of 2 variants x 4 seeds on a small planted task, 2 workers, is run once without interruption and once with its
process group killed at random moments, mostly while runs are trained or scored; each time it is started again.
After each kill every file is read: runs that were finished must be so still, byte for byte, and every JSON, CSV and
weights file that bears its final name must be whole. At the end all weights are compared with the other study's.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from fusionscope.engine import load_run, load_study

STUDY = """
out = {out!r}
seeds = 4
workers = 2
threads = 1
conditions = {conditions}
severities = [1, 3]
[train]
model = "classifier"
width = 8
epochs = {epochs}
patience = 0
batch_size = 16
snapshot = 0.5
accelerator = "cpu"
modality_dropout = 0.2
[data.planted]
data = {data!r}
[variants.concat]
fuse = "concat"
[variants.gated]
fuse = "gated"
"""


def plant(path: Path) -> str:
    """Write a task of four classes, a bit of each in a vector and in a sequence; return its specification."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (600, 2))
    sign = 2.0 * bits - 1
    vector = rng.normal(size=(600, 5)) + sign[:, :1]
    sequence = rng.normal(size=(600, 17, 3)) + np.linspace(-1, 1, 17)[:, None] * sign[:, 1, None, None]
    split = np.repeat([0, 1, 2], [400, 100, 100])
    arrays = {"vector": vector.astype("f4"), "sequence": sequence.astype("f4"), "label": bits @ [2, 1]}
    np.savez(path, split=split, **arrays)
    return f"npz:{path}?inputs=vector:NC,sequence:NTC&target=label"


def start(file: Path) -> subprocess.Popen:
    """Start the study in a process group of its own."""
    command = [sys.executable, "-m", "fusionscope", "study", str(file), "--quiet"]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def hashes(folder: Path) -> dict[str, str]:
    """Hash every file of a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def corrupt(folder: Path) -> list[str]:
    """Files that bear a final name and cannot be read."""
    found = []
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") for part in parts) or parts[0] in ("claims", "logs"):
            continue  # what begins with a dot was being written and is never read; claims may be empty
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".csv":
                rows = list(csv.reader(path.read_text().splitlines()))
                if not rows or any(len(row) != len(rows[0]) for row in rows):
                    raise ValueError("rows differ in length")
        except FileNotFoundError:
            continue  # of a training that went on
        except Exception as error:
            found.append(f"{path}: {error}")
    return found


def main() -> None:
    """Run both studies and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--no-conditions", action="store_true")
    parser.add_argument("--folder", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(options.folder or temporary)
        place.mkdir(parents=True, exist_ok=True)
        spec = plant(place / "planted.npz")
        files = {}
        for name in ("whole", "killed"):
            conditions = "false" if options.no_conditions else "true"
            text = STUDY.format(out=str(place / name), data=spec, epochs=options.epochs, conditions=conditions)
            files[name] = place / f"{name}.toml"
            files[name].write_text(text)
        began = time.perf_counter()
        _finish(start(files["whole"]))
        work = sum(run_seconds(run.folder) for run in load_study(place / "whole").runs) / 2
        print(f"uninterrupted: {time.perf_counter() - began:.0f} s, {work:.0f} s of training", flush=True)
        lost, bad, finished = kill_all(files["killed"], place / "killed", options, work)
        compare(place, options.kills, lost, bad, finished)


def run_seconds(folder: Path) -> float:
    """How long a training took."""
    return json.loads((folder / "metrics.json").read_text())["seconds"]


def kill_all(file: Path, folder: Path, options: argparse.Namespace, work: float) -> tuple[int, int, dict[Path, dict]]:
    """Start and kill as often as said, then let it end; counts of lost runs and corrupt files, and finished runs."""
    rng = random.Random(options.seed)
    finished: dict[Path, dict[str, str]] = {}
    lost = bad = 0
    for number in range(options.kills):
        process = start(file)
        # starting takes longer than such a small study: mostly the moment is drawn from the work
        if rng.random() < 0.8:
            _wait_for_work(folder, process)
        time.sleep(rng.uniform(0, 2.2 * work / options.kills))
        over = process.poll() is not None
        if not over:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        problems = corrupt(folder) if folder.exists() else []
        for run, before in finished.items():
            try:
                same = hashes(run) == before
                load_run(run, data=False)
            except Exception as error:
                same = False
                print(error)
            lost += not same
        bad += len(problems)
        done = {run.folder for run in _runs(folder) if run.state == "done"}
        lost += len(set(finished) - done)
        finished |= {run: hashes(run) for run in done if run not in finished}
        what = "was over" if over else "killed"
        print(f"start {number + 1}: {what}, {len(done)} runs finished", *problems, sep="\n  ", flush=True)
    _finish(start(file))
    lost += sum(hashes(run) != before for run, before in finished.items())
    return lost, bad, finished


def compare(place: Path, kills: int, lost: int, bad: int, finished: dict[Path, dict]) -> None:
    """Compare all weights and print what came out."""
    runs = {name: load_study(place / name).runs for name in ("whole", "killed")}
    equal = 0
    for one, other in zip(runs["whole"], runs["killed"], strict=True):
        a, b = (load_file(run.folder / "weights.safetensors") for run in (one, other))
        equal += all(a[key].equal(b[key]) for key in a) and a.keys() == b.keys()
    bad += len(corrupt(place / "killed"))
    print(
        f"{kills} kills: {lost} finished runs lost, {bad} files corrupt, {equal} of {len(runs['whole'])} weights equal "
        f"({len(finished)} runs were finished before the last start)"
    )
    if lost or bad or equal < len(runs["whole"]):
        sys.exit("FAIL")


def _runs(folder: Path) -> list:
    return load_study(folder).runs if (folder / "study.json").exists() else []


def _wait_for_work(folder: Path, process: subprocess.Popen) -> None:
    """Wait until a worker has claimed a run."""
    while process.poll() is None and not any(run.state == "running" for run in _runs(folder)):
        time.sleep(0.02)


def _finish(process: subprocess.Popen) -> None:
    _, told = process.communicate(timeout=600)
    if process.returncode:
        sys.exit(f"the study ended with {process.returncode}:\n{told.decode()}")


if __name__ == "__main__":
    main()

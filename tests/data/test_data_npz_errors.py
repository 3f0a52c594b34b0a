"""Every way an npz file or its options can be wrong is told apart, with the way to mend it."""

import pickle
import re
import zipfile

import numpy as np
import pytest

from fusionscope.data import load_data
from fusionscope.errors import FileError, InputError

N = 13
GOOD = {
    "x": np.ones((N, 7), "f4"),
    "clip": np.ones((N, 5, 7, 3), "f4"),
    "label": np.arange(N) % 3,
    "split": np.arange(N) % 3,
    "maps": np.arange(N * 35).reshape(N, 5, 7) % 3,
    "y": np.linspace(0, 1, N),
}


def load(tmp_path, query="inputs=x:NC", **arrays):
    np.savez(tmp_path / "a.npz", **{**GOOD, **arrays})
    return load_data(f"npz:{tmp_path / 'a.npz'}?{query}")


def with_value(value, at=(4, 2), shape=(N, 7), dtype="f4"):
    x = np.zeros(shape, dtype)
    x[at] = value
    return x


def test_the_good_file_loads(tmp_path):
    assert load(tmp_path).size("train") == 5


@pytest.mark.parametrize(
    ("query", "arrays", "message"),
    [
        ("target=label", {}, "'npz' needs inputs=, the arrays to use and their axes, as in inputs=inertial:NTC"),
        ("inputs=x", {}, "cannot read 'x' in inputs=x: expected NAME:AXES"),
        ("inputs=x:NC,", {}, "cannot read '' in inputs=x:NC,"),
        ("inputs=x:NC,x:NC", {}, "input 'x' is named twice"),
        ("inputs=label:N", {}, "array 'label' is an input and also target, group or split"),
        ("inputs=x:NC&groups=split", {}, "no option 'groups'. Did you mean 'group'?"),
        ("inputs=clop:NTHW", {}, "holds no array 'clop'. Did you mean 'clip'? It holds x, clip"),
        ("inputs=x:NC&target=lable", {}, "holds no array 'lable'. Did you mean 'label'?"),
        ("inputs=x:NC&split=spilt", {}, "holds no array 'spilt'. Did you mean 'split'?"),
        ("inputs=x:NC", {"label": np.arange(N - 2)}, "differ in their number of samples: x 13, label 11, split 13"),
        ("inputs=x:NC", {"label": np.array(3)}, "array 'label' is a single number"),
        ("inputs=x:NC", {"x": np.ones((N, 0))}, "array 'x' is empty, shape (13, 0)"),
        ("inputs=x:NC", {"x": np.full((N, 7), "a")}, "array 'x' has dtype <U1; expected real numbers"),
        ("inputs=x:NC", {"x": np.ones((N, 7), "c8")}, "array 'x' has dtype complex64; expected real numbers"),
        ("inputs=x:NC", {"x": with_value(np.nan)}, "array 'x' holds 1 NaN and 0 infinite values, first in sample 4"),
        (
            "inputs=x:NC",
            {"x": with_value([np.inf, np.nan, -np.inf], (2, slice(3)), dtype="f2")},
            "array 'x' holds 1 NaN and 2 infinite values, first in sample 2. Leave those samples out, or fill",
        ),
        ("inputs=x:NC&target=y", {"y": with_value(np.nan, 5, N)}, "array 'y' holds 1 NaN and 0 infinite values"),
        ("inputs=x:NTC", {}, "input x:NTC: 3 axes are named, but the array has shape (13, 7), 2 axes"),
        ("inputs=clip:NHHC", {}, "input clip:NHHC: axis H (height) is named twice"),
        ("inputs=x:NX", {}, "input x:NX: unknown axis letter 'X'. Letters: N sample, T time, C channel"),
        ("inputs=x:nc", {}, "input x:nc: unknown axis letter 'n'. Did you mean 'NC'?"),
        ("inputs=x:TC", {}, "input x:TC: N (sample) is missing"),
        ("inputs=x:CN", {}, "input x:CN: N (sample) is not the first axis"),
        ("inputs=clip:NTHC", {}, "input clip:NTHC: H is named without W"),
        ("inputs=x:NW", {}, "input x:NW: W is named without H. Name both, or T for a one-dimensional signal"),
        ("inputs=x:NC", {"split": np.arange(N) % 4}, "split 'split' holds 3. Expected 0 (train), 1 (val), 2 (test)"),
        ("inputs=x:NC", {"split": np.full(N, "dev")}, "split 'split' holds dev"),
        ("inputs=x:NC", {"split": np.arange(N) % 2}, "split 'split' puts no sample into test. Give each"),
        ("inputs=x:NC", {"split": np.zeros(N, "i4")}, "puts no sample into val and test"),
        ("inputs=x:NC", {"split": np.zeros(N)}, "split 'split' is float64 with shape (13,)"),
        (
            "inputs=x:NC&split=random&group=g",
            {"g": np.arange(N) % 2},
            "2 groups cannot be split into train, val and test",
        ),
        ("inputs=x:NC&group=y", {}, "group 'y' is float64 with shape (13,); expected integers or strings"),
        ("inputs=x:NC&classes=a,b", {}, "2 class names are given (a, b), but target 'label' holds 3 labels (0, 1, 2)"),
        ("inputs=x:NC&classes=a,b,b", {}, "class names 'a', 'b', 'b' are not all different"),
        ("inputs=x:NC&classes=a,b,", {}, "class names 'a', 'b', '' are not all different and filled in"),
        ("inputs=x:NC", {"label": np.zeros(N, "i4")}, "target 'label' holds 1 class (0); expected two or more"),
        ("inputs=x:NC", {"label": np.zeros((N, 1), "i4")}, "shape (13, 1). Expected one class per sample [N], integer"),
        ("inputs=x:NC", {"label": np.zeros((N, 1), "i4")}, "Save label[:, 0]."),
        ("inputs=x:NC", {"label": np.zeros((N, 5, 7))}, "target 'label' is float64 with shape (13, 5, 7)"),
        (
            "inputs=x:NC",
            {"label": np.arange(2 * N).reshape(N, 2) % 3},
            "shape (13, 2) and holds 0, 1, 2. Several labels per sample [N, K] are 0 or 1 each; save one class per",
        ),
        ("inputs=x:NC", {"label": np.full((N, 2), -1)}, "holds -1. Several labels per sample [N, K] are 0 or 1"),
        ("inputs=x:NC", {"label": np.full((N, 2), "a")}, "shape (13, 2). Expected one class per sample [N], integer"),
        (
            "inputs=x:NC&classes=a,b,c",
            {"label": np.eye(N, 2, dtype=int)},
            "3 class names are given (a, b, c), but target 'label' holds 2 labels per sample. Give one name per label",
        ),
        ("inputs=x:NC&classes=a,a", {"label": np.eye(N, 2, dtype=int)}, "class names 'a', 'a' are not all different"),
        ("inputs=x:NC&ignore=1", {"label": np.eye(N, 2, dtype=int)}, "option 'ignore' is for class maps [N, H, W]"),
        ("inputs=x:NC&ignore=2", {}, "option 'ignore' is for class maps"),
        ("inputs=x:NC&target=y&ignore=2", {}, "option 'ignore' is for class labels, but target 'y' is float64"),
        ("inputs=x:NC&target=y&classes=a,b", {}, "option 'classes' is for class labels, but target 'y' is float64"),
        ("inputs=x:NC&target=maps&ignore=z", {}, "option ignore=z of data source 'npz': Expected `int"),
    ],
)
def test_input_errors(tmp_path, query, arrays, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load(tmp_path, query, **arrays)


def test_missing_file(tmp_path):
    load(tmp_path)
    with pytest.raises(FileError, match=r"b\.npz does not exist; expected an \.npz file\. Did you mean 'a\.npz'\?"):
        load_data(f"npz:{tmp_path / 'b.npz'}?inputs=x:NC")
    with pytest.raises(FileError, match="does not exist"):
        load_data(f"npz:{tmp_path / 'no' / 'b.npz'}?inputs=x:NC")
    with pytest.raises(FileError, match="is a folder"):
        load_data(f"npz:{tmp_path}?inputs=x:NC")


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("a,b\n")
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"x": 1}))
    for name in ("text.npz", "one.npy", "pickle.npz"):
        with pytest.raises(FileError, match=r"is not an \.npz file\. Write one with numpy\.savez_compressed"):
            load_data(f"npz:{tmp_path / name}?inputs=x:NC")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        for name in ("x", "label"):
            archive.writestr(name, "no array")
    with pytest.raises(FileError, match=r"'x' in zip\.npz is not an array"):
        load_data(f"npz:{tmp_path / 'zip.npz'}?inputs=x:NC")


def test_damaged_files(tmp_path):
    load(tmp_path)
    whole = (tmp_path / "a.npz").read_bytes()
    at = whole.index(GOOD["x"].tobytes())
    (tmp_path / "flipped.npz").write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
    with pytest.raises(FileError, match=r"array 'x' in flipped\.npz cannot be read \(Bad CRC-32"):
        load_data(f"npz:{tmp_path / 'flipped.npz'}?inputs=x:NC")
    (tmp_path / "cut.npz").write_bytes(whole[:-100])
    with pytest.raises(FileError, match=r"cut\.npz (is not an \.npz file|cannot be read)"):
        load_data(f"npz:{tmp_path / 'cut.npz'}?inputs=x:NC")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was loaded",))


def test_pickles_are_refused_unopened(tmp_path):
    bombs = np.array([Bomb()] * N, dtype=object)
    with pytest.raises(FileError, match="array 'x' in a.npz holds Python objects, which would have to be unpickled"):
        load(tmp_path, x=bombs)
    assert load(tmp_path, unused=bombs).size("train") == 5

"""Folders of images, matched by name."""

import re
import sys

import numpy as np
import pytest
import torch

from fusionscope.data import load_data
from fusionscope.errors import FileError, InputError

Image = pytest.importorskip("PIL.Image")
IDS = [f"n{i:02}" for i in range(11)]


def picture(seed, shape=(5, 7, 3), dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.fixture
def folder(tmp_path):
    """Eleven pairs: vi in colour, ir grey, with a table of splits and days."""
    for name, shape in (("vi", (5, 7, 3)), ("ir", (5, 7))):
        (tmp_path / name).mkdir()
        for seed, i in enumerate(IDS):
            Image.fromarray(picture(seed, shape)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "vi" / "notes.txt").write_text("not an image")
    rows = [f"{i},{'train' if k < 5 else 'val' if k < 8 else 'test'},{k % 2},{k / 7}" for k, i in enumerate(IDS)]
    (tmp_path / "index.csv").write_text("\n".join(["id,split,night,warmth", *rows]) + "\n")
    return tmp_path


def load(folder, query="inputs=vi&target=ir", seed=0):
    return load_data(f"images:{folder}?{query}", seed=seed)


def test_translation_pairs(folder):
    data = load(folder)
    assert (data.task, data.classes, data.modalities) == ("translation", (), ("vi",))
    assert (data.axes, data.shapes) == ({"vi": "NCHW"}, {"vi": (3, 5, 7)})
    assert [data.size(name) for name in ("train", "val", "test")] == [5, 3, 3]
    batch = next(iter(data.loader("val", 3)))
    assert batch["inputs"]["vi"].shape == (3, 3, 5, 7)
    assert batch["target"].shape == (3, 1, 5, 7)
    assert batch["target"].dtype == batch["inputs"]["vi"].dtype == torch.float32
    expected = torch.from_numpy(picture(6)).permute(2, 0, 1) / 255
    torch.testing.assert_close(batch["inputs"]["vi"][1], expected)
    torch.testing.assert_close(batch["target"][1, 0], torch.from_numpy(picture(6, (5, 7))) / 255)
    assert "train 5, val 3, test 3" in repr(data)
    assert "task: translation\n  vi  NCHW   3x5x7" in repr(data)


def test_a_column_as_target_and_groups(folder):
    data = load(folder, "inputs=vi,ir&target=night&classes=day,night&group=night&size=3x2")
    assert (data.task, data.classes) == ("classification", ("day", "night"))
    data = load(folder, "inputs=ir,vi&target=warmth&split=index.csv")
    assert (data.task, data.modalities) == ("regression", ("ir", "vi"))
    assert data.splits["test"][0]["target"].item() == pytest.approx(8 / 7)


def test_columns_as_labels(folder):
    text = (folder / "index.csv").read_text().splitlines()
    rain = ["rain", *(str(int(k % 3 == 0)) for k in range(11))]
    (folder / "index.csv").write_text("\n".join(f"{a},{b}" for a, b in zip(text, rain, strict=True)))
    data = load(folder, "inputs=vi&target=night,rain")
    assert (data.task, data.classes) == ("multilabel", ("night", "rain"))
    assert [item["target"].tolist() for item in data.splits["test"]] == [[0, 0], [1, 1], [0, 0]]
    assert load(folder, "inputs=vi&target=night,rain&classes=dark,wet").classes == ("dark", "wet")


def test_random_splits_without_a_table(folder):
    (folder / "index.csv").unlink()
    one, same, other = load(folder), load(folder), load(folder, seed=1)
    assert [one.size(name) for name in ("train", "val", "test")] == [7, 2, 2]
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_the_fingerprint_tells_what_was_read(folder):
    before = load(folder).fingerprint
    assert before == load(folder, "inputs=vi&target=ir&split=index.csv").fingerprint
    assert before != load(folder, "inputs=ir&target=vi").fingerprint
    assert before != load(folder, "inputs=vi&target=ir&size=2x3").fingerprint
    Image.fromarray(picture(99, (5, 7))).save(folder / "ir" / "n03.png")
    assert before != load(folder).fingerprint


def test_sizes_and_number_types(folder):
    deep = picture(3, (11, 13), np.uint16)
    Image.fromarray(deep).save(folder / "ir" / "n00.png")
    Image.fromarray(picture(0, (5, 7, 4))).save(folder / "vi" / "n00.png")
    item = load(folder, "inputs=vi&target=ir&size=11x13").splits["train"][0]
    assert item["inputs"]["vi"].shape == (3, 11, 13)
    np.testing.assert_allclose(item["target"][0], deep / 65535, atol=1e-6)
    half = load(folder, "inputs=ir&target=vi&size=1x1").splits["train"][1]["target"]
    np.testing.assert_allclose(half[:, 0, 0], picture(1).mean((0, 1)) / 255, atol=0.12)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("target=ir", "'images' needs inputs=, the folders to use, as in 'images:FOLDER?inputs=vi&target=ir'"),
        ("inputs=vi", "'images' needs target="),
        ("inputs=vi,vi&target=ir", "cannot read inputs=vi,vi"),
        ("inputs=vi,ir&target=ir", "folder 'ir' is an input and also the target"),
        ("inputs=vis&target=ir", "holds no folder 'vis'. Did you mean 'vi'? Its folders are ir, vi"),
        ("inputs=vi&target=nihgt", "target 'nihgt' is neither a folder"),
        ("inputs=vi&target=night,nihgt", "target 'nihgt' is neither a folder"),
        ("inputs=vi&target=night,warmth", "names several columns, labels of 0 and 1, but column 'warmth' holds other"),
        ("inputs=vi&target=nihgt", "Did you mean 'night'? There are ir, vi, id, split, night, warmth"),
        ("inputs=vi&target=ir&classes=a,b", "option 'classes' is for class labels"),
        ("inputs=vi&target=ir&size=5", "cannot read size=5: expected HEIGHTxWIDTH"),
        ("inputs=vi&target=ir&size=0x5", "cannot read size=0x5"),
        ("inputs=vi&target=ir&split=idnex.csv", "cannot be read ("),
        ("inputs=vi&target=ir&split=idnex.csv", "Did you mean 'index.csv'?"),
        ("inputs=vi&target=ir&group=nihgt", "has no column 'nihgt'. Did you mean 'night'? Its columns are id, split"),
    ],
)
def test_bad_options(folder, query, message):
    with pytest.raises((InputError, FileError), match=re.escape(message)):
        load(folder, query)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,split\na,train\n", "has no column 'id'"),
        ("id,part\nn01,train\n", "has no column 'split'. Its columns are id, part"),
        ("id,split\nn01\n", "line 2 has other columns than line 1"),
        ("id,split\n", "no rows"),
        ("", "no rows"),
        ("id,split\nn01,train\nn01,val\n", "holds the id 'n01' more than once"),
        ("id,split\nn01,train\nn77,val\n", "1 of 2 samples have no image in"),
        ("id,split\nn01,train\nn02,dev\n", "split 'split' holds dev"),
        ("id,split\nn01,train\nn02,val\n", "puts no sample into test"),
    ],
)
def test_bad_tables(folder, table, message):
    (folder / "index.csv").write_text(table)
    with pytest.raises((InputError, FileError), match=re.escape(message)):
        load(folder, "inputs=vi&target=ir&split=index.csv")


def test_bad_images(folder):
    with pytest.raises(FileError, match="is not a folder"):
        load(folder / "nothing")
    with pytest.raises(InputError, match="names no folder"):
        load_data("images?inputs=vi&target=ir")
    Image.fromarray(picture(0, (5, 11, 3))).save(folder / "vi" / "n04.png")
    with pytest.raises(InputError, match="n00.png is 5x7, n04.png is 5x11 .*as in size=5x7"):
        load(folder)
    Image.fromarray(picture(0, (5, 7))).save(folder / "vi" / "n04.png")
    with pytest.raises(InputError, match=r"differ in their channels: n00.png has 3, n04.png has 1"):
        load(folder)
    (folder / "vi" / "n04.png").write_bytes((folder / "vi" / "n03.png").read_bytes()[:60])
    data = load(folder)
    with pytest.raises(FileError, match=r"n04.png cannot be read .*Replace the file"):
        data.splits["train"][4]
    (folder / "vi" / "n04.png").write_text("no picture")
    with pytest.raises(FileError, match=r"n04.png cannot be read"):
        load(folder)
    (folder / "vi" / "n04.png").unlink()
    with pytest.raises(InputError, match=r"1 of 11 samples have no image in .*vi, the first is 'n04'"):
        load(folder)
    (folder / "vi" / "n03.jpg").write_text("")
    with pytest.raises(InputError, match=r"holds n03.jpg and n03.png"):
        load(folder)
    (folder / "empty").mkdir()
    with pytest.raises(FileError, match="holds no image; expected files that end in .png"):
        load(folder, "inputs=empty&target=ir")


def test_without_pillow(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=re.escape("pip install 'fusionscope[media]'")):
        load(folder)


def test_road_scenes(shared_data):
    data = load_data(f"images:{shared_data('msrs_rgbt_pairs')}?inputs=vi&target=ir&split=index.csv&size=60x80")
    assert [data.size(name) for name in ("train", "val", "test")] == [222, 44, 95]
    assert data.shapes == {"vi": (3, 60, 80)}
    assert data.splits["test"][3]["target"].shape == (1, 60, 80)

"""npz files: layouts, scaling, targets, groups, splits, on small generated files."""

import numpy as np
import pytest
import torch

from fusionscope.data import load_data
from fusionscope.data._layout import find_layout

N = 29
SPLIT = np.arange(N) % 5 // 2  # 12 train, 12 val, 5 test, interleaved


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return f"npz:{tmp_path / 'a.npz'}"

    return write


def numbers(*shape, dtype="f4", seed=0):
    return np.random.default_rng(seed).normal(5, 3, shape).astype(dtype)


def labels():
    return np.arange(N) % 3


def batch_of(data, split="train"):
    return next(iter(data.loader(split, N)))


@pytest.mark.parametrize(
    ("axes", "shape", "delivered", "sample"),
    [
        ("N", (), "NC", (1,)),
        ("NC", (7,), "NC", (7,)),
        ("NF", (7,), "NC", (7,)),
        ("NVC", (7, 3), "NC", (21,)),
        ("NT", (7,), "NTC", (7, 1)),
        ("NTC", (7, 3), "NTC", (7, 3)),
        ("NCT", (3, 7), "NTC", (7, 3)),
        ("NTVC", (7, 5, 3), "NTC", (7, 15)),
        ("NFT", (5, 7), "NTC", (7, 5)),
        ("NHW", (7, 11), "NCHW", (1, 7, 11)),
        ("NHWC", (7, 11, 3), "NCHW", (3, 7, 11)),
        ("NWHC", (11, 7, 3), "NCHW", (3, 7, 11)),
        ("NFW", (7, 11), "NCHW", (1, 7, 11)),
        ("NHF", (7, 11), "NCHW", (1, 7, 11)),
        ("NHWF", (7, 11, 5), "NCHW", (5, 7, 11)),
        ("NTHW", (5, 7, 11), "NCHW", (5, 7, 11)),
        ("NTHWC", (5, 7, 11, 3), "NTCHW", (5, 3, 7, 11)),
        ("NTVHW", (5, 3, 7, 11), "NTCHW", (5, 3, 7, 11)),
    ],
)
def test_layouts(axes, shape, delivered, sample):
    array = numbers(2, *shape)
    layout = find_layout("x", axes, array.shape)
    assert (layout.axes, layout.shape) == (delivered, sample)
    assert layout(array).shape == (2, *sample)
    assert layout.channels == sample[delivered.index("C") - 1]


def test_layouts_move_the_values_where_they_belong():
    a = numbers(2, 5, 7, 11, 3)
    moved = find_layout("x", "NTHWC", a.shape)(a)
    assert moved[1, 4, 2, 6, 10] == a[1, 4, 6, 10, 2]
    skeleton = numbers(2, 7, 5, 3)
    assert find_layout("x", "NTVC", skeleton.shape)(skeleton)[1, 6, 4 * 3 + 2] == skeleton[1, 6, 4, 2]
    swapped = numbers(2, 7, 3, 5)
    assert find_layout("x", "NTCV", swapped.shape)(swapped)[1, 6, 2 * 5 + 4] == swapped[1, 6, 2, 4]
    spectrum = numbers(2, 5, 7)
    assert find_layout("x", "NFT", spectrum.shape)(spectrum)[1, 6, 4] == spectrum[1, 4, 6]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "i8", "u2"])
def test_numbers_are_standardised_per_channel_by_the_training_samples(save, dtype):
    x = (numbers(N, 7, 3, dtype="f8") * [1, 10, 100] + 40).astype(dtype)
    x[SPLIT != 0] += 7
    data = load_data(save(x=x, label=labels(), split=SPLIT) + "?inputs=x:NTC")
    train = batch_of(data)["inputs"]["x"]
    assert train.dtype == torch.float32
    assert train.shape == (12, 7, 3)
    flat = train.double().flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(0, correction=0), torch.ones(3).double(), atol=1e-5, rtol=0)
    rows = x[SPLIT == 0].astype("f8").reshape(-1, 3)
    expected = (x[SPLIT == 2].astype("f8") - rows.mean(0)) / rows.std(0)
    np.testing.assert_allclose(batch_of(data, "test")["inputs"]["x"], expected, rtol=1e-3, atol=1e-3)


def test_large_offsets_survive_and_constant_channels_are_centred(save):
    x = np.stack((1e9 + np.arange(N), np.full(N, 0.1), np.full(N, 3.0)), 1)
    x[SPLIT == 2, 2] = 5
    data = load_data(save(x=x, label=labels(), split=SPLIT) + "?inputs=x:NC")
    train, test = batch_of(data)["inputs"]["x"], batch_of(data, "test")["inputs"]["x"]
    assert len(train[:, 0].unique()) == 12
    assert (train[:, 1:] == 0).all()
    assert (test[:, 2] == 2).all()


def test_bytes_go_to_0_1_booleans_stay_and_memory_stays_compact(save):
    grey = np.arange(N * 35, dtype="u1").reshape(N, 5, 7)
    mask = grey > 100
    data = load_data(save(grey=grey, mask=mask, label=labels(), split=SPLIT) + "?inputs=grey:NHW,mask:NHW")
    batch = batch_of(data)
    assert torch.equal(batch["inputs"]["grey"][:, 0], torch.from_numpy(grey[SPLIT == 0] / 255).float())
    assert torch.equal(batch["inputs"]["mask"][:, 0], torch.from_numpy(mask[SPLIT == 0]).float())
    assert data.splits["train"].views["grey"].array.dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.array([10, -3, 7]), ("-3", "7", "10")),
        (np.array(["walk", "run", "sit"]), ("run", "sit", "walk")),
        (np.array([b"walk", b"run", b"sit"]), ("run", "sit", "walk")),
        (np.array([2, 0, 1], "u1"), ("0", "1", "2")),
    ],
)
def test_labels_are_numbered_in_sorted_order_and_keep_their_names(save, values, names):
    label = values[np.arange(N) % 3]
    data = load_data(save(x=numbers(N, 7), label=label, split=SPLIT) + "?inputs=x:NC")
    assert (data.task, data.classes) == ("classification", names)
    target = batch_of(data)["target"]
    assert target.dtype == torch.int64
    shown = [data.classes[k] for k in target]
    assert shown == [v.decode() if isinstance(v, bytes) else str(v) for v in label[SPLIT == 0]]


def test_given_class_names(save):
    spec = save(x=numbers(N, 7), label=labels() * 10, few=labels() % 2, split=SPLIT) + "?inputs=x:NC&classes=a,b,c"
    data = load_data(spec)
    assert data.classes == ("a", "b", "c")
    assert batch_of(data)["target"].tolist() == labels()[SPLIT == 0].tolist()
    few = load_data(spec + "&target=few")
    assert few.classes == ("a", "b", "c"), "a class that no sample has keeps its place"


def test_dense_targets_ignore_negatives_and_the_ignored_value(save):
    label = np.random.default_rng(0).choice([0, 3, 255, -1], (N, 5, 7)).astype("i2")
    spec = save(x=numbers(N, 5, 7), label=label, split=SPLIT) + "?inputs=x:NHW"
    data = load_data(spec + "&ignore=255")
    assert (data.task, data.classes) == ("dense", ("0", "3"))
    target = batch_of(data)["target"]
    assert target.dtype == torch.int64
    expected = np.select([label == 0, label == 3], [0, 1], -1)[SPLIT == 0]
    assert torch.equal(target, torch.from_numpy(expected))
    assert load_data(spec).classes == ("0", "3", "255")


def test_regression_targets_are_left_as_they_are(save):
    y, wide = numbers(N, dtype="f8"), numbers(N, 2)
    spec = save(x=numbers(N, 7), y=y, wide=wide, split=SPLIT) + "?inputs=x:NC"
    data = load_data(spec + "&target=y")
    assert (data.task, data.classes) == ("regression", ())
    assert torch.equal(batch_of(data)["target"], torch.from_numpy(y[SPLIT == 0]).float())
    assert torch.equal(batch_of(load_data(spec + "&target=wide"))["target"], torch.from_numpy(wide[SPLIT == 0]))


@pytest.mark.parametrize("kind", ["?", "u1", "i8"])
def test_several_labels_per_sample(save, kind):
    flags = np.random.default_rng(0).integers(0, 2, (N, 5)).astype(kind)
    spec = save(x=numbers(N, 7), flags=flags, split=SPLIT) + "?inputs=x:NC&target=flags"
    data = load_data(spec)
    assert (data.task, data.classes) == ("multilabel", ("0", "1", "2", "3", "4"))
    assert "task: multilabel, 5 labels: 0, 1, 2, 3, 4" in repr(data)
    target = batch_of(data)["target"]
    assert target.dtype == torch.float32
    assert torch.equal(target, torch.from_numpy(flags[SPLIT == 0].astype("f4")))
    assert load_data(spec + "&classes=a,b,c,d,e").classes == ("a", "b", "c", "d", "e")


def test_groups_come_with_the_items_as_integers(save):
    who = np.array(["eva", "bo", "al"])[np.arange(N) % 3]
    data = load_data(save(x=numbers(N, 7), label=labels(), split=SPLIT, who=who) + "?inputs=x:NC&group=who")
    batch = batch_of(data)
    assert batch["group"].dtype == torch.int64
    assert batch["group"].tolist() == [["al", "bo", "eva"].index(w) for w in who[SPLIT == 0]]
    assert "group" not in batch_of(load_data(save(x=numbers(N, 7), label=labels(), split=SPLIT) + "?inputs=x:NC"))


@pytest.mark.parametrize("words", [False, True])
def test_split_arrays_by_number_or_word(save, words):
    fold = np.array(["train", "val", "test"])[SPLIT] if words else SPLIT
    spec = save(x=np.arange(N, dtype="u1"), label=labels(), fold=fold) + "?inputs=x:N&split=fold"
    data = load_data(spec)
    for code, name in enumerate(("train", "val", "test")):
        x = batch_of(data, name)["inputs"]["x"][:, 0] * 255
        assert x.round().tolist() == np.flatnonzero(code == SPLIT).tolist()


def rows(data):
    return [data.splits[name].rows.tolist() for name in ("train", "val", "test")]


def test_without_a_split_it_is_seeded_70_15_15():
    from fusionscope.data._target import random_split

    first, again, other = (random_split(1000, None, seed) for seed in (3, 3, 4))
    assert {name: len(index) for name, index in first.items()} == {"train": 700, "val": 150, "test": 150}
    assert sorted(np.concatenate(list(first.values()))) == list(range(1000))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["test"], other["test"])


@pytest.mark.parametrize("sizes", [[40] * 23, [1, 1, 97], [97, 1, 1], [5, 200, 7, 11, 90, 60, 3]])
def test_groups_stay_together_and_every_split_gets_some(sizes):
    from fusionscope.data._target import random_split

    group = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(20):
        split = random_split(len(group), group, seed)
        owners = [set(group[index]) for index in split.values()]
        assert all(owners)
        assert sum(map(len, owners)) == len(set.union(*owners)) == len(sizes)
        if len(set(sizes)) == 1:
            assert 0.1 < len(split["test"]) / len(group) < 0.2


def test_an_array_named_split_is_used_unless_random_is_asked_for(save):
    spec = save(x=numbers(N, 7), label=labels(), split=SPLIT) + "?inputs=x:NC"
    assert rows(load_data(spec)) == [np.flatnonzero(code == SPLIT).tolist() for code in range(3)]
    assert rows(load_data(spec + "&split=random")) != rows(load_data(spec))
    bare = save(x=numbers(N, 7), label=labels()) + "?inputs=x:NC"
    assert [len(r) for r in rows(load_data(bare))] == [21, 4, 4]
    assert rows(load_data(bare, seed=1)) != rows(load_data(bare))


def test_fingerprint_follows_what_is_used_only(save):
    x, fold = numbers(N, 7), SPLIT[::-1].copy()
    spec = save(x=x, label=labels(), split=SPLIT, fold=fold, extra=x) + "?inputs=x:NC"
    mark = load_data(spec).fingerprint
    assert load_data(save(x=x, label=labels(), split=SPLIT, fold=fold) + "?inputs=x:NC").fingerprint == mark
    others = [load_data(spec + option).fingerprint for option in ("&split=fold", "&classes=a,b,c", "&group=fold")]
    others.append(load_data(save(x=x + 1e-3, label=labels(), split=SPLIT) + "?inputs=x:NC").fingerprint)
    assert len({mark, *others}) == 5


def test_home_folder_is_understood(save, monkeypatch, tmp_path):
    save(x=numbers(N, 7), label=labels())
    monkeypatch.setenv("HOME", str(tmp_path))
    data = load_data("npz:~/a.npz?inputs=x:NC")
    assert data.size("train") == 21
    assert "x  NC     7" in repr(data)
    assert repr(data.splits["val"]) == "ArrayDataset(4 samples: x 7)"

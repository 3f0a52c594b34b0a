"""The real sets beside the checkout, as their READMEs describe them."""

import torch

from fusionscope.data import load_data


def whole(data, split):
    return next(iter(data.loader(split, data.size(split))))


def test_utd_mhad_three_layouts(shared_data):
    path = shared_data("utd_mhad") / "utd_mhad.npz"
    data = load_data(f"npz:{path}?inputs=inertial:NTC,skeleton:NTVC,depth:NTHW&target=label&split=split&group=subject")
    assert data.modalities == ("inertial", "skeleton", "depth")
    assert data.axes == {"inertial": "NTC", "skeleton": "NTC", "depth": "NCHW"}
    assert data.shapes == {"inertial": (128, 6), "skeleton": (48, 60), "depth": (8, 60, 80)}
    assert [data.size(name) for name in ("train", "val", "test")] == [323, 108, 430]
    assert (data.task, data.classes) == ("classification", tuple(map(str, range(27))))
    train, val, test = (whole(data, name) for name in ("train", "val", "test"))
    assert [sorted(b["group"].unique().tolist()) for b in (train, val, test)] == [[0, 2, 4], [6], [1, 3, 5, 7]]
    for name in ("inertial", "skeleton"):
        x = train["inputs"][name].double().flatten(0, 1)
        assert x.mean(0).abs().max() < 1e-4
        assert (x.std(0, correction=0) - 1).abs().max() < 1e-4
    assert 0 <= test["inputs"]["depth"].min() < test["inputs"]["depth"].max() <= 1
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in test["inputs"].values())


def test_av_digits_map_and_sequence(shared_data):
    path = shared_data("av_digits") / "av_digits.npz"
    data = load_data(f"npz:{path}?inputs=image:NHW,logmel:NFT&target=label&split=split_fsdd&group=speaker")
    assert data.axes == {"image": "NCHW", "logmel": "NTC"}
    assert data.shapes == {"image": (1, 28, 28), "logmel": (32, 32)}
    assert [data.size(name) for name in ("val", "test")] == [300, 300]
    assert whole(data, "test")["target"].bincount().tolist() == [30] * 10
    picture = load_data(f"npz:{path}?inputs=logmel:NHW")
    assert picture.shapes == {"logmel": (1, 32, 32)}
    assert [picture.size(name) for name in ("train", "val", "test")] == [1800, 200, 1000], "the array named split"


def test_water_seg_is_dense(shared_data):
    path = shared_data("water_seg") / "water_seg.npz"
    spec = f"npz:{path}?inputs=optical:NHWC,infrared:NHWC,dem:NHWC&target=label&group=group&classes=land,water"
    data = load_data(spec)
    assert (data.task, data.classes) == ("dense", ("land", "water"))
    assert data.shapes == {"optical": (4, 128, 128), "infrared": (3, 128, 128), "dem": (2, 128, 128)}
    assert [data.size(name) for name in ("train", "val", "test")] == [186, 40, 80]
    batch = next(iter(data.loader("test", 7)))
    assert batch["target"].shape == (7, 128, 128)
    assert batch["target"].dtype == torch.int64
    groups = [{int(item["group"]) for item in data.splits[name]} for name in ("train", "val", "test")]
    assert not groups[0] & groups[2]
    random = load_data(f"{spec}&split=random", seed=3)
    groups = [{int(item["group"]) for item in random.splits[name]} for name in ("train", "val", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 68

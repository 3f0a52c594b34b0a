"""Every model by its name: trained for an epoch, read back with the same outputs; settings that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from fusionscope.cli import main
from fusionscope.engine import TrainConfig, load_run, train
from fusionscope.engine._trainee import unsafe_layout
from fusionscope.errors import InputError
from fusionscope.nn import Classifier, ContextualCalibration, Segmenter, SequenceModel, Translator

COUNT = 26


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    place = tmp_path_factory.mktemp("models")
    np.savez(
        place / "toy.npz",
        a=rng.normal(size=(COUNT, 34, 37, 3)).astype("f4"),
        b=rng.integers(0, 255, (COUNT, 34, 37)).astype("u1"),
        s=rng.normal(size=(COUNT, 19, 5)).astype("f4"),
        label=np.arange(COUNT) % 3,
        mask=rng.integers(0, 2, (COUNT, 34, 37)),
        small=rng.integers(0, 2, (COUNT, 17, 19)),
        value=rng.normal(size=COUNT).astype("f4"),
        split=np.repeat([0, 1, 2], [16, 5, 5]),
    )
    return place


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed (extra `media`)")
    rng = np.random.default_rng(1)
    place = tmp_path_factory.mktemp("pictures")
    for name, channels in (("vi", 3), ("near", 1), ("ir", 1)):
        (place / name).mkdir()
        for i in range(COUNT):
            pixels = rng.integers(0, 255, (34, 37, channels)).astype("u1")
            image.fromarray(pixels if channels > 1 else pixels[:, :, 0]).save(place / name / f"{i}.png")
    return place


def settings(folder: Path, inputs: str, target: str, **changes) -> TrainConfig:
    data = f"npz:{folder / 'toy.npz'}?inputs={inputs}&target={target}&split=split"
    return TrainConfig(
        data=data,
        out=str(folder / "run"),
        overwrite=True,
        epochs=1,
        batch_size=8,
        accelerator="cpu",
        **{"width": 6} | changes,
    )


MAPS = "a:NHWC,b:NHW"
CASES = {
    "classifier": (Classifier, MAPS, "label", {"model": "classifier", "fuse": "gated", "auxiliary": 0.1}),
    "shared": (
        Classifier,
        MAPS + ",s:NTC",
        "label",
        {"model": "classifier", "shared": True, "exchange": "channel_exchange", "calibration": True},
    ),
    "ensemble": (Classifier, MAPS, "label", {"model": "classifier", "fuse": "learned_ensemble"}),
    "sequence": (SequenceModel, "s:NTC,b:NHW", "value", {"model": "sequence", "modality_dropout": 0.3}),
    "segmenter": (Segmenter, MAPS, "mask", {"model": "segmenter", "augment": 0.5, "flips": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_trains_and_reads_back(folder, name):
    kind, inputs, target, changes = CASES[name]
    path = train(settings(folder, inputs, target, **changes), quiet=True)
    run, again = load_run(path), load_run(path, data=False)
    assert isinstance(run.model, kind)
    assert run.modalities == tuple(piece.partition(":")[0] for piece in inputs.split(","))
    batch = next(iter(run.data.loader("test", 5)))["inputs"]
    with torch.no_grad():
        assert torch.equal(run.model(batch), again.model(batch))
    assert np.isfinite(json.loads((path / "metrics.json").read_text())["test"]["loss"])


def test_the_baseline_takes_a_calibration(folder):
    run = load_run(train(settings(folder, MAPS, "mask", calibration=True, modality_dropout=0.3), quiet=True))
    assert isinstance(run.model.calibration, ContextualCalibration)


@pytest.mark.parametrize("adversarial", [False, True])
def test_an_image_for_a_target_trains_the_translator(pictures, tmp_path, adversarial, capsys):
    config = TrainConfig(
        data=f"images:{pictures}?inputs=vi,near&target=ir",
        out=str(tmp_path / "run"),
        epochs=1,
        width=4,
        batch_size=8,
        accelerator="cpu",
        adversarial=adversarial,
        augment=0.5,
    )
    run = load_run(train(config, quiet=True))
    assert isinstance(run.model, Translator)
    assert run.metrics["metric"] == "psnr"
    assert 4 < run.metrics["test"]["psnr"] < 30
    assert not [key for key in run.model.state_dict() if "discriminator" in key]
    with pytest.raises(SystemExit) as stop:
        main(["dissect", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "is an image, and dissect measures classes" in capsys.readouterr().err


def test_solo_twins_of_a_shared_model_share_nothing(folder):
    path = train(settings(folder, MAPS, "mask", model="segmenter", exchange="channel_shuffle", solo=True), quiet=True)
    assert {m: run.model.modalities for m, run in load_run(path).solo.items()} == {"a": ("a",), "b": ("b",)}


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("label", {"model": "segmenter"}, r"'segmenter' is for dense, .* asks for classification: take 'auto' or"),
        (
            "mask",
            {"fuse": "gated"},
            r"fuse = 'gated' is for the models 'classifier', 'sequence'; the model here is 'auto'",
        ),
        ("mask", {"model": "segmenter", "calibration": True}, r"calibration = True is for the models"),
        ("label", {"model": "classifier", "exchange": "asym_fusion"}, r"set shared \(--shared\) too"),
        ("label", {"model": "classifier", "fuse": "gate"}, r"unknown fuse 'gate'.*Did you mean 'gated'"),
        ("label", {"model": "classifier", "encoder": "resnet"}, r"unknown encoder 'resnet'.*Did you mean 'resnet"),
        ("label", {"model": "classifier", "encoder": "conv"}, r"encoder = 'conv' is for none of the modalities"),
        ("label", {"model": "classifier", "norm": "affine"}, r"norm = 'affine' is of a shared encoder: set shared"),
        (
            "mask",
            {"model": "segmenter", "exchange": "channel_exchange", "norm": "shared"},
            r"which norm = 'shared' shares: take norm = 'private'",
        ),
        ("value", {"label_smoothing": 0.1}, r"label_smoothing = 0.1 is for classes"),
        (
            "mask",
            {"model": "segmenter", "width": 4},
            r"5 channels or more.*\(settings: model = 'segmenter', width = 4\)",
        ),
        ("small", {"model": "segmenter"}, r"inputs, 34x37, but the target is 17x19: resize"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_training(folder, target, changes, message):
    with pytest.raises(InputError, match=message):
        train(settings(folder, MAPS, target, **changes), quiet=True)


def test_a_segmenter_of_sequences_is_refused(folder):
    with pytest.raises(InputError, match=r"takes maps \(NCHW\); 's' has axes NTC"):
        train(settings(folder, MAPS + ",s:NTC", "mask", model="segmenter"), quiet=True)


def test_a_run_with_a_hub_encoder_is_read_without_the_hub(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    transformers.ResNetBackbone(transformers.ResNetConfig(**shape)).save_pretrained(tmp_path / "published")
    path = train(
        settings(folder, MAPS, "label", model="classifier", encoder=f"hf:{tmp_path / 'published'}"), quiet=True
    )
    (tmp_path / "published").rename(tmp_path / "gone")
    assert load_run(path, data=False).model.channels == {"a": 8, "b": 8}


def test_narrow_strided_convolutions_are_not_trained_channels_last():
    """With channels last, torch's CPU kernels write outside their memory there, and the process dies."""
    narrow, wide = (Segmenter({"a": 3, "b": 1}, 2, encoder_width=width, width=8) for width in (12, 16))
    assert unsafe_layout(narrow, torch.device("cpu"))
    assert not unsafe_layout(narrow, torch.device("cuda"))
    assert not unsafe_layout(wide, torch.device("cpu"))


def test_an_ensemble_finds_out_who_knows(folder):
    """Only one modality tells the class; in a few dozen steps the ensemble's weight must have gone there."""
    rng = np.random.default_rng(2)
    label = np.arange(240) % 2
    told, noise = rng.normal(size=(2, 240, 5)).astype("f4")
    told += 3 * (2 * label[:, None] - 1)
    np.savez(folder / "weigh.npz", told=told, noise=noise, label=label, split=np.repeat([0, 1, 2], [200, 20, 20]))
    config = settings(folder, "", "", model="classifier", fuse="learned_ensemble")
    data = f"npz:{folder / 'weigh.npz'}?inputs=told:NC,noise:NC&target=label&split=split"
    run = load_run(train(msgspec.structs.replace(config, data=data, epochs=4), quiet=True))
    weights = run.model.fuse.alpha.softmax(0)
    assert weights[0] > 0.6

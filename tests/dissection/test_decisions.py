"""Decision instruments on models whose use of their modalities is known, and on models that misbehave."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fusionscope as fs
from fusionscope.errors import InputError

from .decision_models import NAMES, Known, planted


def dissect(model: nn.Module, data: list[Any], *measures: str, **more: Any) -> fs.Dissection:
    return fs.dissect(model, data, measures=measures, progress=False, **more)


def contribution(found: fs.Dissection, metric: str = "accuracy", concept: str = "") -> Any:
    table = found.tables["contribution"]
    return table[(table["metric"] == metric) & (table["concept"] == concept)].set_index("modality")


# ---------------------------------------------------------------- planted truth


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", ["xor", "copy", "first"])
def test_all_instruments_agree_on_planted_rules(rule: str, seed: int) -> None:
    found = dissect(Known(rule), planted(rule, seed, 320), "contribution", "emap", "information", fill="zero")
    share = contribution(found)
    told = found.tables["cooperation"]
    told = told[told["metric"] == "accuracy"].set_index(["kind", "subset"])
    shape = told.loc[("cooperation", "a+b+c")]
    pair = told.loc[("interaction", "a+b")]
    index = told.loc[("intershap", "a+b+c")]
    gaps = {m: told.loc[("emap gap", m)] for m in NAMES}
    atoms = found.tables["information"]
    atoms = atoms[(atoms["level_a"] == atoms["level_a"].max()) & (atoms["about"] == "label")]
    atoms = {m: atoms[(atoms["modality_a"] == "a") & (atoms["modality_b"] == m)].set_index("atom") for m in "bc"}
    dominant = {m: rows.loc[["R", "U_a", "U_b", "S"], "corrected"].idxmax() for m, rows in atoms.items()}
    # c is noise for every rule
    assert share.loc["c", "low"] <= 0 <= share.loc["c", "high"]
    assert abs(share.loc["c", "shapley"]) < 1e-9
    assert gaps["c"]["low"] <= 0 <= gaps["c"]["high"]
    for atom in ("R", "U_b", "S"):
        row = atoms["c"].loc[atom]
        assert row["corrected"] < 0.15
    if rule == "xor":
        assert shape["low"] > 0.3
        assert pair["low"] > 0.3
        assert index["value"] > 0.9
        assert dominant["b"] == "S"
        assert atoms["b"].loc["S", "low"] > 0.7
        assert gaps["a"]["low"] > 0.2
        assert gaps["b"]["low"] > 0.2
    elif rule == "copy":
        assert shape["high"] < -0.3
        assert pair["high"] < -0.3
        assert dominant["b"] == "R"
        assert atoms["b"].loc["R", "low"] > 0.7
        assert abs(gaps["a"]["value"]) < 0.05
    else:
        assert share.loc["a", "low"] > 0.4
        assert abs(shape["value"]) < 1e-9
        assert index["value"] < 1e-9 or math.isnan(index["value"])
        assert dominant["b"] == dominant["c"] == "U_a"
        assert abs(gaps["a"]["value"]) < 0.05


def test_samples_and_a_class_on_which_a_modality_hurts() -> None:
    """``b`` lies about known samples of one class; it is right otherwise, and so is ``a``, softly."""
    generator = torch.Generator().manual_seed(0)
    size = 640
    label = torch.randint(0, 3, (size,), generator=generator)
    lies = (label == 2) & (torch.rand(size, generator=generator) < 0.3)
    claimed = torch.where(lies, 0, label)
    inputs = {"a": nn.functional.one_hot(label, 3).float(), "b": 5.0 * nn.functional.one_hot(claimed, 3)}

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.a.weight.data = self.b.weight.data = torch.eye(3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.a(a) + self.b(b)

    data = [
        {"inputs": {m: x[i : i + 64] for m, x in inputs.items()}, "target": label[i : i + 64]}
        for i in range(0, size, 64)
    ]
    found = dissect(Sum(), data, "contribution", "valuation", classes=["x", "y", "z"])
    table = found.tables["samples"]
    tested = table[table["p"].notna() & (table["modality"] == "b")]
    hurt = set(tested[tested["hurts"]]["sample"])
    liars = set(lies.nonzero().flatten().tolist())
    assert len(hurt - liars) <= 0.1 * max(len(hurt), 1)
    assert len(hurt & liars) >= 0.6 * len(liars)
    assert not table[table["modality"] == "a"]["hurts"].any()
    drawn = [name for name in found.arrays if name.startswith("sample/")]
    assert {int(name.split("/")[1]) for name in drawn} <= set(table["sample"])
    assert drawn
    assert found.arrays[drawn[0]].dtype == np.float32


# ------------------------------------------------------------- misbehaving models


def test_a_subset_on_which_the_model_raises_is_a_row_with_the_reason() -> None:
    class Fussy(Known):
        def decide(self, told: dict[str, Tensor]) -> Tensor:
            if not told["b"].any():
                raise ValueError("b must not be empty")
            return super().decide(told)

    found = dissect(Fussy("first"), planted("first", 0, 192), "removal", "contribution", fill="zero")
    removal = found.tables["removal"].set_index("subset")
    bad = [s for s in removal.index if "b" not in s.split("+")]
    assert removal.loc[bad, "value"].isna().all()
    assert removal.loc[bad, "reason"].str.contains("ValueError: b must not be empty").all()
    assert removal.drop(bad)["value"].notna().all()
    assert contribution(found)["shapley"].isna().all()
    assert contribution(found)["reason"].str.contains("b must not be empty").all()
    # It was not replaced in any run, so nothing is known of whether the model ignores it.
    assert "no output changed" not in contribution(found).loc["b", "reason"]
    assert "without b not computed (the model raised ValueError: b must not be empty)" in repr(found)


def test_nan_on_one_class_spares_the_other_classes() -> None:
    class Undefined(Known):
        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            logits = super().forward(a, b, c)
            return torch.where(logits[:, 1:] > logits[:, :1], torch.nan, logits)

    found = dissect(Undefined("first"), planted("first", 0, 192), "removal", "contribution", fill="zero")
    assert contribution(found)["shapley"].isna().all()
    assert contribution(found)["reason"].str.contains("not finite for").all()
    table = found.tables["coalitions"]
    whole = table[(table["subset"] == "a+b+c") & (table["metric"] == "accuracy")].set_index("concept")
    assert whole.loc["0", "value"] == 1.0
    assert math.isnan(whole.loc["1", "value"])
    assert "not finite" in whole.loc["1", "reason"]


def test_ignored_and_constant_modalities_give_zero_and_the_reason() -> None:
    data = planted("first", 0, 192)
    for batch in data:
        batch["inputs"]["b"] = torch.full_like(batch["inputs"]["b"], -0.25)
    found = dissect(Known("xor"), data, "removal", "contribution", "valuation", "imbalance", "robustness")
    assert any("'b' is constant" in note for note in found.manifest["messages"])
    share = contribution(found)
    assert share.loc[["b", "c"], "shapley"].abs().max() < 1e-9
    assert share.loc["b", "reason"].startswith("no output changed when it was replaced")
    assert share.loc["c", "reason"].startswith("no output changed when it was replaced")
    assert share.loc["a", "reason"] == ""


def test_a_constant_modality_of_integers() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.a, self.head = nn.Embedding(7, 5), nn.Linear(3, 5), nn.Linear(10, 2)

        def forward(self, a: Tensor, text: Tensor) -> Tensor:
            return self.head(torch.cat([self.a(a), self.words(text).mean(1)], 1))

    for value in (0, 6):
        data = [
            {"a": batch["inputs"]["a"], "text": torch.full((64, 4), value), "target": batch["target"]}
            for batch in planted("first", 0, 128)
        ]
        found = dissect(Words(), data, "removal", "contribution")
        assert contribution(found).loc["text", "shapley"] == pytest.approx(0, abs=1e-9)


def test_nine_modalities_are_sampled_and_say_so() -> None:
    class Nine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleList([nn.Linear(2, 1, bias=False) for _ in range(9)])
            for i, encoder in enumerate(self.encoders):
                encoder.weight.data = torch.tensor([[1.0 if i < 2 else 0.1, 0.0]])

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            evidence = torch.cat([e(x) for e, x in zip(self.encoders, inputs.values(), strict=True)], 1).sum(1)
            return torch.stack([-evidence, evidence], 1)

    generator = torch.Generator().manual_seed(3)
    x = {f"m{i}": torch.randn(67, 2, generator=generator) for i in range(9)}
    label = (x["m0"][:, 0] + x["m1"][:, 0] > 0).long()
    found = dissect(Nine(), [{"inputs": x, "target": label}], "contribution", fill="zero", metric="loglik")
    assert any("sampled subsets" in note for note in found.manifest["messages"])
    share = contribution(found, "loglik")["shapley"]
    assert set(share.nlargest(2).index) == {"m0", "m1"}
    removal = found.tables["coalitions"].query("concept == ''")
    alone = dissect(Nine(), [{"inputs": x, "target": label}], "removal", fill="zero").tables["removal"]
    assert len(alone) == len(removal["subset"].unique())
    # Not every modality is last in some order, so the table may lack "all but one": said, not stumbled over.
    found.tables["removal"] = alone[alone["subset"] != "m0+m1+m2+m3+m4+m5+m6+m7"]
    assert "without m8 not scored" in repr(found)


def test_discrepancy_ratio_counts_inputs_of_the_head_that_were_dead_in_the_first_batch() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.a, self.b = nn.Linear(3, 5), nn.Sequential(nn.Linear(2, 7), nn.ReLU())
            self.head = nn.Linear(12, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.cat([self.a(a), self.b(b)], 1))

    model, generator = Late().eval(), torch.Generator().manual_seed(2)
    data = []
    for scale in (0.05, 5.0, 5.0):
        a, b = torch.randn(23, 3, generator=generator), scale * torch.randn(23, 2, generator=generator)
        data.append({"a": a, "b": b, "label": torch.randint(0, 3, (23,), generator=generator)})
    with torch.no_grad():
        alive = [model.b(batch["b"]).any(0) for batch in data]
        assert (alive[1] & ~alive[0]).any(), "no unit is dead in the first batch only"
        told = torch.zeros(2)
        for batch in data:
            W, bias = model.head.weight, model.head.bias / 2
            parts = model.a(batch["a"]) @ W[:, :5].T + bias, model.b(batch["b"]) @ W[:, 5:].T + bias
            told += torch.stack([x.softmax(1).gather(1, batch["label"][:, None]).sum() for x in parts])
    table = dissect(model, data, "imbalance").tables["imbalance"].set_index(["measure", "modality"])
    assert table.loc[("discrepancy ratio", "a"), "value"] == pytest.approx(float(told[0] / told[1]), abs=1e-6)
    assert table.loc[("discrepancy ratio", "b"), "value"] == pytest.approx(float(told[1] / told[0]), abs=1e-6)


def test_a_fill_in_that_does_not_fit_says_so_itself() -> None:
    found = dissect(Known("first"), planted("first", 0, 64), "removal", fill=lambda name, values, batch: values[:, :1])
    assert found.tables["removal"].set_index("subset").loc["a+b", "reason"].startswith("the model raised")
    model = nn.Module()
    model.embed, model.head = nn.EmbeddingBag(11, 3), nn.Linear(6, 2)
    model.see = nn.Linear(2, 3)
    model.forward = lambda text, image: model.head(torch.cat([model.embed(text), model.see(image)], 1))
    ids = torch.arange(35).view(7, 5) % 11
    data = [{"text": ids, "image": torch.randn(7, 2), "label": torch.arange(7) % 2}]
    reason = dissect(model, data, "removal", fill="mean").tables["removal"].set_index("subset").loc["image", "reason"]
    assert reason.startswith("fill-in 'mean' needs real-valued inputs")
    assert "use fill='resample'" in reason


# ------------------------------------------------------------------- other tasks


def test_samples_are_valued_however_sure_the_model_is() -> None:
    """A probability below 1e-308 gave an effect of -inf or NaN without a reason."""
    data = planted("copy", 3, 192)
    data[0]["inputs"]["b"][:5] *= -5
    effects = [
        dissect(Known("copy", sharpness), data, "valuation").tables["samples"].dropna(subset=["p"])["effect"]
        for sharpness in (4.0, 4e3)
    ]
    assert np.isfinite(effects[1]).all()
    assert effects[1].min() == pytest.approx(1e3 * effects[0].min(), rel=0.1)

    class Far(Known):
        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            return 1e3 + a[:, 0] + b[:, 0]

    numbers = [{"inputs": batch["inputs"], "target": batch["inputs"]["a"][:, 0]} for batch in data]
    table = dissect(Far("copy"), numbers, "valuation").tables["samples"]
    assert np.isfinite(table["effect"]).all()
    for batch in numbers:
        batch["target"] = torch.full((64,), 1.5)
    found = dissect(Far("copy"), numbers, "valuation")
    assert not len(found.tables["samples"])
    assert any("the target does not vary" in note for note in found.manifest["messages"])


def test_several_labels_per_sample_and_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(96, 3, generator=generator), torch.randn(96, 3, generator=generator)
    target = torch.cat([(a > 0).float(), (b[:, :1] > 0).float()], 1)

    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
            with torch.no_grad():
                self.a.weight[:] = torch.cat([5 * torch.eye(3), torch.zeros(1, 3)])
                self.b.weight[:] = torch.tensor([[0.0] * 3] * 3 + [[5.0, 0, 0]])

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.a(a) + self.b(b)

    data = [{"a": a[i : i + 32], "b": b[i : i + 32], "target": target[i : i + 32]} for i in (0, 32, 64)]
    names = ["p", "q", "r", "s"]
    found = fs.dissect(Labels(), data, classes=names, progress=False)
    assert found.manifest["task"] == "multilabel"
    assert found.manifest["parameters"]["metric"] == "f1"
    by_label = {name: contribution(found, "f1", name)["shapley"].idxmax() for name in names}
    assert by_label == {"p": "a", "q": "a", "r": "a", "s": "b"}
    assert set(found.tables["concepts"]["concept"]) == set(names)
    for batch in data:
        batch["target"] = batch["a"][:, 0] + 0.1 * batch["b"][:, 0]

    class Value(Labels):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a[:, 0] + 0.1 * b[:, 0] + 0 * super().forward(a, b)[:, 0]

    numbers = fs.dissect(Value(), data, measures="all", progress=False)
    share = contribution(numbers, "r2")["shapley"]
    assert share["a"] > 0.8
    assert 0 < share["b"] < 0.2
    assert contribution(numbers, "neg_mse")["shapley"].gt(0).all()


def test_robustness_against_a_baseline() -> None:
    data = planted("first", 0, 192)
    rival = dissect(Known("copy"), data, "robustness")
    found = dissect(Known("first"), data, "robustness", baseline=rival)
    table = found.tables["robustness_summary"].set_index(["modality", "corruption"])
    assert set(table["baseline"]) == {"Known"}
    assert math.isfinite(table.loc[("a", "mean"), "corruption_error"])
    assert found.manifest["parameters"]["kinds"] == dict.fromkeys(NAMES, "vector")
    assert table.loc[("b", "conflict"), "relative"] == 1.0  # the first rule does not look at b
    assert "costs most at severity 5, a drop of +0.000 [+0.000, +0.000]" in repr(found)
    other = dissect(Known("first"), planted("first", 1, 192), "robustness", baseline=rival)
    assert any("the baseline was measured on other data" in note for note in other.manifest["messages"])
    assert not any("other data" in note for note in found.manifest["messages"])
    with pytest.raises(InputError, match="name 'robustness' in measures"):
        dissect(Known("first"), data, "removal", baseline=rival)
    with pytest.raises(InputError, match="measured by accuracy, this one by loglik"):
        dissect(Known("first"), data, "robustness", baseline=rival, metric="loglik")
    with pytest.raises(InputError, match="no robustness curves"):
        dissect(Known("first"), data, "robustness", baseline=dissect(Known("first"), data, "removal"))
    with pytest.raises(InputError, match="unknown kind 'picture' of a.*"):
        dissect(Known("first"), data, "robustness", kinds={"a": "picture"})
    with pytest.raises(InputError, match="kinds= names the modality 'd'"):
        dissect(Known("first"), data, "robustness", kinds={"d": "image"})

"""Traces written by hand, as models give them whose lanes go on after an exchange."""

from __future__ import annotations

from typing import Any

from tests.report.factory import call, trace

RGBD = ["rgb", "depth"]


def lane(path: str, modality: str, stretch: int, met: list[str], module: str = "Conv2d", **more: Any) -> dict:
    """A call of a lane; after an exchange it depends on every modality that met."""
    depends = sorted(met) if stretch else [modality]
    extra = {"lane": modality, "stretch": stretch, "wired_to": depends, "unknown": [], "effects": {}}
    return call(path, depends, module, **(extra | more))


def fused(path: str, met: list[str], module: str = "Conv2d", **more: Any) -> dict:
    """A call that belongs to no lane."""
    depends = sorted(met)
    extra = {"lane": None, "stretch": None, "wired_to": depends, "unknown": [], "effects": {}}
    return call(path, depends, module, **(extra | more))


def point(
    of: str | None,
    parent: str,
    met: list[str],
    round: int,
    functional: bool = False,
    kind: str = "mix",
    exchange: bool = True,
) -> dict:
    verb = {"mix": "mixed", "join": "joined"}[kind]
    how = f": functional, in {parent or 'the model'}, before {of or 'its output'}" if functional else f" by {of}"
    return {
        "call": of,
        "parent": parent,
        "functional": functional,
        "kind": kind,
        "modalities": sorted(met),
        "round": round,
        "exchange": exchange,
        "mixed_by": None,
        "text": f"{', '.join(sorted(met))} {verb}{how}",
    }


def whole(name: str, modalities: list[str], calls: list[dict], points: list[dict], depends: list[str] | None = None):
    calls = [*calls, fused("", depends or modalities, name, shape=[8, 10])]
    return {
        "model": name,
        "modalities": modalities,
        "batch_size": 8,
        "calls": calls,
        "fusion_points": points,
        "messages": [],
        "unused": [],
    }


def parallel(rounds: int = 3, shared: bool = True, idle: bool = False) -> dict:
    """Two modalities as a list through the same modules; channels are exchanged after each layer; no merge at all."""
    calls, points = [], []
    for r in range(rounds + 1):
        width = 8 * 2 ** min(r, 3)
        for k, module in enumerate(["Conv2dParallel", "BatchNorm2dParallel", "ReLUParallel"]):
            for i, m in enumerate(RGBD):
                path = f"layer{r}.{k}" if shared else f"layer{r}.{m}.{k}"
                met = [m] if idle else RGBD
                more = {"id": f"{path}#0:{i}", "output": f":{i}", "wired_to": sorted(RGBD) if r else [m]}
                calls.append(lane(path, m, r, met, module, shape=[8, width, 32, 32], tap=k == 2, **more))
        if r < rounds:
            for i, m in enumerate(RGBD):
                ids = {"id": f"layer{r}.exchange#0:{i}", "output": f":{i}", "kind": "join"}
                depends = {"depends_on": [m], "wired_to": sorted(RGBD)} if idle else {}
                calls.append(fused(f"layer{r}.exchange", RGBD, "Exchange", **ids, **depends))
            points.append(point(f"layer{r}.exchange#0:0", f"layer{r}", RGBD, r, kind="join"))
    return whole("AsymNet", RGBD, calls, points)


def lxmert(layers: int = 5) -> dict:
    """Streams of unequal length, then layers in which each modality attends to the other: two points an exchange.

    The taps are the layers, which begin before their exchange and end after it.
    """
    met = ["text", "image"]
    calls, points = [], []
    for m, n in (("text", 9), ("image", 5)):
        short = {"text": "layer", "image": "r_layers"}[m]
        for k in range(n):
            path = f"encoder.{short}.{k}"
            calls += [lane(f"{path}.{j}", m, 0, met, "Linear", shape=[8, 19, 64]) for j in ("query", "key", "value")]
            calls.append(lane(f"{path}.output", m, 0, met, "LayerNorm", shape=[8, 19, 64], tap=k % 2 == 0))
    for r in range(layers):
        here = f"encoder.x_layers.{r}"
        start = len(calls)
        for i, m in enumerate(met):
            more = {"id": f"{here}#0:{i}", "output": f"{i}", "leaf": False, "tap": True, "shape": [8, 19, 64]}
            calls.append(lane(here, m, r + 1, met, "LxmertXLayer", **more))
        for index, (m, other) in enumerate((met, met[::-1])):
            attention = f"{here}.visual_attention.att"
            calls.append(lane(f"{attention}.query", m, r, met, "Linear", shape=[8, 19, 64], index=index))
            calls += [
                lane(f"{attention}.{j}", other, r, met, "Linear", shape=[8, 19, 64], index=index)
                for j in ("key", "value")
            ]
            calls.append(fused(f"{attention}.dropout", met, "Dropout", index=index, kind="mix", shape=[8, 4, 19, 19]))
            points.append(point(f"{attention}.dropout#{index}", attention, met, r))
            for j, module in (("dense", "Linear"), ("LayerNorm", "LayerNorm")):
                path = f"{here}.visual_attention.output.{j}"
                calls.append(lane(path, m, r + 1, met, module, shape=[8, 19, 64], index=index))
        for m, name in (("text", "lang"), ("image", "visn")):
            path = f"{here}.{name}_output"
            calls.append(lane(f"{path}.dense", m, r + 1, met, "Linear", shape=[8, 19, 64]))
            calls.append(lane(f"{path}.LayerNorm", m, r + 1, met, "LayerNorm", shape=[8, 19, 64]))
        for entry in calls[start + 2 :]:
            entry["parent"] = f"{here}#0:0"
    calls.append(lane("pooler.dense", "text", layers, met, "Linear", shape=[8, 64]))
    return whole("LxmertModel", met, calls, points)


def cmx(stages: int = 4) -> dict:
    """After each stage an exchange, whose outputs go on, and a merge of them, which goes to the decoder.

    The second exchange is a tap itself: its own code makes its outputs, no call inside does.
    """
    calls, points = [], []
    for s in range(stages):
        size = [8, 16 * 2 ** min(s, 4), 32 // 2 ** min(s, 4), 32 // 2 ** min(s, 4)]
        for m, prefix in (("rgb", "block"), ("depth", "extra_block")):
            for k in range(2):
                path = f"backbone.{prefix}{s + 1}.{k}"
                calls += [lane(f"{path}.{j}", m, s, RGBD, "Linear", shape=size) for j in ("attn.q", "attn.kv")]
                calls.append(lane(f"{path}.mlp", m, s, RGBD, "Mlp", shape=size, tap=k == 1))
        for i, m in enumerate(RGBD):
            more = {"id": f"backbone.FRMs.{s}#0:{i}", "output": f"{i}", "leaf": False, "tap": s == 1, "shape": size}
            calls.append(lane(f"backbone.FRMs.{s}", m, s + 1, RGBD, "FRM", **more))
        for j in ("channel", "spatial"):
            here = f"backbone.FRMs.{s}.{j}_weights"
            calls += [fused(f"{here}.mlp.{k}", RGBD, kind, shape=size) for k, kind in enumerate(["Linear", "ReLU"])]
            points.append(point(f"{here}.mlp.0#0", here, RGBD, s, functional=True, kind="join"))
        merge = f"backbone.FFMs.{s}"
        calls += [
            lane(f"{merge}.channel_proj{i}", m, s + 1, RGBD, "Linear", shape=size) for i, m in enumerate(RGBD, start=1)
        ]
        calls += [fused(f"{merge}.channel_emb.{k}", RGBD, shape=size) for k in range(3)]
        points.append(
            point(f"{merge}.channel_emb.0#0", merge, RGBD, s + 1, functional=True, kind="join", exchange=False)
        )
    calls += [fused(f"decode_head.linear_c{k}", RGBD, "Linear") for k in range(stages, 0, -1)]
    return whole("CMX", RGBD, calls, points)


def passing() -> dict:
    """Three modalities: two exchange, one passes between their rows; then all merge."""
    three, met = ["rgb", "audio", "depth"], ["rgb", "depth"]
    calls, points = [], []
    for r in range(3):
        calls += [lane(f"{m}_net.{r}.{k}", m, r, met, tap=k == 2) for m in met for k in range(3)]
        calls += [lane(f"audio_net.{r}.{k}", "audio", 0, met, "GRU", shape=[8, 23, 5], tap=k == 1) for k in range(2)]
        if r < 2:
            calls.append(fused(f"swap.{r}", met, "Swap", kind="join"))
            points.append(point(f"swap.{r}#0", "swap", met, r, kind="join"))
    calls.append(fused("fuse", three, "Linear", kind="mix", shape=[8, 64]))
    points.append(point("fuse#0", "", three, 2, exchange=False))
    calls.append(fused("head", three, "Linear", shape=[8, 10]))
    return whole("TripleNet", three, calls, points)


def gated() -> dict:
    """Zero-initialised parts: wired, inactive; a weak effect; a modality of which nothing can be told."""
    calls = [lane(f"rgb_net.{k}", "rgb", 0, RGBD) for k in range(2)]
    calls += [lane(f"depth_net.{k}", "depth", 0, RGBD) for k in range(2)]
    calls.append(lane("depth_net.adapter", "depth", 0, RGBD, "Conv2d", depends_on=[], wired_to=["depth"], tap=True))
    calls.append(fused("gate", RGBD, "Gate", depends_on=["rgb"], kind="mix"))
    calls.append(lane("rgb_net.2", "rgb", 1, RGBD, depends_on=["rgb"], tap=True))
    calls.append(lane("depth_net.2", "depth", 1, RGBD, unknown=["rgb"], depends_on=["depth"], wired_to=["depth"]))
    effects = {"rgb": 0.41, "depth": 3e-8}
    calls.append(fused("fuse", RGBD, "Linear", kind="mix", shape=[8, 64], effects=effects))
    calls.append(fused("head", RGBD, "Linear", shape=[8, 10]))
    points = [point("gate#0", "", RGBD, 0), point("fuse#0", "", RGBD, 1, exchange=False)]
    return whole("GatedNet", RGBD, calls, points)


def old() -> dict:
    """What was saved before lanes went on after an exchange."""
    return trace(RGBD)


SAMPLES = {
    "parallel": parallel,
    "parallel-12": lambda: parallel(12, shared=False),
    "parallel-idle": lambda: parallel(2, idle=True),
    "lxmert": lxmert,
    "cmx": cmx,
    "cmx-12": lambda: cmx(12),
    "passing": passing,
    "gated": gated,
    "old": old,
}

"""Backbones of the ``transformers`` library."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fusionscope.errors import InputError, did_you_mean

UNREACHED = ("mask_token", "swin.layernorm.weight", "swin.layernorm.bias")  # by no feature map: no gradient under DDP


class HFBackbone(nn.Module):
    """A ``transformers`` backbone as an encoder: ``[B,C,H,W] -> [x_1, ..., x_S]``, its feature maps ``[B,C_s,h,w]``.

    Attributes:
        backbone: the model of ``transformers``.
        channels: channels of each feature map.
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int]):
        super().__init__()
        self.backbone = backbone
        self.channels = tuple(int(c) for c in channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        return list(self.backbone(pixel_values=x).feature_maps)


def hf_backbone(
    source: Any,
    inputs: int | None = None,
    *,
    out: Sequence[int] | None = None,
    pretrained: bool | None = None,
    **settings: Any,
) -> HFBackbone:
    """Take a backbone from ``transformers``, through its ``AutoBackbone``.

    Args:
        source: a model's name on the hub or its folder (``hf:microsoft/resnet-50``; ``hf:`` may be left out), a model
            type (``resnet``, ``convnext``, ``swin``, ``dinov2``, ...), or a configuration of ``transformers``.
        inputs: channels of the input; by default as configured, which is 3 almost everywhere. Of pretrained weights
            with other inputs, the first convolution is drawn anew.
        out: which stages' maps to return, by number, 0 being the stem; by default all after the stem, of more than four
            (a transformer's layers) four evenly spaced ones up to the last.
        pretrained: whether to load weights, from safetensors only. By default where ``source`` names a model.
        settings: of the configuration, where ``source`` is a name: ``hidden_sizes=[8, 16, 32, 64]``.

    Raises:
        InputError: if ``transformers`` is missing, the model cannot be had or has no backbone, or a setting is unknown.

    >>> import torch
    >>> net = hf_backbone("resnet", 2, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic").eval()
    >>> net.channels, [tuple(x.shape) for x in net(torch.zeros(3, 2, 29, 37))]
    ((4, 8), [(3, 4, 8, 10), (3, 8, 4, 5)])
    """
    transformers = _transformers()
    config, name = _configured(source, settings)
    known = sorted({kind.model_type for kind in transformers.MODEL_FOR_BACKBONE_MAPPING} - {"timm_backbone"})
    if config.model_type not in known:
        raise InputError(
            f"transformers has no backbone of type {config.model_type!r}; it has {', '.join(known)}."
            + did_you_mean(config.model_type, known)
        )
    pretrained = name is not None if pretrained is None else pretrained
    if pretrained and name is None:
        raise InputError(
            f"pretrained=True needs the name or folder of a model, such as 'hf:microsoft/resnet-50', got {source!r}"
        )
    if inputs is not None:
        if not hasattr(config, "num_channels"):
            raise InputError(f"the number of input channels of a {config.model_type!r} backbone cannot be chosen")
        config.num_channels = inputs
    config.out_indices = _chosen(out, list(config.stage_names))
    backbone: Any = None
    if pretrained:
        # AutoBackbone.from_pretrained asks the hub even where the model lies in a folder
        kind: Any = transformers.MODEL_FOR_BACKBONE_MAPPING[type(config)]
        options = {"config": config, "use_safetensors": True, "ignore_mismatched_sizes": True}
        backbone = _reached(name, lambda: kind.from_pretrained(name, **options))
    else:
        backbone = transformers.AutoBackbone.from_config(config)
    for path, parameter in backbone.named_parameters():
        if path.endswith(UNREACHED):
            parameter.requires_grad_(False)
    return HFBackbone(backbone.train(), backbone.channels)


def hf_configuration(source: str) -> dict[str, Any]:
    """Return the whole configuration of a model or model type as plain data; :func:`hf_from_configuration` reads it.

    Raises:
        InputError: if ``transformers`` is missing, or the model cannot be had.
    """
    _transformers()
    return json.loads(_configured(source, {})[0].to_json_string(use_diff=False))


def hf_from_configuration(found: dict[str, Any]) -> Any:
    """Return the configuration of such data, for :func:`hf_backbone` to build with random weights."""
    return _transformers().CONFIG_MAPPING[found["model_type"]].from_dict(found)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "hf: backbones need the transformers library: pip install 'fusionscope[hf]', or take one of our own "
            "encoders (resnet18, resnet50)"
        ) from error
    return transformers


def _configured(source: Any, settings: dict[str, Any]) -> tuple[Any, str | None]:
    """Return a configuration of our own, and the model's name if there is one to load weights of."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if not isinstance(source, str):
        if settings:
            raise InputError(
                f"write {', '.join(settings)} into the configuration: settings go with a name or a model type only"
            )
        if not hasattr(source, "model_type"):
            raise InputError(f"expected a name or a configuration of transformers, got {type(source).__name__}")
        return copy.deepcopy(source), None
    name = source.removeprefix("hf:")
    if name not in CONFIG_MAPPING:
        return _reached(name, lambda: AutoConfig.from_pretrained(name, **settings)), name
    known = CONFIG_MAPPING[name]().to_dict()
    for key in settings:
        if key not in known:
            raise InputError(f"a {name!r} backbone has no setting {key!r}.{did_you_mean(key, known)}")
    return AutoConfig.for_model(name, **settings), None


def _reached(name: str | None, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError) as error:
        from transformers import CONFIG_MAPPING

        known = did_you_mean(name or "", CONFIG_MAPPING)
        raise InputError(
            f"cannot get {name!r}: {str(error).strip().splitlines()[0]}{known} Without the hub, give a folder that "
            "holds the model (config.json, model.safetensors), or for random weights a model type (such as 'resnet', "
            "with its settings) or a configuration of transformers."
        ) from error


def _chosen(out: Sequence[int] | None, stages: list[str]) -> list[int]:
    last = len(stages) - 1
    if out is None:
        return list(range(1, last + 1)) if last <= 4 else [round(last * k / 4) for k in (1, 2, 3, 4)]
    wrong = [i for i in out if not 0 <= i <= last]
    if wrong or not out:
        raise InputError(f"out={list(out)}: this backbone has the stages 0 to {last} ({', '.join(stages)})")
    return sorted(set(out))

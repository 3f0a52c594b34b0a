"""Where in a backbone exchanges go: its stages of repeated blocks, and the middle convolution of a block."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from fusionscope.errors import InputError, did_you_mean

from ._norms import ModalityNorm, is_norm

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (*CONVS, nn.Linear)
At = Sequence[str] | str | Callable[[str, nn.Module], bool]
# Side branches of a block: what follows the middle convolution is looked for outside them.
_ASIDE = re.compile(r"(^|\.)(downsample|shortcut|skip|identity|se|se_module|sca|eca|attn|attention|gate)\w*(\.|$)")


@dataclass(frozen=True)
class Middle:
    """The middle convolution of a block, by names within the block.

    Attributes:
        conv: the last convolution with a kernel above 1, stride 1 and as many outputs as inputs.
        follows: the layer that takes what comes of it once its norm and activation are done, if one does.
        norm: the norm behind it, if there is one.
    """

    conv: str
    follows: str | None
    norm: str | None


def stages(backbone: nn.Module) -> list[list[str]]:
    """Return the names of the blocks of each stage: lists (`Sequential`, `ModuleList`) of blocks of one class.

    A block has two layers (convolution, linear) or more; where such lists are nested, the inner ones count.
    """
    found: dict[str, list[str]] = {}
    for name, module in backbone.named_modules():
        if not isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        blocks = [(k, b) for k, b in module.named_children() if any(True for _ in b.parameters())]
        if blocks and len({type(b) for _, b in blocks}) == 1 and all(_layers(b) > 1 for _, b in blocks):
            found[name] = [f"{name}.{k}" if name else k for k, _ in blocks]
    outer = {
        name for name in found for other in found if other != name and other.startswith(f"{name}." if name else "")
    }
    return [blocks for name, blocks in found.items() if name not in outer]


def _layers(module: nn.Module) -> int:
    if isinstance(module, LAYERS):
        return 0
    return sum(isinstance(m, LAYERS) for m in module.modules())


def middle(block: nn.Module) -> Middle | None:
    """Return a block's middle convolution and what follows it; None where it has none, as in transformers."""
    modules = list(block.named_modules())
    fits = [i for i, (name, m) in enumerate(modules) if _keeps(m) and not _ASIDE.search(name)]
    if not fits:
        return None
    name, conv = modules[fits[-1]]
    behind = [(n, m) for n, m in modules[fits[-1] + 1 :] if not _ASIDE.search(n)]
    follows = [n for n, m in behind if isinstance(m, LAYERS) and _inputs(m) == conv.out_channels and _plain(m)]
    norms = [n for n, m in behind if isinstance(m, ModalityNorm) or is_norm(m)]
    return Middle(name, follows[0] if follows else None, norms[0] if norms else None)


def enclosable(block: nn.Module) -> bool:
    """Whether a pair can stand around the middle of a block: not where its only larger convolutions are strided."""
    return middle(block) is not None or not any(max(m.kernel_size) > 1 for m in block.modules() if isinstance(m, CONVS))


def _keeps(module: nn.Module) -> bool:
    if not isinstance(module, CONVS):
        return False
    return max(module.kernel_size) > 1 and max(module.stride) == 1 and module.in_channels == module.out_channels


def _plain(module: nn.Module) -> bool:
    return not isinstance(module, CONVS) or max(module.stride) == 1


def _inputs(module: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> int:
    return module.in_features if isinstance(module, nn.Linear) else module.in_channels


def first_channels(backbone: nn.Module) -> tuple[nn.Module, int]:
    """Return the first layer (convolution, else linear) of a backbone and the channels that it takes.

    Raises:
        InputError: if it has none.
    """
    for kinds in (CONVS, (nn.Linear,)):
        for module in backbone.modules():
            if isinstance(module, kinds):
                return module, _inputs(module)
    raise InputError(
        f"share cannot see which channels {type(backbone).__name__} takes: it has no convolution or linear layer. Give "
        "the modalities' names only, and stems= where a modality needs one"
    )


def chosen(backbone: nn.Module, at: At | None, placement: str) -> list[str]:
    """Return the names of the modules at which exchanges are placed.

    Args:
        at: names, patterns that match whole names, or a function of name and module; None for the last block of each
            stage ("after", "around"; the latter leaves out stages of one strided block) or all blocks ("norm").

    Raises:
        InputError: if nothing is found.
    """
    if at is None:
        found = stages(backbone)
        if not found:
            raise InputError(
                f"share found no stages of repeated blocks in {type(backbone).__name__}: say where the exchange goes, "
                "as at=['layer4.2'] (names from backbone.named_modules())"
            )
        if placement == "around":
            found = [blocks for blocks in found if enclosable(backbone.get_submodule(blocks[-1]))]
            if not found:
                raise InputError("share found no block whose middle convolution keeps channels and size; use at=")
        return [b for blocks in found for b in (blocks if placement == "norm" else blocks[-1:])]
    names = {name: module for name, module in backbone.named_modules(remove_duplicate=False) if name}
    if callable(at):
        picked = [name for name, module in names.items() if at(name, module)]
        if not picked:
            raise InputError("share: at= is true for none of the backbone's modules")
        return picked
    picked = []
    for pattern in (at,) if isinstance(at, str) else at:
        some = [pattern] if pattern in names else [n for n in names if re.fullmatch(pattern, n)]
        if not some:
            raise InputError(f"share: no module of the backbone is named {pattern!r}.{did_you_mean(pattern, names)}")
        picked += [name for name in some if name not in picked]
    return picked


def token_grid(backbone: nn.Module) -> tuple[int, int] | None:
    """Return height and width of the grid of patches that a transformer makes of the image size in its settings."""
    for module in backbone.modules():
        grid = getattr(module, "grid_size", None) or getattr(module, "patches_resolution", None)
        if isinstance(grid, tuple | list) and len(grid) == 2 and all(isinstance(v, int) for v in grid):
            return int(grid[0]), int(grid[1])
    for settings in (getattr(backbone, "config", None), backbone):
        image, patch = (_pair(getattr(settings, name, None)) for name in ("image_size", "patch_size"))
        if image is not None and patch is not None:
            return image[0] // patch[0], image[1] // patch[1]
    return None


def _pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    return None


def prefix_tokens(backbone: nn.Module) -> int:
    """Return how many tokens (class, distillation, registers) stand in front of the patches."""
    count = getattr(backbone, "num_prefix_tokens", None)
    if isinstance(count, int):
        return count
    names = ("cls_token", "class_token", "distillation_token", "register_tokens", "reg_token")
    for module in backbone.modules():
        found = [p for name in names if isinstance(p := getattr(module, name, None), nn.Parameter)]
        if found:
            return sum(p.shape[1] if p.ndim > 2 else 1 for p in found)
    return 0

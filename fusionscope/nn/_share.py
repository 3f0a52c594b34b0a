"""share and unshare: one backbone for several modalities, and separate ones again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._norms import PRIVATE, ModalityNorm, is_norm
from ._part import dimensions, named
from ._place import install, without_places
from ._places import CONVS, At, chosen, first_channels
from ._shared import SharedEncoder as SharedEncoder

NORMS = {"private": "both", "affine": "affine", "statistics": "statistics", "shared": "none"}
PLACEMENTS = ("after", "around", "norm")


def share(
    backbone: nn.Module,
    modalities: Sequence[str] | Mapping[str, int],
    norm: str = "private",
    stems: Mapping[str, nn.Module] | None = None,
    exchange: nn.Module | Mapping[str, nn.Module] | None = None,
    at: At | None = None,
    example: Mapping[str, Float[Tensor, "b ..."]] | None = None,
    frozen: bool = False,
) -> SharedEncoder:
    """Return an encoder of several modalities that share the backbone's weights, with norms of their own.

    Any backbone that takes one tensor, batch first, and returns tensors (in lists, dicts, dataclasses, ...) can be
    shared: a convolutional network, a transformer. Its code is not touched and the given backbone stays as it was: the
    encoder holds a copy, with the same weights; every modality's norms start with the backbone's.

    Args:
        backbone: the module to share.
        modalities: their names, or ``{name: input channels}``. A modality with other channels than the backbone's first
            convolution takes gets a stem: a 1x1 convolution that starts by repeating its channels (output ``j`` is
            input ``j mod C_m``; with more inputs than outputs, the mean of those that fall on ``j``).
        norm: ``"private"`` (affine and statistics), ``"affine"`` or ``"statistics"`` (only these), or ``"shared"``.
        stems: ``{name: module}`` to put in front of the backbone instead.
        exchange: an exchange, copied to each place, or ``{name of the place: exchange}``.
        at: where: names of modules, patterns that match whole names, or a function of name and module. Unless given,
            the last block of each stage (exchanges with placement "after" and "around"; the latter not where that
            block's only larger convolution is strided) or every block ("norm").
        example: a small batch ``{name: input}``; needed where norms or exchanges see several rows per sample, as in
            windows or frames folded into the batch: it is run once to count them.
        frozen: norms use their running statistics in training too and leave them as they are.

    An exchange "around" a block stands in front of its middle convolution and in front of the layer that takes what
    comes of that (behind the norm where none follows); in blocks without such a convolution, around the block. Its
    token grid and prefix are read from the backbone's settings unless the exchange has them.

    Convert batch norms to `SyncBatchNorm` before sharing: each modality then gets its own.

    Sources: modality-private norms over shared weights, arXiv:2108.05009 and arXiv:2011.05005.

    Raises:
        InputError: if a setting is unknown, a place is not found, or ``example`` shows that rows cannot be told apart.

    >>> import torch
    >>> backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 7, 3), torch.nn.BatchNorm2d(7), torch.nn.ReLU())
    >>> encoder = share(backbone, {"rgb": 3, "depth": 1})
    >>> out = encoder({"rgb": torch.randn(2, 3, 5, 5), "depth": torch.randn(2, 1, 5, 5)})
    >>> {m: list(x.shape) for m, x in out.items()}
    {'rgb': [2, 7, 3, 3], 'depth': [2, 7, 3, 3]}
    >>> with encoder.only("rgb"):
    ...     list(encoder({"rgb": torch.randn(2, 3, 5, 5)}))
    ['rgb']
    """
    if norm not in NORMS:
        raise InputError(f"share: norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}")
    if not isinstance(backbone, nn.Module):
        raise InputError(f"share takes a backbone, a torch.nn.Module, got {backbone!r}")
    sizes = dimensions(modalities, None, "share") if isinstance(modalities, Mapping) else None
    names = named(tuple(modalities), "share") if not isinstance(modalities, str) else named(modalities, "share")
    made = _stems(backbone, names, sizes, dict(stems or {}))
    backbone = copy.deepcopy(backbone)
    _replace_norms(backbone, names, NORMS[norm], frozen)
    encoder = SharedEncoder(backbone, names, made)
    for name, one in _placed(backbone, exchange, at).items():
        encoder.exchanges.append(install(backbone, name, one, names))
    if example is not None:
        _fit(encoder, dict(example))
    return encoder.train(backbone.training)


def unshare(encoder: SharedEncoder) -> dict[str, nn.Module]:
    """Return separate encoders, ``{modality: module}``, of the backbone's own structure with that modality's norms.

    Weights are copied. Exchanges are left out: without one the encoders compute what the shared encoder does. A stem
    stands in front as in ``nn.Sequential(stem, backbone)``.

    >>> encoder = share(nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5)), ("rgb", "depth"))
    >>> {m: [type(layer).__name__ for layer in module] for m, module in unshare(encoder).items()}
    {'rgb': ['Linear', 'LayerNorm'], 'depth': ['Linear', 'LayerNorm']}
    """
    found: dict[str, nn.Module] = {}
    for m in encoder.modalities:
        backbone = without_places(copy.deepcopy(encoder.backbone))
        plain: dict[int, nn.Module] = {}
        for parent in list(backbone.modules()):
            for key, child in parent._modules.items():
                if isinstance(child, ModalityNorm):
                    parent._modules[key] = plain.setdefault(id(child), child.of(m))
        found[m] = nn.Sequential(copy.deepcopy(encoder.stems[m]), backbone) if m in encoder.stems else backbone
    return found


def _replace_norms(backbone: nn.Module, modalities: tuple[str, ...], private: str, frozen: bool) -> None:
    if is_norm(backbone):
        raise InputError("share takes a backbone with layers, not a norm; use ModalityNorm for one")
    affine, statistics = PRIVATE[private]
    made: dict[int, ModalityNorm] = {}
    for parent in list(backbone.modules()):
        for key, child in list(parent._modules.items()):
            if child is None or not is_norm(child):
                continue
            # Shared batch norms are wrapped too, so that absent rows stay out of their statistics.
            if affine or getattr(child, "running_mean", None) is not None or (statistics and list(child.buffers())):
                if id(child) not in made:
                    made[id(child)] = ModalityNorm(child, modalities, private, frozen)
                parent._modules[key] = made[id(child)]
        if isinstance(parent, nn.TransformerEncoderLayer):
            # Its fast path reads the norms' weights without calling them.
            parent.activation_relu_or_gelu = 0


def _placed(
    backbone: nn.Module, exchange: nn.Module | Mapping[str, nn.Module] | None, at: At | None
) -> dict[str, nn.Module]:
    """Return the exchange for each place."""
    if exchange is None:
        if at is not None:
            raise InputError("share: at= says where exchange= goes, but no exchange was given")
        return {}
    if isinstance(exchange, Mapping):
        if at is not None:
            raise InputError("share: exchange={place: exchange} says where they go; leave at= out")
        return {name: _placeable(one) for key, one in exchange.items() for name in chosen(backbone, key, "after")}
    return dict.fromkeys(chosen(backbone, at, str(_placeable(exchange).placement)), exchange)


def _placeable(exchange: nn.Module) -> nn.Module:
    if not isinstance(exchange, nn.Module) or getattr(exchange, "placement", None) not in PLACEMENTS:
        kind = exchange.__name__ if isinstance(exchange, type) else type(exchange).__name__
        raise InputError(
            f"share takes exchanges, such as AsymFusion(): modules whose placement is one of "
            f"{', '.join(map(repr, PLACEMENTS))}; got {'the class' if isinstance(exchange, type) else 'a'} {kind}"
        )
    return exchange


def _stems(
    backbone: nn.Module, modalities: tuple[str, ...], sizes: dict[str, int] | None, stems: dict[str, nn.Module]
) -> dict[str, nn.Module]:
    unknown = [m for m in stems if m not in modalities]
    if unknown:
        raise InputError(f"share: stems for {unknown}, but the modalities are {list(modalities)}")
    found = {m: stems[m] for m in modalities if m in stems}
    if sizes is None or all(m in stems for m in modalities):
        return found
    layer, channels = first_channels(backbone)
    like = next(layer.parameters())
    for m, size in sizes.items():
        if m not in stems and size != channels:
            found[m] = _repeating(layer, size, channels).to(like.device, like.dtype)
    return {m: found[m] for m in modalities if m in found}


def _repeating(layer: nn.Module, inputs: int, outputs: int) -> nn.Module:
    """A 1x1 convolution (or linear layer) that repeats channels, or averages those that fall on one output."""
    kind = next((c for c in CONVS if isinstance(layer, c)), None)
    made = nn.Linear(inputs, outputs, bias=False) if kind is None else kind(inputs, outputs, 1, bias=False)
    weight = torch.zeros(outputs, inputs)
    for j in range(max(inputs, outputs)):
        weight[j % outputs, j % inputs] += 1
    with torch.no_grad():
        made.weight.copy_((weight / weight.sum(1, keepdim=True)).view_as(made.weight))
    return made


def _fit(encoder: SharedEncoder, example: dict[str, Tensor]) -> None:
    """Run a batch once to count the rows that each norm and exchange sees per sample; nothing else changes."""
    training = {module: module.training for module in encoder.modules()}
    state = torch.random.get_rng_state()
    encoder.eval()
    try:
        encoder._check(example, None)
        batch = len(example[encoder.modalities[0]])
        encoder._watched = True
        with torch.no_grad(), encoder.watched(batch, fit=True):
            encoder(example)
    finally:
        torch.random.set_rng_state(state)
        for module, mode in training.items():
            module.training = mode

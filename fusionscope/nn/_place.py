"""An exchange at its place in a shared backbone: interleaved rows become features by modality, and rows again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._norms import ModalityNorm
from ._part import subset
from ._places import CONVS, middle, prefix_tokens, token_grid
from ._rows import interleave, separate


class Place(nn.Module):
    """An exchange whose halves hang on modules of the backbone as hooks; the backbone's own code and names stay.

    Attributes:
        name: where it is.
        active: the modalities whose rows come in; with one of them there is nothing to exchange.
        present: who is there in the forward that runs, if not all.
        rows: consecutive rows of each modality of a sample.
    """

    def __init__(self, name: str, exchange: nn.Module, modalities: tuple[str, ...]):
        super().__init__()
        self.name, self.exchange, self.modalities, self.rows = name, exchange, modalities, 1
        self.present: dict[str, Tensor] | None = None
        self._active = modalities
        self.watch: Callable[[Place, int], None] | None = None
        # In a list, so that the norm is not registered here a second time.
        self._norm: list[ModalityNorm] = []

    @property
    def active(self) -> tuple[str, ...]:
        return self._active

    @active.setter
    def active(self, modalities: tuple[str, ...]) -> None:
        self._active = subset(modalities, self.modalities, "an exchange of share")

    def behind(self, module: nn.Module, half: str = "", last: bool = False) -> None:
        """Exchange what comes out of ``module``."""
        module.register_forward_hook(Half(self, half, last).behind, prepend=True)

    def ahead(self, module: nn.Module, half: str = "", last: bool = False) -> None:
        """Exchange what goes into ``module``."""
        module.register_forward_pre_hook(Half(self, half, last).ahead, prepend=True, with_kwargs=True)

    def behind_norm(self, norm: ModalityNorm, last: bool) -> None:
        """Exchange what comes out of a norm, whose scales the exchange reads."""
        self._norm = [norm]
        self.behind(norm, last=last)

    def penalty(self) -> Tensor | None:
        call: Callable[..., Tensor] | None = getattr(self.exchange, "penalty", None)
        if call is None:
            return None
        return call(self._norm[0].scales()) if self._norm else call()

    def clear(self) -> None:
        """Drop what the exchange kept between its halves, where the forward failed in between."""
        clear = getattr(self.exchange, "clear", None)
        if clear is not None:
            clear()

    def exchanged(self, x: Tensor, half: str, last: bool) -> Tensor:
        if self.watch is not None:
            self.watch(self, x.shape[0])
        if len(self._active) == 1:
            return x
        moved = last and x.ndim == 4
        features = separate(x.movedim(-1, 1) if moved else x, self._active, self.rows)
        present = None
        if self.present is not None:
            present = {m: self.present[m] for m in self._active if m in self.present}
            if self.rows > 1:
                present = {m: p.repeat_interleave(self.rows) for m, p in present.items()}
        if self._active != self.modalities:
            # An exchange that names its modalities, or keeps something of each, meets them all: the others are absent.
            like = features[self._active[0]]
            none = torch.zeros(like.shape[0], dtype=torch.bool, device=like.device)
            present = {**(present or {}), **{m: none for m in self.modalities if m not in features}}
            features = {m: features[m] if m in features else torch.zeros_like(like) for m in self.modalities}
        part = getattr(self.exchange, half) if half else self.exchange
        out = part(features, present, scales=self._norm[0].scales()) if self._norm else part(features, present)
        rows = [out[m] for m in self._active]
        if self.rows > 1:
            y = torch.stack([v.unflatten(0, (-1, self.rows)) for v in rows], 1).flatten(0, 2)
        else:
            y = interleave(dict(zip(self._active, rows, strict=True)))
        return y.movedim(1, -1) if moved else y

    def extra_repr(self) -> str:
        return self.name + (f", active={self._active}" if self._active != self.modalities else "")


class Half:
    """One hook of a place."""

    def __init__(self, place: Place, half: str, last: bool):
        self.place, self.half, self.last = place, half, last

    def behind(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if isinstance(out, Tensor):
            return self.place.exchanged(out, self.half, self.last)
        if isinstance(out, tuple | list) and out and isinstance(out[0], Tensor):
            first = self.place.exchanged(out[0], self.half, self.last)
            return type(out)([first, *out[1:]])
        raise InputError(
            f"an exchange of share stands at {self.place.name!r}, which returns a {type(out).__name__}: it must "
            "return a tensor or a tuple that starts with one; choose another place with at="
        )

    def ahead(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and isinstance(args[0], Tensor):
            return (self.place.exchanged(args[0], self.half, self.last), *args[1:]), kwargs
        for key, value in kwargs.items():
            if isinstance(value, Tensor):
                return args, {**kwargs, key: self.place.exchanged(value, self.half, self.last)}
        raise InputError(f"an exchange of share stands before {self.place.name!r}, which got no tensor")


def install(backbone: nn.Module, name: str, exchange: nn.Module, modalities: tuple[str, ...]) -> Place:
    """Hang a copy of an exchange on the module called ``name``, by the exchange's ``placement``."""
    place = Place(name, copy.deepcopy(exchange), modalities)
    module = backbone.get_submodule(name)
    found = middle(module)
    tokens = not any(isinstance(m, CONVS) for m in module.modules())
    if tokens:
        _fill_grid(place.exchange, backbone)
    last = tokens and any(isinstance(m, nn.Linear) or _channels_end(m) for m in module.modules())
    if exchange.placement == "after":
        place.behind(module, last=last)
    elif exchange.placement == "norm":
        place.behind_norm(*_norm_of(module, found.norm if found else None, name))
    elif found is None:
        place.ahead(module, "before", last=last)
        place.behind(module, "after", last=last)
    else:
        conv = module.get_submodule(found.conv)
        place.ahead(conv, "before")
        if found.follows is not None:
            follows = module.get_submodule(found.follows)
            place.ahead(follows, "after", last=isinstance(follows, nn.Linear))
        elif found.norm is not None:
            norm = module.get_submodule(found.norm)
            place.behind(norm, "after", last=_channels_end(norm))
        else:
            place.behind(conv, "after")
    return place


def _norm_of(module: nn.Module, name: str | None, place: str) -> tuple[ModalityNorm, bool]:
    norms = [m for m in module.modules() if isinstance(m, ModalityNorm)]
    norm = module.get_submodule(name) if name else norms[-1] if norms else None
    if not isinstance(norm, ModalityNorm) or not norm.own[0] or not norm.scales():
        raise InputError(
            f"an exchange that reads the norms' scales needs private norms with affine weights; {place!r} has none "
            "(share(..., norm='private'))"
        )
    return norm, _channels_end(norm)


def _channels_end(norm: nn.Module) -> bool:
    """Whether a norm takes maps with the channels last, ``[B,H,W,C]``."""
    base = norm.base if isinstance(norm, ModalityNorm) else type(norm)
    return issubclass(base, nn.LayerNorm) and not (
        base.__name__.endswith("2d") or getattr(norm, "data_format", None) == "channels_first"
    )


def _fill_grid(exchange: nn.Module, backbone: nn.Module) -> None:
    """Tell an exchange that was not told how the backbone's tokens lie."""
    holders: tuple[Any, Any] = (exchange, getattr(exchange, "_pair", None))
    for holder in holders:
        if getattr(holder, "grid", 0) is None:
            holder.grid = token_grid(backbone)
            if getattr(holder, "prefix", None) == 0:
                holder.prefix = prefix_tokens(backbone)


def without_places(backbone: nn.Module) -> nn.Module:
    """Take the exchanges' hooks off a backbone, and return it."""
    for module in backbone.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [k for k, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), Half)]:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
    return backbone

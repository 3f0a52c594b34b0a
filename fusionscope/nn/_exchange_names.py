"""Exchanges by name, for settings."""

from __future__ import annotations

from torch import nn

from fusionscope.errors import InputError, did_you_mean

from ._channel_exchange import ChannelExchange
from ._shuffle import AsymFusion, ChannelShuffle, PixelShift

EXCHANGES: dict[str, type[nn.Module]] = {
    "channel_shuffle": ChannelShuffle,
    "pixel_shift": PixelShift,
    "asym_fusion": AsymFusion,
    "channel_exchange": ChannelExchange,
}


def exchange_of(choice: str | nn.Module | None, modalities: int) -> nn.Module | None:
    """Return the exchange of this name, the module itself, or None; a name stands for None with one modality.

    Raises:
        InputError: if there is none of this name.
    """
    if not isinstance(choice, str):
        return choice
    if choice not in EXCHANGES:
        known = ", ".join(map(repr, EXCHANGES))
        raise InputError(f"unknown exchange {choice!r}: {known}, None or a module.{did_you_mean(choice, EXCHANGES)}")
    return EXCHANGES[choice]() if modalities > 1 else None

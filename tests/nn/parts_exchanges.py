"""The exchanges, for the table of parts."""

from __future__ import annotations

from torch import nn

from fusionscope.nn import AsymFusion, ChannelExchange, ChannelShuffle, ConsistencySpeciality, PixelShift

from .parts import MAPS, SEQUENCES, VECTORS, Case

ALL = tuple(VECTORS)
TWO = ALL[:2]
TWO_MAPS = {m: MAPS[m] for m in TWO}


def exchanging() -> ChannelExchange:
    # Scales are about 1 with a spread of 0.1: some channels are idle, some not.
    return ChannelExchange(threshold=0.95, norms={m: nn.GroupNorm(4, 20) for m in TWO})


PARTS = {
    "shuffle vectors": Case(lambda: ChannelShuffle(modalities=ALL), VECTORS, exchange=True, one=False),
    "shuffle tokens": Case(lambda: ChannelShuffle(1 / 3, TWO[::-1], prefix=2), {m: (7, 20) for m in TWO}, True, False),
    "shift maps": Case(lambda: PixelShift(modalities=ALL), MAPS, True, False),
    "asym maps": Case(lambda: AsymFusion(modalities=TWO), TWO_MAPS, True, False),
    "asym tokens": Case(
        lambda: AsymFusion(grid=(4, 6), prefix=1, modalities=TWO), {m: (7, 20) for m in TWO}, True, False
    ),
    "asym one way": Case(
        lambda: AsymFusion(1 / 2, second_shift=True, receivers=("depth",), modalities=ALL), MAPS, True, False
    ),
    "channel exchange vectors": Case(
        lambda: ChannelExchange(threshold=0.95, norms={m: nn.LayerNorm(20) for m in ALL}), VECTORS, True, False
    ),
    "channel exchange maps": Case(exchanging, TWO_MAPS, True, False),
    "consistency sequences": Case(lambda: ConsistencySpeciality(20, ALL, ratio=0.3), SEQUENCES, True, False),
    "consistency maps": Case(lambda: ConsistencySpeciality(20, TWO), TWO_MAPS, True, False),
}

"""The instruments' mathematics: pure functions in ``functional``, and one thin streaming class per instrument.

Every instrument follows one protocol (see ``Instrument``): ``context`` once per batch, ``reduce`` inside the hook,
``update`` after the forward, ``compute`` at the end. This room knows tensors, not models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._cka import CKAResult as CKAResult
    from ._cka import MinibatchCKA as MinibatchCKA
    from ._coalitions import CoalitionTable as CoalitionTable
    from ._coalitions import RemovalResult as RemovalResult
    from ._coalitions import RemovalRow as RemovalRow
    from ._eta import EtaResult as EtaResult
    from ._eta import EtaSquared as EtaSquared
    from ._eta import TapEta as TapEta
    from ._instrument import Instrument as Instrument
    from .functional._scores import Score as Score
    from .functional._scores import resolve_score as resolve_score

__getattr__, __dir__ = attach(
    __name__,
    {
        "CKAResult": "_cka",
        "CoalitionTable": "_coalitions",
        "EtaResult": "_eta",
        "EtaSquared": "_eta",
        "Instrument": "_instrument",
        "MinibatchCKA": "_cka",
        "RemovalResult": "_coalitions",
        "RemovalRow": "_coalitions",
        "Score": "functional._scores",
        "TapEta": "_eta",
        "functional": "",
        "resolve_score": "functional._scores",
    },
)

__all__ = [
    "CKAResult",
    "CoalitionTable",
    "EtaResult",
    "EtaSquared",
    "Instrument",
    "MinibatchCKA",
    "RemovalResult",
    "RemovalRow",
    "Score",
    "TapEta",
    "resolve_score",
]

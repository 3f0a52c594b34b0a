"""Pure functions of tensors behind the instruments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._cka import centred_gram as centred_gram
    from ._cka import hsic1 as hsic1
    from ._cka import linear_cka as linear_cka
    from ._cka import u_center as u_center
    from ._resampling import family_bound as family_bound
    from ._resampling import grouped_jackknife as grouped_jackknife
    from ._scores import resolve_score as resolve_score
    from ._variance import eta_squared as eta_squared
    from ._variance import variance_shares as variance_shares

__getattr__, __dir__ = attach(
    __name__,
    {
        "centred_gram": "_cka",
        "eta_squared": "_variance",
        "family_bound": "_resampling",
        "grouped_jackknife": "_resampling",
        "hsic1": "_cka",
        "linear_cka": "_cka",
        "resolve_score": "_scores",
        "u_center": "_cka",
        "variance_shares": "_variance",
    },
)

__all__ = [
    "centred_gram",
    "eta_squared",
    "family_bound",
    "grouped_jackknife",
    "hsic1",
    "linear_cka",
    "resolve_score",
    "u_center",
    "variance_shares",
]

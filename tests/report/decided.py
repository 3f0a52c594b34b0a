"""Scenarios of the decision instruments, made once, and copies of them with changed cells."""

from __future__ import annotations

from functools import cache
from typing import Any

import pandas as pd

from fusionscope.report._decisions import Decisions
from fusionscope.report._page import render
from fusionscope.report._view import View
from tests.report import factory
from tests.report import factory_decisions as planted
from tests.report.factory_decisions import Kept


def given(whole: factory.Dissected) -> Decisions:
    return Decisions(View(whole))


@cache
def whole_of(name: str) -> Kept:
    return getattr(planted, name)()


@cache
def usual(name: str = "scenes") -> Decisions:
    """A scenario as it is planted; nobody changes it."""
    return given(whole_of(name))


@cache
def page_of(name: str) -> str:
    """Return the page of a scenario."""
    return render(View((planted.EVERY | planted.ODD)[name]()))


def changed(table: str, where: dict[str, Any], whole: Kept | None = None, **columns: Any) -> Decisions:
    """The scenes with some columns changed in the rows that have these values."""
    whole = whole or whole_of("scenes")
    frame = whole.tables[table].copy()
    chosen = pd.Series(True, index=frame.index)
    for name, value in where.items():
        chosen &= frame[name] == value
    assert chosen.any()
    for name, value in columns.items():
        frame.loc[chosen, name] = value
    return given(Kept(whole.tables | {table: frame}, whole.manifest, whole.trace, whole.arrays))

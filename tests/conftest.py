"""Fixtures for all tests. Data that is not ours to ship lies beside the checkout and may be absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def required(what: str) -> bool:
    """True where a missing ``what`` ("data", "chromium") must fail a test instead of skipping it."""
    return what in os.environ.get("FUSIONSCOPE_REQUIRE", "").split(",")


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Return a finder of the real data sets: skips where they are absent, fails where they are required."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            message = f"the test data {name!r} is not here: expected at {path}"
            pytest.fail(message) if required("data") else pytest.skip(message)
        return path

    return find

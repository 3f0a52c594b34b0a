"""The commands: thin, and quick to show their help (nothing here imports torch before a command runs)."""

from __future__ import annotations

from fusionscope.cli._main import main as main

__all__ = ["main"]

"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusionscope._files import atomic_folder, atomic_write
from fusionscope.errors import FileError


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("one")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("two")
        raise ZeroDivisionError
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for text in ("one", "two"):
        with atomic_folder(path) as new:
            (new / "a.txt").write_text(text)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as new:
        (new / "a.txt").write_text("three")
        raise KeyboardInterrupt
    assert (path / "a.txt").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write to the folder .*file"), atomic_write(tmp_path / "file" / "a.txt"):
        pass


def test_an_interruption_between_the_two_renames_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old").touch()
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace)
        with atomic_folder(folder) as temporary:
            (temporary / "new").touch()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["run", "run/old"]

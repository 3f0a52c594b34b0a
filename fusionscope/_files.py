"""Files and folders written whole or not at all: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fusionscope.errors import FileError


def writable_parent(path: str | Path) -> Path:
    """Make the folder that will hold ``path`` and check that a file can be made there.

    Raises:
        FileError: if the folder cannot be made or written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise FileError(
            f"cannot write to the folder {path.parent} ({error.strerror or error}); choose another output folder "
            "or make this one writable"
        ) from error
    return path


@contextmanager
def atomic_write(path: str | Path) -> Generator[Path, None, None]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``, on failure removed.

    Raises:
        FileError: if the folder cannot be written.
    """
    path = writable_parent(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Generator[Path, None, None]:
    """Yield a temporary folder beside ``path``; on success it takes the place of ``path``, on failure it is removed.

    An existing folder at ``path`` is replaced only after the new one is complete.

    Raises:
        FileError: if the parent folder cannot be written.
    """
    path = writable_parent(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        try:
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
        except BaseException as error:  # an interruption between the two as well
            if old.exists() and not path.exists():
                os.replace(old, path)
            if not isinstance(error, OSError):
                raise
            raise FileError(f"cannot write the folder {path}: {error.strerror or error}") from error
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

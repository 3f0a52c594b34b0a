"""Weights as safetensors: no pickle is ever loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fusionscope._files import atomic_write
from fusionscope.errors import FileError, did_you_mean

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def save_weights(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a state dict with its metadata, whole or not at all."""
    with atomic_write(path) as temporary:
        save_file({k: v.contiguous() for k, v in state.items()}, temporary, dict(metadata))


def load_weights(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Load a safetensors file into ``model`` and return the file's metadata; all is checked before anything is copied.

    Raises:
        FileError: if the file is missing, is a pickle, is damaged, or does not fit the model: missing or unexpected
            names, other shapes.

    >>> import tempfile
    >>> from torch import nn
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file(nn.Linear(3, 2).state_dict(), f"{folder}/w.safetensors")
    ...     load_weights(nn.Linear(3, 2), f"{folder}/w.safetensors")
    {}
    """
    path = Path(path)
    state = model.state_dict()
    found, metadata = _read(path)
    shared = {v.data_ptr() for k, v in state.items() if k in found and v.numel()}
    missing = [k for k, v in state.items() if k not in found and v.data_ptr() not in shared]
    unexpected = [k for k in found if k not in state]
    if missing or unexpected:
        problems = [_listed("missing", missing)] * bool(missing) + [_listed("not in the model", unexpected)] * bool(
            unexpected
        )
        hint = did_you_mean(missing[0], unexpected) if missing else ""
        raise FileError(
            f"{path} does not fit the model {type(model).__name__}: {'; '.join(problems)}.{hint} "
            "Build the model with the settings it was trained with, or give its own weights"
        )
    for name, value in found.items():
        if value.shape != state[name].shape:
            raise FileError(
                f"{path} does not fit the model {type(model).__name__}: {name} has shape {tuple(value.shape)} in the "
                f"file and {tuple(state[name].shape)} in the model. Build the model with the settings it was trained "
                "with (width, number of classes, modalities)"
            )
    model.load_state_dict(found, strict=False)
    return metadata


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileError(f"weights file {path} {what}; expected a .safetensors file")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # safetensors begins with the header's length (8 bytes, little endian), then "{"
        if path.suffix.lower() in PICKLES or start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise FileError(
                f"{path} is a pickle, which can run code when loaded and is never loaded here. If you trust it, "
                "convert it once:\n"
                f"    safetensors.torch.save_file(torch.load({str(path)!r}, weights_only=True), "
                f"{str(path.with_suffix('.safetensors'))!r})"
            )
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise FileError(f"{path} is not a readable safetensors file ({error}); it may be cut off or damaged") from error
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error


def _listed(what: str, names: Iterable[str]) -> str:
    names = list(names)
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"

"""Keep and give back everything a forward pass may change: a traced or measured model is left as it was found."""

from __future__ import annotations

import copy
import math
import random
import sys
from collections import deque
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusionscope._nest import tensors
from fusionscope.errors import ModelError

_CONTAINERS = (list, dict, set, deque, tuple)
MOST_ITEMS = 10_000
PROBED = 1 << 16
_OWN = frozenset(vars(nn.Module()))


class ModelState:
    """A snapshot of parameters, buffers, gradients, tensor and container attributes, modes and random generators.

    Flags (bools, strings) and attributes that a forward adds are left alone: libraries install things lazily behind
    them, and rolling only the flag back would install them twice.

    Args:
        model: the model.
        known: an earlier snapshot, to which the model was just put back: its copies of the values are shared.
    """

    def __init__(self, model: nn.Module, known: ModelState | None = None) -> None:
        shared = known.values if known is not None else {}
        self.modules = [(name, module) for name, module in model.named_modules()]
        self.values: dict[int, tuple[Tensor, Tensor, bool, Tensor | None]] = {}
        self.homes: dict[int, Tensor] = {}  # the same memory: a forward may give a parameter other memory
        self.registered: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.attributes: list[tuple[str, nn.Module, str, Any, Any]] = []
        self.modes = [(module, module.training) for _, module in self.modules]
        for name, module in self.modules:
            for store in (module._parameters, module._buffers):
                for _, tensor in store.items():  # a scripted store has items() only
                    if tensor is not None and nn.parameter.is_lazy(tensor):
                        raise ModelError(
                            f"{name or type(model).__name__} has parameters without a shape (a lazy module): run the "
                            "model on one batch first"
                        )
                    if tensor is not None and id(tensor) not in self.values:
                        kept = shared[id(tensor)][1] if id(tensor) in shared else tensor.detach().clone()
                        self.values[id(tensor)] = (tensor, kept, tensor.requires_grad, tensor.grad)
                        self.homes[id(tensor)] = tensor.detach()
                if not isinstance(module, torch.jit.ScriptModule):
                    self.registered.append((store, dict(store)))
            if isinstance(module, torch.jit.ScriptModule):
                continue
            for key, value in vars(module).items():
                if key not in _OWN:
                    self.attributes.append((name, module, key, value, _kept(value)))
        self.grads = [
            (tensor, grad, grad.detach().clone()) for tensor, _, _, grad in self.values.values() if grad is not None
        ]
        self.rng = rng_state()

    def added(self) -> list[str]:
        """The names of attributes that hold tensors and were not there when this was made."""
        known: dict[int, set[str]] = {}
        for _, module, key, _, _ in self.attributes:
            known.setdefault(id(module), set()).add(key)
        return [
            f"{name}.{key}" if name else key
            for name, module in self.modules
            if not isinstance(module, torch.jit.ScriptModule)
            for key, value in vars(module).items()
            if key not in _OWN and key not in known.get(id(module), ()) and tensors(value)
        ]

    @torch.no_grad()
    def restore(self, *, rng: bool = True, quick: bool = False) -> list[str]:
        """Put everything back, by choice without the random generators; return the names of what had changed.

        ``quick`` looks at a part of the values of large tensors only: enough between two forwards of a model whose
        parameters a forward was seen not to change.
        """
        changed: list[str] = []
        touched: set[int] = set()
        for store, before in self.registered:
            if any(store.get(key) is not value for key, value in before.items()):
                changed += [key for key, value in before.items() if store.get(key) is not value]
                store.update(before)
        for tensor, value, requires_grad, grad in self.values.values():
            home = self.homes[id(tensor)]
            moved = tensor.layout == torch.strided and tensor.data_ptr() != home.data_ptr()
            if moved:
                tensor.data = home
            if moved or not (_seems_same if quick else _same)(tensor, value):
                tensor.data.copy_(value)  # unlike tensor.copy_, leaves a graph that holds the tensor valid
                touched.add(id(tensor))
                changed.append(self._name_of(tensor))
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if tensor.grad is not grad:
                tensor.grad = grad
        for _, grad, value in self.grads:
            if not _same(grad, value):
                grad.copy_(value)
        for name, module, key, value, kept in self.attributes:
            now = vars(module).get(key)
            if isinstance(value, bool):
                # A flag is left alone, unless it says that the module has set up its own parameters, which it has not.
                own = (*module._parameters.values(), *module._buffers.values())
                if now is not value and any(id(tensor) in touched for tensor in own):
                    vars(module)[key] = value
            elif _differs(now, value, kept):
                changed.append(f"{name}.{key}" if name else key)
                _put_back(module, key, value, kept)
            elif isinstance(value, Tensor) and now is not value:
                vars(module)[key] = value
        for module, training in self.modes:
            module.training = training
        if rng:
            set_rng(self.rng)
        return changed

    def _name_of(self, tensor: Tensor) -> str:
        for name, module in self.modules:
            for key, value in (*module._parameters.items(), *module._buffers.items()):
                if value is tensor:
                    return f"{name}.{key}" if name else key
        return "a tensor"


@contextmanager
def quiet(model: nn.Module) -> Generator[None, None, None]:
    """Run ``model`` eagerly, in eval mode, without gradients, with attention's fused fast path off.

    Modes are put back per module. The fast path skips submodules and its results differ in the last bits.
    """
    modes = [(module, module.training) for module in model.modules()]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for module, _ in modes:
            module.training = False
        with torch.inference_mode(False), torch.no_grad(), eager():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for module, training in modes:
            module.training = training


def eager() -> AbstractContextManager[Any]:
    """Run compiled modules uncompiled. Where the compiler was not loaded (that takes seconds), none is compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, _CONTAINERS) and len(value) <= MOST_ITEMS:
        try:
            return copy.deepcopy(value) if not _holds_modules(value) else copy.copy(value)
        except Exception:
            return copy.copy(value)
    return value


def _holds_modules(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return any(isinstance(item, nn.Module | nn.Parameter) for item in items)


def _differs(now: Any, value: Any, kept: Any) -> bool:
    if isinstance(value, Tensor):
        return not isinstance(now, Tensor) or not _same(now, kept) or not _same(value, kept)
    if isinstance(value, torch.Generator):
        return not torch.equal(value.get_state(), kept)
    if isinstance(value, np.ndarray):
        return now is not value or not np.array_equal(value, kept, equal_nan=value.dtype.kind in "fc")
    if isinstance(value, _CONTAINERS):
        return now is not value or (kept is not value and not _equal(value, kept))
    if value is None:
        return isinstance(now, (Tensor, np.ndarray, *_CONTAINERS))
    if isinstance(value, int | float):
        return type(now) is not type(value) or (now != value and not (math.isnan(now) and math.isnan(value)))
    return False


def _put_back(module: nn.Module, key: str, value: Any, kept: Any) -> None:
    if isinstance(value, Tensor) and not _same(value, kept):
        try:
            value.copy_(kept)
        except RuntimeError:  # an expanded tensor, or one made in inference mode: it cannot be written
            value = kept.clone()
    elif isinstance(value, torch.Generator):
        value.set_state(kept)
    elif isinstance(value, np.ndarray):
        np.copyto(value, kept)
    elif isinstance(value, tuple):
        value = value if _equal(value, kept) else _kept(kept)
    elif not isinstance(value, _CONTAINERS) or kept is value or _equal(value, kept):
        pass
    elif isinstance(value, list | deque):
        value.clear()
        value.extend(_kept(kept))
    elif isinstance(value, dict | set):
        value.clear()
        value.update(_kept(kept))
    vars(module)[key] = value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or _same(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple | deque) and type(a) is type(b):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if a is b:
        return True
    try:
        return type(a).__eq__ is object.__eq__ or bool(a == b)
    except Exception:
        return True


def _seems_same(a: Tensor, b: Tensor) -> bool:
    """:func:`_same`, or for a large tensor: some 4,000 of its values are the same."""
    if a.numel() < PROBED or a.shape != b.shape or not (a.is_contiguous() and b.is_contiguous()):
        return _same(a, b)
    step = a.numel() // 4096 | 1
    return _same(a.view(-1)[::step], b.view(-1)[::step])


def _same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit: NaN equals the same NaN, and minus zero is not zero."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if a.layout != torch.strided:
        return a.layout == b.layout and bool(torch.equal(a.to_dense(), b.to_dense()))
    if not (a.is_floating_point() or a.is_complex()):
        return bool(torch.equal(a, b))
    a, b = (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in (a, b))
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return bool(torch.equal(*(t.detach().resolve_neg().contiguous().view(kind) for t in (a, b))))


def rng_state() -> dict[str, Any]:
    """The state of the global random generators of Python, NumPy and torch."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng(state: dict[str, Any]) -> None:
    """Put back what :func:`rng_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])

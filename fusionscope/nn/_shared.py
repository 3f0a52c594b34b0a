"""The shared encoder: several modalities through one backbone, interleaved along the batch axis."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd import Variable

from fusionscope._nest import map_tensors, tensors
from fusionscope.errors import InputError, did_you_mean

from ._norms import ModalityNorm
from ._part import equal, hide, subset
from ._place import Place
from ._rows import interleave


class SharedEncoder(nn.Module):
    """One backbone for several modalities, as `share` makes it: ``{m: input} -> {m: what the backbone returns}``.

    The inputs are interleaved along the batch axis, go through the shared weights once, and come out separated: every
    tensor that the backbone returns, however nested, keeps each modality's rows. Absent samples are zero at the input,
    stay out of batch statistics, get nothing from and give nothing to exchanges, and are zero in what comes out.

    Attributes:
        backbone: the backbone, with its norms replaced.
        stems: ``{modality: module}`` in front of it, for those that have one.
        exchanges: the exchanges, in the order of their places.
        modalities: all names.
        active: those that run; set it to run a subset (all inner parts follow), or use ``with encoder.only("rgb")``.

    Raises:
        InputError: if the inputs are not the active modalities, their shapes differ behind the stems, or the backbone
            returns a tensor whose first axis does not hold the interleaved rows.
    """

    def __init__(self, backbone: nn.Module, modalities: tuple[str, ...], stems: dict[str, nn.Module]):
        super().__init__()
        self.modalities = modalities
        self.stems = nn.ModuleDict(stems)
        self.backbone = backbone
        self.exchanges = nn.ModuleList()
        self._active = modalities
        self._watched = False
        # What the parts were told last in the backward that runs.
        self._held: tuple[tuple[str, ...], dict[str, Tensor] | None] | None = None

    def inner(self) -> list[ModalityNorm | Place]:
        """Return the parts that look inside the interleaved rows: the norms, then the exchanges."""
        norms = [m for m in self.backbone.modules() if isinstance(m, ModalityNorm)]
        return [*norms, *self._places()]

    def _places(self) -> list[Place]:
        return [m for m in self.exchanges if isinstance(m, Place)]

    @property
    def active(self) -> tuple[str, ...]:
        return self._active

    @active.setter
    def active(self, modalities: Sequence[str]) -> None:
        self._active = subset(modalities, self.modalities, "SharedEncoder")
        self._tell(self._active, None)

    def _settle(self) -> None:
        self._held = None
        self._tell(self._active, None)

    def _tell(self, active: tuple[str, ...], present: dict[str, Tensor] | None) -> None:
        for part in self.inner():
            part.active, part.present = active, present

    @contextmanager
    def only(self, *modalities: str) -> Generator[SharedEncoder]:
        """Run these modalities only, until the ``with`` block ends."""
        before = self._active
        self.active = modalities
        try:
            yield self
        finally:
            self.active = before

    @property
    def channels(self) -> Any:
        """What the backbone calls its ``channels``."""
        return self.backbone.channels

    def penalty(self) -> Float[Tensor, ""]:
        """Return the sum of the exchanges' penalties: 0 where none has one."""
        found = [p for p in (place.penalty() for place in self._places()) if p is not None]
        if found:
            return torch.stack(found).sum()
        return torch.zeros((), device=next((p.device for p in self.parameters()), None))

    def forward(
        self, inputs: dict[str, Float[Tensor, "b ..."]], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> dict[str, Any]:
        self._check(inputs, present)
        if self._held is not None:
            self._settle()
        features = {}
        for m in self._active:
            x = hide(inputs[m], present, m)
            # A stem's biases are no input: absent samples are zero behind it as well.
            features[m] = hide(self.stems[m](x), present, m) if m in self.stems else x
        if not equal(x.shape for x in features.values()):
            shapes = ", ".join(f"{m} {list(x.shape)}" for m, x in features.items())
            raise InputError(
                f"a shared encoder takes inputs of one shape, got {shapes}"
                + (" behind the stems" if self.stems else "")
                + "; resize them, or pass share(..., stems={modality: module}) where channels differ"
            )
        batch = features[self._active[0]].shape[0]
        rows = interleave(features)
        if not self._watched and not torch.compiler.is_compiling():
            with self.watched(batch, fit=False):
                out = self._run(rows, present)
            self._watched = True
        else:
            out = self._run(rows, present)
        found = self._split(out, batch, present)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._remind(found, present)
        return found

    def _remind(self, found: dict[str, Any], present: dict[str, Tensor] | None) -> None:
        """Let what gradient checkpointing computes again in the backward see who was active and present here."""
        state = self._active, present

        def remind(_: Tensor) -> None:
            if self._held is None:
                if state == (self._active, None):
                    return
                Variable._execution_engine.queue_callback(self._settle)
            if self._held is not state:
                self._held = state
                self._tell(*state)

        for _, x in tensors(found):
            if x.requires_grad:
                x.register_hook(remind)

    def _run(self, rows: Tensor, present: dict[str, Tensor] | None) -> Any:
        if present is None and not len(self.exchanges):
            return self.backbone(rows)
        parts = [] if present is None else self.inner()
        for part in parts:
            part.present = present
        try:
            return self.backbone(rows)
        finally:
            for part in parts:
                part.present = None
            for place in self._places():
                place.clear()

    def _check(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> None:
        unknown = [m for m in (*inputs, *(present or ())) if m not in self.modalities]
        if unknown:
            raise InputError(
                f"this shared encoder knows {', '.join(map(repr, self.modalities))}; got {unknown[0]!r}."
                + did_you_mean(unknown[0], self.modalities)
            )
        if set(inputs) != set(self._active):
            raise InputError(
                f"a shared encoder runs its active modalities, {', '.join(map(repr, self._active))}, got "
                f"{', '.join(map(repr, inputs)) or 'none'}; set encoder.active = {tuple(inputs)}, or where samples "
                "lack a modality, pass zeros for it and present={modality: mask}"
            )

    def _split(self, out: Any, batch: int, present: dict[str, Tensor] | None) -> dict[str, Any]:
        size = batch * len(self._active)
        for path, x in tensors(out):
            if x.ndim == 0 or x.shape[0] == 0 or x.shape[0] % size:
                raise InputError(
                    f"the shared backbone returned {f'{path} ' if path else ''}{list(x.shape)} for {batch} samples of "
                    f"{len(self._active)} modalities: its first axis must be {size} rows or a multiple, or the "
                    "modalities cannot be told apart; wrap the backbone so that it returns such tensors only"
                )
        return {
            m: map_tensors(functools.partial(self._rows_of, place=i, batch=batch, present=present), out)
            for i, m in enumerate(self._active)
        }

    def _rows_of(self, x: Tensor, place: int, batch: int, present: dict[str, Tensor] | None) -> Tensor:
        several = x.shape[0] // (batch * len(self._active))
        if len(self._active) > 1:
            x = x.unflatten(0, (batch, len(self._active), several))[:, place]
            x = x[:, 0] if several == 1 else x.flatten(0, 1)
        m = self._active[place]
        mask = None if present is None else present.get(m)
        if mask is None:
            return x
        return hide(x, {m: mask if several == 1 else mask.repeat_interleave(several)}, m)

    @contextmanager
    def watched(self, batch: int, fit: bool) -> Generator[None]:
        """Check the rows that inner parts see in a forward of ``batch`` samples, or (``fit``) tell them their rows."""
        size, met = batch * len(self._active), dict.fromkeys((id(part) for part in self.inner()), False)

        def watch(part: ModalityNorm | Place, rows: int) -> None:
            several = rows // size
            if fit and several and not rows % size and not (met[id(part)] and part.rows != several):
                part.rows, met[id(part)] = several, True
            if rows % size or several != part.rows:
                name = next(n for n, m in self.named_modules() if m is part)
                raise InputError(
                    f"{name} sees {rows} rows for {batch} samples of {len(self._active)} modalities, not "
                    f"{size * part.rows}; "
                    + (
                        "it cannot tell the modalities apart: the batch must be its input's first axis, and the same "
                        "multiple at each call"
                        if fit or rows % size
                        else "pass a batch as share(..., example={modality: input}), so that it learns how many rows "
                        "a sample has there"
                    )
                )

        handles = []
        for part in self.inner():
            if isinstance(part, Place):
                part.watch = watch
            else:
                hook = part.register_forward_pre_hook(lambda part, args: watch(part, args[0].shape[0]), prepend=True)
                handles.append(hook)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for place in self._places():
                place.watch = None

    def __repr__(self) -> str:
        norms = [m for m in self.inner() if isinstance(m, ModalityNorm)]
        private = sum(p.numel() for p in self.stems.parameters())
        for norm in norms:
            own = norm.parameters() if norm.copies is None else norm.copies[self.modalities[0]].parameters()
            private += sum(p.numel() for p in own) * (norm.copies is None or len(self.modalities)) * norm.own[0]
        lines = [", ".join(m if m in self._active else f"({m})" for m in self.modalities)]
        lines.append(f"backbone={type(self.backbone).__name__}")
        if norms:
            lines.append(f"norms={len(norms)} private={norms[0].private!r}{' frozen' if norms[0].frozen else ''}")
        lines += [f"stem of {m}={type(stem).__name__}" for m, stem in self.stems.items()]
        if len(self.exchanges):
            named = self._places()
            kinds = ", ".join(dict.fromkeys(type(m.exchange).__name__ for m in named))
            lines.append(f"exchange={kinds} at {', '.join(m.name for m in named)}")
        total = sum(p.numel() for p in self.parameters())
        lines.append(f"parameters={total:,} of which private={private:,}")
        return "SharedEncoder(\n  " + "\n  ".join(lines) + "\n)"

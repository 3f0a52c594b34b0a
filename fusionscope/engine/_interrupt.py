"""Ctrl-C and SIGTERM wait until the step that runs is over, so that nothing half done is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType


class Interrupt:
    """While entered, the first signal only sets ``asked``; a second one interrupts at once.

    Only in the main thread, and only where ``defer`` says so: ranks that stopped at different steps would wait for one
    another for good.
    """

    def __init__(self, say: Callable[[str], None], defer: bool = True):
        self.asked = False
        self.say = say
        self.defer = defer and threading.current_thread() is threading.main_thread()
        self.before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if self.defer:
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.SIG_IGN:  # of a job in a script's background: stays so
                    continue
                self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # ty: ignore[invalid-argument-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say("interrupted: stopping after this step (once more: at once)")

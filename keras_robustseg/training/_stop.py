"""Stopping on request: Ctrl-C and SIGTERM finish the step, save the state, and end the run."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopRequested(BaseException):
    """Training was stopped on request with its state saved; the command line exits with 75."""


class StopSignals:
    """While active, remember SIGTERM and SIGINT instead of dying of them.

    A second SIGINT is passed on, so that a user can still leave at once.

    Example:
        ```python
        with StopSignals() as stop:
            while not stop.requested:
                work()
        ```
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *unused: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

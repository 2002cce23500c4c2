"""Ctrl-C and SIGTERM as a wish to stop at the next step, not in the middle of one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn


class Interruptions:
    """While entered, notes the first SIGINT or SIGTERM instead of dying of it.

    A second one acts as usual. Outside of the main thread, where Python handles no signals, it
    notes none.

    Attributes:
      received: The signal noted, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # What signal() returned.
        self._before.clear()

    def stop(self) -> NoReturn:
        """Ends the process as the noted signal would have."""
        noted = self.received
        self.__exit__()
        if noted is signal.SIGTERM:
            sys.stdout.flush()  # The signal leaves Python no time to.
            os.kill(os.getpid(), signal.SIGTERM)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number)
        for noted, handler in self._before.items():
            signal.signal(noted, handler)  # type: ignore[arg-type]  # What signal() returned.

"""Makes Ctrl-C and SIGTERM stop a run at the end of a step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn


class Interruptions:
    """Records the first SIGINT or SIGTERM, which then does not end the process.

    A second signal acts as usual. Only the main thread can use this: Python handles no signals in
    other threads.

    Attributes:
      received: The recorded signal, or None.
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
        """Ends the process as the recorded signal would have ended it."""
        noted = self.received
        self.__exit__()
        if noted is signal.SIGTERM:
            sys.stdout.flush()  # The signal ends Python before it flushes.
            os.kill(os.getpid(), signal.SIGTERM)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number)
        for noted, handler in self._before.items():
            signal.signal(noted, handler)  # type: ignore[arg-type]  # What signal() returned.

"""When to stop: Ctrl-C, SIGTERM, or - where asked for - the end of the process that started us."""

import os
import signal
import time
from types import FrameType

IMPATIENT_AFTER_S = 2.0


class StopRequest:
    """Installs handlers for SIGINT and SIGTERM. Asked again later, it ends the process at once; the warden cleans up.

    ``with_parent`` also counts the end of our parent: ``make`` killed with -9 must not leave its system running.
    """

    def __init__(self, *, with_parent: bool = False) -> None:
        self._signalled_at: float | None = None
        self._parent = os.getppid() if with_parent else None
        # A flag and no exception: one raised between starting a child and writing it down would leave it behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    @property
    def requested(self) -> bool:
        """Whether it is time to stop."""
        return self._signalled_at is not None or (self._parent is not None and os.getppid() != self._parent)

    def wait(self, timeout_s: float) -> bool:
        """Up to ``timeout_s`` seconds; whether it is time to stop."""
        deadline = time.monotonic() + timeout_s
        while not self.requested and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.requested

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
        # A group that is sent SIGTERM gives us two at once: its own, and the one that make hands on to its child.
        elif now - self._signalled_at > IMPATIENT_AFTER_S:
            os._exit(128 + number)

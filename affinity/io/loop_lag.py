"""How late an event loop is: what a blocking call, a starved machine or a frozen process does to everything else."""

import asyncio
from collections.abc import Callable

EVERY_S = 0.5


class LoopLag:
    """Once started, calls ``observe`` every ``EVERY_S`` with the seconds by which the loop was late. No task, no await:
    what is measured is how long a timer that is due waits for its turn.
    """

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measure from now on, in the loop that runs."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(loop.time() + EVERY_S, self._due, loop, loop.time() + EVERY_S)

    def stop(self) -> None:
        """Measure no more."""
        if self._timer:
            self._timer.cancel()

    def _due(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        now = loop.time()
        self._observe(max(0.0, now - at))
        self._timer = loop.call_at(now + EVERY_S, self._due, loop, now + EVERY_S)

"""Explanations of queued jobs, computed beside the event loop without holding it up.

A thread that computes keeps the interpreter's lock for 5 ms whenever the loop wants it back, and the loop wants it back
several times per request: a job submitted meanwhile would take many times as long, and more with every further thread.
So there is one at a time, and it rests after every slice of work. Why a thread, and not slices on the loop itself: one
step of it is a plan of the whole fleet, which has no end of its own choosing.
"""

import asyncio
import time
from collections.abc import Callable

from affinity.io.ports import Clock
from affinity.policy.eta import Steps, T

SLICE_S = 0.001
"""Work before it rests. A step that takes longer is not broken off."""

REST_S = 0.001
"""Long enough for whoever waits for the interpreter's lock to get it."""

PATIENCE_S = 2.0
"""From the question on, the wait for one's turn included. After that, an answer has what was found by then."""


class Explaining:
    """Takes the steps of one computation at a time. ``rest`` is called in the thread, with seconds."""

    def __init__(self, clock: Clock, rest: Callable[[float], None] = time.sleep) -> None:
        self._clock = clock
        self._rest = rest
        self._turn = asyncio.Lock()

    async def found(self, steps: Steps[T]) -> T:
        """What these steps come to, cut short where they would take longer than ``PATIENCE_S`` from now."""
        until_s = self._clock.monotonic() + PATIENCE_S
        async with self._turn:
            return await asyncio.to_thread(self._take, steps, until_s)

    def _take(self, steps: Steps[T], until_s: float) -> T:
        began_s = self._clock.monotonic()
        enough: bool | None = None  # Nothing can be sent to a generator that has not begun.
        while True:
            try:
                steps.send(enough)
            except StopIteration as end:
                found: T = end.value
                return found
            now_s = self._clock.monotonic()
            enough = now_s >= until_s
            if now_s - began_s >= SLICE_S:
                self._rest(REST_S)
                began_s = self._clock.monotonic()

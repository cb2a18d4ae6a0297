"""The clock behind the ``Clock`` port: one for the whole fleet, the store's.

Instants of two machines are compared all over the place: a job's creation with the instant it is started, a resident's
age with the present, a refusal's end. Were each machine to read its own clock, one that is minutes ahead would evict
what was just loaded, give up what was just asked for and expire jobs that nobody had time to start. So every process
reads the store's clock instead, and sets its own copy by it: leases and claims run on that one anyway.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from affinity.errors import StoreUnavailable
from affinity.io.redis_client import RedisLink

log = structlog.get_logger(__name__)

ALIGN_EVERY_S = 10.0
"""Between two looks at the store's clock: an oscillator that is off by 200 ppm is off by 2 ms by then."""

ALIGN_AGAIN_S = 1.0
"""After a look that failed: until the first one succeeds, our instants are this machine's."""

WORTH_SAYING_S = 1.0
"""A machine whose clock is this far from the store's is worth a warning: its own logs will be hard to compare."""


class StoreClock:
    """The store's time, carried on by this machine's monotonic clock: setting the machine's clock changes nothing here.

    Before the first ``align`` it is this machine's own time. ``ask`` gives the store's in epoch seconds, and may raise
    ``StoreUnavailable``.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[float]],
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._monotonic = monotonic
        self._began_at = wall() - monotonic()

    def now(self) -> float:
        """Epoch seconds by the store's clock."""
        return self._began_at + self._monotonic()

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return self._monotonic()

    async def align(self) -> None:
        """Look at the store's clock once. ``StoreUnavailable``: we go on as before.

        The answer was right at some instant between question and answer. Where our time lies in between, it may be
        right and is left alone, else it moves by the least that makes it possible: a slow answer does little harm.
        """
        asked_s = self._monotonic()
        at = await self._ask()
        answered_s = self._monotonic()
        aligned_at = min(max(self._began_at, at - answered_s), at - asked_s)
        moved_s = aligned_at - self._began_at
        self._began_at = aligned_at
        if abs(moved_s) >= WORTH_SAYING_S:
            log.warning("clock.moved", by_s=round(moved_s, 3), advice="keep this machine's time and Redis' with NTP")

    async def keep_aligned(self) -> NoReturn:
        """Look at it now and again, for ever."""
        while True:
            try:
                await self.align()
            except StoreUnavailable:
                await asyncio.sleep(ALIGN_AGAIN_S)
            else:
                await asyncio.sleep(ALIGN_EVERY_S)


def store_clock(link: RedisLink, wall: Callable[[], float] = time.time) -> StoreClock:
    """The clock of the Redis server behind the link; ``wall`` is this machine's."""

    async def ask() -> float:
        seconds, microseconds = await link.call("TIME")
        return int(seconds) + int(microseconds) / 1e6

    return StoreClock(ask, wall)

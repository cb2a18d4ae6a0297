"""Deliveries that cannot be decided now: kept in hand for a while, then handed back, for this worker or another.

The broker counts every hand-back and gives a message up at a hundred. So what is handed back because a server is away
is held for as long as that server has been away already: an outage of an hour takes some twenty deliveries, and a
worker that alone is cut off keeps others waiting no longer than it has been cut off. Once the server answers, what is
held goes back at once.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from affinity.io.ports import Clock, Delivery
from worker.tasks import Tasks

HOLD_S = 1.0
"""How long a delivery that cannot be decided now (its job runs elsewhere, the store is away) stays in our hands, at
least: handed back at once, it would only come again at once."""

HOLD_MOST_S = 300.0
"""Far below the half hour after which the broker takes an unsettled delivery back, and with it the channel."""


class Absence:
    """A server that may be away, as far as we know from the calls we made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None
        self._back = asyncio.Event()

    def failed(self) -> None:
        """A call came to nothing."""
        if self._since is None:
            self._since = self._clock.monotonic()
            self._back.clear()

    def back(self) -> None:
        """A call was answered."""
        self._since = None
        self._back.set()

    def hold_s(self) -> float:
        """How long to hold, at most, what comes to nothing now."""
        away_s = 0.0 if self._since is None else self._clock.monotonic() - self._since
        return min(max(away_s, HOLD_S), HOLD_MOST_S)

    async def held_for(self) -> None:
        """Wait until the server is back, or for ``hold_s``; for ``HOLD_S`` in any case."""
        most_s = self.hold_s()
        await asyncio.sleep(HOLD_S)
        if self._since is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._back.wait(), most_s - HOLD_S)


class Holding:
    """Holds one worker's deliveries. Say to ``store`` and ``broker`` how calls to them went."""

    def __init__(self, clock: Clock, tasks: Tasks) -> None:
        self.store = Absence(clock)
        self.broker = Absence(clock)
        self._tasks = tasks

    def hand_back_later(self, delivery: Delivery) -> None:
        """Its job is somebody else's for now."""

        async def later() -> None:
            await asyncio.sleep(HOLD_S)
            await delivery.requeue()

        self._tasks.spawn(later(), "hold")

    def wait_for(self, server: Absence, delivery: Delivery) -> None:
        """Nothing can be done with it while that server is away."""
        server.failed()

        async def later() -> None:
            await server.held_for()
            await delivery.requeue()

        self._tasks.spawn(later(), "hold")


async def apart(deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
    """Without those that are to run alone, or the first of these where it comes first. The rest is handed back, and
    next again.
    """
    if len(deliveries) < 2 or not any(delivery.alone for delivery in deliveries):
        return deliveries
    kept = deliveries[:1] if deliveries[0].alone else [d for d in deliveries if not d.alone]
    for delivery in deliveries:
        if delivery not in kept:
            await delivery.requeue()
    return kept

"""How a worker comes by its next job: each way as the smallest loop that does it, over the product's own broker port.

The product's worker cannot be asked to work otherwise than it does; ``Armed`` follows ``worker/runtime.py``, where a
batch is one job.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from affinity.io.fleet_store import RedisFleetStore
from affinity.io.ports import Delivery, Intake
from affinity.io.redis_client import RedisLink
from affinity.wire import decode_message
from bench.hoarding_cells import FRESH_S, Kind, Way
from bench.hoarding_measures import Hold, Log

LOOK_ANYWAY_S = 1.0
"""Hints may be lost: a worker that only gets looks by itself now and again."""


@dataclass(frozen=True, slots=True)
class Held:
    """A delivery in hand. ``created_at`` in epoch seconds, ``got_at`` on the monotonic clock."""

    delivery: Delivery
    job: str
    model: str
    created_at: float
    got_at: float


class Queued:
    """The jobs nobody has started, as the store knows them. A look costs a round trip to the store, as it would."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._jobs: dict[str, dict[str, None]] = {}

    def add(self, job: str, model: str) -> None:
        """A job was created. Later ones wait behind it."""
        self._jobs.setdefault(model, {})[job] = None

    def remove(self, job: str, model: str) -> None:
        """It has started."""
        del self._jobs[model][job]

    async def oldest_first(self) -> list[str]:
        """Models that have jobs waiting; jobs are numbered in the order they were created."""
        await self._link.call("PING")
        heads = [(int(next(iter(jobs))), model) for model, jobs in self._jobs.items() if jobs]
        return [model for _, model in sorted(heads)]


class Desk:
    """One worker's dealings with the broker, and what is in its hands: all of it is noted."""

    def __init__(self, worker: str, models: tuple[str, ...], intake: Intake, queued: Queued, log: Log) -> None:
        self.models = models
        self.queued = queued
        self._worker = worker
        self._intake = intake
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Bind every model, and have the channels opened before anything is measured."""
        for model in self.models:
            await self._intake.bind(model)
        await self._intake.take(self.models[0], 1)

    async def consume(self, model: str, prefetch: int, arrived: Callable[[Held], None]) -> None:
        """Start a consumer."""

        async def brought(delivery: Delivery) -> None:
            self._log.operations["deliver"] += 1
            arrived(self._held(delivery, model))

        self._log.operations["consume"] += 1
        await self._intake.arm(model, prefetch, brought)

    async def stop(self, model: str) -> None:
        """Stop it."""
        self._log.operations["cancel"] += 1
        await self._intake.disarm(model)

    async def take(self, model: str) -> Held | None:
        """The next job of a queue by ``basic.get``, if there is one."""
        taken = await self._intake.take(model, 1)
        self._log.operations["get" if taken else "get_empty"] += 1
        return self._held(taken[0], model) if taken else None

    def start(self, held: Held) -> float:
        """The instant at which its execution begins."""
        return self._let_go(held, started=True)

    async def hand_back(self, held: Held) -> None:
        """It goes back to its queue."""
        self._let_go(held, started=False)
        self._log.operations["requeue"] += 1
        await held.delivery.requeue()

    async def ack(self, held: Held) -> None:
        """It is done."""
        self._log.operations["ack"] += 1
        await held.delivery.ack()

    def later(self, doing: Coroutine[Any, Any, None]) -> None:
        """Do it beside what goes on; ``close`` waits for it."""
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Settle what is on its way, then close the channels."""
        await asyncio.gather(*self._tasks)
        await self._intake.close()

    def _held(self, delivery: Delivery, model: str) -> Held:
        spec, created_at = decode_message(delivery.body, model, delivery.message_id)
        if delivery.parked:
            self._log.parked.add(spec.id)
        return Held(delivery, spec.id, model, created_at or 0.0, time.monotonic())

    def _let_go(self, held: Held, started: bool) -> float:
        now = time.monotonic()
        self._log.holds.append(Hold(held.job, self._worker, held.got_at, now, started))
        return now


class Supply(Protocol):
    """One way, at one worker."""

    async def open(self) -> None:
        """Before the first job is sent."""

    async def next(self) -> Held | None:
        """Wait for the next job to start; ``None`` after ``end``."""

    async def during(self, running: "asyncio.Task[None]") -> None:
        """What is done while a job runs; returns once it has ended."""

    def end(self) -> None:
        """No more jobs will come. A cancelled wait would not do: the client library may swallow it."""

    async def close(self) -> None:
        """Leave nothing running. After ``end``."""


class Standing:
    """A consumer on every model, all the time. Jobs are started in the order in which they came."""

    def __init__(self, desk: Desk, prefetch: int) -> None:
        self._desk = desk
        self._prefetch = prefetch
        self._in_hand: asyncio.Queue[Held | None] = asyncio.Queue()

    async def open(self) -> None:
        for model in self._desk.models:
            await self._desk.consume(model, self._prefetch, self._arrived)

    async def next(self) -> Held | None:
        return await self._in_hand.get()

    async def during(self, running: "asyncio.Task[None]") -> None:
        await running

    def end(self) -> None:
        self._in_hand.put_nowait(None)

    async def close(self) -> None:
        for model in self._desk.models:
            await self._desk.stop(model)

    def _arrived(self, held: Held) -> None:
        self._in_hand.put_nowait(held)


class Bouncing(Standing):
    """The same; but what comes while a job runs is handed back at once, and so is what else came before it began."""

    def __init__(self, desk: Desk, prefetch: int) -> None:
        super().__init__(desk, prefetch)
        self._busy = False

    async def next(self) -> Held | None:
        self._busy = False
        held = await super().next()
        self._busy = True
        while not self._in_hand.empty():
            if other := self._in_hand.get_nowait():
                self._desk.later(self._desk.hand_back(other))
        return held

    def _arrived(self, held: Held) -> None:
        if self._busy:
            self._desk.later(self._desk.hand_back(held))
        else:
            super()._arrived(held)


class Getting:
    """No consumers: upon a hint that a job was published, one look at what waits and a ``basic.get``."""

    def __init__(self, desk: Desk, fleet: RedisFleetStore) -> None:
        self._desk = desk
        self._fleet = fleet
        self._hint = asyncio.Event()
        self._ended = False

    async def open(self) -> None:
        self._listening = asyncio.get_running_loop().create_task(self._listen())
        await self._hint.wait()

    async def next(self) -> Held | None:
        while not self._ended:
            self._hint.clear()
            for model in await self._desk.queued.oldest_first():
                if held := await self._desk.take(model):
                    return held
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_ANYWAY_S):
                    await self._hint.wait()
        return None

    async def during(self, running: "asyncio.Task[None]") -> None:
        await running

    def end(self) -> None:
        self._ended = True
        self._hint.set()

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.wait({self._listening})

    async def _listen(self) -> None:
        async for _ in self._fleet.wakes():
            self._hint.set()


class Armed:
    """Consumers while idle; once a job has run for ``stop_after_s`` they are stopped and what they brought is handed
    back. Then the backlog is served by ``basic.get``, the oldest job first, until there is none.

    ``hand_first``: what a consumer has brought is started before the backlog is looked at.
    """

    def __init__(self, desk: Desk, stop_after_s: float | None, hand_first: bool) -> None:
        self._desk = desk
        self._stop_after_s = stop_after_s
        self._hand_first = hand_first
        self._armed: set[str] = set()
        self._in_hand: deque[Held] = deque()
        self._arrival = asyncio.Event()
        self._dry = False
        self._fresh = False
        self._ended = False

    async def open(self) -> None:
        await self._arm()

    async def next(self) -> Held | None:
        while not self._ended:
            skip_backlog = self._dry or (self._hand_first and self._in_hand)
            held = None if skip_backlog else await self._picked()
            if held is None and self._in_hand:
                held = self._in_hand.popleft()
            if held is not None:
                self._fresh = self._dry and time.time() - held.created_at < FRESH_S
                return held
            self._dry = True
            await self._arm()
            if not self._in_hand and not self._ended:
                self._arrival.clear()
                await self._arrival.wait()
        return None

    async def during(self, running: "asyncio.Task[None]") -> None:
        if self._armed:
            await asyncio.wait({running}, timeout=self._stop_after_s)
            if not running.done():
                await self._disarm()
        await running
        self._dry = self._fresh and bool(self._armed)

    def end(self) -> None:
        self._ended = True
        self._arrival.set()

    async def close(self) -> None:
        await self._disarm()

    async def _picked(self) -> Held | None:
        for model in await self._desk.queued.oldest_first():
            for held in self._in_hand:
                if held.model == model:
                    self._in_hand.remove(held)
                    return held
            if taken := await self._desk.take(model):
                return taken
        return None

    async def _arm(self) -> None:
        for model in self._desk.models:
            if model not in self._armed:
                self._armed.add(model)
                await self._desk.consume(model, 1, self._arrived)

    async def _disarm(self) -> None:
        for model in sorted(self._armed):
            self._armed.discard(model)
            await self._desk.stop(model)
            for held in [each for each in self._in_hand if each.model == model]:
                self._in_hand.remove(held)
                await self._desk.hand_back(held)

    def _arrived(self, held: Held) -> None:
        if held.model in self._armed:
            self._in_hand.append(held)
            self._arrival.set()
        else:  # On its way while the consumer was being stopped.
            self._desk.later(self._desk.hand_back(held))


def supply_of(way: Way, exec_s: float, desk: Desk, fleet: RedisFleetStore) -> Supply:
    """That way at that desk, where jobs take so long in the mean."""
    match way.kind:
        case Kind.STANDING:
            return Standing(desk, way.prefetch)
        case Kind.BOUNCING:
            return Bouncing(desk, way.prefetch)
        case Kind.GETTING:
            return Getting(desk, fleet)
        case Kind.ARMED:
            return Armed(desk, way.threshold_s(exec_s), way.hand_first)

"""Fallback: jobs whose model nobody held when they were published. Each is sorted into its model's queue.

Any worker sorts; nobody serves from fallback. So the fallback queue stays short, the demand is recorded, and whoever
has room chooses *which model* to load with the whole demand in view.
"""

import itertools
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial

import structlog

from affinity.errors import (
    BrokerUnavailable,
    IdConflict,
    StoreUnavailable,
    UndecodableMessage,
    UnknownModel,
)
from affinity.io.ports import Delivery
from affinity.job import Job, JobError
from affinity.topology import lane
from worker.batch import BatchRunner
from worker.services import Services
from worker.tasks import Tasks

log = structlog.get_logger(__name__)

GIVE_UP_STEP = 100
STRANGERS_STEP = 100
"""Deliveries looked at in one go."""


class Sorter:
    """Sorts fallback's deliveries, each in a task of its own; at most the prefetch at a time."""

    def __init__(self, services: Services, batches: BatchRunner, tasks: Tasks) -> None:
        self._services = services
        self._batches = batches
        self._tasks = tasks
        names = [entry.name for entry in services.catalog]
        # Each worker begins elsewhere: together they are round sooner.
        first = zlib.crc32(services.identity.worker.encode()) % len(names) if names else 0
        self._rounds = itertools.cycle(names[first:] + names[:first])

    async def arrived(self, delivery: Delivery) -> None:
        """Take a delivery from fallback."""
        self._tasks.spawn(self._sort(delivery), "sort")

    async def give_up(self, model: str, error: JobError) -> None:
        """Nobody can load the model: fail all that wait in its queue. The claim keeps others from loading meanwhile."""
        identity, fleet = self._services.identity, self._services.fleet
        try:
            if not await fleet.claim(model, identity.worker, self._services.timing.lease_s):
                return
            for name in [model, *await self._lanes_of(model)]:
                while await self._each(name, GIVE_UP_STEP, partial(self._give_up_one, error=error)):
                    pass
            await fleet.release(model, identity.worker)
        except (StoreUnavailable, BrokerUnavailable) as unavailable:
            log.warning("give_up.incomplete", model=model, code=unavailable.code, error=unavailable.message)

    async def count_strangers(self, model: str) -> None:
        """Jobs published without HTTP to a queue nobody consumes just now are known to nobody: record them."""
        await self._each(model, STRANGERS_STEP, self._count_stranger)

    async def count_all_strangers(self, models: Iterable[str]) -> None:
        """The same for each of these that nobody but tenants is known to ask for: while they take turns, what runs
        has strangers too that nobody sees. Where a store or broker is away, not now."""
        with suppress(StoreUnavailable, BrokerUnavailable):
            known = {demand.model for demand in await self._services.store.demand() if demand.has_nobodys}
            for model in models:
                if model not in known:
                    await self.count_strangers(model)

    async def count_forgotten(self) -> None:
        """The same for the next model of the catalogue. What was in its queue when its last holder went is in no demand
        where nobody knows of it, or where it is a copy of a job that is over: else it would stay there.
        """
        model = next(self._rounds)
        with suppress(BrokerUnavailable):
            # Asked on a channel of its own: one that takes from a queue that is not there loses what it has taken.
            if await self._services.publisher.depth(self._services.topology.model_queue(model)):
                await self.count_all_strangers([model])

    async def _lanes_of(self, model: str) -> list[str]:
        demand = await self._services.store.demand()
        return [lane(model, one.tenant) for each in demand if each.model == model for one in each.lanes if one.tenant]

    async def _each(self, model: str, most: int, look: Callable[[Delivery], Awaitable[None]]) -> int:
        """Take deliveries and look at each; those not looked at when one cannot be are handed back. Says how many."""
        left = deque(await self._services.intake.take(model, most))
        taken = len(left)
        try:
            while left:
                await look(left[0])
                left.popleft()
        finally:
            for delivery in left:
                await delivery.requeue()
        return taken

    async def _give_up_one(self, delivery: Delivery, error: JobError) -> None:
        if (job := await self.sight(delivery)) is not None:
            await self._fail(delivery, job, error)

    async def _count_stranger(self, delivery: Delivery) -> None:
        if await self.sight(delivery) is not None:
            await delivery.requeue()

    async def _fail(self, delivery: Delivery, job: Job, error: JobError) -> None:
        """Its model cannot be had: the job fails and its delivery goes to the dead letters. Not if the job runs: its
        attempt may be lost yet, and then this is its only copy.
        """
        if await self._services.store.fail(job.id, error, self._services.clock.now()):
            self._services.metrics.failed(job.spec.model, error.code)
            self._services.metrics.gave_up(job.spec.model, error.code)
            await self._batches.letters.bury(delivery, error, job)
        else:
            self._batches.holding.hand_back_later(delivery)

    async def sight(self, delivery: Delivery) -> Job | None:
        """Record a job that may have come without HTTP. ``None``: it is settled already and there is nothing to do."""
        try:
            spec, created_at = self._batches.decode(delivery)
            now = self._services.clock.now()
            job = await self._services.store.sight(spec, now if created_at is None else created_at, now)
        except (UndecodableMessage, IdConflict) as error:
            await self._batches.letters.bury(delivery, error)
            return None
        self._batches.holding.store.back()
        if job.state.terminal:
            await delivery.ack()
            return None
        return job

    async def _sort(self, delivery: Delivery) -> None:
        try:
            job = await self.sight(delivery)
            if job is not None:
                await self._park(delivery, job)
        except (StoreUnavailable, BrokerUnavailable) as error:
            holding = self._batches.holding
            log.warning("fallback.held", code=error.code, error=error.message)
            holding.wait_for(holding.store if isinstance(error, StoreUnavailable) else holding.broker, delivery)

    async def _park(self, delivery: Delivery, job: Job) -> None:
        try:
            self._services.catalog.get(job.spec.model)
        except UnknownModel as error:
            await self._fail(delivery, job, JobError(error.code, error.message))
            return
        # Also where the job is running: this copy is the one that survives its worker.
        await self._services.publisher.park(job.spec, job.created_at, delivery.alone, delivery.trace)
        self._batches.holding.broker.back()
        await delivery.ack()
        with suppress(StoreUnavailable):  # Only a hint: every worker looks once per heartbeat anyway.
            await self._services.fleet.wake()

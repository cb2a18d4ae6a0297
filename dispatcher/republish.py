"""Jobs that are queued in the store and that no queue has: they are published again.

A queue can lose what it has confirmed (RabbitMQ 3.10 killed within a second of declaring it, a queue deleted by hand),
and a store that lost its last moment can call a job queued whose message was acked in it. Nobody would ever bring such
a job to a worker.

What is looked for is a model with more queued jobs than its queue and fallback have messages, on two looks. Some of
those are on their way or in somebody's hands, which lasts for a moment; what is lost is there at both looks, and
since what is not lost is served, comes to be the oldest. So no more copies are published than messages are missing: a
queue never gets longer than there are jobs. A copy too many does no harm: the store lets one of them start.

When all is well this costs one question about demand each time, and one about the depth of the queue of each model
whose jobs wait long, a hundred at most. With several dispatchers one does it.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from affinity.errors import BrokerUnavailable, UnknownJob
from affinity.fleet import Demand
from affinity.io.ports import Clock, JobStore, Publisher
from affinity.job import JobState
from affinity.topology import Topology, lane
from dispatcher.services import Services

log = structlog.get_logger(__name__)

WAITED_S = 10.0
"""Models whose oldest job has waited for less are not looked at."""

APART_S = 10.0
"""From the first look to the second."""

TURN_S = 15.0
"""A dispatcher that has not looked for so long has lost its turn."""

DEPTHS_AT_ONCE = 100
"""Queues asked about in one sweep, a few ms each."""

COPIES_AT_ONCE = 500
"""Jobs published again in one sweep."""


@dataclass(frozen=True, slots=True)
class _Suspicion:
    since: float
    ids: frozenset[str]


class Republisher:
    """``sweep`` is to be called every few seconds."""

    def __init__(self, store: JobStore, publisher: Publisher, topology: Topology, clock: Clock) -> None:
        self._store = store
        self._publisher = publisher
        self._topology = topology
        self._clock = clock
        self._name = secrets.token_hex(8)
        self._suspected: dict[str, _Suspicion] = {}
        self._after = ""

    @classmethod
    def of(cls, services: Services) -> "Republisher":
        """A dispatcher's."""
        return cls(services.store, services.publisher, services.topology, services.clock)

    async def sweep(self) -> int:
        """Look at some models. Returns how many jobs were published again; raises where broker or store fail."""
        if not await self._store.strays.take_turn(self._name, TURN_S):
            self._suspected.clear()
            return 0
        early = self._clock.now() - WAITED_S
        waiting = {each.model: each for each in await self._store.demand() if each.oldest_at <= early}
        self._suspected = {model: seen for model, seen in self._suspected.items() if model in waiting}
        if not waiting:
            return 0
        # Whose they are nobody knows: they count for every model.
        in_fallback = await self._publisher.depth(self._topology.fallback) or 0
        copies = 0
        for model in self._next(waiting):
            if copies < COPIES_AT_ONCE:
                copies += await self._look(waiting[model], in_fallback, COPIES_AT_ONCE - copies)
        return copies

    def _next(self, waiting: Mapping[str, Demand]) -> list[str]:
        """Models to look at: those whose second look is due, then those whose turn it is."""
        due = [model for model in self._suspected if self._due(model)][:DEPTHS_AT_ONCE]
        others = sorted(waiting.keys() - self._suspected.keys())
        others = [model for model in others if model > self._after] + [m for m in others if m <= self._after]
        others = others[: DEPTHS_AT_ONCE - len(due)]
        if others:
            self._after = others[-1]
        return due + others

    def _due(self, model: str) -> bool:
        return self._clock.now() >= self._suspected[model].since + APART_S

    async def _look(self, demand: Demand, in_fallback: int, most: int) -> int:
        model = demand.model
        lacking = await self._lacking(demand)
        missing = min(sum(lacking.values()) - in_fallback, COPIES_AT_ONCE)
        before = self._suspected.pop(model, None)
        if missing <= 0:
            return 0
        ids = [job for name, n in lacking.items() for job in await self._store.strays.queued(name, min(n, missing))]
        if before is None:
            self._suspected[model] = _Suspicion(self._clock.now(), frozenset(ids))
            return 0
        try:
            lost = [job_id for job_id in ids if job_id in before.ids][:most]
            return sum([await self._publish(job_id) for job_id in lost])
        except BrokerUnavailable as error:
            # Perhaps of this queue only. The others shall not wait for it.
            log.warning("republish.failed", model=model, error=error.message)
            return 0

    async def _lacking(self, demand: Demand) -> Mapping[str, int]:
        """By lane, how many more jobs are queued than its queue has messages."""
        lanes = {lane(demand.model, one.tenant): one.queued for one in demand.lanes} or {demand.model: demand.queued}
        lacking = {}
        for name, queued in lanes.items():
            ready = await self._publisher.depth(self._topology.model_queue(name)) or 0
            if queued > ready:
                lacking[name] = queued - ready
        return lacking

    async def _publish(self, job_id: str) -> bool:
        try:
            job = await self._store.get(job_id)
        except UnknownJob:
            return False
        if job.state is not JobState.QUEUED or (job.not_before is not None and job.not_before > self._clock.now()):
            return False
        await self._publisher.publish(job.spec, job.created_at)
        log.warning("job.republished", job=job_id, model=job.spec.model, reason="no queue had it")
        return True

"""Clients that wait for the end of a job: one listener for all of them.

What it hears is a hint: it may be lost or late. So each waiter also reads the record itself every now and then.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from affinity.errors import StoreUnavailable, UnknownJob
from affinity.io.event_port import EventStream, Settled
from affinity.io.ports import JobStore
from affinity.job import Job

log = structlog.get_logger(__name__)

REREAD_S = 1.0


@dataclass(eq=False, slots=True)
class Hint:
    """``given`` is set when there may be news of a job; ``job`` is its record where the news came with it."""

    given: asyncio.Event = field(default_factory=asyncio.Event)
    job: Job | None = None


class Settlements:
    """Tells waiters that their jobs are over."""

    def __init__(self, events: EventStream, store: JobStore, reread_s: float = REREAD_S) -> None:
        self._events = events
        self._store = store
        self._reread_s = reread_s
        self._waiters: defaultdict[str, set[Hint]] = defaultdict(set)
        self._closing = False

    async def follow(self) -> None:
        """Hear of every job that ends, for ever."""
        async for settled in self._events.settled():
            self._hear(settled)

    def close(self) -> None:
        """Answer every waiter now with what is known: the process is about to stop."""
        self._closing = True
        for job_id in self._waiters:
            self._wake(job_id)

    @contextlib.contextmanager
    def expecting(self, job_id: str) -> Iterator[Hint]:
        """A hint that is given when the job ends. Enter before publishing: a quick job may be over soon after."""
        hint = Hint()
        self._waiters[job_id].add(hint)
        try:
            yield hint
        finally:
            self._waiters[job_id].discard(hint)
            if not self._waiters[job_id]:
                del self._waiters[job_id]

    async def finished(self, job: Job, hint: Hint, within_s: float) -> Job:
        """The job when it is over, or as it stands after ``within_s``. Never raises: the job was accepted before."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while not job.state.terminal and not self._closing and (left_s := deadline - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._reread_s, left_s)):
                    await hint.given.wait()
            hint.given.clear()
            if hint.job is not None:
                return hint.job
            # Between two looks, a store that is away is no reason to tell the client less than it knew.
            with contextlib.suppress(StoreUnavailable, UnknownJob):
                job = await self._store.get(job.id)
        return job

    def _hear(self, settled: Settled | None) -> None:
        if settled is None:  # Some may have ended before we listened.
            for job_id in self._waiters:
                self._wake(job_id)
        elif settled.job_id in self._waiters:
            self._wake(settled.job_id, settled.record() if settled.record else None)

    def _wake(self, job_id: str, job: Job | None = None) -> None:
        for hint in self._waiters.get(job_id, ()):
            hint.job = job
            hint.given.set()

"""Clients that wait for the end of a job: one reader of the event stream for all of them.

An event is a hint: it may be lost or late. So each waiter also reads the record itself every now and then, and what it
returns is always the record.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

import structlog

from affinity.errors import StoreUnavailable, UnknownJob
from affinity.io.ports import EventStream, JobStore
from affinity.job import Job

log = structlog.get_logger(__name__)

SETTLED = "job.settled"
REREAD_S = 1.0
RETRY_S = 0.5


class Settlements:
    """Tells waiters that their jobs are over."""

    def __init__(
        self, events: EventStream, store: JobStore, reread_s: float = REREAD_S, retry_s: float = RETRY_S
    ) -> None:
        self._events = events
        self._store = store
        self._reread_s = reread_s
        self._retry_s = retry_s
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._closing = False

    async def follow(self) -> None:
        """Read the event stream for ever."""
        last_id: str | None = None
        while True:
            try:
                async for event in self._events.read(last_id):
                    last_id = event.id or last_id
                    if event.kind == SETTLED:
                        self._wake(event.fields.get("job", ""))
            except StoreUnavailable as error:
                log.warning("events.unavailable", code=error.code)
            await asyncio.sleep(self._retry_s)

    def close(self) -> None:
        """Answer every waiter now with what is known: the process is about to stop."""
        self._closing = True
        for job_id in self._waiters:
            self._wake(job_id)

    @contextlib.contextmanager
    def expecting(self, job_id: str) -> Iterator[asyncio.Event]:
        """A hint that is set when the job ends. Enter before publishing: a quick job may be over soon after."""
        hint = asyncio.Event()
        self._waiters[job_id].add(hint)
        try:
            yield hint
        finally:
            self._waiters[job_id].discard(hint)
            if not self._waiters[job_id]:
                del self._waiters[job_id]

    async def finished(self, job: Job, hint: asyncio.Event, within_s: float) -> Job:
        """The job when it is over, or as it stands after ``within_s``. Never raises: the job was accepted before."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while not job.state.terminal and not self._closing and (left_s := deadline - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._reread_s, left_s)):
                    await hint.wait()
            hint.clear()
            # Between two looks, a store that is away is no reason to tell the client less than it knew.
            with contextlib.suppress(StoreUnavailable, UnknownJob):
                job = await self._store.get(job.id)
        return job

    def _wake(self, job_id: str) -> None:
        for hint in self._waiters.get(job_id, ()):
            hint.set()

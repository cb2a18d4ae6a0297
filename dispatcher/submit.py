"""The use case: take a job in. Check it, record it, publish it, mark it published - in that order.

What each order protects from: a job that cannot run leaves nothing behind; a crash between record and publish leaves an
unpublished record, which a retry of the same id or the sweep publishes; accepted is only what the broker has confirmed.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from affinity.errors import AffinityError, BrokerUnavailable, Overloaded, StoreUnavailable
from affinity.io.ports import Clock, JobStore, Publisher
from affinity.job import Job, JobSpec, JobState
from affinity.policy.admission import check_fits
from dispatcher.fleet_glance import FleetGlance
from models.catalog import Catalog
from models.inputs import validate_input

log = structlog.get_logger(__name__)

BATCH_AT_ONCE = 64
"""Jobs of a batch that are being taken in at the same time."""

SWEEP_AFTER_S = 5.0
"""A record unpublished for longer than this belongs to nobody any more."""

SWEEP_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that was accepted, now (``fresh``) or earlier under the same id.

    ``marking`` is the end of its publication in the store. Whoever is not in a hurry awaits it; it never raises.
    """

    job: Job
    fresh: bool
    marking: "asyncio.Task[None] | None" = None

    async def marked(self) -> "Submission":
        """This submission, once the store knows that it was published (or could not be told)."""
        if self.marking:
            await asyncio.shield(self.marking)
        return self


class Submitter:
    """Takes jobs in. ``on_accepted`` is called with the model of every job that was accepted afresh."""

    def __init__(
        self,
        store: JobStore,
        publisher: Publisher,
        glance: FleetGlance,
        catalog: Catalog,
        clock: Clock,
        on_accepted: Callable[[str], None],
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._glance = glance
        self._catalog = catalog
        self._clock = clock
        self._on_accepted = on_accepted
        self._marks: set[asyncio.Task[None]] = set()

    async def check(self, spec: JobSpec) -> None:
        """Raise ``UnknownModel``, ``InvalidInput`` or ``NeverFits`` where the job can never run."""
        entry = self._catalog.get(spec.model)
        validate_input(entry, spec.input)
        seen = await self._glance.look()
        check_fits(seen.facts[entry.name], seen.view)

    async def submit(self, spec: JobSpec) -> Submission:
        """Accept a job, or raise and leave nothing behind.

        Raises what ``check`` does, ``IdConflict``, ``StoreUnavailable``, and ``BrokerUnavailable``. After the last the
        broker may have the job all the same: sending it again under the same id is safe.
        """
        await self.check(spec)
        created = await self._store.create(spec, self._clock.now())
        job = created.job
        if created.fresh:
            await self._publish_or_withdraw(job)
        elif created.published:
            return Submission(job, fresh=False)
        elif job.state is JobState.QUEUED:
            # An earlier call crashed before the confirm; it may even still be at it, and a second copy does no harm.
            await self._publisher.publish(job.spec, job.created_at)
        if created.fresh:
            self._on_accepted(spec.model)
        log.debug("job.published", job=job.id, model=job.spec.model)
        return Submission(job, created.fresh, self._mark_soon(job.id))

    async def submit_all(self, specs: Sequence[JobSpec | AffinityError]) -> list[Submission | AffinityError]:
        """Accept or refuse each by itself; answers in order. What is an error already is passed through."""
        slots = asyncio.Semaphore(BATCH_AT_ONCE)

        async def one(spec: JobSpec | AffinityError) -> Submission | AffinityError:
            if isinstance(spec, AffinityError):
                return spec
            async with slots:
                try:
                    return await (await self.submit(spec)).marked()
                except AffinityError as error:
                    return error

        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(one(spec)) for spec in specs]
        return [answer.result() for answer in answers]

    async def sweep(self) -> int:
        """Publish what was recorded and never confirmed. Returns how many; raises where broker or store fail."""
        stranded = await self._store.unpublished(self._clock.now() - SWEEP_AFTER_S, SWEEP_LIMIT)
        for job in stranded:
            if job.state is JobState.QUEUED:
                await self._publisher.publish(job.spec, job.created_at)
            await self._store.published(job.id)
            log.info("job.republished", job=job.id, model=job.spec.model)
        return len(stranded)

    async def close(self) -> None:
        """Wait until the store has been told of every publish."""
        await asyncio.gather(*self._marks)

    async def _publish_or_withdraw(self, job: Job) -> None:
        try:
            await self._publisher.publish(job.spec, job.created_at)
        except BrokerUnavailable:
            if await self._withdrawn(job.id):
                raise
            # A worker has it already, or a second request under this id got it through: it is accepted.
            log.info("job.published_after_all", job=job.id)

    async def _withdrawn(self, job_id: str) -> bool:
        try:
            return await self._store.withdraw(job_id)
        except StoreUnavailable:
            # Both are away. The record stays in the outbox, so the job runs later although the client was told no.
            log.warning("job.not_withdrawn", job=job_id)
            return True

    def _mark_soon(self, job_id: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._mark(job_id))
        self._marks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._marks.discard)
        return task

    async def _mark(self, job_id: str) -> None:
        try:
            await self._store.published(job_id)
        except Overloaded as error:
            # The broker has it, so it runs; the sweep will publish a second copy, which is dropped, and mark it.
            log.warning("job.not_marked", job=job_id, code=error.code)

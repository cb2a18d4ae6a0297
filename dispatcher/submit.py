"""The use case: take a job in. Check it, record it, publish it, mark it published - in that order.

What each order protects from: a job that cannot run leaves nothing behind; a crash between record and publish leaves an
unpublished record, which a retry of the same id or the sweep publishes; accepted is only what the broker has confirmed.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from affinity.errors import AffinityError, BrokerUnavailable, Overloaded, QueueFull, StoreUnavailable
from affinity.io.ports import Bounds, Clock, JobStore, Publisher
from affinity.job import Job, JobSpec, JobState
from affinity.policy.admission import check_fits
from dispatcher.backlog import Backlog
from dispatcher.fleet_glance import FleetGlance
from models.catalog import Catalog
from models.inputs import validate_input

log = structlog.get_logger(__name__)

BATCH_AT_ONCE = 64
"""Jobs of a batch that are being taken in at the same time."""

MARK_AFTER_S = 0.1
"""How long a job whose client waits may be out of step with the outbox. Far below ``SWEEP_AFTER_S``."""

SWEEP_AFTER_S = 5.0
"""A record unpublished for longer than this belongs to nobody any more."""

SWEEP_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that was accepted, now (``fresh``) or earlier under the same id.

    ``unmarked``: the broker has confirmed it just now and the store has not been told yet.
    """

    job: Job
    fresh: bool
    unmarked: bool = False


class Submitter:
    """Takes jobs in. ``on_accepted`` is called with the model of every job that was accepted afresh,
    ``on_refused`` with the code of one that was not; ``bounds`` with a
    tenant: how many jobs may be queued when one of that tenant's comes.
    """

    def __init__(
        self,
        store: JobStore,
        publisher: Publisher,
        glance: FleetGlance,
        catalog: Catalog,
        clock: Clock,
        on_accepted: Callable[[str], None],
        on_refused: Callable[[str], None],
        bounds: Callable[[str], Bounds],
        backlog: Backlog,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self.glance = glance
        self._catalog = catalog
        self._clock = clock
        self._on_accepted = on_accepted
        self._on_refused = on_refused
        self._bounds = bounds
        self._backlog = backlog
        self._later: dict[str, tuple[asyncio.TimerHandle, Job]] = {}
        self._marks: set[asyncio.Task[None]] = set()

    async def check(self, spec: JobSpec) -> None:
        """Raise ``UnknownModel``, ``InvalidInput`` or ``NeverFits`` where the job can never run."""
        entry = self._catalog.get(spec.model)
        validate_input(entry, spec.input)
        seen = await self.glance.look()
        check_fits(seen.facts[entry.name], seen.view)

    async def submit(self, spec: JobSpec) -> Submission:
        """Accept a job, or raise and leave nothing behind. An ``unmarked`` one is to be marked, now or a little later.

        Raises what ``check`` does, ``IdConflict``, ``QueueFull``, ``StoreUnavailable``, and ``BrokerUnavailable``.
        After the last the broker may have the job all the same: sending it again under the same id is safe.
        """
        try:
            return await self._take_in(spec)
        except AffinityError as error:
            self._on_refused(error.code)
            raise

    async def _take_in(self, spec: JobSpec) -> Submission:
        await self.check(spec)
        try:
            created = await self._store.create(spec, self._clock.now(), self._bounds(spec.tenant))
        except QueueFull as full:
            raise self._backlog.told(full, spec) from None
        job = created.job
        if created.fresh:
            await self._publish_or_withdraw(job)
        elif created.published or job.id in self._later:
            return Submission(job, fresh=False)
        elif job.state is JobState.QUEUED:
            # An earlier call crashed before the confirm; it may even still be at it, and a second copy does no harm.
            await self._publisher.publish(job.spec, job.created_at)
        if created.fresh:
            self._on_accepted(spec.model)
        log.debug("job.published", job=job.id, model=job.spec.model)
        return Submission(job, created.fresh, unmarked=True)

    async def submit_and_mark(self, spec: JobSpec) -> Submission:
        """``submit``, and tell the store at once."""
        submission = await self.submit(spec)
        if submission.unmarked:
            await self._mark(submission.job)
        return submission

    def mark_later(self, submission: Submission) -> None:
        """Tell the store in ``MARK_AFTER_S``, unless ``ended`` comes first: for those who wait for the job.

        A worker that starts a job takes it out of the outbox itself. Leaving that to it saves a quick job a command and
        every reader of events a wake-up, which together are a good part of what such a job costs.
        """
        job_id = submission.job.id
        if submission.unmarked and job_id not in self._later:
            timer = asyncio.get_running_loop().call_later(MARK_AFTER_S, self._mark_now, job_id)
            self._later[job_id] = timer, submission.job

    def ended(self, job_id: str) -> None:
        """The job is over, and with that out of the outbox."""
        if later := self._later.pop(job_id, None):
            later[0].cancel()

    async def submit_all(self, specs: Sequence[JobSpec | AffinityError]) -> list[Submission | AffinityError]:
        """Accept or refuse each by itself; answers in order. What is an error already is passed through."""
        slots = asyncio.Semaphore(BATCH_AT_ONCE)

        async def one(spec: JobSpec | AffinityError) -> Submission | AffinityError:
            if isinstance(spec, AffinityError):
                return spec
            async with slots:
                try:
                    return await self.submit_and_mark(spec)
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
        """Tell the store of every publish it does not know of yet."""
        for job_id in list(self._later):
            self._mark_now(job_id)
        await asyncio.gather(*self._marks)

    async def _publish_or_withdraw(self, job: Job) -> None:
        try:
            await self._publisher.publish(job.spec, job.created_at)
        except BrokerUnavailable:
            if await self._withdrawn(job):
                raise
            # A worker has it already, or a second request under this id got it through: it is accepted.
            log.info("job.published_after_all", job=job.id, model=job.spec.model)

    async def _withdrawn(self, job: Job) -> bool:
        try:
            return await self._store.withdraw(job.id)
        except StoreUnavailable:
            # Both are away. The record stays in the outbox, so the job runs later although the client was told no.
            log.warning("job.not_withdrawn", job=job.id, model=job.spec.model)
            return True

    def _mark_now(self, job_id: str) -> None:
        timer, job = self._later.pop(job_id)
        timer.cancel()
        task = asyncio.create_task(self._mark(job))
        self._marks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._marks.discard)

    async def _mark(self, job: Job) -> None:
        try:
            await self._store.published(job.id)
        except Overloaded as error:
            # The broker has it, so it runs; the sweep will publish a second copy, which is dropped, and mark it.
            log.warning("job.not_marked", job=job.id, model=job.spec.model, code=error.code)

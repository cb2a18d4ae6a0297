"""One batch: from deliveries in hand to results stored, clients told and deliveries settled - in that order.

Knows nothing of placement or of the GPU's state. Whatever happens, every delivery ends in exactly one of ack, requeue
and dead letter.
"""

import asyncio
import uuid
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from affinity.errors import (
    AffinityError,
    AttemptsExhausted,
    BrokerUnavailable,
    IdConflict,
    JobTimeout,
    StoppedWithBatch,
    StoreUnavailable,
    Transient,
    UndecodableMessage,
    UnknownJob,
)
from affinity.io.ports import Delivery, Verdict
from affinity.job import Attempt, Job, JobError, JobSpec, JobState, Outcome, StartKind, rung_below
from affinity.tracing import QUEUED_AT, TraceContext
from affinity.wire import decode_message
from models.catalog import ModelEntry
from worker import attempt_ends, faults
from worker.dead_letters import DeadLetters
from worker.executor import BatchReply
from worker.holding import HOLD_S, Holding, apart
from worker.services import Services
from worker.tasks import Tasks

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

EARLY_BELOW_S = 0.05
"""A batch expected to be shorter runs while the store is still being asked: at most so much of the GPU's time is lost
on a job that may not start. Decision 0006 has the reasons."""


@dataclass(slots=True, weakref_slot=True)
class Started:
    """A job this worker has started, and the delivery that brought it. ``in_hand`` until that is settled, or left to
    somebody who will. While the store has yet to say whether it may start, ``job`` is as its delivery has it.
    """

    delivery: Delivery
    attempt: Attempt
    job: Job
    in_hand: bool = True


@dataclass(frozen=True, slots=True)
class LoadBefore:
    """The load that a model's first batch waited for: how long it took, and whom it evicted."""

    load_s: float
    evicted: tuple[str, ...] = ()


@dataclass(slots=True)
class Batch:
    """Jobs of one model that run together. ``load`` is there for the first batch after its load. ``early``: they run
    while the store is being asked (``starting``) which of them may. ``cancelled`` are the ids of those that have been
    since; ``stop_at`` is when the batch is stopped for it, by the clock that never runs backwards. ``shared``: tenants'
    jobs wait as well, so that nobody's are charged too; ``ran_s`` is what there is to charge.
    """

    entry: ModelEntry
    jobs: list[Started]
    load: LoadBefore | None
    started_at: float
    early: bool = False
    shared: bool = False
    ran_s: float = 0.0
    starting: asyncio.Task[None] | None = None
    limit: asyncio.Timeout | None = None
    cancelled: frozenset[str] = frozenset()
    stop_at: float | None = None
    stop_wanted: bool = False

    def stop(self) -> None:
        """End it now, with the executor: nobody wants its results. One that has just ended is left at that."""
        if self.limit and not self.limit.expired():
            self.stop_wanted = True
            self.limit.reschedule(asyncio.get_running_loop().time())

    @property
    def timeout_s(self) -> float:
        """The shortest time one of its jobs may run."""
        return min(self.limit_s(started.job.spec) for started in self.jobs)

    def limit_s(self, spec: JobSpec) -> float:
        """How long that job may run."""
        return self.entry.timeout_s if spec.timeout_s is None else spec.timeout_s

    def charged_s(self, started: Started) -> float | None:
        """What the tenant of one of its jobs is charged: its part."""
        return self.ran_s / len(self.jobs) if self.shared or started.job.spec.tenant else None

    def fault_of(self, started: Started, error: AffinityError) -> AffinityError:
        """What ended the batch, as it is held against one of its jobs."""
        over = [one for one in self.jobs if self.limit_s(one.job.spec) <= self.timeout_s]
        return faults.shared(error, len(self.jobs), over == [started])

    async def granted(self) -> list[Started]:
        """Those that the store let start. Waits for its answer where they are ``early``."""
        if self.starting:
            await self.starting
        return [started for started in self.jobs if started.in_hand]


class BatchRunner:
    """Starts, runs and settles batches on one worker."""

    def __init__(self, services: Services, tasks: Tasks) -> None:
        self._services = services
        self._tasks = tasks
        self.letters = DeadLetters(services)
        self.holding = Holding(services.clock, tasks)
        # By token. Whoever still has something to do with one refers to it.
        self.under_way: weakref.WeakValueDictionary[str, Started] = weakref.WeakValueDictionary()

    async def start(self, deliveries: Sequence[Delivery]) -> list[Started]:
        """Start what may start, as one step in the store; settle or hold the rest."""
        jobs = await self.read(deliveries)
        await self._ask(jobs)
        return [started for started in jobs if started.in_hand]

    async def read(self, deliveries: Sequence[Delivery]) -> list[Started]:
        """The jobs in these deliveries, for a batch that is ``early``. What cannot be read is buried."""
        jobs = []
        deliveries = await apart(deliveries)
        now = self._services.clock.now()
        identity = self._services.identity
        for delivery in deliveries:
            try:
                spec, created_at = self.decode(delivery)
            except UndecodableMessage as error:
                await self.letters.bury(delivery, error)
                continue
            attempt = Attempt(spec.id, uuid.uuid4().hex, identity.worker, identity.epoch)
            job = Job(spec, JobState.QUEUED, now if created_at is None else created_at)
            jobs.append(Started(delivery, attempt, job))
            self.under_way[attempt.token] = jobs[-1]
        return jobs

    async def _ask(self, jobs: Sequence[Started]) -> None:
        """Ask the store which of them may start. The others' deliveries are settled or held."""
        asked = [(started.attempt, started.job.spec, started.job.created_at) for started in jobs]
        try:
            answers = await self._services.store.start(asked, self._services.clock.now()) if asked else []
        except StoreUnavailable as error:
            log.warning("store.unavailable", error=error.message, held=len(asked))
            self.holding.store.failed()
            for started in jobs:
                if started.in_hand:
                    started.in_hand = False
                    self._tasks.spawn(self._undo(started), "undo")
            return
        for started, answer in zip(jobs, answers, strict=True):
            if answer.verdict is Verdict.STARTED:
                started.job = answer.job
            elif started.in_hand:  # Else its result is stored: the answer had been lost, and this is the second one.
                started.in_hand = False
                await self._decline(started, answer.verdict, answer.job)

    async def run(self, batch: Batch) -> BatchReply:
        """Run it on the executor. Raises ``Transient`` when the batch as a whole came to nothing, ``StoppedWithBatch``
        where that was because of jobs that were cancelled.
        """
        if batch.early:  # As a task: its turn comes once the inputs are on their way.
            batch.starting = self._tasks.spawn(self._ask(batch.jobs), "start")
        try:
            async with asyncio.timeout(batch.timeout_s) as batch.limit:
                return await self._services.executor.run(
                    batch.entry.name, [started.job.spec.input for started in batch.jobs]
                )
        except TimeoutError:
            await self._services.executor.kill()
            if batch.stop_wanted:
                raise StoppedWithBatch(f"stopped: {len(batch.cancelled)} of its jobs were cancelled") from None
            raise JobTimeout(f"ran longer than {batch.timeout_s:g} s and was stopped with its executor") from None
        finally:
            batch.limit = None

    async def settle(self, batch: Batch, reply: BatchReply | AffinityError) -> None:
        """Store every result, then settle its delivery. Side by side: none waits for another's store or broker.

        What came out of a job that the store did not let start is dropped: it is nobody's result.
        """
        if isinstance(reply, AffinityError):
            batch.ran_s = self._services.clock.now() - batch.started_at
            settling = [self._settle_one(batch, s, batch.fault_of(s, reply), 0.0, None) for s in batch.jobs]
        else:
            batch.ran_s = reply.exec_s
            # The first of them caused the load; the others found the model there.
            causes = [batch.load, *[None] * (len(batch.jobs) - 1)]
            results = zip(batch.jobs, reply.results, causes, strict=True)
            settling = [self._settle_one(batch, job, result, reply.exec_s, load) for job, result, load in results]
        if len(settling) == 1:  # The usual case, and so on its way before anything else has its turn.
            await settling[0]
            return
        async with asyncio.TaskGroup() as group:
            for one in settling:
                group.create_task(one)

    async def hand_back(self, jobs: Sequence[Started]) -> None:
        """A stopping worker gives back what it started: queued again, no attempt used."""
        for started in jobs:
            try:
                await self._services.store.give_back(started.attempt, None, False, self._services.clock.now())
            except StoreUnavailable as error:
                # The lease runs out with us; the next worker that gets the delivery takes the job over then.
                job = started.job
                log.warning("hand_back.unrecorded", job=job.id, model=job.spec.model, error=error.message)
            await started.delivery.requeue()

    async def let_go(self, jobs: Sequence[Started]) -> None:
        """Their batch was stopped for those that were cancelled: these are dropped, the others queued again.

        Nobody's attempt is used up by that, nor counted as lost.
        """
        store, clock = self._services.store, self._services.clock

        async def let_one_go(started: Started) -> None:
            owned = await self._insist(
                "hand-back", started, lambda: store.give_back(started.attempt, None, False, clock.now())
            )
            await (started.delivery.requeue() if owned else self._disown(started, stopped=True))

        async with asyncio.TaskGroup() as group:
            for started in jobs:
                group.create_task(let_one_go(started))

    def decode(self, delivery: Delivery) -> tuple[JobSpec, float | None]:
        """The job in a delivery and when it was created."""
        model = self._services.topology.model_of(delivery.routing_key)
        return decode_message(delivery.body, model, delivery.message_id)

    async def _undo(self, started: Started) -> None:
        """The store did not answer, and may have recorded the start all the same: it would count as running for as long
        as we live. The delivery does not wait for that, since another worker may reach the store.
        """
        await self.holding.store.held_for()
        await started.delivery.requeue()
        attempt, store, clock = started.attempt, self._services.store, self._services.clock
        await self._insist("hand-back", started, lambda: store.give_back(attempt, None, False, clock.now()))

    async def _decline(self, started: Started, verdict: Verdict, job: Job) -> None:
        delivery = started.delivery
        match verdict:
            case Verdict.HELD:
                self.holding.hand_back_later(delivery)
            case Verdict.DELAYED:
                # It was handed back, or came as a copy, while the job waits: this copy waits as well.
                left_s = (job.not_before or 0.0) - self._services.clock.now()
                self._tasks.spawn(self._delay(delivery, job, rung_below(left_s), job.deaths > 0), "delay")
            case Verdict.EXHAUSTED:
                lost = job.error or AttemptsExhausted("lost too often")
                self._tasks.spawn(self.letters.bury_failed(delivery, lost, job), "bury")
            case Verdict.STRANGER:
                conflict = IdConflict(f"job {job.id} exists with other content; use another id for other content")
                # Of the stranger, not of the job whose id it has: it has not had any life.
                stranger = Job(started.job.spec, JobState.QUEUED, started.job.created_at)
                self._tasks.spawn(self.letters.bury(delivery, conflict, stranger), "bury")
            case _:
                log.info("delivery.dropped", job=job.id, model=job.spec.model, state=job.state)
                await delivery.ack()

    async def _settle_one(
        self, batch: Batch, started: Started, result: object | AffinityError, exec_s: float, load: LoadBefore | None
    ) -> None:
        if isinstance(result, AffinityError):
            await batch.granted()
            if not started.in_hand:
                return
            if isinstance(result, Transient) and faults.given_up(started.job, result) is None:
                await self._retry(batch, started, result)
                return
        error = faults.final(started.job, result) if isinstance(result, AffinityError) else None
        outcome = Outcome(
            start=StartKind.COLD if load else StartKind.WARM,
            load_s=load.load_s if load else 0.0,
            exec_s=exec_s,
            result=None if error else result,
            error=error,
            evicted=load.evicted if load else (),
            gpu_s=batch.charged_s(started),
        )
        owned = await self._finish(batch, started, outcome)
        if owned:
            attempt_ends.settled(self._services, batch, started, outcome)
        if not started.in_hand:
            return
        started.in_hand = False
        if not owned:
            await self._disown(started)
        elif error:
            await self.letters.bury_failed(started.delivery, error, started.job)
        else:
            await started.delivery.ack()

    async def _finish(self, batch: Batch, started: Started, outcome: Outcome) -> bool:
        """Whether the outcome is stored. It may be sent behind a start that has not been answered: the store takes both
        in order, and an outcome only from the attempt that it let start.
        """
        store, clock = self._services.store, self._services.clock
        stored = await self._insist("result", started, lambda: store.finish(started.attempt, outcome, clock.now()))
        if stored or batch.starting is None:
            return stored
        # Refused; or the connection was lost in between, and the start was repeated after the outcome.
        await batch.granted()
        return started.in_hand and await self._insist(
            "result", started, lambda: store.finish(started.attempt, outcome, clock.now())
        )

    async def _disown(self, started: Started, stopped: bool = False) -> None:
        """The attempt was given up while it ran: the job was cancelled, our lease ran out, or the store lost its
        records. Unless the job is over, this delivery is its only copy.
        """
        try:
            job = await self._insist("state", started, lambda: self._services.store.get(started.job.id))
        except UnknownJob:
            over = False
        else:
            over = job.state.terminal
            if job.state is JobState.CANCELLED:
                self._services.metrics.cancelled(job.spec.model, "stopped" if stopped else "ran_out")
        log.info("attempt.disowned", job=started.job.id, model=started.job.spec.model, over=over)
        await (started.delivery.ack() if over else started.delivery.requeue())

    async def _insist(self, what: str, started: Started, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask the store until it answers. Meanwhile the delivery stays ours: nobody else may start the job, since it
        counts as running under our lease.
        """
        while True:
            try:
                answer = await call()
                self.holding.store.back()
                return answer
            except StoreUnavailable as error:
                self.holding.store.failed()
                job = started.job
                log.warning("store.awaited", what=what, job=job.id, model=job.spec.model, error=error.message)
                await asyncio.sleep(HOLD_S)

    async def _retry(self, batch: Batch, started: Started, error: Transient) -> None:
        attempt_ends.retried(self._services, batch, started, error)
        noted = JobError(error.code, error.message)
        wait_s = faults.wait_s(started.job, error, int(started.attempt.token, 16), self._services.clock.now())
        owned = await self._insist(
            "retry",
            started,
            lambda: self._services.store.give_back(
                started.attempt,
                noted,
                error.uses_attempt,
                self._services.clock.now(),
                wait_s,
                died=faults.executor_died(error),
                gpu_s=batch.charged_s(started),
            ),
        )
        if not owned:
            await self._disown(started)
        elif wait_s:
            await self._delay(started.delivery, started.job, wait_s, faults.runs_alone_next(error))
        else:
            await started.delivery.requeue()

    def _waiting_trace(self, delivery: Delivery) -> TraceContext:
        traced = self._services.tracing is not None  # Else what a foreign client sent just goes on.
        return {**delivery.trace, QUEUED_AT: repr(self._services.clock.now())} if traced else delivery.trace

    async def _delay(self, delivery: Delivery, job: Job, wait_s: float, alone: bool) -> None:
        """The broker is to bring the job again later. Until it has confirmed that, this delivery is the only copy."""
        try:
            await self._services.publisher.delay(
                job.spec, job.created_at, wait_s, alone or delivery.alone, self._waiting_trace(delivery)
            )
        except BrokerUnavailable as error:
            log.warning("delay.held", job=job.id, model=job.spec.model, error=error.message)
            self.holding.wait_for(self.holding.broker, delivery)
        else:
            self.holding.broker.back()
            await delivery.ack()

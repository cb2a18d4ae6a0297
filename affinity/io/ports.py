"""What dispatcher and worker may ask of the outside world, as protocols.

Every call may raise ``StoreUnavailable`` (stores, events) or ``BrokerUnavailable`` (broker). Instants are epoch
seconds.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from affinity.fleet import Demand, FleetView, Measurement, WorkerReport
from affinity.io.accounts import Accounts
from affinity.io.letters import LetterStore
from affinity.io.strays import StrayStore
from affinity.job import Attempt, Job, JobError, JobSpec, JobState, Outcome
from affinity.orders import Order, OrderState
from affinity.tracing import NO_TRACE, TraceContext


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> float:
        """Epoch seconds."""

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""


@dataclass(frozen=True, slots=True)
class Created:
    """Answer to ``JobStore.create``: the job, and whether this call made it (``fresh``).

    ``published`` is false where an earlier call with the same id crashed before its publish was confirmed: publish it.
    """

    job: Job
    fresh: bool
    published: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """Most jobs that may be queued: of the job's tenant, of its model, in all. ``None``: as many as come."""

    tenant: int | None = None
    model: int | None = None
    in_all: int | None = None


UNBOUNDED = Bounds()


@dataclass(frozen=True, slots=True)
class Page:
    """A page of jobs, newest first. ``cursor`` continues it; ``None`` at the end."""

    jobs: tuple[Job, ...]
    cursor: str | None


class Verdict(StrEnum):
    """May the holder of a delivery start its job?

    ``started``: yes, under this attempt's token. ``finished``: the job is terminal already: ack the delivery, drop it.
    ``held``: another attempt runs under a live lease: never ack; hand back or hold until that attempt is over.
    ``expired``: its ``ttl_s`` was over, the job is now ``expired``: ack. ``exhausted``: it was lost too often
    (``MAX_LOSSES``), the job is now ``failed``: dead-letter. ``stranger``: the id is that of a job with other content,
    which is left alone: dead-letter. ``delayed``: it failed and is not to run before ``Job.not_before``: have the
    broker bring it again then.
    """

    STARTED = "started"
    FINISHED = "finished"
    HELD = "held"
    EXPIRED = "expired"
    EXHAUSTED = "exhausted"
    STRANGER = "stranger"
    DELAYED = "delayed"


@dataclass(frozen=True, slots=True)
class StartAnswer:
    """Verdict on one delivery, with the job as it stands after it."""

    verdict: Verdict
    job: Job


class JobStore(Accounts, Protocol):
    """Job records, their indexes, the outbox and the demand. Terminal transitions happen once; the first one wins.

    ``letters`` are the jobs among them that failed, and other dead letters; ``strays`` helps to find what got lost.
    """

    @property
    def strays(self) -> StrayStore:
        """What the store believes of jobs that may be astray."""

    @property
    def letters(self) -> LetterStore:
        """The dead letters."""

    async def create(self, spec: JobSpec, now: float, bounds: Bounds = UNBOUNDED) -> Created:
        """Record a job as queued and unpublished. ``IdConflict`` if the id is taken by other content; ``QueueFull``
        (and nothing recorded) where it would go over a bound. A job that is there is never over one."""

    async def published(self, job_id: str) -> None:
        """The publish was confirmed: take the job out of the outbox and say ``job.accepted``."""

    async def withdraw(self, job_id: str) -> bool:
        """The publish was refused: forget the job, unless it has been published or started meanwhile (then false)."""

    async def unpublished(self, before: float, limit: int) -> Sequence[Job]:
        """Jobs created before that instant whose publish was never confirmed, oldest first."""

    async def get(self, job_id: str) -> Job:
        """One job; ``UnknownJob``."""

    async def page(
        self, state: JobState | None, model: str | None, limit: int, cursor: str | None, tenant: str = ""
    ) -> Page:
        """Jobs newest first, filtered (no tenant: everybody's); ``InvalidInput`` for a cursor we never gave out."""

    async def cancel(self, job_id: str, now: float) -> Job:
        """Cancel a job that is queued or runs. ``UnknownJob``; ``NotCancellable`` when it has ended.

        The attempt of one that runs is over by it: it can neither finish nor give back. Workers are hinted at it.
        """

    async def cancelled(self, job_ids: Iterable[str]) -> frozenset[str]:
        """Those of these jobs that have been cancelled: what a worker asks of what it runs, since hints get lost."""

    async def sight(self, spec: JobSpec, created_at: float, now: float) -> Job:
        """A delivery of this job was seen: make its record if there is none (a job published without HTTP, or a
        flushed store) and see that it is counted as demand while queued. An id with other content raises
        ``IdConflict``."""

    async def start(self, attempts: Sequence[tuple[Attempt, JobSpec, float]], now: float) -> Sequence[StartAnswer]:
        """Compare-and-set to running, for several deliveries ``(attempt, spec, created_at)`` at once, in order.

        Makes the record where there is none. An attempt whose worker's lease is gone (or whose epoch is over) counts
        as lost and the job starts again.
        """

    async def finish(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """Store the outcome and notify, if this attempt still owns the job; false (and nothing done) otherwise."""

    async def give_back(
        self,
        attempt: Attempt,
        error: JobError | None,
        uses_attempt: bool,
        now: float,
        wait_s: float = 0.0,
        died: bool = False,
        gpu_s: float | None = None,
    ) -> bool:
        """Running -> queued, if this attempt still owns the job; false otherwise.

        ``uses_attempt`` false takes the attempt back (a loss is counted instead when there is an ``error``; a plain
        hand-back of a stopping worker, without one, counts as neither). For ``wait_s`` it may not be started, and is no
        demand. ``died``: its executor did, under it. ``gpu_s``: what its tenant is charged all the same.
        """

    async def reclaim(self, worker: str, now: float) -> int:
        """Running -> queued for the jobs of a lost worker: each counts a loss, and is demand again. Says how many.

        Attempts under that worker's live lease are left alone.
        """

    async def fail(self, job_id: str, error: JobError, now: float) -> bool:
        """Queued -> failed: the job gives up before it starts. False if it is not queued (any more)."""

    async def demand(self) -> Sequence[Demand]:
        """Queued jobs that may run now per model, by model name; models without any are left out. Without rates.

        While any are a tenant's: with their lanes, and so with what each tenant has used.
        """

    async def drained(self) -> Mapping[str, int]:
        """How many jobs have ever left the queue, by model, and by ``@`` and tenant."""

    async def position(self, job_id: str, model: str) -> int | None:
        """How many queued jobs of its model come before it; ``None`` if it is not queued, or not to run yet."""

    async def rates(self) -> Mapping[str, float]:
        """Running mean of arrivals per second, by model; models that are hardly asked for are left out."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The fleet as the store knows it: the live (lease held) as a view, and reports whose lease is gone."""

    view: FleetView
    lost: tuple[WorkerReport, ...]


class FleetStore(Protocol):
    """Reports, leases and claims, orders, pins and drains. A lease not renewed in time is gone; an older epoch never
    overwrites a newer one."""

    async def next_epoch(self) -> int:
        """A number higher than every one given out before."""

    async def lease_gpu(self, uuid: str, worker: str, lease_s: float) -> bool:
        """Take or renew the lease on a GPU; false while another worker has it."""

    async def report(self, report: WorkerReport) -> bool:
        """Publish a report and renew the worker's lease and its GPU's; false if a newer epoch lives under this id."""

    async def leave(self, report: WorkerReport) -> None:
        """Remove report, lease, GPU lease and claims of this worker, if they are still this epoch's."""

    async def sighting(self) -> Sighting:
        """All workers and claims, with the orders that wait, pins and drains. Orders whose life is over end by it."""

    async def claim(self, model: str, worker: str, lease_s: float) -> bool:
        """Take or renew the right to load a model; false while another worker has it."""

    async def release(self, model: str, worker: str) -> None:
        """Give up a claim; another worker's is left alone."""

    async def begin_reaping(self, worker: str, by: str, lease_s: float) -> bool:
        """Take the right to tidy up after a lost worker; false while somebody else does."""

    async def forget(self, report: WorkerReport) -> None:
        """Remove a lost worker's report, unless it has come back (newer report, or a live lease)."""

    async def learn(self, model: str, gpu_name: str, measurement: Measurement) -> None:
        """Keep what was measured of a model on a type of GPU. A known ``reload_s`` stays where this has none."""

    async def learned(self) -> Mapping[tuple[str, str], Measurement]:
        """All measurements by ``(model, gpu_name)``."""

    async def order(self, order: Order) -> None:
        """Place an operator's order and say ``order.asked``; the one that waits for the same model and worker ends as
        ``replaced``. It lives from now on for as long as from ``asked_at`` to ``expires_at``. Idempotent by id."""

    async def end_order(self, order_id: str, state: OrderState, reason: str, now: float) -> bool:
        """End an order that waits and say ``order.ended``; false if it has ended otherwise, or is forgotten."""

    async def get_order(self, order_id: str) -> Order:
        """One order; ``UnknownOrder``. Those that have ended are kept for a while."""

    async def pin(self, model: str, worker: str | None, by: str, now: float) -> None:
        """Pin a model on a worker (``None``: everywhere) until it is unpinned; if that is new, say ``model.pinned``."""

    async def unpin(self, model: str, workers: Iterable[str], by: str, now: float) -> None:
        """Take back these pins of a model (``EVERYWHERE``: the one for all workers); say ``model.unpinned`` of each."""

    async def drain(self, worker: str, by: str, now: float) -> None:
        """Have a worker take no more work until ``undrain``, whatever becomes of its process; if that is new, say
        ``worker.drain_asked``."""

    async def undrain(self, worker: str, by: str, now: float) -> None:
        """Take that back; if there was such a wish, say ``worker.drain_ended``."""

    async def wake(self) -> None:
        """Hint to all workers that demand or residency changed."""

    def wakes(self) -> AsyncIterator[str]:
        """The hints, as they come, for ever: empty, or the id of a running job that was cancelled. The first (empty)
        comes as soon as we listen, and one more after each reconnect: what was said in between is lost.
        """


class Delivery(Protocol):
    """One message in our hands. Ends in exactly one of ``ack`` and ``requeue``; a second call raises
    ``InvariantBroken``. A lost channel makes either a no-op: the broker delivers again by itself."""

    body: bytes
    routing_key: str
    message_id: str | None
    parked: bool
    """True if a worker put it into the model's queue from fallback; false if the broker routed it there."""
    dead_reason: str | None
    """Why the broker itself gave it up (``delivery_limit``, ``expired``), where it came by dead-lettering."""
    redelivered: bool
    """True if it was in somebody's hands before and came back from there, at once or after a wait."""
    alone: bool
    """True if its job is to run by itself: an executor was lost with it, and others shall not be."""

    @property
    def trace(self) -> TraceContext:
        """The trace its job belongs to, where it came with one."""

    async def ack(self) -> None:
        """Settled: the broker may forget it."""

    async def requeue(self) -> None:
        """Not ours after all: deliver it again, to anybody."""


Arrival = Callable[[Delivery], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What goes into the dead-letter queue: the original body and why. ``body`` may be undecodable."""

    body: bytes
    message_id: str | None
    code: str
    reason: str
    model: str
    worker: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Buried(Protocol):
    """A message from the dead-letter queue. It comes again if it is not acked before the connection ends."""

    body: bytes
    routing_key: str
    message_id: str | None
    correlation_id: str | None
    headers: Mapping[str, object]

    async def ack(self) -> None:
        """The broker may forget it."""


class Publisher(Protocol):
    """Confirmed publishing. Returning means the broker has the message on disk; ``BrokerUnavailable`` means it may
    have it or not: ids are idempotent, so publish again."""

    async def publish(self, spec: JobSpec, created_at: float, trace: TraceContext = NO_TRACE) -> None:
        """To the jobs exchange: to whoever holds the model, else to fallback; ``trace`` comes along."""

    async def park(self, spec: JobSpec, created_at: float, alone: bool = False, trace: TraceContext = NO_TRACE) -> None:
        """Straight into the model's queue (declared if need be)."""

    async def delay(
        self, spec: JobSpec, created_at: float, wait_s: float, alone: bool, trace: TraceContext = NO_TRACE
    ) -> None:
        """To the jobs exchange, but only after a wait, one of ``job.RUNGS_S``: until then the broker keeps it."""

    async def publish_raw(self, body: bytes, routing_key: str, message_id: str | None) -> None:
        """To the jobs exchange: a body as a foreign client would send it."""

    async def take_dead(self, most: int) -> Sequence[Buried]:
        """Up to ``most`` messages from the dead-letter queue."""

    async def bury(self, letter: DeadLetter) -> None:
        """Into the dead-letter queue."""

    async def ping(self) -> None:
        """Ask the broker something; raise if it does not answer."""

    async def depth(self, queue: str) -> int | None:
        """Ready messages in a queue (by its full name), as its leader knows them; ``None`` if there is none."""

    async def unbind(self, model: str, worker: str) -> None:
        """Remove one worker's binding of a model's queue (its own, or that of a worker that is lost)."""


class Intake(Protocol):
    """One worker's consuming side. State is *desired*: after a reconnect bindings and consumers are re-applied.

    Where a model stands, a lane (``topology.lane``) may stand as well. What ends for a model ends for all its lanes.
    """

    @property
    def lanes(self) -> frozenset[str]:
        """Tenants' lanes that are bound."""

    @property
    def owed(self) -> frozenset[str]:
        """Models whose binding is not wanted any more and that the broker, which was away, may still have."""

    async def bind(self, model: str) -> None:
        """Declare the model's queue and bind it under this worker's own argument."""

    async def unbind(self, model: str) -> None:
        """Remove this worker's binding. The wish is kept as well: where the broker is away, it goes on reconnect."""

    async def arm(self, model: str, prefetch: int, arrival: Arrival) -> None:
        """Start a consumer on the model's queue."""

    async def disarm(self, model: str) -> None:
        """Stop it. A delivery that was on its way may still reach ``arrival`` shortly after."""

    async def consume_fallback(self, prefetch: int, arrival: Arrival) -> None:
        """Start the consumer on fallback."""

    async def stop_fallback(self) -> None:
        """Stop it."""

    async def take(self, model: str, most: int) -> Sequence[Delivery]:
        """Up to ``most`` waiting deliveries, at once, without a consumer. A tenant's lane need not be bound."""

    async def close(self) -> None:
        """Close the channel; what was not settled goes back to its queue."""

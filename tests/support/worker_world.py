"""One worker's world, all of it fake: the services it stands on, and where messages are.

Stores and broker are shown to be true by the conformance suites, the executor by a test of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from affinity.errors import UndecodableMessage
from affinity.fleet import GIB, Residency, ResidencyState, WorkerReport
from affinity.io.rabbit_publisher import CODE_HEADER
from affinity.job import Job, JobSpec, JobState
from affinity.topology import Topology
from affinity.wire import decode_message
from models.catalog import Catalog
from models.entry import ModelEntry
from tests.support.clock import FakeClock
from tests.support.fake_broker import FakeBroker, FakeDelivery, FakeIntake, StoredMessage
from tests.support.fake_executor import FakeExecutor
from tests.support.fake_stores import FakeStores
from worker.events import WorkerEvent
from worker.metrics import WorkerMetrics
from worker.runtime import Worker
from worker.services import Identity, Services, Timing
from worker.simulated_gpu import SimulatedProbe
from worker.tasks import Tasks

PATIENCE_S = 60.0
"""What has not happened by then never will: everything here is in memory."""


TICK_S = 0.06
"""So much passes at a time: enough for the worker's next look at the fleet."""

SPINS_PER_TICK = 50


class AtOnce(ThreadPoolExecutor):
    """Runs in the caller's thread what is meant for another: time on the fake clock does not wait for threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whoever awaits it raises it, as with a thread.
            future.set_exception(error)
        return future


@dataclass(slots=True)
class WorkerWorld:
    """A worker's services, and the fakes behind them.

    ``failures`` are tasks that raised and ``posted`` events, where the test is the loop; ``loop`` is the worker's own.
    """

    services: Services
    clock: FakeClock
    stores: FakeStores
    broker: FakeBroker
    intake: FakeIntake
    executor: FakeExecutor
    probe: SimulatedProbe
    failures: list[BaseException] = field(default_factory=list)
    posted: list[WorkerEvent] = field(default_factory=list)
    tasks: Tasks = field(init=False)
    loop: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.tasks = Tasks(self.failures.append)

    async def submit(self, job_id: str = "j1", model: str = "m", **fields: Any) -> JobSpec:
        """As the dispatcher does: record it, publish it, mark it."""
        spec = JobSpec(job_id, model, fields.pop("input", {"n": 1}), **fields)
        await self.stores.jobs.create(spec, self.clock.now())
        await self.broker.publisher.publish(spec, self.clock.now())
        await self.stores.jobs.published(job_id)
        return spec

    async def waiting(self, job_id: str = "j1", model: str = "m", **fields: Any) -> JobSpec:
        """A job that lies in its model's queue."""
        spec = JobSpec(job_id, model, fields.pop("input", {"n": 1}), **fields)
        await self.stores.jobs.sight(spec, self.clock.now(), self.clock.now())
        await self.broker.publisher.park(spec, self.clock.now())
        return spec

    def foreign(self, body: bytes, queue: str, model: str = "m") -> None:
        """A message somebody published without HTTP."""
        self.broker.declare(model)
        self.broker.put(queue, self.broker.message(body, model, None))

    async def take(self, model: str = "m", most: int = 10) -> list[FakeDelivery]:
        """Deliveries from a model's queue."""
        taken = await self.intake.take(model, most)
        return [delivery for delivery in taken if isinstance(delivery, FakeDelivery)]

    async def job(self, job_id: str = "j1") -> Job:
        """As the store has it."""
        return await self.stores.jobs.get(job_id)

    async def state(self, job_id: str = "j1") -> JobState:
        """Where it stands."""
        return (await self.job(job_id)).state

    def places(self, job_id: str = "j1") -> tuple[str, ...]:
        """Where its messages are: queues by their name without the namespace, or ``hands``. Empty once acked."""
        prefix = f"{self.broker.topology.namespace}."
        queues = [
            name.removeprefix(prefix)
            for name, messages in sorted(self.broker.queues.items())
            for message in messages
            if _name(message) == job_id
        ]
        held = [d for intake in self.broker._intakes for d in intake._held if _name(d.message) == job_id]
        return (*queues, *("hands" for _ in held))

    def buried(self) -> list[tuple[str, object]]:
        """The dead letters: job and code."""
        dead = self.broker.queues[self.broker.topology.dead]
        return [(_name(message), message.headers[CODE_HEADER]) for message in dead]

    def said(self, kind: str) -> list[Mapping[str, str]]:
        """The events of one kind on the stream."""
        return [event.fields for event in self.stores.said if event.kind == kind]

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the worker's metrics; 0 where there is none."""
        value = self.services.metrics._registry.get_sample_value(name, labels)
        return 0.0 if value is None else value

    def report(self, *models: str, worker: str = "w2", epoch: int = 1, gpu: str = "GPU-w2") -> WorkerReport:
        """Another worker's report, with these models ready."""
        at = self.clock.now()
        mine = self.probe.read(self.services.device.uuid, frozenset(), 0)
        residents = tuple(Residency(model, ResidencyState.READY, GIB, at, at) for model in models)
        device = type(mine)(gpu, 0, mine.name, mine.total_bytes)
        return WorkerReport(worker, "node", epoch, 1, at, device, residents)

    async def until(self, true: Callable[[], bool]) -> None:
        """Let everything else go on until that is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not true():  # noqa: ASYNC110 - what is waited for may be anything, and nothing tells of it
                await asyncio.sleep(0)

    async def passing(self, true: Callable[[], bool], tick_s: float = TICK_S) -> None:
        """Let time pass on the fake clock until that is so; a worker that runs must not end meanwhile.

        ``tick_s``: for minutes in which little happens, longer than from one look of a worker to the next.
        """
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self.clock.advance(tick_s)
                self.broker.release()
                for _ in range(SPINS_PER_TICK):
                    await asyncio.sleep(0)
                    if self.loop and self.loop.done():
                        await self.loop
                        raise AssertionError("the worker has stopped")

    async def quiet(self) -> None:
        """Let everything that is under way end."""
        await self.tasks.wait(PATIENCE_S)
        for _ in range(20):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Worker]:
        """The worker's loop over these services, joined; stopped afterwards. Raises what it could not go on after."""
        asyncio.get_running_loop().set_default_executor(AtOnce())
        gpu = self.probe.read(self.services.device.uuid, frozenset(), self.services.reserve_bytes)
        worker = Worker(self.services, gpu)
        task = self.loop = asyncio.create_task(worker.run(), name="worker")
        try:
            await self.until(lambda: task.done() or bool(self.said("worker.joined")))
            yield worker
            worker.stop()
            async with asyncio.timeout(PATIENCE_S):
                await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def a_worker_world(
    *models: ModelEntry,
    vram_gib: int = 24,
    heartbeat_s: float = 0.0,
    grace_s: float = 5.0,
    lag_s: float = 0.0,
    host_cache_gib: int = 0,
) -> WorkerWorld:
    """The world of worker ``w1`` in its first epoch, on a GPU of that size."""
    clock = FakeClock()
    stores, broker = FakeStores(clock), FakeBroker(Topology("t"), clock.now)
    probe = SimulatedProbe("w1", count=1, total_bytes=vram_gib * GIB, lag_s=lag_s, monotonic=clock.monotonic)
    executor, intake = FakeExecutor(vram_gib * GIB, host_cache_gib * GIB), broker.intake("w1")
    services = Services(
        identity=Identity("w1", "node", 1, "http://127.0.0.1:8000/metrics"),
        timing=Timing(heartbeat_s=heartbeat_s, lease_s=10.0, grace_s=grace_s),
        device=probe.devices()[0],
        reserve_bytes=0,
        fallback_prefetch=10,
        probe=probe,
        executor=executor,
        topology=broker.topology,
        catalog=Catalog(models),
        store=stores.jobs,
        fleet=stores.fleet,
        heartbeat=stores.fleet,
        events=stores.events,
        publisher=broker.publisher,
        intake=intake,
        clock=clock,
        metrics=WorkerMetrics(),
    )
    return WorkerWorld(services, clock, stores, broker, intake, executor, probe)


def _name(message: StoredMessage) -> str:
    """The id of the job in a message, or the body where it is none."""
    try:
        return decode_message(message.body, "m", message.message_id)[0].id
    except UndecodableMessage:
        return message.body.decode(errors="replace")

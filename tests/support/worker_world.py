"""One worker's world, all of it fake: the services it stands on, an executor without a process, and where messages are.

``tests/integration/worker/test_fake_executor.py`` shows that ``FakeExecutor`` does what the real one does. Stores and
broker are shown to be true by the conformance suites.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from affinity.errors import (
    AffinityError,
    ExecutorDied,
    InvariantBroken,
    JobFailed,
    LoadFailed,
    OutOfVram,
    UndecodableMessage,
)
from affinity.fleet import GIB, Residency, ResidencyState, WorkerReport
from affinity.io.rabbit_publisher import CODE_HEADER
from affinity.job import Job, JobSpec, JobState
from affinity.topology import Topology
from affinity.wire import decode_message
from models.catalog import Catalog
from models.entry import ModelEntry, SyntheticOptions
from models.runtimes import synthetic
from models.runtimes.base import GuardedModel
from tests.support.clock import FakeClock
from tests.support.fake_broker import FakeBroker, FakeDelivery, FakeIntake, StoredMessage
from tests.support.fake_stores import FakeStores
from worker.events import WorkerEvent
from worker.executor import BatchReply, Executor, Loaded
from worker.host_cache import Cached, HostCache, Tier
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


class Pause:
    """A place where a call waits: ``reached`` tells that it is there, ``go`` lets it pass."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def go(self) -> None:
        """Let the call pass."""
        self._open.set()

    async def hold(self) -> None:
        """Wait here."""
        self.reached.set()
        await self._open.wait()


class FakeExecutor(Executor):
    """An executor without a process; its models are of the ``synthetic`` runtime: ``fail`` in an input works as there.

    ``asked`` has every call that reached it, as in ``"load m"``. ``pause`` makes calls wait, ``load_faults`` makes
    loads fail, ``grown`` is memory that running a model adds for good and ``passing`` what it needs while it runs.
    ``die`` ends it without anybody having asked for it.
    """

    def __init__(self, limit_bytes: int | None = None, host_cache_bytes: int = 0) -> None:
        super().__init__(
            env={}, torch_device="cpu", limit_bytes=limit_bytes, label="fake", host_cache_bytes=host_cache_bytes
        )
        self._host = HostCache(host_cache_bytes)
        self._tiers: dict[str, Tier] = {}
        self.asked: list[str] = []
        self.load_faults: dict[str, Exception] = {}
        self.grown: dict[str, int] = {}
        self.passing: dict[str, int] = {}
        self.exec_s = 0.25
        self._limit = limit_bytes
        self._models: dict[str, ModelEntry] = {}
        self._pauses: dict[str, Pause] = {}
        self._pending: set[asyncio.Future[None]] = set()
        self._end: asyncio.Future[str] | None = None
        self._lives = 0

    @property
    def pid(self) -> int | None:
        """See the real one."""
        return 1000 + self._lives if self._end else None

    @property
    def total_bytes(self) -> int:
        """What all its models hold."""
        return sum(self._size(entry) for entry in self._models.values())

    def pause(self, call: str) -> Pause:
        """Calls such as ``"run m"`` wait from now on."""
        self._pauses[call] = Pause()
        return self._pauses[call]

    def die(self, reason: str = "was killed by SIGSEGV") -> None:
        """It ends by itself."""
        death = self._finish(reason)
        for callback in self._callbacks:
            callback(death)

    async def start(self) -> None:
        """See the real one."""
        if self._end:
            raise InvariantBroken("executor fake runs already")
        self._lives += 1
        self._end = asyncio.get_running_loop().create_future()

    async def load(self, entry: ModelEntry) -> Loaded:
        """See the real one."""
        await self._reach(f"load {entry.name}")
        options = entry.options_as(SyntheticOptions)
        if fault := self.load_faults.get(entry.name):
            raise fault
        if options.load_fail == "error":
            raise LoadFailed(f"{entry.name}: fails because it was asked to")
        missing = self.total_bytes + self._size(entry) - (self._limit or 0)
        if options.load_fail == "oom" or (self._limit is not None and missing > 0 and entry.name not in self._models):
            raise OutOfVram(f"{entry.name}: takes {self._size(entry)} bytes more than there are")
        if entry.name not in self._models:
            self._tiers[entry.name] = Tier.HOST if self._host.parked(entry.name) else Tier.DISK
            if self._tiers[entry.name] is Tier.HOST:
                self._host.returned(entry.name)
        self._models[entry.name] = entry
        self._cached = self._host.cached
        return Loaded(self._size(entry), self.total_bytes, options.load_s, self._tiers[entry.name])

    async def unload(self, model: str, room_for: str = "") -> int:
        """See the real one."""
        await self._reach(f"unload {model}")
        if entry := self._models.pop(model, None):
            core = synthetic.load(entry, "cpu", lambda _: None)
            self._host.park(model, GuardedModel(entry, core, lambda: None), lambda: None, room_for)
        self._cached = self._host.cached
        return self.total_bytes

    async def run(self, model: str, inputs: Sequence[object]) -> BatchReply:
        """See the real one."""
        await self._reach(f"run {model}")
        entry = self._models.get(model)
        if entry is None:
            raise InvariantBroken(f"{model} is not resident")
        failures = [value.get("fail") if isinstance(value, Mapping) else None for value in inputs]
        if "crash" in failures:
            self.die("ended with exit status 70")
            raise ExecutorDied("executor fake ended with exit status 70")
        if "hang" in failures:
            await self._reach(f"run {model}", Pause())
        results = tuple(_result(entry, value) for value in inputs)
        if self._limit is not None and self.total_bytes + self.passing.get(model, 0) > self._limit:
            results = tuple(OutOfVram(f"{model}: the GPU ran out of memory") for _ in inputs)
        return BatchReply(results, self.exec_s, self._size(entry) + self.grown.get(model, 0), self.total_bytes)

    async def stop(self, grace_s: float) -> None:
        """See the real one."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=grace_s)
            await asyncio.sleep(0)  # Those that waited get their answer before the end.
        self._finish("was stopped")

    async def kill(self) -> None:
        """See the real one."""
        self._finish("was killed by SIGKILL")
        await asyncio.sleep(0)

    def _finish(self, reason: str) -> ExecutorDied:
        if self._end:
            self._end.set_result(reason)
        self._end = None
        self._models.clear()
        self._host, self._cached = HostCache(self._host_cache_bytes), Cached()
        return ExecutorDied(f"executor fake {reason}")

    async def _reach(self, call: str, hung: Pause | None = None) -> None:
        """Go as far as the test lets it. Raises ``ExecutorDied`` where the executor ends first."""
        end = self._end
        if end is None:
            raise ExecutorDied("executor fake is not running")
        if hung is None:
            self.asked.append(call)
        paused = hung or self._pauses.get(call)
        waiting = asyncio.ensure_future(paused.hold() if paused else asyncio.sleep(0))
        self._pending.add(waiting)
        try:
            either: set[asyncio.Future[Any]] = {waiting, end}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pending.discard(waiting)
            waiting.cancel()
        if end.done():
            raise ExecutorDied(f"executor fake {end.result()}")

    @staticmethod
    def _size(entry: ModelEntry) -> int:
        return entry.vram_bytes or 0


def _result(entry: ModelEntry, value: object) -> object | AffinityError:
    if entry.options_as(SyntheticOptions).echo:
        return value
    match value.get("fail") if isinstance(value, Mapping) else None:
        case "error":
            return JobFailed(f"{entry.name}: fails because it was asked to")
        case "oom":
            return OutOfVram(f"{entry.name}: runs out of memory because it was asked to")
    return {"model": entry.name, "exec_s": 0.0}


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
    stores, broker = FakeStores(clock), FakeBroker(Topology("t"))
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

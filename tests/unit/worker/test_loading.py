"""The steps of a load: what each does outside, and by which event it ends."""

from dataclasses import replace

import pytest

from affinity.errors import (
    AffinityError,
    BrokerUnavailable,
    ExecutorDied,
    InvalidInput,
    JobTimeout,
    LoadFailed,
    LoadTimeout,
    OutOfVram,
    StoreUnavailable,
)
from affinity.fleet import GIB, Gpu, ResidencyState
from affinity.policy import Load
from tests.support.clock import FakeClock
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.events import CalledOff, Claimed, Cleared, Fetched, LoadFault
from worker.loading import DRIVER_LAG_S, Loader, hopeless, read_gpu
from worker.simulated_gpu import SimulatedProbe

MODEL, VICTIM = synthetic("m", 4.0), synthetic("v", 6.0)
LOAD = Load("w1", "m", 4 * GIB, (), 0, "nobody holds it")
WITH_VICTIM = replace(LOAD, victims=("v",))


@pytest.fixture
async def world() -> WorkerWorld:
    world = a_worker_world(MODEL, VICTIM, vram_gib=8)
    await world.executor.start()
    return world


@pytest.fixture
def reports() -> list[frozenset[tuple[str, str]]]:
    """The bindings there were whenever a report was published."""
    return []


@pytest.fixture
def loader(world: WorkerWorld, reports: list[frozenset[tuple[str, str]]]) -> Loader:
    async def publish() -> None:
        reports.append(frozenset(world.broker.bindings))

    return Loader(world.services, world.posted.append, publish)


def claims(world: WorkerWorld) -> str | None:
    return world.stores.holder("claim", "m")


# -- claim -------------------------------------------------------------------------------------------------------------


async def test_a_free_claim_is_taken(world: WorkerWorld, loader: Loader):
    await loader.claim(LOAD)
    assert world.posted == [Claimed(LOAD)]
    assert claims(world) == "w1"


async def test_a_claim_of_somebody_else_calls_the_load_off_and_is_left_alone(world: WorkerWorld, loader: Loader):
    await world.stores.fleet.claim("m", "w2", 10.0)
    await loader.claim(LOAD)
    assert world.posted == [CalledOff(LOAD, "another worker claimed it")]
    assert claims(world) == "w2"


@pytest.mark.parametrize("state", [ResidencyState.READY, ResidencyState.LOADING])
async def test_a_holder_that_appeared_meanwhile_calls_the_load_off_and_the_claim_is_released(
    world: WorkerWorld, loader: Loader, state: ResidencyState
):
    theirs = world.report("m")
    theirs = replace(theirs, residents=(replace(theirs.residents[0], state=state),))
    await world.stores.fleet.report(theirs)
    await loader.claim(LOAD)
    assert world.posted == [CalledOff(LOAD, "w2 holds it by now")]
    assert claims(world) is None


async def test_a_further_copy_is_not_called_off_for_the_copies_it_was_decided_with(world: WorkerWorld, loader: Loader):
    await world.stores.fleet.report(world.report("m"))
    further = replace(LOAD, copies=1)
    await loader.claim(further)
    assert world.posted == [Claimed(further)]


async def test_without_a_store_nothing_is_loaded(world: WorkerWorld, loader: Loader):
    world.stores.down = True
    await loader.claim(LOAD)
    (event,) = world.posted
    assert isinstance(event, CalledOff)
    assert "Redis" in event.reason


# -- clear -------------------------------------------------------------------------------------------------------------


async def holding_the_victim(world: WorkerWorld) -> None:
    """The victim is loaded, bound and counted by the driver."""
    await world.intake.bind("v")
    loaded = await world.executor.load(VICTIM)
    world.probe.observe(world.services.device.uuid, world.executor.pid or 0, loaded.total_bytes)


async def test_a_load_without_victims_is_clear_at_once(world: WorkerWorld, loader: Loader):
    world.probe.set_foreign(world.services.device.uuid, 7 * GIB)  # Its admission is the ledger's to refuse.
    await loader.clear(LOAD)
    (event,) = world.posted
    assert isinstance(event, Cleared)
    assert event.gpu.foreign_bytes == 7 * GIB


async def test_a_victim_loses_consumer_binding_and_memory(world: WorkerWorld, loader: Loader):
    await holding_the_victim(world)
    await world.waiting("j1", "v")
    world.broker.queues["t.model.v"].clear()
    await world.intake.arm("v", 1, _unexpected)
    await loader.clear(WITH_VICTIM)
    (event,) = world.posted
    assert isinstance(event, Cleared)
    assert (event.gpu.used_bytes, event.gpu.free_bytes) == (0, 8 * GIB)
    assert (world.broker.bindings, world.intake.consumed) == (set(), {})
    assert world.executor.asked[-1] == "unload v"


async def test_what_is_in_a_victims_queue_stays_there_as_demand(world: WorkerWorld, loader: Loader):
    await holding_the_victim(world)
    await world.waiting("j1", "v")
    await loader.clear(WITH_VICTIM)
    assert world.places("j1") == ("model.v",)
    assert [d.model for d in await world.stores.jobs.demand()] == ["v"]


async def test_a_victim_goes_also_while_the_broker_is_away_and_its_binding_is_not_wished_for_again(
    world: WorkerWorld, loader: Loader
):
    await holding_the_victim(world)
    world.broker.cut()
    await loader.clear(WITH_VICTIM)
    assert [type(event) for event in world.posted] == [Cleared]
    world.broker.bindings.clear()  # A real broker may keep it; what matters is what we apply again.
    world.broker.restore()
    assert world.broker.bindings == set()


async def test_a_victim_that_died_with_its_executor_is_gone_as_well(world: WorkerWorld, loader: Loader):
    await holding_the_victim(world)
    world.executor.die()
    world.probe.observe(world.services.device.uuid, 1001, 0)
    await loader.clear(WITH_VICTIM)
    assert [type(event) for event in world.posted] == [Cleared]
    assert world.broker.bindings == set()


class SlowDriver(SimulatedProbe):
    """A driver that takes its time with every answer, on the fake clock."""

    def __init__(self, clock: FakeClock, lag_s: float) -> None:
        super().__init__("w1", count=1, total_bytes=8 * GIB, lag_s=lag_s, monotonic=clock.monotonic)
        self._clock = clock

    def read(self, uuid: str, own_pids: frozenset[int], reserve_bytes: int) -> Gpu:
        found = super().read(uuid, own_pids, reserve_bytes)
        self._clock.advance(DRIVER_LAG_S)
        return found


async def test_memory_that_does_not_come_back_in_time_is_told_as_it_is(world: WorkerWorld):
    probe = SlowDriver(world.clock, lag_s=60.0)
    services = replace(world.services, probe=probe)
    await world.executor.load(VICTIM)
    probe.observe("SIM-w1-0", world.executor.pid or 0, 6 * GIB)
    loader = Loader(services, world.posted.append, _nothing)
    await loader.clear(WITH_VICTIM)
    (event,) = world.posted
    assert isinstance(event, Cleared)
    assert event.gpu.free_bytes == 2 * GIB


# -- fetch -------------------------------------------------------------------------------------------------------------


async def test_a_model_is_reported_before_it_is_bound_and_bound_before_it_is_loaded(
    world: WorkerWorld, loader: Loader, reports: list[frozenset[tuple[str, str]]]
):
    loading = world.executor.pause("load m")
    task = world.tasks.spawn(loader.fetch(LOAD), "fetch")
    await loading.reached.wait()
    assert reports == [frozenset()]
    assert world.broker.bindings == {("m", "w1")}
    world.clock.advance(3.0)
    loading.go()
    await task
    (event,) = world.posted
    assert isinstance(event, Fetched)
    assert (event.footprint_bytes, event.load_s, event.gpu.used_bytes) == (4 * GIB, 3.0, 4 * GIB)
    assert event.gpu.foreign_bytes == 0, "what our executor holds is not foreign"


@pytest.mark.parametrize("error", [LoadFailed("damaged"), OutOfVram("full"), ExecutorDied("crashed")])
async def test_a_load_that_fails_says_why(world: WorkerWorld, loader: Loader, error: AffinityError):
    world.executor.load_faults["m"] = error
    await loader.fetch(LOAD)
    assert world.posted == [LoadFault(LOAD, error)]
    assert world.executor.pid is not None


async def test_without_a_binding_nothing_is_loaded(world: WorkerWorld, loader: Loader):
    world.broker.down = True
    await loader.fetch(LOAD)
    (event,) = world.posted
    assert isinstance(event, LoadFault)
    assert isinstance(event.error, BrokerUnavailable)
    assert world.executor.asked == []


async def test_an_executor_that_dies_during_a_load_fails_it(world: WorkerWorld, loader: Loader):
    loading = world.executor.pause("load m")
    task = world.tasks.spawn(loader.fetch(LOAD), "fetch")
    await loading.reached.wait()
    world.executor.die()
    await task
    (event,) = world.posted
    assert isinstance(event, LoadFault)
    assert isinstance(event.error, ExecutorDied)


async def test_a_load_that_takes_for_ever_costs_the_executor(world: WorkerWorld, loader: Loader):
    world.executor.load_faults["m"] = TimeoutError()  # What asyncio.timeout makes of it after LOAD_TIMEOUT_S.
    await loader.fetch(LOAD)
    (event,) = world.posted
    assert isinstance(event, LoadFault)
    assert isinstance(event.error, LoadTimeout)
    assert "m was not loaded within 1800 s" in event.error.message
    assert world.executor.pid is None


# -- the rest ----------------------------------------------------------------------------------------------------------


async def test_a_claim_is_released_with_a_hint_and_without_a_store_it_runs_out(world: WorkerWorld, loader: Loader):
    await loader.claim(LOAD)
    world.stores.down = True
    await loader.release(LOAD)
    world.stores.down = False
    assert claims(world) == "w1"
    hints = world.stores.fleet.wakes()
    await anext(hints)
    await loader.release(LOAD)
    await anext(hints)
    assert claims(world) is None


async def test_reading_the_gpu_counts_the_executor_as_ours_and_nothing_else(world: WorkerWorld):
    uuid, pid = world.services.device.uuid, world.executor.pid or 0
    world.probe.observe(uuid, pid, 3 * GIB)
    world.probe.observe(uuid, pid + 1, 2 * GIB)
    reserved = replace(world.services, reserve_bytes=GIB)
    gpu = await read_gpu(reserved)
    assert (gpu.used_bytes, gpu.foreign_bytes, gpu.reserve_bytes) == (5 * GIB, 2 * GIB, GIB)
    await world.executor.kill()
    assert (await read_gpu(reserved)).foreign_bytes == 5 * GIB


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LoadFailed("x"), True),
        (OutOfVram("x"), False),
        (LoadTimeout("x"), False),
        (ExecutorDied("x"), False),
        (JobTimeout("x"), False),
        (BrokerUnavailable("x"), False),
        (StoreUnavailable("x"), False),
        (InvalidInput("x", "options"), False),
    ],
)
def test_only_what_no_further_try_can_mend_is_hopeless(error: AffinityError, expected: bool):
    assert hopeless(error) is expected


async def _nothing() -> None:
    """No report."""


async def _unexpected(delivery: object) -> None:
    raise AssertionError("nothing is to arrive")

"""A load from the loop's side: what each step means for the GPU's state, and how it ends well or badly."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from affinity.errors import AffinityError, ExecutorDied, LoadFailed, LoadTimeout, OutOfVram
from affinity.fleet import GIB, FleetView, ResidencyState, WorkerReport
from affinity.policy import Load
from tests.support.executors import synthetic
from tests.support.fake_stores import FakeFleetStore
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.batch import LoadBefore
from worker.events import Arrived, CalledOff, Claimed, Cleared, Fetched, Left, LoadFault, WorkerEvent
from worker.intray import Intray
from worker.learning import Learning
from worker.load_course import LoadCourse
from worker.loading import Loader
from worker.membership import Membership
from worker.reporter import Reporter
from worker.state import REFUSE_HOPELESS_S, REFUSE_TRANSIENT_S, GpuState

LOAD = Load("w1", "m", 4 * GIB, (), 0, "nobody holds it")
WITH_VICTIM = replace(LOAD, victims=("v",))
STEPS: dict[type[WorkerEvent], str] = {
    Claimed: "claimed",
    Cleared: "cleared",
    Fetched: "fetched",
    CalledOff: "called_off",
    LoadFault: "failed",
}


class WitnessedFleet(FakeFleetStore):
    """Remembers in which order reports and releases came, and what was claimed at each report."""

    def __init__(self, world: WorkerWorld) -> None:
        super().__init__(world.stores)
        self.seen: list[str] = []

    async def report(self, report: WorkerReport) -> bool:
        self.seen.append("report " + (",".join(f"{r.model} {r.state}" for r in report.residents) or "nothing"))
        return await super().report(report)

    async def release(self, model: str, worker: str) -> None:
        self.seen.append(f"release {model}")
        await super().release(model, worker)


@dataclass(slots=True)
class Stage:
    """A course with all it works on; ``step`` does what the loop would do with the next event."""

    world: WorkerWorld
    fleet: WitnessedFleet
    state: GpuState
    learning: Learning
    intray: Intray
    course: LoadCourse
    stopped: list[str]

    async def step(self) -> WorkerEvent:
        """Wait for the next event of the load, then handle it."""
        while not self.world.posted:
            await self.arrivals(lambda: bool(self.world.posted))
        event = self.world.posted.pop(0)
        handle: Callable[[WorkerEvent], None] = getattr(self.course, STEPS[type(event)])
        handle(event)
        return event

    async def arrivals(self, until: Callable[[], bool]) -> None:
        """Wait for that; what consumers bring meanwhile is kept or handed back, as the loop does."""
        await self.world.until(until)
        for event in [event for event in self.world.posted if isinstance(event, Arrived)]:
            self.world.posted.remove(event)
            if self.intray.expects(event.model):
                self.intray.put(event.model, event.delivery)
            else:
                await event.delivery.requeue()

    async def through(self, load: Load, last: type[WorkerEvent]) -> WorkerEvent:
        """From the decision to that event, handled; then until all is done."""
        self.course.begin(load)
        while not isinstance(event := await self.step(), last):
            pass
        await self.world.quiet()
        return event

    def claim(self) -> str | None:
        return self.world.stores.holder("claim", "m")

    def refusal(self) -> tuple[str, float, bool] | None:
        now = self.world.clock.now()
        found = self.state.report(now).refuses("m", now)
        return None if found is None else (found.code, found.until - now, found.hopeless)


@pytest.fixture
async def stage() -> Stage:
    world = a_worker_world(synthetic("m", 4.0), synthetic("v", 6.0), synthetic("w", 1.0), vram_gib=8)
    fleet = WitnessedFleet(world)
    world.services = services = replace(world.services, fleet=fleet, heartbeat=fleet)
    await world.executor.start()
    gpu = world.probe.read(services.device.uuid, frozenset(), 0)
    state, learning = GpuState(services.identity, gpu, 10.0), Learning(services.catalog, gpu.name)
    post, stopped = world.posted.append, list[str]()
    reporter = Reporter(services, lambda: state.report(world.clock.now()), post)
    intray = Intray(services, post)
    loader = Loader(services, post, reporter.publish)
    membership = Membership(services)
    course = LoadCourse(services, state, learning, intray, loader, reporter, membership, world.tasks, stopped.append)
    return Stage(world, fleet, state, learning, intray, course, stopped)


async def resident(stage: Stage, model: str, gib: int) -> None:
    """A model that serves here, bound and armed."""
    world = stage.world
    loaded = await world.executor.load(world.services.catalog.get(model))
    world.probe.observe(world.services.device.uuid, world.executor.pid or 0, loaded.total_bytes)
    load = Load("w1", model, gib * GIB, (), 0, "")
    stage.state.loading(load, pinned=False, now=world.clock.now())
    stage.state.loaded(model, gib * GIB, world.clock.now())
    await world.intake.bind(model)
    await stage.intray.arm([model])


# -- well --------------------------------------------------------------------------------------------------------------


async def test_a_load_is_known_before_its_claim_is_gone_and_the_claim_is_gone_before_it_ends(stage: Stage):
    await stage.through(LOAD, Fetched)
    assert stage.state.ready("m")
    assert stage.course.current is None
    assert stage.claim() is None
    assert stage.fleet.seen == ["report m loading", "release m", "report m ready"]
    assert stage.world.broker.bindings == {("m", "w1")}
    assert {model: before.evicted for model, before in stage.course.unserved.items()} == {"m": ()}
    assert stage.learning.facts["m"].measured["simulated"].footprint_bytes == 4 * GIB
    kinds = [event.kind for event in stage.world.stores.said]
    assert kinds == ["model.loading", "model.resident"]
    assert stage.world.metric("model_loads_total", worker="w1", model="m", tier="disk", reason="first-copy") == 1
    assert stage.world.failures == []


async def test_a_further_copy_is_counted_as_one(stage: Stage):
    await stage.through(replace(LOAD, copies=1), Fetched)
    assert stage.world.metric("model_loads_total", worker="w1", model="m", tier="disk", reason="further-copy") == 1


async def test_the_footprint_is_what_the_load_took_not_what_was_planned(stage: Stage):
    await stage.through(replace(LOAD, footprint_bytes=GIB), Fetched)
    assert stage.state.ledger.held == {"m": 4 * GIB}


async def test_victims_take_no_work_from_the_claim_on_and_leave_for_good(stage: Stage):
    await resident(stage, "v", 6)
    stage.course.unserved["v"] = LoadBefore(1.0)
    await stage.world.waiting("j1", "v")
    await stage.arrivals(lambda: any(isinstance(event, Arrived) for event in stage.world.posted))
    assert stage.intray.first() == "v"
    unloading = stage.world.executor.pause("unload v")
    stage.course.begin(WITH_VICTIM)
    assert stage.course.victims == ("v",)
    assert isinstance(await stage.step(), Claimed)
    assert stage.state.residents["v"].state is ResidencyState.DRAINING
    assert not stage.intray.expects("v")
    await unloading.reached.wait()
    assert stage.intray.first() is None
    await stage.arrivals(lambda: True)  # Its consumer may bring it once more before it ends.
    assert stage.world.places("j1") == ("model.v",), "what nobody has started is for whoever else holds it"
    assert stage.state.ledger.held == {"v": 6 * GIB}, "it counts until it is gone"
    unloading.go()
    assert isinstance(await stage.step(), Cleared)
    assert set(stage.state.residents) == {"m"}
    assert "v" not in stage.course.unserved
    assert isinstance(await stage.step(), Fetched)
    assert stage.course.unserved["m"].evicted == ("v",)
    await stage.world.quiet()
    assert stage.world.broker.bindings == {("m", "w1")}
    assert stage.world.metric("model_evictions_total", worker="w1", model="v", reason="room") == 1
    assert stage.world.said("model.evicted") == [{"worker": "w1", "model": "v", "room_for": "m"}]
    assert stage.course.victims == ()


async def test_a_model_that_leaves_for_want_of_memory_and_loses_its_executor_meanwhile_is_gone_only_once(stage: Stage):
    await resident(stage, "v", 6)
    await resident(stage, "w", 1)
    leaving = stage.world.executor.pause("unload v")
    stage.course.outgrown("v")
    await leaving.reached.wait()
    stage.state.emptied()
    leaving.go()
    await stage.world.until(lambda: bool(stage.world.posted))
    (event,) = stage.world.posted
    assert isinstance(event, Left)
    stage.course.left(event)
    await stage.world.quiet()
    assert stage.world.metric("model_evictions_total", worker="w1", model="v", reason="out-of-vram") == 0
    assert stage.world.failures == []


# -- called off --------------------------------------------------------------------------------------------------------


async def test_a_claim_that_was_lost_changes_nothing(stage: Stage):
    await resident(stage, "v", 6)
    await stage.fleet.claim("m", "w2", 10.0)
    await stage.through(WITH_VICTIM, CalledOff)
    assert stage.course.current is None
    assert stage.state.ready("v")
    assert stage.intray.expects("v")
    assert stage.claim() == "w2"
    assert stage.refusal() is None
    assert stage.world.broker.bindings == {("v", "w1")}


async def test_a_holder_that_appeared_meanwhile_calls_it_off(stage: Stage):
    await stage.fleet.report(stage.world.report("m"))
    await stage.through(LOAD, CalledOff)
    assert (stage.course.current, stage.claim(), dict(stage.state.residents)) == (None, None, {})


@pytest.mark.parametrize("what", ["runs", "is draining", "is gone"])
async def test_a_victim_that_is_not_idle_any_more_calls_it_off_and_the_claim_is_released(stage: Stage, what: str):
    await resident(stage, "v", 6)
    await resident(stage, "w", 1)
    stage.course.begin(replace(WITH_VICTIM, victims=("w", "v")))
    match what:
        case "runs":
            stage.state.started("v", 1, stage.world.clock.now())
        case "is draining":
            stage.state.drain_victims(["v"])
        case "is gone":
            stage.state.emptied()
    assert isinstance(await stage.step(), Claimed)
    assert stage.course.current is None
    await stage.world.quiet()
    assert stage.claim() is None
    assert "unload v" not in stage.world.executor.asked
    if what != "is gone":
        assert stage.state.ready("w"), "none of the victims goes when one may not"
        assert stage.intray.expects("w")
    assert stage.world.posted == []


# -- badly -------------------------------------------------------------------------------------------------------------


def nothing_left(stage: Stage) -> None:
    """The load is over: no room held, no binding, no claim, nothing under way; and all heard of it in that order."""
    assert stage.course.current is None
    assert "m" not in stage.state.residents
    assert "m" not in stage.state.ledger.held
    assert ("m", "w1") not in stage.world.broker.bindings
    assert stage.claim() is None
    assert stage.fleet.seen[-1] == "release m"
    assert stage.fleet.seen[-2] == "report nothing", "else somebody would count on it, or try the same here again"
    assert stage.world.failures == []


async def test_memory_that_others_took_meanwhile_ends_the_load_at_admission(stage: Stage):
    stage.world.probe.set_foreign(stage.world.services.device.uuid, 5 * GIB)
    await stage.through(LOAD, Cleared)
    nothing_left(stage)
    assert stage.refusal() == ("out_of_vram", REFUSE_TRANSIENT_S, False)
    assert stage.world.executor.asked == []
    assert stage.learning.facts["m"].on(stage.state.gpu).footprint_bytes == 4 * GIB, "it is no larger than before"


async def test_damaged_weights_are_refused_as_hopeless(stage: Stage):
    stage.world.executor.load_faults["m"] = LoadFailed("truncated")
    await stage.through(LOAD, LoadFault)
    nothing_left(stage)
    assert stage.refusal() == ("load_failed", REFUSE_HOPELESS_S, True)
    assert stage.world.said("model.load_failed") == [{"worker": "w1", "model": "m", "code": "load_failed"}]
    assert stage.world.metric("message_processing_errors_total", model="m", code="load_failed") == 1
    assert stage.learning.facts["m"].on(stage.state.gpu).footprint_bytes == 4 * GIB
    assert stage.stopped == []


async def test_a_footprint_that_was_too_small_is_refused_for_a_moment_and_planned_larger(stage: Stage):
    stage.world.executor.load_faults["m"] = OutOfVram("full")
    await stage.through(LOAD, LoadFault)
    nothing_left(stage)
    assert stage.refusal() == ("out_of_vram", REFUSE_TRANSIENT_S, False)
    assert stage.learning.facts["m"].on(stage.state.gpu).footprint_bytes > 8 * GIB, "it had the whole GPU"


async def test_a_load_that_was_too_slow_is_refused_for_a_moment_and_its_executor_counts_as_stopped(stage: Stage):
    stage.world.executor.load_faults["m"] = TimeoutError()  # What asyncio.timeout makes of it.
    event = await stage.through(LOAD, LoadFault)
    assert isinstance(event, LoadFault)
    assert isinstance(event.error, LoadTimeout)
    nothing_left(stage)
    assert stage.refusal() == ("load_timeout", REFUSE_TRANSIENT_S, False)
    assert len(stage.stopped) == 1


@pytest.mark.parametrize("emptied_first", [True, False])
async def test_an_executor_that_dies_during_a_load_ends_it(stage: Stage, emptied_first: bool):
    loading = stage.world.executor.pause("load m")
    stage.course.begin(LOAD)
    await stage.step()
    await stage.step()
    await loading.reached.wait()
    stage.world.executor.die()
    if emptied_first:
        stage.state.emptied()  # What the loop does when it hears of the death.
    event = await stage.step()
    assert isinstance(event, LoadFault)
    assert isinstance(event.error, ExecutorDied)
    await stage.world.quiet()
    nothing_left(stage)
    assert stage.refusal() == ("executor_died", REFUSE_TRANSIENT_S, False)
    assert stage.stopped == [], "its death was told already"


async def test_a_model_whose_executor_died_right_after_its_load_is_not_taken_for_resident(stage: Stage):
    stage.course.begin(LOAD)
    await stage.step()
    await stage.step()
    await stage.world.until(lambda: bool(stage.world.posted))
    stage.world.executor.die()
    stage.state.emptied()
    assert isinstance(await stage.step(), Fetched)
    await stage.world.quiet()
    assert (stage.course.current, stage.claim(), dict(stage.state.residents)) == (None, None, {})
    assert stage.course.unserved == {}


async def test_a_broker_that_is_away_is_not_held_against_the_model(stage: Stage):
    stage.course.begin(LOAD)
    await stage.step()
    stage.world.broker.cut()
    await stage.step()
    event = await stage.step()
    assert isinstance(event, LoadFault)
    await stage.world.quiet()
    nothing_left(stage)
    assert stage.refusal() is None
    stage.world.broker.restore()
    assert stage.world.broker.bindings == set(), "the wish to bind it is withdrawn"


async def test_a_load_that_fails_while_the_store_is_away_is_refused_all_the_same(stage: Stage):
    loading = stage.world.executor.pause("load m")
    stage.world.executor.load_faults["m"] = LoadFailed("truncated")
    stage.course.begin(LOAD)
    await stage.step()
    await stage.step()
    await loading.reached.wait()
    stage.world.stores.down = True
    loading.go()
    await stage.step()
    await stage.world.quiet()
    stage.world.stores.down = False
    assert stage.course.current is None
    assert stage.refusal() == ("load_failed", REFUSE_HOPELESS_S, True)
    assert stage.world.failures == []
    assert stage.claim() is None
    stage.world.clock.advance(10.0)
    assert stage.claim() is None


@pytest.mark.parametrize("error", [LoadFailed("truncated"), OutOfVram("full")])
async def test_what_was_evicted_for_a_load_that_failed_is_gone_and_reported_so(stage: Stage, error: AffinityError):
    await resident(stage, "v", 6)
    stage.world.executor.load_faults["m"] = error
    await stage.through(WITH_VICTIM, LoadFault)
    nothing_left(stage)
    assert dict(stage.state.residents) == {}
    view: FleetView = (await stage.fleet.sighting()).view
    assert view.workers["w1"].residents == ()

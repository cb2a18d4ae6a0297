"""What an operator asked of a worker: pins that hold, models that leave, orders that are over."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest

from affinity.fleet import GIB, FleetView, ResidencyState
from affinity.orders import EVERYWHERE, Action, Order, OrderState, Pins
from affinity.policy import Load, Plan, Unload
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.batch import LoadBefore
from worker.by_hand import ByHand
from worker.events import CalledOff, Claimed, Left, WorkerEvent
from worker.intray import Intray
from worker.learning import Learning
from worker.load_course import LoadCourse
from worker.loading import Loader
from worker.membership import Membership
from worker.reporter import Reporter
from worker.state import GpuState

UNLOAD = Unload("w1", "m", "asked for by hand: order o1", "o1")


@dataclass(slots=True)
class Stage:
    """The operator's hand with all it works on."""

    world: WorkerWorld
    state: GpuState
    intray: Intray
    loader: Loader
    course: LoadCourse
    hand: ByHand
    learning: Learning

    def view(self, *orders: Order, pins: Iterable[tuple[str, str]] = ()) -> FleetView:
        report = self.state.report(self.world.clock.now())
        return FleetView.of([report], None, orders, Pins(frozenset(pins)))

    def carry_out(self, *decisions: Unload, orders: Iterable[Order] = ()) -> None:
        self.hand.carry_out(Plan(decisions), self.view(*orders), self.learning.facts)

    async def event(self) -> WorkerEvent:
        """The next thing that is posted."""
        await self.world.until(lambda: bool(self.world.posted))
        return self.world.posted.pop(0)

    async def leaves(self) -> None:
        """Wait until a model is off the GPU, and take note of it as the loop does."""
        event = await self.event()
        assert isinstance(event, Left)
        self.hand.left(event)
        await self.world.quiet()


def an_order(action: Action, worker: str | None = "w1", order_id: str = "o1", model: str = "m") -> Order:
    return Order(order_id, action, model, worker, 1.0, 601.0, "me")


@pytest.fixture
async def stage() -> Stage:
    world = a_worker_world(synthetic("m", 4.0), synthetic("v", 6.0), replace(synthetic("k", 1.0), pinned=True))
    services = world.services
    await world.executor.start()
    gpu = world.probe.read(services.device.uuid, frozenset(), 0)
    state, learning = GpuState(services.identity, gpu, 10.0), Learning(services.catalog, gpu.name)
    post = world.posted.append
    reporter = Reporter(services, lambda: state.report(world.clock.now()), post)
    intray, loader = Intray(services, post), Loader(services, post, reporter.publish)
    course = LoadCourse(
        services, state, learning, intray, loader, reporter, Membership(services), world.tasks, lambda _: None
    )
    hand = ByHand(services, state, course, intray, loader, reporter, world.tasks)
    return Stage(world, state, intray, loader, course, hand, learning)


async def resident(stage: Stage, model: str, gib: int) -> None:
    """A model that serves here, bound and armed."""
    world = stage.world
    loaded = await world.executor.load(world.services.catalog.get(model))
    world.probe.observe(world.services.device.uuid, world.executor.pid or 0, loaded.total_bytes)
    pinned = world.services.catalog.get(model).pinned
    stage.state.loading(Load("w1", model, gib * GIB, (), 0, ""), pinned, world.clock.now())
    stage.state.loaded(model, gib * GIB, world.clock.now())
    await world.intake.bind(model)
    await stage.intray.arm([model])


# -- a model that is to leave ------------------------------------------------------------------------------------------


async def test_an_idle_model_leaves_at_once_and_nothing_of_it_is_left(stage: Stage):
    await resident(stage, "m", 4)
    stage.course.unserved["m"] = LoadBefore(1.0)
    hints = stage.world.stores.fleet.wakes()
    await anext(hints)

    stage.carry_out(UNLOAD)
    assert stage.state.residents["m"].state is ResidencyState.DRAINING, "it takes no new work from this moment on"
    await stage.leaves()

    assert (dict(stage.state.residents), stage.state.ledger.held_bytes, stage.course.unserved) == ({}, 0, {})
    assert stage.state.gpu.used_bytes == 0, "the driver agrees"
    assert stage.world.executor.asked[-1] == "unload m"
    assert stage.world.broker.bindings == set()
    assert "t.model.m" not in stage.world.intake.consumed
    assert stage.world.metric("model_evictions_total", worker="w1", model="m", reason="by-hand") == 1.0
    assert [event["reason"] for event in stage.world.said("model.evicted")] == [UNLOAD.reason]
    assert (await stage.world.stores.fleet.sighting()).view.workers["w1"].residents == ()
    await anext(hints)


async def test_a_model_that_runs_leaves_once_its_batch_is_over_and_takes_no_other(stage: Stage):
    await resident(stage, "m", 4)
    await stage.world.submit("j1", "m")
    await stage.world.until(lambda: bool(stage.world.posted))
    stage.intray.put("m", stage.world.posted.pop().delivery)  # type: ignore[union-attr]
    stage.state.started("m", 3, stage.world.clock.now())

    stage.carry_out(UNLOAD)
    await stage.world.quiet()

    assert "unload m" not in stage.world.executor.asked
    assert stage.world.broker.bindings == set(), "new jobs go to somebody else"
    assert stage.world.places("j1") == ("model.m",), "what was in hand is handed back"
    held = (await stage.world.stores.fleet.sighting()).view.workers["w1"].residents
    assert [(r.model, r.state, r.running) for r in held] == [("m", ResidencyState.DRAINING, 3)]
    assert stage.state.leaving_models() == ("m",)
    stage.state.ran("m", 0.1, stage.world.clock.now())
    stage.hand.ran("m")
    await stage.leaves()
    assert stage.world.executor.asked.count("unload m") == 1
    assert dict(stage.state.residents) == {}


async def test_the_end_of_another_models_batch_is_no_reason_to_leave(stage: Stage):
    await resident(stage, "m", 4)
    await resident(stage, "v", 6)
    stage.state.started("m", 1, stage.world.clock.now())
    stage.carry_out(UNLOAD)
    await stage.world.quiet()

    stage.hand.ran("v")
    await stage.world.quiet()

    assert "unload m" not in stage.world.executor.asked


async def test_the_same_decision_again_changes_nothing(stage: Stage):
    await resident(stage, "m", 4)
    stage.carry_out(UNLOAD)
    stage.carry_out(UNLOAD)
    await stage.leaves()
    assert stage.world.executor.asked.count("unload m") == 1


async def test_an_order_that_was_carried_out_is_not_carried_out_again_from_an_old_view(stage: Stage):
    order = an_order(Action.UNLOAD)
    await resident(stage, "m", 4)
    stage.hand.heed(stage.view(order))
    stage.carry_out(UNLOAD)
    await stage.leaves()
    await resident(stage, "m", 4)

    stage.hand.heed(stage.view(order))
    stage.carry_out(UNLOAD)
    assert stage.state.ready("m"), "it came back because a job asked for it"
    stage.hand.heed(stage.view())
    stage.carry_out(replace(UNLOAD, order="o2"))
    assert not stage.state.ready("m")


@pytest.mark.parametrize("why", ["absent", "loading", "victim"])
async def test_what_is_not_ready_here_or_has_to_go_anyway_is_left_alone(stage: Stage, why: str):
    if why == "loading":
        stage.state.loading(Load("w1", "m", GIB, (), 0, ""), False, stage.world.clock.now())
    elif why == "victim":
        await resident(stage, "m", 4)
        stage.course.current = Load("w1", "v", 22 * GIB, ("m",), 0, "")
    before = dict(stage.state.residents)

    stage.carry_out(UNLOAD)
    await stage.world.quiet()

    assert dict(stage.state.residents) == before
    assert "unload m" not in stage.world.executor.asked


async def test_another_workers_models_are_none_of_our_business(stage: Stage):
    await resident(stage, "m", 4)
    stage.carry_out(replace(UNLOAD, worker="w2"))
    assert stage.state.ready("m")


async def test_an_executor_that_dies_meanwhile_has_taken_the_model_along(stage: Stage):
    await resident(stage, "m", 4)
    leaving = stage.world.executor.pause("unload m")
    stage.carry_out(UNLOAD)
    await leaving.reached.wait()
    stage.world.executor.die()
    stage.state.emptied()
    stage.hand.emptied()

    await stage.leaves()

    assert dict(stage.state.residents) == {}
    assert stage.world.said("model.evicted") == [], "it did not leave, it was lost"
    assert stage.world.failures == []


# -- pins --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pin", [("m", "w1"), ("m", EVERYWHERE)])
async def test_what_is_pinned_by_hand_is_pinned_from_the_next_look_on_and_reported_so(
    stage: Stage, pin: tuple[str, str]
):
    await resident(stage, "m", 4)
    await resident(stage, "k", 1)

    stage.hand.heed(stage.view(pins=[pin, ("v", "w1"), ("k", "w2")]))
    assert {m: r.pinned for m, r in stage.state.residents.items()} == {"m": True, "k": True}
    await stage.world.quiet()
    reported = (await stage.world.stores.fleet.sighting()).view.workers["w1"].residents
    assert {r.model: r.pinned for r in reported} == {"m": True, "k": True}

    stage.hand.heed(stage.view(pins=[("m", "w2")]))
    assert {m: r.pinned for m, r in stage.state.residents.items()} == {"m": False, "k": True}, "the catalogue's stays"
    await stage.world.quiet()
    reported = (await stage.world.stores.fleet.sighting()).view.workers["w1"].residents
    assert {r.model: r.pinned for r in reported} == {"m": False, "k": True}


async def test_without_a_change_nothing_is_reported(stage: Stage):
    await resident(stage, "m", 4)
    stage.hand.heed(stage.view())
    await stage.world.quiet()
    assert not (await stage.world.stores.fleet.sighting()).view.workers


async def test_a_victim_that_was_pinned_after_the_decision_stays(stage: Stage):
    """First where the store is looked at once more, then where the loop has heard of the pin by itself."""
    await resident(stage, "v", 6)
    load = Load("w1", "m", 20 * GIB, ("v",), 0, "")
    await stage.world.stores.fleet.pin("v", "w1", "me", 1.0)
    stage.course.begin(load)
    event = await stage.event()
    assert isinstance(event, CalledOff)
    assert event.reason == "v was pinned"
    assert stage.world.stores.holder("claim", "m") is None

    await stage.world.stores.fleet.unpin("v", ["w1"], "me", 1.0)
    stage.course.begin(load)
    event = await stage.event()
    assert isinstance(event, Claimed)
    stage.hand.heed(stage.view(pins=[("v", "w1")]))
    stage.course.claimed(event)
    await stage.world.quiet()
    assert stage.course.current is None
    assert stage.state.ready("v")
    assert stage.world.stores.holder("claim", "m") is None


# -- orders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        (None, False),
        (an_order(Action.LOAD), True),
        (an_order(Action.LOAD, None), True),
        (an_order(Action.UNLOAD, "w2"), False),
    ],
)
async def test_an_order_that_waits_for_this_worker_makes_it_look_after_each_batch(
    stage: Stage, order: Order | None, wanted: bool
):
    stage.hand.heed(stage.view(*([order] if order else [])))
    assert stage.hand.wanted is wanted


async def test_an_order_that_is_fulfilled_here_is_ended_here(stage: Stage):
    orders = [an_order(Action.LOAD), an_order(Action.UNLOAD, order_id="o2", model="v")]
    for order in orders:
        await stage.world.stores.fleet.order(order)
    stage.carry_out(orders=orders)
    await stage.world.quiet()
    assert (await stage.world.stores.fleet.get_order("o1")).state is OrderState.WAITING
    assert (await stage.world.stores.fleet.get_order("o2")).state is OrderState.DONE

    await resident(stage, "m", 4)
    stage.carry_out(orders=orders)
    await stage.world.quiet()

    ended = await stage.world.stores.fleet.get_order("o1")
    assert (ended.state, ended.reason) == (OrderState.DONE, "w1 holds it")
    assert [event["order"] for event in stage.world.said("order.ended")] == ["o2", "o1"]


async def test_an_order_is_ended_later_where_the_store_is_away(stage: Stage):
    order = an_order(Action.UNLOAD)
    await stage.world.stores.fleet.order(order)
    stage.world.stores.down = True
    stage.carry_out(orders=[order])
    await stage.world.quiet()
    stage.world.stores.down = False
    assert (await stage.world.stores.fleet.get_order("o1")).state is OrderState.WAITING
    stage.carry_out(orders=[order])
    await stage.world.quiet()
    assert (await stage.world.stores.fleet.get_order("o1")).state is OrderState.DONE
    assert stage.world.failures == []

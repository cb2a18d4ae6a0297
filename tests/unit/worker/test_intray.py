"""Deliveries in hand: none is forgotten, and none waits here while somebody else could have it."""

import pytest

from affinity.errors import BrokerUnavailable
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.events import Arrived
from worker.intray import Intray

QUEUE = ("model.m",)
HANDS = ("hands",)


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(synthetic("m"), synthetic("n"))


@pytest.fixture
def intray(world: WorkerWorld) -> Intray:
    return Intray(world.services, world.posted.append)


async def in_hand(world: WorkerWorld, intray: Intray, *job_ids: str, model: str = "m") -> None:
    """Jobs that a consumer brought."""
    for job_id in job_ids:
        await world.waiting(job_id, model)
        (delivery,) = await world.take(model, 1)
        intray.put(model, delivery)


async def arrived(world: WorkerWorld, count: int) -> list[Arrived]:
    """What the consumers brought so far."""
    await world.until(lambda: not world.broker._arriving)
    assert len(world.posted) == count
    return [event for event in world.posted if isinstance(event, Arrived)]


async def test_the_model_whose_delivery_came_first_is_first(world: WorkerWorld, intray: Intray):
    assert intray.first() is None
    await in_hand(world, intray, "j1", model="n")
    await in_hand(world, intray, "j2", "j3", model="m")
    assert intray.first() == "n"
    assert intray.first(("n",)) == "m"
    assert intray.first(("n", "m")) is None
    assert intray.pop("n", 5) != []
    assert intray.first() == "m"


async def test_deliveries_come_out_in_order_and_the_rest_stays(world: WorkerWorld, intray: Intray):
    await in_hand(world, intray, "j1", "j2", "j3")
    assert len(intray.pop("m", 2)) == 2
    assert intray.first() == "m"
    (last,) = intray.pop("m", 2)
    assert b'"j3"' in last.body
    assert intray.pop("m", 2) == []
    assert intray.first() is None


async def test_what_is_in_hand_comes_before_the_backlog(world: WorkerWorld, intray: Intray):
    await in_hand(world, intray, "j1")
    for job_id in ("j2", "j3", "j4"):
        await world.waiting(job_id)
    gathered = await intray.gather("m", 3)
    assert [delivery.body.split(b'"id":"')[1][:2] for delivery in gathered] == [b"j1", b"j2", b"j3"]
    assert world.places("j4") == QUEUE


async def test_the_backlog_is_not_asked_when_there_is_enough_in_hand(world: WorkerWorld, intray: Intray):
    await in_hand(world, intray, "j1")
    world.broker.down = True
    assert len(await intray.gather("m", 1)) == 1


async def test_what_is_in_hand_is_kept_when_the_backlog_cannot_be_asked(world: WorkerWorld, intray: Intray):
    await in_hand(world, intray, "j1")
    world.broker.down = True
    try:
        gathered = await intray.gather("m", 2)
    except BrokerUnavailable:
        gathered = intray.pop("m", 2)
    assert len(gathered) == 1


async def test_a_consumer_brings_one_delivery_at_a_time(world: WorkerWorld, intray: Intray):
    await world.waiting("j1")
    await world.waiting("j2")
    assert not intray.armed
    await intray.arm(["m"])
    assert intray.armed
    assert (intray.expects("m"), intray.expects("n")) == (True, False)
    assert intray.unheard(["m", "n"]) == ["n"]
    (event,) = await arrived(world, 1)
    assert event.model == "m"
    assert (world.places("j1"), world.places("j2")) == (HANDS, QUEUE)


async def test_arming_twice_makes_one_consumer(world: WorkerWorld, intray: Intray):
    await world.waiting("j1")
    await world.waiting("j2")
    await intray.arm(["m"])
    await arrived(world, 1)
    await intray.arm(["m", "n"])
    await arrived(world, 1)
    assert set(world.intake.consumed) == {"t.model.m", "t.model.n"}


async def test_disarming_stops_every_consumer_and_hands_back_what_they_brought(world: WorkerWorld, intray: Intray):
    await world.waiting("j1", "m")
    await world.waiting("j2", "n")
    await intray.arm(["m", "n"])
    for event in await arrived(world, 2):
        intray.put(event.model, event.delivery)
    await intray.disarm()
    assert not intray.armed
    assert world.intake.consumed == {}
    assert intray.first() is None
    assert (world.places("j1"), world.places("j2")) == (QUEUE, ("model.n",))


async def test_consumers_wished_for_while_the_broker_was_away_run_once_it_is_back(world: WorkerWorld, intray: Intray):
    await world.waiting("j1")
    world.broker.cut()
    await intray.arm(["m"])
    assert intray.expects("m")
    world.broker.restore()
    await arrived(world, 1)


async def test_consumers_stopped_while_the_broker_was_away_do_not_come_back(world: WorkerWorld, intray: Intray):
    await intray.arm(["m"])
    world.broker.cut()
    await intray.disarm()
    await world.stores.jobs.demand()
    world.broker.restore()
    await world.waiting("j1")
    await arrived(world, 0)
    assert world.places("j1") == QUEUE


async def test_one_models_deliveries_can_be_handed_back_alone(world: WorkerWorld, intray: Intray):
    await in_hand(world, intray, "j1", "j2", model="m")
    await in_hand(world, intray, "j3", model="n")
    await intray.hand_back("m")
    assert [world.places(j) for j in ("j1", "j2", "j3")] == [QUEUE, QUEUE, HANDS]
    await intray.hand_back("m")
    assert intray.first() == "n"


async def test_a_consumer_that_somebody_else_stops_is_no_longer_expected(world: WorkerWorld, intray: Intray):
    await intray.arm(["m", "n"])
    intray.dropped("m")
    intray.dropped("m")
    assert (intray.expects("m"), intray.expects("n")) == (False, True)

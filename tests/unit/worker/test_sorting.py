"""Fallback: everything is sorted into its model's queue, fails, or stays with the broker."""

from dataclasses import replace

import pytest

from affinity.errors import StoreUnavailable
from affinity.job import JobError, JobState
from tests.support.executors import synthetic
from tests.support.fake_stores import FakeFleetStore
from tests.support.job_samples import an_attempt
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.batch import BatchRunner
from worker.sorting import GIVE_UP_STEP, Sorter

QUEUE = ("model.m",)
DEAD = ("dead",)
ACKED: tuple[str, ...] = ()
HOPELESS = JobError("load_failed", "the weights are damaged")


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(synthetic("m", 4.0))


@pytest.fixture
def sorter(world: WorkerWorld) -> Sorter:
    return Sorter(world.services, BatchRunner(world.services, world.tasks), world.tasks)


async def sort(world: WorkerWorld, sorter: Sorter) -> None:
    """Everything that is in fallback."""
    await world.intake.consume_fallback(100, sorter.arrived)
    await world.until(lambda: not world.broker._arriving)
    await world.quiet()


# -- sorting -----------------------------------------------------------------------------------------------------------


async def test_a_job_is_parked_in_its_models_queue_and_the_fleet_is_woken(world: WorkerWorld, sorter: Sorter):
    await world.submit("j1")
    assert world.places("j1") == ("fallback",)
    hints = world.stores.fleet.wakes()
    await anext(hints)
    await sort(world, sorter)
    assert world.places("j1") == QUEUE
    assert (await world.take())[0].parked
    await anext(hints)
    assert world.failures == []


async def test_a_foreign_job_is_recorded_as_demand_when_it_is_first_seen(world: WorkerWorld, sorter: Sorter):
    world.foreign(b'{"id": "f1", "input": 1}', "t.fallback")
    await sort(world, sorter)
    assert await world.state("f1") is JobState.QUEUED
    assert [d.queued for d in await world.stores.jobs.demand()] == [1]
    assert world.places("f1") == QUEUE


async def test_a_parked_job_that_expired_in_its_queue_is_parked_again(world: WorkerWorld, sorter: Sorter):
    await world.submit("j1")
    await sort(world, sorter)
    world.broker.expire("t.model.m")
    await world.until(lambda: not world.broker._arriving)
    await world.quiet()
    assert world.places("j1") == QUEUE
    assert (await world.take())[0].body


async def test_a_job_that_has_ended_is_acked(world: WorkerWorld, sorter: Sorter):
    await world.submit("j1")
    await world.stores.jobs.cancel("j1", world.clock.now())
    await sort(world, sorter)
    assert world.places("j1") == ACKED


async def test_a_running_job_is_parked_too_since_this_copy_survives_its_worker(world: WorkerWorld, sorter: Sorter):
    spec = await world.submit("j1")
    await world.stores.fleet.report(world.report("m"))
    await world.stores.jobs.start([(an_attempt("j1", "w2"), spec, 0.0)], world.clock.now())
    await sort(world, sorter)
    assert await world.state("j1") is JobState.RUNNING
    assert world.places("j1") == QUEUE


async def test_an_undecodable_delivery_is_buried(world: WorkerWorld, sorter: Sorter):
    world.foreign(b"rubbish", "t.fallback", model="some.model")
    await sort(world, sorter)
    assert world.buried() == [("rubbish", "undecodable_message")]
    assert world.broker.queues["t.dead"][0].headers["affinity-model"] == "some.model"
    assert world.places("rubbish") == DEAD


async def test_another_job_under_a_taken_id_is_buried_and_the_first_is_untouched(world: WorkerWorld, sorter: Sorter):
    await world.waiting("j1", input={"n": 1})
    world.foreign(b'{"id": "j1", "input": {"n": 2}}', "t.fallback")
    await sort(world, sorter)
    assert world.buried() == [("j1", "id_conflict")]
    assert (await world.job("j1")).spec.input == {"n": 1}
    assert world.places("j1") == ("dead", "model.m")


async def test_a_model_nobody_knows_fails_its_job_and_makes_no_queue(world: WorkerWorld, sorter: Sorter):
    await world.submit("j1", "nn")
    await sort(world, sorter)
    job = await world.job("j1")
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == "unknown_model"
    assert world.buried() == [("j1", "unknown_model")]
    assert world.places("j1") == DEAD
    assert "t.model.nn" not in world.broker.queues
    assert world.metric("message_processing_errors_total", model="nn", code="unknown_model") == 1


class _NoHints(FakeFleetStore):
    """A fleet store that goes away just before the hint."""

    async def wake(self) -> None:
        raise StoreUnavailable("Redis at fake:0 failed: it went away just now")


async def test_a_hint_that_cannot_be_given_changes_nothing(world: WorkerWorld):
    await world.submit("j1")
    services = replace(world.services, fleet=_NoHints(world.stores))
    await sort(world, Sorter(services, BatchRunner(services, world.tasks), world.tasks))
    assert world.places("j1") == QUEUE
    assert world.failures == []


# -- giving up ---------------------------------------------------------------------------------------------------------


async def test_giving_up_fails_every_job_in_the_queue_and_gives_the_claim_back(world: WorkerWorld, sorter: Sorter):
    for number in range(GIVE_UP_STEP + 1):
        await world.waiting(f"j{number}")
    world.foreign(b'{"id": "f1", "input": 1}', "t.model.m")
    await sorter.give_up("m", HOPELESS)
    for job_id in ("j0", f"j{GIVE_UP_STEP}", "f1"):
        assert (await world.job(job_id)).error == HOPELESS
        assert world.places(job_id) == DEAD
    assert {code for _, code in world.buried()} == {"load_failed"}
    assert len(world.buried()) == GIVE_UP_STEP + 2
    assert await world.stores.jobs.demand() == []
    assert world.stores.holder("claim", "m") is None
    assert world.metric("message_processing_errors_total", model="m", code="load_failed") == GIVE_UP_STEP + 2


async def test_giving_up_is_left_to_whoever_has_the_claim(world: WorkerWorld, sorter: Sorter):
    await world.waiting("j1")
    await world.stores.fleet.claim("m", "w2", 10.0)
    await sorter.give_up("m", HOPELESS)
    assert await world.state("j1") is JobState.QUEUED
    assert world.places("j1") == QUEUE
    assert world.stores.holder("claim", "m") == "w2"


async def test_giving_up_settles_what_it_cannot_fail(world: WorkerWorld, sorter: Sorter):
    await world.waiting("ended")
    await world.stores.jobs.cancel("ended", world.clock.now())
    world.foreign(b"rubbish", "t.model.m")
    await world.waiting("j1")
    await sorter.give_up("m", HOPELESS)
    assert [world.places(name) for name in ("ended", "rubbish", "j1")] == [ACKED, DEAD, DEAD]
    assert sorted(world.buried()) == [("j1", "load_failed"), ("rubbish", "undecodable_message")]


async def test_giving_up_without_a_store_touches_nothing(world: WorkerWorld, sorter: Sorter):
    await world.waiting("j1")
    world.stores.down = True
    await sorter.give_up("m", HOPELESS)
    assert world.places("j1") == QUEUE


async def test_giving_up_without_a_broker_leaves_the_jobs_queued(world: WorkerWorld, sorter: Sorter):
    await world.waiting("j1")
    world.broker.down = True
    await sorter.give_up("m", HOPELESS)
    assert await world.state("j1") is JobState.QUEUED
    assert world.places("j1") == QUEUE


async def test_giving_up_keeps_the_delivery_of_a_job_that_a_lost_worker_ran(world: WorkerWorld, sorter: Sorter):
    spec = await world.waiting("j1")
    await world.stores.jobs.start([(an_attempt("j1", "gone"), spec, 0.0)], world.clock.now())
    await sorter.give_up("m", HOPELESS)
    await world.stores.jobs.reclaim("gone", world.clock.now())  # somebody notices a moment later
    assert await world.state("j1") is JobState.QUEUED
    assert world.places("j1") == ("hands",), "held, and handed back in a moment"


async def test_giving_up_keeps_the_delivery_of_a_job_that_runs_elsewhere(world: WorkerWorld, sorter: Sorter):
    spec = await world.waiting("j1")
    await world.stores.fleet.report(world.report("m"))
    await world.stores.jobs.start([(an_attempt("j1", "w2"), spec, 0.0)], world.clock.now())
    await sorter.give_up("m", HOPELESS)
    assert world.buried() == []
    assert world.places("j1") == ("hands",), "held, and handed back in a moment"


# -- strangers ---------------------------------------------------------------------------------------------------------


async def test_strangers_become_demand_and_stay_in_their_queue_in_order(world: WorkerWorld, sorter: Sorter):
    for number in range(3):
        world.foreign(b'{"id": "f%d", "input": 1}' % number, "t.model.m")
    await sorter.count_strangers("m")
    assert [(d.model, d.queued) for d in await world.stores.jobs.demand()] == [("m", 3)]
    assert [world.places(f"f{number}") for number in range(3)] == [QUEUE] * 3


async def test_among_strangers_the_undecodable_are_buried_and_the_ended_acked(world: WorkerWorld, sorter: Sorter):
    await world.waiting("ended")
    await world.stores.jobs.cancel("ended", world.clock.now())
    world.foreign(b"rubbish", "t.model.m")
    world.foreign(b'{"id": "f1", "input": 1}', "t.model.m")
    await sorter.count_strangers("m")
    assert [world.places(name) for name in ("ended", "rubbish", "f1")] == [ACKED, DEAD, QUEUE]


async def test_strangers_stay_in_their_queue_where_the_store_is_away(world: WorkerWorld, sorter: Sorter):
    world.foreign(b'{"id": "f1", "input": 1}', "t.model.m")
    world.foreign(b'{"id": "f2", "input": 1}', "t.model.m")
    world.stores.down = True
    with pytest.raises(StoreUnavailable):
        await sorter.count_strangers("m")
    assert [world.places(name) for name in ("f1", "f2")] == [QUEUE, QUEUE]


async def test_what_lies_forgotten_in_a_queue_that_nobody_serves_is_looked_at_in_turn(
    world: WorkerWorld, sorter: Sorter
):
    await world.waiting("ended")
    await world.stores.jobs.cancel("ended", world.clock.now())
    world.foreign(b'{"id": "f1", "input": 1}', "t.model.m")
    for _ in world.services.catalog:
        await sorter.count_forgotten()
    assert [world.places(name) for name in ("ended", "f1")] == [ACKED, QUEUE]
    assert [(d.model, d.queued) for d in await world.stores.jobs.demand()] == [("m", 1)]

"""Broker or store away for long: a worker waits, tries now and then, and wears nothing out."""

from itertools import pairwise

import pytest

from affinity.job import JobState
from tests.support.clock import FakeClock
from tests.support.executors import synthetic
from tests.support.job_samples import an_attempt
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.holding import HOLD_MOST_S, HOLD_S, Absence
from worker.lookout import AWAY_S
from worker.membership import Membership

DELIVERIES_AT_MOST = 100
HOUR_S = 3600.0


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(synthetic("m"))


def deliveries_in(outage_s: float) -> int:
    """How often one message is handed back while a server is away for so long."""
    clock, count = FakeClock(), 0
    server = Absence(clock)
    while clock.monotonic() < outage_s:
        server.failed()
        count += 1
        clock.advance(server.hold_s())
    return count


def test_an_outage_of_an_hour_uses_up_a_fraction_of_a_messages_deliveries():
    assert deliveries_in(HOUR_S) < DELIVERIES_AT_MOST / 4
    assert deliveries_in(6 * HOUR_S) < DELIVERIES_AT_MOST


def test_what_is_held_is_held_no_longer_than_the_server_has_been_away():
    clock = FakeClock()
    server = Absence(clock)
    assert server.hold_s() == HOLD_S
    server.failed()
    clock.advance(7.0)
    server.failed()
    assert server.hold_s() == 7.0
    clock.advance(HOUR_S)
    assert server.hold_s() == HOLD_MOST_S
    server.back()
    assert server.hold_s() == HOLD_S


async def test_a_load_that_the_broker_holds_up_is_not_begun_again_at_once(world: WorkerWorld):
    async with world.running() as worker:
        await world.waiting("j1")
        world.broker.down = True
        begun = []
        begin = worker._course.begin
        worker._course.begin = lambda *load: (begun.append(world.clock.monotonic()), begin(*load))[1]
        await world.passing(lambda: len(begun) >= 3)
        world.broker.restore()
        await world.passing(lambda: world.places("j1") == ())
    apart = [later - earlier for earlier, later in pairwise(begun)]
    assert min(apart) >= AWAY_S


async def test_an_estate_that_cannot_be_settled_is_not_tried_again_at_every_look(world: WorkerWorld):
    await world.stores.fleet.report(world.report("m"))
    world.clock.advance(11.0)
    lost = (await world.stores.fleet.sighting()).lost
    tried = []

    async def unbind(model: str, worker: str) -> None:
        tried.append((model, worker))
        world.broker.reach()

    world.broker.publisher.unbind = unbind
    world.broker.down = True
    membership = Membership(world.services)
    for _ in range(5):
        await membership.reap(lost)
    assert tried == [("m", "w2")]
    world.broker.down = False
    world.clock.advance(1.0)
    await membership.reap(lost)
    assert (await world.stores.fleet.sighting()).lost == ()


async def test_a_job_that_the_store_says_runs_here_and_does_not_is_given_back_and_what_does_run_is_not(
    world: WorkerWorld,
):
    running = world.executor.pause("run m")
    async with world.running():
        await world.submit("j1")
        await world.passing(running.reached.is_set)
        # As after a cut of the append-only file: its end was stored, and the store has forgotten that.
        ended = await world.waiting("ended")
        (delivery,) = await world.take(most=1)
        await delivery.ack()
        await world.stores.jobs.start([(an_attempt("ended", "w1"), ended, 0.0)], world.clock.now())
        records = world.stores.jobs._records
        await world.passing(lambda: records["ended"].job.state is JobState.QUEUED)
        assert await world.state("j1") is JobState.RUNNING
        assert (await world.job("ended")).losses == 0
        running.go()
        await world.passing(lambda: records["j1"].job.state is JobState.SUCCEEDED)

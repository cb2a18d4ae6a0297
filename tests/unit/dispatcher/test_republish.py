"""Queued jobs that no queue has are published again: all of those, no others, and not more than are missing."""

from collections import deque

import pytest

from affinity.errors import BrokerUnavailable
from affinity.job import JobError, JobSpec
from affinity.topology import Topology
from dispatcher.republish import APART_S, COPIES_AT_ONCE, DEPTHS_AT_ONCE, TURN_S, WAITED_S, Republisher
from tests.support.clock import FakeClock
from tests.support.dispatcher import WatchedPublisher
from tests.support.fake_broker import FakeBroker
from tests.support.fake_stores import FakeStores
from tests.support.job_samples import a_report, an_attempt

QUEUE = "t.model.m"


class World:
    """A store, a broker that can lose a queue's messages, and a dispatcher that looks for what got lost."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.stores = FakeStores(self.clock)
        self.broker = FakeBroker(Topology("t"), self.clock.now)
        self.publisher = WatchedPublisher(self.broker)
        self.republisher = self.another()

    def another(self) -> Republisher:
        """A dispatcher of this fleet."""
        return Republisher(self.stores.jobs, self.publisher, self.broker.topology, self.clock)

    async def jobs(self, count: int, model: str = "m") -> None:
        """So many queued jobs, in their model's queue."""
        for n in range(count):
            spec = JobSpec(f"{model}{n}", model, n)
            await self.stores.jobs.sight(spec, self.clock.now(), self.clock.now())
            await self.publisher.park(spec, self.clock.now())
            self.clock.advance(0.001)

    async def later(self, seconds: float = 5.0, sweeps: int = 1) -> list[str]:
        """Let time pass and look, so often. What was published again by that."""
        self.publisher.published.clear()
        for _ in range(sweeps):
            self.clock.advance(seconds)
            self.broker.release()
            await self.republisher.sweep()
        return [spec.id for spec in self.publisher.published]


@pytest.fixture
def world() -> World:
    return World()


async def test_jobs_in_tenants_lanes_are_not_missing(world: World):
    for tenant in ("acme", "other"):
        spec = JobSpec(f"of-{tenant}", "m", 1, tenant=tenant)
        await world.stores.jobs.sight(spec, world.clock.now(), world.clock.now())
        await world.publisher.park(spec, world.clock.now())
    assert await world.later(WAITED_S + 1, sweeps=3) == []

    del world.broker.queues[f"{QUEUE}@acme"]
    assert await world.later(WAITED_S + 1, sweeps=3) == ["of-acme"]


async def test_jobs_whose_queue_is_lost_are_published_again_after_two_looks(world: World):
    await world.jobs(3)
    del world.broker.queues[QUEUE]
    assert await world.later(WAITED_S + 1) == [], "they may be on their way"
    assert await world.later(APART_S) == ["m0", "m1", "m2"]
    assert await world.later(sweeps=20) == [], "they are in fallback by now"


async def test_while_a_queue_has_a_message_for_each_job_nothing_is_published(world: World):
    await world.jobs(3)
    assert await world.later(sweeps=20) == []


async def test_jobs_in_fallback_are_not_missing(world: World):
    for n in range(3):
        spec = JobSpec(f"m{n}", "m", n)
        await world.stores.jobs.create(spec, world.clock.now())
        await world.publisher.publish(spec, world.clock.now())
        await world.stores.jobs.published(spec.id)
    assert await world.later(sweeps=20) == []


async def test_no_more_copies_are_made_than_messages_are_missing_and_the_oldest_jobs_first(world: World):
    await world.jobs(5)
    world.broker.queues[QUEUE] = deque(list(world.broker.queues[QUEUE])[2:])
    assert await world.later(sweeps=10) == ["m0", "m1"]
    assert len(world.broker.queues[QUEUE]) + len(world.broker.queues["t.fallback"]) == 5


async def test_what_is_served_meanwhile_is_not_published_again(world: World):
    await world.jobs(4)
    intake = world.broker.intake("w1")
    await intake.take("m", 4)
    await world.later(WAITED_S + 1)
    for n in range(3):
        spec = JobSpec(f"m{n}", "m", n)
        await world.stores.jobs.start([(an_attempt(spec.id), spec, world.clock.now())], world.clock.now())
    assert await world.later(APART_S) == ["m3"]


async def test_a_job_whose_wait_is_over_and_whose_retry_queue_is_lost_is_published_again(world: World):
    await world.stores.fleet.report(a_report())
    await world.jobs(1)
    world.broker.queues[QUEUE].clear()
    spec, attempt = JobSpec("m0", "m", 0), an_attempt("m0")
    await world.stores.jobs.start([(attempt, spec, world.clock.now())], world.clock.now())
    assert await world.stores.jobs.give_back(attempt, JobError("x", "x"), True, world.clock.now(), wait_s=64.0)
    assert await world.later(sweeps=12) == [], "it is not to run yet"
    assert await world.later(sweeps=6) == ["m0"]


async def test_a_sweep_asks_for_a_bounded_number_of_depths_and_every_model_has_its_turn(world: World):
    intake = world.broker.intake("w1")
    for n in range(2 * DEPTHS_AT_ONCE + 5):
        await world.jobs(1, f"model-{n}")
        await intake.bind(f"model-{n}")  # Else the first copies would be in fallback, where they count for everybody.
        world.broker.queues[f"t.model.model-{n}"].clear()
    first = await world.later(WAITED_S + 1)
    assert (first, len(world.republisher._suspected)) == ([], DEPTHS_AT_ONCE)
    assert len(set(await world.later(sweeps=12))) == 2 * DEPTHS_AT_ONCE + 5


async def test_a_sweep_publishes_a_bounded_number_of_jobs(world: World):
    await world.jobs(COPIES_AT_ONCE + 7)
    world.broker.queues[QUEUE].clear()
    await world.later(WAITED_S + 1)
    assert len(await world.later(APART_S)) == COPIES_AT_ONCE


async def test_of_several_dispatchers_one_looks_until_it_is_gone(world: World):
    other = world.another()
    await world.jobs(1)
    world.broker.queues[QUEUE].clear()
    await world.later(WAITED_S + 1)
    world.clock.advance(APART_S)
    assert await other.sweep() == 0
    world.clock.advance(TURN_S)
    assert await other.sweep() == 0, "its first look"
    world.clock.advance(APART_S)
    assert await other.sweep() == 1


async def test_one_queue_that_takes_nothing_does_not_keep_the_others(world: World):
    await world.jobs(1, "a")
    await world.jobs(1, "b")
    world.broker.queues["t.model.a"].clear()
    world.broker.queues["t.model.b"].clear()

    async def refuse(spec: JobSpec) -> None:
        if spec.model == "a":
            raise BrokerUnavailable("no confirm in time")

    world.publisher.on_publish = refuse
    await world.later(WAITED_S + 1)
    assert await world.later(APART_S) == ["b0"]


async def test_when_nothing_waits_the_broker_is_not_asked_at_all(world: World):
    world.broker.down = True
    assert await world.later(sweeps=3) == []

"""What the fakes do as their clock moves; the conformance suite cannot wait for the real one."""

from collections.abc import Awaitable, Callable

import pytest

from affinity.errors import StoreUnavailable, UnknownJob
from affinity.io.ports import Verdict
from tests.support.clock import FakeClock
from tests.support.fake_stores import FakeStores
from tests.support.job_samples import a_report, a_spec, an_attempt, later


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def world(clock: FakeClock) -> FakeStores:
    return FakeStores(clock, retention_s=100.0)


def test_a_fake_clock_moves_both_its_times_and_only_when_told() -> None:
    clock = FakeClock(10.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (12.5, 2.5)


async def test_a_lease_ends_on_time_unless_it_is_renewed(world: FakeStores, clock: FakeClock) -> None:
    report = a_report("w1")
    await world.fleet.report(report)
    clock.advance(report.lease_s - 1)
    await world.fleet.report(later(report))
    clock.advance(report.lease_s - 0.001)
    assert list((await world.fleet.sighting()).view.workers) == ["w1"]
    clock.advance(0.002)
    assert (await world.fleet.sighting()).lost == (later(report),)
    assert await world.fleet.lease_gpu(report.gpu.uuid, "w2", 1.0)


async def test_a_job_is_held_until_the_lease_of_its_worker_ends(world: FakeStores, clock: FakeClock) -> None:
    report = a_report("w1")
    await world.fleet.report(report)
    await world.jobs.start([(an_attempt(), a_spec(), 0.0)], clock.now())
    (held,) = await world.jobs.start([(an_attempt(worker="w2"), a_spec(), 0.0)], clock.now())
    clock.advance(report.lease_s)
    (started,) = await world.jobs.start([(an_attempt(worker="w2"), a_spec(), 0.0)], clock.now())
    assert (held.verdict, started.verdict) == (Verdict.HELD, Verdict.STARTED)


async def test_an_ended_job_is_kept_for_its_retention(world: FakeStores, clock: FakeClock) -> None:
    await world.jobs.create(a_spec(), clock.now())
    await world.jobs.cancel("j1", clock.now())
    clock.advance(99)
    await world.jobs.get("j1")
    clock.advance(1)
    with pytest.raises(UnknownJob):
        await world.jobs.get("j1")


CALLS: list[Callable[[FakeStores], Awaitable[object]]] = [
    lambda world: world.jobs.create(a_spec(), 0.0),
    lambda world: world.jobs.demand(),
    lambda world: world.jobs.page(None, None, 10, None),
    lambda world: world.jobs.start([], 0.0),
    lambda world: world.fleet.sighting(),
    lambda world: world.fleet.wake(),
    lambda world: world.events.emit("k", 0.0, {}),
]


@pytest.mark.parametrize("call", CALLS)
async def test_a_fake_that_is_down_fails_as_an_unreachable_redis(
    world: FakeStores, call: Callable[[FakeStores], Awaitable[object]]
) -> None:
    world.down = True
    with pytest.raises(StoreUnavailable):
        await call(world)
    world.down = False
    await call(world)

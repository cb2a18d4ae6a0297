"""Reports: one at a time, in order, and as the state is when they go out."""

import asyncio
from dataclasses import replace

import pytest

from affinity.fleet import GIB, WorkerReport
from tests.support.fake_executor import Pause
from tests.support.fake_stores import FakeFleetStore
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.events import Beat, Displaced
from worker.gpu import GpuLost
from worker.reporter import Reporter
from worker.simulated_gpu import SimulatedProbe


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world()


class Snapshots:
    """Reports of a state that changes: each is newer than the last."""

    def __init__(self, world: WorkerWorld) -> None:
        self._world = world
        self.made = 0

    def __call__(self) -> WorkerReport:
        self.made += 1
        return replace(self._world.report(worker="w1", gpu="SIM-w1-0"), sequence=self.made)


class SlowStore(FakeFleetStore):
    """A store whose answer to a report takes as long as the test wants."""

    def __init__(self, world: WorkerWorld) -> None:
        super().__init__(world.stores)
        self.pause = Pause()
        self.seen: list[int] = []

    async def report(self, report: WorkerReport) -> bool:
        self.seen.append(report.sequence)
        await self.pause.hold()
        return await super().report(report)


def reporter(world: WorkerWorld, snapshots: Snapshots) -> Reporter:
    return Reporter(world.services, snapshots, world.posted.append)


async def test_a_report_renews_the_lease_and_sets_the_gauges(world: WorkerWorld):
    await reporter(world, Snapshots(world)).publish()
    world.clock.advance(9.0)
    assert world.stores.holder("lease", "w1") == "1"
    assert set((await world.stores.fleet.sighting()).view.workers) == {"w1"}
    assert world.metric("worker_up", worker="w1") == 1
    assert world.posted == []


async def test_a_worker_that_finds_a_newer_life_under_its_name_is_displaced(world: WorkerWorld):
    await world.stores.fleet.report(world.report(worker="w1", epoch=2))
    await reporter(world, Snapshots(world)).publish()
    assert world.posted == [Displaced()]


async def test_while_the_store_is_away_the_gauges_go_on_and_the_next_report_gets_through(world: WorkerWorld):
    snapshots = Snapshots(world)
    world.stores.down = True
    await reporter(world, snapshots).publish()
    assert world.metric("worker_up", worker="w1") == 1
    world.stores.down = False
    await reporter(world, snapshots).publish()
    assert (await world.stores.fleet.sighting()).view.workers["w1"].sequence == 2


async def test_a_report_that_waited_for_another_says_what_is_so_when_it_goes_out(world: WorkerWorld):
    store, snapshots = SlowStore(world), Snapshots(world)
    one = Reporter(replace(world.services, heartbeat=store), snapshots, world.posted.append)
    first, second = asyncio.create_task(one.publish()), asyncio.create_task(one.publish())
    await store.pause.reached.wait()
    await asyncio.sleep(0)
    assert snapshots.made == 1, "the second is made when the first is out, not before"
    store.pause.go()
    await asyncio.gather(first, second)
    assert store.seen == [1, 2]


async def test_every_beat_tells_what_the_driver_says_and_publishes(world: WorkerWorld):
    world.probe.set_foreign("SIM-w1-0", 5 * GIB)
    snapshots = Snapshots(world)
    beating = asyncio.create_task(reporter(world, snapshots).beat())
    await world.until(lambda: snapshots.made >= 3)
    beating.cancel()
    beats = [event for event in world.posted if isinstance(event, Beat)]
    assert len(beats) >= 3
    assert beats[0].gpu.foreign_bytes == 5 * GIB


class DeafProbe(SimulatedProbe):
    """A driver that does not answer."""

    def read(self, uuid: str, own_pids: frozenset[int], reserve_bytes: int):
        raise GpuLost(f"{uuid} has fallen off the bus")


async def test_a_driver_that_does_not_answer_does_not_cost_the_lease(world: WorkerWorld):
    snapshots = Snapshots(world)
    services = replace(world.services, probe=DeafProbe("w1", count=1, total_bytes=GIB))
    beating = asyncio.create_task(Reporter(services, snapshots, world.posted.append).beat())
    await world.until(lambda: snapshots.made >= 2)
    beating.cancel()
    assert world.posted == []
    assert world.stores.holder("lease", "w1") == "1"

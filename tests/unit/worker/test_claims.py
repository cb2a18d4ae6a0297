"""Claims on a load that go wrong: two at once, and a worker that dies with one."""

import asyncio
from dataclasses import replace

import pytest

from affinity.fleet import GIB, Residency, ResidencyState
from affinity.job import JobState
from affinity.policy import Load
from tests.support.executors import synthetic
from tests.support.fake_executor import FakeExecutor
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.events import CalledOff, Claimed
from worker.loading import Loader
from worker.metrics import WorkerMetrics
from worker.services import Identity
from worker.simulated_gpu import SimulatedProbe

M = synthetic("m", 8.0)
LEASE_S = 10.0


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(M)


def beside(world: WorkerWorld, name: str) -> WorkerWorld:
    """Another worker in the same world: the same stores, the same broker, a GPU and an executor of its own."""
    probe = SimulatedProbe(name, count=1, total_bytes=24 * GIB, monotonic=world.clock.monotonic)
    executor, intake = FakeExecutor(24 * GIB), world.broker.intake(name)
    services = replace(
        world.services,
        identity=Identity(name, "node", 1, "http://127.0.0.1:8001/metrics"),
        device=probe.devices()[0],
        probe=probe,
        executor=executor,
        intake=intake,
        metrics=WorkerMetrics(),
    )
    return WorkerWorld(services, world.clock, world.stores, world.broker, intake, executor, probe)


async def joined(world: WorkerWorld) -> None:
    """Both are in the fleet."""
    await world.passing(lambda: {"w1", "w2"} <= world.stores.fleet._reports.keys())


def ended(world: WorkerWorld, job_id: str) -> bool:
    return world.stores.jobs._records[job_id].job.state.terminal


async def for_a_while(world: WorkerWorld, seconds: float) -> None:
    until = world.clock.now() + seconds
    await world.passing(lambda: world.clock.now() >= until)


async def test_of_two_workers_that_see_the_same_demand_one_loads(world: WorkerWorld):
    """L8, with the claims of two real loops that wake at the same hint."""
    second = beside(world, "w2")
    async with world.running(), second.running():
        await joined(world)
        await world.submit("j1")
        await world.passing(lambda: ended(world, "j1"))
        await for_a_while(world, 1.0)
    assert await world.state("j1") is JobState.SUCCEEDED
    assert [*world.executor.asked, *second.executor.asked].count("load m") == 1


async def test_of_two_workers_that_both_decided_to_load_one_goes_on(world: WorkerWorld):
    """Their views were taken before either had claimed: only the claim tells them apart."""
    worlds = {"w1": world, "w2": beside(world, "w2")}
    for _ in range(10):
        loads = {name: Load(name, "m", 8 * GIB, (), 0, "nobody holds it") for name in worlds}
        loaders = {name: Loader(one.services, one.posted.append, _nothing) for name, one in worlds.items()}
        await asyncio.gather(*(loader.claim(loads[name]) for name, loader in loaders.items()))
        events = {name: one.posted.pop() for name, one in worlds.items()}
        (winner,) = (name for name, event in events.items() if event == Claimed(loads[name]))
        (loser,) = worlds.keys() - {winner}
        assert events[loser] == CalledOff(loads[loser], "another worker claimed it")
        await loaders[loser].release(loads[loser])
        assert world.stores.holder("claim", "m") == winner, "it is not the loser's to give up"
        await loaders[winner].release(loads[winner])


async def test_a_worker_that_claims_and_dies_is_waited_for_no_longer_than_its_claim(world: WorkerWorld):
    async with world.running():
        assert await world.stores.fleet.claim("m", "w2", LEASE_S)
        began_at = world.clock.now()
        await world.submit("j1")
        await for_a_while(world, 0.8 * LEASE_S)
        assert world.executor.asked == [], "it may be about to load it"
        await world.passing(lambda: ended(world, "j1"))
        assert LEASE_S <= world.clock.now() - began_at < LEASE_S + 1.0
    assert await world.state("j1") is JobState.SUCCEEDED


async def test_a_worker_that_dies_while_it_loads_is_tidied_up_after_and_its_load_is_made_elsewhere(world: WorkerWorld):
    theirs = world.report(worker="w2")
    at = world.clock.now()
    loading = Residency("m", ResidencyState.LOADING, 8 * GIB, at, at)
    async with world.running():
        assert await world.stores.fleet.claim("m", "w2", LEASE_S)
        assert await world.stores.fleet.report(replace(theirs, residents=(loading,), lease_s=LEASE_S))
        await world.broker.intake("w2").bind("m")
        await world.submit("j1")
        await for_a_while(world, 0.8 * LEASE_S)
        assert world.executor.asked == []
        await world.passing(lambda: ended(world, "j1"))
        await world.passing(lambda: bool(world.said("worker.lost")))
        assert world.clock.now() - at < LEASE_S + 2.0
        assert world.broker.bindings == {("m", "w1")}
    assert await world.state("j1") is JobState.SUCCEEDED


async def _nothing() -> None:
    """No report."""

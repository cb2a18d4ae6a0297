"""Which batches the loop runs while their start is still being recorded: short ones, and only where that is safe."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from affinity.fleet import GIB, Measurement
from affinity.job import JobSpec, JobState
from affinity.wire import encode_message
from tests.support.executors import synthetic
from tests.support.slow_start import SlowStart
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.batch import EARLY_BELOW_S

SHORT, LONG = Measurement(GIB, 0.1, EARLY_BELOW_S / 10), Measurement(GIB, 0.1, EARLY_BELOW_S)


@pytest.fixture
def world() -> WorkerWorld:
    made = a_worker_world(synthetic("m", 4.0))
    made.stores.jobs = SlowStart(made.stores)
    made.services = replace(made.services, store=made.stores.jobs)
    return made


@pytest.fixture
def store(world: WorkerWorld) -> SlowStart:
    assert isinstance(world.stores.jobs, SlowStart)
    return world.stores.jobs


@asynccontextmanager
async def serving(world: WorkerWorld, store: SlowStart, known: Measurement, warm: bool = True) -> AsyncIterator[None]:
    """A worker that knows how long the model runs and, where ``warm``, has served it. Starts are slow from then on."""
    world.executor.exec_s = known.exec_s
    await world.stores.fleet.learn("m", world.services.device.name, known)
    store.slow = not warm
    async with world.running():
        if warm:
            await world.submit("before")
            await world.passing(lambda: store._records["before"].job.state.terminal and not world.places("before"))
            store.slow = True
        try:
            yield
        finally:
            store.pause.go()
            await world.passing(lambda: all(found.job.state.terminal for found in store._records.values()))


def runs(world: WorkerWorld) -> int:
    return world.executor.asked.count("run m")


async def test_a_short_batch_runs_while_its_start_is_recorded(world: WorkerWorld, store: SlowStart):
    async with serving(world, store, SHORT):
        before = runs(world)
        await world.submit("j1")
        await world.passing(store.pause.reached.is_set)
        assert runs(world) == before + 1
        assert await world.state("j1") is JobState.QUEUED
    assert (await world.job("j1")).attempts == 1


async def test_a_longer_batch_waits_until_its_start_is_recorded(world: WorkerWorld, store: SlowStart):
    async with serving(world, store, LONG):
        before = runs(world)
        await world.submit("j1")
        await world.passing(store.pause.reached.is_set)
        assert runs(world) == before
    assert runs(world) == before + 1


async def test_the_first_batch_after_a_load_waits_since_it_may_take_longer(world: WorkerWorld, store: SlowStart):
    async with serving(world, store, SHORT, warm=False):
        await world.submit("j1")
        await world.passing(store.pause.reached.is_set)
        assert world.executor.asked == ["load m"]
    assert (await world.job("j1")).start == "cold"


async def test_what_comes_again_waits_since_it_may_have_taken_a_worker_down(world: WorkerWorld, store: SlowStart):
    async with serving(world, store, SHORT):
        before = runs(world)
        spec = JobSpec("j1", "m", {"n": 1})
        await world.stores.jobs.sight(spec, world.clock.now(), world.clock.now())
        message = world.broker.message(encode_message(spec, world.clock.now()), "m", "j1")
        world.broker.back(world.broker.topology.model_queue("m"), message)
        world.broker.pump()
        await world.passing(store.pause.reached.is_set)
        assert runs(world) == before
    assert runs(world) == before + 1

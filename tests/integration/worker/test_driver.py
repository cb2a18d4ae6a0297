"""A driver that is late, fails for a moment, or shows that others took what was free; the worker waits for its word.

Over the same fakes as the unit tests; here because the code under test sleeps between two looks.
"""

import asyncio
from dataclasses import replace

import pytest

from affinity.errors import OutOfVram
from affinity.fleet import GIB, Gpu
from affinity.job import JobState
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.events import Left
from worker.gpu import GpuLost, GpuUnreadable
from worker.loading import Loader
from worker.simulated_gpu import SimulatedProbe

M, V = synthetic("m", 8.0), synthetic("v", 20.0)


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(M, V)


def foreign(world: WorkerWorld, gib: int) -> None:
    world.probe.set_foreign(world.services.device.uuid, gib * GIB)


def ended(world: WorkerWorld, job_id: str) -> bool:
    return world.stores.jobs._records[job_id].job.state.terminal


async def served(world: WorkerWorld, job_id: str, model: str) -> None:
    await world.submit(job_id, model)
    await world.passing(lambda: ended(world, job_id))
    assert await world.state(job_id) is JobState.SUCCEEDED


async def for_a_while(world: WorkerWorld, seconds: float = 30.0) -> None:
    """Long enough for refusals to end and for several of them to be taken for hopeless."""
    until = world.clock.now() + seconds
    await world.passing(lambda: world.clock.now() >= until, tick_s=0.5)


def loads(world: WorkerWorld) -> bool:
    """True while a load is under way, as others see it."""
    return world.stores.fleet._reports["w1"].loading is not None


async def test_memory_taken_while_a_model_loads_fails_the_load_and_is_not_held_against_the_model(world: WorkerWorld):
    """However often: neither is the model taken for larger, nor is it given up with its jobs."""
    async with world.running():
        for _ in range(5):
            loading = world.executor.pause("load m")
            world.executor.load_faults["m"] = OutOfVram("CUDA out of memory")
            if "j1" not in world.stores.jobs._records:
                await world.submit("j1", "m")
            await world.passing(loading.reached.is_set)
            foreign(world, 20)
            loading.go()
            await world.passing(lambda: world.services.executor.asked[-1] == "load m" and not loads(world))
            await for_a_while(world)
            assert not ended(world, "j1")
            foreign(world, 0)
        world.executor._pauses.clear()
        world.executor.load_faults.clear()
        await world.passing(lambda: ended(world, "j1"))
    assert await world.state("j1") is JobState.SUCCEEDED
    assert (await world.job("j1")).attempts == 1
    assert (await world.stores.fleet.learned())["m", "simulated"].footprint_bytes == 8 * GIB
    assert world.buried() == []


@pytest.mark.parametrize("lag_s", [1.0, 5.0])
async def test_a_load_into_memory_that_comes_back_late_is_made_once_it_is_there(lag_s: float):
    """5 s are more than the worker waits: it lets the load be, and is not told that the model is too large."""
    world = a_worker_world(M, V, lag_s=lag_s)
    async with world.running():
        await served(world, "j1", "v")
        await served(world, "j2", "m")
        gpu = world.stores.fleet._reports["w1"].gpu
    assert (await world.job("j2")).attempts == 1
    assert (await world.stores.fleet.learned())["m", "simulated"].footprint_bytes == 8 * GIB
    assert gpu.unreturned_bytes == 0
    assert world.executor.asked.count("load m") == 1
    assert world.buried() == []


class MoodyProbe(SimulatedProbe):
    """Fails a few times whenever it is told to."""

    failures = 0
    error: type[Exception] = GpuUnreadable

    def read(self, uuid: str, own_pids: frozenset[int], reserve_bytes: int) -> Gpu:
        if self.failures:
            self.failures -= 1
            raise self.error("GPU 0: the driver did not answer: Unknown Error")
        return super().read(uuid, own_pids, reserve_bytes)


def moody(world: WorkerWorld) -> MoodyProbe:
    """The world's GPU, with moods."""
    probe = MoodyProbe("w1", count=1, total_bytes=24 * GIB, monotonic=world.clock.monotonic)
    world.probe = probe
    world.services = replace(world.services, probe=probe)
    return probe


async def test_a_driver_that_fails_for_a_moment_costs_no_load_and_no_worker(world: WorkerWorld):
    probe = moody(world)
    async with world.running():
        await served(world, "j1", "v")
        unloading, loading = world.executor.pause("unload v"), world.executor.pause("load m")
        await world.submit("j2", "m")
        for step in (unloading, loading):
            await world.passing(step.reached.is_set)
            probe.failures = 3
            step.go()
        await world.passing(lambda: ended(world, "j2"))
        assert await world.state("j2") is JobState.SUCCEEDED
    assert world.executor.asked.count("load m") == 1


async def test_a_driver_that_fails_for_a_moment_as_a_model_leaves_is_asked_again(world: WorkerWorld):
    probe = moody(world)
    await world.executor.start()
    await world.executor.load(V)
    probe.observe(world.services.device.uuid, world.executor.pid or 0, 20 * GIB)
    probe.failures = 3
    await Loader(world.services, world.posted.append, lambda: asyncio.sleep(0)).leave("v")
    (event,) = world.posted
    assert isinstance(event, Left)
    assert (event.model, event.gpu.used_bytes) == ("v", 0)


async def test_a_gpu_that_is_lost_during_a_load_ends_the_worker(world: WorkerWorld):
    """It will not see that GPU again: whoever watches the process starts it anew, or somebody else serves its jobs."""
    probe = moody(world)

    async def lose_it() -> None:
        async with world.running():
            loading = world.executor.pause("load m")
            await world.submit("j1", "m")
            await world.passing(loading.reached.is_set)
            probe.error, probe.failures = GpuLost, 1_000_000
            loading.go()
            await world.passing(lambda: ended(world, "j1"))

    with pytest.raises(GpuLost):
        await lose_it()
    assert await world.state("j1") is JobState.QUEUED

"""Another program takes memory of our GPU: while it is idle, and more of it than is free.

While a model loads: ``tests/integration/worker/test_driver.py``, where the worker waits for the driver.
"""

import pytest

from affinity.fleet import GIB
from affinity.job import JobState
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world

M, V = synthetic("m", 8.0), synthetic("v", 10.0)


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
    await world.passing(lambda: world.clock.now() >= until, tick_s=1.0)


async def test_what_is_resident_serves_on_and_a_new_model_waits_until_the_memory_is_back(world: WorkerWorld):
    async with world.running():
        await served(world, "j1", "v")
        foreign(world, 20)  # More than the 14 GiB that were free: the ledger is 6 GiB short.
        await world.passing(lambda: world.metric("gpu_memory_foreign_bytes", worker="w1", gpu="SIM-w1-0") > 0)
        await served(world, "j2", "v")
        await world.submit("j3", "m")
        await for_a_while(world)
        assert not ended(world, "j3")
        assert "load m" not in world.executor.asked, "there is no room for it, and that is known beforehand"
        foreign(world, 0)
        await world.passing(lambda: ended(world, "j3"))
        assert await world.state("j3") is JobState.SUCCEEDED
        assert "unload v" not in world.executor.asked, "there is room for both"
    assert world.buried() == []


async def test_room_is_made_for_what_is_missing_as_well(world: WorkerWorld):
    async with world.running():
        await served(world, "j1", "v")
        foreign(world, 15)  # 1 GiB short; 9 are there once the resident is gone, and 8 are needed.
        await world.passing(lambda: world.metric("gpu_memory_foreign_bytes", worker="w1", gpu="SIM-w1-0") > 0)
        await served(world, "j2", "m")
        assert world.executor.asked.index("unload v") < world.executor.asked.index("load m")


async def test_a_model_that_fits_no_more_is_no_misfit_while_others_have_the_memory(world: WorkerWorld):
    foreign(world, 23)
    async with world.running():
        await world.submit("j1", "m")
        await for_a_while(world, 200.0)
        assert not ended(world, "j1"), "it would fit if the others went"
        foreign(world, 0)
        await world.passing(lambda: ended(world, "j1"))
    assert await world.state("j1") is JobState.SUCCEEDED

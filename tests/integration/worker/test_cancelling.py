"""Jobs that are cancelled while they run, carried out by a worker's whole loop over fakes.

Not in the unit layer: before an executor is replaced there is a pause.
"""

from dataclasses import replace

import pytest

from affinity.job import JobState
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(replace(synthetic("m", 4.0), max_batch=4))


def ended(world: WorkerWorld, *job_ids: str) -> bool:
    return all(world.stores.jobs._records[job_id].job.state.terminal for job_id in job_ids)


def running(world: WorkerWorld, *job_ids: str) -> bool:
    return all(world.stores.jobs._records[job_id].job.state is JobState.RUNNING for job_id in job_ids)


async def serve(world: WorkerWorld, job_id: str, model: str = "m") -> None:
    await world.submit(job_id, model)
    await world.passing(lambda: ended(world, job_id))


async def cancel(world: WorkerWorld, job_id: str) -> None:
    await world.stores.jobs.cancel(job_id, world.clock.now())


async def test_the_executor_is_stopped_for_a_cancelled_job_and_its_memory_is_back(world: WorkerWorld):
    async with world.running():
        await serve(world, "j0")
        await world.submit("j1", input={"fail": "hang"})
        await world.passing(lambda: running(world, "j1"))
        await cancel(world, "j1")
        await world.passing(lambda: world.places("j1") == () and world.executor.pid == 1002)
        gpu = world.probe.read(world.services.device.uuid, frozenset(), 0)
        assert (gpu.used_bytes, world.broker.bindings) == (0, set())
        await serve(world, "j2")
    assert world.executor.asked == ["load m", "run m", "run m", "load m", "run m"]
    job = await world.job("j1")
    assert (job.state, job.attempts, job.losses, job.error) == (JobState.CANCELLED, 1, 0, None)
    assert (await world.job("j2")).attempts == 1
    assert world.metric("cancelled_runs_total", model="m", end="stopped") == 1.0
    assert [event["reason"] for event in world.said("executor.died")] == ["stopped: 1 of its jobs were cancelled"]


async def test_only_the_cancelled_member_of_a_batch_is_lost(world: WorkerWorld):
    async with world.running():
        await serve(world, "j0")
        busy = world.executor.pause("run m")
        await world.submit("first")
        await busy.reached.wait()
        for job_id in ("a", "b", "c"):
            await world.waiting(job_id, input={"fail": "hang"} if job_id == "b" else {"n": 1})
        world.executor._pauses.clear()
        busy.go()
        await world.passing(lambda: running(world, "a", "b", "c"))
        await cancel(world, "b")
        await world.passing(lambda: ended(world, "a", "c"))
    for job_id in ("a", "c"):
        job = await world.job(job_id)
        assert (job.state, job.attempts, job.losses, job.deaths) == (JobState.SUCCEEDED, 1, 0, 0)
        assert world.places(job_id) == ()
    assert (await world.state("b"), world.places("b")) == (JobState.CANCELLED, ())
    assert sorted(event["job"] for event in world.said("job.requeued")) == ["a", "c"]
    assert all("code" not in event for event in world.said("job.requeued"))


async def test_a_lost_hint_costs_a_heartbeat(world: WorkerWorld):
    async with world.running():
        await serve(world, "j0")
        await world.submit("j1", input={"fail": "hang"})
        await world.passing(lambda: running(world, "j1"))
        heard, world.stores._listeners = world.stores._listeners, set()
        await cancel(world, "j1")
        world.stores._listeners = heard
        await world.passing(lambda: world.places("j1") == ())
    assert await world.state("j1") is JobState.CANCELLED


async def test_a_store_that_is_away_is_asked_again(world: WorkerWorld):
    async with world.running():
        await serve(world, "j0")
        await world.submit("j1", input={"fail": "hang"})
        await world.passing(lambda: running(world, "j1"))
        await cancel(world, "j1")
        world.stores.down = True
        until = world.clock.now() + 2.0
        await world.passing(lambda: world.clock.now() > until)
        world.stores.down = False
        await world.passing(lambda: world.places("j1") == ())
    assert await world.state("j1") is JobState.CANCELLED


async def test_others_that_were_stopped_wait_for_the_store_in_hand(world: WorkerWorld):
    """Handed to somebody else before the store knows, they would be held for as long as this worker lives."""
    async with world.running():
        await serve(world, "j0")
        busy = world.executor.pause("run m")
        await world.submit("first")
        await busy.reached.wait()
        for job_id in ("a", "b"):
            await world.waiting(job_id, input={"fail": "hang"} if job_id == "b" else {"n": 1})
        world.executor._pauses.clear()
        busy.go()
        await world.passing(lambda: running(world, "a", "b"))
        await cancel(world, "b")
        await world.passing(lambda: world.executor.pid is None)
        await world.passing(lambda: ended(world, "a"))
    assert (await world.job("a")).attempts == 1

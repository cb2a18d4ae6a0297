"""A batch that finds no memory: its model is planned larger and the job goes on elsewhere, or here with more room."""

from dataclasses import replace

from affinity.fleet import GIB
from affinity.job import MAX_LOSSES, JobState
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world

M, V = synthetic("m", 4.0), synthetic("v", 16.0)
OOM = {"fail": "oom"}


def ended(world: WorkerWorld, job_id: str) -> bool:
    return world.stores.jobs._records[job_id].job.state.terminal and "hands" not in world.places(job_id)


async def served(world: WorkerWorld, job_id: str, model: str, **fields: object) -> None:
    await world.submit(job_id, model, **fields)
    await world.passing(lambda: ended(world, job_id))


async def lost_for_good(world: WorkerWorld, job_id: str) -> None:
    """A job of m that runs out of memory whenever it is tried, with minutes of waits in between."""
    await world.submit(job_id, "m", input=OOM)
    await world.passing(lambda: ended(world, job_id), tick_s=1.0)


async def resident(world: WorkerWorld) -> set[str]:
    return {r.model for r in (await world.stores.fleet.sighting()).view.workers["w1"].residents}


def losses(world: WorkerWorld, job_id: str) -> int:
    return world.stores.jobs._records[job_id].job.losses


async def test_the_model_leaves_its_footprint_is_corrected_for_all_and_the_job_waits_without_a_used_attempt():
    world = a_worker_world(M, V)
    async with world.running():
        await served(world, "warm-m", "m")
        await served(world, "warm-v", "v")
        world.executor.passing["m"] = 6 * GIB
        leaving = world.executor.pause("unload m")
        await world.submit("j1", "m", max_attempts=1)
        await world.passing(leaving.reached.is_set)
        await world.until(lambda: world.places("j1") == ("model.m",))
        assert ("m", "w1") not in world.broker.bindings, "whoever else holds it gets its jobs"
        leaving.go()
        told = world.stores.fleet._measured
        await world.until(lambda: told["m", "simulated"].footprint_bytes > 8 * GIB)
        await world.until(lambda: bool(world.said("model.evicted")))
        await world.until(lambda: [r.model for r in world.stores.fleet._reports["w1"].residents] == ["v"])
        report = (await world.stores.fleet.sighting()).view.workers["w1"]
        refusal = report.refuses("m", world.clock.now())
        assert refusal is not None
        assert (refusal.code, refusal.hopeless) == ("out_of_vram", False)
        job = await world.job("j1")
        assert (job.state, job.attempts, job.losses) == (JobState.QUEUED, 0, 1)
    assert world.said("model.evicted")[0] == {"worker": "w1", "model": "m", "reason": "out_of_vram"}
    assert world.metric("model_evictions_total", worker="w1", model="m", reason="out-of-vram") == 1


async def test_with_nobody_else_to_take_it_the_model_comes_back_with_more_room_and_the_job_succeeds():
    world = a_worker_world(M, V)
    async with world.running():
        await served(world, "warm-m", "m")
        await served(world, "warm-v", "v")
        world.executor.passing["m"] = 6 * GIB
        await world.submit("j1", "m", max_attempts=1)
        await world.passing(lambda: ended(world, "j1"))
        assert await resident(world) == {"m"}, "v has made room: what was free beside both was not enough"
        job = await world.job("j1")
        assert (job.state, job.attempts, job.losses) == (JobState.SUCCEEDED, 1, 1)
        await served(world, "j2", "m")
    assert world.executor.asked.count("load m") == 2


async def test_a_job_too_large_for_the_whole_gpu_ends_without_costing_the_others_their_model():
    world = a_worker_world(M, V)
    async with world.running():
        await served(world, "warm-m", "m")
        await lost_for_good(world, "j1")
        job = await world.job("j1")
        assert (job.state, job.error.code, job.losses) == (JobState.FAILED, "attempts_exhausted", MAX_LOSSES)
        assert "out_of_vram" in job.error.message
        await served(world, "j2", "m")
        assert await world.state("j2") is JobState.SUCCEEDED
    assert world.executor.asked.count("load m") == 1
    footprints = {measured.footprint_bytes for measured in world.stores.fleet._measured.values()}
    assert max(footprints) <= 24 * GIB, "else the whole model would be refused as one that fits nowhere"


async def test_a_pinned_model_stays_whatever_its_jobs_need():
    world = a_worker_world(replace(M, pinned=True), V)
    async with world.running():
        await served(world, "warm-m", "m")
        await served(world, "warm-v", "v")
        await lost_for_good(world, "j1")
        assert losses(world, "j1") == MAX_LOSSES
    assert world.executor.asked.count("load m") == 1
    assert "unload m" not in world.executor.asked

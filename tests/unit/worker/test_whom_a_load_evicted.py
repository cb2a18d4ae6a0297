"""The job that caused a load keeps whom that load evicted; the others of its model evicted nobody."""

from affinity.job import StartKind
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world

V, M = synthetic("v", 20.0), synthetic("m", 8.0)
"""Too large for one GPU together."""


async def ran(world: WorkerWorld, job_id: str, model: str) -> tuple[StartKind | None, tuple[str, ...] | None]:
    """How it started, and whom its load evicted."""
    await world.submit(job_id, model)
    await world.passing(lambda: any(said["job"] == job_id for said in world.said("job.settled")))
    job = await world.job(job_id)
    return job.start, job.evicted


async def test_a_job_whose_load_made_room_says_whose_it_was():
    world = a_worker_world(V, M)
    async with world.running():
        assert await ran(world, "j1", "v") == (StartKind.COLD, ())
        assert await ran(world, "j2", "m") == (StartKind.COLD, ("v",))
        assert await ran(world, "j3", "m") == (StartKind.WARM, None)

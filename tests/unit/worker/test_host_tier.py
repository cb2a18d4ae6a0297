"""The host tier as the loop sees it: where a load came from is counted, learned and told; what is cached, reported."""

from affinity.fleet import GIB
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world

M, N, V = synthetic("m", 16.0), synthetic("n", 16.0), synthetic("v", 12.0)


def ended(world: WorkerWorld, job_id: str) -> bool:
    return world.stores.jobs._records[job_id].job.state.terminal and "hands" not in world.places(job_id)


async def in_turn(world: WorkerWorld, *models: str) -> None:
    """A job of each, one after the other."""
    for number, model in enumerate(models):
        job_id = f"{len(world.executor.asked)}-{number}"
        await world.submit(job_id, model)
        await world.passing(lambda j=job_id: ended(world, j))  # type: ignore[misc]


def loads(world: WorkerWorld, model: str, tier: str) -> float:
    return world.metric("model_loads_total", worker="w1", model=model, tier=tier, reason="first-copy")


async def cached(world: WorkerWorld) -> tuple[str, ...]:
    return (await world.stores.fleet.sighting()).view.workers["w1"].cached


async def test_a_model_that_comes_back_comes_from_the_host_and_everybody_can_see_it():
    world = a_worker_world(M, N, host_cache_gib=32)
    async with world.running():
        await in_turn(world, "m", "n")
        assert await cached(world) == ("m",)
        assert world.metric("host_cache_bytes", worker="w1", gpu=world.services.device.uuid) == 16 * GIB
        await in_turn(world, "m")
        assert set(await cached(world)) == {"m", "n"}
        assert [loads(world, "m", tier) for tier in ("disk", "host")] == [1, 1]
        assert [loads(world, "n", tier) for tier in ("disk", "host")] == [1, 0]
        told = world.stores.fleet._measured
        await world.until(lambda: told["m", "simulated"].reload_s is not None)
        assert told["n", "simulated"].reload_s is None
    assert [said["tier"] for said in world.said("model.resident")] == ["disk", "disk", "host"]


async def test_without_a_cache_every_load_is_from_disk_and_nothing_is_reported():
    world = a_worker_world(M, N)
    async with world.running():
        await in_turn(world, "m", "n", "m")
        assert await cached(world) == ()
        assert [loads(world, "m", tier) for tier in ("disk", "host")] == [2, 0]
        assert world.metric("host_cache_bytes", worker="w1", gpu=world.services.device.uuid) == 0


async def test_a_victim_does_not_push_out_the_model_it_makes_room_for():
    world = a_worker_world(M, N, V, host_cache_gib=20)
    async with world.running():
        await in_turn(world, "m", "n", "m")
        assert loads(world, "m", "host") == 1
        assert await cached(world) == ("m",), "n had no room beside it"
        await in_turn(world, "v")
        assert await cached(world) == ("m",), "its copy was there still"

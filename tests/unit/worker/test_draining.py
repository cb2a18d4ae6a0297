"""Taking no new work: what is handed over first, what is left at the end, and that it lasts."""

from dataclasses import replace

import pytest

from affinity.job import JobState
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.runtime import Worker


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(synthetic("m", 4.0), synthetic("n", 6.0), grace_s=60.0)


def ended(world: WorkerWorld, *job_ids: str) -> bool:
    return all(world.stores.jobs._records[job_id].job.state.terminal for job_id in job_ids)


def shown(world: WorkerWorld) -> tuple[bool, set[str]]:
    """What w1 says of itself: whether it is draining, and what it holds."""
    report = world.stores.fleet._reports["w1"]
    return report.draining, {resident.model for resident in report.residents}


async def serve(world: WorkerWorld, job_id: str, model: str = "m") -> None:
    await world.submit(job_id, model)
    await world.passing(lambda: ended(world, job_id))


async def drain(world: WorkerWorld) -> None:
    await world.stores.fleet.drain("w1", "me", world.clock.now())
    await world.stores.fleet.wake()


async def undrain(world: WorkerWorld) -> None:
    await world.stores.fleet.undrain("w1", "me", world.clock.now())
    await world.stores.fleet.wake()


def used_bytes(world: WorkerWorld) -> int:
    return world.probe.read(world.services.device.uuid, frozenset(), 0).used_bytes


async def test_what_runs_ends_then_the_gpu_is_empty_and_nothing_is_taken_until_it_is_undrained(world: WorkerWorld):
    async with world.running():
        await serve(world, "j0")
        pause = world.executor.pause("run m")
        await world.submit("j1")
        await pause.reached.wait()
        await world.waiting("j2")
        await drain(world)
        await world.passing(lambda: shown(world)[0] and world.broker.bindings == set())
        assert world.executor.pid is not None, "j1 runs"
        world.executor._pauses.clear()
        pause.go()
        await world.passing(lambda: world.executor.pid is None and shown(world) == (True, set()))
        assert used_bytes(world) == 0
        assert await world.state("j1") is JobState.SUCCEEDED
        await world.submit("j3")
        until = world.clock.now() + 30.0
        await world.passing(lambda: world.clock.now() > until, tick_s=1.0)
        assert (await world.state("j2"), await world.state("j3")) == (JobState.QUEUED, JobState.QUEUED)
        assert world.places("j3") == ("fallback",), "somebody else may take it"
        await undrain(world)
        await world.passing(lambda: ended(world, "j2", "j3"))
        assert not shown(world)[0]
    assert world.executor.asked[:4] == ["load m", "run m", "run m", "load m"]
    assert world.metric("model_evictions_total", worker="w1", model="m", reason="drained") == 1.0
    assert [fields["residents"] for fields in world.said("worker.drained")] == ["m"]


async def test_a_worker_that_was_drained_in_its_last_life_starts_nothing(world: WorkerWorld):
    await drain(world)
    async with world.running():
        assert shown(world) == (True, set())
        await world.submit("j1")
        until = world.clock.now() + 10.0
        await world.passing(lambda: world.clock.now() > until)
        assert (world.executor.pid, world.executor.asked, await world.state("j1")) == (None, [], JobState.QUEUED)
        await undrain(world)
        await world.passing(lambda: ended(world, "j1"))
    assert await world.state("j1") is JobState.SUCCEEDED


@pytest.mark.parametrize("by", ["hand", "stop"])
async def test_a_model_in_demand_is_served_on_until_another_worker_has_it(world: WorkerWorld, by: str):
    async with world.running() as worker:
        await serve(world, "j0")
        await world.stores.fleet.report(world.report())
        first = world.executor.pause("run m")
        for number in range(1, 5):
            await world.submit(f"j{number}")
        await first.reached.wait()
        await world.stores.fleet.claim("m", "w2", 1e6)
        await (drain(world) if by == "hand" else _stop(worker))
        await world.passing(lambda: shown(world)[0])
        second = world.executor.pause("run m")
        first.go()
        await world.passing(second.reached.is_set)
        assert world.broker.bindings == {("m", "w1")}
        await world.stores.fleet.report(replace(world.report("m"), sequence=2))
        await world.stores.fleet.wake()
        await world.passing(lambda: world.broker.bindings == set())
        second.go()
        await world.until(lambda: world.executor.pid is None)
    jobs = [await world.job(f"j{number}") for number in range(1, 5)]
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 2 + [JobState.QUEUED] * 2
    assert [job.attempts for job in jobs] == [1, 1, 0, 0]


async def test_nothing_is_waited_for_where_nobody_else_will_have_the_model(world: WorkerWorld):
    async with world.running() as worker:
        await serve(world, "j0")
        pause = world.executor.pause("run m")
        for number in range(1, 4):
            await world.submit(f"j{number}")
        await pause.reached.wait()
        worker.stop()
        await world.until(lambda: world.broker.bindings == set())
        pause.go()
    assert world.executor.asked == ["load m", "run m", "run m"]
    assert (await world.state("j3"), shown_gone(world)) == (JobState.QUEUED, True)


async def test_a_model_is_not_served_on_for_longer_than_the_grace_time(world: WorkerWorld):
    async with world.running():
        await serve(world, "j0")
        await world.stores.fleet.report(replace(world.report(), lease_s=1e6))
        await world.stores.fleet.claim("m", "w2", 1e6)
        pause = world.executor.pause("run m")
        for number in range(1, 3):
            await world.submit(f"j{number}")
        await pause.reached.wait()
        await drain(world)
        until = world.clock.now() + 61.0
        await world.passing(lambda: world.clock.now() > until, tick_s=1.0)
        await world.passing(lambda: world.broker.bindings == set())
        pause.go()
        await world.passing(lambda: world.executor.pid is None)
    assert await world.state("j2") is JobState.QUEUED


async def test_a_drain_that_is_taken_back_while_something_runs_leaves_the_models_where_they_are(world: WorkerWorld):
    async with world.running():
        await serve(world, "j0")
        pause = world.executor.pause("run m")
        await world.submit("j1")
        await pause.reached.wait()
        await drain(world)
        await world.passing(lambda: world.broker.bindings == set())
        await undrain(world)
        await world.passing(lambda: world.broker.bindings == {("m", "w1")} and not shown(world)[0])
        world.executor._pauses.clear()
        pause.go()
        await serve(world, "j2")
    assert world.executor.asked == ["load m", "run m", "run m", "run m"]


async def test_an_executor_that_dies_in_a_drained_worker_is_not_replaced_before_it_is_undrained(world: WorkerWorld):
    async with world.running():
        await serve(world, "j0")
        pause = world.executor.pause("run m")
        await world.submit("j1")
        await pause.reached.wait()
        await drain(world)
        await world.passing(lambda: shown(world)[0])
        world.executor._pauses.clear()
        world.executor.die()
        await world.passing(lambda: shown(world) == (True, set()))
        until = world.clock.now() + 30.0
        await world.passing(lambda: world.clock.now() > until, tick_s=1.0)
        assert world.executor.pid is None
        await undrain(world)
        await world.passing(lambda: ended(world, "j1"))
    assert await world.state("j1") is JobState.SUCCEEDED


async def test_a_load_under_way_ends_before_the_gpu_is_emptied_by_hand(world: WorkerWorld):
    async with world.running():
        pause = world.executor.pause("load m")
        await world.submit("j1")
        await world.passing(pause.reached.is_set)
        await drain(world)
        await world.passing(lambda: shown(world)[0])
        pause.go()
        await world.passing(lambda: world.executor.pid is None)
        assert used_bytes(world) == 0
    assert await world.state("j1") is JobState.QUEUED


async def test_a_worker_that_is_to_stop_while_the_store_is_away_does_not_wait_for_it(world: WorkerWorld):
    async with world.running() as worker:
        await serve(world, "j0")
        await world.submit("j1")
        world.stores.down = True
        worker.stop()
        await world.until(lambda: world.loop is not None and world.loop.done())
        world.stores.down = False
    assert world.broker.bindings == set()


def shown_gone(world: WorkerWorld) -> bool:
    return "w1" not in world.stores.fleet._reports


async def _stop(worker: Worker) -> None:
    worker.stop()

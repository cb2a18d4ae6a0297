"""Jobs that are cancelled while they run: when the executor is stopped for them, and what becomes of the others."""

from dataclasses import replace

import pytest

from affinity.job import JobState
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.cancelling import stop_after_s

LONG_S = 30.0


@pytest.mark.parametrize(
    ("elapsed_s", "usual_s", "cost_s", "others", "after_s"),
    [
        (1.0, 60.0, 5.0, False, 1.0),  # It would go on for longer than stopping costs: at once.
        (1.0, 60.0, 90.0, False, 120.0),  # About to end sooner than its model would be back.
        (58.0, 60.0, 5.0, False, 120.0),
        (1.0, 0.5, 5.0, False, 5.0),  # Overlong already: once it has run for as long as stopping costs,
        (9.0, 0.5, 5.0, False, 5.0),  # which may be over.
        (1.0, 60.0, 5.0, True, 120.0),  # The others would do all of it again.
        (1.0, 2.0, 5.0, True, 7.0),
    ],
)
def test_a_batch_is_stopped_once_waiting_is_the_dearer(
    elapsed_s: float, usual_s: float, cost_s: float, others: bool, after_s: float
):
    assert stop_after_s(elapsed_s, usual_s, cost_s, others) == after_s


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(replace(synthetic("m", 4.0), max_batch=4))


def ended(world: WorkerWorld, *job_ids: str) -> bool:
    return all(world.stores.jobs._records[job_id].job.state.terminal for job_id in job_ids)


async def serve(world: WorkerWorld, job_id: str, model: str = "m") -> None:
    await world.submit(job_id, model)
    await world.passing(lambda: ended(world, job_id))


async def cancel(world: WorkerWorld, job_id: str) -> None:
    await world.stores.jobs.cancel(job_id, world.clock.now())


async def test_a_batch_that_is_about_to_end_runs_out_and_what_comes_of_the_cancelled_job_is_dropped(
    world: WorkerWorld,
):
    async with world.running():
        await serve(world, "j0")
        pause = world.executor.pause("run m")
        await world.submit("j1")
        await pause.reached.wait()
        world.services.executor.exec_s = LONG_S  # type: ignore[attr-defined]
        await cancel(world, "j1")
        for _ in range(50):
            await world.stores.fleet.wake()
        pause.go()
        await world.passing(lambda: world.places("j1") == ())
    assert "executor.died" not in {event.kind for event in world.stores.said}
    assert (await world.job("j1")).result is None
    assert world.metric("cancelled_runs_total", model="m", end="ran_out") == 1.0


async def test_a_cancel_of_another_workers_job_is_nothing_to_this_one(world: WorkerWorld):
    async with world.running():
        await serve(world, "j0")
        pause = world.executor.pause("run m")
        await world.submit("j1")
        await pause.reached.wait()
        world.stores.hint("somebody-elses")
        until = world.clock.now() + 60.0
        await world.passing(lambda: world.clock.now() > until, tick_s=1.0)
        pause.go()
        await world.passing(lambda: ended(world, "j1"))
    assert await world.state("j1") is JobState.SUCCEEDED

"""What failed waits before it is tried again; what may have killed an executor runs alone, and not for ever."""

import pytest

from affinity.errors import ExecutorDied, JobTimeout, OutOfVram
from affinity.io.letters import LetterFilter
from affinity.job import MAX_DEATHS, RUNGS_S, JobState
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.batch import Batch, BatchRunner, Started
from worker.executor import BatchReply
from worker.sorting import Sorter

ENTRY = synthetic("m", 4.0, echo=True)
ANY = LetterFilter()


@pytest.fixture
async def world() -> WorkerWorld:
    made = a_worker_world(ENTRY)
    await made.intake.bind("m")
    return made


@pytest.fixture
def runner(world: WorkerWorld) -> BatchRunner:
    return BatchRunner(world.services, world.tasks)


def batch(world: WorkerWorld, jobs: list[Started]) -> Batch:
    return Batch(ENTRY, jobs, None, world.clock.now())


async def fail(world: WorkerWorld, runner: BatchRunner, error: Exception, *expected: str) -> list[str]:
    """Start what is in the model's queue, and have the executor answer with this error."""
    jobs = await runner.start(await world.take())
    assert [one.job.id for one in jobs] == list(expected)
    await runner.settle(batch(world, jobs), error)  # type: ignore[arg-type]
    return [one.job.id for one in jobs]


def pass_time(world: WorkerWorld, seconds: float) -> None:
    world.clock.advance(seconds)
    world.broker.release()


def place(world: WorkerWorld, job_id: str = "j1") -> str:
    (found,) = world.places(job_id)
    return found


async def test_a_failed_job_waits_longer_each_time_and_others_of_its_queue_pass_it(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    await world.waiting("j1", max_attempts=9)
    waited = []
    for attempt in range(8):
        await fail(world, runner, JobTimeout("slow"), "j1")
        job = await world.job()
        assert job.not_before is not None
        waited.append(job.not_before - world.clock.now())
        assert place(world) == f"retry.{int(waited[-1] * 1000)}"
        assert [demand.queued for demand in await world.stores.jobs.demand()] == []
        await world.waiting(f"other{attempt}")
        (other,) = await runner.start(await world.take())
        await runner.settle(batch(world, [other]), BatchReply(("done",), 0.1, 1, 1))
        pass_time(world, waited[-1])
        assert place(world) == "model.m"
        assert [demand.queued for demand in await world.stores.jobs.demand()] == [1]
    assert all(2.0**n <= wait_s <= 2.0 ** (n + 1) for n, wait_s in enumerate(waited[:6]))
    assert waited[6] <= RUNGS_S[-1]
    await fail(world, runner, JobTimeout("slow"), "j1")
    assert world.buried() == [("j1", "attempts_exhausted")]


async def test_a_copy_that_comes_before_its_time_waits_too_and_the_job_runs_once(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    """As when the worker dies after the broker has taken the delayed copy and before the ack."""
    spec = await world.waiting("j1")
    await fail(world, runner, JobTimeout("slow"), "j1")
    await world.broker.publisher.park(spec, world.clock.now())
    assert await runner.start(await world.take()) == []
    await world.quiet()
    assert len(world.places()) == 2
    assert all(name.startswith("retry.") for name in world.places())
    assert await world.state() is JobState.QUEUED
    pass_time(world, 4.0)
    first, *_ = await runner.start(await world.take(most=1))
    await runner.settle(batch(world, [first]), BatchReply(("done",), 0.1, 1, 1))
    assert await runner.start(await world.take()) == []
    assert world.places() == ()
    assert (await world.job()).attempts == 2


async def test_a_worker_that_dies_between_the_store_and_the_broker_loses_nothing(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    await world.waiting("j1")
    (one,) = await runner.start(await world.take())
    await world.stores.jobs.give_back(one.attempt, None, True, world.clock.now(), wait_s=2.0)
    world.intake.drop()  # its connection, with what it held
    assert await runner.start(await world.take()) == []
    await world.quiet()
    assert place(world) in ("retry.1500", "retry.2000")
    pass_time(world, 2.0)
    assert len(await runner.start(await world.take())) == 1


async def test_while_the_broker_takes_no_delayed_copy_the_delivery_stays_and_comes_again(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    await world.waiting("j1")
    (one,) = await runner.start(await world.take())
    world.broker.cut()
    await runner.settle(batch(world, [one]), JobTimeout("slow"))
    world.broker.restore()
    await world.quiet()
    assert place(world) == "model.m"
    assert await runner.start(await world.take()) == []
    await world.quiet()
    assert place(world).startswith("retry.")


async def test_a_job_in_its_wait_whose_records_are_gone_comes_back_and_runs(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    await world.waiting("j1")
    await fail(world, runner, JobTimeout("slow"), "j1")
    world.stores.jobs._records.clear()
    pass_time(world, 2.0)
    (one,) = await runner.start(await world.take())
    await runner.settle(batch(world, [one]), BatchReply(("done",), 0.1, 1, 1))
    assert await world.state() is JobState.SUCCEEDED


async def test_a_job_whose_time_runs_out_while_it_waits_expires(world: WorkerWorld, runner: BatchRunner) -> None:
    await world.waiting("j1", ttl_s=5.0, max_attempts=9)
    await fail(world, runner, JobTimeout("slow"), "j1")
    pass_time(world, 5.1)
    assert await runner.start(await world.take()) == []
    assert (await world.state(), world.places()) == (JobState.EXPIRED, ())


async def test_no_wait_is_longer_than_what_is_left_of_a_jobs_time(world: WorkerWorld, runner: BatchRunner) -> None:
    await world.waiting("j1", ttl_s=11.0, max_attempts=9)
    for _ in range(4):
        await fail(world, runner, JobTimeout("slow"), "j1")
        job = await world.job()
        assert job.not_before is not None
        wait_s = job.not_before - world.clock.now()
        assert job.not_before <= job.created_at + 11.0 or wait_s == RUNGS_S[0]
        pass_time(world, wait_s)
        if world.clock.now() > job.created_at + 11.0:
            break


async def test_out_of_memory_is_tried_at_once_the_first_time_and_then_waits(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    await world.waiting("j1", max_attempts=1)
    await fail(world, runner, OutOfVram("full"), "j1")
    assert place(world) == "model.m"
    await fail(world, runner, OutOfVram("full"), "j1")
    assert place(world).startswith("retry.")
    assert ((await world.job()).attempts, (await world.job()).losses) == (0, 2)


# -- quarantine --------------------------------------------------------------------------------------------------------


async def test_an_executor_that_dies_under_a_batch_costs_nobody_an_attempt_and_all_run_alone_next(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    for name in ("j1", "j2", "j3"):
        await world.waiting(name, max_attempts=1)
    await fail(world, runner, ExecutorDied("crashed"), "j1", "j2", "j3")
    for name in ("j1", "j2", "j3"):
        job = await world.job(name)
        assert (job.state, job.attempts, job.losses, job.deaths) == (JobState.QUEUED, 0, 1, 1)
    assert world.said("job.requeued")[-1]["code"] == "died_with_batch"
    pass_time(world, 2.0)
    await world.waiting("j4")
    ran = []
    for _ in range(4):
        jobs = await runner.start(await world.take())
        assert len(jobs) == 1, "each by itself"
        ran.append(jobs[0].job.id)
        await runner.settle(batch(world, jobs), BatchReply(("done",), 0.1, 1, 1))
    assert sorted(ran) == ["j1", "j2", "j3", "j4"]
    assert await world.take() == []


async def test_what_was_not_to_be_mixed_runs_together_again_once_they_are_gone(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    await world.waiting("a")
    await world.waiting("b")
    await fail(world, runner, ExecutorDied("crashed"), "a", "b")
    for name in ("j1", "j2", "j3"):
        await world.waiting(name)
    pass_time(world, 2.0)
    assert [one.job.id for one in await runner.start(await world.take())] == ["j1", "j2", "j3"]
    assert [len(await runner.start(await world.take())) for _ in range(2)] == [1, 1]


async def test_a_job_under_which_executors_keep_dying_is_quarantined(world: WorkerWorld, runner: BatchRunner) -> None:
    await world.waiting("bad", max_attempts=50)
    await world.waiting("good")
    await fail(world, runner, ExecutorDied("crashed"), "bad", "good")
    deaths = 1
    while await world.state("bad") is JobState.QUEUED:
        pass_time(world, 64.0)
        for delivery in await world.take():
            (one,) = await runner.start([delivery])
            if one.job.id == "bad":
                deaths += 1
                await runner.settle(batch(world, [one]), ExecutorDied("ended with exit status 70"))
            else:
                await runner.settle(batch(world, [one]), BatchReply(("done",), 0.1, 1, 1))
    job = await world.job("bad")
    assert (deaths, job.state, await world.state("good")) == (MAX_DEATHS, JobState.FAILED, JobState.SUCCEEDED)
    assert job.error is not None
    assert (job.error.code, "exit status 70" in job.error.message) == ("quarantined", True)
    assert world.buried() == [("bad", "quarantined")]
    (letter,) = (await world.stores.jobs.letters.page(ANY, 10, None)).letters
    assert (letter.id, letter.code, letter.worker, letter.deaths) == ("bad", "quarantined", "w1", 2)


async def test_a_job_that_may_fail_once_only_is_not_quarantined_but_over(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    await world.waiting("j1", max_attempts=1)
    await fail(world, runner, ExecutorDied("crashed"), "j1")
    assert world.buried() == [("j1", "attempts_exhausted")]


async def test_where_several_are_over_their_time_at_once_none_is_blamed_and_each_runs_alone(
    world: WorkerWorld, runner: BatchRunner
) -> None:
    await world.waiting("j1", max_attempts=1)
    await world.waiting("j2", max_attempts=1)
    await fail(world, runner, JobTimeout("slow"), "j1", "j2")
    assert [(await world.job(j)).losses for j in ("j1", "j2")] == [1, 1]
    pass_time(world, 2.0)
    (one,) = await runner.start(await world.take())
    await runner.settle(batch(world, [one]), JobTimeout("slow"))
    assert world.buried() == [(one.job.id, "attempts_exhausted")]


async def test_a_suspect_that_is_sorted_from_fallback_still_runs_alone(world: WorkerWorld, runner: BatchRunner) -> None:
    await world.waiting("j1")
    await world.waiting("j2")
    await fail(world, runner, ExecutorDied("crashed"), "j1", "j2")
    await world.intake.unbind("m")
    pass_time(world, 2.0)
    assert place(world) == "fallback"
    sorter = Sorter(world.services, runner, world.tasks)
    await world.intake.consume_fallback(10, sorter.arrived)
    await world.quiet()
    assert place(world) == "model.m"
    assert len(await runner.start(await world.take())) == 1

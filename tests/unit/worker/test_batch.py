"""Settlement is total: every verdict and every outcome ends in exactly one of ack, requeue and dead letter."""

from dataclasses import replace

import pytest

from affinity.errors import (
    AffinityError,
    ExecutorDied,
    InvalidInput,
    JobFailed,
    JobTimeout,
    LoadFailed,
    OutOfVram,
    PayloadTooLarge,
    StoppedWithBatch,
    StoreUnavailable,
    WorkerLost,
)
from affinity.job import MAX_LOSSES, RUNGS_S, Attempt, JobError, JobState, StartKind
from tests.support.executors import synthetic
from tests.support.fake_job_store import FakeJobStore
from tests.support.job_samples import a_spec, an_attempt
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.batch import Batch, BatchRunner, LoadBefore, Started
from worker.executor import BatchReply

QUEUE = ("model.m",)
DEAD = ("dead",)
ACKED: tuple[str, ...] = ()
ENTRY = synthetic("m", 4.0, echo=True)


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(ENTRY)


@pytest.fixture
def runner(world: WorkerWorld) -> BatchRunner:
    return BatchRunner(world.services, world.tasks)


async def started(world: WorkerWorld, runner: BatchRunner, *job_ids: str) -> list[Started]:
    """What the runner starts of the jobs that wait; all of these."""
    jobs = await runner.start(await world.take())
    assert tuple(one.job.id for one in jobs) == job_ids
    return jobs


def batch(world: WorkerWorld, jobs: list[Started], load: LoadBefore | None = None) -> Batch:
    return Batch(ENTRY, jobs, load, world.clock.now())


async def comes_back(world: WorkerWorld) -> None:
    """The longest wait is over."""
    await world.intake.bind("m")
    world.clock.advance(RUNGS_S[-1])
    world.broker.release()


def waits(world: WorkerWorld, job_id: str = "j1") -> bool:
    """The broker keeps the only copy until the job is to be tried again."""
    (place,) = world.places(job_id)
    return place.startswith("retry.")


def reply(*results: object, exec_s: float = 0.5) -> BatchReply:
    return BatchReply(results, exec_s, 1, 1)


# -- what starts -------------------------------------------------------------------------------------------------------


async def test_what_may_start_runs_under_our_name_and_stays_in_hand(world: WorkerWorld, runner: BatchRunner):
    await world.waiting("j1")
    await world.waiting("j2")
    jobs = await started(world, runner, "j1", "j2")
    assert [(one.attempt.worker, one.attempt.epoch, one.job.attempts) for one in jobs] == [("w1", 1, 1)] * 2
    assert jobs[0].attempt.token != jobs[1].attempt.token
    assert [await world.state(j) for j in ("j1", "j2")] == [JobState.RUNNING] * 2
    assert world.places("j1") == world.places("j2") == ("hands",)


@pytest.mark.parametrize("body", [b"\xff\x00{", b"[]", b'{"input": 1, "v": 9}', b'{"input": 1, "id": "a b"}'])
async def test_an_undecodable_delivery_is_buried_with_its_body_and_its_neighbour_starts(
    world: WorkerWorld, runner: BatchRunner, body: bytes
):
    await world.waiting("j1")
    world.foreign(body, "t.model.m")
    await started(world, runner, "j1")
    ((_, code),) = world.buried()
    assert code == "undecodable_message"
    letter = world.broker.queues["t.dead"][0]
    assert (letter.body, letter.headers["affinity-model"], letter.headers["affinity-worker"]) == (body, "m", "w1")
    assert world.places(body.decode(errors="replace")) == DEAD
    assert world.broker.queues["t.model.m"] == type(world.broker.queues["t.model.m"])()


async def test_only_undecodable_deliveries_need_no_store(world: WorkerWorld, runner: BatchRunner):
    world.foreign(b"x", "t.model.m")
    world.stores.down = True
    assert await runner.start(await world.take()) == []
    assert world.places("x") == DEAD


async def test_an_undecodable_delivery_stays_in_its_queue_while_the_broker_takes_no_dead_letter(
    world: WorkerWorld, runner: BatchRunner
):
    world.foreign(b"x", "t.model.m")
    taken = await world.take()
    world.broker.down = True
    assert await runner.start(taken) == []
    assert world.places("x") == QUEUE


async def test_a_foreign_job_gets_its_record_when_it_starts(world: WorkerWorld, runner: BatchRunner):
    world.foreign(b'{"id": "f1", "input": {"n": 7}}', "t.model.m")
    (one,) = await started(world, runner, "f1")
    assert one.job.spec.input == {"n": 7}
    assert (await world.job("f1")).created_at == world.clock.now()


@pytest.mark.parametrize("ending", ["succeeded", "failed", "cancelled"])
async def test_a_delivery_of_a_job_that_has_ended_is_acked_and_dropped(
    world: WorkerWorld, runner: BatchRunner, ending: str
):
    spec = await world.waiting("j1")
    await world.broker.publisher.park(spec, world.clock.now())  # a second delivery of it
    if ending == "cancelled":
        await world.stores.jobs.cancel("j1", world.clock.now())
        assert await runner.start(await world.take()) == []
    else:
        (one,) = await runner.start(await world.take(most=1))
        await runner.settle(batch(world, [one]), reply("done" if ending == "succeeded" else JobFailed("no")))
        assert await runner.start(await world.take()) == []
    assert await world.state("j1") == ending
    assert world.places("j1") == (DEAD if ending == "failed" else ACKED)


async def test_an_overdue_job_expires_and_its_delivery_is_acked(world: WorkerWorld, runner: BatchRunner):
    await world.waiting("j1", ttl_s=5.0)
    world.clock.advance(6.0)
    assert await runner.start(await world.take()) == []
    assert await world.state("j1") is JobState.EXPIRED
    assert world.places("j1") == ACKED


async def test_a_job_that_was_lost_too_often_is_buried_with_the_last_loss(world: WorkerWorld, runner: BatchRunner):
    spec = await world.waiting("j1")
    for _ in range(MAX_LOSSES):
        attempt = an_attempt("j1", "w9")
        await world.stores.jobs.start([(attempt, spec, world.clock.now())], world.clock.now())
        noted = JobError("out_of_vram", "full")
        await world.stores.jobs.give_back(attempt, noted, uses_attempt=False, now=world.clock.now())
    assert await runner.start(await world.take()) == []
    await world.quiet()
    assert await world.state("j1") is JobState.FAILED
    assert world.buried() == [("j1", "attempts_exhausted")]
    assert world.places("j1") == DEAD
    assert "out_of_vram" in str(world.broker.queues["t.dead"][0].headers["affinity-reason"])


async def test_a_job_that_a_lost_worker_ran_starts_again_here(world: WorkerWorld, runner: BatchRunner):
    spec = await world.waiting("j1")
    await world.stores.jobs.start([(an_attempt("j1", "gone"), spec, world.clock.now())], world.clock.now())
    (one,) = await started(world, runner, "j1")
    assert (one.job.attempts, one.job.losses) == (1, 1)


# -- what comes out ----------------------------------------------------------------------------------------------------


async def test_results_are_stored_and_acked_and_only_the_first_after_a_load_is_cold(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1")
    await world.waiting("j2")
    jobs = await started(world, runner, "j1", "j2")
    await runner.settle(batch(world, jobs, LoadBefore(3.0, ("x", "y"))), reply("one", "two"))
    first, second = await world.job("j1"), await world.job("j2")
    assert (first.state, first.result, first.start, first.load_s) == ("succeeded", "one", StartKind.COLD, 3.0)
    assert (second.state, second.result, second.start, second.load_s) == ("succeeded", "two", StartKind.WARM, 0.0)
    assert first.exec_s == second.exec_s == 0.5
    assert (first.evicted, second.evicted) == (("x", "y"), None)
    assert world.places("j1") == world.places("j2") == ACKED
    assert world.metric("messages_consumed_total", model="m", start="cold") == 1
    assert world.metric("messages_consumed_total", model="m", start="warm") == 1


async def test_one_job_of_a_batch_fails_alone(world: WorkerWorld, runner: BatchRunner):
    for job_id in ("j1", "j2", "j3"):
        await world.waiting(job_id)
    jobs = await started(world, runner, "j1", "j2", "j3")
    await runner.settle(batch(world, jobs), reply("one", JobFailed("raised"), OutOfVram("full")))
    assert [await world.state(j) for j in ("j1", "j2", "j3")] == ["succeeded", "failed", "queued"]
    assert [world.places(j) for j in ("j1", "j2", "j3")] == [ACKED, DEAD, QUEUE]
    assert world.buried() == [("j2", "job_failed")]
    assert (await world.job("j2")).error == JobError("job_failed", "raised")


@pytest.mark.parametrize("error", [JobFailed("x"), LoadFailed("x"), InvalidInput("x", "input"), PayloadTooLarge("x")])
async def test_what_another_attempt_cannot_mend_fails_at_once_with_its_own_code(
    world: WorkerWorld, runner: BatchRunner, error: AffinityError
):
    await world.waiting("j1", max_attempts=3)
    jobs = await started(world, runner, "j1")
    await runner.settle(batch(world, jobs), error)
    assert (await world.job("j1")).error == JobError(error.code, error.message)
    assert world.buried() == [("j1", error.code)]
    assert world.places("j1") == DEAD
    assert world.metric("message_processing_errors_total", model="m", code=error.code) == 1


@pytest.mark.parametrize("error", [ExecutorDied("x"), JobTimeout("x")])
async def test_a_failure_that_may_pass_is_tried_again_and_the_last_attempt_is_buried(
    world: WorkerWorld, runner: BatchRunner, error: AffinityError
):
    await world.waiting("j1", max_attempts=2)
    await runner.settle(batch(world, await started(world, runner, "j1")), error)
    assert await world.state("j1") is JobState.QUEUED
    assert (await world.job("j1")).attempts == 1
    assert waits(world)
    await comes_back(world)
    assert world.places("j1") == QUEUE
    await runner.settle(batch(world, await started(world, runner, "j1")), error)
    ended = await world.job("j1")
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.attempts) == ("attempts_exhausted", 2)
    assert "attempt 2 of 2" in ended.error.message
    assert error.code in ended.error.message
    assert world.buried() == [("j1", "attempts_exhausted")]
    assert world.places("j1") == DEAD


@pytest.mark.parametrize("error", [OutOfVram("x"), StoppedWithBatch("x"), WorkerLost("x")])
async def test_a_failure_nobody_can_blame_on_the_job_uses_no_attempt_but_counts_a_loss(
    world: WorkerWorld, runner: BatchRunner, error: AffinityError
):
    await world.waiting("j1", max_attempts=1)
    await runner.settle(batch(world, await started(world, runner, "j1")), error)
    job = await world.job("j1")
    assert (job.state, job.attempts, job.losses) == (JobState.QUEUED, 0, 1)
    assert world.places("j1") == QUEUE if isinstance(error, OutOfVram) else waits(world)
    assert world.said("job.requeued")[-1]["code"] == error.code


async def test_a_batch_that_came_to_nothing_settles_every_job_of_it(world: WorkerWorld, runner: BatchRunner):
    await world.waiting("j1", max_attempts=1)
    await world.waiting("j2", max_attempts=1)
    jobs = await started(world, runner, "j1", "j2")
    await runner.settle(batch(world, jobs), LoadFailed("damaged"))
    assert [world.places(j) for j in ("j1", "j2")] == [DEAD, DEAD]


async def test_another_job_under_a_taken_id_is_buried_also_in_a_models_own_queue(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1", input={"n": 1})
    await runner.settle(batch(world, await started(world, runner, "j1")), reply("one"))
    world.foreign(b'{"id": "j1", "input": {"n": 2}}', "t.model.m")
    assert await runner.start(await world.take()) == []
    await world.quiet()
    assert world.buried() == [("j1", "id_conflict")]


async def test_another_job_under_the_id_of_one_that_waits_leaves_that_one_waiting(
    world: WorkerWorld, runner: BatchRunner
):
    await world.stores.jobs.sight(a_spec("j1"), world.clock.now(), world.clock.now())
    world.foreign(b'{"id": "j1", "input": {"n": 2}}', "t.model.m")
    assert await runner.start(await world.take()) == []
    await world.quiet()
    assert world.buried() == [("j1", "id_conflict")]
    job = await world.job("j1")
    assert (job.state, job.attempts, job.losses, job.spec.input) == ("queued", 0, 0, a_spec().input)


async def test_another_job_under_the_id_of_one_that_runs_is_buried_and_that_one_runs_on(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1")
    world.foreign(b'{"id": "j1", "input": {"n": 2}}', "t.model.m")
    await world.stores.fleet.report(world.report(worker="w1", gpu=world.services.device.uuid))
    (one,) = await started(world, runner, "j1")
    await world.quiet()
    assert world.buried() == [("j1", "id_conflict")]
    await runner.settle(batch(world, [one]), reply("one"))
    assert (await world.job("j1")).result == "one"
    assert world.places("j1") == DEAD


class NoGivingBack(FakeJobStore):
    """The world's store, which goes away just before something is given back to it."""

    async def give_back(self, attempt: Attempt, error: JobError | None, uses_attempt: bool, now: float) -> bool:
        raise StoreUnavailable("Redis at fake:0 failed: it went away just now")


async def test_a_store_that_goes_away_while_a_stranger_is_refused_costs_no_other_job(world: WorkerWorld):
    await world.stores.jobs.sight(a_spec("j1"), world.clock.now(), world.clock.now())
    world.foreign(b'{"id": "j1", "input": {"n": 2}}', "t.model.m")
    await world.waiting("j2")
    store = NoGivingBack(world.stores, 1000.0, 1000)
    store._records = world.stores.jobs._records
    jobs = await BatchRunner(replace(world.services, store=store), world.tasks).start(await world.take())
    await world.tasks.cancel()
    assert [one.job.id for one in jobs] == ["j2"]


# -- attempts that are no longer ours ----------------------------------------------------------------------------------


async def test_a_disowned_attempt_hands_its_delivery_back_while_the_job_goes_on(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1")
    jobs = await started(world, runner, "j1")
    await world.stores.jobs.reclaim("w1", world.clock.now())  # our lease ran out
    await world.stores.jobs.start([(an_attempt("j1", "w2"), jobs[0].job.spec, 0.0)], world.clock.now())
    await runner.settle(batch(world, jobs), reply("late"))
    assert await world.state("j1") is JobState.RUNNING
    assert world.places("j1") == QUEUE
    assert world.metric("messages_consumed_total", model="m", start="warm") == 0


async def test_a_disowned_attempt_of_a_job_that_ended_elsewhere_acks(world: WorkerWorld, runner: BatchRunner):
    await world.waiting("j1")
    jobs = await started(world, runner, "j1")
    await world.stores.jobs.reclaim("w1", world.clock.now())
    await world.stores.jobs.cancel("j1", world.clock.now())
    await runner.settle(batch(world, jobs), reply("late"))
    assert await world.state("j1") is JobState.CANCELLED
    assert world.places("j1") == ACKED


async def test_a_result_for_a_store_that_lost_its_records_hands_the_only_copy_back(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1")
    jobs = await started(world, runner, "j1")
    world.stores.jobs._records.clear()
    await runner.settle(batch(world, jobs), reply("late"))
    assert world.places("j1") == QUEUE


async def test_a_disowned_failure_is_handed_back_too(world: WorkerWorld, runner: BatchRunner):
    await world.waiting("j1", max_attempts=1)
    jobs = await started(world, runner, "j1")
    await world.stores.jobs.reclaim("w1", world.clock.now())
    await runner.settle(batch(world, jobs), ExecutorDied("x"))
    assert await world.state("j1") is JobState.QUEUED
    assert world.places("j1") == QUEUE


# -- time --------------------------------------------------------------------------------------------------------------


async def test_a_batch_is_stopped_for_the_shortest_limit_and_only_that_job_is_blamed(
    world: WorkerWorld, runner: BatchRunner
):
    await world.executor.start()
    await world.executor.load(ENTRY)
    await world.waiting("short", timeout_s=0.001, max_attempts=1)
    await world.waiting("long", timeout_s=600.0, max_attempts=1)
    await world.waiting("models", max_attempts=1)
    jobs = await started(world, runner, "short", "long", "models")
    world.executor.pause("run m")
    with pytest.raises(JobTimeout, match=r"ran longer than 0\.001 s") as caught:
        await runner.run(batch(world, jobs))
    assert world.executor.pid is None, "what it ran on is stopped"
    await runner.settle(batch(world, jobs), caught.value)
    assert world.buried() == [("short", "attempts_exhausted")]
    for innocent in ("long", "models"):
        job = await world.job(innocent)
        assert (job.state, job.attempts, job.losses) == (JobState.QUEUED, 0, 1)
        assert waits(world, innocent)
    assert world.metric("message_processing_errors_total", model="m", code="stopped_with_batch") == 2


async def test_a_batch_gets_its_results_from_the_executor(world: WorkerWorld, runner: BatchRunner):
    await world.executor.start()
    await world.executor.load(ENTRY)
    await world.waiting("j1", input=[1])
    await world.waiting("j2", input="two")
    jobs = await started(world, runner, "j1", "j2")
    assert (await runner.run(batch(world, jobs))).results == ([1], "two")


async def test_a_stopping_worker_gives_back_what_it_started_without_using_an_attempt(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1")
    await world.waiting("j2")
    await runner.hand_back(await started(world, runner, "j1", "j2"))
    for job_id in ("j1", "j2"):
        job = await world.job(job_id)
        assert (job.state, job.attempts, job.losses) == (JobState.QUEUED, 0, 0)
        assert world.places(job_id) == QUEUE


async def test_what_is_handed_back_without_the_store_is_taken_over_once_our_lease_is_gone(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1")
    jobs = await started(world, runner, "j1")
    world.stores.down = True
    await runner.hand_back(jobs)
    world.stores.down = False
    assert world.places("j1") == QUEUE
    assert (await world.job("j1")).state is JobState.RUNNING
    assert len(await started(world, runner, "j1")) == 1

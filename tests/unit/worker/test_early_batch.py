"""A batch that runs while the store is being asked which of its jobs may start: whatever the store says, and when."""

import asyncio
from dataclasses import replace

import pytest

from affinity.errors import ExecutorDied, StoreUnavailable
from affinity.job import JobState
from tests.support.executors import synthetic
from tests.support.fake_job_store import FakeJobStore
from tests.support.job_samples import a_spec, an_attempt
from tests.support.slow_start import SlowStart
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.batch import Batch, BatchRunner
from worker.executor import BatchReply

QUEUE = ("model.m",)
DEAD = ("dead",)
HANDS = ("hands",)
ACKED: tuple[str, ...] = ()
ENTRY = synthetic("m", 4.0, echo=True)


@pytest.fixture
def world() -> WorkerWorld:
    made = a_worker_world(ENTRY)
    made.stores.jobs = SlowStart(made.stores)
    made.services = replace(made.services, store=made.stores.jobs)
    return made


@pytest.fixture
def store(world: WorkerWorld) -> SlowStart:
    assert isinstance(world.stores.jobs, SlowStart)
    return world.stores.jobs


@pytest.fixture
def runner(world: WorkerWorld) -> BatchRunner:
    return BatchRunner(world.services, world.tasks)


async def ran(world: WorkerWorld, store: SlowStart, runner: BatchRunner) -> tuple[Batch, BatchReply]:
    """What waits has run, and the store has not answered yet."""
    await world.executor.start()
    await world.executor.load(ENTRY)
    batch = Batch(ENTRY, await runner.read(await world.take()), None, world.clock.now(), early=True)
    reply = await runner.run(batch)
    await store.pause.reached.wait()
    return batch, reply


async def settled(world: WorkerWorld, store: SlowStart, runner: BatchRunner) -> None:
    """All of it, with the store's answer after the results."""
    batch, reply = await ran(world, store, runner)
    settling = asyncio.create_task(runner.settle(batch, reply))
    await several_turns()
    store.pause.go()
    await settling
    await several_turns()


async def several_turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_inputs_are_with_the_executor_before_the_store_is_asked(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    await world.waiting("j1", input=[1])
    await world.waiting("j2", input="two")
    before: list[str] = []
    store.asked = lambda: before.extend(world.executor.asked)
    _, reply = await ran(world, store, runner)
    assert before == ["load m", "run m"]
    assert reply.results == ([1], "two")
    assert [await world.state(j) for j in ("j1", "j2")] == [JobState.QUEUED] * 2
    store.pause.go()
    await world.quiet()


async def test_a_result_is_stored_behind_its_start_and_its_delivery_is_acked(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    await world.submit("j1", input={"n": 7})
    await world.broker.publisher.park(a_spec("j9"), 0.0)
    await settled(world, store, runner)
    job = await world.job("j9")
    assert (job.state, job.result, job.attempts, job.exec_s) == (JobState.SUCCEEDED, a_spec().input, 1, 0.25)
    assert world.places("j9") == ACKED
    kinds = [event.kind for event in world.stores.said if event.fields.get("job") == "j9"]
    assert kinds == ["job.accepted", "job.started", "job.settled"]
    assert world.metric("messages_consumed_total", model="m", start="warm") == 1


async def test_a_result_does_not_wait_for_the_answer_to_a_start_that_is_recorded(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    store.recorded = True
    await world.waiting("j1")
    batch, reply = await ran(world, store, runner)
    await runner.settle(batch, reply)
    assert not store.pause._open.is_set()
    assert await world.state("j1") is JobState.SUCCEEDED
    assert world.places("j1") == ACKED
    store.pause.go()
    await world.quiet()
    assert world.failures == []


async def test_a_start_that_is_repeated_after_its_result_settles_the_delivery_once(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    store.recorded = store.twice = True
    await world.waiting("j1")
    batch, reply = await ran(world, store, runner)
    await runner.settle(batch, reply)
    store.pause.go()
    await world.quiet()
    assert world.failures == []
    assert await world.state("j1") is JobState.SUCCEEDED
    assert world.places("j1") == ACKED


async def test_a_job_that_is_cancelled_meanwhile_stays_cancelled_and_its_result_is_dropped(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    await world.waiting("j1")
    batch, reply = await ran(world, store, runner)
    await world.stores.jobs.cancel("j1", world.clock.now())
    settling = asyncio.create_task(runner.settle(batch, reply))
    await several_turns()
    store.pause.go()
    await settling
    job = await world.job("j1")
    assert (job.state, job.result, job.attempts) == (JobState.CANCELLED, None, 0)
    assert world.places("j1") == ACKED
    assert (len(world.said("job.started")), len(world.said("job.settled"))) == (0, 1)
    assert world.metric("messages_consumed_total", model="m", start="warm") == 0


async def test_an_overdue_job_expires_though_it_ran(world: WorkerWorld, store: SlowStart, runner: BatchRunner):
    await world.waiting("j1", ttl_s=5.0)
    world.clock.advance(6.0)
    await settled(world, store, runner)
    assert await world.state("j1") is JobState.EXPIRED
    assert world.places("j1") == ACKED


async def test_a_second_copy_of_a_job_that_runs_elsewhere_changes_nothing_there(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    spec = await world.waiting("j1")
    await world.stores.fleet.report(world.report(worker="w2"))
    await FakeJobStore.start(store, [(an_attempt("j1", "w2"), spec, 0.0)], world.clock.now())
    await settled(world, store, runner)
    job = await world.job("j1")
    assert (job.state, job.worker, job.attempts, job.result) == (JobState.RUNNING, "w2", 1, None)
    assert world.places("j1") == HANDS, "held: it may be the only copy one day"
    await world.tasks.cancel()


async def test_other_content_under_a_taken_id_runs_for_nothing_and_the_job_of_that_id_is_left_alone(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    await world.stores.jobs.sight(a_spec("j1"), world.clock.now(), world.clock.now())
    world.foreign(b'{"id": "j1", "input": {"n": 2}}', "t.model.m")
    await settled(world, store, runner)
    assert world.buried() == [("j1", "id_conflict")]
    job = await world.job("j1")
    assert (job.state, job.attempts, job.spec.input) == (JobState.QUEUED, 0, a_spec().input)
    assert world.said("job.started") == []


async def test_each_result_goes_to_its_own_job_where_another_may_not_start(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    for job_id in ("j1", "j2", "j3"):
        await world.waiting(job_id, input=job_id)
    await world.stores.jobs.cancel("j2", world.clock.now())
    await settled(world, store, runner)
    assert [(await world.job(j)).result for j in ("j1", "j2", "j3")] == ["j1", None, "j3"]
    assert [await world.state(j) for j in ("j1", "j2", "j3")] == ["succeeded", "cancelled", "succeeded"]
    assert [world.places(j) for j in ("j1", "j2", "j3")] == [ACKED] * 3


async def test_a_start_whose_answer_is_lost_for_good_keeps_the_result_that_came_behind_it(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    store.recorded, store.fault = True, StoreUnavailable("Redis at fake:0 failed: no answer in time")
    await world.waiting("j1")
    await settled(world, store, runner)
    assert await world.state("j1") is JobState.SUCCEEDED
    assert world.places("j1") == ACKED
    assert world.metric("messages_consumed_total", model="m", start="warm") == 1
    assert world.failures == []


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("most", "state"), [(2, JobState.QUEUED), (1, JobState.FAILED)])
async def test_a_crash_before_the_store_has_answered_counts_the_attempt(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner, recorded: bool, most: int, state: JobState
):
    store.recorded = recorded
    await world.waiting("j1", max_attempts=most)
    await world.executor.start()
    await world.executor.load(ENTRY)
    world.executor.pause("run m")
    batch = Batch(ENTRY, await runner.read(await world.take()), None, world.clock.now(), early=True)
    running = asyncio.create_task(runner.run(batch))
    await store.pause.reached.wait()
    world.executor.die()
    with pytest.raises(ExecutorDied) as crash:
        await running
    settling = asyncio.create_task(runner.settle(batch, crash.value))
    await several_turns()
    store.pause.go()
    await settling
    job = await world.job("j1")
    assert (job.state, job.attempts, job.deaths) == (state, 1, 1 if most == 2 else 0)
    (place,) = world.places("j1")
    assert place.startswith("retry.") if most == 2 else (place,) == DEAD
    assert world.buried() == ([] if most == 2 else [("j1", "attempts_exhausted")])


async def test_what_a_stopping_worker_gives_back_is_what_the_store_let_start(
    world: WorkerWorld, store: SlowStart, runner: BatchRunner
):
    await world.waiting("j1")
    await world.waiting("j2")
    await world.stores.jobs.cancel("j2", world.clock.now())
    batch, _ = await ran(world, store, runner)
    store.pause.go()
    granted = await batch.granted()
    await runner.hand_back(granted)
    assert [started.job.id for started in granted] == ["j1"]
    job = await world.job("j1")
    assert (job.state, job.attempts, job.losses) == (JobState.QUEUED, 0, 0)
    assert [world.places(j) for j in ("j1", "j2")] == [QUEUE, ACKED]

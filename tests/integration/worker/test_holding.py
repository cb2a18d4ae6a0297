"""What a worker does by waiting: it holds deliveries, asks a store again, restarts an executor, polls the driver.

Over the same fakes as the unit tests; here because the code under test sleeps, for a second or less each time.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from affinity.errors import ExecutorDied, JobFailed, StoreUnavailable
from affinity.fleet import GIB
from affinity.io.ports import Delivery, StartAnswer
from affinity.job import RUNGS_S, Attempt, Job, JobError, JobSpec, JobState
from affinity.policy import Load
from tests.support.executors import synthetic
from tests.support.fake_job_store import FakeJobStore
from tests.support.job_samples import an_attempt
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.batch import Batch, BatchRunner, Started
from worker.events import Cleared
from worker.executor import BatchReply
from worker.loading import Loader
from worker.membership import Membership
from worker.sorting import Sorter

QUEUE = ("model.m",)
ENTRY = synthetic("m", 4.0)
HOPELESS = JobError("load_failed", "the weights are damaged")


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(ENTRY, synthetic("v", 6.0), vram_gib=8)


@pytest.fixture
def runner(world: WorkerWorld) -> BatchRunner:
    return BatchRunner(world.services, world.tasks)


@pytest.fixture
def sorter(world: WorkerWorld, runner: BatchRunner) -> Sorter:
    return Sorter(world.services, runner, world.tasks)


async def held(world: WorkerWorld, *job_ids: str, then: tuple[str, ...] = QUEUE) -> None:
    """These are in our hands now, and where they belong after a while."""
    await asyncio.sleep(0.2)  # Long enough that handing back at once would be seen.
    assert [world.places(j) for j in job_ids] == [("hands",)] * len(job_ids)
    await world.quiet()
    assert [world.places(j) for j in job_ids] == [then] * len(job_ids)
    assert world.failures == []


async def test_the_dead_letter_of_a_failed_job_is_written_once_the_broker_is_back(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1")
    jobs = await runner.start(await world.take())
    world.broker.down = True
    batch = Batch(ENTRY, jobs, False, 0.0, world.clock.now())
    settling = asyncio.create_task(runner.settle(batch, JobFailed("x")))
    await asyncio.sleep(0.2)  # Long enough that handing back at once would be seen.
    assert await world.state("j1") is JobState.FAILED
    assert world.buried() == []
    world.broker.restore()
    await settling
    assert world.buried() == [("j1", "job_failed")]
    assert world.places("j1") == ("dead",)


async def test_deliveries_that_cannot_be_started_without_a_store_are_held_and_handed_back(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1")
    await world.waiting("j2")
    world.stores.down = True
    assert await runner.start(await world.take()) == []
    await asyncio.sleep(0.2)  # Long enough that handing back at once would be seen.
    assert [world.places(j) for j in ("j1", "j2")] == [("hands",)] * 2
    await world.until(lambda: [world.places(j) for j in ("j1", "j2")] == [QUEUE] * 2)
    world.stores.down = False
    await world.quiet()
    assert world.failures == []


@pytest.mark.parametrize("early", [False, True])
async def test_a_start_that_was_recorded_without_our_knowing_is_taken_back(world: WorkerWorld, early: bool):
    class Deaf(FakeJobStore):
        """The world's store, whose answers to a start are lost."""

        async def start(self, attempts: Sequence[tuple[Attempt, JobSpec, float]], now: float) -> list[StartAnswer]:
            await super().start(attempts, now)
            raise StoreUnavailable("Redis at fake:0 failed: no answer in time")

    world.stores.jobs = store = Deaf(world.stores, 1000.0, 1000)
    runner = BatchRunner(replace(world.services, store=store), world.tasks)
    await world.waiting("j1")
    await world.stores.fleet.report(world.report(worker="w1"))
    if early:
        await world.executor.start()
        await world.executor.load(ENTRY)
        jobs = await runner.read(await world.take())
        batch = Batch(ENTRY, jobs, load=None, started_at=world.clock.now(), early=True)
        await runner.run(batch)
        assert await batch.granted() == []
    else:
        assert await runner.start(await world.take()) == []
    assert await world.state("j1") is JobState.RUNNING, "as long as we live nobody else may have it"
    await held(world, "j1")
    job = await world.job("j1")
    assert (job.state, job.attempts, job.losses) == (JobState.QUEUED, 0, 0)


@pytest.mark.parametrize("result", ["done", JobFailed("raised")])
async def test_a_result_whose_start_never_reached_the_store_is_dropped(
    world: WorkerWorld, runner: BatchRunner, result: object
):
    await world.executor.start()
    await world.executor.load(ENTRY)
    await world.waiting("j1")
    jobs = await runner.read(await world.take())
    batch = Batch(ENTRY, jobs, load=None, started_at=world.clock.now(), early=True)
    world.stores.down = True
    await runner.run(batch)
    assert await batch.granted() == []
    world.stores.down = False
    await runner.settle(batch, BatchReply((result,), 0.1, 1, 1))
    assert await world.state("j1") is JobState.QUEUED
    await held(world, "j1")
    assert world.buried() == []


async def test_a_delivery_of_a_job_that_runs_elsewhere_is_held_and_never_acked(world: WorkerWorld, runner: BatchRunner):
    spec = await world.waiting("j1")
    await world.stores.fleet.report(world.report("m"))
    await world.stores.jobs.start([(an_attempt("j1", "w2"), spec, 0.0)], world.clock.now())
    assert await runner.start(await world.take()) == []
    await held(world, "j1")
    assert await world.state("j1") is JobState.RUNNING


@pytest.mark.parametrize("away", ["store", "broker"])
async def test_a_fallback_delivery_is_held_while_store_or_broker_is_away(world: WorkerWorld, sorter: Sorter, away: str):
    await world.submit("j1")
    arrived: list[object] = []

    async def sort_without(delivery: Delivery) -> None:
        arrived.append(delivery)
        world.stores.down, world.broker.down = away == "store", away == "broker"
        await sorter.arrived(delivery)
        await world.intake.stop_fallback()

    await world.intake.consume_fallback(1, sort_without)
    await world.until(lambda: bool(arrived))
    await held(world, "j1", then=("fallback",))


@pytest.mark.parametrize("outcome", ["result", "failure", "retry"])
async def test_a_delivery_is_kept_until_the_store_has_taken_its_outcome(
    world: WorkerWorld, runner: BatchRunner, outcome: str
):
    await world.waiting("j1")
    await world.waiting("j2")
    jobs = await runner.start(await world.take())
    batch = Batch(ENTRY, jobs, load=None, started_at=world.clock.now())
    results = {"result": "done", "failure": JobFailed("raised")}
    reply = ExecutorDied("x") if outcome == "retry" else BatchReply((results[outcome],) * 2, 0.1, 1, 1)
    world.stores.down = True
    world.tasks.spawn(runner.settle(batch, reply), "settle")
    await asyncio.sleep(0.2)  # Long enough that giving up at once would be seen.
    assert world.places("j1") == world.places("j2") == ("hands",)
    world.stores.down = False
    await world.quiet()
    waits = [(f"retry.{round(1000 * wait_s)}",) for wait_s in RUNGS_S[:3]]  # Which of them, the attempt's token says.
    state, places = {
        "result": ("succeeded", [()]),
        "failure": ("failed", [("dead",)]),
        "retry": ("queued", waits),
    }[outcome]
    assert [await world.state(j) for j in ("j1", "j2")] == [state] * 2
    assert all(world.places(j) in places for j in ("j1", "j2"))
    assert world.failures == []


async def test_whether_a_disowned_job_is_over_is_asked_until_the_store_answers(world: WorkerWorld, runner: BatchRunner):
    await world.waiting("j1")
    jobs: list[Started] = await runner.start(await world.take())
    await world.stores.jobs.reclaim("w1", world.clock.now())

    class AwayOnce(FakeJobStore):
        """The world's store, away at the first question."""

        asked = 0

        async def get(self, job_id: str) -> Job:
            self.asked += 1
            if self.asked == 1:
                raise StoreUnavailable("Redis at fake:0 failed: it is down")
            return await world.stores.jobs.get(job_id)

        async def finish(self, *_: object) -> bool:
            return False

    store = AwayOnce(world.stores, 1.0, 1)
    late = BatchRunner(replace(world.services, store=store), world.tasks)
    batch = Batch(ENTRY, jobs, load=None, started_at=world.clock.now())
    await late.settle(batch, BatchReply(("late",), 0.1, 1, 1))
    assert store.asked == 2
    assert world.places("j1") == QUEUE


async def test_a_failed_job_keeps_its_delivery_until_the_broker_has_its_letter(world: WorkerWorld, runner: BatchRunner):
    await world.waiting("j1")
    jobs = await runner.start(await world.take())
    batch = Batch(ENTRY, jobs, load=None, started_at=world.clock.now())
    world.broker.down = True
    world.tasks.spawn(runner.settle(batch, JobFailed("raised")), "settle")
    await asyncio.sleep(0.2)  # Long enough that handing back at once would be seen.
    assert await world.state("j1") is JobState.FAILED
    assert world.places("j1") == ("hands",)
    world.broker.down = False
    await world.quiet()
    assert world.buried() == [("j1", "job_failed")]
    assert world.places("j1") == ("dead",)


async def test_results_are_stored_while_a_neighbours_letter_waits_for_the_broker(
    world: WorkerWorld, runner: BatchRunner
):
    await world.waiting("j1")
    await world.waiting("j2")
    jobs = await runner.start(await world.take())
    batch = Batch(ENTRY, jobs, load=None, started_at=world.clock.now())
    world.broker.down = True
    world.tasks.spawn(runner.settle(batch, BatchReply((JobFailed("raised"), "two"), 0.1, 1, 1)), "settle")
    await asyncio.sleep(0.2)  # The store is there: nothing need be waited for.
    state = await world.state("j2")
    world.broker.down = False
    await world.quiet()
    assert state is JobState.SUCCEEDED


class SightsOne(FakeJobStore):
    """The world's store, which goes away after its first sighting of a job."""

    def __init__(self, world: WorkerWorld) -> None:
        super().__init__(world.stores, 1000.0, 1000)
        self._records = world.stores.jobs._records
        self._sighted = 0

    async def sight(self, spec: JobSpec, created_at: float, now: float) -> Job:
        self._sighted += 1
        self._world.down = self._sighted > 1
        return await super().sight(spec, created_at, now)


async def test_giving_up_hands_everything_back_when_the_store_goes_away_midway(world: WorkerWorld):
    for job_id in ("j1", "j2", "j3", "j4"):
        await world.waiting(job_id)
    services = replace(world.services, store=SightsOne(world))
    await Sorter(services, BatchRunner(services, world.tasks), world.tasks).give_up("m", HOPELESS)
    await world.quiet()
    assert [world.places(j) for j in ("j1", "j2", "j3", "j4")] == [("dead",), QUEUE, QUEUE, QUEUE]


async def test_while_the_store_is_away_for_long_deliveries_are_held_on_to_and_let_go_once_it_is_back(
    world: WorkerWorld, runner: BatchRunner, sorter: Sorter
):
    world.foreign(b'{"id": "f1", "input": 1}', "t.fallback")
    runner.holding.store.failed()
    world.clock.advance(60.0)
    world.stores.down = True
    await world.intake.consume_fallback(1, sorter.arrived)
    await asyncio.sleep(1.3)  # Longer than deliveries are held at least.
    assert world.places("f1") == ("hands",)
    world.stores.down = False
    runner.holding.store.back()
    await world.until(lambda: world.places("f1") == QUEUE)
    assert await world.state("f1") is JobState.QUEUED


# -- loading and the executor ------------------------------------------------------------------------------------------


async def test_freed_memory_is_awaited_until_the_driver_counts_it(world: WorkerWorld):
    await world.executor.start()
    slow = a_worker_world(ENTRY, vram_gib=8, lag_s=1.0)
    probe, clock = slow.probe, slow.clock
    probe.observe("SIM-w1-0", world.executor.pid or 0, 6 * GIB)
    services = replace(world.services, probe=probe, clock=clock)
    loader = Loader(services, world.posted.append, lambda: asyncio.sleep(0))
    load = Load("w1", "m", 4 * GIB, ("v",), 0, "")
    clearing = asyncio.create_task(loader.clear(load))
    await asyncio.sleep(0.2)  # Several polls.
    assert world.posted == []
    clock.advance(1.0)
    await clearing
    (event,) = world.posted
    assert isinstance(event, Cleared)
    assert event.gpu.free_bytes == 8 * GIB


async def wait_for(world: WorkerWorld, jobs: Sequence[str], state: JobState) -> None:
    records = world.stores.jobs._records
    await world.passing(lambda: all(j in records and records[j].job.state is state for j in jobs))


async def test_a_job_that_crashes_its_executor_is_retried_on_a_new_one_and_then_buried(world: WorkerWorld):
    async with world.running():
        await world.submit("good")
        await wait_for(world, ["good"], JobState.SUCCEEDED)
        await world.submit("bad", input={"fail": "crash"}, max_attempts=2)
        await wait_for(world, ["bad"], JobState.FAILED)
        await world.submit("after")
        await wait_for(world, ["after"], JobState.SUCCEEDED)
    assert world.buried() == [("bad", "attempts_exhausted")]
    assert (await world.job("bad")).attempts == 2
    assert world.executor.asked.count("load m") == 3, "every executor starts empty"
    assert (await world.job("after")).start == "cold"
    assert world.metric("model_evictions_total", worker="w1", model="m", reason="executor-died") == 2
    assert [event["residents"] for event in world.said("executor.died")] == ["m", "m"]


async def test_an_executor_that_is_killed_while_it_starts_is_started_again(world: WorkerWorld):
    starts, start = [], world.executor.start

    async def killed_once() -> None:
        starts.append(None)
        if len(starts) == 2:
            raise ExecutorDied("executor fake cannot start: was killed by SIGKILL")
        await start()

    world.executor.start = killed_once
    async with world.running():
        await world.submit("j1")
        await wait_for(world, ["j1"], JobState.SUCCEEDED)
        world.executor.die()
        await world.submit("j2")
        await wait_for(world, ["j2"], JobState.SUCCEEDED)
    assert len(starts) == 3


async def test_while_there_is_no_executor_nothing_is_bound_and_nothing_waits_here(world: WorkerWorld):
    async with world.running():
        await world.submit("j1")
        await wait_for(world, ["j1"], JobState.SUCCEEDED)
        world.executor.die()
        await world.until(lambda: world.broker.bindings == set())
        assert "t.model.m" not in world.intake.consumed
        await world.submit("j2")
        assert "model.m" not in world.places("j2")
        await wait_for(world, ["j2"], JobState.SUCCEEDED)


async def test_a_job_over_its_time_costs_the_executor_but_not_its_neighbours(world: WorkerWorld):
    world.services = replace(
        world.services, catalog=type(world.services.catalog)([replace(ENTRY, max_batch=2), synthetic("v", 6.0)])
    )
    await world.waiting("hung", input={"fail": "hang"}, timeout_s=0.05, max_attempts=1)
    await world.waiting("good", timeout_s=60.0, max_attempts=1)
    async with world.running():
        await wait_for(world, ["hung"], JobState.FAILED)
        await wait_for(world, ["good"], JobState.SUCCEEDED)
    assert world.buried() == [("hung", "attempts_exhausted")]
    good = await world.job("good")
    assert (good.attempts, good.losses) == (1, 1)


async def test_between_heartbeats_events_alone_drive_the_loop():
    world = a_worker_world(ENTRY, heartbeat_s=3600.0)
    async with world.running():
        await world.submit("j1")
        await wait_for(world, ["j1"], JobState.SUCCEEDED)
        await world.submit("j2")
        await world.until(lambda: world.stores.jobs._records["j2"].job.state is JobState.SUCCEEDED)
    assert world.executor.asked == ["load m", "run m", "run m"]


async def test_joining_asks_again_at_every_heartbeat_for_the_end_of_an_earlier_life():
    world = a_worker_world(ENTRY, heartbeat_s=0.05)
    await world.stores.fleet.report(world.report(worker="w1", epoch=0))
    joining = asyncio.create_task(Membership(world.services).join())
    await asyncio.sleep(0.2)  # Several heartbeats.
    assert not joining.done()
    world.clock.advance(11.0)
    async with asyncio.timeout(5.0):
        await joining

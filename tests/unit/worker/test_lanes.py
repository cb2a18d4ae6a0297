"""Tenants' lanes as a worker serves and binds them: nobody waits for a backlog, and no binding outlives its model."""

from dataclasses import replace

import pytest

from affinity.job import JobError, JobState
from affinity.topology import lane
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.batch import BatchRunner
from worker.lanes import MOST_LANES, SILENT_S, Lanes
from worker.reporter import Reporter
from worker.sorting import Sorter

M = replace(synthetic("m", 4.0), max_batch=2)
N, V = synthetic("n", 2.0), synthetic("v", 22.0)


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(M, N, V)


def ended(world: WorkerWorld, *job_ids: str) -> bool:
    records = world.stores.jobs._records
    return all(j in records and records[j].job.state.terminal and "hands" not in world.places(j) for j in job_ids)


def order(world: WorkerWorld) -> list[str]:
    """Jobs in the order in which they were started."""
    return [fields["job"] for fields in world.said("job.started")]


async def served(world: WorkerWorld, *job_ids: str) -> None:
    await world.passing(lambda: ended(world, *job_ids))


async def test_one_job_does_not_wait_for_anothers_backlog(world: WorkerWorld):
    for number in range(9):
        await world.waiting(f"bulk{number}", tenant="bulk")
    await world.waiting("one", tenant="other")
    async with world.running():
        await served(world, "one", "bulk8")
    assert order(world).index("one") <= 1, "the first batch has a place for whoever has used nothing"
    assert world.executor.asked == ["load m", *["run m"] * 5]


async def test_tenants_take_turns_across_models_and_nobodys_jobs_have_theirs(world: WorkerWorld):
    async with world.running():
        for model in ("m", "n"):
            await world.submit(f"warm-{model}", model)
            await served(world, f"warm-{model}")
        await world.stores.jobs.charge("bulk", 60.0)
        for number in range(6):
            await world.waiting(f"bulk{number}", "m", tenant="bulk")
            world.clock.advance(0.001)
        await world.waiting("nobodys", "m")
        await world.waiting("other", "n", tenant="other")
        await served(world, "other", "nobodys", *(f"bulk{number}" for number in range(6)))
    places = {job_id: place for place, job_id in enumerate(order(world))}
    assert max(places["nobodys"], places["other"]) < places["bulk1"], "whoever has used most comes last"


async def test_jobs_that_name_a_tenant_and_came_without_http_are_found_in_the_models_queue(world: WorkerWorld):
    await world.waiting("bulk0", tenant="bulk")
    async with world.running():
        await served(world, "bulk0")
        world.foreign(b'{"id": "f1", "input": 1, "tenant": "other"}', "t.model.m")
        await served(world, "f1")
    assert await world.state("f1") is JobState.SUCCEEDED


async def test_a_lane_is_bound_once_it_has_jobs_reported_before_and_gone_with_its_model(world: WorkerWorld):
    async with world.running():
        await world.submit("j1", tenant="acme")
        await served(world, "j1")
        await world.submit("j2", tenant="acme")
        await world.passing(lambda: ("m@acme", "w1") in world.broker.bindings)
        (report,) = (await world.stores.fleet.sighting()).view.workers.values()
        assert report.owed == ("m@acme",)
        await served(world, "j2")

        await world.submit("j3", tenant="acme")
        assert "fallback" not in world.places("j3"), "it came straight"
        await served(world, "j3")

        await world.submit("large", "v")
        await served(world, "large")
        await world.passing(lambda: world.broker.bindings == {("v", "w1")})
    assert world.broker.bindings == set()


async def test_a_lost_workers_lanes_are_unbound_with_its_models(world: WorkerWorld):
    await world.stores.fleet.report(replace(world.report("m"), owed=("m@acme",)))
    other = world.broker.intake("w2")
    for name in ("m", lane("m", "acme")):
        await other.bind(name)
    world.stores.drop("lease", "w2")
    async with world.running():
        await world.passing(lambda: not any(worker == "w2" for _, worker in world.broker.bindings))


async def test_the_tenant_whose_job_waits_longest_is_charged_for_the_load_and_each_for_its_part(world: WorkerWorld):
    await world.waiting("first", tenant="acme")
    world.clock.advance(1.0)
    await world.waiting("second", tenant="other")
    async with world.running():
        await served(world, "first", "second")
    used = await world.stores.jobs.gpu_seconds()
    first, second = await world.job("first"), await world.job("second")
    load_s, exec_s = (first.load_s or 0.0) + (second.load_s or 0.0), first.exec_s or 0.0
    assert world.executor.asked == ["load m", "run m"]
    assert used == {"acme": pytest.approx(load_s + exec_s / 2), "other": pytest.approx(exec_s / 2)}


async def test_without_tenants_no_account_is_kept_and_nothing_is_bound(world: WorkerWorld):
    async with world.running():
        await world.submit("j1")
        await served(world, "j1")
        assert world.broker.bindings == {("m", "w1")}
    assert await world.stores.jobs.gpu_seconds() == {}


async def test_a_model_given_up_is_given_up_in_all_its_lanes(world: WorkerWorld):
    await world.waiting("j1")
    await world.waiting("j2", tenant="acme")
    sorter = Sorter(world.services, BatchRunner(world.services, world.tasks), world.tasks)
    await sorter.give_up("m", JobError("load_failed", "the weights are damaged"))
    assert [await world.state(job_id) for job_id in ("j1", "j2")] == [JobState.FAILED] * 2


async def test_silent_lanes_are_let_go_and_no_more_are_bound_than_can_be_listened_to(world: WorkerWorld):
    reporter = Reporter(world.services, lambda: world.report(worker="w1", gpu="GPU-w1"), world.posted.append)
    lanes = Lanes(world.services, reporter, world.tasks, world.posted.append)
    await world.intake.bind("m")
    for number in range(MOST_LANES + 3):
        await world.waiting(f"j{number}", tenant=f"t{number}")
    assert lanes.heed(await world.stores.jobs.demand(), ["m"])
    await world.quiet()
    assert len(world.intake.lanes) == MOST_LANES
    assert lanes.heed(await world.stores.jobs.demand(), ["m"]), "some are served from the backlog alone"

    world.clock.advance(SILENT_S)
    assert not lanes.heed((), ["m"])
    await world.quiet()
    assert world.intake.lanes == frozenset()
    assert world.broker.bindings == {("m", "w1")}
    assert world.failures == []


async def test_a_lane_of_a_model_that_is_leaving_is_not_bound(world: WorkerWorld):
    reporter = Reporter(world.services, lambda: world.report(worker="w1", gpu="GPU-w1"), world.posted.append)
    lanes = Lanes(world.services, reporter, world.tasks, world.posted.append)
    await world.waiting("j1", tenant="acme")
    demand = await world.stores.jobs.demand()
    assert lanes.heed(demand, ["m"])
    assert not lanes.heed(demand, []), "it has begun to leave before its lane was bound"
    await world.quiet()
    assert world.broker.bindings == set()

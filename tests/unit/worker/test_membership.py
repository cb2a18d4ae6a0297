"""Joining, leaving, and what becomes of those who left without a word."""

import asyncio
from dataclasses import replace

import pytest

from affinity.job import JobState
from affinity.wire import decode_report, encode_report
from tests.support.executors import synthetic
from tests.support.job_samples import an_attempt, later
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.membership import REAPING_S, Membership


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(synthetic("m"), synthetic("n"))


@pytest.fixture
def membership(world: WorkerWorld) -> Membership:
    return Membership(world.services)


async def lived(world: WorkerWorld, worker: str, *models: str, epoch: int = 0, job: str = "") -> None:
    """A worker that holds these models, bound, and runs a job (``of-<worker>`` by default) of the first."""
    gpu = world.services.device.uuid if worker == "w1" else f"GPU-{worker}"
    await world.stores.fleet.report(world.report(*models, worker=worker, epoch=epoch, gpu=gpu))
    intake = world.broker.intake(worker)
    for model in models:
        await intake.bind(model)
    spec = await world.waiting(job or f"of-{worker}", models[0])
    attempt = an_attempt(spec.id, worker, epoch)
    await world.stores.jobs.start([(attempt, spec, world.clock.now())], world.clock.now())


async def test_a_new_name_joins_at_once(world: WorkerWorld, membership: Membership):
    await lived(world, "w2", "m")
    await membership.join()
    assert ("m", "w2") in world.broker.bindings


async def test_joining_waits_for_the_lease_of_an_earlier_life_and_then_settles_its_estate(
    world: WorkerWorld, membership: Membership
):
    await lived(world, "w1", "m", "n")
    await lived(world, "w2", "m")
    joining = asyncio.create_task(membership.join())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not joining.done(), "its earlier life may still be at work"
    assert ("m", "w1") in world.broker.bindings
    world.clock.advance(5.0)
    await world.stores.fleet.report(later(world.report("m")))
    world.clock.advance(6.0)
    await joining
    assert world.broker.bindings == {("m", "w2")}
    assert await world.state("of-w1") is JobState.QUEUED
    assert await world.state("of-w2") is JobState.RUNNING


async def test_joining_waits_for_the_store_and_for_the_broker(world: WorkerWorld, membership: Membership):
    await lived(world, "w1", "m")
    world.clock.advance(11.0)
    world.stores.down = world.broker.down = True
    joining = asyncio.create_task(membership.join())
    for _ in range(20):
        await asyncio.sleep(0)
    world.stores.down = False
    for _ in range(20):
        await asyncio.sleep(0)
    assert not joining.done(), "with its old bindings it would be sent jobs it does not expect"
    world.broker.down = False
    await joining
    assert world.broker.bindings == set()


async def test_a_lost_worker_is_tidied_up_after_and_its_jobs_are_demand_again(
    world: WorkerWorld, membership: Membership
):
    await lived(world, "w2", "m", "n", epoch=1)
    world.clock.advance(11.0)
    lost = (await world.stores.fleet.sighting()).lost
    hints = world.stores.fleet.wakes()
    await anext(hints)
    await membership.reap(lost)
    await anext(hints)
    assert world.broker.bindings == set()
    assert (await world.stores.fleet.sighting()).lost == ()
    job = await world.job("of-w2")
    assert (job.state, job.losses, job.attempts) == (JobState.QUEUED, 1, 0)
    (said,) = world.said("worker.lost")
    assert (said["worker"], said["lost"], said["jobs"]) == ("w1", "w2", "1")


async def test_a_binding_that_a_lost_worker_could_not_remove_is_removed_for_it(
    world: WorkerWorld, membership: Membership
):
    await lived(world, "w2", "m", "n", epoch=1)
    evicted = replace(later(world.report("m", epoch=1)), owed=("n",))
    await world.stores.fleet.report(decode_report(encode_report(evicted)))
    world.clock.advance(11.0)
    await membership.reap((await world.stores.fleet.sighting()).lost)
    assert world.broker.bindings == set()


async def test_who_leaves_while_the_broker_is_away_is_tidied_up_after(world: WorkerWorld):
    async with world.running():
        await world.submit("j1")
        await world.passing(lambda: bool(world.broker.bindings) and world.places("j1") == ())
        world.broker.down = True
    world.broker.down = False
    assert world.broker.bindings == {("m", "w1")}
    world.clock.advance(11.0)
    lost = (await world.stores.fleet.sighting()).lost
    assert [report.worker for report in lost] == ["w1"], "nobody else knows of its bindings"
    await Membership(world.services).reap(lost)
    assert world.broker.bindings == set()
    assert (await world.stores.fleet.sighting()).lost == ()


async def test_of_several_that_notice_one_tidies_up(world: WorkerWorld, membership: Membership):
    await lived(world, "w2", "m", epoch=1)
    world.clock.advance(11.0)
    lost = (await world.stores.fleet.sighting()).lost
    await world.stores.fleet.begin_reaping("w2", "w3", REAPING_S)
    await membership.reap(lost)
    assert world.broker.bindings == {("m", "w2")}
    world.clock.advance(REAPING_S)
    await membership.reap(lost)
    assert world.broker.bindings == set()


async def test_one_estate_that_cannot_be_settled_does_not_keep_the_next_and_is_tried_again(
    world: WorkerWorld, membership: Membership
):
    await lived(world, "w2", "m", epoch=1)
    await lived(world, "w3", "n", epoch=1)
    world.clock.advance(11.0)
    lost = (await world.stores.fleet.sighting()).lost
    world.broker.down = True
    await membership.reap(lost)
    world.broker.down = False
    assert len((await world.stores.fleet.sighting()).lost) == 2, "nothing is forgotten that was not settled"
    world.clock.advance(REAPING_S)
    await membership.reap(lost)
    assert world.broker.bindings == set()
    assert (await world.stores.fleet.sighting()).lost == ()


async def test_a_worker_that_is_back_keeps_the_jobs_of_its_new_life(world: WorkerWorld, membership: Membership):
    await lived(world, "w2", "m", epoch=1)
    world.clock.advance(11.0)
    lost = (await world.stores.fleet.sighting()).lost
    await lived(world, "w2", "n", epoch=2, job="new")
    await membership.reap(lost)
    assert await world.state("new") is JobState.RUNNING
    assert await world.state("of-w2") is JobState.QUEUED
    assert set((await world.stores.fleet.sighting()).view.workers) == {"w2"}
    assert world.broker.bindings == {("n", "w2")}


async def test_leaving_gives_up_lease_gpu_and_claims_at_once(world: WorkerWorld, membership: Membership):
    report = world.report(worker="w1", gpu=world.services.device.uuid)
    await world.stores.fleet.report(report)
    await world.stores.fleet.claim("m", "w1", 10.0)
    await world.stores.fleet.claim("n", "w2", 10.0)
    hints = world.stores.fleet.wakes()
    await anext(hints)
    await membership.leave(report)
    await anext(hints)
    sighting = await world.stores.fleet.sighting()
    assert (dict(sighting.view.workers), dict(sighting.view.claims), sighting.lost) == ({}, {"n": "w2"}, ())
    assert world.stores.holder("gpu", world.services.device.uuid) is None
    assert len(world.said("worker.left")) == 1


async def test_leaving_does_not_take_the_lease_of_a_newer_life(world: WorkerWorld, membership: Membership):
    mine = world.report(worker="w1", epoch=1)
    await world.stores.fleet.report(replace(mine, epoch=2))
    await membership.leave(mine)
    assert set((await world.stores.fleet.sighting()).view.workers) == {"w1"}


async def test_nothing_that_is_only_told_stops_a_worker(world: WorkerWorld, membership: Membership):
    world.stores.down = True
    await membership.note("worker.joined", gpu="simulated")
    await membership.leave(world.report(worker="w1"))
    await membership.reap((world.report(),))
    world.stores.down = False
    await membership.note("worker.joined", gpu="simulated")
    assert world.said("worker.joined") == [{"worker": "w1", "gpu": "simulated"}]

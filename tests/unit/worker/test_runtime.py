"""The loop as a whole, over fakes: a heartbeat of 0 s makes it beat without pause, and time is the fake clock's."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from affinity.errors import InvariantBroken, LoadFailed
from affinity.fleet import GIB, Measurement, ResidencyState
from affinity.io.ports import Sighting
from affinity.job import JobState, StartKind
from tests.support.executors import synthetic
from tests.support.fake_executor import Pause
from tests.support.fake_stores import FakeEventStream, FakeFleetStore
from tests.support.worker_world import WorkerWorld, a_worker_world

M = replace(synthetic("m", 4.0), max_batch=4)
N, V = synthetic("n", 2.0), synthetic("v", 20.0)


@pytest.fixture
def world() -> WorkerWorld:
    return a_worker_world(M, N, V)


def ended(world: WorkerWorld, *job_ids: str) -> bool:
    """True once these jobs are settled in the store and with the broker."""
    records = world.stores.jobs._records
    return all(records[j].job.state.terminal and "hands" not in world.places(j) for j in job_ids)


async def warm(world: WorkerWorld, *models: str) -> None:
    """Have these models resident, by a job of each that is served."""
    for model in models:
        await world.submit(f"warm-{model}", model)
        await world.passing(lambda m=model: ended(world, f"warm-{m}"))  # type: ignore[misc]


async def some_time(world: WorkerWorld) -> None:
    """Long enough for several looks at the fleet."""
    until = world.clock.now() + 1.0
    await world.passing(lambda: world.clock.now() >= until)


async def sighting(world: WorkerWorld) -> Sighting:
    return await world.stores.fleet.sighting()


# -- serving -----------------------------------------------------------------------------------------------------------


async def test_a_cold_job_is_sorted_loaded_for_and_served_and_the_next_one_is_warm(world: WorkerWorld):
    async with world.running():
        await world.submit("j1")
        await world.passing(lambda: ended(world, "j1"))
        await world.submit("j2")
        assert world.places("j2") == ("hands",), "bound and armed: it came at once"
        await world.passing(lambda: ended(world, "j2"))
    first, second = await world.job("j1"), await world.job("j2")
    assert (first.state, first.start, first.worker) == (JobState.SUCCEEDED, StartKind.COLD, "w1")
    assert (second.state, second.start, second.load_s) == (JobState.SUCCEEDED, StartKind.WARM, 0.0)
    assert world.places("j1") == world.places("j2") == ()
    assert world.executor.asked.count("load m") == 1


async def test_a_backlog_is_served_in_batches(world: WorkerWorld):
    for number in range(6):
        await world.waiting(f"j{number}")
    async with world.running():
        await world.passing(lambda: ended(world, *(f"j{number}" for number in range(6))))
    assert world.executor.asked == ["load m", "run m", "run m"]
    assert [(await world.job(f"j{number}")).start for number in (0, 1, 4)] == ["cold", "warm", "warm"]


async def test_what_a_batch_really_took_is_reported_and_told_to_the_others(world: WorkerWorld):
    world.executor.grown["m"] = GIB
    async with world.running():
        await warm(world, "m")
        told, reports = world.stores.fleet._measured, world.stores.fleet._reports
        await world.until(lambda: ("m", "simulated") in told and told["m", "simulated"].footprint_bytes == 5 * GIB)
        await world.until(lambda: reports["w1"].residents[0].footprint_bytes == 5 * GIB)


async def test_while_a_batch_runs_nothing_waits_here_that_another_worker_could_serve(world: WorkerWorld):
    async with world.running():
        await warm(world, "m", "n")
        await world.until(lambda: "t.model.n" in world.intake.consumed)
        running = world.executor.pause("run m")
        await world.submit("j1", "m")
        await running.reached.wait()
        await world.submit("j2", "n")
        await world.passing(lambda: world.intake.consumed.keys() == {"t.fallback"})
        await world.until(lambda: world.places("j2") == ("model.n",))
        assert await world.state("j2") is JobState.QUEUED
        running.go()
        await world.passing(lambda: ended(world, "j1", "j2"))


async def test_a_delivery_that_arrives_after_its_consumer_was_stopped_is_handed_back(world: WorkerWorld):
    async with world.running():
        await warm(world, "m")
        await world.until(lambda: "t.model.m" in world.intake.consumed)
        arrival = world.intake.consumed["t.model.m"].arrival
        running = world.executor.pause("run m")
        await world.submit("j1")
        await running.reached.wait()
        await world.passing(lambda: "t.model.m" not in world.intake.consumed)
        await world.submit("j2")
        (late,) = await world.take("m", 1)
        await arrival(late)
        await world.until(lambda: world.places("j2") == ("model.m",))
        running.go()
        await world.passing(lambda: ended(world, "j1", "j2"))


async def test_strangers_in_a_residents_queue_become_demand_while_another_batch_runs(world: WorkerWorld):
    async with world.running():
        await warm(world, "m", "n")
        running = world.executor.pause("run m")
        await world.submit("j1", "m")
        await running.reached.wait()
        await world.passing(lambda: "t.model.n" not in world.intake.consumed)
        world.foreign(b'{"id": "f1", "input": 1}', "t.model.n", "n")
        await world.until(lambda: "f1" in world.stores.jobs._records)
        assert await world.state("f1") is JobState.QUEUED
        running.go()
        await world.passing(lambda: ended(world, "j1", "f1"))


async def test_a_store_that_is_away_for_a_while_stops_nothing(world: WorkerWorld):
    async with world.running():
        await warm(world, "m")
        world.stores.down = True
        await some_time(world)
        world.stores.down = False
        await world.submit("j1")
        await world.passing(lambda: ended(world, "j1"))


async def test_a_broker_that_was_away_finds_the_worker_bound_and_listening_again(world: WorkerWorld):
    async with world.running():
        await warm(world, "m")
        world.broker.cut()
        world.broker.bindings.clear()
        await some_time(world)
        world.broker.restore()
        assert world.broker.bindings == {("m", "w1")}
        await world.submit("j1", "m")
        await world.submit("j2", "n")
        await world.passing(lambda: ended(world, "j1", "j2"))


# -- loading -----------------------------------------------------------------------------------------------------------


class SlowClaim(FakeFleetStore):
    """A store that takes its time over the claim of one model."""

    def __init__(self, world: WorkerWorld, model: str) -> None:
        super().__init__(world.stores)
        self.pause = Pause()
        self._model = model

    async def claim(self, model: str, worker: str, lease_s: float) -> bool:
        if model == self._model:
            await self.pause.hold()
        return await super().claim(model, worker, lease_s)


async def test_a_model_that_is_about_to_go_is_not_served_once_more():
    world = a_worker_world(replace(M, vram_gib=8.0), V)
    world.stores.fleet = fleet = SlowClaim(world, "m")
    world.services = replace(world.services, fleet=fleet, heartbeat=fleet)
    async with world.running():
        await warm(world, "v")
        await world.submit("j1", "m")
        await world.passing(fleet.pause.reached.is_set)
        served = world.executor.asked.count("run v")
        await world.submit("j2", "v")
        await some_time(world)
        assert world.executor.asked.count("run v") == served
        unloading = world.executor.pause("unload v")
        fleet.pause.go()
        await unloading.reached.wait()
        await some_time(world)
        assert world.executor.asked.count("run v") == served
        assert world.places("j2") == ("model.v",)
        assert ("v", "w1") not in world.broker.bindings
        unloading.go()
        await world.passing(lambda: ended(world, "j1"))
    assert world.metric("model_evictions_total", worker="w1", model="v", reason="room") >= 1


async def test_a_model_whose_turn_is_over_goes_between_two_batches_where_all_looks_fell_into_batches():
    """A model is no victim while it runs. It always has another job, and no time passes between two of its batches."""
    world = a_worker_world(replace(M, vram_gib=8.0), V)
    await world.stores.fleet.learn("m", world.services.device.name, Measurement(8 * GIB, 0.1, 0.1))
    world.executor.exec_s = 60.0  # It has served for long enough.
    async with world.running():
        await warm(world, "v")
        running = world.executor.pause("run v")
        await world.submit("j1", "v")
        await running.reached.wait()
        await world.submit("j2", "v")
        await world.submit("j3", "m")
        overdue_at = world.clock.now() + 60.0
        await world.passing(lambda: world.clock.now() >= overdue_at, tick_s=1.0)
        before = len(world.executor.asked)
        running.go()
        await world.until(lambda: len(world.executor.asked) > before)
        assert world.executor.asked[before] == "unload v"
        await world.passing(lambda: ended(world, "j1", "j2", "j3"))


async def test_a_model_that_can_be_loaded_nowhere_fails_its_jobs(world: WorkerWorld):
    world.executor.load_faults["m"] = LoadFailed("truncated")
    async with world.running():
        await world.submit("j1")
        await world.submit("j2")
        await world.passing(lambda: ended(world, "j1", "j2"))
        await world.submit("j3", "n")
        await world.passing(lambda: ended(world, "j3"))
    assert sorted(world.buried()) == [("j1", "load_failed"), ("j2", "load_failed")]
    assert world.stores.holder("claim", "m") is None
    assert world.executor.asked.count("load m") == 1


async def test_a_resident_serves_while_another_model_loads(world: WorkerWorld):
    async with world.running():
        await warm(world, "m")
        loading = world.executor.pause("load n")
        await world.submit("j1", "n")
        await world.passing(loading.reached.is_set)
        view = (await sighting(world)).view
        resident = view.workers["w1"].holds("n")
        assert resident is not None
        assert resident.state is ResidencyState.LOADING
        assert ("n", "w1") in world.broker.bindings
        await world.submit("j2", "m")
        await world.passing(lambda: ended(world, "j2"))
        loading.go()
        await world.passing(lambda: ended(world, "j1"))


# -- the end -----------------------------------------------------------------------------------------------------------


async def gone(world: WorkerWorld) -> None:
    """Nothing is left of the worker: nobody waits for it and nothing is sent to it."""
    seen = await sighting(world)
    assert (dict(seen.view.workers), dict(seen.view.claims), seen.lost) == ({}, {}, ())
    assert world.stores.holder("lease", "w1") is None
    assert world.stores.holder("gpu", world.services.device.uuid) is None
    assert world.broker.bindings == set()
    assert world.executor.pid is None
    assert world.broker._intakes == []


async def test_the_next_load_begins_as_soon_as_one_has_ended_however_short_ago_the_fleet_was_looked_at():
    world = a_worker_world(M, N)
    async with world.running():
        loading = world.executor.pause("load m")
        await world.submit("j1", "m")
        await world.passing(loading.reached.is_set)
        await world.submit("j2", "n")
        await world.passing(lambda: world.places("j2") == ("model.n",))
        world.clock.advance(1.0)
        await world.stores.fleet.wake()
        await world.quiet()
        loading.go()
        await world.until(lambda: "load n" in world.executor.asked)


async def test_a_worker_that_is_stopped_leaves_nothing_behind(world: WorkerWorld):
    async with world.running():
        await warm(world, "m", "n")
    await gone(world)
    assert len(world.said("worker.left")) == 1


async def test_stopping_takes_no_new_job_but_finishes_what_runs(world: WorkerWorld):
    async with world.running() as worker:
        await warm(world, "m", "n")
        running = world.executor.pause("run m")
        await world.submit("j1", "m")
        await running.reached.wait()
        await world.submit("j2", "n")
        worker.stop()
        await world.until(lambda: world.broker.bindings == set())
        assert (await sighting(world)).view.workers["w1"].draining
        assert await world.state("j1") is JobState.RUNNING
        await world.submit("j3", "m")
        assert world.places("j3") == ("fallback",)
        running.go()
    assert [await world.state(j) for j in ("j1", "j2", "j3")] == ["succeeded", "queued", "queued"]
    assert [world.places(j) for j in ("j1", "j2", "j3")] == [(), ("model.n",), ("fallback",)]
    await gone(world)


async def test_what_is_not_done_within_the_grace_is_handed_back_and_uses_no_attempt():
    world = a_worker_world(M, grace_s=0.0)
    async with world.running() as worker:
        await warm(world, "m")
        running = world.executor.pause("run m")
        await world.submit("j1", max_attempts=1)
        await running.reached.wait()
        worker.stop()
    job = await world.job("j1")
    assert (job.state, job.attempts, job.losses) == (JobState.QUEUED, 0, 0)
    assert world.places("j1") == ("model.m",)
    await gone(world)


async def test_stopping_in_the_middle_of_a_load_leaves_nothing_behind(world: WorkerWorld):
    async with world.running() as worker:
        loading = world.executor.pause("load m")
        await world.submit("j1")
        await world.passing(loading.reached.is_set)
        worker.stop()
    assert await world.state("j1") is JobState.QUEUED
    assert world.places("j1") == ("model.m",)
    await gone(world)


async def test_another_life_under_the_same_name_stops_the_worker(world: WorkerWorld):
    async def life() -> None:
        async with world.running():
            await world.stores.fleet.report(world.report(worker="w1", epoch=2))
            await world.passing(lambda: False)

    with pytest.raises(InvariantBroken, match="give each its own WORKER_ID"):
        await life()
    assert set((await sighting(world)).view.workers) == {"w1"}, "the other life keeps its lease"


class BrokenStream(FakeEventStream):
    """An event stream with a bug in it."""

    async def emit(self, kind: str, at: float, fields: Mapping[str, str]) -> None:
        if kind == "model.loading":
            raise ZeroDivisionError("a bug")
        await super().emit(kind, at, fields)


async def test_a_task_that_raises_stops_the_worker_and_it_still_leaves_properly(world: WorkerWorld):
    world.services = replace(world.services, events=BrokenStream(world.stores))

    async def life() -> None:
        async with world.running():
            await world.submit("j1")
            await world.passing(lambda: False)

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await life()
    await gone(world)
    assert world.places("j1") in {("model.m",), ("fallback",)}


async def test_a_bug_while_a_batch_runs_stops_the_worker_and_the_job_is_delivered_again(world: WorkerWorld):
    async def life() -> None:
        async with world.running():
            await warm(world, "m")
            world.executor._models.clear()
            await world.submit("j1")
            await world.passing(lambda: False)

    with pytest.raises(InvariantBroken, match="m is not resident"):
        await life()
    await gone(world)
    assert world.places("j1") == ("model.m",)
    assert world.buried() == []


@pytest.mark.parametrize("call", ["unload v", "load m"])
async def test_a_load_that_is_under_way_when_the_worker_stops_goes_no_further(call: str):
    world = a_worker_world(replace(M, vram_gib=8.0), V, N)
    async with world.running() as worker:
        await warm(world, "v")
        held_up = world.executor.pause(call)
        await world.submit("j1", "m")
        await world.passing(held_up.reached.is_set)
        worker.stop()
    assert await world.state("j1") is JobState.QUEUED
    assert ("load m" in world.executor.asked) == (call == "load m")
    await gone(world)

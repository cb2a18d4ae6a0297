"""What an operator asked for, carried out by the worker's whole loop: over fakes, and on the fake clock."""

from dataclasses import replace

import pytest

from affinity.job import JobState
from affinity.orders import Action, Order, OrderState
from tests.support.executors import synthetic
from tests.support.worker_world import WorkerWorld, a_worker_world


def an_order(action: Action, worker: str | None = "w1", order_id: str = "o1") -> Order:
    return Order(order_id, action, "m", worker, 1.0, 601.0, "me")


def over(world: WorkerWorld, order_id: str) -> bool:
    return world.stores.fleet._orders[order_id].state is not OrderState.WAITING


async def serve(world: WorkerWorld, job_id: str, model: str) -> None:
    """Have a job of that model served."""
    await world.submit(job_id, model)
    await world.passing(lambda: world.stores.jobs._records[job_id].job.state is JobState.SUCCEEDED)


@pytest.mark.parametrize("by", ["catalogue", "hand"])
async def test_a_pinned_model_stays_whatever_else_is_asked_for(by: str):
    """10 GiB have room for k (4) and either m (5) or n (6)."""
    kept = replace(synthetic("k", 4.0), pinned=by == "catalogue")
    world = a_worker_world(kept, synthetic("m", 5.0), synthetic("n", 6.0), vram_gib=10)
    if by == "hand":
        await world.stores.fleet.pin("k", None, "me", 1.0)
    async with world.running():
        for job_id, model in enumerate("kmnmnk"):
            await serve(world, f"j{job_id}", model)
    assert world.executor.asked.count("load k") == 1
    assert "unload k" not in world.executor.asked
    assert world.executor.asked.count("unload m") == 2


async def test_a_model_that_is_no_longer_pinned_may_go():
    world = a_worker_world(synthetic("k", 4.0), synthetic("m", 8.0), vram_gib=10)
    await world.stores.fleet.pin("k", "w1", "me", 1.0)
    async with world.running():
        await serve(world, "j1", "k")
        await world.submit("j2", "m")
        until = world.clock.now() + 5.0
        await world.passing(lambda: world.clock.now() >= until)
        assert await world.state("j2") is JobState.QUEUED
        await world.stores.fleet.unpin("k", ["w1"], "me", 1.0)
        await world.passing(lambda: world.stores.jobs._records["j2"].job.state is JobState.SUCCEEDED)
    assert "unload k" in world.executor.asked


async def test_orders_are_carried_out_by_the_loop_and_their_loads_are_counted_as_by_hand():
    world = a_worker_world(synthetic("m", 8.0), synthetic("n", 6.0), vram_gib=10)
    async with world.running():
        await serve(world, "j1", "n")
        await world.stores.fleet.order(an_order(Action.LOAD, None, "o1"))
        await world.passing(lambda: over(world, "o1"))
        await world.stores.fleet.order(an_order(Action.UNLOAD, "w1", "o2"))
        await world.passing(lambda: over(world, "o2"))
        until = world.clock.now() + 1.0
        await world.passing(lambda: world.clock.now() >= until)
    assert world.executor.asked == ["load n", "run n", "unload n", "load m", "unload m"]
    assert {order.state for order in world.stores.fleet._orders.values()} == {OrderState.DONE}
    assert world.metric("model_loads_total", worker="w1", model="m", tier="disk", reason="by-hand") == 1.0
    assert world.metric("model_evictions_total", worker="w1", model="m", reason="by-hand") == 1.0
    assert [e["reason"] for e in world.said("model.loading")][1:] == ["asked for by hand: order o1"]


async def test_a_load_that_was_asked_for_and_cannot_be_had_ends_its_order_with_the_reason():
    broken = synthetic("m", 1.0)
    world = a_worker_world(replace(broken, options=replace(broken.options, load_fail="error")))  # type: ignore[type-var]
    async with world.running():
        await world.stores.fleet.order(an_order(Action.LOAD))
        await world.passing(lambda: over(world, "o1"))
    ended = await world.stores.fleet.get_order("o1")
    assert ended.state is OrderState.FAILED
    assert ended.reason.startswith("load_failed: m: fails because it was asked to")


async def test_a_model_in_use_leaves_between_two_batches_though_jobs_wait():
    world = a_worker_world(synthetic("m", 4.0))
    async with world.running():
        await serve(world, "j0", "m")
        running = world.executor.pause("run m")
        for number in range(1, 4):
            await world.waiting(f"j{number}")
        await running.reached.wait()
        await world.stores.fleet.order(an_order(Action.UNLOAD))
        await world.passing(lambda: world.broker.bindings == set())
        assert "unload m" not in world.executor.asked
        running.go()
        await world.passing(lambda: over(world, "o1"))
        await world.passing(
            lambda: all(record.job.state is JobState.SUCCEEDED for record in world.stores.jobs._records.values())
        )
    assert world.executor.asked[:5] == ["load m", "run m", "run m", "unload m", "load m"]

"""The hoarding rule of decision 0001: when consumers are stopped, and what is started first; alone and in the loop."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from affinity.job import JobSpec
from models.entry import ModelEntry
from tests.support.executors import synthetic
from tests.support.fake_executor import Pause
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.hoarding import AHEAD_S, AT_ONCE_FROM_S, STOP_AFTER_S, ahead_after_s, hand_first, stop_after_s

FALLBACK = {"t.fallback"}
M, N, V = synthetic("m", 4.0), synthetic("n", 4.0), synthetic("v", 4.0)
SHORT_S = AT_ONCE_FROM_S / 10
MEDIUM_S = 0.2


@pytest.mark.parametrize(
    ("mean_exec_s", "expected_s"),
    [(0.0, 0.05), (0.005, 0.05), (0.0299, 0.05), (0.03, 0.0), (0.04, 0.0), (30.0, 0.0)],
)
def test_consumers_go_on_for_a_moment_beside_short_batches_and_not_beside_others(mean_exec_s: float, expected_s: float):
    assert stop_after_s(mean_exec_s) == expected_s


@pytest.mark.parametrize(
    ("max_batch", "unheard", "expected"), [(1, [], True), (2, [], False), (1, ["v"], False), (8, ["v"], False)]
)
def test_what_is_in_hand_comes_first_without_batches_and_where_every_model_is_heard(
    max_batch: int, unheard: list[str], expected: bool
):
    assert hand_first(max_batch, unheard) is expected


@pytest.mark.parametrize(
    ("mean_exec_s", "expected_s"),
    [(0.0299, None), (0.03, 0.02), (0.04, 0.03), (0.4, 0.39), (0.5, None), (30.0, None)],
)
def test_the_next_batch_is_fetched_shortly_before_one_ends_that_is_neither_very_short_nor_long(
    mean_exec_s: float, expected_s: float | None
):
    assert ahead_after_s(mean_exec_s) == (None if expected_s is None else pytest.approx(expected_s))


# -- in the worker's loop ----------------------------------------------------------------------------------------------


async def armed(world: WorkerWorld, exec_s: Mapping[str, float]) -> None:
    """These models are resident, known to run for so long, and have a consumer each."""
    for model, seconds in exec_s.items():
        world.executor.exec_s = seconds
        await world.submit(f"warm-{model}", model)
        await world.passing(lambda m=model: not world.places(f"warm-{m}"))  # type: ignore[misc]
    await world.until(lambda: world.intake.consumed.keys() == FALLBACK | {f"t.model.{model}" for model in exec_s})


async def brought(world: WorkerWorld, job_id: str, model: str, waited_s: float) -> None:
    """A job that comes so long after it was created."""
    spec, created_at = JobSpec(job_id, model, {"n": 1}), world.clock.now() - waited_s
    await world.stores.jobs.create(spec, created_at)
    await world.broker.publisher.publish(spec, created_at)
    await world.stores.jobs.published(job_id)


async def held_up(world: WorkerWorld, job_id: str, model: str, waited_s: float = 0.0) -> Pause:
    """A job of that model runs, until the test lets it go on."""
    running = world.executor.pause(f"run {model}")
    await brought(world, job_id, model, waited_s)
    await running.reached.wait()
    return running


async def test_consumers_are_stopped_as_a_batch_starts_that_is_expected_to_take_a_while():
    world = a_worker_world(M, N)
    async with world.running():
        await armed(world, {"n": SHORT_S, "m": AT_ONCE_FROM_S})
        began = world.clock.monotonic()
        running = await held_up(world, "j1", "m")
        await world.until(lambda: world.intake.consumed.keys() == FALLBACK)
        assert world.clock.monotonic() == began
        await world.submit("j2", "n")
        assert world.places("j2") == ("model.n",), "any worker can have it"
        running.go()
        await world.passing(lambda: not world.places("j2"))


async def test_the_next_job_is_in_hand_when_a_batch_ends_and_not_long_before():
    world = a_worker_world(M, N)
    async with world.running():
        await armed(world, {"n": SHORT_S, "m": MEDIUM_S})
        began = world.clock.monotonic()
        running = await held_up(world, "j1", "m")
        await world.until(lambda: world.intake.consumed.keys() == FALLBACK)
        await world.submit("j2", "n")
        await world.passing(lambda: world.places("j2") == ("hands",), tick_s=AHEAD_S / 10)
        assert world.clock.monotonic() == pytest.approx(began + MEDIUM_S - AHEAD_S, abs=AHEAD_S / 5)
        before = len(world.executor.asked)
        running.go()
        await world.until(lambda: len(world.executor.asked) > before)
        assert world.executor.asked[before:] == ["run n"]


async def test_what_was_fetched_ahead_of_a_batch_that_runs_on_goes_back_to_whoever_is_free():
    world = a_worker_world(M, N)
    async with world.running():
        await armed(world, {"n": SHORT_S, "m": MEDIUM_S})
        running = await held_up(world, "j1", "m")
        await world.until(lambda: world.intake.consumed.keys() == FALLBACK)
        await world.submit("j2", "n")
        await world.passing(lambda: world.places("j2") == ("hands",), tick_s=AHEAD_S / 10)
        since = world.clock.monotonic()
        await world.passing(lambda: world.places("j2") == ("model.n",), tick_s=STOP_AFTER_S / 10)
        assert world.clock.monotonic() == pytest.approx(since + STOP_AFTER_S, abs=STOP_AFTER_S / 5)
        await world.passing(lambda: world.clock.monotonic() > since + 1.0)
        assert world.places("j2") == ("model.n",), "once, and not again and again"
        running.go()
        await world.passing(lambda: not world.places("j2"))


async def test_a_short_batch_keeps_the_consumers_until_it_has_run_for_longer_than_it_should():
    world = a_worker_world(M, N)
    async with world.running():
        await armed(world, {"n": 30.0, "m": SHORT_S})
        began = world.clock.monotonic()
        running = await held_up(world, "j1", "m")
        await world.submit("j2", "n")
        await world.passing(lambda: world.clock.monotonic() >= began + 0.9 * STOP_AFTER_S, tick_s=STOP_AFTER_S / 10)
        assert {"t.model.m", "t.model.n"} <= world.intake.consumed.keys()
        assert world.places("j2") == ("hands",)
        await world.passing(lambda: world.intake.consumed.keys() == FALLBACK, tick_s=STOP_AFTER_S / 10)
        assert world.clock.monotonic() < began + 2 * STOP_AFTER_S
        await world.until(lambda: world.places("j2") == ("model.n",))
        running.go()
        await world.passing(lambda: not world.places("j2"))


@pytest.mark.parametrize(("max_batch", "next_model"), [(1, "n"), (4, "v")])
async def test_what_came_first_runs_first_without_a_look_at_what_waits_unless_batches_are_to_form(
    max_batch: int, next_model: str
):
    """What came second is older. The first of all had waited, or it would be clear that there is no backlog."""
    world = a_worker_world(M, replace(N, max_batch=max_batch), V)
    async with world.running():
        await armed(world, {"m": SHORT_S, "n": SHORT_S, "v": SHORT_S})
        running = await held_up(world, "j1", "m", waited_s=1.0)
        await brought(world, "first", "n", waited_s=0.0)
        await brought(world, "older", "v", waited_s=0.5)
        assert world.places("first") == world.places("older") == ("hands",)
        before = len(world.executor.asked)
        running.go()
        await world.until(lambda: len(world.executor.asked) > before)
        assert world.executor.asked[before] == f"run {next_model}"


async def test_a_model_that_was_loaded_meanwhile_has_its_turn_though_consumers_bring_jobs_of_others():
    world = a_worker_world(M, N, V)
    async with world.running():
        await armed(world, {"m": SHORT_S, "n": SHORT_S})
        loading = world.executor.pause("load v")
        await world.submit("cold", "v")
        await world.passing(loading.reached.is_set)
        await world.until(lambda: len(world.intake.consumed) == 3)
        running = await held_up(world, "j1", "m")
        await world.submit("in-hand", "n")
        loading.go()
        await world.until(lambda: ready(world, V))
        before = len(world.executor.asked)
        running.go()
        await world.until(lambda: len(world.executor.asked) > before)
        assert world.executor.asked[before] == "run v"


def ready(world: WorkerWorld, entry: ModelEntry) -> bool:
    """True once others know that the model serves here."""
    return any(
        resident.model == entry.name and resident.state == "ready"
        for resident in world.stores.fleet._reports["w1"].residents
    )

"""Models whose declared size is wrong by a factor of two, on the worker's loop: served all the same, and then known."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from affinity.fleet import GIB
from affinity.job import JobState
from models.catalog import Catalog
from models.entry import ModelEntry
from tests.support.executors import synthetic
from tests.support.fake_executor import FakeExecutor
from tests.support.worker_world import WorkerWorld, a_worker_world
from worker.learning import Learning

PAIR = synthetic("a", 16.0), synthetic("b", 16.0)


class TrueSizes(FakeExecutor):
    """What models really take, in GiB; the others take what they declare."""

    def __init__(self, sizes: Mapping[str, float], limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self._sizes = sizes

    def _size(self, entry: ModelEntry) -> int:  # type: ignore[override]
        declared_gib = (entry.vram_bytes or 0) / GIB
        return int(self._sizes.get(entry.name, declared_gib) * GIB)


def a_world(*models: ModelEntry, vram_gib: int = 24, **sizes: float) -> WorkerWorld:
    world = a_worker_world(*models, vram_gib=vram_gib)
    world.executor = TrueSizes(sizes, vram_gib * GIB)
    world.services = replace(world.services, executor=world.executor)
    return world


async def served(world: WorkerWorld, job_id: str, model: str) -> None:
    await world.submit(job_id, model)
    await world.passing(lambda: world.stores.jobs._records[job_id].job.state.terminal)
    assert await world.state(job_id) is JobState.SUCCEEDED


async def footprints(world: WorkerWorld) -> dict[str, int]:
    """GiB of each resident, as reported."""
    report = (await world.stores.fleet.sighting()).view.workers["w1"]
    return {resident.model: resident.footprint_bytes // GIB for resident in report.residents}


async def test_a_model_twice_as_large_as_declared_is_served_after_others_have_made_room() -> None:
    """6 GiB are free, 4 are declared, 8 are needed: it fails once, and is then not planned into 6 GiB again."""
    others = [synthetic(f"v{number}", 6.0) for number in range(3)]
    world = a_world(*others, synthetic("m", 4.0), m=8.0)
    async with world.running():
        for model in others:
            await served(world, f"j-{model.name}", model.name)
        await served(world, "j1", "m")
        await world.passing(lambda: world.executor.asked[-1] == "run m")
        held = await footprints(world)
    assert held["m"] == 8
    assert sum(held.values()) <= 24
    assert world.executor.asked.count("load m") == 2
    assert world.buried() == []


async def test_a_model_that_says_half_needs_at_most_two_failures_whatever_the_room() -> None:
    """The third failure in a row would fail its jobs."""
    for usable in range(10, 81, 7):
        for free in range(5, usable + 1, 3):
            learning = Learning(Catalog([synthetic("m", 5.0)]), "Fake")
            for _ in range(2):
                planned_gib = learning.footprint_bytes("m") / GIB
                room_gib = max(free, planned_gib)  # No more than planned is made free.
                if room_gib >= 10.0:
                    break
                learning.did_not_fit("m", int(room_gib * GIB), usable * GIB)
            assert max(free, learning.footprint_bytes("m") / GIB) >= 10.0
            assert learning.footprint_bytes("m") <= usable * GIB, "it is not yet shown that it fits nowhere"


async def test_a_model_that_had_the_whole_gpu_and_did_not_fit_is_said_to_be_larger() -> None:
    world = a_world(synthetic("m", 16.0), m=32.0)
    async with world.running():
        await world.submit("j1", "m")
        await world.passing(lambda: world.stores.jobs._records["j1"].job.state.terminal, tick_s=1.0)
        assert world.executor.asked == ["load m"], "to try again would change nothing"
    failed = await world.job("j1")
    assert failed.error is not None
    assert failed.error.code == "never_fits"
    assert failed.attempts == 0


async def test_models_half_as_large_as_declared_fit_together_once_that_is_known() -> None:
    world = a_world(*PAIR, a=8.0, b=8.0)
    async with world.running():
        await served(world, "j1", "a")
        assert await footprints(world) == {"a": 8}
        await served(world, "j2", "b")
        await served(world, "j3", "a")
        await served(world, "j4", "b")
        loads = [call for call in world.executor.asked if call.startswith(("load", "unload"))]
    # The first time it makes room for what it says; after that both are known, and stay.
    assert loads in (["load a", "unload a", "load b", "load a"], ["load a", "load b"])


@pytest.mark.parametrize("declared_gib", [4.0, 16.0])
async def test_the_fleet_is_told_what_was_measured_and_not_what_was_declared(
    declared_gib: float,
) -> None:
    world = a_world(synthetic("m", declared_gib), m=8.0)
    async with world.running():
        await served(world, "j1", "m")
        await world.passing(lambda: bool(world.stores.fleet._measured))
    measured = await world.stores.fleet.learned()
    assert measured["m", "simulated"].footprint_bytes == 8 * GIB

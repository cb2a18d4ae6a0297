"""``/workers`` and ``/models``."""

from dataclasses import replace

from affinity.fleet import GIB, Measurement, Residency, ResidencyState
from affinity.job import JobSpec
from affinity.wire import rfc3339
from tests.support.dispatcher import DispatcherWorld
from tests.support.job_samples import a_report


async def report_two_workers(world: DispatcherWorld) -> None:
    """``w1`` serves echo and is busy, ``w2`` loads minilm and is draining."""
    now = world.clock.now()
    one, two = a_report("w1"), a_report("w2")
    serving = Residency("echo", ResidencyState.READY, GIB, loaded_at=now - 9, last_used_at=now - 1, running=2)
    loading = Residency("minilm-l6-v2", ResidencyState.LOADING, GIB // 4, loaded_at=now, last_used_at=now)
    gpu = replace(one.gpu, used_bytes=5 * GIB, foreign_bytes=2 * GIB, utilization=0.5)
    await world.stores.fleet.report(
        replace(
            one,
            as_of=now - 3.0,
            gpu=gpu,
            residents=(serving,),
            cached=("minilm-l6-v2", "big"),
            metrics_url="http://w1:8000/metrics",
        )
    )
    await world.stores.fleet.report(replace(two, as_of=now + 5.0, residents=(loading,), draining=True))


async def test_workers_are_shown_with_their_gpu_and_what_is_resident_there(world: DispatcherWorld):
    await report_two_workers(world)

    one, two = (await world.http.get("/workers")).json()["workers"]

    now = world.clock.now()
    assert one == {
        "id": "w1",
        "node": "node",
        "lease_age_s": 3.0,
        "as_of": rfc3339(now - 3.0),
        "draining": False,
        "busy": True,
        "gpu": {
            "uuid": "GPU-w1",
            "index": 0,
            "name": "Fake 24 GiB",
            "total_bytes": 24 * GIB,
            "used_bytes": 5 * GIB,
            "free_bytes": 19 * GIB,
            "foreign_bytes": 2 * GIB,
            "utilization": 0.5,
        },
        "residents": [
            {
                "model": "echo",
                "bytes": GIB,
                "state": "ready",
                "running": 2,
                "pinned": False,
                "loaded_at": rfc3339(now - 9),
                "last_used_at": rfc3339(now - 1),
            }
        ],
        "cached": ["big", "minilm-l6-v2"],
        "metrics_url": "http://w1:8000/metrics",
    }
    assert two["cached"] == []
    assert (two["draining"], two["busy"], two["residents"][0]["state"]) == (True, False, "loading")
    assert two["lease_age_s"] == 0.0, "a worker whose clock is ahead is not younger than new"


async def test_a_worker_whose_lease_is_gone_is_not_shown(world: DispatcherWorld):
    await report_two_workers(world)
    world.clock.advance(31.0)

    assert (await world.http.get("/workers")).json() == {"workers": []}


async def test_models_are_shown_with_holders_demand_depth_and_what_was_measured(world: DispatcherWorld):
    await report_two_workers(world)
    await world.stores.fleet.learn("echo", "Fake 24 GiB", Measurement(2 * GIB, 1.5, 0.2))
    await world.stores.jobs.create(JobSpec("j1", "echo", 1), world.clock.now())
    world.clock.advance(4.0)
    await world.stores.jobs.create(JobSpec("j2", "echo", 1), world.clock.now())
    for _ in range(2):
        await world.publisher.park(JobSpec("j1", "echo", 1), world.clock.now())

    models = {model["name"]: model for model in (await world.http.get("/models")).json()["models"]}

    assert list(models) == ["big", "echo", "minilm-l6-v2"]
    assert models["echo"] == {
        "name": "echo",
        "runtime": "synthetic",
        "max_batch": 32,
        "timeout_s": 300.0,
        "pinned": False,
        "pinned_by": None,
        "pinned_on": [],
        "orders": [],
        "declared_bytes": int(0.01 * GIB),
        "holders": ["w1"],
        "queued": 2,
        "depth": 2,
        "oldest_wait_s": 4.0,
        "measured": [{"gpu": "Fake 24 GiB", "footprint_bytes": 2 * GIB, "load_s": 1.5, "exec_s": 0.2}],
    }
    assert models["minilm-l6-v2"]["holders"] == ["w2"], "a model that is loading is held"
    assert (models["big"]["queued"], models["big"]["depth"], models["big"]["oldest_wait_s"]) == (0, None, None)


async def test_without_a_broker_models_are_shown_without_their_depth(world: DispatcherWorld):
    await world.publisher.park(JobSpec("j1", "echo", 1), world.clock.now())
    world.broker.down = True

    answer = await world.http.get("/models")

    assert answer.status_code == 200
    assert {model["depth"] for model in answer.json()["models"]} == {None}

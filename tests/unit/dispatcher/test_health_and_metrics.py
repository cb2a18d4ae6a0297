"""Health, readiness and the metrics of the public contract."""

from dataclasses import replace

from affinity.fleet import GIB, Refusal, Residency, ResidencyState
from affinity.io.ports import DeadLetter
from affinity.job import JobSpec
from affinity.series import ModelLabels
from affinity.wire import rfc3339
from dispatcher.app import create_app
from dispatcher.metrics import DispatcherMetrics, StoreGauges
from dispatcher.readiness import Watch
from tests.support.dispatcher import DispatcherWorld, dispatcher_world
from tests.support.job_samples import a_report


async def series(world: DispatcherWorld) -> dict[str, float]:
    """Every sample of a scrape, by its name and labels as written."""
    answer = await world.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_health_says_what_the_older_system_said_whatever_is_down(world: DispatcherWorld):
    world.stores.down = world.broker.down = True

    for path in ("/health", "/health/live"):
        answer = await world.http.get(path)

        assert answer.status_code == 200
        assert answer.json() == {"status": "healthy", "timestamp": rfc3339(world.clock.now())}


async def test_ready_when_broker_and_store_answer_with_the_stores_warnings(world: DispatcherWorld):
    world.warnings.append("appendonly is off")

    answer = await world.http.get("/health/ready")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "broker": "ok", "store": "ok", "warnings": ["appendonly is off"]}


async def test_not_ready_says_which_server_is_down(world: DispatcherWorld):
    seen = {}
    for broker_down, store_down in ((True, False), (False, True), (True, True)):
        world.broker.down, world.stores.down = broker_down, store_down
        answer = await world.http.get("/health/ready")
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        seen[answer.json()["code"], *(fault["field"] for fault in answer.json()["errors"])] = True

    assert list(seen) == [
        ("broker_unavailable", "broker"),
        ("store_unavailable", "store"),
        ("broker_unavailable", "broker", "store"),
    ]


async def test_accepted_jobs_are_counted_once_by_model(world: DispatcherWorld):
    await world.post("/jobs", {"model": "echo", "input": 1, "id": "j1"})
    await world.post("/jobs", {"model": "echo", "input": 1, "id": "j1"})
    await world.post("/jobs", {"model": "nobody", "input": 1})
    await world.post("/jobs/batch", {"jobs": [{"model": "echo", "input": 1}, {"model": "big", "input": {}}]})
    await world.post("/produce", {"payload": 1})

    found = await series(world)

    assert found['messages_produced_total{model="echo"}'] == 3
    assert found['messages_produced_total{model="big"}'] == 1
    assert found['messages_produced_total{model="minilm-l6-v2"}'] == 0
    assert not any("nobody" in name for name in found)


async def test_requests_are_timed_by_template_method_and_status_and_clients_make_no_series(world: DispatcherWorld):
    await world.http.get("/jobs/one")
    await world.http.get("/jobs/two")
    await world.http.get("/wp-login.php")
    await world.http.request("BREW", "/jobs")
    await world.post("/jobs", {})

    counts = {name: n for name, n in (await series(world)).items() if "duration_seconds_count" in name}

    assert counts == {
        'http_request_duration_seconds_count{method="GET",route="/jobs/{job_id}",status="404"}': 2,
        'http_request_duration_seconds_count{method="GET",route="none",status="404"}': 1,
        'http_request_duration_seconds_count{method="other",route="/jobs",status="405"}': 1,
        'http_request_duration_seconds_count{method="POST",route="/jobs",status="422"}': 1,
    }


async def test_the_time_of_a_request_is_measured_by_the_clock(world: DispatcherWorld):
    async def take_two_seconds(spec: JobSpec) -> None:
        world.clock.advance(2.0)

    world.publisher.on_publish = take_two_seconds
    await world.post("/jobs", {"model": "echo", "input": 1})

    found = await series(world)

    assert found['http_request_duration_seconds_sum{method="POST",route="/jobs",status="202"}'] == 2.0


async def test_gauges_tell_demand_depths_and_workers(world: DispatcherWorld):
    await world.stores.fleet.report(a_report("gone"))
    world.clock.advance(31.0)
    await world.stores.fleet.report(a_report("here"))
    await world.stores.jobs.create(JobSpec("j1", "echo", 1), world.clock.now() - 5)
    for _ in range(3):
        await world.publisher.publish(JobSpec("j1", "echo", 1), world.clock.now())
    await world.publisher.bury(DeadLetter(b"", "j2", "job_failed", "it raised", "echo", "w1"))

    found = await series(world)

    assert found['model_queue_depth{model="echo"}'] == 1
    assert found['model_queue_depth{model="big"}'] == 0
    assert found['model_oldest_wait_seconds{model="echo"}'] == 5
    assert (found['worker_up{worker="here"}'], found['worker_up{worker="gone"}']) == (1, 0)
    assert (found["fallback_depth"], found["dead_letter_depth"]) == (3, 1)
    assert (found["affinity_store_up"], found["affinity_broker_up"]) == (1, 1)


async def test_holders_and_models_nobody_can_hold_are_told(world: DispatcherWorld):
    small = a_report("w1")  # Below: it holds echo, and big does not fit.
    gpu = replace(small.gpu, total_bytes=8 * GIB, used_bytes=0, foreign_bytes=0, reserve_bytes=0)
    echo = Residency("echo", ResidencyState.READY, 1, 0.0, 0.0)
    now = world.clock.now()
    gave_up = Refusal("minilm-l6-v2", now + 60, "load_failed", "damaged", hopeless=True)
    await world.stores.fleet.report(replace(small, gpu=gpu, residents=(echo,), refusals=(gave_up,)))
    for model in ("echo", "big", "minilm-l6-v2"):
        await world.stores.jobs.create(JobSpec(f"j-{model}", model, {}), now)
    world.warnings.append("appendonly is off")

    found = await series(world)

    assert {name: found[f'model_unplaceable{{model="{name}"}}'] for name in ("echo", "big", "minilm-l6-v2")} == {
        "echo": 0,
        "big": 1,
        "minilm-l6-v2": 1,
    }
    assert (found['model_holders{model="echo"}'], found['model_holders{model="big"}']) == (1, 0)
    assert found["affinity_store_warnings"] == 1


async def test_without_workers_a_model_waits_and_is_not_called_unplaceable(world: DispatcherWorld):
    await world.stores.jobs.create(JobSpec("j1", "big", {}), world.clock.now())

    assert (await series(world))['model_unplaceable{model="big"}'] == 0


async def test_refusals_are_counted_one_by_one_also_in_a_batch(world: DispatcherWorld):
    await world.post("/jobs/batch", {"jobs": [{"model": "nobody", "input": 1}, {"model": "echo", "input": 1}]})
    world.broker.down = True
    await world.post("/jobs", {"model": "echo", "input": 1})
    world.broker.down = False

    found = await series(world)

    assert found['jobs_refused_total{code="unknown_model"}'] == 1
    assert found['jobs_refused_total{code="broker_unavailable"}'] == 1
    assert found['jobs_refused_total{code="overloaded"}'] == 0


def test_gauges_of_models_without_series_of_their_own_are_put_together() -> None:
    metrics = DispatcherMetrics(["a", "b", "c"], ModelLabels(["a", "b", "c"], most=1))
    depths, waits = {"a": 1, "b": 2, "c": 3}, {"a": 1.0, "b": 9.0, "c": 4.0}
    text = metrics.render(StoreGauges(depths, waits, depths, {"c": True}, {}, {}), None).decode()
    assert 'model_queue_depth{model="other"} 5.0' in text
    assert 'model_oldest_wait_seconds{model="other"} 9.0' in text
    assert 'model_queue_depth{model="a"} 1.0' in text
    assert 'model="b"' not in text


async def test_a_dead_store_or_broker_costs_its_gauges_but_not_the_scrape(world: DispatcherWorld):
    await world.post("/jobs", {"model": "echo", "input": 1})
    world.stores.down = world.broker.down = True

    found = await series(world)

    assert (found["affinity_store_up"], found["affinity_broker_up"]) == (0, 0)
    assert found['messages_produced_total{model="echo"}'] == 1
    assert not any(name.startswith(("model_queue", "worker_up", "fallback_depth")) for name in found)


async def test_two_applications_in_one_process_do_not_count_together(world: DispatcherWorld):
    other = create_app(world.dispatcher.services)
    await world.post("/jobs", {"model": "echo", "input": 1})

    assert b'messages_produced_total{model="echo"} 0.0' in other.state.dispatcher.metrics.render(None, None)


async def test_servers_that_go_and_come_back_are_logged_once_each(
    world: DispatcherWorld, logged: list[dict[str, object]]
):
    await world.http.get("/health/ready")  # the dispatcher's own watch has had its first look by then
    logged.clear()
    watch = Watch(world.dispatcher.services)
    world.warnings.append("appendonly is off")

    for down in (False, True, True, False, False):
        world.broker.down = down
        await watch.look()

    assert [(line["event"], line.get("server")) for line in logged] == [
        ("store.unsafe", None),
        ("server.unavailable", "broker"),
        ("server.available", "broker"),
    ]


async def test_a_dispatcher_starts_and_serves_while_both_servers_are_away():
    async with dispatcher_world() as world:
        world.stores.down = world.broker.down = True

        answer = await world.post("/jobs", {"model": "echo", "input": 1})

        assert answer.status_code == 503
        assert world.crashes == []


def test_a_tenants_gpu_seconds_are_a_counter():
    metrics = DispatcherMetrics([])
    text = metrics.render(StoreGauges({}, {}, {}, {}, {}, {}, gpu_s={"acme": 2.5}), None).decode()
    assert 'affinity_tenant_gpu_seconds_total{tenant="acme"} 2.5' in text

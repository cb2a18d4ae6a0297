"""What an operator sees of the system and does by hand: health, documents, fleet, catalogue, orders, metrics."""

# ruff: noqa: D103 - a check's name is the sentence it checks

import time
from collections.abc import Callable
from typing import Any

import httpx

from bench.api import TIMEOUT_S, Api

DISPATCHER_METRICS = (
    "messages_produced_total", "http_request_duration_seconds", "model_queue_depth", "model_oldest_wait_seconds",
    "fallback_depth", "dead_letters", "worker_up",
)  # fmt: skip
WORKER_METRICS = (
    "messages_consumed_total", "message_processing_duration_seconds", "message_processing_errors_total",
    "gpu_memory_total_bytes", "gpu_memory_used_bytes", "gpu_memory_free_bytes", "gpu_memory_foreign_bytes",
    "model_loads_total", "model_load_duration_seconds", "model_evictions_total", "model_resident_bytes", "worker_up",
)  # fmt: skip
WAIT_S = 60
LOOK_EVERY_S = 0.1


def the_process_says_it_is_healthy(api: Api) -> None:
    for path in ("/health", "/health/live"):
        answer = api.call("GET", path)
        assert answer.status_code == 200, f"{path} answered {answer.status_code}"
        assert answer.json()["status"] == "healthy", f"{path}: {answer.text[:300]}"
        assert answer.json()["timestamp"].endswith("Z"), f"{path}: timestamp is {answer.json()['timestamp']!r}"


def broker_and_store_answer(api: Api) -> None:
    answer = api.call("GET", "/health/ready")
    assert answer.status_code == 200, f"answered {answer.status_code}: {answer.text[:300]}"


def the_interface_is_documented(api: Api) -> None:
    for path in ("/openapi.json", "/docs"):
        assert (status := api.call("GET", path).status_code) == 200, f"{path} answered {status}"


def the_console_page_is_served(api: Api) -> None:
    answer = api.call("GET", "/")
    assert answer.status_code == 200, f"/ answered {answer.status_code}"
    assert answer.headers["content-type"].startswith("text/html"), f"/ is {answer.headers['content-type']}"


def every_worker_shows_its_gpu(api: Api) -> None:
    workers = api.call("GET", "/workers").json()["workers"]
    assert workers, "no worker is left"
    for worker in workers:
        gpu = worker["gpu"]
        assert 0 <= gpu["used_bytes"] <= gpu["total_bytes"], f"{worker['id']}: {gpu}"
        assert worker["lease_age_s"] < 60, f"{worker['id']}: its last report is {worker['lease_age_s']:.0f} s old"


def the_catalogue_has_echo_and_says_who_holds_what(api: Api) -> None:
    models = {model["name"]: model for model in api.call("GET", "/models").json()["models"]}
    assert "echo" in models, f"there are only {', '.join(models)}"
    api.submit("echo", {}, wait_s=WAIT_S)
    workers = {worker["id"] for worker in api.call("GET", "/workers").json()["workers"]}
    for name, model in models.items():
        assert model["max_batch"] >= 1, f"{name}: max_batch is {model['max_batch']}"
        assert set(model["holders"]) <= workers, f"{name} is held by {model['holders']}, workers are {workers}"


def a_model_is_loaded_pinned_and_unloaded_by_hand(api: Api) -> None:
    _carried_out(api, _by_hand(api, "load"))
    pinned = _by_hand(api, "pin")
    assert pinned["pinned"], f"it is not pinned: {pinned}"
    try:
        answer = api.call("POST", "/models/{name}/unload", name="echo")
        assert (answer.status_code, answer.json()["code"]) == (409, "pinned"), f"unload of a pinned one: {answer.text}"
    finally:
        pinned = _by_hand(api, "unpin")
    assert not pinned["pinned"], f"it is still pinned: {pinned}"
    _carried_out(api, _by_hand(api, "unload"))


def a_worker_is_drained_and_takes_work_again(api: Api) -> None:
    worker = api.call("GET", "/workers").json()["workers"][-1]["id"]
    _told(api, "drain", worker)
    try:
        deadline = time.monotonic() + WAIT_S
        while True:
            found = next(w for w in api.call("GET", "/workers").json()["workers"] if w["id"] == worker)
            if found["draining"] and not found["busy"] and not found["residents"]:
                break
            assert time.monotonic() < deadline, f"{worker} is not drained after {WAIT_S} s: {found}"
            time.sleep(LOOK_EVERY_S)
    finally:
        _told(api, "undrain", worker)


def a_job_is_explained_with_where_its_time_went(api: Api) -> None:
    job = api.submit("echo", {}, wait_s=WAIT_S)
    answer = api.call("GET", "/jobs/{job_id}/explain", job_id=job["id"])
    assert answer.status_code == 200, f"answered {answer.status_code}: {answer.text[:300]}"
    found = answer.json()
    assert (found["state"], found["waiting"]) == ("succeeded", None), f"answered {answer.text[:300]}"
    ran = found["ran"]
    assert (ran["worker"], ran["start"]) == (job["worker"], job["start"]), f"{ran} is not of {job}"
    assert abs(ran["wait_in_queue_s"] + ran["wait_for_load_s"] - ran["wait_s"]) < 1e-6, f"the wait is not split: {ran}"


def a_job_and_the_fleet_can_be_followed(api: Api) -> None:
    job = api.submit("echo", {}, wait_s=WAIT_S)
    answer = api.call("GET", "/jobs/{job_id}/events", job_id=job["id"])
    assert answer.status_code == 200, f"answered {answer.status_code}: {answer.text[:300]}"
    assert "event: job.now\n" in answer.text, f"a job that is over is not told as it stands: {answer.text[:300]}"
    assert '"state":"succeeded"' in answer.text, f"it is told as {answer.text[:300]}"
    text = api.beginning("/events", params={"last_event_id": "0"}, until=f'"job":"{job["id"]}"')
    assert "event: stream.opened\n" in text, f"the stream begins with {text[:300]}"


def the_dispatchers_metrics_count_what_is_sent(api: Api) -> None:
    before = _produced(api)
    for n in range(2):
        api.submit("echo", {"n": n}, wait_s=WAIT_S)
    text = api.call("GET", "/metrics").text
    missing = [name for name in DISPATCHER_METRICS if f"# TYPE {name.removesuffix('_total')}" not in text]
    assert not missing, f"no {', '.join(missing)}"
    assert _produced(api) >= before + 2, f"messages_produced_total went from {before:g} to {_produced(api):g} in 2 jobs"


def every_workers_metrics_can_be_scraped(api: Api) -> None:
    api.submit("echo", {}, wait_s=WAIT_S)
    for worker in api.call("GET", "/workers").json()["workers"]:
        where = worker["metrics_url"]
        try:
            answer = httpx.get(where, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise AssertionError(f"{worker['id']}: {where}: {error or type(error).__name__}") from error
        assert answer.status_code == 200, f"{worker['id']}: {where} answered {answer.status_code}"
        missing = [name for name in WORKER_METRICS if f"# TYPE {name.removesuffix('_total')}" not in answer.text]
        assert not missing, f"{worker['id']}: no {', '.join(missing)}"
        assert f'worker_up{{worker="{worker["id"]}"}} 1.0' in answer.text, f"{worker['id']}: worker_up is not 1"


def what_gave_up_is_listed_and_put_back(api: Api) -> None:
    found = api.call("POST", "/dead-letters/redrive", json={"ids": ["no-such-letter"]}).json()
    assert (found["scheduled"], found["unknown"]) == (0, ["no-such-letter"]), f"an unknown id is put back: {found}"
    models = api.call("GET", "/models").json()["models"]
    name = next((m["name"] for m in models if m["runtime"] == "synthetic" and m["name"] != "echo"), None)
    if name is None:
        api.call("GET", "/dead-letters")
        return
    job = api.submit(name, {"fail": "error"}, wait_s=WAIT_S)
    assert job["state"] == "failed", f"a job that is to fail is {job['state']}"
    listed = api.call("GET", "/dead-letters", params={"code": job["error"]["code"], "model": name}).json()
    assert job["id"] in [letter["id"] for letter in listed["dead_letters"]], f"{job['id']} is not listed"
    found = api.call("POST", "/dead-letters/redrive", json={"ids": [job["id"]]}).json()
    assert found["scheduled"] == 1, f"it is not put back: {found}"
    deadline = time.monotonic() + WAIT_S
    while True:
        again = api.call("GET", "/jobs/{job_id}", job_id=job["id"], wait_s=1).json()
        if again["state"] == "failed" and again.get("lives"):
            break
        assert time.monotonic() < deadline, f"it did not run again: {again}"


def _by_hand(api: Api, verb: str) -> dict[str, Any]:
    answer = api.call("POST", f"/models/{{name}}/{verb}", name="echo", json={})
    assert answer.status_code in (200, 202), f"{verb} answered {answer.status_code}: {answer.text[:300]}"
    found: dict[str, Any] = answer.json()
    return found


def _told(api: Api, verb: str, worker: str) -> None:
    answer = api.call("POST", f"/workers/{{worker_id}}/{verb}", worker_id=worker, json={})
    assert answer.status_code == 200, f"{verb} {worker} answered {answer.status_code}: {answer.text[:300]}"


def _carried_out(api: Api, asked: dict[str, Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    for order in asked["orders"]:
        while order["state"] == "waiting" and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
            order = api.call("GET", "/orders/{order_id}", order_id=order["id"]).json()  # noqa: PLW2901 - as it is by now
        assert order["state"] == "done", f"{order['action']} is {order['state']}: {order['reason'] or order['outlook']}"


def _produced(api: Api) -> float:
    for line in api.call("GET", "/metrics").text.splitlines():
        if line.startswith('messages_produced_total{model="echo"}'):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError('no messages_produced_total{model="echo"}')


SEEN: tuple[Callable[[Api], None], ...] = (
    the_process_says_it_is_healthy,
    broker_and_store_answer,
    the_interface_is_documented,
    the_console_page_is_served,
    every_worker_shows_its_gpu,
    the_catalogue_has_echo_and_says_who_holds_what,
    a_model_is_loaded_pinned_and_unloaded_by_hand,
    a_worker_is_drained_and_takes_work_again,
    a_job_is_explained_with_where_its_time_went,
    a_job_and_the_fleet_can_be_followed,
    the_dispatchers_metrics_count_what_is_sent,
    every_workers_metrics_can_be_scraped,
    what_gave_up_is_listed_and_put_back,
)

"""A job that is cancelled while it runs: it never ends otherwise, its GPU is free, and nobody else loses anything."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import redis

from affinity.topology import Keys
from tests.support.processes import children_of
from tests.support.system import REPOSITORY, System, until

CATALOGUE = """
[[model]]
name = "m"
runtime = "synthetic"
vram_gib = 2
max_batch = 4
options = { load_s = 0.05, exec_s = 0.02 }

[[model]]
name = "dear"
runtime = "synthetic"
vram_gib = 3
options = { load_s = 3.0, exec_s = 0.02 }
"""
LONG = {"exec_s": 60.0}
AT_ONCE_S = 20.0
"""A cancelled job is off the GPU by then, and what it was to run for is longer still."""


def running(system: System, value: object, model: str = "m", **fields: object) -> str:
    """A job that runs now."""
    job_id = str(system.post(model, value, **fields).json()["id"])
    until(lambda: system.job(job_id)["state"] == "running", f"{job_id} runs")
    return job_id


def cancel(system: System, job_id: str) -> dict[str, Any]:
    answer = system.http.delete(f"/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "cancelled"
    return dict(answer.json())


def idle_and_empty(system: System, worker: str) -> bool:
    """The driver's word."""
    found = system.fleet()[worker]
    return not found["busy"] and not found["residents"] and found["gpu"]["used_bytes"] == 0


def settled(system: System, job_id: str) -> list[str]:
    return [event["state"] for event in system.events("job.settled") if event["job"] == job_id]


def in_queues(system: System) -> int:
    models = system.http.get("/models").json()["models"]
    return sum(model["depth"] or 0 for model in models)


def test_a_cancelled_job_leaves_the_gpu_idle_and_its_memory_free(system: System) -> None:
    system.start_worker("w1")
    system.run("m", {})
    job_id = running(system, LONG)
    began = time.monotonic()
    cancelled = cancel(system, job_id)
    assert (cancelled["worker"], cancelled["result"], cancelled["attempts"]) == ("w1", None, 1)
    until(lambda: idle_and_empty(system, "w1"), "the GPU is idle and its memory is back", AT_ONCE_S)
    assert time.monotonic() - began < AT_ONCE_S
    again = system.run("m", {})
    assert (again["state"], again["start"]) == ("succeeded", "cold"), "it was loaded again when it was asked for"
    assert system.job(job_id)["state"] == "cancelled"
    assert settled(system, job_id) == ["cancelled"]
    assert in_queues(system) == 0, "its delivery is gone"
    second = system.http.delete(f"/jobs/{job_id}")
    assert (second.status_code, second.json()["code"]) == (409, "not_cancellable")
    assert second.json()["job"]["state"] == "cancelled"
    metrics = httpx.get(system.fleet()["w1"]["metrics_url"]).text
    assert 'cancelled_runs_total{end="stopped",model="m"} 1.0' in metrics


def test_a_batch_loses_only_its_cancelled_member(system: System) -> None:
    """The cancelled one would hold the others up for a minute; they run again, as if for the first time."""
    system.start_worker("w1")
    system.run("m", {})
    first = running(system, {"exec_s": 1.0})
    names = ["a", "b", "c"]
    for name in names:
        system.post("m", LONG if name == "b" else {"exec_s": 0.1}, id=name)
    until(lambda: all(system.job(name)["state"] == "running" for name in names), "they run as a batch")
    cancel(system, "b")
    for name in ("a", "c"):
        job = system.ended(name)
        assert (job["state"], job["attempts"], job["error"]) == ("succeeded", 1, None)
    assert [system.job(name)["state"] for name in (first, "b")] == ["succeeded", "cancelled"]
    assert all(settled(system, name) == [system.job(name)["state"]] for name in (first, *names))
    again = [event["job"] for event in system.events("job.requeued")]
    assert sorted(again) == ["a", "c"]
    assert all("code" not in event for event in system.events("job.requeued")), "nobody's fault"
    until(lambda: in_queues(system) == 0, "no delivery is left")


def test_a_batch_that_is_about_to_end_is_not_stopped_for_it(system: System) -> None:
    """To have the model back would take longer."""
    system.start_worker("w1")
    system.run("dear", {"exec_s": 1.0})
    job_id = running(system, {"exec_s": 1.0}, "dear")
    cancel(system, job_id)
    until(lambda: not system.fleet()["w1"]["busy"], "the batch has ended")
    after = system.run("dear", {})
    assert (after["state"], after["start"]) == ("succeeded", "warm")
    assert not system.events("executor.died")
    assert (system.job(job_id)["state"], system.job(job_id)["result"]) == ("cancelled", None)
    assert settled(system, job_id) == ["cancelled"]
    metrics = httpx.get(system.fleet()["w1"]["metrics_url"]).text
    assert 'cancelled_runs_total{end="ran_out",model="dear"} 1.0' in metrics


def test_a_cancel_is_heeded_though_its_hint_was_lost(system: System) -> None:
    """What the record says is enough: the worker reads it at its heartbeat."""
    system.start_worker("w1")
    system.run("m", {})
    job_id = running(system, LONG)
    with redis.Redis.from_url(system.redis_url) as client:
        for one in client.client_list(_type="pubsub"):  # Nobody listens while the hint is given.
            client.client_kill_filter(_id=one["id"])
        cancel(system, job_id)
    until(lambda: idle_and_empty(system, "w1"), "the GPU is idle and its memory is back", AT_ONCE_S)


def test_a_job_whose_worker_dies_right_after_the_cancel_stays_cancelled(system: System) -> None:
    system.start_worker("w1")
    system.run("m", {})
    job_id = running(system, LONG)
    child = system.workers["w1"]
    executors = children_of(child.pid)
    os.kill(child.pid, signal.SIGSTOP)  # So that it cannot carry it out before it dies.
    cancel(system, job_id)
    os.kill(child.pid, signal.SIGKILL)
    system.start_worker("w2")
    until(lambda: "w1" not in system.fleet(), "its lease is gone")
    assert system.run("m", {})["worker"] == "w2"
    until(lambda: in_queues(system) == 0, "the delivery came again and was dropped")
    assert settled(system, job_id) == ["cancelled"]
    assert (system.job(job_id)["state"], system.job(job_id)["worker"]) == ("cancelled", "w1")
    assert [event["attempt"] for event in system.events("job.started") if event["job"] == job_id] == ["1"]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in executors), "its executor is gone with it")


def test_of_a_result_and_a_cancel_the_first_one_counts(system: System) -> None:
    """Cancels all along the last moments of jobs: each ends once, and the answers say how."""
    system.start_worker("w1")
    system.run("m", {})
    outcomes = []
    for number in range(30):
        job_id = str(system.post("m", {"exec_s": 0.05}).json()["id"])
        time.sleep(0.04 + 0.001 * number)  # Around the end of the job, which is what this is about.
        answer = system.http.delete(f"/jobs/{job_id}")
        job = system.ended(job_id)
        if answer.status_code == 200:
            assert job["state"] == "cancelled"
            assert job["result"] is None
        else:
            assert (answer.status_code, answer.json()["job"]["state"], job["state"]) == (409, "succeeded", "succeeded")
        outcomes.append(job["state"])
        assert settled(system, job_id) == [job["state"]]
    assert set(outcomes) == {"cancelled", "succeeded"}
    with redis.Redis.from_url(system.redis_url) as client:
        assert client.zcard(Keys(system.namespace).index("running")) == 0


def test_the_command_line_cancels_what_runs(system: System) -> None:
    system.start_worker("w1")
    job_id = running(system, LONG)
    command = [sys.executable, "-m", "dispatcher.cli", "cancel", job_id, "--url", str(system.http.base_url)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "cancelled" in ended.stdout
    until(lambda: idle_and_empty(system, "w1"), "the GPU is idle and its memory is back", AT_ONCE_S)

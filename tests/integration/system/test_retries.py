"""What fails is tried again after a wait, and what is in its wait survives whatever dies meanwhile."""

import time
from typing import Any

import redis

from affinity.topology import Keys
from affinity.wire import parse_rfc3339
from tests.support.system import System, until

CATALOGUE = """
[[model]]
name = "m"
runtime = "synthetic"
vram_gib = 1
max_batch = 8
options = { load_s = 0.05, exec_s = 0.02 }

[[model]]
name = "other"
runtime = "synthetic"
vram_gib = 1
options = { load_s = 0.05, exec_s = 0.02 }
"""
HANGS = {"fail": "hang"}
LIMIT_S = 0.4


def hanging(system: System, attempts: int) -> str:
    return str(system.post("m", HANGS, timeout_s=LIMIT_S, max_attempts=attempts).json()["id"])


def waiting(system: System, job_id: str, attempts: int = 1) -> dict[str, Any]:
    """The job, once it waits to be tried again after so many attempts."""

    def waits() -> bool:
        job = system.job(job_id)
        return "retry_at" in job and job["attempts"] == attempts

    until(waits, f"{job_id} waits to be tried again")
    return system.job(job_id)


def starts_of(system: System, job_id: str) -> list[float]:
    return [float(event["at"]) for event in system.events("job.started") if event["job"] == job_id]


def test_a_failed_job_waits_longer_each_time_and_others_of_its_queue_pass_it(system: System) -> None:
    system.start_worker("w1")
    system.run("m", {})
    job_id = hanging(system, attempts=3)
    job = waiting(system, job_id)
    assert job["state"] == "queued"
    due_at = parse_rfc3339(job["retry_at"])
    waiting(system, job_id, attempts=2)
    passed = system.run("m", {})
    assert passed["state"] == "succeeded"
    ended = system.ended(job_id)
    assert (ended["state"], ended["error"]["code"], ended["attempts"]) == ("failed", "attempts_exhausted", 3)
    first, second, third = starts_of(system, job_id)
    assert parse_rfc3339(passed["started_at"]) < third, "it did not wait for the one in front of it"
    assert second >= due_at - 0.5
    assert second - first >= LIMIT_S + 1.0 - 0.1
    assert third - second >= LIMIT_S + 2.0 - 0.1
    assert sum(event["job"] == job_id for event in system.events("job.settled")) == 1


def test_a_job_in_its_wait_is_no_reason_to_load_a_model(system: System) -> None:
    """The GPU is free for others meanwhile: nobody makes room for a job that may not run yet."""
    system.start_worker("w1")
    job_id = hanging(system, attempts=2)
    waiting(system, job_id)
    model = next(model for model in system.http.get("/models").json()["models"] if model["name"] == "m")
    assert model["queued"] == 0
    assert [job["id"] for job in system.http.get("/jobs?state=queued&model=m").json()["jobs"]] == [job_id]
    assert system.ended(job_id)["attempts"] == 2


def test_a_worker_that_is_killed_while_its_job_waits_takes_nothing_along(system: System) -> None:
    system.start_worker("w1")
    job_id = hanging(system, attempts=2)
    waiting(system, job_id)
    system.workers["w1"].kill()
    system.start_worker("w2")
    ended = system.ended(job_id)
    assert (ended["error"]["code"], ended["attempts"], ended["worker"]) == ("attempts_exhausted", 2, "w2")


def test_a_job_in_its_wait_comes_back_though_redis_was_emptied(system: System) -> None:
    system.start_worker("w1")
    job_id = hanging(system, attempts=2)
    waiting(system, job_id)
    with redis.Redis.from_url(system.redis_url) as client:
        for key in client.scan_iter(f"{Keys(system.namespace).prefix}*"):
            client.delete(key)
    assert system.http.get(f"/jobs/{job_id}").status_code == 404
    until(lambda: system.http.get(f"/jobs/{job_id}").status_code == 200, "it is known again")
    ended = system.ended(job_id)
    assert (ended["state"], ended["error"]["code"], ended["attempts"]) == ("failed", "attempts_exhausted", 2)


def test_a_job_whose_time_is_over_in_its_wait_expires(system: System) -> None:
    system.start_worker("w1")
    job_id = str(system.post("m", HANGS, timeout_s=LIMIT_S, max_attempts=9, ttl_s=2.0).json()["id"])
    began = time.monotonic()
    assert system.ended(job_id)["state"] == "expired"
    assert time.monotonic() - began < 8.0


def test_a_job_that_kills_executors_is_quarantined_and_takes_nobody_along(system: System) -> None:
    system.start_worker("w1")
    system.run("m", {})
    # While this one runs the others gather behind it, and are one batch then.
    system.post("m", {"exec_s": 1.0})
    good = [system.post("m", {"n": n}).json()["id"] for n in range(3)]
    bad = str(system.post("m", {"fail": "crash"}, max_attempts=20).json()["id"])
    good += [system.post("m", {"n": n}).json()["id"] for n in range(3, 6)]
    ended = system.ended(bad, within_s=60)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "quarantined")
    assert {system.ended(job_id)["state"] for job_id in good} == {"succeeded"}
    assert {system.job(job_id)["attempts"] for job_id in good} == {1}
    died = [event for event in system.events("job.requeued") if event.get("code") == "died_with_batch"]
    assert {event["job"] for event in died} == {bad, *good}, "they were one batch"
    assert len(system.events("executor.died")) == 3

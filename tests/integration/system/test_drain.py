"""Workers that are drained: by hand, to be serviced, and by SIGTERM, to be restarted one after the other under load."""

import subprocess
import sys
import threading
import time
from collections import Counter

from tests.support.processes import children_of
from tests.support.system import REPOSITORY, System, until

CATALOGUE = """
[[model]]
name = "m"
runtime = "synthetic"
vram_gib = 2
max_batch = 4
options = { load_s = 0.3, exec_s = 0.05 }

[[model]]
name = "n"
runtime = "synthetic"
vram_gib = 3
max_batch = 2
options = { load_s = 0.3, exec_s = 0.1 }

[[model]]
name = "large"
runtime = "synthetic"
vram_gib = 16
options = { load_s = 0.3, exec_s = 0.1 }
"""
SETTINGS = {"WORKER_GRACE_S": "15"}


def ask(system: System, worker: str, verb: str) -> None:
    answer = system.http.post(f"/workers/{worker}/{verb}", json={})
    assert answer.status_code == 200, answer.text
    assert answer.json()["drain"] is (verb == "drain")


def drained(system: System, worker: str) -> bool:
    """It says so, runs and holds nothing, and the driver agrees."""
    found = system.fleet()[worker]
    idle = found["draining"] and not found["busy"] and not found["residents"]
    return bool(idle and found["gpu"]["used_bytes"] == 0)


def starts(system: System) -> Counter[str]:
    return Counter(event["job"] for event in system.events("job.started"))


def test_a_worker_drained_by_hand_ends_what_runs_empties_its_gpu_and_takes_nothing_until_undrained(
    system: System,
) -> None:
    worker = system.start_worker("w1")
    system.run("m", {})
    job_id = str(system.post("m", {"exec_s": 2.0}).json()["id"])
    until(lambda: system.job(job_id)["state"] == "running", "it runs")
    ask(system, "w1", "drain")
    waiting = str(system.post("m", {}).json()["id"])
    until(lambda: drained(system, "w1"), "w1 is drained", 20)
    assert (system.job(job_id)["state"], system.job(job_id)["attempts"]) == ("succeeded", 1)
    assert children_of(worker.pid) == [], "nothing of it is left on the GPU"
    assert system.job(waiting)["state"] == "queued", "nobody else is there to take it"
    candidates = system.http.get(f"/jobs/{waiting}/explain").json()["waiting"]["candidates"]
    assert [candidate["worker"] for candidate in candidates] == ["w1"]
    assert system.http.post("/models/m/load", json={"worker": "w1"}).json()["code"] == "cannot_load"

    assert worker.stop() == 0
    worker = system.start_worker("w1")
    until(lambda: drained(system, "w1"), "it stays drained in its next life")
    assert children_of(worker.pid) == []
    assert system.job(waiting)["state"] == "queued"

    ask(system, "w1", "undrain")
    job = system.ended(waiting)
    assert (job["state"], job["worker"], job["attempts"]) == ("succeeded", "w1", 1)
    assert not system.fleet()["w1"]["draining"]
    asked = [event["worker"] for kind in ("worker.drain_asked", "worker.drain_ended") for event in system.events(kind)]
    assert asked == ["w1", "w1"]


def test_a_worker_drained_by_hand_serves_on_until_another_has_its_model(system: System) -> None:
    system.start_worker("w1")
    system.run("m", {})
    system.start_worker("w2")
    jobs = system.http.post("/jobs/batch", json={"jobs": [{"model": "m", "input": {}}] * 200}).json()["jobs"]
    ask(system, "w1", "drain")
    until(lambda: drained(system, "w1"), "w1 is drained", 20)
    drained_at = time.time()
    assert system.residents("w2") == {"m"}
    ended = [system.ended(job["id"]) for job in jobs]
    assert {(job["state"], job["attempts"]) for job in ended} == {("succeeded", 1)}
    assert {job["worker"] for job in ended} == {"w1", "w2"}
    resident_at = next(float(e["at"]) for e in system.events("model.resident") if e["worker"] == "w2")
    begun = [float(e["at"]) for e in system.events("job.started") if e["worker"] == "w1"]
    drain_at = next(float(e["at"]) for e in system.events("worker.draining"))
    assert any(drain_at < at for at in begun), "it went on while the other one loaded"
    assert max(begun) < resident_at + 1.0 < drained_at + 2.0
    assert max(starts(system).values()) == 1


def test_a_drain_may_be_taken_back_before_it_is_over(system: System) -> None:
    system.start_worker("w1")
    system.run("m", {})
    job_id = str(system.post("m", {"exec_s": 3.0}).json()["id"])
    until(lambda: system.job(job_id)["state"] == "running", "it runs")
    ask(system, "w1", "drain")
    until(lambda: system.fleet()["w1"]["draining"], "it drains")
    ask(system, "w1", "undrain")
    until(lambda: not system.fleet()["w1"]["draining"], "it does not any more")
    job = system.run("m", {})
    assert (job["state"], job["start"]) == ("succeeded", "warm")
    assert system.ended(job_id)["state"] == "succeeded"


def test_the_command_line_drains_and_undrains(system: System) -> None:
    system.start_worker("w1")
    system.run("m", {})

    def affinity(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dispatcher.cli", *arguments, "--url", str(system.http.base_url)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)

    ended = affinity("drain", "w1", "--wait")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "w1 takes no more work" in ended.stdout
    assert drained(system, "w1")
    assert "draining" in affinity("workers").stdout
    assert "refused (unknown_worker)" in affinity("drain", "nobody").stderr
    ended = affinity("undrain", "w1")
    assert (ended.returncode, ended.stdout.strip()) == (0, "w1 takes work again")
    assert system.run("m", {})["state"] == "succeeded"


def test_a_worker_that_is_asked_to_stop_leaves_at_once_if_nobody_else_is_there(system: System) -> None:
    """It has jobs enough for longer than its grace time; they stay for whoever comes."""
    worker = system.start_worker("w1")
    system.run("m", {})
    jobs = system.http.post("/jobs/batch", json={"jobs": [{"model": "m", "input": {}}] * 1000}).json()["jobs"]
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 5.0
    assert system.job(jobs[-1]["id"])["state"] == "queued"
    assert not system.http.get("/jobs?state=running").json()["jobs"]


def test_a_rolling_restart_under_load_loses_nothing_repeats_nothing_and_uses_up_no_attempt(system: System) -> None:
    names = ("w1", "w2", "w3")
    for name in names:
        system.start_worker(name)
    sent: list[str] = []
    over = threading.Event()

    def flow() -> None:
        while not over.is_set():
            jobs = [{"model": model, "input": {}} for model in ("m", "m", "n", "m", "large")]
            answer = system.http.post("/jobs/batch", json={"jobs": jobs}).json()
            assert answer["accepted"] == len(jobs), answer
            sent.extend(job["id"] for job in answer["jobs"])
            over.wait(0.15)

    flowing = threading.Thread(target=flow)
    flowing.start()
    try:
        until(lambda: len(system.events("job.settled")) > 50, "jobs flow")
        for name in names:
            began = time.monotonic()
            assert system.workers[name].stop(30.0) == 0
            assert time.monotonic() - began < 16.0, "within the grace time"
            assert name not in system.fleet()
            system.start_worker(name)
            settled = len(system.events("job.settled"))
            until(lambda settled=settled: len(system.events("job.settled")) > settled + 20, "jobs flow on")
    finally:
        over.set()
        flowing.join()
    ended = [system.ended(job_id, within_s=60) for job_id in sent]
    assert {(job["state"], job["attempts"]) for job in ended} == {("succeeded", 1)}
    assert starts(system) == Counter(sent), "each was begun once"
    settled = Counter(event["job"] for event in system.events("job.settled"))
    assert settled == Counter(sent), "and has ended once"
    assert not system.events("job.requeued")
    assert not system.events("worker.lost")
    assert {job["worker"] for job in ended} == set(names)

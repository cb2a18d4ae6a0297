"""Workers, executors and models that fail: what was accepted is served all the same, or says why not."""

import json
import time
from pathlib import Path

import pytest

from tests.support.system import System, running_system, until

FAULTY = """
[[model]]
name = "echo"
runtime = "synthetic"
vram_gib = 0.01
options = { echo = true }

[[model]]
name = "good"
runtime = "synthetic"
vram_gib = 1
options = { load_s = 0.1, exec_s = 0.02 }

[[model]]
name = "huge"
runtime = "synthetic"
vram_gib = 1000

[[model]]
name = "raises"
runtime = "synthetic"
vram_gib = 1
options = { load_fail = "error" }

[[model]]
name = "crashes"
runtime = "synthetic"
vram_gib = 1
options = { load_fail = "crash" }

[[model]]
name = "truncated"
runtime = "torch"
source = "truncated.safetensors"
vram_gib = 0.1
options = { class = "models.example:TinyMlp" }
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    whole = Path(__file__).resolve().parents[3] / "models" / "weights" / "tiny-mlp.safetensors"
    (tmp_path / "truncated.safetensors").write_bytes(whole.read_bytes()[:-20])
    path = tmp_path / "catalogue.toml"
    path.write_text(FAULTY)
    return path


@pytest.fixture
def faulty(rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path, catalogue: Path):
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path, MODELS_CATALOG=str(catalogue)) as running:
        yield running


def test_a_job_whose_worker_is_killed_is_served_by_another_once(system: System) -> None:
    lease_s, length_s = 1.5, 2.0
    for name in ("w1", "w2"):
        system.start_worker(name)
    job_id = system.post("echo", {"processing_time": length_s}).json()["id"]
    until(lambda: system.job(job_id)["state"] == "running", "it runs")
    killed = system.job(job_id)["worker"]
    system.workers[killed].kill()
    died_at = time.monotonic()
    job = system.ended(job_id)
    took_s = time.monotonic() - died_at
    assert (job["state"], job["worker"]) == ("succeeded", "w2" if killed == "w1" else "w1")
    assert job["attempts"] == 1, "a lost worker does not use up an attempt"
    # One second each for the hold of the delivery and for a busy machine.
    assert took_s < lease_s + length_s + 2.0
    settled = [event for event in system.events("job.settled") if event["job"] == job_id]
    assert len(settled) == 1


def test_the_bindings_of_a_killed_worker_are_removed_by_another(system: System) -> None:
    system.start_worker("w1")
    system.run("echo", 1)
    system.workers["w1"].kill()
    system.start_worker("w2")
    until(lambda: any(e["lost"] == "w1" for e in system.events("worker.lost")), "w2 has tidied up")
    assert set(system.fleet()) == {"w2"}
    assert system.run("echo", 2)["worker"] == "w2"


def test_a_killed_worker_comes_back_under_its_name(system: System) -> None:
    system.start_worker("w1")
    system.run("echo", 1)
    system.workers["w1"].kill()
    system.launch_worker("w1")
    job = system.run("echo", 2)
    assert (job["state"], job["start"]) == ("succeeded", "cold")


def test_a_crash_of_a_model_costs_the_executor_and_not_the_worker(system: System) -> None:
    system.start_worker("w1")
    job = system.run("synthetic-a", {"fail": "crash"}, max_attempts=2)
    assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", "attempts_exhausted", 2)
    assert "executor_died" in job["error"]["message"]
    assert system.run("synthetic-a", {})["state"] == "succeeded"
    assert system.workers["w1"].running


def test_a_hanging_job_is_stopped_at_its_timeout(system: System) -> None:
    system.start_worker("w1")
    job = system.run("synthetic-a", {"fail": "hang"}, timeout_s=0.5, max_attempts=1)
    assert (job["state"], job["error"]["code"]) == ("failed", "attempts_exhausted")
    assert "job_timeout" in job["error"]["message"]
    assert system.run("synthetic-a", {})["state"] == "succeeded"


def test_a_model_that_raises_fails_only_the_job(system: System) -> None:
    system.start_worker("w1")
    job = system.run("synthetic-a", {"fail": "error"})
    assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", "job_failed", 1)
    assert system.run("synthetic-a", {})["start"] == "warm"


def test_a_job_that_waited_too_long_expires(system: System) -> None:
    job_id = system.post("echo", 1, ttl_s=0.2).json()["id"]
    time.sleep(0.3)  # Nothing happens to a waiting job that could be waited for.
    system.start_worker("w1")
    assert system.ended(job_id)["state"] == "expired"


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("raises", "load_failed", "raises"),
        ("truncated", "load_failed", "truncated.safetensors"),
        ("crashes", "executor_died", "70"),
    ],
)
def test_a_model_that_cannot_be_loaded_fails_its_jobs_and_no_others(
    faulty: System, model: str, code: str, words: str
) -> None:
    for name in ("w1", "w2"):
        faulty.start_worker(name)
    bad = faulty.post(model, {}).json()["id"]
    good = faulty.run("good", {})
    job = faulty.ended(bad, within_s=60)
    assert (job["state"], job["error"]["code"]) == ("failed", code)
    assert words in job["error"]["message"]
    assert good["state"] == "succeeded"
    until(lambda: all(w["gpu"]["used_bytes"] <= 2**30 for w in faulty.fleet().values()), "nothing of it stays")


def test_a_model_that_fits_no_gpu_is_refused_with_the_largest_named(faulty: System) -> None:
    faulty.start_worker("w1")
    answer = faulty.post("huge", {})
    assert (answer.status_code, answer.json()["code"]) == (422, "never_fits")
    assert "1000.0 GiB" in answer.json()["detail"]
    assert "24.0 GiB" in answer.json()["detail"]
    assert faulty.http.get("/jobs").json()["jobs"] == []


def test_no_two_workers_serve_one_name_and_the_second_waits(system: System) -> None:
    system.start_worker("w1")
    second = system.launch_worker("w1", WORKER_METRICS_PORT="0")
    until(
        lambda: "another worker serves it" in log_of(second.log_path) or "lease" in log_of(second.log_path), "it waits"
    )
    assert second.running
    assert system.run("echo", 1)["state"] == "succeeded"


def log_of(path: Path) -> str:
    return "\n".join(json.loads(line).get("reason", "") for line in path.read_text().splitlines() if line[:1] == "{")

"""The path of one job, from POST to result, with real models."""

import base64
import wave
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.system import System, until

SPEECH = Path(__file__).resolve().parents[2] / "support" / "speech" / "two-sentences.wav"


def pcm(frames: bytes) -> dict[str, object]:
    return {"pcm16_base64": base64.b64encode(frames).decode()}


def test_two_sentences_become_unit_vectors_whose_cosine_is_known(system: System) -> None:
    system.start_worker("w1")
    job = system.run("minilm-l6-v2", {"texts": ["A man is eating food.", "A man is eating a piece of bread."]})
    assert job["state"] == "succeeded"
    first, second = job["result"]["embeddings"]
    assert len(first) == len(second) == 384
    assert sum(x * x for x in first) == pytest.approx(1.0, abs=1e-4)
    assert sum(x * x for x in second) == pytest.approx(1.0, abs=1e-4)
    assert sum(x * y for x, y in zip(first, second, strict=True)) == pytest.approx(0.7553, abs=0.005)


def test_speech_is_found_in_speech_and_none_in_silence(system: System) -> None:
    system.start_worker("w1")
    with wave.open(str(SPEECH)) as recording:
        spoken = system.run("silero-vad", pcm(recording.readframes(recording.getnframes())))
    silent = system.run("silero-vad", pcm(bytes(2 * 16000)))
    assert spoken["result"]["speech"]
    assert spoken["result"]["speech_s"] > 0.5
    assert silent["result"]["speech"] == []


def test_the_second_job_is_warm_and_routed_by_the_broker(system: System) -> None:
    system.start_worker("w1")
    with system.watched_fallback() as in_fallback:
        first, second = system.run("synthetic-a", {}), system.run("synthetic-a", {})
        assert in_fallback() == [first["id"]]
    assert (first["start"], second["start"]) == ("cold", "warm")
    assert first["load_s"] >= 0.6
    assert second["load_s"] == 0.0


def test_two_models_stay_resident_on_two_workers(system: System) -> None:
    """Each GPU has room for one of them only, so that a wrong choice would evict the other."""
    for name in ("w1", "w2"):
        system.start_worker(name, WORKER_SIMULATED_VRAM_GIB="14")
    jobs = [system.run(model, {}) for _ in range(5) for model in ("synthetic-b", "synthetic-c")]
    assert [job["start"] for job in jobs] == ["cold"] * 2 + ["warm"] * 8
    assert {frozenset(system.residents(name)) for name in ("w1", "w2")} == {
        frozenset({"synthetic-b"}),
        frozenset({"synthetic-c"}),
    }


def test_a_backlog_is_served_in_batches_and_in_full(system: System) -> None:
    system.start_worker("w1")
    answer = system.http.post("/jobs/batch", json={"jobs": [{"model": "synthetic-a", "input": {}}] * 40}).json()
    assert (answer["accepted"], answer["refused"]) == (40, 0)
    jobs = [system.ended(job["id"]) for job in answer["jobs"]]
    assert {job["state"] for job in jobs} == {"succeeded"}
    assert sum(job["start"] == "cold" for job in jobs) == 1
    starts = sorted({job["started_at"] for job in jobs})
    assert len(starts) == 10, "40 jobs in batches of 4"
    assert all(before < after for before, after in pairwise(starts))


def test_room_is_made_by_evicting_no_more_than_needed_and_the_memory_is_really_back(system: System) -> None:
    sizes_gib = {"synthetic-a": 6, "synthetic-b": 10, "synthetic-c": 14}
    system.start_worker("w1")  # 24 GiB: any two fit, all three do not.
    for model in ("synthetic-a", "synthetic-c", "synthetic-a", "synthetic-b"):
        assert system.run(model, {})["state"] == "succeeded"
    until(lambda: len(system.residents("w1")) == 2, "one of the others has made room for b")
    assert "synthetic-b" in system.residents("w1")
    used_bytes = sum(sizes_gib[model] for model in system.residents("w1")) * 2**30
    until(lambda: system.fleet()["w1"]["gpu"]["used_bytes"] == used_bytes, "the driver agrees")


def test_a_process_with_two_gpus_is_two_workers(system: System) -> None:
    system.launch_worker("n1", WORKER_SIMULATED_GPUS="2")
    until(lambda: set(system.fleet()) == {"n1-gpu0", "n1-gpu1"}, "both GPUs are workers")
    assert {worker["node"] for worker in system.fleet().values()} == {"n1"}


def test_a_stopped_worker_leaves_no_lease_and_no_binding(system: System) -> None:
    worker = system.start_worker("w1")
    system.run("echo", 1)
    assert worker.stop() == 0
    assert system.fleet() == {}
    system.start_worker("w2")
    with system.watched_fallback() as in_fallback:
        job = system.run("echo", 2)
        assert in_fallback() == [job["id"]], "a binding left behind would have kept it from fallback"
    assert (job["worker"], job["start"]) == ("w2", "cold")


def test_a_stopping_worker_finishes_what_runs_and_hands_back_the_rest(system: System) -> None:
    worker = system.start_worker("w1")
    system.run("echo", 0)
    running = system.post("echo", {"processing_time": 1.5}).json()["id"]
    until(lambda: system.job(running)["state"] == "running", "the first job runs")
    waiting = system.post("echo", "later").json()["id"]
    worker.terminate()
    assert system.ended(running)["state"] == "succeeded"
    assert worker.stop() == 0
    assert system.job(waiting)["state"] == "queued"
    system.start_worker("w2")
    assert system.ended(waiting)["worker"] == "w2"


def test_what_outlasts_the_grace_time_is_handed_back_without_using_an_attempt(system: System) -> None:
    worker = system.start_worker("w1", WORKER_GRACE_S="0.2")
    job_id = system.post("echo", {"processing_time": 3}, max_attempts=1).json()["id"]
    until(lambda: system.job(job_id)["state"] == "running", "it runs")
    assert worker.stop() == 0
    assert system.job(job_id)["state"] == "queued"
    system.start_worker("w2")
    job = system.ended(job_id)
    assert (job["state"], job["worker"], job["attempts"]) == ("succeeded", "w2", 1)

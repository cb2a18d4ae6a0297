"""The operator's hand on a running system: models come, stay and go because somebody wants them to."""

import subprocess
import sys

import httpx

from tests.support.system import System, until


def ask(system: System, model: str, verb: str, worker: str | None = None) -> httpx.Response:
    return system.http.post(f"/models/{model}/{verb}", json={"worker": worker})


def carried_out(system: System, answer: httpx.Response, within_s: float = 30.0) -> None:
    """Wait until the orders in an answer are done."""
    assert answer.status_code == 202, answer.text
    for order in answer.json()["orders"]:
        path = f"/orders/{order['id']}"
        until(lambda path=path: system.http.get(path).json()["state"] != "waiting", f"{order} is over", within_s)
        ended = system.http.get(path).json()
        assert ended["state"] == "done", ended


def pinned(system: System, worker: str) -> set[str]:
    return {resident["model"] for resident in system.fleet()[worker]["residents"] if resident["pinned"]}


def test_a_model_is_loaded_by_hand_stays_while_it_is_pinned_and_leaves_by_hand(system: System) -> None:
    """24 GiB: c (14) and b (10) fill them, a (6) needs one of the two to go."""
    worker = system.start_worker("w1")

    carried_out(system, ask(system, "synthetic-c", "load"))
    assert system.residents("w1") == {"synthetic-c"}
    assert ask(system, "synthetic-c", "pin", "w1").json()["pinned_on"] == ["w1"]
    until(lambda: pinned(system, "w1") == {"synthetic-c"}, "the worker knows of the pin")
    for model in ("synthetic-b", "synthetic-a", "synthetic-b", "synthetic-a"):
        assert system.run(model, {})["state"] == "succeeded"
        assert "synthetic-c" in system.residents("w1")
    refused = ask(system, "synthetic-c", "unload")
    assert (refused.status_code, refused.json()["code"]) == (409, "pinned")

    assert worker.stop() == 0
    system.start_worker("w1")
    carried_out(system, ask(system, "synthetic-c", "load", "w1"))
    assert pinned(system, "w1") == {"synthetic-c"}, "a pin outlasts the worker"
    assert system.run("synthetic-c", {})["start"] == "cold", "the first job since the load"

    assert ask(system, "synthetic-c", "unpin").json()["pinned_on"] == []
    until(lambda: pinned(system, "w1") == set(), "the worker knows of that, too")
    carried_out(system, ask(system, "synthetic-c", "unload"))
    assert system.residents("w1") == set()
    until(lambda: system.fleet()["w1"]["gpu"]["used_bytes"] == 0, "the driver agrees")

    asked = [(event["action"], event["model"], event["worker"]) for event in system.events("order.asked")]
    assert asked == [
        ("load", "synthetic-c", ""),
        ("load", "synthetic-c", "w1"),
        ("unload", "synthetic-c", "w1"),
    ]
    assert [event["state"] for event in system.events("order.ended")] == ["done"] * 3
    reasons = [event["reason"] for event in system.events("model.loading") if event["model"] == "synthetic-c"]
    assert all("asked for by hand" in reason for reason in reasons)
    metrics = httpx.get(system.fleet()["w1"]["metrics_url"]).text
    assert 'model_loads_total{model="synthetic-c",reason="by-hand",tier="disk",worker="w1"} 1.0' in metrics
    assert 'model_evictions_total{model="synthetic-c",reason="by-hand",worker="w1"} 1.0' in metrics


def test_an_order_gets_its_room_from_a_worker_that_never_rests(system: System) -> None:
    """14 GiB hold a (6) or b (10). Jobs of a wait all the time, so that a would never be idle when the plan is made."""
    system.start_worker("w1", WORKER_SIMULATED_VRAM_GIB="14")
    system.run("synthetic-a", {})
    answer = system.http.post("/jobs/batch", json={"jobs": [{"model": "synthetic-a", "input": {}}] * 1000}).json()
    last = answer["jobs"][-1]["id"]

    carried_out(system, ask(system, "synthetic-b", "load", "w1"))

    assert system.job(last)["state"] == "queued"
    evicted = [(event["model"], event.get("room_for")) for event in system.events("model.evicted")]
    assert evicted[0] == ("synthetic-a", "synthetic-b")
    assert system.run("synthetic-b", {})["state"] == "succeeded"


def test_a_model_in_the_middle_of_its_jobs_leaves_by_hand_and_comes_back_for_the_rest(system: System) -> None:
    system.start_worker("w1")
    system.run("synthetic-a", {})
    answer = system.http.post("/jobs/batch", json={"jobs": [{"model": "synthetic-a", "input": {}}] * 200}).json()

    carried_out(system, ask(system, "synthetic-a", "unload", "w1"))

    jobs = [system.ended(job["id"]) for job in answer["jobs"]]
    assert {(job["state"], job["attempts"]) for job in jobs} == {("succeeded", 1)}
    assert sum(job["start"] == "cold" for job in jobs) == 1, "it was loaded once more, for those that were left"


def test_the_command_line_waits_until_it_is_done(system: System) -> None:
    system.start_worker("w1")

    def affinity(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dispatcher.cli", *arguments, "--url", str(system.http.base_url)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    loaded = affinity("load", "synthetic-a", "--worker", "w1", "--wait")
    assert (loaded.returncode, loaded.stderr) == (0, "")
    assert "w1 loads it now" in loaded.stdout
    assert "done: w1 holds it" in loaded.stdout
    assert system.residents("w1") == {"synthetic-a"}
    assert affinity("unload", "synthetic-a", "--wait").returncode == 0
    assert system.residents("w1") == set()
    assert "refused (unknown_worker)" in affinity("load", "synthetic-a", "--worker", "w2").stderr

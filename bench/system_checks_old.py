"""The older producer's two calls."""

# ruff: noqa: D103 - a check's name is the sentence it checks

import secrets
from collections.abc import Callable

from bench.api import Api

WAIT_S = 60
PROCESSING_S = 0.3


def the_old_produce_call_runs_an_echo_job_for_its_processing_time(api: Api) -> None:
    name = f"system-test-{secrets.token_hex(8)}"
    message = {"id": name, "payload": {"text": "hello"}, "processing_time": PROCESSING_S}
    answer = api.call("POST", "/produce", json=message)
    assert answer.status_code == 200, f"answered {answer.status_code}: {answer.text[:300]}"
    said = answer.json()
    assert (said["status"], said["message_id"]) == ("success", name), f"answered {said}"
    assert said["timestamp"].endswith("Z"), f"timestamp is {said['timestamp']!r}"
    job = api.call("GET", "/jobs/{job_id}", job_id=name, wait_s=WAIT_S).json()
    assert (job["state"], job["model"]) == ("succeeded", "echo"), f"{job['model']} is {job['state']}: {job['error']}"
    assert job["exec_s"] >= PROCESSING_S, f"it ran {job['exec_s']} s, not {PROCESSING_S}"
    assert job["result"]["payload"] == message["payload"], f"echo returned {job['result']!r}"


def the_old_batch_call_produces_every_message(api: Api) -> None:
    names = [f"system-test-{secrets.token_hex(8)}" for _ in range(3)]
    messages = [{"id": name, "payload": name, "processing_time": 0.01} for name in names]
    answer = api.call("POST", "/batch-produce", json={"messages": messages})
    assert answer.status_code == 200, f"answered {answer.status_code}: {answer.text[:300]}"
    assert answer.json() == {"status": "success", "messages_produced": 3}, f"answered {answer.text[:300]}"
    for name in names:
        job = api.call("GET", "/jobs/{job_id}", job_id=name, wait_s=WAIT_S).json()
        assert job["state"] == "succeeded", f"{name} is {job['state']}: {job['error']}"


OLD_PRODUCER: tuple[Callable[[Api], None], ...] = (
    the_old_produce_call_runs_an_echo_job_for_its_processing_time,
    the_old_batch_call_produces_every_message,
)

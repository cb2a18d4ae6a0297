"""A broker that is short of memory: jobs are refused at once and leave nothing, and workers go on."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import redis

from affinity.topology import Keys
from tests.support.secure_servers import SecureServers
from tests.support.system import System, running_system, until

ALARMS = "secured"
ANSWER_WITHIN_S = 15.0


@pytest.fixture
def system(secured: SecureServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    logs = tmp_path_factory.mktemp("logs")
    with running_system(secured.rabbitmq_url, secured.redis_url, ALARMS, logs, **secured.settings) as running:
        yield running


@contextmanager
def short_of_memory(secured: SecureServers) -> Iterator[None]:
    """The broker believes that it uses more than it may, until the end."""
    secured.rabbit.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        yield
    finally:
        secured.rabbit.ctl("set_vm_memory_high_watermark", "0.6")


def keys_of_jobs(secured: SecureServers, ids: list[str]) -> list[str]:
    """Records there are of these jobs."""
    with redis.Redis.from_url(secured.redis_url, ssl_ca_certs=str(secured.certificates.ca)) as client:
        return [job_id for job_id in ids if client.exists(Keys(ALARMS).job(job_id))]


def timed(system: System, job_id: str) -> tuple[httpx.Response, float]:
    began_s = time.monotonic()
    answer = system.post("echo", 1, id=job_id)
    return answer, time.monotonic() - began_s


def test_an_alarm_is_a_503_and_workers_empty_the_queues_meanwhile(secured: SecureServers, system: System):
    system.start_worker("w1", **secured.settings)
    in_front = system.post("synthetic-a", {"exec_s": 300.0}, timeout_s=320.0).json()["id"]
    until(lambda: system.job(in_front)["state"] == "running", "the others wait behind it")
    accepted = [system.post("synthetic-a", {}).json()["id"] for _ in range(20)]
    with short_of_memory(secured):
        # The broker tells a connection only when it publishes: the last that gets through is accepted, and counts.
        until(lambda: refused(system, accepted), "the broker has raised its alarm")

        assert {system.job(job_id)["state"] for job_id in accepted} == {"queued"}
        late = [timed(system, f"late-{number}") for number in range(5)]
        assert {(answer.status_code, answer.json()["code"]) for answer, _ in late} == {(503, "broker_unavailable")}
        assert {answer.headers["retry-after"] for answer, _ in late} == {"5"}
        assert "short of memory or disk" in late[0][0].json()["detail"]
        assert max(took_s for _, took_s in late) < 1.0
        assert keys_of_jobs(secured, [f"late-{number}" for number in range(5)]) == []
        assert system.http.get("/health/ready").status_code == 503

        assert system.http.delete(f"/jobs/{in_front}").json()["state"] == "cancelled"
        assert [system.ended(job_id)["state"] for job_id in accepted] == ["succeeded"] * len(accepted)

    until(lambda: system.http.get("/health/ready").status_code == 200, "the alarm is over")
    assert system.run("echo", "after")["state"] == "succeeded"


def test_no_request_hangs_where_the_alarm_comes_in_the_middle_of_many(secured: SecureServers, system: System):
    system.start_worker("w1", **secured.settings)
    with ThreadPoolExecutor(max_workers=16) as pool:
        first = [pool.submit(timed, system, f"early-{number}") for number in range(40)]
        with short_of_memory(secured):
            rest = [pool.submit(timed, system, f"during-{number}") for number in range(40)]
            answers = [sent.result() for sent in (*first, *rest)]

    assert max(took_s for _, took_s in answers) < ANSWER_WITHIN_S
    assert {answer.status_code for answer, _ in answers} <= {202, 503}
    for answer, _ in answers:
        if answer.status_code == 202:
            assert system.ended(answer.json()["id"])["state"] == "succeeded"


def refused(system: System, accepted: list[str]) -> bool:
    answer = system.post("synthetic-a", {})
    if answer.status_code == 202:
        accepted.append(answer.json()["id"])
    return answer.status_code == 503

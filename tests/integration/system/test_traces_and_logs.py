"""A job's way is one trace, from the request to the GPU and over its retries; and no log has anything of its input."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from affinity.topology import Topology
from tests.support.otlp import Collector, collector
from tests.support.system import System, running_system, until

CATALOGUE = """
[[model]]
name = "m"
runtime = "synthetic"
vram_gib = 1
options = { load_s = 0.1, exec_s = 0.05 }
"""
SECRET = "tulip-7781-orchid"
SERVER, PRODUCER, CONSUMER = 2, 4, 5


@pytest.fixture
def collected() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture
def system(rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path, collected: Collector) -> Iterator[System]:
    path = tmp_path / "catalogue.toml"
    path.write_text(CATALOGUE)
    settings = {
        "MODELS_CATALOG": str(path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collected.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "LOG_LEVEL": "debug",
    }
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path, **settings) as running:
        yield running


def a_parent(sampled: str = "01") -> tuple[str, str, str]:
    """A caller's header, with the ids of its trace and span."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace}-{span}-{sampled}", trace, span


def submit(system: System, header: str, value: object, **fields: object) -> str:
    body = {"model": "m", "input": value, "metadata": {"note": SECRET}, **fields}
    answer = system.http.post("/jobs", json=body, headers={"traceparent": header})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def publish(system: System, body: bytes, **headers: str) -> None:
    """As a client without HTTP does."""
    with pika.BlockingConnection(pika.URLParameters(system.rabbitmq_url)) as connection:
        properties = pika.BasicProperties(message_id=f"amqp-{SECRET[:5]}", delivery_mode=2, headers=dict(headers))
        exchange = Topology(system.namespace).jobs_exchange
        connection.channel().basic_publish(exchange, "m", body, properties)


def test_one_trace_from_the_request_to_the_gpu_with_links_over_retries_and_no_input_in_any_log(
    system: System, collected: Collector, tmp_path: Path
) -> None:
    # Nobody holds the model yet: by fallback, and parked from there.
    cold, cold_trace, caller = a_parent()
    job_id = submit(system, cold, {"text": SECRET})
    system.start_worker("w1")
    assert system.ended(job_id)["start"] == "cold"
    retried, retried_trace, _ = a_parent()
    hanging = submit(system, retried, {"fail": "hang", "text": SECRET}, timeout_s=0.3, max_attempts=2)
    assert system.ended(hanging)["attempts"] == 2
    foreign, foreign_trace, producer = a_parent()
    publish(system, json.dumps({"input": {"text": SECRET}}).encode(), traceparent=foreign)
    unwanted, unwanted_trace, _ = a_parent(sampled="00")
    system.ended(submit(system, unwanted, {"text": SECRET}))
    # What is refused, undecodable or deadly has an input, too.
    assert system.http.post("/jobs", content=f'{{"model": "m", "{SECRET}'.encode()).status_code in {400, 415}
    assert system.post("nobody", {"text": SECRET}).status_code == 404
    publish(system, b'{"input": "' + SECRET.encode())
    crashing = system.post("m", {"fail": "crash", "text": SECRET}, max_attempts=1).json()["id"]
    assert system.ended(crashing, 60)["state"] == "failed"
    until(lambda: {"attempt 2", "exec"} <= collected.of(retried_trace).keys() | collected.of(cold_trace).keys(), "told")
    until(lambda: "exec" in collected.of(foreign_trace), "the foreign job's trace is told")
    system.stop()  # The last spans are sent, and the last lines written.

    spans = collected.of(cold_trace)
    assert set(spans) == {"POST /jobs", "publish", "attempt", "wait", "load", "exec"}
    parents = {name: span.parent for name, span in spans.items()}
    attempt = spans["attempt"].span
    assert parents == {
        "POST /jobs": caller,
        "publish": spans["POST /jobs"].span,
        "attempt": spans["publish"].span,
        "wait": attempt,
        "load": attempt,
        "exec": attempt,
    }
    assert [spans[name].kind for name in ("POST /jobs", "publish", "attempt")] == [SERVER, PRODUCER, CONSUMER]
    services = [spans[name].service for name in ("POST /jobs", "publish", "attempt", "exec")]
    assert services == ["affinity-dispatcher"] * 2 + ["affinity-worker"] * 2
    assert spans["attempt"].attributes == {
        "affinity.job": job_id,
        "affinity.model": "m",
        "affinity.worker": "w1",
        "affinity.attempt": "1",
        "affinity.start": "cold",
        "messaging.system": "rabbitmq",
    }
    assert spans["wait"].end == spans["load"].begin <= spans["load"].end == spans["exec"].begin
    assert spans["load"].end - spans["load"].begin >= 0.1
    assert spans["exec"].end - spans["exec"].begin >= 0.05

    spans = collected.of(retried_trace)
    first, second = spans["attempt"], spans["attempt 2"]
    assert (first.failed, second.failed) == (True, True)
    assert (first.attributes["error.type"], second.attributes["error.type"]) == ("job_timeout", "attempts_exhausted")
    assert (first.links, second.links) == ((), (first.span,))
    assert first.parent == second.parent == spans["publish"].span
    assert spans["wait 2"].begin == pytest.approx(first.end, abs=0.2)

    spans = collected.of(foreign_trace)
    assert {"attempt", "wait", "exec"} <= set(spans), "no matter whether it had to be loaded again"
    assert "publish" not in spans
    assert spans["attempt"].parent == producer
    assert collected.of(unwanted_trace) == {}

    assert SECRET.encode() not in b"".join(collected.raw)
    logs = sorted(tmp_path.glob("*.log"))
    assert [log.name for log in logs] == ["dispatcher.log", "w1.log"]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    assert [line for line in lines if SECRET in line] == []
    of_jobs = [said for line in lines if line.startswith("{") and "job" in (said := json.loads(line))]
    assert {"job.published", "job.retry", "job.settled"} <= {said["event"] for said in of_jobs}
    assert [said for said in of_jobs if "model" not in said] == []

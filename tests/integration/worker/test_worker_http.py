"""Metrics and health over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from worker.http import MAX_HEAD_BYTES, CannotListen, MetricsServer
from worker.metrics import WorkerMetrics


class Readiness:
    """What the worker says of itself."""

    def __init__(self) -> None:
        self.ready = True

    def __call__(self) -> tuple[bool, dict[str, object]]:
        return self.ready, {"workers": {"w": "ready" if self.ready else "draining"}}


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
async def server(readiness: Readiness) -> AsyncIterator[MetricsServer]:
    metrics = WorkerMetrics()
    metrics.failed("m", "job_failed")
    server = MetricsServer(metrics, "127.0.0.1", 0, readiness)
    await server.start()
    yield server
    await server.stop()


async def get(server: MetricsServer, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.request(method, server.url + path)


async def exchange(server: MetricsServer, request: bytes) -> bytes:
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_prometheus_gets_its_text(server: MetricsServer):
    response = await get(server, "/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert 'message_processing_errors_total{code="job_failed",model="m"} 1.0' in response.text


async def test_ready_follows_the_worker_and_live_does_not(server: MetricsServer, readiness: Readiness):
    assert (await get(server, "/health/ready")).json() == {"status": "ready", "workers": {"w": "ready"}}
    readiness.ready = False
    response = await get(server, "/health/ready?verbose=1")
    assert response.status_code == 503
    assert response.json() == {"status": "not ready", "workers": {"w": "draining"}}
    assert (await get(server, "/health/live")).json() == {"status": "alive"}


async def test_a_worker_that_does_not_get_on_makes_the_process_unhealthy_with_the_reason():
    stuck: dict[str, str] = {}
    server = MetricsServer(WorkerMetrics(), "127.0.0.1", 0, Readiness(), lambda: stuck)
    await server.start()
    alive = await get(server, "/health/live")
    stuck["w1"] = "unloading m has taken 200 s"
    response = await get(server, "/health/live")
    await server.stop()
    assert alive.status_code == 200
    assert response.status_code == 503
    assert response.json() == {"status": "stuck", "workers": {"w1": "unloading m has taken 200 s"}}


async def test_head_has_the_headers_alone(server: MetricsServer):
    response = await get(server, "/metrics", "HEAD")
    assert response.status_code == 200
    assert int(response.headers["content-length"]) > 0
    assert response.content == b""


async def test_anything_else_is_refused_with_a_reason(server: MetricsServer):
    assert (await get(server, "/")).status_code == 404
    assert "/metrics" in (await get(server, "/")).json()["error"]
    refused = await get(server, "/metrics", "POST")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert b"400 Bad Request" in await exchange(server, b"nonsense\r\n\r\n")


async def test_a_client_that_hangs_up_or_never_stops_talking_does_no_harm(server: MetricsServer):
    assert await exchange(server, b"GET /metrics HTTP/1.1\r\n" + b"x" * 2 * MAX_HEAD_BYTES) == b""
    host, port = server.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    await writer.wait_closed()
    assert json.loads((await get(server, "/health/live")).text) == {"status": "alive"}


async def test_a_port_that_is_taken_is_refused_with_the_settings_name(server: MetricsServer):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(CannotListen, match=f"WORKER_METRICS_PORT={port}: the port is taken; choose another, or 0"):
        await MetricsServer(WorkerMetrics(), "127.0.0.1", port, Readiness()).start()


async def test_an_address_that_is_not_ours_is_refused():
    with pytest.raises(CannotListen, match=r"WORKER_METRICS_HOST=192\.0\.2\.1"):
        await MetricsServer(WorkerMetrics(), "192.0.2.1", 0, Readiness()).start()

"""A dispatcher process on a real broker and a real store: what is accepted is there, what is refused is nowhere."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aio_pika
import pytest

from affinity.io.job_store import RedisJobStore
from affinity.io.redis_client import RedisLink
from affinity.job import Attempt, JobSpec, Outcome, StartKind
from affinity.topology import Keys, Topology
from affinity.wire import decode_message
from tests.support.dispatcher_process import Gate, StartDispatcher

ECHO = {"model": "echo", "input": {"n": 1}, "id": "j1"}


@pytest.fixture
async def store(redis_url: str, namespace: str) -> AsyncIterator[RedisJobStore]:
    """The store the dispatcher under test uses."""
    link = RedisLink(redis_url)
    yield RedisJobStore(link, Keys(namespace))
    await link.close()


async def take_from_fallback(rabbitmq_url: str, namespace: str) -> aio_pika.abc.AbstractIncomingMessage:
    """The next message of the fallback queue, taken."""
    async with await aio_pika.connect(rabbitmq_url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(Topology(namespace).fallback)
        async with asyncio.timeout(10.0), queue.iterator() as messages:
            async for message in messages:
                await message.ack()
                return message
    raise AssertionError


async def test_a_job_whose_model_nobody_holds_is_in_the_fallback_queue_when_it_is_accepted(
    start_dispatcher: StartDispatcher, rabbitmq_url: str, namespace: str
):
    running = await start_dispatcher()
    await running.logged("broker.connected")

    answer = await running.http.post("/jobs", json=ECHO)
    scrape = (await running.http.get("/metrics")).text
    message = await take_from_fallback(rabbitmq_url, namespace)

    assert answer.status_code == 202
    assert "fallback_depth 1.0" in scrape
    assert 'model_queue_depth{model="echo"} 1.0' in scrape
    assert message.routing_key == "echo"
    spec, _ = decode_message(message.body, "echo", None)
    assert spec == JobSpec("j1", "echo", {"n": 1})
    assert (await running.http.get("/jobs/j1")).json() == answer.json()


async def test_a_waiting_client_gets_the_result_a_worker_stores(
    start_dispatcher: StartDispatcher, store: RedisJobStore
):
    running = await start_dispatcher(LOG_LEVEL="debug")
    await running.logged("broker.connected")
    asking = asyncio.create_task(running.http.post("/jobs", json=ECHO, headers={"Prefer": "wait=60"}))
    await running.logged("job.published", job="j1")

    attempt, now = Attempt("j1", "token", "w1", 1), time.time()
    await store.start([(attempt, (await store.get("j1")).spec, now)], now)
    await store.finish(attempt, Outcome(StartKind.COLD, 0.5, 0.25, result={"y": 2}), now)

    answer = await asking
    assert (answer.status_code, answer.json()["result"], answer.json()["start"]) == (200, {"y": 2}, "cold")


async def test_a_broker_lost_in_flight_refuses_and_leaves_nothing_and_comes_back(
    start_dispatcher: StartDispatcher, gates: dict[str, Gate]
):
    await gates["broker"].open()
    running = await start_dispatcher(RABBITMQ_URL=gates["broker"].url)
    await running.logged("broker.connected")
    assert (await running.http.post("/jobs", json={**ECHO, "id": "before"})).status_code == 202

    await gates["broker"].shut()
    refused = await running.http.post("/jobs", json=ECHO)
    assert (refused.status_code, refused.json()["code"]) == (503, "broker_unavailable")
    assert (await running.http.get("/jobs/j1")).status_code == 404

    await gates["broker"].open()
    await running.logged("broker.connected")
    assert (await running.http.post("/jobs", json=ECHO)).status_code == 202


async def test_a_store_lost_in_flight_refuses_in_time_and_comes_back(
    start_dispatcher: StartDispatcher, gates: dict[str, Gate]
):
    await gates["store"].open()
    running = await start_dispatcher(REDIS_URL=gates["store"].url)
    await running.logged("broker.connected")
    assert (await running.http.post("/jobs", json={**ECHO, "id": "before"})).status_code == 202

    await gates["store"].shut()
    began = time.monotonic()
    refused = await running.http.post("/jobs", json=ECHO)
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert time.monotonic() - began < 10.0
    assert "affinity_store_up 0.0" in (await running.http.get("/metrics")).text

    await gates["store"].open()
    assert (await running.http.post("/jobs", json=ECHO)).status_code == 202


async def test_what_a_crashed_dispatcher_left_unpublished_is_published_by_another(
    start_dispatcher: StartDispatcher, store: RedisJobStore, rabbitmq_url: str, namespace: str
):
    await store.create(JobSpec("stranded", "echo", 1), time.time() - 60.0)

    running = await start_dispatcher()
    await running.logged("job.republished", job="stranded")

    message = await take_from_fallback(rabbitmq_url, namespace)
    assert decode_message(message.body, "echo", None)[0].id == "stranded"
    assert await store.unpublished(time.time(), 10) == []


async def test_a_body_announced_too_large_is_answered_before_any_of_it_is_sent(start_dispatcher: StartDispatcher):
    running = await start_dispatcher()
    where = urlsplit(str(running.http.base_url))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)

    writer.write(
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n"
    )
    async with asyncio.timeout(10.0):
        answer = await reader.read()

    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "payload_too_large"


async def test_an_endless_chunked_body_is_answered_and_cut_off(start_dispatcher: StartDispatcher):
    running = await start_dispatcher(DISPATCHER_MAX_BODY_BYTES="4096")
    where = urlsplit(str(running.http.base_url))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)

    writer.write(
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(5):
        writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
    async with asyncio.timeout(10.0):
        answer = await reader.read()

    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_models_without_a_queue_have_no_depth_and_the_broker_stays_connected(start_dispatcher: StartDispatcher):
    running = await start_dispatcher()
    await running.logged("broker.connected")

    models = (await running.http.get("/models")).json()["models"]

    assert {model["depth"] for model in models} == {None}
    assert (await running.http.post("/jobs", json=ECHO)).status_code == 202


async def test_the_command_line_speaks_to_a_real_dispatcher(start_dispatcher: StartDispatcher):
    running = await start_dispatcher(AFFINITY_API_KEYS="k1")
    await running.logged("broker.connected")

    def affinity(*arguments: str) -> subprocess.CompletedProcess[str]:
        where = ["--url", str(running.http.base_url), "--api-key", "k1", "--json"]
        command = [sys.executable, "-m", "dispatcher.cli", *arguments, *where]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    submitted = await asyncio.to_thread(affinity, "submit", "echo", "--input", "[1]", "--id", "j1")
    cancelled = await asyncio.to_thread(affinity, "cancel", "j1")
    waited = await asyncio.to_thread(affinity, "wait", "j1")

    assert (submitted.returncode, json.loads(submitted.stdout)["state"]) == (0, "queued")
    assert (cancelled.returncode, json.loads(cancelled.stdout)["state"]) == (0, "cancelled")
    assert (waited.returncode, json.loads(waited.stdout)["state"]) == (1, "cancelled")

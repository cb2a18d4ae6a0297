"""Clients that follow events of a real dispatcher process: restarts of either end, clients that never read.

Jobs are moved by the store itself: what a worker does to them is not the matter here.
"""

import asyncio
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from affinity.io.events import EVENTS_KEPT, RedisEventStream
from affinity.io.job_store import RedisJobStore
from affinity.io.redis_client import RedisLink
from affinity.job import Attempt, JobSpec, Outcome, StartKind
from affinity.topology import Keys
from deploy.local.redis import PrivateRedis
from deploy.local.warden import Warden
from tests.support.dispatcher_process import DispatcherProcess, StartDispatcher
from tests.support.servers import require_programs
from tests.support.sse import Seen, seen, seen_in

WITHIN_S = 30.0
AT = 1_700_000_000.0


class Store:
    """The Redis the dispatcher under test reads: jobs and events are put into it by hand."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url
        self.namespace = namespace
        self.link = RedisLink(url)
        self.events = RedisEventStream(self.link, Keys(namespace))
        self.jobs = RedisJobStore(self.link, Keys(namespace))

    async def emit(self, first: int, many: int, text: str = "") -> None:
        """Events of kind ``k`` with ``n`` counting on."""
        async with self.link.guard() as client, client.pipeline(transaction=False) as pipe:
            for number in range(first, first + many):
                entry = {"kind": "k", "at": str(AT), "n": str(number), "text": text}
                pipe.xadd(Keys(self.namespace).events, entry, maxlen=EVENTS_KEPT, approximate=True)
            await pipe.execute()

    async def run(self, job_id: str) -> None:
        """Start and end a job."""
        attempt = Attempt(job_id, f"token-{job_id}", "w1", 1)
        await self.jobs.start([(attempt, JobSpec(job_id, "echo", 1), AT)], AT)
        assert await self.jobs.finish(attempt, Outcome(StartKind.WARM, 0.0, 0.5, result=1), AT + 1)


@pytest.fixture
async def store(redis_url: str, namespace: str) -> AsyncIterator[Store]:
    made = Store(redis_url, namespace)
    yield made
    await made.link.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    """A Redis that the test may stop and start."""
    with Warden() as warden:
        server = PrivateRedis(require_programs(os.environ), tmp_path / "redis", warden, os.environ)
        server.start()
        yield server
        server.stop()


@asynccontextmanager
async def following(running: DispatcherProcess, path: str, after: str = "") -> AsyncIterator[AsyncIterator[Seen]]:
    headers = {"Last-Event-ID": after} if after else {}
    async with asyncio.timeout(WITHIN_S), running.http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        yield seen(answer.aiter_lines())


async def until(events: AsyncIterator[Seen], kind: str) -> list[Seen]:
    found: list[Seen] = []
    async for event in events:
        found.append(event)
        if event.kind == kind:
            return found
    raise AssertionError(f"it ended without {kind}: {[event.kind for event in found]}")


async def numbers(events: AsyncIterator[Seen], last: int) -> list[int]:
    """The ``n`` of all events of kind ``k``, up to this one."""
    found: list[int] = []
    async for event in events:
        if event.kind == "k":
            found.append(int(event.said["n"]))
            if found[-1] == last:
                return found
    raise AssertionError(f"it ended without {last}: {found[-3:]}")


def resident_bytes(running: DispatcherProcess) -> int:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024


def silent(running: DispatcherProcess, path: str) -> socket.socket:
    """A client that asks and never reads."""
    port = urlsplit(str(running.http.base_url)).port
    asking = socket.create_connection(("127.0.0.1", port or 0))
    asking.sendall(f"GET {path} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    return asking


async def test_a_job_is_followed_from_its_acceptance_to_its_end(start_dispatcher: StartDispatcher, store: Store):
    running = await start_dispatcher()
    await running.logged("broker.connected")
    assert (await running.http.post("/jobs", json={"model": "echo", "input": 1, "id": "j1"})).status_code == 202

    async with following(running, "/jobs/j1/events") as events:
        (now,) = await until(events, "job.now")
        await store.run("j1")
        rest = [event async for event in events]

    assert (now.said["job"]["state"], [event.kind for event in rest]) == ("queued", ["job.started", "job.settled"])
    again = await running.http.get("/jobs/j1/events", headers={"Last-Event-ID": rest[-1].id})
    assert again.status_code == 204


async def test_the_stream_goes_on_after_a_restart_of_the_dispatcher(start_dispatcher: StartDispatcher, store: Store):
    running = await start_dispatcher()
    async with following(running, "/events") as events:
        await until(events, "stream.opened")
        await store.emit(0, 50)
        assert await numbers(events, 49) == list(range(50))
        stopping = asyncio.create_task(running.terminate())
        (farewell,) = await until(events, "stream.ending")
        assert [event async for event in events] == []
    assert await stopping == 0
    await store.emit(50, 700)

    after = await start_dispatcher()
    async with following(after, "/events", farewell.id) as events:
        assert await numbers(events, 749) == list(range(50, 750))
        await store.emit(750, 1)
        assert await numbers(events, 750) == [750]
    assert farewell.id == farewell.said["last_event_id"]


async def test_a_redis_that_restarts_is_said_and_nothing_is_missed(
    start_dispatcher: StartDispatcher, own_redis: PrivateRedis
):
    store = Store(own_redis.url, f"t{secrets.token_hex(4)}")
    running = await start_dispatcher(REDIS_URL=own_redis.url, AFFINITY_NAMESPACE=store.namespace)
    await store.jobs.create(JobSpec("j1", "echo", 1), AT)
    await store.jobs.published("j1")
    async with following(running, "/events") as fleet, following(running, "/jobs/j1/events") as job:
        await until(fleet, "stream.opened")
        await until(job, "job.now")
        await store.emit(0, 5)
        assert await numbers(fleet, 4) == list(range(5))
        await asyncio.to_thread(own_redis.stop)
        await until(fleet, "stream.paused")
        assert (await running.http.get("/events", headers={"Last-Event-ID": "0"})).status_code == 503
        await asyncio.to_thread(own_redis.start)
        await store.emit(5, 5)
        await store.run("j1")
        back = await until(fleet, "job.settled")
        rest = [event async for event in job]
    await store.link.close()

    kinds = [event.kind for event in back]
    assert kinds == ["stream.resumed", *["k"] * 5, "job.started", "job.settled"]
    assert [event.kind for event in rest][-2:] == ["job.started", "job.settled"]
    assert running.process.returncode is None


async def test_a_redis_that_is_emptied_is_said(start_dispatcher: StartDispatcher, own_redis: PrivateRedis):
    store = Store(own_redis.url, f"t{secrets.token_hex(4)}")
    running = await start_dispatcher(REDIS_URL=own_redis.url, AFFINITY_NAMESPACE=store.namespace)
    await store.jobs.create(JobSpec("j1", "echo", 1), AT)
    await store.jobs.published("j1")
    async with following(running, "/events") as fleet, following(running, "/jobs/j1/events") as job:
        await until(fleet, "stream.opened")
        await until(job, "job.now")
        async with store.link.guard() as client:
            await client.flushdb()
        await store.emit(0, 1)
        lost = await until(fleet, "k")
        rest = [event async for event in job]
    await store.link.close()

    assert [event.kind for event in lost] == ["stream.lost", "k"]
    assert [event.kind for event in rest] == ["stream.lost", "job.gone"]


async def test_clients_that_never_read_cost_no_memory_and_hold_up_nobody(
    start_dispatcher: StartDispatcher, store: Store
):
    running = await start_dispatcher(DISPATCHER_MAX_EVENT_CLIENTS="21")
    silent_ones = [silent(running, "/events") for _ in range(20)]
    try:
        async with following(running, "/events") as events:
            await until(events, "stream.opened")
            assert await first_status(running) == 429
            text, sent = "x" * 400, 0
            at_rest: list[int] = []
            for _ in range(40):  # 40 times 1,000 events of half a kilobyte: 20 MB for each of 21 clients
                await store.emit(sent, 1000, text)
                sent += 1000
                assert await numbers(events, sent - 1) == list(range(sent - 1000, sent))
                at_rest.append(resident_bytes(running))
    finally:
        for one in silent_ones:
            one.close()

    # What they may hold at most: a buffer of half a MiB each, and what the server keeps for each connection.
    assert max(at_rest[20:]) - at_rest[10] < 4 * 1024**2, [size // 1024**2 for size in at_rest]
    assert max(at_rest) - at_rest[0] < 40 * 1024**2, [size // 1024**2 for size in at_rest]


async def test_a_client_that_begins_to_read_too_late_is_told_so_at_last_and_may_go_on(
    start_dispatcher: StartDispatcher, store: Store
):
    running = await start_dispatcher()
    late = silent(running, "/events")
    async with following(running, "/events") as events:
        await until(events, "stream.opened")
        for sent in range(0, 20_000, 1000):  # 10 MB: more than the kernel and the dispatcher hold for one client
            await store.emit(sent, 1000, "x" * 400)
            await numbers(events, sent + 999)
    with late:
        read = await asyncio.to_thread(lambda: b"".join(iter(lambda: late.recv(65536), b"")))

    *_, farewell, end = read.decode().split("\r\n")[:-2]
    (event,) = seen_in(farewell)[-1:]
    assert (event.kind, end) == ("stream.behind", "0")
    async with following(running, "/events", event.said["last_event_id"]) as events:
        assert (await until(events, "k"))[0].kind == "stream.opened"


async def test_clients_that_leave_make_room_for_others(start_dispatcher: StartDispatcher):
    running = await start_dispatcher(DISPATCHER_MAX_EVENT_CLIENTS="2")
    held = [silent(running, "/events") for _ in range(2)]
    async with asyncio.timeout(WITHIN_S):
        while (refused := await first_status(running)) != 429:
            pass
        for one in held:
            one.close()
        while await first_status(running) != 200:
            pass
    assert refused == 429


async def first_status(running: DispatcherProcess) -> int:
    async with running.http.stream("GET", "/events") as answer:
        return answer.status_code

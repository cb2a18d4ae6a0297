"""Redis out of reach, cut off, silent, full, read-only or restarted: what the stores say, and how soon."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from affinity.errors import StoreUnavailable
from affinity.io.events import RedisEventStream
from affinity.io.fleet_store import RedisFleetStore
from affinity.io.job_store import RedisJobStore
from affinity.io.redis_client import HEARTBEAT, REQUESTS, RedisLink, check_store
from affinity.job import JobState
from affinity.topology import Keys
from deploy.local.ports import free_ports
from deploy.local.redis import PrivateRedis
from deploy.local.warden import Warden
from tests.support.job_samples import a_report, a_spec, an_attempt, an_outcome
from tests.support.servers import require_programs
from tests.support.tcp_proxy import TcpProxy

KEYS = Keys("faults")
NOW = 1_700_000_000.5


@pytest.fixture(scope="module")
def warden() -> Iterator[Warden]:
    with Warden() as started:
        yield started


@pytest.fixture
def server(warden: Warden, tmp_path: Path) -> Iterator[PrivateRedis]:
    """A Redis of the test's own, to be broken."""
    redis = PrivateRedis(require_programs(os.environ), tmp_path / "redis", warden, os.environ)
    redis.start()
    yield redis
    redis.stop()


@pytest.fixture
async def proxy(server: PrivateRedis) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(server.port) as started:
        yield started


@pytest.fixture
async def link(proxy: TcpProxy) -> AsyncIterator[RedisLink]:
    opened = RedisLink(f"redis://127.0.0.1:{proxy.port}/0")
    yield opened
    await opened.close()


async def test_an_unreachable_server_is_named_at_once_without_its_password() -> None:
    (port,) = free_ports(1)
    link = RedisLink(f"redis://user:secret@127.0.0.1:{port}/0")
    for call in (lambda: check_store(link), lambda: RedisJobStore(link, KEYS).create(a_spec(), NOW)):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await call()
        assert time.monotonic() - began < REQUESTS.deadline_s + 0.5
        assert f"127.0.0.1:{port}" in caught.value.message
        assert "REDIS_URL" in caught.value.message
        assert "secret" not in caught.value.message
    await link.close()


async def test_a_wrong_password_is_told_from_a_server_that_is_away(server: PrivateRedis) -> None:
    link = RedisLink(f"redis://nobody:secret@127.0.0.1:{server.port}/0")
    with pytest.raises(StoreUnavailable, match="check the user and password") as caught:
        await check_store(link)
    assert "secret" not in caught.value.message
    await link.close()


async def test_a_silent_server_does_not_hold_a_heartbeat_past_its_deadline(proxy: TcpProxy) -> None:
    link = RedisLink(f"redis://127.0.0.1:{proxy.port}/0", HEARTBEAT)
    fleet = RedisFleetStore(link, KEYS)
    assert await fleet.report(a_report())
    proxy.swallow = True
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{proxy.port}"):
        await fleet.report(a_report(sequence=2))
    assert time.monotonic() - began < HEARTBEAT.deadline_s + 0.5
    proxy.swallow = False
    assert await fleet.report(a_report(sequence=3))
    await link.close()


async def test_many_calls_to_a_silent_server_all_end_in_time(proxy: TcpProxy) -> None:
    link = RedisLink(f"redis://127.0.0.1:{proxy.port}/0", HEARTBEAT, connections=4)
    fleet = RedisFleetStore(link, KEYS)
    proxy.swallow = True
    began = time.monotonic()
    answers = await asyncio.gather(*(fleet.sighting() for _ in range(20)), return_exceptions=True)
    assert time.monotonic() - began < HEARTBEAT.deadline_s + 1
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    proxy.swallow = False
    assert not (await fleet.sighting()).lost
    await link.close()


async def test_a_connection_cut_before_the_server_heard_is_tried_again(proxy: TcpProxy, link: RedisLink) -> None:
    jobs = RedisJobStore(link, KEYS)
    await jobs.create(a_spec("j0"), NOW)
    proxy.cut = 1
    assert (await jobs.create(a_spec("j1"), NOW)).fresh
    assert proxy.connections == 2


async def test_a_lost_answer_is_asked_for_again_and_is_the_same(proxy: TcpProxy, link: RedisLink) -> None:
    jobs, attempt = RedisJobStore(link, KEYS), an_attempt()
    await jobs.create(a_spec("j0"), NOW)
    proxy.deafen = 1
    created = await jobs.create(a_spec("j1"), NOW)
    assert (created.fresh, created.published) == (True, False)
    proxy.deafen = 1
    (answer,) = await jobs.start([(attempt, a_spec("j1"), NOW)], NOW)
    assert (answer.verdict, answer.job.attempts) == ("started", 1)
    proxy.deafen = 1
    assert await jobs.finish(attempt, an_outcome(), NOW)
    proxy.deafen = 1
    assert (await jobs.cancel("j0", NOW)).state is JobState.CANCELLED
    assert proxy.deafen == 0


async def test_a_connection_that_is_cut_every_time_is_an_outage_and_nothing_is_half_done(
    proxy: TcpProxy, link: RedisLink
) -> None:
    jobs = RedisJobStore(link, KEYS)
    await jobs.create(a_spec("j0"), NOW)
    proxy.cut = 1000
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{proxy.port}"):
        await jobs.create(a_spec("j1"), NOW)
    proxy.cut = 0
    assert [job.id for job in (await jobs.page(None, None, 10, None)).jobs] == ["j0"]
    assert (await jobs.demand())[0].queued == 1


async def test_a_killed_server_is_an_outage_until_it_is_back(server: PrivateRedis) -> None:
    link = RedisLink(server.url)
    jobs = RedisJobStore(link, KEYS)
    await jobs.create(a_spec(), NOW)
    server.stop()
    with pytest.raises(StoreUnavailable):
        await jobs.get("j1")
    server.start()
    assert (await jobs.get("j1")).state is JobState.QUEUED
    await link.close()


async def test_a_call_that_is_cancelled_leaves_no_answer_for_the_next_one(proxy: TcpProxy, link: RedisLink) -> None:
    jobs = RedisJobStore(link, KEYS)
    await jobs.create(a_spec("j0"), NOW)
    proxy.swallow = True
    call = asyncio.ensure_future(jobs.get("j0"))
    await asyncio.wait([call], timeout=0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    proxy.swallow = False
    assert not await jobs.unpublished(NOW - 1, 10)
    assert (await jobs.get("j0")).id == "j0"


async def test_a_full_server_says_what_to_do_and_keeps_its_invariants(server: PrivateRedis) -> None:
    link = RedisLink(server.url)
    jobs, attempt = RedisJobStore(link, KEYS), an_attempt("j0")
    await jobs.create(a_spec("j0"), NOW)
    await jobs.start([(attempt, a_spec("j0"), NOW)], NOW)
    async with link.guard() as client:
        await client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="raise its maxmemory"):
        await jobs.create(a_spec("j1"), NOW)
    # What is under way may still end, and be read: that is what makes room again.
    assert await jobs.finish(attempt, an_outcome(), NOW)
    assert [job.state for job in (await jobs.page(None, None, 10, None)).jobs] == [JobState.SUCCEEDED]
    assert not await jobs.demand()
    await link.close()


async def test_a_replica_is_told_from_a_primary(server: PrivateRedis) -> None:
    link = RedisLink(server.url)
    (port,) = free_ports(1)
    async with link.guard() as client:
        await client.replicaof("127.0.0.1", port)
    with pytest.raises(StoreUnavailable, match="point REDIS_URL to the primary"):
        await RedisJobStore(link, KEYS).create(a_spec(), NOW)
    await link.close()


async def test_a_listener_gets_a_hint_after_its_connection_was_lost(proxy: TcpProxy, link: RedisLink) -> None:
    fleet = RedisFleetStore(link, KEYS)
    async with asyncio.timeout(20), aclosing(fleet.wakes()) as hints:
        await anext(hints)
        await proxy.drop()
        await anext(hints)
        await fleet.wake()
        await anext(hints)


async def test_a_listener_notices_that_the_other_end_has_vanished(proxy: TcpProxy, link: RedisLink) -> None:
    fleet = RedisFleetStore(link, KEYS, silence_s=0.1)
    async with asyncio.timeout(20), aclosing(fleet.wakes()) as hints:
        await anext(hints)
        waiting = asyncio.ensure_future(anext(hints))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done, "a quiet server that answers is no lost one"
        assert proxy.connections == 1
        proxy.swallow = True
        while proxy.connections == 1:
            await asyncio.wait([waiting], timeout=0.05)
        proxy.swallow = False
        await waiting


async def test_a_listener_outlives_a_restart_of_the_server(server: PrivateRedis) -> None:
    link = RedisLink(server.url)
    fleet = RedisFleetStore(link, KEYS)
    async with asyncio.timeout(30), aclosing(fleet.wakes()) as hints:
        await anext(hints)
        waiting = asyncio.ensure_future(anext(hints))
        await asyncio.to_thread(server.restart)
        await waiting
    await link.close()


async def test_a_reader_of_events_loses_none_when_its_connection_is_lost(proxy: TcpProxy, server: PrivateRedis) -> None:
    writer, reader = RedisLink(server.url), RedisLink(f"redis://127.0.0.1:{proxy.port}/0")
    events = RedisEventStream(writer, KEYS)
    seen: list[str] = []
    async with asyncio.timeout(30), aclosing(RedisEventStream(reader, KEYS).read("0-0")) as stream:
        await events.emit("k", NOW, {"n": "0"})
        async for event in stream:
            seen.append(event.fields["n"])
            if len(seen) == 5:
                break
            await proxy.drop()
            await events.emit("k", NOW, {"n": str(len(seen))})
    assert seen == ["0", "1", "2", "3", "4"]
    await writer.close()
    await reader.close()


async def test_a_waiting_reader_is_not_left_behind_when_ids_begin_again(server: PrivateRedis) -> None:
    link = RedisLink(server.url)
    async with asyncio.timeout(20), aclosing(RedisEventStream(link, KEYS).read("0-0")) as stream:
        async with link.guard() as client:
            await client.xadd(KEYS.events, {"kind": "old", "at": "1.0"}, id="9999999999999-0")
        assert (await anext(stream)).kind == "old"
        waiting = asyncio.ensure_future(anext(stream))
        async with link.guard() as client:
            await client.flushdb()
            await client.xadd(KEYS.events, {"kind": "new", "at": "2.0"}, id="5-0")
        assert (await waiting).kind == "new"
    await link.close()


async def test_readiness_warns_of_settings_that_lose_jobs(server: PrivateRedis) -> None:
    link = RedisLink(server.url)
    assert await check_store(link) == []
    async with link.guard() as client:
        await client.config_set("appendonly", "no")
        await client.config_set("maxmemory-policy", "allkeys-lru")
    warnings = await check_store(link)
    assert len(warnings) == 2
    assert "appendonly" in warnings[0]
    assert "allkeys-lru" in warnings[1]
    assert all(link.address in warning for warning in warnings)
    await link.close()

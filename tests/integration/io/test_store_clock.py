"""Two machines whose clocks are ten minutes apart, on one real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from affinity.io.clock import StoreClock, store_clock
from affinity.io.job_store import RedisJobStore
from affinity.io.ports import Verdict
from affinity.io.redis_client import RedisLink
from affinity.topology import Keys
from tests.support.job_samples import a_spec, an_attempt

APART_S = 600.0
CLOSE_S = 0.5
"""Far less than the clocks are apart, far more than a busy machine needs for a round trip."""


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    opened = RedisLink(redis_url)
    yield opened
    await opened.close()


@pytest.fixture
async def clocks(link: RedisLink) -> tuple[StoreClock, StoreClock]:
    """One that is slow and one that is fast, both set."""
    slow = store_clock(link, lambda: time.time() - APART_S / 2)
    fast = store_clock(link, lambda: time.time() + APART_S / 2)
    assert fast.now() - slow.now() == pytest.approx(APART_S, abs=CLOSE_S)
    await slow.align()
    await fast.align()
    return slow, fast


async def test_both_have_the_servers_time(clocks: tuple[StoreClock, StoreClock]) -> None:
    slow, fast = clocks
    assert slow.now() == pytest.approx(time.time(), abs=CLOSE_S)
    assert fast.now() == pytest.approx(slow.now(), abs=CLOSE_S)


async def test_a_machine_with_the_servers_time_keeps_its_own(link: RedisLink) -> None:
    clock = store_clock(link)
    before_s = clock.now() - clock.monotonic()
    for _ in range(20):
        await clock.align()
    assert clock.now() - clock.monotonic() == pytest.approx(before_s, abs=1e-3)


async def test_a_job_of_the_one_is_as_old_as_it_is_to_the_other(
    link: RedisLink, namespace: str, clocks: tuple[StoreClock, StoreClock]
) -> None:
    store = RedisJobStore(link, Keys(namespace))
    for number, (dispatcher, worker) in enumerate([clocks, clocks[::-1]]):
        spec = a_spec(f"j{number}", f"m{number}", ttl_s=60.0)
        await store.create(spec, dispatcher.now())
        await store.published(spec.id)
        (waiting,) = await store.demand()
        assert waiting.summed_wait_s(worker.now()) == pytest.approx(0.0, abs=CLOSE_S)
        assert worker.now() - waiting.oldest_at > -CLOSE_S
        (answer,) = await store.start([(an_attempt(spec.id), spec, dispatcher.now())], worker.now())
        assert answer.verdict is Verdict.STARTED, "it has a minute to wait, and its worker's clock is ten ahead"
        assert answer.job.wait_s == pytest.approx(0.0, abs=CLOSE_S)


async def test_a_clock_is_set_as_soon_as_there_is_a_store(link: RedisLink, redis_url: str) -> None:
    away = RedisLink("redis://127.0.0.1:1/")
    links = [away, link]

    async def ask() -> float:
        seconds, microseconds = await links[0].call("TIME")
        return int(seconds) + int(microseconds) / 1e6

    clock = StoreClock(ask, lambda: time.time() - APART_S)
    keeping = asyncio.create_task(clock.keep_aligned())
    await asyncio.sleep(0.3)  # Long enough for the first look to fail.
    assert clock.now() < time.time() - APART_S / 2
    del links[0]
    async with asyncio.timeout(10):
        while clock.now() < time.time() - CLOSE_S:  # noqa: ASYNC110 - nothing tells when it has been set
            await asyncio.sleep(0.05)
    keeping.cancel()
    await away.close()

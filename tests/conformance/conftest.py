"""Redis and the broker, fake and real, behind fixtures: what a test shows of one it shows of the others."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from affinity.io.clock import store_clock
from affinity.io.events import RedisEventStream
from affinity.io.fleet_store import RedisFleetStore
from affinity.io.job_store import RETENTION_S, RedisJobStore
from affinity.io.ports import Intake
from affinity.io.redis_client import RedisLink
from affinity.topology import Keys, Topology
from tests.support.broker_samples import BrokerWorld
from tests.support.broker_worlds import MakeWorld, fake_world, real_world
from tests.support.clock import FakeClock
from tests.support.fake_stores import FakeStores
from tests.support.stores import Stores, StutteringLink

MAX_RESULT_BYTES = 1000


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    opened = RedisLink(redis_url)
    yield opened
    await opened.close()


@pytest.fixture
async def stuttering_link(redis_url: str) -> AsyncIterator[RedisLink]:
    opened = StutteringLink(redis_url)
    yield opened
    await opened.close()


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


@pytest.fixture
def fake_stores() -> Stores:
    clock = FakeClock()
    world = FakeStores(clock, max_result_bytes=MAX_RESULT_BYTES)

    async def expire(kind: str, name: str) -> None:
        if kind == "job":
            clock.advance(RETENTION_S)
        else:
            world.drop(kind, name)

    return Stores(world.jobs, world.fleet, world.events, clock, expire, MAX_RESULT_BYTES)


@pytest.fixture
def redis_stores(link: RedisLink, keys: Keys) -> Stores:
    return real_stores(link, keys)


@pytest.fixture
def stuttering_stores(stuttering_link: RedisLink, keys: Keys) -> Stores:
    return real_stores(stuttering_link, keys)


def real_stores(link: RedisLink, keys: Keys) -> Stores:
    """The stores of a real server, on the system's clock."""

    async def expire(kind: str, name: str) -> None:
        async with link.guard() as client:
            await client.delete(f"{keys.prefix}{kind}:{name}")

    jobs = RedisJobStore(link, keys, max_result_bytes=MAX_RESULT_BYTES)
    fleet, events = RedisFleetStore(link, keys), RedisEventStream(link, keys)
    return Stores(jobs, fleet, events, store_clock(link), expire, MAX_RESULT_BYTES)


@pytest.fixture(params=["fake", "redis", "stuttering"])
def stores(request: pytest.FixtureRequest) -> Stores:
    """``stuttering`` is a real server whose every first answer is lost, so that the client asks again."""
    answer = request.getfixturevalue(f"{request.param}_stores")
    assert isinstance(answer, Stores)
    return answer


@pytest.fixture(params=["fake", "rabbitmq"])
async def make_world(request: pytest.FixtureRequest) -> AsyncIterator[MakeWorld]:
    """Makes a world; ``away`` has it begin with an outage."""
    url = "" if request.param == "fake" else str(request.getfixturevalue("rabbitmq_url"))
    namespace = "fake" if request.param == "fake" else str(request.getfixturevalue("namespace"))
    async with AsyncExitStack() as stack:

        async def make(model_ttl_s: float = 600.0, away: bool = False) -> BrokerWorld:
            topology = Topology(namespace, model_ttl_s=model_ttl_s)
            return await real_world(topology, away, url, stack) if url else fake_world(topology, away)

        yield make


@pytest.fixture
async def world(make_world: MakeWorld) -> BrokerWorld:
    return await make_world()


@pytest.fixture
def intake(world: BrokerWorld) -> Intake:
    return world.intake("w1")

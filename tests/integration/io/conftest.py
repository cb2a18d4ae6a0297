"""A broker that can be cut off, fallen silent or made to refuse: a real one behind a proxy."""

from collections.abc import AsyncIterator

import pytest
from aio_pika.connection import make_url

from affinity.io.rabbit import Rabbit
from affinity.topology import Topology
from tests.support.rabbit_waits import HEARTBEAT_S, up
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(make_url(rabbitmq_url).port or 5672) as started:
        yield started


@pytest.fixture
def topology(namespace: str) -> Topology:
    return Topology(namespace)


@pytest.fixture
async def rabbit(rabbitmq_url: str, proxy: TcpProxy, topology: Topology) -> AsyncIterator[Rabbit]:
    """Connected through the proxy."""
    url = make_url(rabbitmq_url).with_port(proxy.port).update_query(heartbeat=HEARTBEAT_S)
    opened = Rabbit(str(url), topology, "faults")
    await opened.open()
    await up(opened)
    yield opened
    await opened.close()

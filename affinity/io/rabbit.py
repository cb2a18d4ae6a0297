"""The connections to RabbitMQ, kept up, with the fixed part of the topology declared.

aio-pika's robust objects restore what they once did, also what was undone since; so nothing here is robust. The state
we want is ours to know: after each reconnect the topology is declared again and every intake applies its bindings and
consumers again. Publishing, control and consuming have channels of their own, since an RPC holds its channel's lock.

Publishing has a connection of its own, too. A broker short of memory or disk stops reading from whoever publishes; on
the same connection it would not hear our acks any more, and never get rid of what it is short of room for.

Of a cluster any node will do, and both connections are to the same one. Each process begins with a node of its own
choice, so that connections, and the leaders of the queues that are declared over them, are spread; whoever loses its
node goes on to the next, and stays there.
"""

import asyncio
import contextlib
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from affinity.errors import BrokerUnavailable
from affinity.io.rabbit_intake import RabbitIntake
from affinity.io.rabbit_publisher import RabbitPublisher
from affinity.io.server_urls import each_host
from affinity.topology import Topology

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 5.0
RPC_TIMEOUT_S = 10.0
DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
HEARTBEAT_S = 10
"""A black-holed connection is noticed within two of these; the broker's default would take minutes."""

PUBLISH = "publish"
"""The purpose of the channel that publishes."""

RENEW_EVERY_S = 1.0
RETIRED_MOST = 12
"""Old channels that publish nothing new: more of them than a publish may last seconds, so that the oldest is idle."""

BLOCKED_RETRY_S = 5.0
"""When to try again while an alarm lasts: somebody has to make room first."""

RETRY_FIRST_S = 0.2
RETRY_MOST_S = 5.0
"""The pause between two attempts doubles whenever all nodes have been tried in vain, up to this."""


class Rabbit:
    """The connections, the publisher and the intakes.

    ``name`` is shown in the broker's list of connections. ``open`` returns at once; while the broker is away every
    call raises ``BrokerUnavailable`` and a task goes on trying. ``url`` may name several nodes of one cluster.
    """

    def __init__(self, url: str, topology: Topology, name: str) -> None:
        self.topology = topology
        self.publisher = RabbitPublisher(self)
        nodes = each_host(url)
        first = random.randrange(len(nodes))
        self._nodes = nodes[first:] + nodes[:first]
        self._node = self._nodes[0]
        self._name = name
        self._connection: AbstractConnection | None = None
        self._publishing: AbstractConnection | None = None
        self._channels: dict[str, AbstractChannel] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._retired: deque[AbstractChannel] = deque()
        self._renew_at = 0.0
        self._intakes: list[RabbitIntake] = []
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()

    async def open(self) -> None:
        """Start to connect, and to reconnect for ever."""
        self._task = asyncio.create_task(self._supervise(), name="rabbit")

    async def close(self) -> None:
        """Close the connection and stop reconnecting. What was not settled goes back to its queue."""
        while self._task and not self._task.done():
            # Once may not do: the client library can turn a cancelled call into an error of its own.
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=RETRY_FIRST_S)
        await self._drop()

    async def wait_up(self) -> None:
        """Return once connected and declared."""
        await self._up.wait()

    def intake(self, worker: str) -> RabbitIntake:
        """The consuming side of one worker."""
        intake = RabbitIntake(self, worker)
        self._intakes.append(intake)
        return intake

    def retire(self, intake: RabbitIntake) -> None:
        """Forget an intake: nothing is applied for it after a reconnect."""
        if intake in self._intakes:
            self._intakes.remove(intake)

    async def channel(
        self,
        purpose: str,
        prepare: Callable[[AbstractChannel], Awaitable[None]] | None = None,
        on_return_raises: bool = False,
    ) -> AbstractChannel:
        """The channel kept for a purpose, opened anew where it was closed. A strong reference is kept here.

        For ``PUBLISH`` it raises what ``refuse_if_blocked`` does.
        """
        if purpose == PUBLISH:
            self.refuse_if_blocked()
        async with self._opening.setdefault(purpose, asyncio.Lock()):
            channel = self._channels.get(purpose)
            if channel is None or channel.is_closed:
                connection = self._publishing if purpose == PUBLISH else self._connection
                if connection is None or not self._up.is_set():
                    raise BrokerUnavailable(f"RabbitMQ is not connected ({self.address}); trying again")
                channel = await asyncio.wait_for(
                    connection.channel(publisher_confirms=on_return_raises, on_return_raises=on_return_raises),
                    RPC_TIMEOUT_S,
                )
                if prepare:
                    await prepare(channel)
                self._channels[purpose] = channel
            return channel

    def refuse_if_blocked(self) -> None:
        """Raise ``BrokerUnavailable`` while the broker reads nothing that we publish: waiting would only time out."""
        if self._up.is_set() and self._publishing is not None and _is_blocked(self._publishing):
            raise BrokerUnavailable(
                f"RabbitMQ ({self.address}) is short of memory or disk and takes no jobs until it has room again",
                BLOCKED_RETRY_S,
            )

    async def renew(self, failed: AbstractChannel) -> None:
        """Have the next publish use a new channel, since a publish on this one was not confirmed.

        A channel that first publishes to a queue while its leader is dead, and no other is elected yet, goes on asking
        the dead one for ever (seen on 3.10). What is under way on the old channel may end there.
        """
        now_s = asyncio.get_running_loop().time()
        if self._channels.get(PUBLISH) is failed and now_s >= self._renew_at:
            self._renew_at = now_s + RENEW_EVERY_S
            self._retired.append(self._channels.pop(PUBLISH))
            if len(self._retired) > RETIRED_MOST:
                await _close(self._retired.popleft())

    async def drop_channel(self, purpose: str) -> None:
        """Close a purpose's channel, if open."""
        channel = self._channels.pop(purpose, None)
        if channel is not None:
            await _close(channel)

    @contextlib.asynccontextmanager
    async def scratch(self) -> AsyncIterator[AbstractChannel]:
        """A channel for one question whose answer may be an error that closes it."""
        if self._connection is None or not self._up.is_set():
            raise BrokerUnavailable(f"RabbitMQ is not connected ({self.address}); trying again")
        channel = await asyncio.wait_for(self._connection.channel(publisher_confirms=False), RPC_TIMEOUT_S)
        try:
            yield channel
        finally:
            if not channel.is_closed:
                await channel.close()

    @contextlib.contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """The one place where the client's exceptions become ours."""
        try:
            yield
        except (TimeoutError, *aio_pika.exceptions.CONNECTION_EXCEPTIONS) as error:
            raise BrokerUnavailable(
                f"RabbitMQ ({self.address}) failed while {doing}: {error or type(error)}"
            ) from error

    @property
    def address(self) -> str:
        """Host and port of the node we are connected to, else of all, without the password."""
        return ", ".join(_address(node) for node in ([self._node] if self._up.is_set() else self._nodes))

    async def _supervise(self) -> None:
        delay_s, failures = RETRY_FIRST_S, 0
        for node in itertools.cycle(self._nodes):
            self._node = node
            try:
                closed = await self._connect()
                delay_s, failures = RETRY_FIRST_S, 0
                await closed
                log.warning("broker.lost", address=_address(node))
            except (TimeoutError, *aio_pika.exceptions.CONNECTION_EXCEPTIONS, BrokerUnavailable) as error:
                log.warning("broker.unreachable", address=_address(node), error=str(error), retry_s=delay_s)
            await self._drop()
            await asyncio.sleep(delay_s)
            failures += 1
            if failures % len(self._nodes) == 0:
                delay_s = min(delay_s * 2, RETRY_MOST_S)

    async def _connect(self) -> asyncio.Future[None]:
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_close(*_: object) -> None:
            if not closed.done():
                closed.set_result(None)

        connection = self._connection = await self._dial(self._name, on_close)
        self._publishing = await self._dial(f"{self._name}, publishing", on_close)
        await asyncio.wait_for(self._declare(connection), RPC_TIMEOUT_S)
        self._up.set()
        for intake in self._intakes:
            await intake.apply()
        log.info("broker.connected", address=self.address)
        return closed

    async def _dial(self, name: str, on_close: Callable[..., None]) -> AbstractConnection:
        url = aio_pika.connection.make_url(self._node)
        connection = await aio_pika.connect(
            url if "heartbeat" in url.query else url.update_query(heartbeat=HEARTBEAT_S),
            timeout=CONNECT_TIMEOUT_S,
            client_properties={"connection_name": name},
        )
        connection.close_callbacks.add(on_close)
        return connection

    async def _declare(self, connection: AbstractConnection) -> None:
        names = self.topology
        async with connection.channel(publisher_confirms=False) as channel:
            for name, arguments in ((names.dead, names.dead_arguments), (names.fallback, names.fallback_arguments)):
                exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.FANOUT, durable=True)
                queue = await channel.declare_queue(name, durable=True, arguments=dict(arguments))
                await queue.bind(exchange)
            await channel.declare_exchange(
                names.jobs_exchange,
                aio_pika.ExchangeType.TOPIC,
                durable=True,
                arguments=dict(names.jobs_exchange_arguments),
            )

    async def _drop(self) -> None:
        self._up.clear()
        self._channels.clear()
        self._retired.clear()
        connections = [each for each in (self._publishing, self._connection) if each is not None]
        self._publishing = self._connection = None
        for connection in connections:
            with contextlib.suppress(*aio_pika.exceptions.CONNECTION_EXCEPTIONS, asyncio.TimeoutError):
                await asyncio.wait_for(connection.close(), CONNECT_TIMEOUT_S)


async def _close(channel: AbstractChannel) -> None:
    if not channel.is_closed:
        with contextlib.suppress(*aio_pika.exceptions.CONNECTION_EXCEPTIONS, asyncio.TimeoutError):
            await channel.close()


def _address(url: str) -> str:
    parts = aio_pika.connection.make_url(url)
    return f"{parts.host}:{parts.port or DEFAULT_PORTS.get(parts.scheme, 5672)}"


def _is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has said ``connection.blocked``. The client keeps that to itself, but waits in ``ready``."""
    if connection.transport is None:
        return False
    waiting = connection.transport.connection.ready()
    try:
        waiting.send(None)
    except StopIteration:
        return False
    waiting.close()
    return True

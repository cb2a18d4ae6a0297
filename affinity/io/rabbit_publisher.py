"""Confirmed publishing to the jobs exchange, into model queues (parking) and to the dead letters."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, HeadersType

from affinity.errors import BrokerUnavailable
from affinity.io.ports import DeadLetter
from affinity.io.rabbit_buried import RabbitBuried
from affinity.job import JobSpec
from affinity.topology import PERSISTENT, lane
from affinity.tracing import NO_TRACE, TraceContext
from affinity.wire import encode_message

if TYPE_CHECKING:
    from affinity.io.rabbit import Rabbit

PUBLISH_TIMEOUT_S = 10.0
IN_FLIGHT = 256
"""Unconfirmed publishes on the channel; more only makes confirms slower."""

IN_FLIGHT_PER_KEY = 64
"""Of those, under one routing key. Once one of them was not confirmed in time there is only one, until one is: a queue
that takes nothing must not take up the room of all others."""

MAX_REASON = 2000
MAX_SHORT = 255
"""Bytes in a routing key, the broker's own limit."""

PARKED_HEADER = "affinity-parked"
ALONE_HEADER = "affinity-alone"
RETRY_HEADER = "affinity-retry"
LIFE_HEADER = "affinity-life"
CODE_HEADER = "affinity-code"


class RabbitPublisher:
    """The ``Publisher`` port. A publish whose outcome is unknown (timeout, lost connection) raises."""

    def __init__(self, rabbit: "Rabbit") -> None:
        self._rabbit = rabbit
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._declared: set[str] = set()
        self._ways: dict[str, _Way] = {}

    async def publish(self, spec: JobSpec, created_at: float, trace: TraceContext = NO_TRACE) -> None:
        """To the jobs exchange, keyed by lane; what nobody has bound goes to fallback by the alternate exchange."""
        message = _message(encode_message(spec, created_at), spec.id, {**trace})
        await self._send(self._rabbit.topology.jobs_exchange, lane(spec.model, spec.tenant), message)

    async def park(self, spec: JobSpec, created_at: float, alone: bool = False, trace: TraceContext = NO_TRACE) -> None:
        """Into its lane's queue. Headers of earlier trips (``x-death`` ...) are not carried over."""
        name = lane(spec.model, spec.tenant)
        queue = self._rabbit.topology.model_queue(name)
        await self.declare_once(name)
        message = _message(encode_message(spec, created_at), spec.id, {**trace, PARKED_HEADER: 1, **_again(alone)})
        try:
            await self._send("", queue, message)
        except BrokerUnavailable:
            # The queue may have been deleted by an operator since we declared it: declare it again next time.
            self._declared.discard(queue)
            raise

    async def delay(
        self, spec: JobSpec, created_at: float, wait_s: float, alone: bool, trace: TraceContext = NO_TRACE
    ) -> None:
        """Into a queue from which the broker itself sends it on to the jobs exchange when its time is over.

        It keeps the lane as routing key, and begins without a past: with the headers of earlier trips (``x-death``)
        the broker might take it for one that goes round in circles.
        """
        name = self._rabbit.topology.retry(wait_s)
        if name not in self._declared:
            await self._declare_retry(name, wait_s)
        message = _message(encode_message(spec, created_at), spec.id, {**trace, RETRY_HEADER: 1, **_again(alone)})
        try:
            await self._send(name, lane(spec.model, spec.tenant), message)
        except BrokerUnavailable:
            self._declared.discard(name)
            raise

    async def publish_raw(self, body: bytes, routing_key: str, message_id: str | None) -> None:
        """To the jobs exchange, as a foreign client would; ``message_id`` may be the id of a job in it."""
        message = aio_pika.Message(body, delivery_mode=PERSISTENT, message_id=message_id or uuid.uuid4().hex)
        await self._send(self._rabbit.topology.jobs_exchange, routing_key, message)

    async def take_dead(self, most: int) -> Sequence[RabbitBuried]:
        """Up to ``most`` dead letters, by ``basic.get``; each is to be settled."""
        taken: list[RabbitBuried] = []
        with self._rabbit.translated("taking dead letters"):
            channel = await self._rabbit.channel("dead")
            queue = await channel.get_queue(self._rabbit.topology.dead, ensure=False)
            while len(taken) < most:
                message = await queue.get(fail=False, timeout=PUBLISH_TIMEOUT_S)
                if message is None:
                    break
                taken.append(RabbitBuried(message))
        return taken

    async def bury(self, letter: DeadLetter) -> None:
        """Into the dead letters, with the reason in the headers."""
        headers: HeadersType = {
            **letter.headers,
            CODE_HEADER: letter.code,
            "affinity-reason": _plain(letter.reason, MAX_REASON),
            "affinity-model": _plain(letter.model, MAX_SHORT),
            "affinity-worker": letter.worker,
        }
        message = _message(letter.body, letter.message_id, headers)
        await self._send(self._rabbit.topology.dead, _plain(letter.model, MAX_SHORT), message)

    async def ping(self) -> None:
        """Ask the broker for the fallback queue; raises ``BrokerUnavailable``, also while it takes no jobs."""
        self._rabbit.refuse_if_blocked()
        if await self.depth(self._rabbit.topology.fallback) is None:
            raise BrokerUnavailable("RabbitMQ answers, but the fallback queue is gone: restart the dispatcher")

    async def depth(self, queue: str) -> int | None:
        """Ready messages in a queue; ``None`` where there is none (a 404 closes the channel it was asked on)."""
        with self._rabbit.translated("asking for a queue's depth"):
            async with self._rabbit.scratch() as channel:
                try:
                    declared = await channel.declare_queue(queue, passive=True, timeout=PUBLISH_TIMEOUT_S)
                except aio_pika.exceptions.ChannelNotFoundEntity:
                    return None
                return declared.declaration_result.message_count

    async def unbind(self, model: str, worker: str) -> None:
        """Remove a worker's binding of a model's queue; one that is not there is no error."""
        names = self._rabbit.topology
        with self._rabbit.translated("unbinding a queue"):
            channel = await self._rabbit.channel("control")
            queue = await channel.get_queue(names.model_queue(model), ensure=False)
            await queue.unbind(
                names.jobs_exchange, model, arguments=dict(names.binding_arguments(worker)), timeout=PUBLISH_TIMEOUT_S
            )

    async def declare_model_queue(self, model: str) -> None:
        """Make sure the model's queue exists."""
        queue = self._rabbit.topology.model_queue(model)
        with self._rabbit.translated("declaring a model's queue"):
            channel = await self._rabbit.channel("control")
            arguments: dict[str, Any] = dict(self._rabbit.topology.model_queue_arguments)
            await channel.declare_queue(queue, durable=True, arguments=arguments, timeout=PUBLISH_TIMEOUT_S)
        self._declared.add(queue)

    async def declare_once(self, model: str) -> None:
        """``declare_model_queue``, unless that has been done."""
        if self._rabbit.topology.model_queue(model) not in self._declared:
            await self.declare_model_queue(model)

    async def _declare_retry(self, name: str, wait_s: float) -> None:
        """Each wait has an exchange, which takes any routing key, and one queue behind it."""
        with self._rabbit.translated("declaring a retry queue"):
            channel = await self._rabbit.channel("control")
            arguments: dict[str, Any] = dict(self._rabbit.topology.retry_arguments(wait_s))
            exchange = await channel.declare_exchange(
                name, aio_pika.ExchangeType.FANOUT, durable=True, timeout=PUBLISH_TIMEOUT_S
            )
            queue = await channel.declare_queue(name, durable=True, arguments=arguments, timeout=PUBLISH_TIMEOUT_S)
            await queue.bind(exchange, timeout=PUBLISH_TIMEOUT_S)
        self._declared.add(name)

    async def _send(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        # One way for each queue it may end in: a wait or the dead letters are one for all models.
        name = routing_key if exchange in ("", self._rabbit.topology.jobs_exchange) else exchange
        way = self._ways.setdefault(name, _Way())
        way.users += 1
        try:
            with self._rabbit.translated("publishing"):
                self._refuse_if_dumb(way, way.users > 1, name)
                async with way.slots:
                    self._refuse_if_dumb(way, way.flying > 0, name)
                    async with self._slots:
                        channel = await self._rabbit.channel("publish", on_return_raises=True)
                        target = await _exchange(channel, exchange)
                        try:
                            await way.publish(target, message, routing_key)
                        except (TimeoutError, aio_pika.exceptions.DeliveryError):
                            await self._rabbit.renew(channel)
                            raise
        finally:
            way.users -= 1
            if not (way.users or way.dumb):
                del self._ways[name]

    def _refuse_if_dumb(self, way: "_Way", tried: bool, routing_key: str) -> None:
        if way.dumb and tried:
            raise BrokerUnavailable(
                f"RabbitMQ ({self._rabbit.address}) does not confirm what is published for {routing_key}, but may "
                "confirm other jobs: see docs/reliability.md, Known limits"
            )


@dataclass(slots=True)
class _Way:
    """Publishes under one routing key. ``dumb``: one was not confirmed in time, and none has been since."""

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT_PER_KEY))
    users: int = 0
    flying: int = 0
    dumb: bool = False

    async def publish(self, target: AbstractExchange, message: aio_pika.Message, routing_key: str) -> None:
        self.flying += 1
        try:
            await target.publish(message, routing_key, mandatory=True, timeout=PUBLISH_TIMEOUT_S)
            self.dumb = False
        except TimeoutError:
            self.dumb = True
            raise
        finally:
            self.flying -= 1


def _again(alone: bool) -> dict[str, int]:
    return {ALONE_HEADER: 1} if alone else {}


def _plain(text: str, most: int) -> str:
    """Text that every header can carry: what a producer sent may hold halves of surrogate pairs, or no end."""
    return text.encode("ascii", "backslashreplace").decode()[:most]


async def _exchange(channel: AbstractChannel, name: str) -> AbstractExchange:
    return await channel.get_exchange(name, ensure=False) if name else channel.default_exchange


def _message(body: bytes, job_id: str | None, headers: HeadersType) -> aio_pika.Message:
    return aio_pika.Message(
        body,
        headers=headers,
        content_type="application/json",
        delivery_mode=PERSISTENT,
        correlation_id=job_id,
        # A returned message is matched to its publish by message id, so that two publishes of one job need two.
        message_id=uuid.uuid4().hex,
    )

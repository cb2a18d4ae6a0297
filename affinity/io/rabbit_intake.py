"""One worker's consuming side: bindings and consumers as it wants them, applied again after every reconnect."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from pamqp.commands import Basic

from affinity.errors import BrokerUnavailable
from affinity.io.ports import Arrival, Delivery
from affinity.io.rabbit_delivery import RabbitDelivery
from affinity.topology import OF, is_tenants

if TYPE_CHECKING:
    from affinity.io.rabbit import Rabbit

log = structlog.get_logger(__name__)

RPC_TIMEOUT_S = 10.0
RESTORE_AFTER_S = 0.5


@dataclass(slots=True)
class _Consumer:
    """A consumer we want: what it feeds and, while it runs, its tag and the channel and queue it runs on."""

    prefetch: int
    arrival: Arrival
    tag: str = ""
    channel: AbstractChannel | None = None
    queue: AbstractQueue | None = None


class RabbitIntake:
    """The ``Intake`` port. ``apply`` is for the connection's supervisor."""

    def __init__(self, rabbit: "Rabbit", worker: str) -> None:
        self._rabbit = rabbit
        self._worker = worker
        self._bound: set[str] = set()
        # Bindings that are not wanted any more and that the broker, which was away, may still have.
        self._owed: set[str] = set()
        self._consumers: dict[str, _Consumer] = {}
        self._tags = itertools.count()
        self._restoring: asyncio.Task[None] | None = None
        self._prefetch: tuple[AbstractChannel, int] | None = None
        # One RPC at a time: arming, disarming and re-applying would otherwise interleave on the same queue.
        self._lock = asyncio.Lock()

    @property
    def lanes(self) -> frozenset[str]:
        """Tenants' lanes that are bound."""
        return frozenset(filter(is_tenants, self._bound))

    @property
    def owed(self) -> frozenset[str]:
        """Models whose binding is yet to be removed."""
        return frozenset(self._owed)

    async def bind(self, model: str) -> None:
        """Declare and bind. The wish is kept even if the broker is away: it is applied on reconnect."""
        self._bound.add(model)
        self._owed.discard(model)
        async with self._lock:
            await self._bind(model)

    async def unbind(self, model: str) -> None:
        """Withdraw the wish and the binding, those of its lanes too; where the broker is away, they go on reconnect."""
        names = [model, *sorted(name for name in self._bound if name.startswith(model + OF))]
        self._bound.difference_update(names)
        self._owed.update(names)
        async with self._lock:
            for name in names:
                await self._unbind(name)

    async def arm(self, model: str, prefetch: int, arrival: Arrival) -> None:
        """Start a consumer on the model's queue."""
        await self._start(self._rabbit.topology.model_queue(model), _Consumer(prefetch, arrival))

    async def disarm(self, model: str) -> None:
        """Stop the model's consumer, and those of its lanes."""
        queue = self._rabbit.topology.model_queue(model)
        for name in [queue, *(name for name in list(self._consumers) if name.startswith(queue + OF))]:
            await self._stop(name)

    async def consume_fallback(self, prefetch: int, arrival: Arrival) -> None:
        """Start the consumer on fallback."""
        await self._start(self._rabbit.topology.fallback, _Consumer(prefetch, arrival))

    async def stop_fallback(self) -> None:
        """Stop it."""
        await self._stop(self._rabbit.topology.fallback)

    async def take(self, model: str, most: int) -> Sequence[Delivery]:
        """Up to ``most`` waiting deliveries by ``basic.get``."""
        taken: list[Delivery] = []
        if is_tenants(model):  # It has jobs before anybody has bound it.
            await self._rabbit.publisher.declare_once(model)
        with self._rabbit.translated("taking deliveries"):
            # A channel of its own: a queue that is gone closes it, and must not take the consumers along.
            channel = await self._rabbit.channel(f"take {self._worker}")
            queue = await channel.get_queue(self._rabbit.topology.model_queue(model), ensure=False)
            while len(taken) < most:
                message = await queue.get(fail=False, timeout=RPC_TIMEOUT_S)
                if message is None:
                    break
                taken.append(RabbitDelivery(message))
        return taken

    async def close(self) -> None:
        """Close the channel; the broker requeues what was not settled."""
        self._consumers.clear()
        self._bound.clear()
        self._rabbit.retire(self)
        await self._rabbit.drop_channel(f"take {self._worker}")
        await self._rabbit.drop_channel(self._purpose)

    async def apply(self) -> None:
        """Make the broker's state the wanted one: every binding, then every consumer, on a new channel."""
        async with self._lock:
            with self._rabbit.translated("restoring a worker's consumers"):
                for model in sorted(self._owed):
                    await self._unbind(model)
                for model in sorted(self._bound):
                    await self._bind(model)
                for name, consumer in list(self._consumers.items()):
                    await self._consume(name, consumer)

    @property
    def _purpose(self) -> str:
        return f"intake {self._worker}"

    async def _channel(self) -> AbstractChannel:
        return await self._rabbit.channel(self._purpose, self._watch)

    async def _watch(self, channel: AbstractChannel) -> None:
        """Consumers that end without our wish are started again: all when the channel is closed by an error, one when
        the broker cancels it (its queue was deleted, or its leader is gone).
        """

        def on_close(*_: object) -> None:
            self._restore_later()

        def on_cancel(frame: Basic.Cancel) -> None:
            for consumer in self._consumers.values():
                if consumer.tag == frame.consumer_tag:
                    consumer.channel = None
            self._restore_later()

        channel.close_callbacks.add(on_close)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(on_cancel)

    def _restore_later(self) -> None:
        if self._consumers and (self._restoring is None or self._restoring.done()):
            self._restoring = asyncio.get_running_loop().create_task(self._restore(), name=f"restore {self._worker}")

    async def _restore(self) -> None:
        # A queue that stays away closes the channel at each try: without a pause that would be a busy loop.
        await asyncio.sleep(RESTORE_AFTER_S)
        try:
            await self.apply()
        except BrokerUnavailable as error:
            # Where the whole connection is gone its supervisor applies everything once it is back.
            log.info("intake.waits", worker=self._worker, error=error.message)

    async def _bind(self, model: str) -> None:
        names = self._rabbit.topology
        await self._rabbit.publisher.declare_model_queue(model)
        with self._rabbit.translated("binding a model's queue"):
            channel = await self._rabbit.channel("control")
            queue = await channel.get_queue(names.model_queue(model), ensure=False)
            await queue.bind(
                names.jobs_exchange,
                model,
                arguments=dict(names.binding_arguments(self._worker)),
                timeout=RPC_TIMEOUT_S,
            )

    async def _unbind(self, model: str) -> None:
        if model in self._owed:  # Else it is wanted again by now, or was removed while we waited for our turn.
            await self._rabbit.publisher.unbind(model, self._worker)
            if model not in self._bound:
                self._owed.discard(model)

    async def _start(self, name: str, consumer: _Consumer) -> None:
        async with self._lock:
            self._consumers[name] = consumer
            with self._rabbit.translated("starting a consumer"):
                await self._consume(name, consumer)

    async def _consume(self, name: str, consumer: _Consumer) -> None:
        async def on_message(message: AbstractIncomingMessage) -> None:
            await consumer.arrival(RabbitDelivery(message))

        channel = await self._channel()
        if consumer.channel is channel:
            return  # Both a closed channel and a new connection ask for it: a second consumer could never be stopped.
        if self._prefetch != (channel, consumer.prefetch):
            await channel.set_qos(prefetch_count=consumer.prefetch)
            self._prefetch = (channel, consumer.prefetch)
        queue = await channel.get_queue(name, ensure=False)
        # A new tag every time: 3.10 can mix up a tag that is cancelled and used again.
        tag = f"{self._worker}-{next(self._tags)}"
        await queue.consume(on_message, consumer_tag=tag, timeout=RPC_TIMEOUT_S)
        consumer.channel, consumer.queue, consumer.tag = channel, queue, tag

    async def _stop(self, name: str) -> None:
        async with self._lock:
            consumer = self._consumers.pop(name, None)
            if consumer is None or consumer.queue is None or consumer.channel is None or consumer.channel.is_closed:
                return
            with self._rabbit.translated("stopping a consumer"):
                await consumer.queue.cancel(consumer.tag, timeout=RPC_TIMEOUT_S, nowait=False)

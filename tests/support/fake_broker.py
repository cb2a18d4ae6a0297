"""RabbitMQ in memory: our topology, its bindings, queues and consumers behind the broker's three ports.

``tests/conformance/test_broker_*.py`` show that it does what the real server does. What only time does there (a message
expires) is a call here.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace

from affinity.errors import BrokerUnavailable, InvariantBroken
from affinity.io.ports import Arrival, Delivery
from affinity.io.rabbit_publisher import ALONE_HEADER, PARKED_HEADER, RETRY_HEADER
from affinity.topology import OF, Topology, is_tenants
from affinity.tracing import TraceContext, context_in
from tests.support.fake_publisher import FakePublisher


@dataclass(frozen=True, slots=True, eq=False)
class StoredMessage:
    """A message in a queue. ``correlation_id`` is the job's id, ``message_id`` the publish's own."""

    body: bytes
    routing_key: str
    message_id: str
    correlation_id: str | None = None
    headers: Mapping[str, object] = field(default_factory=dict)
    dead_reason: str | None = None
    redelivered: bool = False


@dataclass(slots=True, eq=False)
class _Consumer:
    queue: str
    prefetch: int
    arrival: Arrival
    held: set[StoredMessage] = field(default_factory=set)


class FakeBroker:
    """One server. ``down`` makes every call raise; ``restore`` ends it and carries out the wishes made meanwhile.

    ``now`` is the time by which ``release`` lets delayed messages go; without it ``expire`` does.
    """

    def __init__(self, topology: Topology, now: Callable[[], float] = lambda: 0.0) -> None:
        self.topology = topology
        self.down = False
        self.queues: dict[str, deque[StoredMessage]] = {topology.fallback: deque(), topology.dead: deque()}
        self.bindings: set[tuple[str, str]] = set()
        self.publisher = FakePublisher(self)
        self._intakes: list[FakeIntake] = []
        self._ids = itertools.count(1)
        self._arriving: set[asyncio.Task[None]] = set()
        self._now = now
        self.buried_in_hand: list[StoredMessage] = []
        self._due: dict[StoredMessage, tuple[str, float]] = {}

    def intake(self, worker: str) -> "FakeIntake":
        """The consuming side of one worker."""
        intake = FakeIntake(self, worker)
        self._intakes.append(intake)
        return intake

    def reach(self) -> None:
        """Fail as every call does while the broker is away."""
        if self.down:
            raise BrokerUnavailable("RabbitMQ is not connected (fake:0); trying again")

    def cut(self) -> None:
        """Lose every connection: what is not settled goes back to its queue, and nothing can be asked."""
        self.down = True
        self.queues[self.topology.dead].extendleft(reversed(self.buried_in_hand))
        self.buried_in_hand.clear()
        for intake in self._intakes:
            intake.drop()

    def restore(self) -> None:
        """The broker is back: bindings and consumers are applied again."""
        self.down = False
        for intake in self._intakes:
            intake.apply()
        self.pump()

    def expire(self, queue: str) -> None:
        """The time to live of everything ready in a model's queue is over."""
        names = self.topology
        assert queue not in (names.fallback, names.dead), "only model and retry queues have a time to live"
        for message in tuple(self.queues[queue]):
            if message in self._due:
                self._due[message] = (queue, float("-inf"))
            else:
                self.queues[names.fallback].append(replace(message, dead_reason="expired"))
                self.queues[queue].remove(message)
        self.release()
        self.pump()

    def delay(self, queue: str, wait_s: float, message: StoredMessage) -> None:
        """Keep a message for so long, then send it on to the jobs exchange."""
        self.queues.setdefault(queue, deque()).append(message)
        self._due[message] = (queue, self._now() + wait_s)

    def release(self) -> None:
        """Send on what has been delayed for long enough."""
        for message, (queue, due_at) in tuple(self._due.items()):
            if due_at <= self._now() and not self.down:
                del self._due[message]
                self.queues[queue].remove(message)
                self.route(replace(message, dead_reason="expired"))

    def declare(self, model: str) -> str:
        """Make sure a model's queue exists; its name."""
        name = self.topology.model_queue(model)
        self.queues.setdefault(name, deque())
        return name

    def route(self, message: StoredMessage) -> None:
        """Through the jobs exchange: one copy to the bound queue, or fallback."""
        bound = any(model == message.routing_key for model, _ in self.bindings)
        self.put(self.topology.model_queue(message.routing_key) if bound else self.topology.fallback, message)

    def put(self, queue: str, message: StoredMessage) -> None:
        """Append to a queue."""
        self.queues[queue].append(message)
        self.pump()

    def back(self, queue: str, message: StoredMessage) -> None:
        """A delivery that was not settled, or was requeued, is next again."""
        self.queues[queue].appendleft(replace(message, redelivered=True))

    def message(self, body: bytes, key: str, correlation_id: str | None, **headers: object) -> StoredMessage:
        """A message with an id of its own."""
        return StoredMessage(body, key, f"publish-{next(self._ids)}", correlation_id, headers)

    def pump(self) -> None:
        """Hand what is ready to consumers with room, in turn."""
        if self.down:
            return
        moved = 1
        while moved:  # Every consumer gets one before any gets a second.
            moved = sum(intake.pump_one(name) for intake in self._intakes for name in intake.consumed)

    def spawn(self, arrival: Coroutine[object, object, None]) -> None:
        """Run an arrival in a task of its own, as the client library does."""
        task = asyncio.ensure_future(arrival)
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def retire(self, intake: "FakeIntake") -> None:
        """Forget an intake that is closed."""
        self._intakes.remove(intake)


class FakeIntake:
    """The ``Intake`` port. Its wishes outlive an outage; what it holds unsettled does not."""

    def __init__(self, broker: FakeBroker, worker: str) -> None:
        self._broker = broker
        self._worker = worker
        self._bound: set[str] = set()
        self._owed: set[str] = set()
        self.consumed: dict[str, _Consumer] = {}
        self._held: dict[FakeDelivery, str] = {}

    @property
    def lanes(self) -> frozenset[str]:
        """See the port."""
        return frozenset(filter(is_tenants, self._bound))

    @property
    def owed(self) -> frozenset[str]:
        """See the port."""
        return frozenset(self._owed)

    async def bind(self, model: str) -> None:
        """See the port."""
        self._bound.add(model)
        self._owed.discard(model)
        self._broker.reach()
        self.apply()

    async def unbind(self, model: str) -> None:
        """See the port."""
        names = {model, *(name for name in self._bound if name.startswith(model + OF))}
        self._bound -= names
        self._owed |= names
        self._broker.reach()
        self.apply()

    async def arm(self, model: str, prefetch: int, arrival: Arrival) -> None:
        """See the port."""
        self._start(self._broker.topology.model_queue(model), prefetch, arrival)

    async def disarm(self, model: str) -> None:
        """See the port."""
        queue = self._broker.topology.model_queue(model)
        for name in [queue, *(name for name in self.consumed if name.startswith(queue + OF))]:
            self._stop(name)

    async def consume_fallback(self, prefetch: int, arrival: Arrival) -> None:
        """See the port."""
        self._start(self._broker.topology.fallback, prefetch, arrival)

    async def stop_fallback(self) -> None:
        """See the port."""
        self._stop(self._broker.topology.fallback)

    async def take(self, model: str, most: int) -> Sequence[Delivery]:
        """See the port."""
        self._broker.reach()
        name = self._broker.declare(model) if is_tenants(model) else self._broker.topology.model_queue(model)
        if name not in self._broker.queues:
            raise BrokerUnavailable(f"RabbitMQ (fake:0) failed while taking deliveries: no queue {name}")
        ready = self._broker.queues[name]
        return [self._deliver(name, ready.popleft(), None) for _ in range(min(most, len(ready)))]

    async def close(self) -> None:
        """See the port."""
        self.consumed.clear()
        self._bound.clear()
        self.drop()
        self._broker.retire(self)
        self._broker.pump()

    def apply(self) -> None:
        """Every binding that is wished for, and none that is not any more."""
        self._broker.bindings -= {(model, self._worker) for model in self._owed}
        self._owed.clear()
        for model in self._bound:
            self._broker.declare(model)
            self._broker.bindings.add((model, self._worker))

    def drop(self) -> None:
        """The channel is gone: what was not settled goes back, oldest first."""
        for delivery, queue in reversed(self._held.items()):
            self._broker.back(queue, delivery.message)
        self._held.clear()
        for consumer in self.consumed.values():
            consumer.held.clear()

    def pump_one(self, name: str) -> bool:
        """Deliver one message to the consumer of that queue, if there is one and it has room."""
        consumer, ready = self.consumed[name], self._broker.queues.get(name)
        if not ready or len(consumer.held) >= consumer.prefetch:
            return False
        message = ready.popleft()
        consumer.held.add(message)
        self._broker.spawn(_arrive(consumer, self._deliver(name, message, consumer)))
        return True

    def settle(self, delivery: "FakeDelivery", consumer: _Consumer | None, requeue: bool) -> None:
        """The end of a delivery. One that a lost channel took back is nobody's business any more."""
        queue = self._held.pop(delivery, None)
        if queue is None:
            return
        if consumer is not None:
            consumer.held.discard(delivery.message)
        if requeue:
            self._broker.back(queue, delivery.message)
        self._broker.pump()

    def _deliver(self, queue: str, message: StoredMessage, consumer: _Consumer | None) -> "FakeDelivery":
        delivery = FakeDelivery(message, self, consumer)
        self._held[delivery] = queue
        return delivery

    def _start(self, name: str, prefetch: int, arrival: Arrival) -> None:
        self.consumed[name] = _Consumer(name, prefetch, arrival)
        self._broker.reach()
        self._broker.pump()

    def _stop(self, name: str) -> None:
        # No error while the broker is away: the consumer has gone with the connection, and the wish with this.
        self.consumed.pop(name, None)


class FakeDelivery:
    """The ``Delivery`` port."""

    def __init__(self, message: StoredMessage, intake: FakeIntake, consumer: _Consumer | None) -> None:
        self.message = message
        self.body = message.body
        self.routing_key = message.routing_key
        self.message_id: str | None = message.message_id
        self.parked = PARKED_HEADER in message.headers
        self.dead_reason = message.dead_reason
        self.redelivered = message.redelivered or RETRY_HEADER in message.headers
        self.alone = ALONE_HEADER in message.headers
        self._intake = intake
        self._consumer = consumer
        self._settled = False

    @property
    def trace(self) -> TraceContext:
        """See the port."""
        return context_in(self.message.headers)

    async def ack(self) -> None:
        """See the port."""
        self._settle(requeue=False)

    async def requeue(self) -> None:
        """See the port."""
        self._settle(requeue=True)

    def _settle(self, requeue: bool) -> None:
        if self._settled:
            raise InvariantBroken("a delivery is settled once")
        self._settled = True
        self._intake.settle(self, self._consumer, requeue)


async def _arrive(consumer: _Consumer, delivery: FakeDelivery) -> None:
    await consumer.arrival(delivery)

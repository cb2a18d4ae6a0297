"""The publishing side of ``FakeBroker``, and dead letters that were taken."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from affinity.io.ports import DeadLetter
from affinity.io.rabbit_publisher import ALONE_HEADER, CODE_HEADER, PARKED_HEADER, RETRY_HEADER
from affinity.job import RUNGS_S, JobSpec
from affinity.topology import lane
from affinity.tracing import NO_TRACE, TraceContext
from affinity.wire import encode_message

if TYPE_CHECKING:
    from tests.support.fake_broker import FakeBroker, StoredMessage


class FakePublisher:
    """The ``Publisher`` port."""

    def __init__(self, broker: "FakeBroker") -> None:
        self._broker = broker

    async def publish(self, spec: JobSpec, created_at: float, trace: TraceContext = NO_TRACE) -> None:
        """See the port."""
        self._broker.reach()
        self._broker.route(self._broker.message(encode_message(spec, created_at), _lane(spec), spec.id, **trace))

    async def park(self, spec: JobSpec, created_at: float, alone: bool = False, trace: TraceContext = NO_TRACE) -> None:
        """See the port."""
        self._broker.reach()
        queue = self._broker.declare(_lane(spec))
        body = encode_message(spec, created_at)
        message = self._broker.message(body, queue, spec.id, **{**trace, PARKED_HEADER: 1}, **_alone(alone))
        self._broker.put(queue, message)

    async def delay(
        self, spec: JobSpec, created_at: float, wait_s: float, alone: bool, trace: TraceContext = NO_TRACE
    ) -> None:
        """See the port."""
        self._broker.reach()
        assert wait_s in RUNGS_S, "only these waits have a queue"
        body = encode_message(spec, created_at)
        message = self._broker.message(body, _lane(spec), spec.id, **{**trace, RETRY_HEADER: 1}, **_alone(alone))
        self._broker.delay(self._broker.topology.retry(wait_s), wait_s, message)

    async def publish_raw(self, body: bytes, routing_key: str, message_id: str | None) -> None:
        """See the port."""
        self._broker.reach()
        message = self._broker.message(body, routing_key, None)
        self._broker.route(replace(message, message_id=message_id or message.message_id))

    async def take_dead(self, most: int) -> Sequence["FakeBuried"]:
        """See the port."""
        self._broker.reach()
        ready = self._broker.queues[self._broker.topology.dead]
        return [FakeBuried(ready.popleft(), self._broker) for _ in range(min(most, len(ready)))]

    async def bury(self, letter: DeadLetter) -> None:
        """See the port."""
        self._broker.reach()
        headers: dict[str, object] = {
            **letter.headers,
            CODE_HEADER: letter.code,
            "affinity-reason": letter.reason[:2000],
            "affinity-model": letter.model,
            "affinity-worker": letter.worker,
        }
        message = self._broker.message(letter.body, letter.model, letter.message_id, **headers)
        self._broker.put(self._broker.topology.dead, message)

    async def ping(self) -> None:
        """See the port."""
        self._broker.reach()

    async def depth(self, queue: str) -> int | None:
        """See the port."""
        self._broker.reach()
        ready = self._broker.queues.get(queue)
        return None if ready is None else len(ready)

    async def unbind(self, model: str, worker: str) -> None:
        """See the port."""
        self._broker.reach()
        self._broker.bindings.discard((model, worker))


class FakeBuried:
    """The ``Buried`` port."""

    def __init__(self, message: "StoredMessage", broker: "FakeBroker") -> None:
        self.body = message.body
        self.routing_key = message.routing_key
        self.message_id: str | None = message.message_id
        self.correlation_id = message.correlation_id
        self.headers: Mapping[str, object] = message.headers
        if message.dead_reason:
            self.headers = {**message.headers, "x-last-death-reason": message.dead_reason}
        self._message = message
        self._broker = broker
        broker.buried_in_hand.append(message)

    async def ack(self) -> None:
        """See the port."""
        with suppress(ValueError):  # A lost connection took it back.
            self._broker.buried_in_hand.remove(self._message)


def _lane(spec: JobSpec) -> str:
    return lane(spec.model, spec.tenant)


def _alone(alone: bool) -> dict[str, int]:
    return {ALONE_HEADER: 1} if alone else {}

"""One message in our hands, settled exactly once."""

from typing import TYPE_CHECKING

import structlog
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from affinity.errors import InvariantBroken
from affinity.io.rabbit_publisher import ALONE_HEADER, PARKED_HEADER, RETRY_HEADER
from affinity.tracing import TraceContext, context_in

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger(__name__)


class RabbitDelivery:
    """The ``Delivery`` port around an aio-pika message."""

    def __init__(self, message: AbstractIncomingMessage) -> None:
        headers: Mapping[str, object] = message.headers
        self.body = message.body
        self.routing_key = message.routing_key or ""
        self.message_id = message.message_id
        self.parked = PARKED_HEADER in headers
        reason = headers.get("x-last-death-reason") or headers.get("x-first-death-reason")
        self.dead_reason = None if reason is None else str(reason)
        self.redelivered = bool(message.redelivered) or RETRY_HEADER in headers
        self.alone = ALONE_HEADER in headers
        self._message = message
        self._settled = False

    @property
    def trace(self) -> TraceContext:
        """See the port."""
        return context_in(self._message.headers)

    async def ack(self) -> None:
        """The broker may forget the message."""
        await self._settle("ack")

    async def requeue(self) -> None:
        """Deliver it again, to anybody."""
        await self._settle("requeue")

    async def _settle(self, how: str) -> None:
        if self._settled:
            raise InvariantBroken("a delivery is settled once")
        self._settled = True
        try:
            if how == "ack":
                await self._message.ack()
            else:
                await self._message.reject(requeue=True)
        except CONNECTION_EXCEPTIONS as error:
            # The channel is gone and took the delivery back: it will come again, and the job store knows how far it is.
            log.info("delivery.lost", how=how, message_id=self.message_id, error=str(error))

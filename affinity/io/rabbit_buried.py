"""One message from the dead-letter queue."""

from collections.abc import Mapping
from typing import cast

import structlog
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

log = structlog.get_logger(__name__)


class RabbitBuried:
    """The ``Buried`` port around an aio-pika message."""

    def __init__(self, message: AbstractIncomingMessage) -> None:
        self.body = message.body
        self.routing_key = message.routing_key or ""
        self.message_id = message.message_id
        self.correlation_id = message.correlation_id
        self.headers = cast(Mapping[str, object], message.headers)
        self._message = message

    async def ack(self) -> None:
        """The broker may forget it."""
        try:
            await self._message.ack()
        except CONNECTION_EXCEPTIONS as error:
            # It comes again, and what became of it is on record.
            log.info("letter.lost", error=str(error))

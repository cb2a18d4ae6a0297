"""Deliveries that end in the dead-letter queue, with the reason and the original body."""

import asyncio

import structlog

from affinity.errors import AffinityError, BrokerUnavailable
from affinity.io.ports import DeadLetter, Delivery
from affinity.io.rabbit_publisher import LIFE_HEADER
from affinity.job import Job, JobError
from worker.services import Services

log = structlog.get_logger(__name__)

INSIST_EVERY_S = 1.0


class DeadLetters:
    """Writes them. A delivery is acked once the broker has its letter."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def bury(self, delivery: Delivery, error: AffinityError | JobError, job: Job | None = None) -> None:
        """Into the dead letters; where the broker is away, back to the queue. ``job``: what is in it, if it is one."""
        try:
            await self._bury(delivery, error, job)
        except BrokerUnavailable as unavailable:
            log.warning("letter.handed_back", **_names(delivery, job), code=error.code, error=unavailable.message)
            await delivery.requeue()

    async def bury_failed(self, delivery: Delivery, error: AffinityError | JobError, job: Job) -> None:
        """``bury`` for a job that has been stored as failed: when its delivery comes again, it is only dropped. So the
        letter is written now, however long the broker is away.
        """
        while True:
            try:
                await self._bury(delivery, error, job)
                return
            except BrokerUnavailable as unavailable:
                log.warning("letter.held", **_names(delivery, job), code=error.code, error=unavailable.message)
                await asyncio.sleep(INSIST_EVERY_S)

    async def _bury(self, delivery: Delivery, error: AffinityError | JobError, job: Job | None) -> None:
        letter = DeadLetter(
            body=delivery.body,
            message_id=delivery.message_id,
            code=error.code,
            reason=error.message,
            model=job.spec.model if job else delivery.routing_key,
            worker=self._services.identity.worker,
            headers={LIFE_HEADER: str(job.life)} if job else {},
        )
        await self._services.publisher.bury(letter)
        log.warning("delivery.dead", **_names(delivery, job), code=error.code, message_id=delivery.message_id)
        await delivery.ack()


def _names(delivery: Delivery, job: Job | None) -> dict[str, str]:
    """For a line of the log. What cannot be read has only the model it was sent to."""
    return {"job": job.id, "model": job.spec.model} if job else {"model": delivery.routing_key}

"""What is told of an attempt that is over, besides its result: counted, logged, and traced where that is on."""

from typing import TYPE_CHECKING

import structlog

from affinity.errors import Transient
from affinity.job import JobError, Outcome
from affinity.tracing import EndedAttempt
from worker.services import Services

if TYPE_CHECKING:
    from worker.batch import Batch, Started

log = structlog.get_logger(__name__)


def settled(services: Services, batch: "Batch", started: "Started", outcome: Outcome) -> None:
    """Its outcome is stored."""
    metrics, name = services.metrics, batch.entry.name
    if outcome.error:
        metrics.failed(name, outcome.error.code)
        metrics.gave_up(name, outcome.error.code)
    wait_s = max(0.0, batch.started_at - started.job.created_at)
    metrics.served(name, outcome.start, wait_s, outcome.load_s, outcome.exec_s)
    log.debug("job.settled", job=started.job.id, model=name, state=outcome.state, start=outcome.start)
    if services.tracing:
        services.tracing.attempted(
            EndedAttempt(
                started.job,
                started.delivery.trace,
                services.identity.worker,
                batch.started_at,
                services.clock.now(),
                outcome.load_s,
                None if outcome.error else outcome.exec_s,
                outcome.start,
                outcome.error,
            )
        )


def retried(services: Services, batch: "Batch", started: "Started", error: Transient) -> None:
    """It came to nothing, and the job is to be tried again."""
    services.metrics.failed(batch.entry.name, error.code)
    services.metrics.retried(batch.entry.name, error.code)
    log.info("job.retry", job=started.job.id, model=batch.entry.name, code=error.code)
    if services.tracing:
        services.tracing.attempted(
            EndedAttempt(
                started.job,
                started.delivery.trace,
                services.identity.worker,
                batch.started_at,
                services.clock.now(),
                batch.load.load_s if batch.load else 0.0,
                error=JobError(error.code, error.message),
            )
        )

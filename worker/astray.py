"""Jobs that the store says run here and that do not: a store that lost its last moment takes back an end it had stored,
or a hand-back, and nobody would ever end them again.
"""

from collections.abc import Container

import structlog

from affinity.errors import StoreUnavailable, UnknownJob
from affinity.job import Attempt
from worker.services import Services

log = structlog.get_logger(__name__)


async def give_back_strays(services: Services, under_way: Container[str]) -> None:
    """Have the store queue them again; none has used up an attempt by that. Asks once, about this worker's jobs only.

    ``under_way`` are the tokens of all attempts that are not settled. Where the store is away, at the next heartbeat.
    """
    identity = services.identity
    try:
        for job_id, token in (await services.store.strays.running(identity.worker, identity.epoch)).items():
            if token not in under_way:
                attempt = Attempt(job_id, token, identity.worker, identity.epoch)
                if await services.store.give_back(attempt, None, False, services.clock.now()):
                    model = (await services.store.get(job_id)).spec.model
                    log.warning("job.astray", job=job_id, model=model, reason="it does not run here")
    except (StoreUnavailable, UnknownJob) as error:
        log.warning("strays.unasked", error=error.message)

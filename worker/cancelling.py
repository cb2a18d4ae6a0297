"""Jobs that are cancelled while they run here: how the worker learns of it, and when it stops its executor for them.

A batch on the GPU cannot be interrupted: only its executor can be ended, and every resident with it. Decision 0009 has
the reasons for the rule below.
"""

from collections.abc import Callable

import structlog

from affinity.errors import StoreUnavailable
from worker.batch import Batch
from worker.events import Cancelled, Hinted, WorkerEvent
from worker.learning import Learning
from worker.services import Services
from worker.state import GpuState
from worker.tasks import Tasks

log = structlog.get_logger(__name__)

OVERLONG = 2.0
"""A batch that has run for so many times as long as its model usually does is not about to end: nobody knows when."""


def stop_after_s(elapsed_s: float, usual_s: float, cost_s: float, others: bool) -> float:
    """How long after its start to stop a batch, of which there is nobody left to want the result, or only ``others``.

    ``elapsed_s`` it has run, ``usual_s`` its model does, ``cost_s`` is what stopping costs: a new executor and all its
    residents. While the batch is expected to end sooner than that, waiting is cheaper. One that goes on for too long is
    stopped once it has run for as long as stopping costs, so that never more than twice the cheaper of the two is lost.
    """
    if others:  # What they have done is lost, and done again.
        cost_s += usual_s
    return elapsed_s if usual_s - elapsed_s > cost_s else max(OVERLONG * usual_s, cost_s)


class Cancelling:
    """Asks the store after a hint and at every heartbeat, and stops batches. Called by the loop alone."""

    def __init__(
        self,
        services: Services,
        state: GpuState,
        learning: Learning,
        tasks: Tasks,
        post: Callable[[WorkerEvent], None],
        restart_s: Callable[[], float],
    ) -> None:
        """``restart_s``: how long a new executor takes."""
        self._services = services
        self._state = state
        self._learning = learning
        self._tasks = tasks
        self._post = post
        self._restart_s = restart_s

    def ask(self, batch: Batch | None, job_id: str | None = None) -> None:
        """Look whether any of the batch was cancelled. ``job_id``: that one, by a hint; most are somebody else's."""
        if batch and (job_id is None or any(started.job.id == job_id for started in batch.jobs)):
            self._tasks.spawn(self._ask(batch), "cancelled?")

    async def hear(self) -> None:
        """The hints, as they come, for ever: a job of ours was cancelled, or else demand or residency changed."""
        async for cancelled in self._services.fleet.wakes():
            self._post(Hinted(cancelled))

    def heard(self, batch: Batch | None, event: Cancelled) -> None:
        """Some were."""
        if batch is None or batch is not event.batch or batch.cancelled >= event.job_ids:
            return
        batch.cancelled |= event.job_ids
        others = any(started.job.id not in batch.cancelled for started in batch.jobs)
        now, gpu, facts = self._services.clock.now(), self._state.gpu, self._learning.facts
        elapsed_s = max(0.0, now - batch.started_at)
        cost_s = self._restart_s() + sum(facts[model].on(gpu).load_s for model in self._state.residents)
        after_s = stop_after_s(elapsed_s, facts[batch.entry.name].on(gpu).exec_s, cost_s, others)
        batch.stop_at = self._services.clock.monotonic() + after_s - elapsed_s
        ids, stops_in_s = sorted(event.job_ids), round(after_s - elapsed_s, 3)
        log.info("batch.cancelled", jobs=ids, model=batch.entry.name, others=others, stops_in_s=stops_in_s)

    def stop_due(self, batch: Batch | None) -> None:
        """Stop the batch if it is time."""
        if batch and batch.stop_at is not None and self._services.clock.monotonic() >= batch.stop_at:
            batch.stop_at = None
            batch.stop()

    async def _ask(self, batch: Batch) -> None:
        try:
            found = await self._services.store.cancelled([started.job.id for started in batch.jobs])
        except StoreUnavailable:  # Asked again at the next heartbeat.
            return
        if found:
            self._post(Cancelled(batch, found))

"""Which tenants' lanes this worker listens to, beside the queues of its models.

A lane is bound once jobs of it wait for a model that is served here: the first of them came by fallback, where jobs go
whose lane nobody has bound. From then on they come straight, until the model leaves (``Intake.unbind``) or the lane has
been silent for a while. What is not bound is served all the same, from the backlog.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from affinity.errors import BrokerUnavailable
from affinity.fleet import Demand
from affinity.topology import lane, model_in
from worker.events import Hinted, WorkerEvent
from worker.reporter import Reporter
from worker.services import Services
from worker.tasks import Tasks

log = structlog.get_logger(__name__)

MOST_LANES = 32
"""Bound at a time: each is one more consumer to start when the GPU is idle and to stop when it is busy, 1 ms each."""

SILENT_S = 60.0
"""A lane of which no job has waited for so long is let go."""


class Lanes:
    """``heed`` is called by the loop alone; binding goes on beside it. ``shared``: tenants' jobs wait, of any model."""

    def __init__(
        self, services: Services, reporter: Reporter, tasks: Tasks, post: Callable[[WorkerEvent], None]
    ) -> None:
        self._services = services
        self._reporter = reporter
        self._tasks = tasks
        self._post = post
        self.shared = False
        self._heard_at: dict[str, float] = {}
        self._serving: frozenset[str] = frozenset()
        self._pending: set[str] = set()
        self._changing: asyncio.Task[None] | None = None

    @property
    def bindings(self) -> frozenset[str]:
        """Lanes that are bound, or about to be: what somebody else would have to unbind."""
        return self._services.intake.lanes | self._pending

    def heed(self, demand: Collection[Demand], serving: Sequence[str]) -> bool:
        """Listen to lanes of these models that have jobs. True if some have that are not bound here yet."""
        self.shared = any(each.lanes for each in demand)
        if not (self._heard_at or self.shared):
            return False
        now = self._services.clock.monotonic()
        self._serving = frozenset(serving)
        self._heard_at = {name: at for name, at in self._heard_at.items() if model_in(name) in self._serving}
        asked = [lane(d.model, one.tenant) for d in demand if d.model in self._serving for one in d.lanes if one.tenant]
        for name in asked:
            if name in self._heard_at or len(self._heard_at) < MOST_LANES:
                self._heard_at[name] = now
        silent = [name for name, at in self._heard_at.items() if now - at >= SILENT_S]
        for name in silent:
            del self._heard_at[name]
        unbound = [name for name in asked if name not in self._services.intake.lanes]
        wanted = not self._services.intake.lanes.issuperset(self._heard_at)
        if (silent or wanted) and (self._changing is None or self._changing.done()):
            self._changing = self._tasks.spawn(self._change(silent), "lanes")
        return bool(unbound)

    async def _change(self, silent: Sequence[str]) -> None:
        try:
            for name in silent:
                await self._services.intake.disarm(name)
                await self._services.intake.unbind(name)
            for name in [name for name in self._heard_at if name not in self._services.intake.lanes]:
                await self._bind(name)
        except BrokerUnavailable as error:
            log.warning("lanes.later", error=error.message)

    async def _bind(self, name: str) -> None:
        self._pending.add(name)
        try:
            # Before the binding, as with a model's: whoever tidies up after a lost worker unbinds what it names.
            await self._reporter.publish()
            if model_in(name) in self._serving and name in self._heard_at:
                await self._services.intake.bind(name)
                self._post(Hinted())
        finally:
            self._pending.discard(name)

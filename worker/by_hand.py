"""What an operator asked of this worker: pins that hold, models that are to leave, orders that are over.

Every method is synchronous and is called by the loop alone. Loads that were asked for are loads like any other: the
plan decides them, ``worker.load_course`` carries them out.
"""

from collections.abc import Mapping

import structlog

from affinity.errors import StoreUnavailable
from affinity.fleet import FleetView, ModelFacts
from affinity.policy import Plan, Unload
from affinity.policy.orders import Ending, endings
from worker.events import Left
from worker.intray import Intray
from worker.load_course import LoadCourse
from worker.loading import Loader
from worker.membership import Membership
from worker.reporter import Reporter
from worker.services import Services
from worker.state import GpuState
from worker.tasks import Tasks

log = structlog.get_logger(__name__)


class ByHand:
    """``wanted``: an order waits that this worker may have to carry out. ``leaving``: models it lets go for one."""

    def __init__(
        self,
        services: Services,
        state: GpuState,
        course: LoadCourse,
        intray: Intray,
        loader: Loader,
        reporter: Reporter,
        tasks: Tasks,
    ) -> None:
        self.wanted = False
        self.leaving: dict[str, Unload] = {}
        self._services = services
        self._state = state
        self._course = course
        self._intray = intray
        self._loader = loader
        self._reporter = reporter
        self._membership = Membership(services)
        self._tasks = tasks
        self._carried_out: set[str] = set()

    def heed(self, view: FleetView) -> None:
        """Before the plan: what is pinned is pinned from here on."""
        worker, catalog = self._services.identity.worker, self._services.catalog
        self.wanted = any(order.concerns(worker) for order in view.orders)
        self._carried_out.intersection_update(order.id for order in view.orders)
        pinned = [m for m in self._state.residents if catalog.get(m).pinned or view.pins.cover(m, worker)]
        if self._state.pin(pinned):
            self._tasks.spawn(self._reporter.publish(), "publish")

    def carry_out(self, made: Plan, view: FleetView, facts: Mapping[str, ModelFacts]) -> None:
        """After the plan: let go what is to leave, say which orders are over."""
        worker = self._services.identity.worker
        for unload in made.unloads(worker):
            self._begin(unload)
        for ending in endings(view, facts, self._services.clock.now(), worker):
            self._tasks.spawn(self._end(ending), "end order")

    def ran(self, model: str) -> None:
        """A batch is over: if its model was to leave, it can."""
        if model in self.leaving and model in self._state.residents:
            self._tasks.spawn(self._loader.leave(model), "leave")

    def left(self, event: Left) -> None:
        """A model is off the GPU. If it was not to leave for an order, it was for want of memory."""
        unload = self.leaving.pop(event.model, None)
        if unload is None:
            self._course.left(event)
            return
        self._carried_out.add(unload.order)
        self._state.observe(event.gpu)
        self._state.evicted(event.model)
        self._course.unserved.pop(event.model, None)
        self._services.metrics.evicted(self._services.identity.worker, event.model, "by-hand")
        note = self._membership.note("model.evicted", model=event.model, reason=unload.reason)
        self._tasks.spawn(note, "note")
        self._tasks.spawn(self._tell(), "publish")

    def emptied(self) -> None:
        """The executor died: whatever was to leave is gone."""
        self.leaving.clear()

    def _begin(self, unload: Unload) -> None:
        """No new work from here on. What runs runs to its end."""
        model = unload.model
        # A view may be older than what we have done since.
        if unload.order in self._carried_out or model in self._course.victims or not self._state.ready(model):
            return
        log.info("unload.decided", model=model, reason=unload.reason)
        self.leaving[model] = unload
        self._state.retire(model)
        self._intray.dropped(model)
        self._tasks.spawn(self._withdraw(model, at_once=not self._state.residents[model].running), "withdraw")

    async def _withdraw(self, model: str, at_once: bool) -> None:
        await self._intray.retire(model)
        if at_once:
            await self._loader.leave(model)
        else:
            await self._loader.withdraw(model)
            await self._tell()

    async def _tell(self) -> None:
        """Others may have to take its jobs over."""
        await self._reporter.publish()
        try:
            await self._services.fleet.wake()
        except StoreUnavailable as error:
            log.warning("wake.unsent", error=error.message)

    async def _end(self, ending: Ending) -> None:
        order = ending.order
        try:
            if await self._services.fleet.end_order(order.id, ending.state, ending.reason, self._services.clock.now()):
                log.info("order.ended", order=order.id, model=order.model, state=ending.state, reason=ending.reason)
        except StoreUnavailable as error:  # Said again after the next look.
            log.warning("order.not_ended", order=order.id, error=error.message)

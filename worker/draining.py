"""Taking no new work: because the process is to stop, or because an operator wants the GPU free.

A model that is in demand, and that another worker is about to load, is served on until it is there, for as long as the
grace time at most; all others are let go at once. Then the worker leaves; or, drained by hand, it ends its executor, so
that nothing of it is left on the GPU, and waits to be undrained.
"""

import contextlib
from collections.abc import Sequence

import structlog

from affinity.errors import BrokerUnavailable, StoreUnavailable
from affinity.fleet import Demand, FleetView, ResidencyState
from affinity.policy import Load, Plan
from worker.intray import Intray
from worker.learning import Learning
from worker.load_course import LoadCourse
from worker.loading import Loader
from worker.membership import Membership
from worker.reporter import Reporter
from worker.restarts import Restarts
from worker.services import Services
from worker.sorting import Sorter
from worker.state import GpuState
from worker.tasks import Tasks

log = structlog.get_logger(__name__)

EXECUTOR_GRACE_S = 2.0
"""An executor with nothing to run that has not ended by then is in the middle of a load nobody waits for: stop it."""


class Draining:
    """``stopping``: the process is to stop. ``wished``: an operator wants it. ``active``: it is under way, or done.

    ``kept`` are models that are served on until others have them; ``empty``: there is no executor any more.
    """

    def __init__(
        self,
        services: Services,
        state: GpuState,
        learning: Learning,
        intray: Intray,
        loader: Loader,
        reporter: Reporter,
        course: LoadCourse,
        restarts: Restarts,
        sorter: Sorter,
        tasks: Tasks,
    ) -> None:
        self.stopping = self.wished = self.active = self.empty = False
        self.kept: frozenset[str] = frozenset()
        self._let_go: set[str] = set()
        self._services = services
        self._state = state
        self._learning = learning
        self._intray = intray
        self._loader = loader
        self._reporter = reporter
        self._course = course
        self._restarts = restarts
        self._sorter = sorter
        self._membership = Membership(services)
        self._tasks = tasks
        self._until = float("inf")

    @property
    def left_s(self) -> float:
        """What is left of the grace time."""
        return max(0.0, self._until - self._services.clock.monotonic())

    def stop(self) -> None:
        """The process is to stop."""
        self.stopping = True
        self._until = self._services.clock.monotonic() + self._services.timing.grace_s

    def stays_empty(self) -> None:
        """It was drained in its last life, and still is: it has no executor yet."""
        self.wished = self.active = self.empty = self._state.draining = True

    def serves(self, model: str) -> bool:
        """True while batches of that model are begun here: those that are expected to end well within the time."""
        if not self.active:
            return True
        exec_s = self._learning.facts[model].on(self._state.gpu).exec_s
        return model in self.kept and 2.0 * exec_s < self.left_s

    def gives_way(self, model: str) -> bool:
        """True if what is in hand for that model is for others."""
        return self.active and model not in self.kept

    async def heed(self, wished: bool | None = None) -> None:
        """Begin, or end, as it is wanted. ``wished``: what an operator wants by now, where that is known."""
        if wished is not None:
            self.wished = wished
        if (self.wished or self.stopping) and not self.active:
            await self._begin()
        elif self.active and not (self.wished or self.stopping):
            await self._end()

    def proceed(self, view: FleetView, made: Plan, demand: Sequence[Demand]) -> None:
        """Let go what others have, will not have, or nobody asks for."""
        if not self.active or self.empty:
            return
        asked = {each.model for each in demand if each.queued}
        ready = self._state.ready_models()
        in_time = self.left_s > 0
        self.kept = frozenset(m for m in ready if m in self.kept & asked and in_time and self._awaited(m, view, made))
        for model in ready:
            if model not in self.kept and model not in self._let_go:
                self._let_go.add(model)
                self._intray.dropped(model)
                self._tasks.spawn(self._withdraw(model), "let go")

    def give_up(self) -> None:
        """Nobody says what others do: what is left is not handed over."""
        self.kept = frozenset()

    def over(self, busy: bool) -> bool:
        """True once the GPU can be emptied."""
        return self.active and not (self.empty or self.kept or busy or self._course.current)

    async def clear(self) -> None:
        """End the executor, and so have the GPU empty."""
        self.empty = True
        await self._services.executor.stop(EXECUTOR_GRACE_S)
        self._restarts.ended()
        worker, lost = self._services.identity.worker, self._state.emptied()
        self._course.unserved.clear()
        self._state.observe(await self._loader.reading())  # The report shall say what whoever waits for it will find.
        for model in lost:
            self._services.metrics.evicted(worker, model, "drained")
        self._tasks.spawn(self._tell("worker.drained", residents=",".join(lost)), "drained")

    def executor_died(self) -> None:
        """There is nothing left to hand over."""
        self.empty, self.kept = True, frozenset()

    async def leave(self, batches: Tasks) -> bool:
        """Unbind first, so that new jobs go elsewhere; then let what runs end. False if it did not in time: it was
        stopped with its executor.
        """
        self._state.draining = True
        await self._course.abandon()
        await self._reporter.publish()
        with contextlib.suppress(BrokerUnavailable):
            await self._services.intake.stop_fallback()
        await self._intray.disarm()
        for model in tuple(self._state.residents):
            await self._loader.withdraw(model)
        return await batches.wait(self.left_s if self.stopping else self._services.timing.grace_s)

    def _awaited(self, model: str, view: FleetView, made: Plan) -> bool:
        """True if another worker is about to have the model, and none has it."""
        worker = self._services.identity.worker
        others = [w for w in view.workers.values() if w.worker != worker and not w.draining]
        held = [resident for other in others if (resident := other.holds(model))]
        if any(resident.state is ResidencyState.READY for resident in held):
            return False
        loads = (d for d in made.decisions if isinstance(d, Load) and d.model == model and d.worker != worker)
        return bool(held or view.claims.get(model, worker) != worker or any(loads))

    async def _begin(self) -> None:
        self.active = self._state.draining = True
        self.kept = frozenset(self._state.ready_models())
        self._let_go.clear()
        if not self.stopping:
            self._until = self._services.clock.monotonic() + self._services.timing.grace_s
        elif self._course.current:
            await self._course.abandon()
            await self._loader.release(self._course.current)
        with contextlib.suppress(BrokerUnavailable):
            await self._services.intake.stop_fallback()
        await self._tell("worker.draining", by="operator" if self.wished else "stop")

    async def _end(self) -> None:
        """Take work again."""
        self.active = self._state.draining = False
        self.kept, self._until = frozenset(), float("inf")
        with contextlib.suppress(BrokerUnavailable):  # The wishes are kept: they are applied once the broker is there.
            await self.take_in()
            for model in self._let_go & set(self._state.ready_models()):
                await self._services.intake.bind(model)
        self._let_go.clear()
        if self.empty:
            self.empty = False
            self._tasks.spawn(self._restarts.resume(), "resume")
        await self._tell("worker.undrained")

    async def take_in(self) -> None:
        """Take jobs that nobody has a model for."""
        await self._services.intake.consume_fallback(self._services.fallback_prefetch, self._sorter.arrived)

    async def _withdraw(self, model: str) -> None:
        await self._intray.retire(model)
        await self._loader.withdraw(model)

    async def _tell(self, kind: str, **fields: str) -> None:
        """Others may have to take over."""
        await self._reporter.publish()
        with contextlib.suppress(StoreUnavailable):  # They look at the next heartbeat.
            await self._services.fleet.wake()
        await self._membership.note(kind, **fields)

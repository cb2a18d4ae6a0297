"""The loop's side of a load: what each step that ``worker.loading`` reports means for the GPU's state.

Every method is synchronous and is called by the loop alone; what takes time is started as a task and reports back by an
event. At most one load is under way.
"""

from collections.abc import Callable, Collection
from contextlib import suppress

import structlog

from affinity.errors import AffinityError, BrokerUnavailable, LoadTimeout, OutOfVram, StoreUnavailable
from affinity.fleet import Demand, ResidencyState
from affinity.policy import Load
from affinity.policy.shares import cause
from worker.batch import LoadBefore
from worker.events import CalledOff, Claimed, Cleared, Fetched, Left, LoadFault
from worker.intray import Intray
from worker.learning import Learning
from worker.loading import Loader, hopeless
from worker.lookout import AWAY_S
from worker.membership import Membership
from worker.reporter import Reporter
from worker.services import Services
from worker.state import GpuState
from worker.tasks import Tasks

log = structlog.get_logger(__name__)


class LoadCourse:
    """The load under way, from the decision to residency or failure.

    ``unserved`` are models that have not run a batch since they were loaded, with that load: their first job is the
    cold one. ``executor_stopped`` is called when a load took so long that the executor was stopped.
    """

    def __init__(
        self,
        services: Services,
        state: GpuState,
        learning: Learning,
        intray: Intray,
        loader: Loader,
        reporter: Reporter,
        membership: Membership,
        tasks: Tasks,
        executor_stopped: Callable[[str], None],
    ) -> None:
        self.current: Load | None = None
        self._tenant: str | None = None
        self.unserved: dict[str, LoadBefore] = {}
        self._resume_at = 0.0
        self._services = services
        self._state = state
        self._learning = learning
        self._intray = intray
        self._loader = loader
        self._reporter = reporter
        self._membership = membership
        self._tasks = tasks
        self._loads = tasks.group()
        self._executor_stopped = executor_stopped

    @property
    def may_begin(self) -> bool:
        """True if none is under way, and broker and store were not found to be away a moment ago: without that pause
        the same load would be begun again twenty times a second.
        """
        return self.current is None and self._services.clock.monotonic() >= self._resume_at

    @property
    def victims(self) -> tuple[str, ...]:
        """Models that have to go for the load under way."""
        return self.current.victims if self.current else ()

    def begin(self, load: Load, demand: Collection[Demand] = ()) -> None:
        """Carry out a decision of the plan. Whoever has the job that it is for, by this demand, is charged for it."""
        self.current, self._tenant = load, cause(demand, load.model)
        log.info("load.decided", model=load.model, victims=load.victims, reason=load.reason)
        self._loads.spawn(self._loader.claim(load), "claim")

    def claimed(self, event: Claimed) -> None:
        """It is ours: the victims take no new work from here on, unless one of them must stay after all."""
        load, residents = event.load, self._state.residents
        victims = [residents[victim] for victim in load.victims if self._state.ready(victim)]
        if len(victims) < len(load.victims) or any(victim.running or victim.pinned for victim in victims):
            self.called_off(CalledOff(load, "a victim has work again, or was pinned"))
            self._tasks.spawn(self._loader.release(load), "release")
            return
        self._state.drain_victims(load.victims)
        for victim in load.victims:
            self._intray.dropped(victim)
        self._loads.spawn(self._clear(load), "clear")

    def cleared(self, event: Cleared) -> None:
        """The victims are gone: reserve the room, if the driver agrees that it is there."""
        load, worker = event.load, self._services.identity.worker
        for victim in load.victims:
            if victim in self._state.residents:
                self._state.evicted(victim)
                self.unserved.pop(victim, None)
                self._services.metrics.evicted(worker, victim, "room")
                self._note("model.evicted", model=victim, room_for=load.model)
        self._state.observe(event.gpu)
        try:
            entry = self._services.catalog.get(load.model)
            self._state.loading(load, entry.pinned, self._services.clock.now())
        except OutOfVram as error:
            self.failed(LoadFault(load, error))
            return
        self._note("model.loading", model=load.model, reason=load.reason)
        self._loads.spawn(self._loader.fetch(load), "fetch")

    def fetched(self, event: Fetched) -> None:
        """It is in memory: it serves from now on."""
        load, worker = event.load, self._services.identity.worker
        self.current = None
        if load.model not in self._state.residents:  # The executor died in the meantime.
            self._tasks.spawn(self._loader.release(load), "release")
            return
        self._state.observe(event.gpu)
        self._learning.loaded(load.model, event.footprint_bytes, event.load_s, event.tier)
        # What it is known to need, which may be more than what loading took: its batches are still to come.
        footprint_bytes = self._learning.footprint_bytes(load.model)
        self._state.loaded(load.model, footprint_bytes, self._services.clock.now())
        self.unserved[load.model] = LoadBefore(event.load_s, load.victims)
        if self._tenant is not None:
            self._tasks.spawn(self._charge(self._tenant, event.load_s), "charge")
        why = "by-hand" if load.order else "further-copy" if load.copies else "first-copy"
        self._services.metrics.loaded(worker, load.model, event.tier, why, event.load_s)
        self._note("model.resident", model=load.model, load_s=f"{event.load_s:.3f}", tier=event.tier)
        self._tasks.spawn(self._reporter.publish(), "publish")

    async def abandon(self) -> None:
        """The worker stops: whatever the load was about to do or bind, it does not."""
        await self._loads.cancel()

    def called_off(self, event: CalledOff) -> None:
        """It came to nothing and changed nothing."""
        log.info("load.called_off", model=event.load.model, reason=event.reason)
        self.current = None

    def failed(self, event: LoadFault) -> None:
        """It failed: free its room and do not try again at once."""
        load, error = event.load, event.error
        if load.model in self._state.residents:
            self._state.evicted(load.model)
        if event.gpu:
            self._state.observe(event.gpu)
        if isinstance(error, LoadTimeout):
            self._executor_stopped(error.message)
        if not isinstance(error, (BrokerUnavailable, StoreUnavailable)):
            self._refuse(load, error)
        else:
            self._resume_at = self._services.clock.monotonic() + AWAY_S
        self.called_off(CalledOff(load, error.message))
        self._note("model.load_failed", model=load.model, code=error.code)
        self._tasks.spawn(self._withdraw_and_release(load), "withdraw")

    def outgrown(self, model: str) -> None:
        """A job of a resident found no memory: plan the model larger, and have it elsewhere, or here with more room.

        If it has the GPU to itself it stays, since there is no more room to be had.
        """
        self._learning.out_of_vram(model, self._state.ledger.free_bytes, self._state.gpu.usable_bytes)
        resident = self._state.residents.get(model)
        if resident is None or not self._state.ready(model) or resident.pinned or self._state.alone(model):
            return
        shortage = OutOfVram(f"{model} ran out of memory beside what else is on the GPU")
        now = self._services.clock.now()
        self._state.refuse(model, shortage.code, shortage.message, hopeless=False, now=now, counts=False)
        self._state.drain_victims((model,))
        self._intray.dropped(model)
        self._loads.spawn(self._leave(model), "leave")

    def left(self, event: Left) -> None:
        """It is off the GPU."""
        model, resident = event.model, self._state.residents.get(event.model)
        self._state.observe(event.gpu)
        if resident is None or resident.state is not ResidencyState.DRAINING:  # The executor died in the meantime.
            return
        self._state.evicted(model)
        self.unserved.pop(model, None)
        self._services.metrics.evicted(self._services.identity.worker, model, "out-of-vram")
        self._note("model.evicted", model=model, reason=OutOfVram.code)
        self._tasks.spawn(self._publish_and_wake(), "publish")

    def _refuse(self, load: Load, error: AffinityError) -> None:
        """Where others took the room meanwhile, or the driver is late, the model did nothing wrong: its footprint stays
        what it is, and however often that happens it is no reason to give its jobs up.
        """
        model, state = load.model, self._state
        full = isinstance(error, OutOfVram)
        crowded = full and state.ledger.free_bytes < load.footprint_bytes
        now = self._services.clock.now()
        state.refuse(model, error.code, error.message, hopeless(error), now, counts=not crowded)
        self._services.metrics.failed(model, error.code)
        if full and not crowded:
            self._learning.did_not_fit(model, state.ledger.free_bytes, state.gpu.usable_bytes)

    async def _clear(self, load: Load) -> None:
        for victim in load.victims:
            await self._intray.retire(victim)
        await self._loader.clear(load)

    async def _leave(self, model: str) -> None:
        await self._intray.retire(model)
        await self._loader.leave(model)

    async def _charge(self, tenant: str, load_s: float) -> None:
        try:
            await self._services.store.charge(tenant, load_s)
        except StoreUnavailable as error:
            log.warning("load.not_charged", tenant=tenant, load_s=load_s, error=error.message)

    async def _publish_and_wake(self) -> None:
        await self._reporter.publish()
        with suppress(StoreUnavailable):  # They look at the next heartbeat.
            await self._services.fleet.wake()

    async def _publish_and_release(self, load: Load) -> None:
        """In this order: between a claim that is gone and a residency not yet known, somebody else would load."""
        await self._reporter.publish()
        await self._loader.release(load)

    async def _withdraw_and_release(self, load: Load) -> None:
        await self._loader.withdraw(load.model)
        await self._publish_and_release(load)

    def _note(self, kind: str, **fields: str) -> None:
        self._tasks.spawn(self._membership.note(kind, **fields), "note")

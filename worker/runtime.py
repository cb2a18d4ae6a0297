"""One worker: one GPU, one loop. Everything that happens is an event; only the loop changes the GPU's state.

After each event the loop asks what to do now: serve (warm jobs first), load (when the plan says it is our turn), or
wait. While the GPU is idle, consumers on all residents bring jobs as they are published. Where it is busy for longer
than a moment they are stopped and what they brought is handed back, so that no job waits here while another worker is
idle (``worker.hoarding``); the next batch is taken from the backlog once the GPU is free.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from affinity.errors import (
    AffinityError,
    BrokerUnavailable,
    InvariantBroken,
    JobTimeout,
    StoppedWithBatch,
    StoreUnavailable,
)
from affinity.fleet import Gpu, WorkerReport
from affinity.io.ports import Delivery
from affinity.policy import plan
from affinity.policy.facts import with_rates
from worker.astray import give_back_strays
from worker.batch import EARLY_BELOW_S, Batch, BatchRunner
from worker.by_hand import ByHand
from worker.cancelling import Cancelling
from worker.choosing import Choosing
from worker.draining import EXECUTOR_GRACE_S, Draining
from worker.events import (
    Arrived,
    Beat,
    CalledOff,
    Cancelled,
    Claimed,
    Cleared,
    Displaced,
    ExecutorBack,
    ExecutorGone,
    Fetched,
    Hinted,
    Left,
    LoadFault,
    Ran,
    WorkerEvent,
)
from worker.hoarding import BACKLOG_S, STOP_AFTER_S, ahead_after_s, hand_first, stop_after_s
from worker.intray import Intray
from worker.lanes import Lanes
from worker.learning import Learning
from worker.load_course import LoadCourse
from worker.loading import Loader
from worker.lookout import Lookout
from worker.membership import Membership
from worker.reporter import Reporter
from worker.restarts import Restarts
from worker.services import Services
from worker.sorting import Sorter
from worker.state import GpuState
from worker.tasks import Tasks

log = structlog.get_logger(__name__)


class Worker:
    """The loop of one GPU. ``run`` returns after ``stop``; it raises when the worker cannot go on."""

    def __init__(self, services: Services, gpu: Gpu) -> None:
        self._services = services
        self._events: asyncio.Queue[WorkerEvent] = asyncio.Queue()
        self._failed: BaseException | None = None
        self._tasks = Tasks(self._fail)
        self._state = GpuState(services.identity, gpu, services.timing.lease_s)
        self._learning = Learning(services.catalog, gpu.name)
        self._batches = BatchRunner(services, self._tasks)
        self._sorter = Sorter(services, self._batches, self._tasks)
        self._intray = Intray(services, self._events.put_nowait)
        services.metrics.hoards(services.identity.worker, lambda: self._intray.unstarted)
        self._membership = Membership(services)
        self._reporter = Reporter(services, self._report, self._events.put_nowait)
        self._loader = Loader(services, self._events.put_nowait, self._reporter.publish)
        self._restarts = Restarts(services, self._intray, self._loader, self._reporter, self._events.put_nowait)
        parts = services, self._state, self._learning, self._intray, self._loader, self._reporter
        self._course = LoadCourse(*parts, self._membership, self._tasks, self._executor_stopped)
        self._by_hand = ByHand(
            services, self._state, self._course, self._intray, self._loader, self._reporter, self._tasks
        )
        self._draining = Draining(*parts, self._course, self._restarts, self._sorter, self._tasks)
        self._lanes = Lanes(services, self._reporter, self._tasks, self._events.put_nowait)
        self._choosing = Choosing(*parts[:4], self._course, self._draining, self._lanes)
        self._cancelling = Cancelling(
            services, self._state, self._learning, self._tasks, self._events.put_nowait, lambda: self._restarts.cost_s
        )
        self._handlers: Mapping[type[WorkerEvent], Callable[[Any], None]] = {
            Arrived: self._arrived,
            Hinted: self._hinted,
            Beat: self._beat,
            Ran: self._ran,
            Cancelled: lambda event: self._cancelling.heard(self._batch, event),
            Claimed: self._load_event(self._course.claimed),
            Cleared: self._load_event(self._course.cleared),
            Fetched: self._load_event(self._course.fetched),
            CalledOff: self._load_event(self._course.called_off),
            LoadFault: self._load_event(self._course.failed),
            Left: self._load_event(self._by_hand.left),
            ExecutorGone: self._executor_gone,
            ExecutorBack: self._executor_back,
            Displaced: self._displaced,
        }
        self._able = False
        self._batch: Batch | None = None
        self._disarm_at = 0.0
        self._ahead_at: float | None = None
        self._ahead = False
        self._batches_running = self._tasks.group()
        self._abandoned = self._dry = self._fresh = False
        self._lookout = Lookout(services.clock, services.vitals)
        self._unmet = self._looked_running = False

    async def run(self) -> None:
        """Join the fleet, serve until ``stop``, leave it."""
        services = self._services
        drained = await self._membership.join()
        services.executor.on_death(lambda death: self._executor_stopped(death.message))
        if drained:
            self._draining.stays_empty()
        else:
            await self._restarts.start()
        self._able = not drained
        await self._reporter.publish()
        await self._membership.note("worker.joined", gpu=services.device.name)
        self._tasks.spawn(self._reporter.beat(), "beat")
        self._tasks.spawn(self._cancelling.hear(), "hints")
        with contextlib.suppress(BrokerUnavailable):  # The wish is kept: it is applied once the broker is there.
            if not drained:
                await self._draining.take_in()
        try:
            while not self._may_leave():
                await self._next_events()
                await self._act()
        finally:
            await self._leave()

    def stop(self) -> None:
        """Leave: no new work, what runs is finished within the grace time, the rest is handed back."""
        self._draining.stop()
        self._lookout.at_once()
        self._events.put_nowait(Hinted())

    def _may_leave(self) -> bool:
        draining = self._draining
        return draining.stopping and (not self._able or draining.left_s == 0 or (draining.active and not draining.kept))

    async def _next_events(self) -> None:
        """Wait for an event or the next deadline, then handle all that is there."""
        try:
            async with asyncio.timeout(self._sleep_s()):
                event = await self._events.get()
        except TimeoutError:
            return
        while True:
            self._handlers[type(event)](event)
            if self._events.empty():
                break
            event = self._events.get_nowait()
        if self._failed:
            raise self._failed

    def _sleep_s(self) -> float | None:
        now = self._services.clock.monotonic()
        waits = self._lookout.waits_s()
        if self._draining.kept:
            waits.append(self._draining.left_s)
        if self._batch and self._batch.stop_at is not None:
            waits.append(self._batch.stop_at - now)
        if self._batch and not self._lookout.paused:
            waits += [self._disarm_at - now] if self._intray.holding else []
            waits += [] if self._ahead_at is None else [self._ahead_at - now]
        return max(0.0, min(waits)) if waits else None

    def _arrived(self, event: Arrived) -> None:
        if self._intray.expects(event.model):
            self._intray.put(event.model, event.delivery)
        else:  # On its way while the consumer was being stopped: kept, it would wait here for the whole batch.
            self._tasks.spawn(event.delivery.requeue(), "requeue")

    def _hinted(self, event: Hinted) -> None:
        if event.cancelled:
            self._cancelling.ask(self._batch, event.cancelled)
        else:
            self._lookout.wanted = True

    def _beat(self, event: Beat) -> None:
        self._state.observe(event.gpu)
        self._lookout.wanted = True
        self._dry = False
        self._cancelling.ask(self._batch)
        self._tasks.spawn(self._learning.keep_up(self._services), "learn")
        self._tasks.spawn(give_back_strays(self._services, self._batches.under_way), "strays")
        self._tasks.spawn(self._sorter.count_forgotten(), "forgotten")
        if batch := self._batch:
            idle = [m for m in self._state.ready_models() if self._lanes.shared or m != batch.entry.name]
            self._tasks.spawn(self._sorter.count_all_strangers(idle), "strangers")

    def _ran(self, event: Ran) -> None:
        self._state.ran(event.model, event.exec_s or 0.0, self._services.clock.now())
        self._services.metrics.batch_ended(self._services.identity.worker)
        self._batch = None
        self._dry = self._fresh and not self._intray.unheard(self._choosing.serving())
        self._lookout.wanted |= self._unmet
        self._by_hand.ran(event.model)
        if self._by_hand.wanted or self._looked_running:  # Looking only while it runs, it would never be a victim.
            self._lookout.at_once()
        if event.out_of_vram:
            self._course.outgrown(event.model)
            self._tasks.spawn(self._learning.keep_up(self._services), "learn")  # Before others load it as we did.
        elif event.footprint_bytes is not None and event.exec_s is not None and self._state.ready(event.model):
            self._restarts.served()
            self._learning.ran(event.model, event.exec_s, event.footprint_bytes)
            self._state.measured(event.model, event.footprint_bytes)

    def _load_event(self, handle: Callable[[Any], None]) -> Callable[[Any], None]:
        """Whatever a load's step was, there may be something else to do now."""

        def handled(event: WorkerEvent) -> None:
            handle(event)
            self._lookout.wanted, self._dry = True, False
            if self._course.current is None:  # The next load may begin.
                self._lookout.at_once()

        return handled

    def _displaced(self, _: Displaced) -> None:
        raise InvariantBroken(f"another process is {self._services.identity.worker}: give each its own WORKER_ID")

    def _executor_stopped(self, reason: str) -> None:
        """It died, or we stopped it for something that took too long."""
        self._events.put_nowait(ExecutorGone(reason))

    def _executor_gone(self, event: ExecutorGone) -> None:
        self._able = False
        lost = self._state.emptied()
        self._course.unserved.clear()
        self._by_hand.emptied()
        if self._draining.active:
            self._draining.executor_died()
            self._tasks.spawn(self._restarts.withdraw(lost, event.reason), "withdraw")
        else:
            self._tasks.spawn(self._restarts.replace(lost, event.reason), "replace executor")

    def _executor_back(self, _: ExecutorBack) -> None:
        self._able, self._dry, self._lookout.wanted = True, False, True

    async def _act(self) -> None:
        if not self._able and not self._draining.active:
            return
        try:
            self._cancelling.stop_due(self._batch)
            await self._draining.heed()
            if self._lookout.paused:
                return
            if self._lookout.due():
                # Before serving: else a model whose turn is over would be running again whenever the plan is asked.
                await self._look()
            if self._draining.over(busy=self._batch is not None) and not self._draining.stopping:
                self._able = False
                await self._draining.clear()
            if not self._able:
                return
            if self._batch is None:
                await self._serve_next()
            elif self._intray.holding and self._services.clock.monotonic() >= self._disarm_at:
                await self._intray.disarm()
            elif self._ahead_at is not None and self._services.clock.monotonic() >= self._ahead_at:
                await self._fetch_ahead()
        except (StoreUnavailable, BrokerUnavailable) as error:
            if self._draining.stopping:
                self._draining.give_up()
            self._lookout.pause()
            log.warning("worker.held_up", code=error.code, error=error.message)

    async def _serve_next(self) -> None:
        """Start the next batch: from the backlog if there may be one, else what a consumer brought; or that first."""
        while self._batch is None:
            picked = None if self._dry or self._hand_first() else await self._choosing.pick()
            model = picked[0] if picked else self._choosing.first_in_hand()
            if model is None:
                self._dry = True
                await self._intray.arm(self._choosing.serving())
                return
            entry = self._services.catalog.get(model)
            await self._start(model, picked[1] if picked else self._intray.pop(model, entry.max_batch))

    def _hand_first(self) -> bool:
        model, unheard = self._choosing.first_in_hand(), self._intray.unheard(self._choosing.serving())
        if model is None or self._ahead or self._intray.shared:  # Tenants take turns.
            return bool(model and self._ahead)
        return hand_first(self._services.catalog.get(model).max_batch, unheard)

    async def _fetch_ahead(self) -> None:
        """Have the next batch in hand when the one that runs ends; handed back if it runs on for longer."""
        self._ahead_at = None
        if picked := await self._choosing.pick():
            model, deliveries = picked
            for delivery in deliveries:
                self._intray.put(model, delivery)
            self._ahead, self._disarm_at = True, self._services.clock.monotonic() + STOP_AFTER_S

    async def _start(self, model: str, deliveries: list[Delivery]) -> None:
        self._choosing.seen = ()
        entry = self._services.catalog.get(model)
        mean_exec_s = self._learning.facts[model].on(self._state.gpu).exec_s
        # One that comes again may have taken its worker down before its start was recorded: now the record comes first.
        again = any(delivery.redelivered for delivery in deliveries)
        early = mean_exec_s < EARLY_BELOW_S and model not in self._course.unserved and not again
        started = await (self._batches.read if early else self._batches.start)(deliveries)
        if not started:
            return
        now = self._services.clock.now()
        self._fresh = self._dry and now - started[0].job.created_at < BACKLOG_S
        load = self._course.unserved.pop(model, None)
        self._state.started(model, len(started), now)
        self._services.metrics.batch_began(self._services.identity.worker, model, cold=load is not None)
        self._batch = Batch(entry, started, load, now, early, self._lanes.shared)
        began_at, ahead_s = self._services.clock.monotonic(), ahead_after_s(mean_exec_s)
        self._disarm_at = began_at + stop_after_s(mean_exec_s)
        self._ahead, self._ahead_at = False, None if ahead_s is None else began_at + ahead_s
        self._batches_running.spawn(self._run(self._batch), "batch")

    async def _run(self, batch: Batch) -> None:
        try:
            reply = await self._batches.run(batch)
        except InvariantBroken:
            raise  # A bug is no job's fault: the worker stops, and what it holds is delivered again.
        except AffinityError as error:
            stopped = isinstance(error, StoppedWithBatch)
            if stopped or isinstance(error, JobTimeout):
                self._executor_stopped(error.message)
            self._events.put_nowait(Ran(batch.entry.name))
            if stopped:
                self._restarts.served()  # It was not the executor that was at fault.
                await self._batches.let_go(await batch.granted())
            elif self._abandoned:
                await self._batches.hand_back(await batch.granted())
            else:
                await self._batches.settle(batch, error)
        else:
            self._events.put_nowait(Ran(batch.entry.name, reply.reserved_bytes, reply.exec_s, reply.out_of_vram))
            await self._batches.settle(batch, reply)

    async def _look(self) -> None:
        """Compute the whole fleet's plan and carry out what is ours."""
        self._lookout.begin()
        sighting, demand = await asyncio.gather(self._services.fleet.sighting(), self._services.store.demand())
        self._batches.holding.store.back()
        self._choosing.seen = demand if self._batch is None else ()
        self._dry = not self._choosing.unheard(demand) and self._dry
        worker = self._services.identity.worker
        await self._draining.heed(worker in sighting.view.drains)
        self._by_hand.heed(sighting.view)
        view = sighting.view.with_report(self._report())
        known, now = self._learning, self._services.clock.now()
        made = plan(view, with_rates(demand, known.rates, view), known.facts, now)
        self._lookout.wake_at = made.wake_at
        self._unmet = any(not self._state.ready(d.model) for d in demand)
        self._looked_running = self._unmet and self._batch is not None
        if sighting.lost:
            self._tasks.spawn(self._membership.reap(sighting.lost), "reap")
        for give_up in made.give_ups(worker):
            self._tasks.spawn(self._sorter.give_up(give_up.model, give_up.error), "give up")
        self._draining.proceed(view, made, demand)
        self._by_hand.carry_out(made, view, self._learning.facts)
        if self._able and self._course.may_begin and (load := made.load(worker)):
            self._course.begin(load, demand)

    def _report(self) -> WorkerReport:
        report = self._state.report(self._services.clock.now(), self._services.executor.cached.models)
        return replace(report, owed=tuple(sorted(self._services.intake.owed | self._lanes.bindings)))

    def _fail(self, error: BaseException) -> None:
        self._failed = self._failed or error
        self._events.put_nowait(Hinted())

    async def _leave(self) -> None:
        """Finish what runs, hand back the rest, sign off."""
        if not await self._draining.leave(self._batches_running):
            self._abandoned = True
            await self._services.executor.kill()
            await self._batches_running.wait(EXECUTOR_GRACE_S)
        await self._batches_running.cancel()
        await self._tasks.cancel()
        await self._services.executor.stop(EXECUTOR_GRACE_S)
        await self._membership.leave(self._report())
        await self._services.intake.close()

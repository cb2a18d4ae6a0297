"""The Redis side in memory: ``JobStore``, ``FleetStore`` and ``EventStream`` over one shared world and a fake clock.

They pass the conformance suite of the real ones, so that a test above them may trust what it sees. Leases, claims and
the retention of finished jobs run on the fake clock. ``FakeStores.down`` makes every call fail as an unreachable Redis.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace

from affinity.errors import InvalidInput, UnknownOrder
from affinity.fleet import FleetView, Measurement, WorkerReport
from affinity.io.event_port import Event, Look, Settled
from affinity.io.job_store import MAX_RESULT_BYTES, RETENTION_S
from affinity.io.ports import Sighting
from affinity.orders import EVERYWHERE, Order, OrderState, Pins
from tests.support.clock import FakeClock
from tests.support.fake_job_store import FakeJobStore
from tests.support.fake_world import FakeWorld


class FakeEventStream:
    """See ``event_port.EventStream``. The world's ``said`` is all there ever was; the first ``forgotten`` are gone."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world
        self.forgotten = 0

    async def emit(self, kind: str, at: float, fields: Mapping[str, str]) -> None:
        self._world.reach()
        self._world.say(kind, at, fields)

    async def settled(self) -> AsyncIterator[Settled | None]:
        events = self._from(len(self._world.said))
        yield None
        async for event in events:
            if event.kind == "job.settled":
                yield Settled(event.fields["job"], None)

    async def since(self, after: str | None, most: int = 500) -> Look:
        place = None if after is None else self._asked(after)
        self._world.reach()
        there = len(self._world.said)
        if place is None:
            return Look((), f"{there}-0")
        begun_anew = place > there
        begin = self.forgotten if begun_anew else max(place, self.forgotten)
        events = tuple(self._world.said[begin : begin + most])
        missed = begun_anew or 0 < place < self.forgotten + 1 <= there
        return Look(events, events[-1].id if events else f"{begin}-0", missed, len(events) >= most)

    async def read(self, after: str | None = None) -> AsyncIterator[Event]:
        async for event in self._from(len(self._world.said) if after is None else self._place(after)):
            yield event

    async def _from(self, place: int) -> AsyncIterator[Event]:
        while True:
            changed = self._world.changed
            for event in self._world.said[place:]:
                place += 1
                yield event
            if place == len(self._world.said):
                await changed.wait()

    def _place(self, after: str) -> int:
        # An id we have not come to yet is one of a stream that has been flushed since: all of this one is new.
        asked = self._asked(after)
        return asked if asked <= len(self._world.said) else 0

    def _asked(self, after: str) -> int:
        milliseconds, dash, sequence = after.partition("-")
        if not milliseconds.isdigit() or (dash and not sequence.isdigit()) or int(milliseconds) >= 2**64:
            raise InvalidInput("is not the id of an event", "after")
        return int(milliseconds)


class FakeFleetStore:
    """See ``ports.FleetStore``."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world
        self._epoch = 0
        self._reports: dict[str, WorkerReport] = {}
        self._measured: dict[tuple[str, str], Measurement] = {}
        self._orders: dict[str, Order] = {}
        self._placed: dict[tuple[str, str | None], tuple[str, float]] = {}  # which order waits there, and until when
        self._pins: set[tuple[str, str]] = set()
        self._drains: set[str] = set()

    async def next_epoch(self) -> int:
        self._world.reach()
        self._epoch += 1
        return self._epoch

    async def lease_gpu(self, uuid: str, worker: str, lease_s: float) -> bool:
        self._world.reach()
        return self._world.hold("gpu", uuid, worker, lease_s)

    async def report(self, report: WorkerReport) -> bool:
        self._world.reach()
        known = self._reports.get(report.worker)
        if known is not None and known.epoch > report.epoch:
            return False
        if known is None or known.version() <= report.version():
            self._reports[report.worker] = report
        self._world.drop("lease", report.worker)
        self._world.hold("lease", report.worker, str(report.epoch), report.lease_s)
        self._world.hold("gpu", report.gpu.uuid, report.worker, report.lease_s)
        return True

    async def leave(self, report: WorkerReport) -> None:
        self._world.reach()
        known = self._reports.get(report.worker)
        leased = int(self._world.holder("lease", report.worker) or -1)
        if leased > report.epoch or (known is not None and known.epoch > report.epoch):
            return
        self._reports.pop(report.worker, None)
        self._world.drop("lease", report.worker)
        for kind, name in list(self._world.leases):
            if self._world.holder(kind, name) == report.worker and (kind == "claim" or name == report.gpu.uuid):
                self._world.drop(kind, name)

    async def sighting(self) -> Sighting:
        self._world.reach()
        live: list[WorkerReport] = []
        lost: list[WorkerReport] = []
        for _, report in sorted(self._reports.items()):
            alive = self._world.holder("lease", report.worker) == str(report.epoch)
            (live if alive else lost).append(report)
        held = {name: self._world.holder(kind, name) for kind, name in self._world.leases if kind == "claim"}
        claims = {model: worker for model, worker in held.items() if worker is not None}
        for order_id, until in list(self._placed.values()):
            if until <= self._world.clock.now():
                self._end(order_id, OrderState.EXPIRED, "it could not be carried out in time", self._world.clock.now())
        orders = [self._orders[order_id] for order_id in sorted(order_id for order_id, _ in self._placed.values())]
        return Sighting(FleetView.of(live, claims, orders, Pins(frozenset(self._pins)), self._drains), tuple(lost))

    async def claim(self, model: str, worker: str, lease_s: float) -> bool:
        self._world.reach()
        return self._world.hold("claim", model, worker, lease_s)

    async def release(self, model: str, worker: str) -> None:
        self._world.reach()
        if self._world.holder("claim", model) == worker:
            self._world.drop("claim", model)

    async def begin_reaping(self, worker: str, by: str, lease_s: float) -> bool:
        self._world.reach()
        return self._world.hold("reaping", worker, by, lease_s)

    async def forget(self, report: WorkerReport) -> None:
        self._world.reach()
        self._world.drop("reaping", report.worker)
        known = self._reports.get(report.worker)
        back = known is not None and known.version() > report.version()
        if not back and self._world.holder("lease", report.worker) is None:
            self._reports.pop(report.worker, None)

    async def learn(self, model: str, gpu_name: str, measurement: Measurement) -> None:
        self._world.reach()
        known = self._measured.get((model, gpu_name))
        if known is not None and measurement.reload_s is None:
            measurement = replace(measurement, reload_s=known.reload_s)
        self._measured[model, gpu_name] = measurement

    async def learned(self) -> Mapping[tuple[str, str], Measurement]:
        self._world.reach()
        return dict(self._measured)

    async def order(self, order: Order) -> None:
        self._world.reach()
        if order.id in self._orders:
            return
        place = (order.model, order.worker)
        if place in self._placed:
            self._end(self._placed[place][0], OrderState.REPLACED, f"order {order.id} says otherwise", order.asked_at)
        self._orders[order.id] = order
        self._placed[place] = (order.id, self._world.clock.now() + order.expires_at - order.asked_at)
        self._world.say("order.asked", order.asked_at, {**_named(order), "by": order.by})

    async def end_order(self, order_id: str, state: OrderState, reason: str, now: float) -> bool:
        self._world.reach()
        return self._end(order_id, state, reason, now)

    async def get_order(self, order_id: str) -> Order:
        self._world.reach()
        if order_id not in self._orders:
            raise UnknownOrder(f"there is no order {order_id!r}")
        return self._orders[order_id]

    async def pin(self, model: str, worker: str | None, by: str, now: float) -> None:
        self._world.reach()
        pin = (model, worker or EVERYWHERE)
        if pin not in self._pins:
            self._pins.add(pin)
            self._world.say("model.pinned", now, {"model": model, "worker": pin[1], "by": by})

    async def unpin(self, model: str, workers: Iterable[str], by: str, now: float) -> None:
        self._world.reach()
        for worker in workers:
            if (model, worker) in self._pins:
                self._pins.discard((model, worker))
                self._world.say("model.unpinned", now, {"model": model, "worker": worker, "by": by})

    def _end(self, order_id: str, state: OrderState, reason: str, now: float) -> bool:
        order = self._orders.get(order_id)
        if order is None or order.state is not OrderState.WAITING:
            return order is not None and (order.state, order.reason) == (state, reason)
        self._orders[order_id] = replace(order, state=state, reason=reason, ended_at=now)
        del self._placed[order.model, order.worker]
        self._world.say("order.ended", now, {**_named(order), "state": str(state), "reason": reason})
        return True

    async def drain(self, worker: str, by: str, now: float) -> None:
        self._world.reach()
        if worker not in self._drains:
            self._drains.add(worker)
            self._world.say("worker.drain_asked", now, {"worker": worker, "by": by})

    async def undrain(self, worker: str, by: str, now: float) -> None:
        self._world.reach()
        if worker in self._drains:
            self._drains.discard(worker)
            self._world.say("worker.drain_ended", now, {"worker": worker, "by": by})

    async def wake(self) -> None:
        self._world.reach()
        self._world.hint("")

    def wakes(self) -> AsyncIterator[str]:
        return self._world.hints()


def _named(order: Order) -> dict[str, str]:
    return {
        "order": order.id,
        "action": str(order.action),
        "model": order.model,
        "worker": order.worker or "",
    }


class FakeStores(FakeWorld):
    """What one Redis server would hold, and the three stores over it: ``jobs``, ``fleet``, ``events``."""

    def __init__(
        self, clock: FakeClock, retention_s: float = RETENTION_S, max_result_bytes: int = MAX_RESULT_BYTES
    ) -> None:
        super().__init__(clock)
        self.events = FakeEventStream(self)
        self.fleet = FakeFleetStore(self)
        self.jobs = FakeJobStore(self, retention_s, max_result_bytes)

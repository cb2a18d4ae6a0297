"""``FleetStore`` in Redis: reports, leases, claims, measurements, orders, pins, drains and the hints to workers.

Nothing here is needed for safety: all of it may vanish, and the next heartbeats bring it back, but for what an operator
has asked for. Give the store that renews leases a link with ``HEARTBEAT`` patience.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress

from affinity.errors import UndecodableMessage, UnknownOrder
from affinity.fleet import FleetView, Measurement, WorkerReport
from affinity.io.order_record import decode_order, decode_pins, order_fields, place_of
from affinity.io.ports import Sighting
from affinity.io.redis_client import SILENCE_S, RedisLink, lua
from affinity.orders import EVERYWHERE, Order, OrderState
from affinity.topology import Keys
from affinity.wire import decode_measurement, decode_report, encode_measurement, encode_report

ORDER_KEPT_S = 3600.0
"""How long an order that has ended can still be asked about."""


class RedisFleetStore:
    """See ``ports.FleetStore``. Leases and claims run on the server's clock."""

    def __init__(self, link: RedisLink, keys: Keys, silence_s: float = SILENCE_S) -> None:
        """``silence_s``: how long a subscription may hear nothing before it asks whether anybody is there."""
        self._link = link
        self._keys = keys
        self._silence_s = silence_s
        self._claimed = keys.claimed
        self._decoded: dict[str, WorkerReport] = {}
        self._next_epoch = link.script(lua("next_epoch"))
        self._hold = link.script(lua("hold"))
        self._release = link.script(lua("release"))
        self._report = link.script(lua("report"))
        self._leave = link.script(lua("leave"))
        self._sighting = link.script(lua("orders"), lua("sighting"))
        self._forget = link.script(lua("forget"))
        self._learn = link.script(lua("learn"))
        self._order = link.script(lua("orders"), lua("order"))
        self._end_order = link.script(lua("orders"), lua("order_end"))
        self._pin = link.script(lua("orders"), lua("pin"))
        self._drain = link.script(lua("orders"), lua("drain"))

    async def next_epoch(self) -> int:
        """See the port. Holds across a flush of Redis, as long as its clock does not run backwards."""
        return int(await self._next_epoch([self._keys.epoch], []))

    async def lease_gpu(self, uuid: str, worker: str, lease_s: float) -> bool:
        """See the port."""
        return bool(await self._hold([self._keys.gpu(uuid)], [worker, _ms(lease_s)]))

    async def report(self, report: WorkerReport) -> bool:
        """See the port. A GPU that another worker has leased stays with it."""
        version = [str(report.epoch), str(report.sequence)]
        args = [report.worker, *version, encode_report(report), _ms(report.lease_s)]
        return bool(await self._report(self._worker_keys(report), args))

    async def leave(self, report: WorkerReport) -> None:
        """See the port."""
        args = [report.worker, str(report.epoch), self._keys.claim("")]
        await self._leave([*self._worker_keys(report), self._claimed], args)

    async def sighting(self) -> Sighting:
        """See the port. A report of a version we cannot read is left out, and left in place for those who can; so is an
        order."""
        keys = self._keys
        heads = [keys.report(""), keys.lease(""), keys.claim(""), keys.order(""), _ms(ORDER_KEPT_S)]
        flat_reports, flat_claims, records, pins, drains = await self._sighting(
            [keys.workers, self._claimed, keys.orders, keys.pins, keys.events, keys.drains], heads
        )
        live: list[WorkerReport] = []
        lost: list[WorkerReport] = []
        # Most reports are those of the look before, and decoding all is what a look costs most.
        before, self._decoded = self._decoded, {}
        for text, lease in zip(flat_reports[::2], flat_reports[1::2], strict=True):
            with suppress(UndecodableMessage):
                report = self._decoded[text] = before.get(text) or decode_report(text)
                (live if lease == str(report.epoch) else lost).append(report)
        claims = dict(zip(flat_claims[::2], flat_claims[1::2], strict=True))
        orders: list[Order] = []
        for record in records:
            with suppress(ValueError, KeyError):
                orders.append(decode_order(record))
        orders.sort(key=lambda order: order.id)
        view = FleetView.of(live, claims, orders, decode_pins(pins), drains)
        return Sighting(view, tuple(sorted(lost, key=lambda report: report.worker)))

    async def claim(self, model: str, worker: str, lease_s: float) -> bool:
        """See the port."""
        return bool(await self._hold([self._keys.claim(model), self._claimed], [worker, _ms(lease_s), model]))

    async def release(self, model: str, worker: str) -> None:
        """See the port."""
        await self._release([self._keys.claim(model), self._claimed], [worker, model])

    async def begin_reaping(self, worker: str, by: str, lease_s: float) -> bool:
        """See the port. Who has the right already has it again, for longer."""
        return bool(await self._hold([self._keys.reaping(worker)], [by, _ms(lease_s)]))

    async def forget(self, report: WorkerReport) -> None:
        """See the port."""
        keys = [*self._worker_keys(report)[:3], self._keys.reaping(report.worker)]
        await self._forget(keys, [report.worker, str(report.epoch), str(report.sequence)])

    async def learn(self, model: str, gpu_name: str, measurement: Measurement) -> None:
        """See the port."""
        await self._learn([self._keys.measured], [f"{model}|{gpu_name}", encode_measurement(measurement)])

    async def learned(self) -> Mapping[tuple[str, str], Measurement]:
        """See the port. What we cannot read is left out."""
        async with self._link.guard() as client:
            texts = await client.hgetall(self._keys.measured)
        found: dict[tuple[str, str], Measurement] = {}
        for name, text in texts.items():
            model, _, gpu_name = str(name).partition("|")
            with suppress(UndecodableMessage):
                found[model, gpu_name] = decode_measurement(text)
        return found

    async def order(self, order: Order) -> None:
        """See the port."""
        place, worker = place_of(order.model, order.worker), order.worker or ""
        life = str(max(0, int(1000 * (order.expires_at - order.asked_at))))
        told = [str(order.action), order.model, worker, order.by, *order_fields(order)]
        args = [self._keys.order(""), order.id, place, repr(float(order.asked_at)), life, _ms(ORDER_KEPT_S), *told]
        await self._order([self._keys.orders, self._keys.order(order.id), self._keys.events], args)

    async def end_order(self, order_id: str, state: OrderState, reason: str, now: float) -> bool:
        """See the port."""
        keys = [self._keys.orders, self._keys.order(order_id), self._keys.events]
        return bool(await self._end_order(keys, [str(state), reason, repr(float(now)), _ms(ORDER_KEPT_S)]))

    async def get_order(self, order_id: str) -> Order:
        """See the port."""
        record = await self._link.call("HGETALL", self._keys.order(order_id))
        if not record:
            raise UnknownOrder(f"there is no order {order_id[:128]!r}; they are forgotten an hour after their end")
        return decode_order(record)

    async def pin(self, model: str, worker: str | None, by: str, now: float) -> None:
        """See the port."""
        await self._pin(
            [self._keys.pins, self._keys.events],
            ["SADD", "model.pinned", repr(float(now)), by, model, worker or EVERYWHERE],
        )

    async def unpin(self, model: str, workers: Iterable[str], by: str, now: float) -> None:
        """See the port."""
        args = ["SREM", "model.unpinned", repr(float(now)), by, model, *workers]
        await self._pin([self._keys.pins, self._keys.events], args)

    async def drain(self, worker: str, by: str, now: float) -> None:
        """See the port."""
        args = ["SADD", "worker.drain_asked", repr(float(now)), by, worker]
        await self._drain([self._keys.drains, self._keys.events], args)

    async def undrain(self, worker: str, by: str, now: float) -> None:
        """See the port."""
        args = ["SREM", "worker.drain_ended", repr(float(now)), by, worker]
        await self._drain([self._keys.drains, self._keys.events], args)

    async def wake(self) -> None:
        """See the port."""
        async with self._link.guard() as client:
            await client.publish(self._keys.wake, "")

    async def wakes(self) -> AsyncIterator[str]:
        """See the port."""
        async for hint in self._link.messages(self._keys.wake, self._silence_s):
            yield hint or ""

    def _worker_keys(self, report: WorkerReport) -> list[str]:
        keys = self._keys
        return [keys.report(report.worker), keys.workers, keys.lease(report.worker), keys.gpu(report.gpu.uuid)]


def _ms(lease_s: float) -> str:
    return str(max(1, int(lease_s * 1000)))

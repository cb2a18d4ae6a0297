"""What an operator asks for by hand: models to be loaded, unloaded or pinned, workers to be drained. The use cases.

Nothing is carried out here. Orders, pins and drains are put into the store, where every worker's plan reads them; the
fleet as it was seen serves to refuse at once what waiting would never bring about.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from affinity.errors import NotUnpinnable, StoreUnavailable
from affinity.fleet import FleetView
from affinity.io.ports import Clock, FleetStore
from affinity.orders import EVERYWHERE, ORDER_LIFE_S, Action, Order, OrderState, Pins
from affinity.policy import Decision, plan
from affinity.policy.order_checks import check_load, check_unload, check_worker
from affinity.policy.orders import about_order
from dispatcher.fleet_glance import FleetGlance, Glance
from models.catalog import Catalog


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Asked:
    """``detail`` says what will happen. Without ``orders`` there is nothing to do."""

    detail: str
    orders: Sequence[tuple[Order, Decision | None]] = ()


class ByHand:
    """Orders, pins, drains. ``by`` is who asks, for the events. Every method raises ``UnknownModel`` and the like."""

    def __init__(self, fleet: FleetStore, catalog: Catalog, clock: Clock, new_id: Callable[[], str] = _new_id) -> None:
        self._fleet = fleet
        self._catalog = catalog
        self._clock = clock
        self._new_id = new_id

    async def load(self, model: str, worker: str | None, by: str) -> Asked:
        """Have a model resident on a worker, or on whichever is best. ``CannotLoad``, ``NeverFits``."""
        self._catalog.get(model)
        seen = await self._look()
        if held := check_load(seen.facts[model], worker, seen.view, self._clock.now()):
            return Asked(f"{model} is resident on {', '.join(held)} already")
        return await self._order(Action.LOAD, model, [worker], by, seen)

    async def unload(self, model: str, worker: str | None, by: str) -> Asked:
        """Have a model leave a worker, or all that hold it; loads of it that still wait are withdrawn. ``Pinned``."""
        self._catalog.get(model)
        seen = await self._look()
        targets = check_unload(seen.facts[model], worker, seen.view)
        loads = [o for o in seen.view.orders if (o.action, o.model) == (Action.LOAD, model)]
        withdrawn = [o for o in loads if worker in (None, o.worker)]
        for order in withdrawn:
            await self._fleet.end_order(order.id, OrderState.REPLACED, "it was to be unloaded", self._clock.now())
        if targets:
            return await self._order(Action.UNLOAD, model, targets, by, seen)
        where = "anywhere" if worker is None else f"on {worker}"
        said = f"{model} is not resident {where}"
        return Asked(f"{said}; the order to load it is withdrawn" if withdrawn else said)

    async def pin(self, model: str, worker: str | None, by: str) -> Pins:
        """The model is no victim there any more. What the catalogue pins already is left at that."""
        entry = self._catalog.get(model)
        view = (await self._fleet.sighting()).view
        if worker is not None:
            check_worker(worker, view)
        if entry.pinned:
            return view.pins
        await self._fleet.pin(model, worker, by, self._clock.now())
        await self._wake()
        return Pins(view.pins.held | {(model, worker or EVERYWHERE)})

    async def unpin(self, model: str, worker: str | None, by: str) -> Pins:
        """Take back pins set by hand: one worker's, or all. ``NotUnpinnable``."""
        entry = self._catalog.get(model)
        view = (await self._fleet.sighting()).view
        if entry.pinned:
            raise NotUnpinnable(f"the catalogue pins {model}: take 'pinned' out of its entry, and restart all services")
        own = view.pins.workers(model)
        if worker is not None:
            if view.pins.everywhere(model):
                raise NotUnpinnable(f"{model} is pinned on every worker: unpin it without naming one")
            if worker not in own:
                check_worker(worker, view)
        taken = (EVERYWHERE, *own) if worker is None else (worker,)
        await self._fleet.unpin(model, taken, by, self._clock.now())
        await self._wake()
        return Pins(view.pins.held - {(model, each) for each in taken})

    async def drain(self, worker: str, by: str) -> str:
        """The worker takes no more work until it is undrained. Says what will happen. ``UnknownWorker``."""
        view = (await self._fleet.sighting()).view
        if worker not in view.drains:  # One that is down may be drained still: it is when it comes back.
            check_worker(worker, view)
        await self._fleet.drain(worker, by, self._clock.now())
        await self._wake()
        if worker not in view.workers:
            return f"{worker} is not up; it takes no work when it comes back"
        return f"{worker} takes no more work; once what runs there has ended, its GPU is empty"

    async def undrain(self, worker: str, by: str) -> str:
        """The worker takes work again. Says what will happen. ``UnknownWorker``."""
        view = (await self._fleet.sighting()).view
        if worker not in view.drains:
            check_worker(worker, view)
            return f"{worker} was not drained by hand"
        await self._fleet.undrain(worker, by, self._clock.now())
        await self._wake()
        return f"{worker} takes work again{'' if worker in view.workers else ' when it comes back'}"

    async def order(self, order_id: str) -> tuple[Order, Decision | None]:
        """One order, and what the plan does for it while it waits. ``UnknownOrder``."""
        order = await self._fleet.get_order(order_id)
        if order.state is not OrderState.WAITING:
            return order, None
        seen = await self._look()
        return order, (await self._outlooks([order], seen.view, seen))[0]

    async def _look(self) -> Glance:
        # Not the shared one: it may be older than what the operator has just seen.
        return await FleetGlance(self._fleet, self._catalog, self._clock).look()

    async def _order(self, action: Action, model: str, workers: Sequence[str | None], by: str, seen: Glance) -> Asked:
        now = self._clock.now()
        orders = [Order(self._new_id(), action, model, each, now, now + ORDER_LIFE_S, by) for each in workers]
        for order in orders:
            await self._fleet.order(order)
        await self._wake()
        view = replace(seen.view, orders=(*seen.view.orders, *orders))
        return Asked(_detail(orders), list(zip(orders, await self._outlooks(orders, view, seen), strict=True)))

    async def _outlooks(self, orders: Sequence[Order], view: FleetView, seen: Glance) -> list[Decision | None]:
        # In a thread: a large fleet's plan must not hold up other requests.
        made = await asyncio.to_thread(plan, view, (), seen.facts, self._clock.now())
        return [about_order(order, made.decisions) for order in orders]

    async def _wake(self) -> None:
        with suppress(StoreUnavailable):  # Only a hint: every worker looks once per heartbeat anyway.
            await self._fleet.wake()


def _detail(orders: Sequence[Order]) -> str:
    model, within = orders[0].model, f"within {ORDER_LIFE_S / 60:.0f} minutes, or the order expires"
    if orders[0].action is Action.LOAD:
        where = orders[0].worker or "the worker where that costs least"
        return f"{model} is to be loaded on {where} {within}"
    return f"{model} is to leave {', '.join(order.worker or '' for order in orders)} once none of its jobs runs there"

"""What follows from an operator's orders: loads and unloads that the plan carries out, and when an order has ended.

An ordered load does not ask whether it pays. What it may never do is the same as ever: evict what runs, loads or is
pinned. Where that leaves no room, it waits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from affinity.fleet import FleetView, ModelFacts, Residency, ResidencyState, WorkerReport
from affinity.orders import Action, Order, OrderState
from affinity.policy.decisions import Decision, Load, Plan, Serve, Unload, Wait

BY_HAND = "asked for by hand"

Candidate = tuple[WorkerReport, Sequence[Residency]]
"""A worker that may load the model, and the residents that may be evicted for it there."""


class Room(Protocol):
    """An offer to load a model on one worker."""

    @property
    def worker(self) -> WorkerReport:
        """Where."""

    @property
    def footprint_bytes(self) -> int:
        """What the model takes there."""

    @property
    def victims(self) -> tuple[str, ...]:
        """Who has to go: some of the candidate's residents, none of them superfluous."""


BestOffer = Callable[[str, Sequence[Candidate]], Room | None]
"""The policy's own ranking: the cheapest load of a model on one of the candidates, ``None`` if none has the room."""


@dataclass(frozen=True, slots=True)
class Ending:
    """An order is over, and why."""

    order: Order
    state: OrderState
    reason: str


def ordered(
    fleet: FleetView, facts: Mapping[str, ModelFacts], now: float, best_offer: BestOffer
) -> Iterator[Load | Unload | Wait]:
    """What the waiting orders of this view come to at ``now``, oldest first: unloads, then loads or why they wait.

    At most one load per worker and per model. Orders that are fulfilled come to nothing.
    """
    if not fleet.orders:
        return
    unloads = [
        Unload(order.worker, order.model, f"{BY_HAND}: order {order.id}", order.id)
        for order in _in_order(fleet, Action.UNLOAD)
        if order.worker and _may_unload(fleet, order.worker, order.model)
    ]
    yield from unloads
    taken = {worker.worker for worker in fleet.workers.values() if worker.loading} | set(fleet.claims.values())
    leaving = {(unload.worker, unload.model) for unload in unloads}
    loads: dict[str, Load] = {}
    for order in _in_order(fleet, Action.LOAD):
        if other := loads.get(order.model):
            yield Wait(order.model, None, f"{other.worker} loads it first", order.id)
        elif decision := _load(order, fleet, facts, now, best_offer, taken, leaving):
            if isinstance(decision, Load):
                loads[decision.model] = decision
                taken.add(decision.worker)
            yield decision


def with_orders(
    made: Plan, fleet: FleetView, facts: Mapping[str, ModelFacts], now: float, best_offer: BestOffer
) -> Plan:
    """The plan with what an operator asked for. Where both want something of a worker or a model, the operator's goes.

    What it takes out of the plan comes back by itself: the next one is made after the order has been carried out.
    """
    by_hand = tuple(ordered(fleet, facts, now, best_offer))
    if not by_hand:
        return made
    loads = [decision for decision in by_hand if isinstance(decision, Load)]
    workers, models = {load.worker for load in loads}, {load.model for load in loads}
    going = {(load.worker, victim) for load in loads for victim in load.victims}
    going |= {(decision.worker, decision.model) for decision in by_hand if isinstance(decision, Unload)}
    kept = tuple(
        decision
        for decision in made.decisions
        if not (isinstance(decision, Load) and (decision.worker in workers or decision.model in models))
        # Served once more, it would be running when it is to go, and so for ever.
        and not (isinstance(decision, Serve) and (decision.worker, decision.model) in going)
    )
    waits = [decision.until for decision in by_hand if isinstance(decision, Wait) and decision.until is not None]
    wakes = waits if made.wake_at is None else [*waits, made.wake_at]
    return Plan((*kept, *by_hand), min(wakes, default=None))


def about_order(order: Order, decisions: Sequence[Decision]) -> Load | Unload | Wait | None:
    """What a plan does for a waiting order; ``None`` where it says nothing of it."""
    found = (d for d in decisions if isinstance(d, Load | Unload | Wait) and d.order == order.id)
    return next(found, None)


def endings(fleet: FleetView, facts: Mapping[str, ModelFacts], now: float, worker: str) -> tuple[Ending, ...]:
    """The orders of this view that are over and that ``worker`` should say so of.

    Of an order's own worker, that is the worker; of the others, one that holds the model; else the first by name.
    """
    return tuple(
        ending
        for order in fleet.orders
        if (ending := _ending(order, fleet, facts, now)) and _teller(order, ending, fleet) == worker
    )


def may_go(fleet: FleetView, worker: WorkerReport, resident: Residency) -> bool:
    """True if a resident may be evicted for an order at all."""
    pinned = resident.pinned or fleet.pins.cover(resident.model, worker.worker)
    return resident.state is ResidencyState.READY and not resident.running and not pinned


def stays(fleet: FleetView, worker: WorkerReport, model: str) -> bool:
    """True if the model serves there and is to stay: what an order to load wants."""
    resident = worker.holds(model)
    if resident is None or resident.state is not ResidencyState.READY or worker.draining:
        return False
    return not any(o.action is Action.UNLOAD and (o.model, o.worker) == (model, worker.worker) for o in fleet.orders)


def _in_order(fleet: FleetView, action: Action) -> list[Order]:
    return sorted((o for o in fleet.orders if o.action is action), key=lambda o: (o.asked_at, o.id))


def _may_unload(fleet: FleetView, worker: str, model: str) -> bool:
    """True also while it runs: the worker lets it run out. One that loads is left to arrive first."""
    report = fleet.workers.get(worker)
    resident = report and report.holds(model)
    if not resident or resident.state is not ResidencyState.READY:
        return False
    return not resident.pinned and not fleet.pins.cover(model, worker)


def _load(
    order: Order,
    fleet: FleetView,
    facts: Mapping[str, ModelFacts],
    now: float,
    best_offer: BestOffer,
    taken: set[str],
    leaving: set[tuple[str, str]],
) -> Load | Wait | None:
    """A load, why it has to wait, or nothing where the order is fulfilled."""
    model = order.model
    if model not in facts:
        return Wait(model, None, "the catalogue here does not have it", order.id)
    if claimer := fleet.claims.get(model):
        return Wait(model, None, f"{claimer} is loading it", order.id)
    holders = fleet.holders(model)
    if loader := next((h.worker for h in holders if h.loading and h.loading.model == model), None):
        return Wait(model, None, f"{loader} is loading it", order.id)
    asked = [w for name, w in sorted(fleet.workers.items()) if order.concerns(name)]
    if any(stays(fleet, worker, model) for worker in asked):
        return None
    able = [w for w in asked if not w.draining and w.worker not in taken and all(r.model != model for r in w.residents)]
    refusals = [refusal for w in able if (refusal := w.refuses(model, now))]
    able = [w for w in able if not w.refuses(model, now)]
    candidates = [
        (w, [r for r in w.residents if may_go(fleet, w, r) and (w.worker, r.model) not in leaving]) for w in able
    ]
    offer = best_offer(model, candidates)
    if offer is None:
        until = min((refusal.until for refusal in refusals), default=None)
        return Wait(model, until, _why_not(asked, fleet, taken, [refusal.message for refusal in refusals]), order.id)
    reason = f"{BY_HAND}: order {order.id}"
    return Load(offer.worker.worker, model, offer.footprint_bytes, offer.victims, len(holders), reason, order.id)


def _why_not(asked: Sequence[WorkerReport], fleet: FleetView, taken: set[str], refusals: Sequence[str]) -> str:
    if not asked:
        return "its worker is not up"
    if refusals:
        return f"its load failed a moment ago and is tried again: {refusals[0]}"
    if len(asked) > 1:
        return "no worker can make room for it now: what is in the way runs, loads or is pinned"
    (worker,) = asked
    if worker.worker in taken:
        return f"{worker.worker} is busy with another load"
    if worker.draining:
        return f"{worker.worker} is stopping"
    kept = (f"{r.model} {_standing(fleet, worker, r)}" for r in worker.residents if not may_go(fleet, worker, r))
    return f"{worker.worker} cannot make room for it now: {', '.join(kept) or 'other programs fill its memory'}"


def _standing(fleet: FleetView, worker: WorkerReport, resident: Residency) -> str:
    if resident.pinned or fleet.pins.cover(resident.model, worker.worker):
        return "is pinned"
    if resident.state is not ResidencyState.READY:
        return f"is {resident.state}"
    return "runs"


def _ending(order: Order, fleet: FleetView, facts: Mapping[str, ModelFacts], now: float) -> Ending | None:
    if order.worker and order.worker not in fleet.workers:
        return Ending(order, OrderState.FAILED, f"{order.worker} is not up any more")
    if order.action is Action.UNLOAD and order.worker:
        report = fleet.workers[order.worker]
        if all(resident.model != order.model for resident in report.residents):
            return Ending(order, OrderState.DONE, f"{order.worker} has evicted it")
        if fleet.pins.cover(order.model, order.worker):
            return Ending(order, OrderState.FAILED, "it was pinned meanwhile")
        return None
    asked = [w for name, w in sorted(fleet.workers.items()) if order.concerns(name)]
    if holder := next((w for w in asked if stays(fleet, w, order.model)), None):
        return Ending(order, OrderState.DONE, f"{holder.worker} holds it")
    if order.worker and asked[0].draining:
        return Ending(order, OrderState.FAILED, f"{order.worker} is stopping")
    known = facts.get(order.model)
    large = [w for w in asked if known and known.on(w.gpu).footprint_bytes <= w.gpu.usable_bytes and not w.draining]
    refusals = [w.refuses(order.model, now) for w in large]
    if large and all(refusal and refusal.hopeless for refusal in refusals):
        last = max((r for r in refusals if r), key=lambda r: (r.until, r.code))
        return Ending(order, OrderState.FAILED, f"{last.code}: {last.message}")
    return None


def _teller(order: Order, ending: Ending, fleet: FleetView) -> str | None:
    """Who says that an order is over: the one who knows best; several would only get in each other's way."""
    live = sorted(name for name, worker in fleet.workers.items() if not worker.draining)
    if order.worker in live:
        return order.worker
    if order.action is Action.LOAD and ending.state is OrderState.DONE:
        return next(name for name in live if stays(fleet, fleet.workers[name], order.model))
    return live[0] if live else None

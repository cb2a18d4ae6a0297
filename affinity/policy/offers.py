"""What it would take to load a model on one worker: who has to go, and what that costs."""

from collections.abc import Iterable
from dataclasses import dataclass

from affinity.fleet import Demand, Residency, ResidencyState, WorkerReport
from affinity.policy.alarms import Alarms
from affinity.policy.board import Board
from affinity.policy.ledger import VramLedger
from affinity.policy.tuning import Tuning
from affinity.policy.worth import Priced, Worth

LEAST_YOUNG_S = 0.05
"""Models that load in no time would otherwise make room for each other without end, and none would serve."""


@dataclass(frozen=True, slots=True)
class Offer:
    """``ready_s`` is the time until the model is ready, ``lost_s`` what the victims are expected to cost."""

    worker: WorkerReport
    footprint_bytes: int
    victims: tuple[str, ...]
    ends_turn: bool
    ready_s: float
    lost_s: float
    free_bytes: int

    @property
    def cost_s(self) -> float:
        """Time until the model is ready there, and what its victims will cost."""
        return self.ready_s + self.lost_s

    def rank(self) -> tuple[bool, float, bool, int, str]:
        """Least harm first: no warm turn ended, the lowest cost, an idle worker, the emptiest GPU."""
        return (self.ends_turn, self.cost_s, self.worker.busy, -self.free_bytes, self.worker.worker)


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker could offer, in bytes: what is free, what evicting the unasked gives, what ending turns gives.

    ``least_s`` is what the cheapest victim costs, ``price_s`` what the cheapest one costs per byte;
    ``serves_first`` says that it has something to serve, and could not beside a load.
    """

    worker: WorkerReport
    free_bytes: int
    spare_bytes: int
    most_bytes: int
    least_s: float
    price_s: float
    serves_first: bool


class Offers:
    """Offers of single workers, as the board stands. What only time prevents sets an alarm."""

    def __init__(self, board: Board, worth: Worth, tuning: Tuning, alarms: Alarms) -> None:
        self._board = board
        self._worth = worth
        self._tuning = tuning
        self._alarms = alarms

    def on(self, worker: WorkerReport, demand: Demand, further: bool) -> Offer | None:
        """The load of a model in demand there; ``None`` if it cannot make room. A ``further`` copy ends no turn."""
        model = demand.model
        if any(resident.model == model for resident in worker.residents):
            return None
        if self._serves_first(worker) and not self._turn_may_end(worker, demand):
            return None
        if refusal := worker.refuses(model, self._board.now):
            self._alarms.for_model(refusal.until, model)
            return None
        size = self._board.facts[model].on(worker.gpu).footprint_bytes
        ledger = VramLedger(worker.gpu.capacity_bytes, {r.model: r.footprint_bytes for r in worker.residents})
        if size <= ledger.free_bytes:
            return Offer(worker, size, (), False, self._worth.ready_s(worker, model), 0.0, ledger.free_bytes)
        evictable = self._evictable(worker, demand, further)
        victims = ledger.victims_for(size, [(r.model, r.footprint_bytes) for r, _ in evictable])
        if victims is None:
            return None
        lost_s = sum(cost_s for r, cost_s in evictable if r.model in victims)
        ends_turn = any(victim in self._board.waiting for victim in victims)
        return Offer(worker, size, victims, ends_turn, self._worth.ready_s(worker, model), lost_s, ledger.free_bytes)

    def may_be_had(self, room: Room, demand: Demand, further: bool, below_s: float) -> bool:
        """False if it is plain that a load there has no room, or costs no less than ``below_s`` in victims."""
        size = self._board.facts[demand.model].on(room.worker.gpu).footprint_bytes
        if size > room.most_bytes or (room.serves_first and not self._turn_may_end(room.worker, demand)):
            return False
        if size <= room.free_bytes:
            return True
        if size <= room.spare_bytes:
            return room.least_s < below_s
        return not further and self._turn_may_end(room.worker, demand)

    def room(self, worker: WorkerReport) -> Room:
        """What could be had there at all."""
        idle = self.idle(worker)
        free = worker.gpu.capacity_bytes - sum(resident.footprint_bytes for resident in worker.residents)
        unasked = [resident for resident in idle if resident.model not in self._board.waiting]
        spare = free + sum(resident.footprint_bytes for resident in unasked)
        most = free + sum(resident.footprint_bytes for resident in idle)
        priced = [(self._worth.victim_s(worker, r), r.footprint_bytes) for r in unasked]
        least_s = min((cost_s for cost_s, _ in priced), default=0.0)
        price_s = min((cost_s / max(1, size) for cost_s, size in priced), default=0.0)
        return Room(worker, free, spare, most, least_s, price_s, self._serves_first(worker))

    def by_hand(self, worker: WorkerReport, model: str, idle: Iterable[Residency]) -> Offer | None:
        """A load that an operator asked for, at the cost of any of these residents: those nobody waits for first."""
        priced = self._worth.cheapest_first(worker, idle)
        priced.sort(key=lambda each: each[0].model in self._board.waiting)
        size = self._board.facts[model].on(worker.gpu).footprint_bytes
        ledger = VramLedger(worker.gpu.capacity_bytes, {r.model: r.footprint_bytes for r in worker.residents})
        victims = ledger.victims_for(size, [(r.model, r.footprint_bytes) for r, _ in priced])
        if victims is None:
            return None
        lost_s = sum(cost_s for r, cost_s in priced if r.model in victims)
        ends_turn = any(victim in self._board.waiting for victim in victims)
        return Offer(worker, size, victims, ends_turn, self._worth.ready_s(worker, model), lost_s, ledger.free_bytes)

    def idle(self, worker: WorkerReport) -> list[Residency]:
        """Residents that may be evicted at all: they neither run, load, leave nor are pinned, and are not fresh."""
        return [resident for resident in worker.residents if self._may_go(worker, resident)]

    def _evictable(self, worker: WorkerReport, demand: Demand, further: bool) -> list[Priced]:
        """Possible victims, best first: those nobody waits for, then (if a turn may end) the others."""
        waiting = self._board.waiting
        idle = self.idle(worker)
        unasked = self._worth.cheapest_first(worker, (r for r in idle if r.model not in waiting))
        asked = [r for r in idle if r.model in waiting]
        if not asked or further or not self._turn_may_end(worker, demand):
            return unasked
        return unasked + self._worth.cheapest_first(worker, asked)

    def _serves_first(self, worker: WorkerReport) -> bool:
        """True if a load would stop a GPU that has something to serve."""
        if self._tuning.overlap:
            return False
        return any(r.model in self._board.waiting and r.state is ResidencyState.READY for r in worker.residents)

    def _may_go(self, worker: WorkerReport, resident: Residency) -> bool:
        if resident.state is not ResidencyState.READY or resident.running or resident.pinned:
            return False
        facts = self._board.facts.get(resident.model)
        if facts is None:
            return True
        young_s = max(LEAST_YOUNG_S, self._tuning.young_loads * facts.on(worker.gpu).load_s)
        grown_up_at = resident.loaded_at + young_s
        if grown_up_at > self._board.now:
            self._alarms.for_worker(grown_up_at, worker.worker)
            return False
        return True

    def _turn_may_end(self, worker: WorkerReport, demand: Demand) -> bool:
        load_s = self._worth.load_s(worker, demand.model)
        overdue_at = demand.oldest_at + self._tuning.overdue_loads * load_s
        if overdue_at > self._board.now:
            self._alarms.for_model(overdue_at, demand.model)
            return False
        return worker.served_s >= self._tuning.amortised_loads * load_s

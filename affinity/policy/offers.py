"""What it would take to load a model on one worker: who has to go, and what that costs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from affinity.fleet import Demand, Residency, ResidencyState, WorkerReport
from affinity.policy.alarms import Alarms
from affinity.policy.board import Board
from affinity.policy.ledger import victims_for
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


def free_bytes(worker: WorkerReport) -> int:
    """What a further model may take there by the ledger; negative where another program has taken what is held."""
    free = worker.gpu.capacity_bytes
    for resident in worker.residents:
        free -= resident.footprint_bytes
    return free


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
        for resident in worker.residents:
            if resident.model == model:
                return None
        if self._serves_first(worker) and not self._turn_may_end(worker, demand):
            return None
        if refusal := worker.refuses(model, self._board.now):
            self._alarms.for_model(refusal.until, model)
            return None
        size = self._board.facts[model].on(worker.gpu).footprint_bytes
        free = free_bytes(worker)
        if size <= free:
            return Offer(worker, size, (), False, self._worth.ready_s(worker, model), 0.0, free)
        return self._evicting(worker, model, size, free, self._evictable(worker, demand, further))

    def worth_asking(self, rooms: Iterable[Room], demand: Demand, further: bool, below_s: float) -> list[WorkerReport]:
        """The workers of those rooms that ``may_be_had``."""
        return [room.worker for room in rooms if self.may_be_had(room, demand, further, below_s)]

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
        free = spare = most = free_bytes(worker)
        least_s = price_s = inf
        for resident in self.idle(worker):
            size = resident.footprint_bytes
            most += size
            if resident.model not in self._board.waiting:
                spare += size
                cost_s = self._worth.victim_s(worker, resident)
                least_s, price_s = min(least_s, cost_s), min(price_s, cost_s / max(1, size))
        if least_s == inf:
            least_s = price_s = 0.0
        return Room(worker, free, spare, most, least_s, price_s, self._serves_first(worker))

    def by_hand(self, worker: WorkerReport, model: str, idle: Iterable[Residency]) -> Offer | None:
        """A load that an operator asked for, at the cost of any of these residents: those nobody waits for first."""
        priced = self._worth.cheapest_first(worker, idle)
        priced.sort(key=lambda each: each[0].model in self._board.waiting)
        size = self._board.facts[model].on(worker.gpu).footprint_bytes
        return self._evicting(worker, model, size, free_bytes(worker), priced)

    def idle(self, worker: WorkerReport) -> list[Residency]:
        """Residents that may be evicted at all: they neither run, load, leave nor are pinned, and are not fresh."""
        return [resident for resident in worker.residents if self._may_go(worker, resident)]

    def _evicting(
        self, worker: WorkerReport, model: str, size: int, free: int, priced: Sequence[Priced]
    ) -> Offer | None:
        """The load at the cost of the first of these residents that make room; ``None`` if not even all of them do."""
        victims = victims_for(size - free, [(resident.model, resident.footprint_bytes) for resident, _ in priced])
        if victims is None:
            return None
        lost_s = sum(cost_s for resident, cost_s in priced if resident.model in victims)
        ends_turn = any(victim in self._board.waiting for victim in victims)
        return Offer(worker, size, victims, ends_turn, self._worth.ready_s(worker, model), lost_s, free)

    def _evictable(self, worker: WorkerReport, demand: Demand, further: bool) -> list[Priced]:
        """Possible victims, best first: those nobody waits for, then (if a turn may end) the others."""
        waiting = self._board.waiting
        idle = self.idle(worker)
        unasked = self._worth.cheapest_first(worker, [r for r in idle if r.model not in waiting])
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

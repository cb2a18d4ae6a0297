"""Which workers are worth asking for an offer: all of a small fleet, the likeliest of a large one.

A load goes where it costs least: where the weights are at hand, where there is room, where the victims are cheap, or,
for an overdue model, where a turn has lasted longest. Workers are kept in order of each, so that finding the best few
takes no longer in a fleet of a thousand. The order is as of each worker's last report; what an offer costs is computed
anew, so an order that is a little old costs nothing but a slightly worse choice.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

from affinity.fleet import WorkerReport
from affinity.policy.board import Board
from affinity.policy.offers import Offers, Room
from affinity.policy.tuning import Tuning

SMALL_FLEET = 32
"""Up to so many workers, all are asked."""

FEW = 4
"""How many are asked for each reason in a larger one."""

NOTHING: Mapping[str, Room] = MappingProxyType({})

LAST_NAME = "\U0010ffff"
"""After every worker's id."""

Key = tuple[bool, float, str, int]
"""Where a GPU cannot load beside serving, busy ones last; then least first; then by id. With the bytes it offers."""


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a worker stands in each order: most free memory, cheapest victim, longest turn."""

    roomy: Key
    cheap: Key | None
    served: Key | None


class _Order:
    """Workers in one order. ``None`` is the place of a worker that has none in it."""

    def __init__(self) -> None:
        self._keys: list[tuple[bool, float, str, int]] = []

    def add(self, key: Key | None) -> None:
        if key:
            insort(self._keys, key)

    def remove(self, key: Key | None) -> None:
        if key:
            del self._keys[bisect_left(self._keys, key)]

    def with_room(self, size_bytes: int) -> Iterator[str]:
        """Those that could offer so much, best first."""
        return (key[2] for key in self._keys if key[3] >= size_bytes)

    def up_to(self, value: float) -> Iterator[str]:
        """Those that come no later than that value, best first: found without going through the others."""
        for late in (False, True):
            first, end = bisect_left(self._keys, (late,)), bisect_right(self._keys, (late, value, LAST_NAME))
            yield from (self._keys[place][2] for place in range(first, end))


class Shortlist:
    """Kept up to date by ``changed``; computed only when somebody asks."""

    def __init__(self, board: Board, offers: Offers, tuning: Tuning) -> None:
        self._board = board
        self._offers = offers
        self._tuning = tuning
        self._stale: set[str] = set()
        self._places: dict[str, _Places] = {}
        self._roomy, self._cheap, self._served = _Order(), _Order(), _Order()

    def changed(self, worker: str) -> None:
        """Something is new about that worker, or it is gone."""
        self._stale.add(worker)

    def candidates(
        self, model: str, overdue: bool, able: Callable[[WorkerReport], bool], rooms: Mapping[str, Room] = NOTHING
    ) -> list[WorkerReport]:
        """Workers that pass ``able`` and are worth asking, in no order. ``overdue``: the model may end a turn.

        ``rooms``: what some of them offer, by id, as far as that has been found out for the board as it stands.
        """
        workers = self._board.workers
        if len(workers) <= SMALL_FLEET:
            return [worker for worker in workers.values() if able(worker)]
        if self._stale:
            self._refresh(rooms)
        facts = self._board.facts[model]
        size = min(facts.on(gpu).footprint_bytes for gpu in self._board.gpus())
        chosen = {name for name in self._board.cachers(model) if able(workers[name])}
        served = self._served.with_room(size) if overdue else ()
        for names in (self._roomy.up_to(-size), self._cheap.with_room(size), served):
            chosen.update(islice((name for name in names if able(workers[name])), FEW))
        return [workers[name] for name in chosen]

    def _refresh(self, rooms: Mapping[str, Room]) -> None:
        for name in self._stale:
            if old := self._places.pop(name, None):
                self._roomy.remove(old.roomy)
                self._cheap.remove(old.cheap)
                self._served.remove(old.served)
            worker = self._board.workers.get(name)
            if worker is None or worker.draining or worker.loading:
                continue
            new = self._places[name] = self._place(worker, rooms.get(name) or self._offers.room(worker))
            self._roomy.add(new.roomy)
            self._cheap.add(new.cheap)
            self._served.add(new.served)
        self._stale.clear()

    def _place(self, worker: WorkerReport, room: Room) -> _Places:
        late, name = not self._tuning.overlap and worker.busy, worker.worker
        evicts, ends_turn = room.spare_bytes > room.free_bytes, room.most_bytes > room.spare_bytes
        return _Places(
            (late, -room.free_bytes, name, room.free_bytes),
            (late, room.price_s, name, room.spare_bytes) if evicts else None,
            (late, -worker.served_s, name, room.most_bytes) if ends_turn else None,
        )

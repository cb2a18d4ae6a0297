"""What ``hoarding`` measures: the ways a worker can come by its jobs, and the cells in which they are compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

LOAD = 0.6
"""Steady arrivals, as a share of what the workers could execute if nothing but execution took time."""

SPREAD = 0.72
"""Coefficient of variation of execution times, which are lognormal, as in the workloads of ``bench/workloads``."""

STOP_AFTER_S, AT_ONCE_FROM_S = 0.05, 0.03
"""The way of the product: ``worker.hoarding`` has the same."""

FRESH_S = 0.01
"""``worker.hoarding.BACKLOG_S``: a delivery so young has none before it."""


class Kind(StrEnum):
    """``standing``: consumers run all the time. ``armed``: they are stopped once a job has run for a while, what they
    brought is handed back, and the next job comes by ``basic.get``. ``getting``: no consumers, ``basic.get`` upon
    hints. ``bouncing``: consumers run all the time, and what they bring to a busy worker is handed back at once.
    """

    STANDING = "standing"
    ARMED = "armed"
    GETTING = "getting"
    BOUNCING = "bouncing"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to come by jobs. All but the first three are for ``armed``.

    ``stop_after_s``: how long a job runs before the consumers are stopped (``None``: they never are); at once, where
    jobs take ``at_once_from_s`` or longer in the mean. ``hand_first``: what a consumer has brought is started before
    the backlog is looked at.
    """

    name: str
    kind: Kind
    prefetch: int = 1
    stop_after_s: float | None = None
    at_once_from_s: float = float("inf")
    hand_first: bool = False

    def threshold_s(self, exec_s: float) -> float | None:
        """``stop_after_s`` for jobs that take so long in the mean."""
        return 0.0 if exec_s >= self.at_once_from_s else self.stop_after_s


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """Jobs that take so long in the mean, and workers that all hold the same models."""

    exec_s: float
    residents: int
    workers: int


@dataclass(frozen=True, slots=True)
class Effort:
    """Jobs per worker, steady and in the burst after them, repeated with so many seeds."""

    steady: int
    burst: int
    seeds: int = 1


@dataclass(frozen=True, slots=True)
class Trial:
    """One way in one cell."""

    cell: Cell
    way: Way
    effort: Effort


def armed(stop_after_ms: int | None) -> Way:
    """With that threshold, however long jobs take, and the backlog first."""
    name = "armed-never" if stop_after_ms is None else f"armed-{stop_after_ms}ms"
    return Way(name, Kind.ARMED, stop_after_s=None if stop_after_ms is None else stop_after_ms / 1000)


OURS = Way("by-length", Kind.ARMED, stop_after_s=STOP_AFTER_S, at_once_from_s=AT_ONCE_FROM_S, hand_first=True)
"""Decided when a job starts, by how long its like take in the mean. Jobs run one at a time here: what is in hand comes
first."""

FIXED = armed(20)
"""How the workers did it before: one threshold for all."""

WAYS = (
    Way("prefetch-1", Kind.STANDING),
    Way("prefetch-10", Kind.STANDING, prefetch=10),
    FIXED,
    OURS,
    Way("get", Kind.GETTING),
)
BOUNCE = Way("bounce", Kind.BOUNCING)
"""Apart from the others: it keeps the broker busy for as long as a job waits, and nothing can be measured beside it."""

THRESHOLDS = (armed(0), armed(5), FIXED, armed(50), armed(None))

RESIDENTS, WORKERS = (1, 2, 4, 8), (2, 4)
SHORT = {0.005: Effort(120, 30, seeds=2), 0.04: Effort(25, 6, seeds=2)}
"""Measured one trial after the other: the machine is busy with each."""

LONG = {1.0: Effort(40, 5), 30.0: Effort(4, 2, seeds=4)}
"""Measured all at once: hardly anything happens in any of them."""

BOUNCED = {1.0: Effort(5, 3)}
"""Fewer jobs, one trial after the other."""

THRESHOLD_EFFORT = {
    0.005: Effort(100, 25, seeds=3),
    0.01: Effort(60, 15, seeds=3),
    0.02: Effort(40, 10, seeds=3),
    0.04: Effort(25, 6, seeds=3),
    0.1: Effort(12, 3, seeds=3),
}
QUICK = {0.005: Effort(80, 20), 0.04: Effort(20, 5), 0.3: Effort(3, 2)}


def one_by_one(quick: bool) -> Sequence[Trial]:
    """Trials that need the machine for themselves. The ways take turns, so that a busy moment falls on each."""
    if quick:
        return _grid(QUICK, (*WAYS, BOUNCE), (1, 8), (2,))
    return [
        *_grid(SHORT, (*WAYS, BOUNCE), RESIDENTS, WORKERS),
        *_grid(BOUNCED, (BOUNCE,), (2, 8), WORKERS),
    ]


def together(quick: bool) -> Sequence[Trial]:
    """Trials that run side by side."""
    return [] if quick else _grid(LONG, WAYS, RESIDENTS, WORKERS)


def thresholds(quick: bool) -> Sequence[Trial]:
    """One threshold for all lengths, and another: what ours was chosen from, one after the other."""
    return [] if quick else _grid(THRESHOLD_EFFORT, THRESHOLDS, (4,), (4,))


def _grid(
    lengths: dict[float, Effort], ways: Sequence[Way], residents: Sequence[int], workers: Sequence[int]
) -> Sequence[Trial]:
    cells = (Cell(exec_s, held, count) for exec_s, count, held in product(lengths, workers, residents))
    return [Trial(cell, way, lengths[cell.exec_s]) for cell in cells for way in ways]

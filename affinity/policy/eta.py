"""When a queued job is expected to start, with a range: the plan is carried out in thought until the job has its turn.

What it assumes: times measured so far hold on, and nothing arrives that goes first. Nothing is decided here: whoever
plans for real decides at every step.

It is work that may take a while, so it is done in steps: whoever drives them may do something else in between, and may
say that it is enough.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from heapq import heappop, heappush
from typing import TypeVar

from affinity.fleet import Demand, FleetView, ModelFacts, Residency, ResidencyState, WorkerReport
from affinity.policy.decisions import GiveUp, Load, Serve
from affinity.policy.placement import Planner
from affinity.policy.tuning import Tuning

MEASURED_SPREAD = 1.5
GUESSED_SPREAD = 3.0
"""A time may be so many times longer or shorter: one measured on this type of GPU, one that was never measured."""

LEAST_RESIDUAL = 0.5
"""A batch that runs longer than expected is expected to run this share of the mean on: long ones are long."""

MOST_PLANS = 300
"""How far one looks ahead, in plans. A job further down starts as late as the pace until there lets expect."""

T = TypeVar("T")

Steps = Generator[None, bool | None, T]
"""Work that stops after every plan it makes. Sent true, it comes to an end soon, with what it has found by then."""


class NoEta(StrEnum):
    """Why there is no estimate, in words."""

    UNFORESEEABLE = "nothing says when it starts"
    OUT_OF_TIME = "there was no time to look ahead far enough; ask again"


@dataclass(frozen=True, slots=True)
class Eta:
    """Seconds from now to the start. ``low_s``: nobody else's job goes first; ``high_s``: every queued one does."""

    start_in_s: float
    low_s: float
    high_s: float
    assuming: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Turn:
    """A job's start: in how many seconds, on which worker (empty: too far ahead to say), and whether after a load."""

    start_in_s: float
    worker: str = ""
    after_load: bool = False


def forecast(
    model: str,
    ahead: int,
    created_at: float,
    fleet: FleetView,
    demand: Mapping[str, Demand],
    facts: Mapping[str, ModelFacts],
    now: float,
    tuning: Tuning,
) -> Steps[Eta | NoEta]:
    """For a job with ``ahead`` jobs of its model before it; ``demand`` must have the model.

    ``UNFORESEEABLE`` where it will not start as things stand: nobody can take it, or the plan gives it up.
    """
    mine = demand[model]
    alone = [replace(each, queued=0) for each in demand.values() if each is not mine]
    last = replace(mine, oldest_at=now, summed_arrival_s=mine.queued * now)
    turns: list[_Turn | None] = []
    # In this order, since the first says whether there is a start at all.
    for queue, residual in (
        (list(demand.values()), 1.0),
        ([mine, *alone], 0.0),
        ([last, *(each for each in demand.values() if each is not mine)], 2.0),
    ):
        course = _Course(fleet, queue, facts, now, tuning, residual)
        turn = yield from course.turn(model, ahead, created_at)
        if not turns and turn is None:
            return NoEta.OUT_OF_TIME if course.cut_short else NoEta.UNFORESEEABLE
        if not (turns and course.cut_short):  # Half a look at an end of the range says nothing of it.
            turns.append(turn)
        if course.cut_short:
            break
    return _eta(turns, fleet, facts[model])


def _eta(turns: list[_Turn | None], fleet: FleetView, facts: ModelFacts) -> Eta:
    expected, *ends = turns
    assert expected
    worker = fleet.workers.get(expected.worker)
    measured = worker is not None and worker.gpu.name in facts.measured
    spread, known = (
        (MEASURED_SPREAD, "times are as measured on this type of GPU")
        if measured
        else (GUESSED_SPREAD, "times are guesses: the model was never measured on this type of GPU")
    )
    if worker is None:
        course = "the queue gets on as it does at first"
    else:
        course = f"{expected.worker} {'loads it and then' if expected.after_load else 'holds it and'} has its turn"
    order = f"jobs of a model start in order, up to {facts.max_batch} at once, and none that arrives goes first"
    assuming = [course, known, order]
    if len(ends) < 2:
        spread, ends = GUESSED_SPREAD, [None, None]
        assuming.append("the range is a guess: there was no time to look at it")
    start_in_s = expected.start_in_s
    early_s, late_s = (end.start_in_s if end else 0.0 for end in ends)
    return Eta(start_in_s, min(start_in_s, early_s) / spread, max(start_in_s, late_s) * spread, tuple(assuming))


class _Course:
    """The fleet as it goes on from one view. Holds what is so in thought; lives for one forecast.

    ``cut_short``: it was told that it is enough before it came to the job's turn.
    """

    def __init__(
        self,
        fleet: FleetView,
        demand: Iterable[Demand],
        facts: Mapping[str, ModelFacts],
        now: float,
        tuning: Tuning,
        residual: float,
    ) -> None:
        """``residual``: what runs now takes so many times as long to its end as expected."""
        self.cut_short = False
        self._facts = facts
        self._overlap = tuning.overlap
        self._began_at = self._now = now
        self._planner = Planner(facts, tuning)
        self._workers: dict[str, WorkerReport] = {}
        self._demand = {each.model: each for each in demand}
        self._ends: list[tuple[float, str, str]] = []
        self._started: Counter[str] = Counter()
        self._loaded: set[tuple[str, str]] = set()
        for report in fleet.workers.values():
            self._take_over(report, residual)
        for model, name in fleet.claims.items():
            if name in self._workers and model in facts and not self._workers[name].loading:
                self._begin(self._workers[name], model, ())
        for each in self._demand.values():
            self._planner.ask(each)

    def turn(self, model: str, ahead: int, created_at: float) -> Steps[_Turn | None]:
        """When ``ahead`` jobs of the model have started, and one more does."""
        for _ in range(MOST_PLANS):
            if (yield):
                self.cut_short = True
                break
            made = self._planner.plan(self._now)
            if any(isinstance(each, GiveUp) and each.model == model for each in made.decisions):
                return None
            acted = False
            # Loads come first: where they stop the GPU, a worker that served first would never get to it.
            for load in (each for each in made.decisions if isinstance(each, Load)):
                acted |= self._load(load)
            for serve in (each for each in made.decisions if isinstance(each, Serve)):
                acted |= self._serve(serve)
                if self._started[model] > ahead:
                    after_load = (serve.worker, model) in self._loaded
                    return _Turn(self._now - self._began_at, serve.worker, after_load)
            # The planner must hear of what it decided before anything else happens, as it does where it is real.
            if not acted and not self._go_on(made.wake_at):
                return None  # Something has to happen first that nobody can foresee.
        # Where nobody has started, there is no pace to go by, unless nobody does for as long as is looked.
        return self._beyond(model, ahead, created_at) if self._started or not self.cut_short else None

    def _go_on(self, wake_at: float | None) -> bool:
        """To the next instant at which something ends or the plan may change; false if there is none."""
        instants = [self._ends[0][0]] if self._ends else []
        instants += [wake_at] if wake_at is not None else []
        if not instants:
            return False
        self._now = min(instants)
        while self._ends and self._ends[0][0] <= self._now:
            _, name, ended = heappop(self._ends)
            self._end(self._workers[name], ended)
        return True

    def _beyond(self, model: str, ahead: int, created_at: float) -> _Turn:
        """Further than is looked ahead: the queue goes on at the pace it had."""
        passed_s = self._now - self._began_at
        if started := self._started[model]:
            return _Turn(passed_s * (ahead + 1) / started)
        started = self._started.total()
        before = sum(each.queued * _share_before(each, created_at) for each in self._demand.values() if each.queued)
        return _Turn(passed_s * (1.0 + before / max(1, started)))

    def _take_over(self, report: WorkerReport, residual: float) -> None:
        # What drains is as good as gone, and its room as good as free.
        staying = tuple(r for r in report.residents if r.state is not ResidencyState.DRAINING)
        self._put(replace(report, residents=staying))
        for resident in staying:
            facts = self._facts.get(resident.model)
            if facts is None:
                continue
            if resident.state is ResidencyState.LOADING:
                left_s = self._load_s(report, resident.model) - (self._now - resident.loaded_at)
                self._loaded.add((report.worker, resident.model))
            elif resident.running:
                mean_s = facts.on(report.gpu).exec_s
                left_s = residual * max(mean_s - (self._now - resident.last_used_at), LEAST_RESIDUAL * mean_s)
            else:
                continue
            heappush(self._ends, (self._now + max(0.0, left_s), report.worker, resident.model))

    def _load(self, load: Load) -> bool:
        """Whether it could begin."""
        worker = self._workers[load.worker]
        if worker.busy and not self._overlap:
            return False
        self._begin(worker, load.model, load.victims)
        return True

    def _begin(self, worker: WorkerReport, model: str, victims: tuple[str, ...]) -> None:
        size = self._facts[model].on(worker.gpu).footprint_bytes
        coming = Residency(model, ResidencyState.LOADING, size, self._now, self._now)
        staying = tuple(r for r in worker.residents if r.model not in victims)
        heappush(self._ends, (self._now + self._load_s(worker, model), worker.worker, model))
        self._loaded.add((worker.worker, model))
        self._put(replace(worker, residents=(*staying, coming)))

    def _serve(self, serve: Serve) -> bool:
        """Whether it could start."""
        worker, demand = self._workers[serve.worker], self._demand[serve.model]
        jobs = min(serve.most, demand.queued)
        if worker.busy or not jobs or (worker.loading and not self._overlap):
            return False  # Another worker was given the last of them, or this one has begun to load.
        self._started[serve.model] += jobs
        self._demand[serve.model] = left = _without_oldest(demand, jobs)
        self._planner.ask(left)
        took_s = self._facts[serve.model].on(worker.gpu).exec_s
        heappush(self._ends, (self._now + took_s, serve.worker, serve.model))
        self._put(_changed(worker, serve.model, lambda r: replace(r, running=jobs, last_used_at=self._now)))
        return True

    def _end(self, worker: WorkerReport, model: str) -> None:
        """A batch or a load is over."""
        resident = worker.holds(model)
        assert resident
        now = self._now
        if resident.running:
            served_s = worker.served_s + now - resident.last_used_at
            after = _changed(worker, model, lambda r: replace(r, running=0, last_used_at=now))
        else:
            served_s, ready = 0.0, ResidencyState.READY
            after = _changed(worker, model, lambda r: replace(r, state=ready, loaded_at=now, last_used_at=now))
        self._put(replace(after, served_s=served_s))

    def _put(self, report: WorkerReport) -> None:
        self._workers[report.worker] = report
        self._planner.report(report)

    def _load_s(self, worker: WorkerReport, model: str) -> float:
        known = self._facts[model].on(worker.gpu)
        return known.reload_s if model in worker.cached and known.reload_s is not None else known.load_s


def _changed(worker: WorkerReport, model: str, change: Callable[[Residency], Residency]) -> WorkerReport:
    return replace(worker, residents=tuple(change(r) if r.model == model else r for r in worker.residents))


def _without_oldest(demand: Demand, jobs: int) -> Demand:
    """The demand once its oldest jobs have started, if they came evenly about their mean."""
    left = demand.queued - jobs
    if left == 0:
        return replace(demand, queued=0)
    mean_at = demand.summed_arrival_s / demand.queued
    span_s = 2.0 * (mean_at - demand.oldest_at)
    oldest_at = demand.oldest_at + span_s * jobs / max(1, demand.queued - 1)
    newest_at = demand.oldest_at + span_s
    return replace(demand, queued=left, oldest_at=oldest_at, summed_arrival_s=left * (oldest_at + newest_at) / 2.0)


def _share_before(demand: Demand, instant: float) -> float:
    """Share of the queued jobs that came before ``instant``, if they came evenly about their mean."""
    span_s = 2.0 * (demand.summed_arrival_s / demand.queued - demand.oldest_at)
    if span_s <= 0.0:
        return float(demand.oldest_at < instant)
    return min(1.0, max(0.0, (instant - demand.oldest_at) / span_s))

"""What a trial of ``hoarding`` amounts to: waits, broker operations, and jobs that lay where they did no good.

Pure: it is given what happened. Every worker of a trial holds every model, so a job in the hands of a busy worker could
have been run by any that was idle: one that neither ran a job nor had one in hand. Instants are seconds of one
monotonic clock.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.hoarding_cells import Cell, Way
from bench.percentiles import percentile

SEEN_FROM_S = 0.002
"""A job that lay for less is not counted as hoarded: event loops wake to the millisecond."""

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Hold:
    """A delivery in a worker's hands before its start. ``started`` false: at ``until`` it was handed back."""

    job: str
    worker: str
    got_at: float
    until: float
    started: bool


@dataclass(frozen=True, slots=True)
class Ran:
    """A job's execution."""

    job: str
    worker: str
    began_at: float
    ended_at: float


@dataclass(slots=True)
class Log:
    """Everything that happened in one trial. ``sent``: job to the instant it was created; ``burst``: the jobs that came
    all at once; ``operations``: what the workers asked of the broker or got from it, by kind; ``parked``: jobs the
    broker gave up delivering, so that they went round by fallback."""

    sent: dict[str, float] = field(default_factory=dict)
    burst: set[str] = field(default_factory=set)
    holds: list[Hold] = field(default_factory=list)
    runs: list[Ran] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    parked: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way in one cell, all seeds together. Waits are those of the steady arrivals, from creation to start.

    ``drain``: how long the burst took, over its execution times shared out evenly. ``hoarded``: share of all jobs that
    lay unstarted at a busy worker while another was idle, ``hoarded_s`` for how many seconds in all; ``ruled_out`` and
    ``ruled_out_s`` are those of them, and the seconds, while they were not even that worker's next.
    """

    cell: Cell
    way: Way
    jobs: int
    mean_wait_s: float
    p99_wait_s: float
    drain: float
    hoarded: float
    hoarded_s: float
    ruled_out: float
    ruled_out_s: float
    operations: float
    handed_back: float
    parked: int

    def as_json(self) -> Mapping[str, str | float]:
        """Plain values: the cell and the way by name, then the measures."""
        measured = {name: getattr(self, name) for name in self.__slots__ if name not in {"cell", "way"}}
        cell = self.cell
        shape = {"exec_s": cell.exec_s, "residents": cell.residents, "workers": cell.workers}
        return {**shape, "way": self.way.name, **measured}


def outcome(cell: Cell, way: Way, logs: Sequence[Log]) -> Outcome:
    """The measures of one cell, from the trials of each seed."""
    waits: list[float] = []
    drains: list[float] = []
    kept: list[float] = []
    ruled_out: list[float] = []
    operations: Counter[str] = Counter()
    for log in logs:
        began = {run.job: run.began_at for run in log.runs}
        waits += [began[job] - at for job, at in log.sent.items() if job not in log.burst]
        burst = [run for run in log.runs if run.job in log.burst]
        ended = max(run.ended_at for run in burst)
        shortest_s = sum(run.ended_at - run.began_at for run in burst) / cell.workers
        drains.append((ended - min(log.sent[job] for job in log.burst)) / shortest_s)
        lain = hoarded_s(log.holds, log.runs)
        kept += [seconds for seconds, _ in lain.values()]
        ruled_out += [seconds for _, seconds in lain.values()]
        operations += log.operations
    jobs = sum(len(log.sent) for log in logs)
    return Outcome(
        cell,
        way,
        jobs,
        mean_wait_s=sum(waits) / len(waits),
        p99_wait_s=percentile(sorted(waits), 99),
        drain=sum(drains) / len(drains),
        hoarded=sum(seconds >= SEEN_FROM_S for seconds in kept) / jobs,
        hoarded_s=sum(kept),
        ruled_out=sum(seconds >= SEEN_FROM_S for seconds in ruled_out) / jobs,
        ruled_out_s=sum(ruled_out),
        operations=operations.total() / jobs,
        handed_back=operations["requeue"] / jobs,
        parked=sum(len(log.parked) for log in logs),
    )


def hoarded_s(holds: Iterable[Hold], runs: Sequence[Ran]) -> Mapping[str, tuple[float, float]]:
    """Job to the seconds it lay unstarted at a busy worker while another was idle, and how many of them it was not
    that worker's next. Jobs that never did are left out."""
    holds = list(holds)
    harmful = _harmful(holds, runs)
    begins = {worker: sorted(run.began_at for run in runs if run.worker == worker) for worker in harmful}
    found: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for hold in holds:
        lain_s = _shared_s((hold.got_at, hold.until), harmful[hold.worker])
        if lain_s:
            next_from = hold.until
            if hold.started and (place := bisect_left(begins[hold.worker], hold.until)):
                # While the run before its own went on, it was the next.
                next_from = begins[hold.worker][place - 1]
            found[hold.job][0] += lain_s
            found[hold.job][1] += _shared_s((hold.got_at, min(hold.until, next_from)), harmful[hold.worker])
    return {job: (kept, ruled_out) for job, (kept, ruled_out) in found.items()}


def _harmful(holds: Sequence[Hold], runs: Sequence[Ran]) -> Mapping[str, list[Span]]:
    """Worker to the times at which it was busy and any other was idle."""
    workers = {run.worker for run in runs} | {hold.worker for hold in holds}
    busy = {name: merged((run.began_at, run.ended_at) for run in runs if run.worker == name) for name in workers}
    held = {name: [(hold.got_at, hold.until) for hold in holds if hold.worker == name] for name in workers}
    end = max((run.ended_at for run in runs), default=0.0)
    idle = {name: _gaps(merged([*busy[name], *held[name]]), end) for name in workers}
    return {
        name: _both(busy[name], merged(span for other in workers - {name} for span in idle[other])) for name in workers
    }


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same times as ascending spans that do not touch."""
    made: list[Span] = []
    for begin, end in sorted(spans):
        if made and begin <= made[-1][1]:
            made[-1] = (made[-1][0], max(made[-1][1], end))
        else:
            made.append((begin, end))
    return made


def _gaps(spans: Sequence[Span], end: float) -> list[Span]:
    """From the beginning of time to ``end``, all that is not in these ascending spans."""
    edges = [float("-inf"), *(edge for span in spans for edge in span), end]
    return [(begin, until) for begin, until in zip(edges[::2], edges[1::2], strict=True) if begin < until]


def _both(first: Iterable[Span], second: Sequence[Span]) -> list[Span]:
    """The times in both of two lists of ascending spans."""
    return [part for span in first for part in _parts(span, second)]


def _shared_s(span: Span, spans: Sequence[Span]) -> float:
    return sum(end - begin for begin, end in _parts(span, spans))


def _parts(span: Span, spans: Sequence[Span]) -> list[Span]:
    """What of these ascending spans lies within one."""
    first = max(0, bisect_right(spans, (span[0], float("inf"))) - 1)
    found = []
    for begin, end in spans[first:]:
        if begin >= span[1]:
            break
        if end > span[0]:
            found.append((max(begin, span[0]), min(end, span[1])))
    return found

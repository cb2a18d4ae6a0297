"""What placement is judged by: each aim against what was measured, means over the seeds. Missed ones are said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan

from rich.table import Table

from bench.baselines.registry import BASELINES
from bench.cases import BURSTY, CURVE, NO_HELP, OURS, STANDARD
from bench.measures import Measures
from bench.rows import cell, good, in_bounds, mean_of, number, place, places

LEAST_GAP, LEAST_GAP_BURSTY = 0.90, 0.95
MOST_BOUNDS, BOUNDS_AT = 1.3, 0.6
MOST_RARE = 3.0
NOISE = 1.02
"""So much worse than another is no difference."""

_BASELINES = frozenset(each.name for each in BASELINES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One aim in one place. ``limit`` is the least value, or the most where ``at_most``; ``beside`` names a rival."""

    aim: str
    where: str
    value: float
    limit: float
    at_most: bool = True
    beside: str = ""

    @property
    def holds(self) -> bool:
        """Whether the aim is reached."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def verdicts(rows: Sequence[Measures]) -> list[Verdict]:
    """All aims that these rows can say something of."""
    found: list[Verdict] = []
    for each in places(rows):
        here = [row for row in good(rows) if place(row) == each]
        ours = [row for row in here if row["policy"] == OURS]
        if ours:
            found += _of_place(each, ours, here)
    return [verdict for verdict in found if not isnan(verdict.value)]


def _of_place(
    each: tuple[str, str, float, int], ours: Sequence[Measures], here: Sequence[Measures]
) -> Iterator[Verdict]:
    workload, arrivals, load, workers = each
    where = f"{workload} {arrivals} {load:g} x{workers}"
    own = ours[0]["setting"] == "own"
    if workload in NO_HELP:
        least_work = mean_of((row for row in here if row["policy"] == "least-work-lru"), "mean_s")
        ratio = mean_of(ours, "mean_s") / least_work
        yield Verdict("mean over that of least work", where, ratio, NOISE)
        return
    if workload not in STANDARD:
        return
    if workload == CURVE and arrivals in BURSTY:
        yield Verdict("gap closed", where, mean_of(ours, "gap_closed"), LEAST_GAP_BURSTY, at_most=False)
    elif workload == CURVE and own:
        yield Verdict("gap closed", where, mean_of(ours, "gap_closed"), LEAST_GAP, at_most=False)
    if load == BOUNDS_AT and arrivals == "poisson":
        bounds = sum(map(in_bounds, ours)) / len(ours)
        yield Verdict("mean over the lower bound", where, bounds, MOST_BOUNDS)
    for measure in ("mean_s", "p99_s"):
        name, best = _best_baseline(here, measure)
        title = f"{measure.removesuffix('_s')} over the best baseline's"
        yield Verdict(title, where, mean_of(ours, measure) / best, NOISE, beside=name)
    yield Verdict("wait of rare models over all", where, mean_of(ours, "rare_wait_ratio"), MOST_RARE)


def _best_baseline(rows: Sequence[Measures], measure: str) -> tuple[str, float]:
    """Its name, and its mean over seeds."""
    theirs = {str(row["policy"]) for row in rows if row["policy"] in _BASELINES and not isnan(number(row, measure))}
    means = {name: mean_of((row for row in rows if row["policy"] == name), measure) for name in sorted(theirs)}
    best = min(means, key=lambda name: means[name], default="")
    return best, means.get(best, float("nan"))


def table(found: Sequence[Verdict]) -> Table:
    """A row per aim and place, missed ones in red."""
    made = Table("aim", "where", title="aims", title_justify="left", pad_edge=False)
    for heading in ("measured", "limit"):
        made.add_column(heading, justify="right")
    for verdict in sorted(found, key=lambda v: v.aim):
        aim = f"{verdict.aim} ({verdict.beside})" if verdict.beside else verdict.aim
        limit = f"{'≤' if verdict.at_most else '≥'} {verdict.limit:g}"
        made.add_row(aim, verdict.where, cell(verdict.value), limit, style=None if verdict.holds else "red")
    return made

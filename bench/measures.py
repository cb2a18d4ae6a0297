"""The numbers of one run, as every benchmark of ours prints them: one flat JSON object."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from bench.bounds import lower_bound_mean_s, zero_load_mean_s
from bench.models_file import BenchModel
from bench.percentiles import percentile
from bench.simulator import Run
from bench.trace import TraceJob
from bench.world import FleetShape

RARE_SHARE = 0.01
"""A model with less than this share of the jobs is rare."""

Measures = dict[str, str | int | float | None]


def measures(run: Run, shape: FleetShape, bounds: tuple[float, float]) -> Measures:
    """What section 1.8 of the product page names, and a few more; ``bounds`` as ``bounds_of`` gives them.

    ``hit_ratio`` is the share of jobs that were not the first after a load; ``load_share`` the share of all GPU time
    in which a load was under way; ``rare_wait_ratio`` the mean wait of rare models over that of all.
    """
    latencies = run.latencies_s
    ascending = sorted(latencies)
    decisions = sorted(run.decisions_ns)
    return {
        "jobs": len(latencies),
        "mean_s": sum(latencies) / len(latencies),
        "p50_s": percentile(ascending, 50),
        "p95_s": percentile(ascending, 95),
        "p99_s": percentile(ascending, 99),
        "max_wait_s": max(latency - job.exec_s for latency, job in zip(latencies, run.jobs, strict=True)),
        "loads": run.loads,
        "hit_ratio": 1 - run.cold / len(latencies),
        "load_share": run.load_seconds / (shape.workers * run.makespan_s) if run.makespan_s else 0.0,
        "makespan_s": run.makespan_s,
        "lower_bound_mean_s": bounds[0],
        "zero_load_mean_s": bounds[1],
        "rare_wait_ratio": _rare_wait_ratio(run.jobs, latencies),
        "decision_us_p50": percentile(decisions, 50) / 1000 if decisions else None,
        "decision_us_p99": percentile(decisions, 99) / 1000 if decisions else None,
        "decision_us_mean": sum(decisions) / len(decisions) / 1000 if decisions else None,
    }


def bounds_of(jobs: Sequence[TraceJob], models: Mapping[str, BenchModel], workers: int) -> tuple[float, float]:
    """The lower bound on the mean, and the mean without loads, in seconds."""
    return lower_bound_mean_s(jobs, models, workers), zero_load_mean_s(jobs, models, workers)


def gap_closed(mean_s: float, round_robin_s: float, zero_load_s: float) -> float | None:
    """How much of what round robin loses to loads is won back; ``None`` where it loses nothing."""
    lost_s = round_robin_s - zero_load_s
    return (round_robin_s - mean_s) / lost_s if lost_s > 0 else None


def _rare_wait_ratio(jobs: Sequence[TraceJob], latencies: Sequence[float]) -> float | None:
    """Waits, that is latencies less execution, of rare models over those of all; ``None`` without any."""
    asked = Counter(job.model for job in jobs)
    waits: defaultdict[bool, list[float]] = defaultdict(list)
    for job, latency in zip(jobs, latencies, strict=True):
        waits[asked[job.model] < RARE_SHARE * len(jobs)].append(latency - job.exec_s)
    rare, every = waits[True], waits[True] + waits[False]
    mean_s = sum(every) / len(every)
    return sum(rare) / len(rare) / mean_s if rare and mean_s > 0 else None

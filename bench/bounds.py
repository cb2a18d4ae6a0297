"""What no policy can beat: a lower bound on the mean latency, and the mean if loads took no time."""

from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace

from bench.models_file import BenchModel
from bench.trace import TraceJob


def lower_bound_mean_s(jobs: Sequence[TraceJob], models: Mapping[str, BenchModel], workers: int) -> float:
    """No schedule on ``workers`` GPUs that are empty at the start, and stop no job, has a smaller mean latency.

    One machine of speed N runs, with interruptions, always the job that was shortest to begin with; nothing is released
    before its model can have been loaded once. Each job contributes its mean busy time (when, on average, it was worked
    on) and half its length, since a job that is not interrupted ends half its length after its mean busy time. Where
    jobs run in batches, a job costs no less than its share of a full one.
    """
    first_at: dict[str, float] = {}
    for job in jobs:
        first_at.setdefault(job.model, job.arrival_s)
    released = sorted(
        (max(job.arrival_s, first_at[job.model] + models[job.model].load_s), job.exec_s / models[job.model].max_batch)
        for job in jobs
    )
    mean_arrival_s = sum(job.arrival_s for job in jobs) / len(jobs)
    mean_exec_s = sum(job.exec_s for job in jobs) / len(jobs)
    busy_s = _summed_mean_busy_times(released, workers) / len(jobs)
    return max(mean_exec_s, busy_s + mean_exec_s / 2 - mean_arrival_s)


def _summed_mean_busy_times(released: Sequence[tuple[float, float]], speed: int) -> float:
    """Sum over jobs ``(release, length)`` of their mean busy times on one machine, shortest length first."""
    open_jobs: list[list[float]] = []
    total, now, coming = 0.0, 0.0, 0
    while open_jobs or coming < len(released):
        if not open_jobs:
            now = max(now, released[coming][0])
        while coming < len(released) and released[coming][0] <= now:
            at, length = released[coming]
            if length > 0:
                heappush(open_jobs, [length, coming, length])
            else:
                total += at
            coming += 1
        if not open_jobs:
            continue
        length, number, left = open_jobs[0]
        until = released[coming][0] if coming < len(released) else float("inf")
        end = now + left / speed
        if end <= until:
            heappop(open_jobs)
            total += left / length * (now + end) / 2
            now = end
        else:
            done = (until - now) * speed
            total += done / length * (now + until) / 2
            heapreplace(open_jobs, [length, number, left - done])
            now = until
    return total


def zero_load_mean_s(jobs: Sequence[TraceJob], models: Mapping[str, BenchModel], workers: int) -> float:
    """Mean latency of the same jobs if loads took no time: first in first out, batches of what waits already."""
    free_at = [0.0] * workers
    heapify(free_at)
    waiting: dict[str, deque[TraceJob]] = {}
    started: set[int] = set()
    total, seen = 0.0, 0
    for head in jobs:
        if head.number in started:
            waiting[head.model].popleft()
            continue
        begin = max(free_at[0], head.arrival_s)
        while seen < len(jobs) and jobs[seen].arrival_s <= begin:
            waiting.setdefault(jobs[seen].model, deque()).append(jobs[seen])
            seen += 1
        batch = _batch(waiting[head.model], started, models[head.model].max_batch)
        waiting[head.model].popleft()
        end = begin + max(job.exec_s for job in batch)
        total += sum(end - job.arrival_s for job in batch)
        heapreplace(free_at, end)
    return total / len(jobs)


def _batch(queue: Sequence[TraceJob], started: set[int], most: int) -> list[TraceJob]:
    batch: list[TraceJob] = []
    for job in queue:
        if len(batch) == most:
            break
        if job.number not in started:
            started.add(job.number)
            batch.append(job)
    return batch

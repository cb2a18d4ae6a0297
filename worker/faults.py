"""What a failed attempt comes to: whose doing it was, whether the job is tried again, and after how long."""

from affinity.errors import (
    AffinityError,
    AttemptsExhausted,
    DiedWithBatch,
    ExecutorDied,
    JobTimeout,
    OutOfVram,
    Quarantined,
    StoppedWithBatch,
    Transient,
)
from affinity.job import MAX_DEATHS, Job, JobError, backoff_s, rung_below


def shared(error: AffinityError, jobs: int, first_over_time: bool) -> AffinityError:
    """The error of one of several jobs with which an executor was lost.

    It is held against one only where that alone was over its time (``first_over_time``). Else nobody knows yet whose
    doing it was.
    """
    if jobs > 1 and isinstance(error, ExecutorDied):
        return DiedWithBatch(f"under {jobs} jobs: {error.message}")
    if jobs > 1 and isinstance(error, JobTimeout) and not first_over_time:
        return StoppedWithBatch(f"stopped with its batch: {error.message}")
    return error


def executor_died(error: Transient) -> bool:
    """By itself, under the job."""
    return isinstance(error, ExecutorDied | DiedWithBatch)


def runs_alone_next(error: Transient) -> bool:
    """An executor was lost with it: it is not to take others along the next time."""
    return executor_died(error) or isinstance(error, JobTimeout | StoppedWithBatch)


def given_up(job: Job, error: Transient) -> JobError | None:
    """With what a job ends that is not tried again; ``None`` if it is."""
    if isinstance(error, ExecutorDied) and job.deaths + 1 >= MAX_DEATHS:
        return JobError(Quarantined.code, f"{MAX_DEATHS} executors died under it; the last one: {error.message}")
    if error.uses_attempt and job.attempts >= job.spec.max_attempts:
        attempts = f"attempt {job.attempts} of {job.spec.max_attempts}"
        return JobError(AttemptsExhausted.code, f"{attempts} failed ({error.code}): {error.message}")
    return None


def final(job: Job, error: AffinityError) -> JobError:
    """With what a job ends that is over."""
    ended = given_up(job, error) if isinstance(error, Transient) else None
    return ended or JobError(error.code, error.message)


def wait_s(job: Job, error: Transient, dice: int, now: float) -> float:
    """How long until the next attempt; 0: at once. Not past the job's ``ttl_s``, if there is a wait short enough."""
    if isinstance(error, OutOfVram) and job.losses == 0:
        return 0.0  # Others may have room, and where it failed its model is refused for a moment.
    chosen_s = backoff_s(job.attempts if error.uses_attempt else job.losses + 1, dice)
    if job.spec.ttl_s is None:
        return chosen_s
    return min(chosen_s, rung_below(job.created_at + job.spec.ttl_s - now))

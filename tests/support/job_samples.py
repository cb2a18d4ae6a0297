"""Jobs, attempts, outcomes and reports with the fields a test does not care about filled in."""

from dataclasses import replace
from itertools import count

from affinity.fleet import GIB, Gpu, WorkerReport
from affinity.job import Attempt, JobError, JobSpec, Outcome, StartKind

_tokens = count()


def a_spec(job_id: str = "j1", model: str = "m", n: int = 1, ttl_s: float | None = None) -> JobSpec:
    """A job; another ``n`` is other content."""
    return JobSpec(job_id, model, {"n": n, "text": ["ä", "\ud800", 0.1]}, ttl_s=ttl_s, metadata={"user": "u"})


def an_attempt(job_id: str = "j1", worker: str = "w1", epoch: int = 1, token: str | None = None) -> Attempt:
    """An attempt with a token of its own."""
    return Attempt(job_id, token or f"token-{next(_tokens)}", worker, epoch)


def an_outcome(result: object = "done", error: JobError | None = None) -> Outcome:
    """A warm success, or a failure."""
    return Outcome(StartKind.WARM, load_s=0.1, exec_s=0.1 + 0.2, result=result, error=error)


def a_report(worker: str = "w1", epoch: int = 1, sequence: int = 1, gpu: str | None = None) -> WorkerReport:
    """A worker on a GPU of its own."""
    device = Gpu(uuid=gpu or f"GPU-{worker}", index=0, name="Fake 24 GiB", total_bytes=24 * GIB)
    return WorkerReport(worker, "node", epoch, sequence, as_of=1.5, gpu=device, lease_s=30.0)


def later(report: WorkerReport, steps: int = 1) -> WorkerReport:
    """The same worker's report some heartbeats on."""
    return replace(report, sequence=report.sequence + steps)

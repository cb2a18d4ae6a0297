"""How good the estimates of ``GET /jobs/{id}/explain`` are: some are asked for during a replay and judged afterwards.

A question is about a job that was just accepted, and is asked once. The answer tells how long the job has waited by the
dispatcher's clock and in how many seconds it is expected to start; the job's record tells when it did.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from bench.measures import Measures
from bench.percentiles import percentile

QUESTIONS_PER_S = 2.0
"""At most so many: each makes a plan, and must not disturb what is measured."""

AT_ONCE_S = 0.05
"""A start within this time is at once. A job that was expected to start at once, and did, shows nothing; and an error
is taken relative to no less than this."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """An estimate of seconds from the question to the start."""

    job_id: str
    waited_s: float
    start_in_s: float
    low_s: float
    high_s: float


class Questions:
    """Asks, now and then. ``asked`` counts all questions; ``forecasts`` has the answers of jobs that still waited."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.asked = 0
        self.unknown = 0
        self.forecasts: list[Forecast] = []
        self._client = client
        self._next_at = 0.0

    def due(self, now: float) -> bool:
        """True if a job accepted ``now`` (seconds, any monotonic clock) is to be asked about; counts as a question."""
        if now < self._next_at:
            return False
        self._next_at = now + 1.0 / QUESTIONS_PER_S
        self.asked += 1
        return True

    async def ask(self, job_id: str) -> None:
        """Take note of when the job is expected to start, if it waits and the dispatcher can say."""
        answer = (await self._client.get(f"/jobs/{job_id}/explain")).raise_for_status().json()
        waiting: Mapping[str, Any] | None = answer["waiting"]
        if waiting is None:
            return
        if eta := waiting["eta"]:
            estimate = (eta["start_in_s"], eta["low_s"], eta["high_s"])
            self.forecasts.append(Forecast(job_id, waiting["waited_s"], *estimate))
        else:
            self.unknown += 1


def score(questions: Questions, records: Iterable[Mapping[str, Any]]) -> Measures:
    """Estimates against the records of the ended jobs.

    ``eta_scored`` estimates were judged: those of jobs that waited, less those that started at once as expected.
    ``eta_error`` is the median of ``|expected - real| / real``, ``eta_bias`` the median with its sign (above 0: the job
    started earlier than said), ``eta_in_range`` the share whose real start lay within the range. ``None`` without any.
    """
    started = {record["id"]: epoch_s(record["started_at"]) - epoch_s(record["created_at"]) for record in records}
    judged = [(forecast, max(0.0, started[forecast.job_id] - forecast.waited_s)) for forecast in questions.forecasts]
    judged = [(forecast, real_s) for forecast, real_s in judged if max(forecast.start_in_s, real_s) >= AT_ONCE_S]
    errors = [(forecast.start_in_s - real_s) / max(real_s, AT_ONCE_S) for forecast, real_s in judged]
    within = sum(forecast.low_s <= real_s <= forecast.high_s for forecast, real_s in judged)
    return {
        "eta_asked": questions.asked,
        "eta_unknown": questions.unknown,
        "eta_scored": len(judged),
        "eta_error": percentile(sorted(map(abs, errors)), 50) if errors else None,
        "eta_bias": percentile(sorted(errors), 50) if errors else None,
        "eta_in_range": within / len(judged) if judged else None,
    }


def epoch_s(instant: str) -> float:
    """An instant of a job's record, in seconds since the epoch."""
    return datetime.fromisoformat(instant).timestamp()

"""Queued jobs by model, and the demand the policy sees: updated with each job, never computed anew."""

import math
from collections import deque
from collections.abc import Sequence

from affinity.fleet import Demand
from bench.trace import TraceJob

FORGOTTEN = 0.01
"""A model expected to be asked for less often than this per time constant no longer counts as asked for."""

STALENESS = 0.02
"""Rates of models without news may be this share of the time constant old: the policy compares them with each other."""


LEAST_SEEN_S = 1.0
"""A rate is not extrapolated from less than this."""


class Queues:
    """First in, first out per model. Rates are running means with time constant ``tau_s``.

    ``demand`` is by model; ``changed`` are the models whose demand is new, until whoever reads it clears it.
    """

    def __init__(self, tau_s: float) -> None:
        self.demand: dict[str, Demand] = {}
        self.changed: set[str] = set()
        self._tau_s = tau_s
        self._queued: dict[str, deque[TraceJob]] = {}
        self._sums: dict[str, float] = {}
        self._rates: dict[str, tuple[float, float]] = {}
        self._decayed_at = 0.0
        self._began_at: float | None = None

    def put(self, job: TraceJob) -> None:
        """The job waits from its arrival on."""
        model, now = job.model, job.arrival_s
        if self._began_at is None:
            self._began_at = now
        self._rates[model] = (self._rate(model, now) + 1.0 / self._tau_s, now)
        self._queued.setdefault(model, deque()).append(job)
        self._sums[model] = self._sums.get(model, 0.0) + now
        self._update(model, now)

    def take(self, model: str, most: int, now: float) -> Sequence[TraceJob]:
        """The oldest jobs of a model, at most ``most``; they wait no longer."""
        queue = self._queued.get(model)
        if not queue:
            return []
        jobs = [queue.popleft() for _ in range(min(most, len(queue)))]
        # Begun anew whenever nothing waits: a sum of many instants would drift.
        self._sums[model] = self._sums[model] - sum(job.arrival_s for job in jobs) if queue else 0.0
        self._update(model, now)
        return jobs

    def decay(self, now: float) -> None:
        """Let the rates of all models fall as they should, if the last time is long enough ago."""
        if now - self._decayed_at < STALENESS * self._tau_s:
            return
        self._decayed_at = now
        for model in list(self.demand):
            self._update(model, now)

    def _rate(self, model: str, now: float) -> float:
        rate, at = self._rates.get(model, (0.0, now))
        return rate * math.exp((at - now) / self._tau_s)

    def _update(self, model: str, now: float) -> None:
        queue = self._queued[model]
        self.changed.add(model)
        # As in the live store: a mean that is younger than its time constant would be low.
        seen_s = max(LEAST_SEEN_S, now - (self._began_at or 0.0))
        rate = self._rate(model, now) / (1.0 - math.exp(-seen_s / self._tau_s))
        if queue:
            self.demand[model] = Demand(model, len(queue), queue[0].arrival_s, self._sums[model], rate)
        elif rate * self._tau_s < FORGOTTEN:
            self.demand.pop(model, None)
        else:
            self.demand[model] = Demand(model, 0, now, 0.0, rate)

"""When a queued job is expected to start, with a range. Built on the estimates that placement itself decides by.

What it assumes: times measured so far hold on, the jobs of a model start in order and in full batches, those who hold
the model keep it, and nothing arrives that goes first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from affinity.fleet import Demand, FleetView, ModelFacts, ResidencyState, WorkerReport
from affinity.policy.decisions import GiveUp, Load, Plan, Wait
from affinity.policy.tuning import Tuning
from affinity.policy.worth import Worth

MEASURED_SPREAD = 1.5
GUESSED_SPREAD = 3.0
"""A time may be so many times longer or shorter: one measured on this type of GPU, one that was never measured."""


@dataclass(frozen=True, slots=True)
class Eta:
    """Seconds from now to the start. ``low_s``: nobody else's job goes first; ``high_s``: every queued one does."""

    start_in_s: float
    low_s: float
    high_s: float
    assuming: tuple[str, ...]


class Forecast:
    """Estimates for one model from one view of the fleet and the plan made of it. Pure; made anew each time."""

    def __init__(
        self,
        fleet: FleetView,
        demand: Mapping[str, Demand],
        facts: Mapping[str, ModelFacts],
        now: float,
        tuning: Tuning,
        made: Plan,
    ) -> None:
        self._fleet = fleet
        self._demand = demand
        self._facts = facts
        self._now = now
        self._made = made
        self._worth = Worth(fleet, demand, facts, now, tuning)

    def eta(self, model: str, ahead: int, created_at: float, able: Sequence[WorkerReport]) -> Eta | None:
        """For a job with ``ahead`` jobs of its model before it. ``able`` could load the model, now or later.

        ``None`` where it will not start as things stand: nobody can take it, or the plan gives it up.
        """
        if isinstance(self._made.about(model), GiveUp):
            return None
        mine = replace(self._demand[model], queued=ahead + 1)
        paths = [self._warm(mine, created_at), *(self._cold(mine, worker) for worker in able)]
        return min((path for path in paths if path), key=lambda path: path.start_in_s, default=None)

    def _warm(self, mine: Demand, created_at: float) -> Eta | None:
        holders = [w for w in self._fleet.holders(mine.model) if self._keeps(w, mine.model)]
        if not holders:
            return None
        own_s = self._worth.warm_start_s(mine, holders)
        older_s, all_s = self._others_s(holders, mine.model, created_at), self._others_s(holders, mine.model, None)
        held = f"{', '.join(holder.worker for holder in holders)} hold it and keep it"
        return self._range((own_s, own_s + older_s, own_s + all_s), holders, mine.model, held)

    def _keeps(self, worker: WorkerReport, model: str) -> bool:
        resident, load = worker.holds(model), self._made.load(worker.worker)
        ready = resident is not None and resident.state is ResidencyState.READY
        return ready and not worker.draining and not (load and model in load.victims)

    def _others_s(self, holders: Sequence[WorkerReport], model: str, before: float | None) -> float:
        """Work on other models per holder: what is queued for what they hold, or of that what came earlier."""
        total_s = 0.0
        for holder in holders:
            for resident in holder.residents:
                demand, facts = self._demand.get(resident.model), self._facts.get(resident.model)
                if demand and facts and demand.queued and resident.model != model:
                    share = 1.0 if before is None else _share_before(demand, before)
                    batches = ceil(demand.queued * share / facts.max_batch)
                    copies = max(1, len(self._fleet.holders(resident.model)))
                    total_s += batches * facts.on(holder.gpu).exec_s / copies
        return total_s / len(holders)

    def _cold(self, mine: Demand, worker: WorkerReport) -> Eta | None:
        """From a load on that worker: one that runs, that is decided, or that may come once the worker has time."""
        decision = self._made.about(mine.model)
        known = self._facts[mine.model]
        batches_s = (ceil(mine.queued / known.max_batch) - 1) * known.on(worker.gpu).exec_s
        load_s, resident = self._worth.load_s(worker, mine.model), worker.holds(mine.model)
        if resident:
            left_s = max(0.0, load_s - (self._now - resident.loaded_at)) + batches_s
            return self._range((left_s, left_s, left_s), [worker], mine.model, f"{worker.worker} is loading it")
        ready_s = self._worth.ready_s(worker, mine.model) + batches_s
        if self._fleet.claims.get(mine.model) == worker.worker or self._made.load(worker.worker) == decision:
            return self._range((ready_s, ready_s, ready_s), [worker], mine.model, f"{worker.worker} loads it next")
        if isinstance(decision, Load) or mine.model in self._fleet.claims or self._fleet.holders(mine.model):
            return None
        until = decision.until if isinstance(decision, Wait) else None
        late_s = max(self._hindered_s(worker), 0.0 if until is None else until - self._now)
        if late_s <= 0.0:
            return None  # The plan waits for something, and nothing says when it happens.
        later = f"{worker.worker} loads it as soon as it can"
        return self._range((ready_s, late_s + ready_s, 2.0 * late_s + ready_s), [worker], mine.model, later)

    def _hindered_s(self, worker: WorkerReport) -> float:
        """Until a load of something else that runs or is decided there ends; else until what runs there ends."""
        claimed = [model for model, owner in self._fleet.claims.items() if owner == worker.worker]
        planned = self._made.load(worker.worker)
        first = worker.loading.model if worker.loading else planned.model if planned else next(iter(claimed), None)
        if first is None or first not in self._facts:
            return self._worth.residual_s(worker)
        since_s = self._now - worker.loading.loaded_at if worker.loading else 0.0
        return max(0.0, self._worth.load_s(worker, first) - since_s)

    def _range(
        self, low_mean_high: tuple[float, float, float], workers: Sequence[WorkerReport], model: str, assumed: str
    ) -> Eta:
        facts = self._facts[model]
        measured = all(worker.gpu.name in facts.measured for worker in workers)
        spread, known = (
            (MEASURED_SPREAD, "times are as measured on this type of GPU")
            if measured
            else (GUESSED_SPREAD, "times are guesses: the model was never measured on this type of GPU")
        )
        low_s, mean_s, high_s = low_mean_high
        order = f"jobs of a model start in order, up to {facts.max_batch} at once, and none that arrives goes first"
        return Eta(mean_s, low_s / spread, high_s * spread, (assumed, known, order))


def _share_before(demand: Demand, instant: float) -> float:
    """Share of the queued jobs that came before ``instant``, if they came evenly about their mean."""
    span_s = 2.0 * (demand.summed_arrival_s / demand.queued - demand.oldest_at)
    if span_s <= 0.0:
        return float(demand.oldest_at < instant)
    return min(1.0, max(0.0, (instant - demand.oldest_at) / span_s))

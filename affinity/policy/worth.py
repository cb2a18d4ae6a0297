"""What things cost, in seconds of somebody's waiting: a load, an eviction, waiting for a warm start."""

from collections.abc import Iterable, Mapping, Sequence

from affinity.fleet import Demand, FleetView, ModelFacts, Residency, ResidencyState, WorkerReport
from affinity.policy.tuning import Tuning

LEAST_RESIDUAL = 0.5
"""A batch that runs longer than expected is expected to run this share of the mean on: long ones are long."""


class Worth:
    """Estimates from one view of the fleet. Pure; made anew for each plan."""

    def __init__(
        self,
        fleet: FleetView,
        demand: Mapping[str, Demand],
        facts: Mapping[str, ModelFacts],
        now: float,
        tuning: Tuning,
    ) -> None:
        self._demand = demand
        self._facts = facts
        self._now = now
        self._tuning = tuning
        self._holders: dict[str, int] = {}
        for worker in fleet.workers.values():
            for resident in worker.residents:
                if resident.state is not ResidencyState.DRAINING:
                    self._holders[resident.model] = self._holders.get(resident.model, 0) + 1

    def load_s(self, worker: WorkerReport, model: str) -> float:
        """Time to load the model there, by the tier its weights lie on."""
        known = self._facts[model].on(worker.gpu)
        if model in worker.cached and known.reload_s is not None:
            return known.reload_s
        return known.load_s

    def ready_s(self, worker: WorkerReport, model: str) -> float:
        """Time until the model could serve there, if its load were decided now."""
        before_s = 0.0 if self._tuning.overlap else self.residual_s(worker)
        return before_s + self.load_s(worker, model)

    def residual_s(self, worker: WorkerReport) -> float:
        """Time until the batch that runs there is expected to end; 0 where none runs."""
        for resident in worker.residents:
            facts = self._facts.get(resident.model)
            if resident.running and facts is not None:
                mean_s = facts.on(worker.gpu).exec_s
                return max(mean_s - (self._now - resident.last_used_at), LEAST_RESIDUAL * mean_s)
        return 0.0

    def victim_s(self, worker: WorkerReport, resident: Residency) -> float:
        """What evicting it is expected to cost: a load, if it is asked for soon, shared among its copies."""
        facts, demand = self._facts.get(resident.model), self._demand.get(resident.model)
        if facts is None or demand is None:
            return 0.0
        expected = demand.rate * self._tuning.memory_s
        copies = max(1, self._holders.get(resident.model, 1))
        return facts.on(worker.gpu).load_s * expected / (1.0 + expected) / copies

    def warm_start_s(self, demand: Demand, holders: Sequence[WorkerReport]) -> float:
        """When the last of the queued jobs is expected to start, if the holders serve them all, in order."""
        facts = self._facts[demand.model]
        busy = [self.residual_s(holder) for holder in holders]
        work_s = sum(facts.on(holder.gpu).exec_s for holder in holders) / len(holders)
        batches = -(-demand.queued // facts.max_batch)
        return max(min(busy), (sum(busy) + (batches - 1) * work_s) / len(holders))


def cheapest_first(
    worker: WorkerReport, residents: Iterable[Residency], worth: Worth, tuning: Tuning
) -> list[tuple[Residency, float]]:
    """Possible victims with their cost, the one that frees most bytes for least cost first; ties by last use."""
    priced = [(resident, worth.victim_s(worker, resident)) for resident in residents]
    if tuning.by_last_use:
        return sorted(priced, key=lambda p: (p[0].last_used_at, p[0].model))
    return sorted(priced, key=lambda p: (p[1] / max(1, p[0].footprint_bytes), p[0].last_used_at, p[0].model))

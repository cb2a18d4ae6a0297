"""What things cost, in seconds of somebody's waiting: a load, an eviction, waiting for a warm start."""

from collections.abc import Collection, Iterable
from math import fsum

from affinity.fleet import Demand, Residency, ResidencyState, WorkerReport
from affinity.policy.board import Board
from affinity.policy.tuning import Tuning

LEAST_RESIDUAL = 0.5
"""A batch that runs longer than expected is expected to run this share of the mean on: long ones are long."""

Priced = tuple[Residency, float]
"""A resident and what evicting it is expected to cost, in seconds."""


class Worth:
    """Estimates from what the board says."""

    def __init__(self, board: Board, tuning: Tuning) -> None:
        self._board = board
        self._tuning = tuning

    def load_s(self, worker: WorkerReport, model: str) -> float:
        """Time to load the model there, by the tier its weights lie on."""
        known = self._board.facts[model].on(worker.gpu)
        if model in worker.cached and known.reload_s is not None:
            return known.reload_s
        return known.load_s

    def least_load_s(self, model: str) -> float:
        """The shortest time to load the model anywhere: what no offer can be cheaper than."""
        facts = self._board.facts[model]
        known = [facts.on(gpu) for gpu in self._board.gpus()] or [facts.declared]
        return min(min(each.load_s, each.load_s if each.reload_s is None else each.reload_s) for each in known)

    def ready_s(self, worker: WorkerReport, model: str) -> float:
        """Time until the model could serve there, if its load were decided now: it is loaded, and the GPU is free."""
        busy_s, load_s = self.residual_s(worker), self.load_s(worker, model)
        return max(busy_s, load_s) if self._tuning.overlap else busy_s + load_s

    def residual_s(self, worker: WorkerReport) -> float:
        """Time until the GPU is expected to be free: of a batch, or of a load that it can do nothing beside."""
        for resident in worker.residents:
            if resident.running and (facts := self._board.facts.get(resident.model)) is not None:
                mean_s = facts.on(worker.gpu).exec_s
                return max(mean_s - (self._board.now - resident.last_used_at), LEAST_RESIDUAL * mean_s)
            if not self._tuning.overlap and resident.state is ResidencyState.LOADING:
                return self._left_s(worker, resident)
        return 0.0

    def victim_s(self, worker: WorkerReport, resident: Residency) -> float:
        """What evicting it is expected to cost: a load, if it is asked for soon, shared among its copies.

        From disk, though its host may keep it: priced by the quick way back, models changed places more often and
        nobody waited less (``studio``, three seeds: 1 to 6 % longer).
        """
        facts, demand = self._board.facts.get(resident.model), self._board.demand.get(resident.model)
        if facts is None or demand is None:
            return 0.0
        expected = demand.rate * self._tuning.memory_s
        copies = max(1, len(self._board.holders(resident.model)))
        return facts.on(worker.gpu).load_s * expected / (1.0 + expected) / copies

    def warm_start_s(self, demand: Demand, holders: Collection[WorkerReport]) -> float:
        """When the last of the queued jobs is expected to start, if the holders serve them all, in order."""
        facts = self._board.facts[demand.model]
        loaders = self._board.loaders(demand.model)
        busy = [
            self._ready_s(holder, demand.model) if holder.worker in loaders else self.residual_s(holder)
            for holder in holders
        ]
        # Exactly rounded: holders come in no order, and the plan must not depend on it.
        until_last_s = fsum(busy)
        if (batches := -(-demand.queued // facts.max_batch)) > 1:
            work_s = fsum(facts.on(holder.gpu).exec_s for holder in holders) / len(holders)
            until_last_s += (batches - 1) * work_s
        return max(min(busy), until_last_s / len(holders))

    def _ready_s(self, worker: WorkerReport, model: str) -> float:
        """Time until a worker that is loading the model could serve it: the model is there, and what it runs ended."""
        loading = worker.holds(model)
        left_s = self._left_s(worker, loading) if loading else 0.0
        return max(self.residual_s(worker), left_s)

    def _left_s(self, worker: WorkerReport, loading: Residency) -> float:
        """Time until a load is expected to end."""
        if loading.model not in self._board.facts:
            return 0.0
        return max(0.0, self.load_s(worker, loading.model) - (self._board.now - loading.loaded_at))

    def cheapest_first(self, worker: WorkerReport, residents: Iterable[Residency]) -> list[Priced]:
        """Possible victims with their cost, the one that frees most bytes for least cost first; ties by last use."""
        priced = [(resident, self.victim_s(worker, resident)) for resident in residents]
        if self._tuning.by_last_use:
            return sorted(priced, key=lambda p: (p[0].last_used_at, p[0].model))
        return sorted(priced, key=lambda p: (p[1] / max(1, p[0].footprint_bytes), p[0].last_used_at, p[0].model))

"""``plan``: which worker serves what, who loads what, whom it evicts - for the whole fleet at once.

Everybody computes the same plan from the same view and carries out only the decisions addressed to itself. The rules,
in order: serve residents first, oldest head first; one load per model and per worker at a time; a first copy at once, a
further one when the queue has waited as long as a load takes; least recently used victims, and none with queued jobs
unless the newcomer is overdue and the worker's last load has paid for itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from affinity.errors import NeverFits
from affinity.fleet import Demand, FleetView, ModelFacts, Residency, ResidencyState, WorkerReport
from affinity.job import JobError
from affinity.policy.admission import check_fits, fits_somewhere
from affinity.policy.decisions import Decision, GiveUp, Load, Plan, Serve, Wait
from affinity.policy.ledger import VramLedger

OVERDUE_LOADS = 15.0
"""A job that waited this many of its own load times may end a warm turn ..."""

AMORTISED_LOADS = 10.0
"""... of a worker whose last load lies at least this many load times back. Without it the fleet turns into FIFO."""

MISFIT_GRACE_S = 60.0
"""How long accepted jobs of a model that no longer fits any live GPU wait for a larger one to come (back)."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """What it would take to load a model on one worker."""

    worker: WorkerReport
    footprint_bytes: int
    victims: tuple[str, ...]
    ends_turn: bool
    free_bytes: int

    def rank(self) -> tuple[bool, bool, bool, int, str]:
        """Least harm first: no warm turn ended, nobody evicted, an idle worker, the emptiest GPU."""
        return (self.ends_turn, bool(self.victims), self.worker.busy, -self.free_bytes, self.worker.worker)


def plan(fleet: FleetView, demand: Iterable[Demand], facts: Mapping[str, ModelFacts], now: float) -> Plan:
    """The plan for this view at ``now``. Deterministic, whatever the order of its inputs (law L5).

    ``demand`` has at most one entry per model; ``facts`` is keyed by model. A model without facts is left to wait.
    """
    waiting = {d.model: d for d in sorted(demand, key=lambda d: (d.oldest_at, d.model)) if d.queued > 0}
    return _Planner(fleet, waiting, facts, now).plan()


class _Planner:
    """One computation of a plan. Holds its inputs and what has been decided so far; lives for one call."""

    def __init__(
        self, fleet: FleetView, waiting: Mapping[str, Demand], facts: Mapping[str, ModelFacts], now: float
    ) -> None:
        self._fleet = fleet
        self._workers = [fleet.workers[name] for name in sorted(fleet.workers)]
        self._waiting = waiting
        self._facts = facts
        self._now = now
        self._loading = {w.worker for w in self._workers if w.loading} | set(fleet.claims.values())
        self._leaving: dict[str, tuple[str, ...]] = {}
        self._wake_at: list[float] = []

    def plan(self) -> Plan:
        """All decisions: what becomes of each model in demand, oldest head first, then who serves what stays."""
        decisions: list[Decision] = []
        for demand in self._waiting.values():
            decision = self._place(demand)
            if isinstance(decision, Load):
                self._loading.add(decision.worker)
                self._leaving[decision.worker] = decision.victims
            decisions.append(decision)
        decisions.extend(serve for worker in self._workers if (serve := self._serve(worker)))
        return Plan(tuple(decisions), min(self._wake_at, default=None))

    def _serve(self, worker: WorkerReport) -> Serve | None:
        if worker.busy or worker.draining:
            return None
        ready = {r.model for r in worker.residents if r.state is ResidencyState.READY}
        # Served once more, a victim would be running when its load begins, and so for ever.
        ready.difference_update(self._leaving.get(worker.worker, ()))
        for demand in self._waiting.values():
            if demand.model in ready and demand.model in self._facts:
                waited_s = demand.oldest_wait_s(self._now)
                most = min(demand.queued, self._facts[demand.model].max_batch)
                return Serve(worker.worker, demand.model, most, f"warm, and its oldest job waited {waited_s:.3f} s")
        return None

    def _place(self, demand: Demand) -> Decision:
        """A load, a refusal or a wait for one model."""
        facts = self._facts.get(demand.model)
        if facts is None:
            return Wait(demand.model, None, "the catalogue here does not have it")
        if claimer := self._fleet.claims.get(demand.model):
            return Wait(demand.model, None, f"{claimer} is loading it")
        holders = self._fleet.holders(demand.model)
        if any(r and r.state is ResidencyState.LOADING for r in (h.holds(demand.model) for h in holders)):
            return Wait(demand.model, None, "it is being loaded")
        if not holders:
            return self._load(demand, facts, f"{demand.queued} queued and nobody holds it", frozenset())
        return self._further_copy(demand, facts, holders)

    def _further_copy(self, demand: Demand, facts: ModelFacts, holders: tuple[WorkerReport, ...]) -> Decision:
        """Rent or buy: a further copy once the queue has waited, in sum, as long as a load takes."""
        load_s = min(facts.on(h.gpu).load_s for h in holders)
        names = ", ".join(holder.worker for holder in holders)
        # Stated as an instant, so that it is never just short of what the plan said it would wake at.
        due_at = (load_s + demand.summed_arrival_s) / demand.queued
        if self._now < due_at:
            self._wake_at.append(due_at)
            return Wait(demand.model, due_at, f"{names} will serve it: a further copy does not pay yet")
        summed_s = demand.summed_wait_s(self._now)
        reason = f"{names} hold it, but its queue waited {summed_s:.1f} s in sum and a load takes {load_s:.1f} s"
        further = self._load(demand, facts, reason, frozenset(self._waiting))
        if isinstance(further, Load):
            return further
        return Wait(demand.model, None, f"{names} will serve it: no worker can make room for a further copy")

    def _load(self, demand: Demand, facts: ModelFacts, reason: str, spared: frozenset[str]) -> Decision:
        """Load on the best worker, or wait, or give up. ``spared`` models are never victims."""
        able = [w for w in self._workers if not w.draining and all(r.model != demand.model for r in w.residents)]
        if refused := self._give_up(demand, facts, able):
            return refused
        offers = [o for w in able if (o := self._offer(w, demand, facts, spared))]
        if not offers:
            return Wait(demand.model, min(self._wake_at, default=None), "no worker can make room for it now")
        best = min(offers, key=_Offer.rank)
        copies = len(self._fleet.holders(demand.model))
        return Load(best.worker.worker, demand.model, best.footprint_bytes, best.victims, copies, reason)

    def _offer(self, worker: WorkerReport, demand: Demand, facts: ModelFacts, spared: frozenset[str]) -> _Offer | None:
        if worker.worker in self._loading:
            return None
        if refusal := worker.refuses(demand.model, self._now):
            self._wake_at.append(refusal.until)
            return None
        known = facts.on(worker.gpu)
        ledger = VramLedger(worker.gpu.capacity_bytes, {r.model: r.footprint_bytes for r in worker.residents})
        evictable = self._evictable(worker, demand, known.load_s, spared)
        victims = ledger.victims_for(known.footprint_bytes, [(r.model, r.footprint_bytes) for r in evictable])
        if victims is None:
            return None
        ends_turn = any(victim in self._waiting for victim in victims)
        return _Offer(worker, known.footprint_bytes, victims, ends_turn, ledger.free_bytes)

    def _evictable(
        self, worker: WorkerReport, demand: Demand, load_s: float, spared: frozenset[str]
    ) -> list[Residency]:
        """Possible victims, best first: those nobody waits for, then (if a turn may end) the others, by last use."""
        idle = [
            r
            for r in worker.residents
            if r.state is ResidencyState.READY and not r.running and not r.pinned and r.model not in spared
        ]
        if not self._turn_may_end(worker, demand, load_s):
            idle = [r for r in idle if r.model not in self._waiting]
        return sorted(idle, key=lambda r: (r.model in self._waiting, r.last_used_at, r.model))

    def _turn_may_end(self, worker: WorkerReport, demand: Demand, load_s: float) -> bool:
        overdue_at = demand.oldest_at + OVERDUE_LOADS * load_s
        last = max(worker.residents, key=lambda r: (r.loaded_at, r.model), default=None)
        facts = self._facts.get(last.model) if last else None
        paid_at = last.loaded_at + AMORTISED_LOADS * facts.on(worker.gpu).load_s if last and facts else overdue_at
        may_end_at = max(overdue_at, paid_at)
        if may_end_at > self._now:
            self._wake_at.append(may_end_at)
            return False
        return True

    def _give_up(self, demand: Demand, facts: ModelFacts, able: list[WorkerReport]) -> Decision | None:
        """Fail the queue where no live worker will ever hold the model; ``None`` while there is hope."""
        if not able:
            return None
        if not fits_somewhere(facts, self._fleet):
            return self._misfit(demand, facts, able[0])
        large = [w for w in able if facts.on(w.gpu).footprint_bytes <= w.gpu.usable_bytes]
        refusals = [w.refuses(demand.model, self._now) for w in large]
        if large and all(r is not None and r.hopeless for r in refusals):
            last = max((r for r in refusals if r), key=lambda r: (r.until, r.code))
            return GiveUp(large[0].worker, demand.model, JobError(last.code, last.message))
        return None

    def _misfit(self, demand: Demand, facts: ModelFacts, worker: WorkerReport) -> Decision:
        give_up_at = demand.oldest_at + MISFIT_GRACE_S
        try:
            check_fits(facts, self._fleet)
        except NeverFits as error:
            if give_up_at <= self._now:
                return GiveUp(worker.worker, demand.model, JobError(error.code, error.message))
            self._wake_at.append(give_up_at)
            return Wait(demand.model, give_up_at, error.message)
        return Wait(demand.model, None, "it fits")

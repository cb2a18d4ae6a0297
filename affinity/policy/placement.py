"""``plan``: which worker serves what, who loads what, whom it evicts - for the whole fleet at once.

Everybody computes the same plan from the same view and carries out only the decisions addressed to itself. The rules:

1. A free worker serves its residents, the oldest queued job first. Jobs are bound to no worker before that.
2. A model without a copy is loaded at once, or once its queue has waited for what the evictions cost. A further copy is
   bought when the last job in its queue would start later than the copy is paid for, or when the queue has waited, in
   sum, for what the copy costs (rent or buy).
3. A load goes where it costs least: the time until the model is ready, and what its victims will cost.
4. Victims neither run, load nor are pinned, and are not fresh; what is asked for least, for its size, goes first.
5. A model with queued jobs is a victim only if the newcomer is overdue and the worker has served long enough since its
   last load to have paid for it: models take turns, and turns are amortised.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from affinity.errors import NeverFits
from affinity.fleet import Demand, FleetView, ModelFacts, Residency, ResidencyState, WorkerReport
from affinity.job import JobError
from affinity.policy.admission import check_fits, fits_somewhere
from affinity.policy.decisions import Decision, GiveUp, Load, Plan, Serve, Wait
from affinity.policy.ledger import VramLedger
from affinity.policy.tuning import DEFAULT, Tuning
from affinity.policy.worth import Worth, cheapest_first

LEAST_YOUNG_S = 0.05
"""Models that load in no time would otherwise make room for each other without end, and none would serve."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """What it would take to load a model on one worker: ``cost_s`` is the time to ready and what the victims cost."""

    worker: WorkerReport
    footprint_bytes: int
    victims: tuple[str, ...]
    ends_turn: bool
    ready_s: float
    lost_s: float
    free_bytes: int

    @property
    def cost_s(self) -> float:
        """Time until the model is ready there, and what its victims will cost."""
        return self.ready_s + self.lost_s

    def rank(self) -> tuple[bool, float, bool, int, str]:
        """Least harm first: no warm turn ended, the lowest cost, an idle worker, the emptiest GPU."""
        return (self.ends_turn, self.cost_s, self.worker.busy, -self.free_bytes, self.worker.worker)


def plan(
    fleet: FleetView,
    demand: Iterable[Demand],
    facts: Mapping[str, ModelFacts],
    now: float,
    tuning: Tuning = DEFAULT,
) -> Plan:
    """The plan for this view at ``now``. Deterministic, whatever the order of its inputs (law L5).

    ``demand`` has at most one entry per model; ``facts`` is keyed by model. A model without facts is left to wait.
    """
    return _Planner(fleet, demand, facts, now, tuning).plan()


class _Planner:
    """One computation of a plan. Holds its inputs and what has been decided so far; lives for one call."""

    def __init__(
        self,
        fleet: FleetView,
        demand: Iterable[Demand],
        facts: Mapping[str, ModelFacts],
        now: float,
        tuning: Tuning,
    ) -> None:
        known = {d.model: d for d in demand}
        self._fleet = fleet
        self._workers = [fleet.workers[name] for name in sorted(fleet.workers)]
        self._waiting = {
            d.model: d for d in sorted(known.values(), key=lambda d: (d.oldest_at, d.model)) if d.queued > 0
        }
        self._facts = facts
        self._now = now
        self._tuning = tuning
        self._worth = Worth(fleet, known, facts, now, tuning)
        self._loading = {w.worker for w in self._workers if w.loading} | set(fleet.claims.values())
        self._scarce = False
        self._leaving: dict[str, tuple[str, ...]] = {}
        self._wake_at: list[float] = []

    def plan(self) -> Plan:
        """All decisions: what becomes of each model in demand, oldest head first, then who serves what stays."""
        decisions: list[Decision] = []
        for demand in sorted(self._waiting.values(), key=lambda d: bool(self._fleet.holders(d.model))):
            decision = self._place(demand)
            if isinstance(decision, Wait) and not self._fleet.holders(demand.model):
                self._scarce = True
            if isinstance(decision, Load):
                self._loading.add(decision.worker)
                self._leaving[decision.worker] = decision.victims
            decisions.append(decision)
        decisions.extend(serve for worker in self._workers if (serve := self._serve(worker)))
        return Plan(tuple(decisions), min((at for at in self._wake_at if at > self._now), default=None))

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
        able = [w for w in self._workers if not w.draining and all(r.model != demand.model for r in w.residents)]
        if holders:
            return self._further_copy(demand, facts, holders, able)
        if refused := self._give_up(demand, facts, able):
            return refused
        offer = self._best_offer(able, demand, facts, frozenset())
        if offer is None:
            return Wait(demand.model, min(self._wake_at, default=None), "no worker can make room for it now")
        due_at = (self._tuning.first_rent * offer.lost_s + demand.summed_arrival_s) / demand.queued
        if offer.victims and self._now < due_at:
            self._wake_at.append(due_at)
            return Wait(demand.model, due_at, f"{', '.join(offer.victims)} would have to go: that does not pay yet")
        return _load(offer, demand, 0, f"{demand.queued} queued and nobody holds it")

    def _further_copy(
        self, demand: Demand, facts: ModelFacts, holders: tuple[WorkerReport, ...], able: list[WorkerReport]
    ) -> Decision:
        """Rent or buy: waiting for the holders against one more copy."""
        names = ", ".join(holder.worker for holder in holders)
        if any(not holder.busy and not holder.draining for holder in holders):
            return Wait(demand.model, None, f"{names} will serve it at once")
        offer = self._best_offer(able, demand, facts, frozenset(self._waiting))
        if offer is None:
            return Wait(demand.model, None, f"{names} will serve it: no worker can make room for a further copy")
        warm_s = self._worth.warm_start_s(demand, holders)
        # Stated as an instant, so that it is never just short of what the plan said it would wake at.
        rent = self._tuning.rent * (self._tuning.scarce if self._scarce else 1.0)
        due_at = (rent * offer.cost_s + demand.summed_arrival_s) / demand.queued
        pays = warm_s > offer.cost_s and not self._scarce
        if self._tuning.hold and not pays and self._now < due_at:
            self._wake_at.append(due_at)
            return Wait(demand.model, due_at, f"{names} will serve it: a further copy does not pay yet")
        summed_s = demand.summed_wait_s(self._now)
        reason = (
            f"{names} hold it, but the last job would wait {warm_s:.1f} s, they waited {summed_s:.1f} s in sum, "
            f"and a copy costs {offer.cost_s:.1f} s"
        )
        return _load(offer, demand, len(holders), reason)

    def _best_offer(
        self, able: list[WorkerReport], demand: Demand, facts: ModelFacts, spared: frozenset[str]
    ) -> _Offer | None:
        """The cheapest load. ``spared`` models are never victims."""
        offers = [o for w in able if (o := self._offer(w, demand, facts, spared))]
        return min(offers, key=_Offer.rank, default=None)

    def _offer(self, worker: WorkerReport, demand: Demand, facts: ModelFacts, spared: frozenset[str]) -> _Offer | None:
        if worker.worker in self._loading:
            return None
        if refusal := worker.refuses(demand.model, self._now):
            self._wake_at.append(refusal.until)
            return None
        size = facts.on(worker.gpu).footprint_bytes
        ledger = VramLedger(worker.gpu.capacity_bytes, {r.model: r.footprint_bytes for r in worker.residents})
        ready_s = self._worth.ready_s(worker, demand.model)
        if size <= ledger.free_bytes:
            return _Offer(worker, size, (), False, ready_s, 0.0, ledger.free_bytes)
        evictable = self._evictable(worker, demand, spared)
        victims = ledger.victims_for(size, [(r.model, r.footprint_bytes) for r, _ in evictable])
        if victims is None:
            return None
        lost_s = sum(cost_s for r, cost_s in evictable if r.model in victims)
        ends_turn = any(victim in self._waiting for victim in victims)
        return _Offer(worker, size, victims, ends_turn, ready_s, lost_s, ledger.free_bytes)

    def _evictable(self, worker: WorkerReport, demand: Demand, spared: frozenset[str]) -> list[tuple[Residency, float]]:
        """Possible victims with their cost, best first: those nobody waits for, then (if a turn may end) the others."""
        idle = [r for r in worker.residents if self._may_go(worker, r) and r.model not in spared]
        unasked = cheapest_first(worker, (r for r in idle if r.model not in self._waiting), self._worth, self._tuning)
        asked = [r for r in idle if r.model in self._waiting]
        if not asked or not self._turn_may_end(worker, demand):
            return unasked
        return unasked + cheapest_first(worker, asked, self._worth, self._tuning)

    def _may_go(self, worker: WorkerReport, resident: Residency) -> bool:
        if resident.state is not ResidencyState.READY or resident.running or resident.pinned:
            return False
        facts = self._facts.get(resident.model)
        if facts is None:
            return True
        young_s = max(LEAST_YOUNG_S, self._tuning.young_loads * facts.on(worker.gpu).load_s)
        grown_up_at = resident.loaded_at + young_s
        if grown_up_at > self._now:
            self._wake_at.append(grown_up_at)
            return False
        return True

    def _turn_may_end(self, worker: WorkerReport, demand: Demand) -> bool:
        load_s = self._worth.load_s(worker, demand.model)
        overdue_at = demand.oldest_at + self._tuning.overdue_loads * load_s
        if overdue_at > self._now:
            self._wake_at.append(overdue_at)
            return False
        return worker.served_s >= self._tuning.amortised_loads * load_s

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
        give_up_at = demand.oldest_at + self._tuning.misfit_s
        try:
            check_fits(facts, self._fleet)
        except NeverFits as error:
            if give_up_at <= self._now:
                return GiveUp(worker.worker, demand.model, JobError(error.code, error.message))
            self._wake_at.append(give_up_at)
            return Wait(demand.model, give_up_at, error.message)
        return Wait(demand.model, None, "it fits")


def _load(offer: _Offer, demand: Demand, copies: int, reason: str) -> Load:
    return Load(offer.worker.worker, demand.model, offer.footprint_bytes, offer.victims, copies, reason)

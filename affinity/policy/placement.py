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

``Planner`` is told of changes and decides again only what they may have changed; ``plan`` tells it everything at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf

from affinity.fleet import Demand, FleetView, ModelFacts, ResidencyState, WorkerReport
from affinity.job import JobError
from affinity.policy.admission import fits_one_of, never_fits
from affinity.policy.alarms import Alarms
from affinity.policy.board import Board
from affinity.policy.decisions import Decision, GiveUp, Load, Plan, Serve, Wait
from affinity.policy.offers import Offer, Offers, Room
from affinity.policy.orders import Candidate, with_orders
from affinity.policy.shortlist import Shortlist
from affinity.policy.tuning import DEFAULT, Tuning
from affinity.policy.worth import Worth

MOST_OF_FLEET = 1 / 3
"""No model is being loaded by more than this share of the workers at a time."""

MOST_NAMES = 5
"""A reason names so many workers, and counts the others."""


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
    planner = Planner(facts, tuning)
    for report in fleet.workers.values():
        planner.report(report)
    for each in demand:
        planner.ask(each)
    planner.claimed(fleet.claims)
    return with_orders(planner.plan(now), fleet, facts, now, planner.best_by_hand)


class Planner:
    """Plans again and again for one fleet. Pure: what it says depends only on what it was told, and the instant.

    Each plan has the decisions that may have changed since the last one. A ``Load`` or ``Serve`` that has not been
    carried out (that is, reported) is decided again each time.
    """

    def __init__(self, facts: Mapping[str, ModelFacts], tuning: Tuning = DEFAULT) -> None:
        self.board = Board(facts, tuning.overlap)
        self._tuning = tuning
        self._alarms = Alarms()
        self._worth = Worth(self.board, tuning)
        self._offers = Offers(self.board, self._worth, tuning, self._alarms)
        self._shortlist = Shortlist(self.board, self._offers, tuning)
        self._claimers: frozenset[str] = frozenset()
        self._models: set[str] = set()
        """To be decided again, wherever they might go."""
        self._serving: set[str] = set()
        """Workers that may have something to serve."""
        self._opened: set[str] = set()
        """Workers that may be able to make room where they could not before."""
        self._rooms: dict[str, Room] = {}
        """What those of the present plan offer, if anybody was blocked: found out anew with each plan."""
        self._blocked: dict[str, float] = {}
        """Models that would be loaded if there were room, or if it cost less: what victims would cost, in seconds."""
        self._homeless: set[str] = set()
        """Models in demand that nobody holds and nobody is about to load."""
        self._held_back: set[str] = set()
        """Models whose further copies are dear as long as others are homeless."""
        self._decided: dict[str, Load] = {}
        """Loads of the last plan that have not been seen to begin, by worker."""

    def report(self, report: WorkerReport) -> None:
        """A worker says something new of itself."""
        before = self.board.workers.get(report.worker)
        self.board.report(report)
        self._changed(report.worker, before, report)

    def lose(self, worker: str) -> None:
        """A worker is gone."""
        before = self.board.workers[worker]
        self.board.lose(worker)
        self._changed(worker, before)

    def ask(self, demand: Demand) -> None:
        """The demand for a model has changed."""
        model, before = demand.model, self.board.waiting.get(demand.model)
        self.board.ask(demand)
        if demand.queued > 0:
            # A rate alone, as it rises and falls, is no reason to decide again.
            if before is None or replace(before, rate=demand.rate) != demand:
                self._models.add(model)
        elif before:
            self._satisfied(model)

    def drop(self, model: str) -> None:
        """Nobody asks for a model any more."""
        self.board.drop(model)
        self._satisfied(model)

    def claimed(self, claims: Mapping[str, str]) -> None:
        """These are all the claims there are (model -> worker)."""
        changed = self.board.claims.items() ^ claims.items()
        self.board.claims, self._claimers = claims, frozenset(claims.values())
        self._models.update(model for model, _ in changed if model in self.board.waiting)
        self._opened.update(worker for _, worker in changed)

    def plan(self, now: float) -> Plan:
        """What becomes of each model in demand, oldest head first, then who serves what stays."""
        self.board.now = now
        models, workers = self._alarms.ring(now)
        # A load that waits for what its worker runs may be better elsewhere by now, or in the way of another.
        models |= {load.model for load in self._decided.values()}
        self._opened.update(self._decided)
        self._decided.clear()
        self._models.update(models & self.board.waiting.keys())
        self._open(workers)
        opened = self._opened if self._blocked else ()
        news = [w for w in map(self.board.workers.get, opened) if w and self._able(w)]
        self._rooms = {worker.worker: self._offers.room(worker) for worker in news}
        self._opened.clear()
        todo = self._models | self._blocked.keys() if news else self._models
        held = todo & self.board.held
        decisions = self._place_all(todo - held, further=False)
        if not self._homeless:
            self._models |= self._held_back
            held |= self._held_back & self.board.held
        decisions += self._place_all(held, further=True)
        serves = self._serve_all()
        self._serving = {serve.worker for serve in serves}
        self._models = {each.model for each in decisions if isinstance(each, GiveUp)}
        return Plan((*decisions, *serves), self._alarms.next_at)

    def best_by_hand(self, model: str, candidates: Sequence[Candidate]) -> Offer | None:
        """The cheapest load that an operator asked for: see ``affinity.policy.orders``."""
        offers = [offer for worker, idle in candidates if (offer := self._offers.by_hand(worker, model, idle))]
        return min(offers, key=Offer.rank, default=None)

    def _changed(self, worker: str, *reports: WorkerReport | None) -> None:
        for report in reports:
            for resident in report.residents if report else ():
                if resident.model in self.board.waiting:
                    self._models.add(resident.model)
        self._serving.add(worker)
        self._open((worker,))

    def _open(self, workers: Iterable[str]) -> None:
        for worker in workers:
            self._opened.add(worker)
            self._shortlist.changed(worker)

    def _satisfied(self, model: str) -> None:
        """Its queue is empty: it is nobody's business, and whoever holds it may evict it."""
        self._blocked.pop(model, None)
        for group in (self._models, self._homeless, self._held_back):
            group.discard(model)
        self._alarms.forget_model(model)
        if self._blocked:
            self._opened.update(self.board.holders(model))

    def _place_all(self, models: Iterable[str], further: bool) -> list[Decision]:
        """Decide about models that somebody holds already, or about those that nobody does; oldest head first."""
        decisions = []
        # Looked through before they are put in order: to most of the blocked ones, what is new means nothing.
        asked = [(self.board.waiting[model], self._news_for(model, further)) for model in models]
        for demand, news in sorted((each for each in asked if each[1] != []), key=_oldest_head):
            opened = None if news is None else [worker for worker in news if self._able(worker)]
            if opened == []:
                continue  # One that went first has taken them.
            decision = self._place(demand, opened)
            if isinstance(decision, Load):
                self._decided[decision.worker] = decision
            if news is None or not isinstance(decision, Wait):
                decisions.append(decision)
        return decisions

    def _news_for(self, model: str, further: bool) -> list[WorkerReport] | None:
        """The workers that may have a better offer for a blocked model; ``None``: decide again, wherever it may go."""
        if model in self._models:
            return None
        return self._offers.worth_asking(self._rooms.values(), self.board.waiting[model], further, self._blocked[model])

    def _able(self, worker: WorkerReport) -> bool:
        """True if it could begin to load now, or when what it runs has ended."""
        name = worker.worker
        return not (worker.draining or worker.loading or name in self._decided or name in self._claimers)

    def _place(self, demand: Demand, only: list[WorkerReport] | None) -> Decision:
        """A load, a refusal or a wait for one model. ``only``: nothing is new but these workers."""
        model = demand.model
        self._blocked.pop(model, None)
        self._homeless.discard(model)
        self._held_back.discard(model)
        if only is None:
            self._alarms.forget_model(model)
        facts, holders = self.board.facts.get(model), self.board.holders(model)
        if holders:
            decision = self._further_copy(demand, holders, only) if facts else None
        else:
            decision = self._first_copy(demand, facts, only) if facts else None
            if decision is None or isinstance(decision, Wait):
                self._homeless.add(model)
        return decision or Wait(model, None, "the catalogue here does not have it")

    def _first_copy(self, demand: Demand, facts: ModelFacts, only: list[WorkerReport] | None) -> Decision:
        model = demand.model
        if claimer := self.board.claims.get(model):
            return Wait(model, None, f"{claimer} is loading it")
        if only is None and (refused := self._give_up(demand, facts)):
            return refused
        overdue_at = demand.oldest_at + self._tuning.overdue_loads * self._worth.least_load_s(model)
        if overdue_at > self.board.now:
            self._alarms.for_model(overdue_at, model)
        offer = self._best_offer(demand, False, only, overdue_at <= self.board.now)
        if offer is None:
            self._blocked[model] = inf
            return Wait(model, self._alarms.next_at, "no worker can make room for it now")
        due_at = (self._tuning.first_rent * offer.lost_s + demand.summed_arrival_s) / demand.queued
        if offer.victims and self.board.now < due_at:
            self._blocked[model] = offer.lost_s
            self._alarms.for_model(due_at, model)
            return Wait(model, due_at, f"{', '.join(offer.victims)} would have to go: that does not pay yet")
        return _load(offer, demand, 0, f"{demand.queued} queued and nobody holds it")

    def _further_copy(
        self,
        demand: Demand,
        holders: Mapping[str, WorkerReport],
        only: list[WorkerReport] | None,
    ) -> Decision:
        """Rent or buy: waiting for the holders against one more copy."""
        model, now = demand.model, self.board.now
        if claimer := self.board.claims.get(model):
            return Wait(model, None, f"{claimer} is loading it")
        loading = len(self.board.loaders(model))
        if loading and loading >= len(self.board.workers) * MOST_OF_FLEET:
            return Wait(model, None, "it is being loaded")
        if self.board.free_holders(model):
            return Wait(model, None, f"{_named(holders)} will serve it at once")
        scarce = bool(self._homeless)
        if scarce:
            self._held_back.add(model)
        # While models are homeless it decides nothing, and all holders would have to be looked at.
        warm_s = -inf if scarce else self._worth.warm_start_s(demand, holders.values())
        rent = inf if loading else self._tuning.rent * (self._tuning.scarce if scarce else 1.0)
        dearer = self._tuning.beside if loading else 1.0

        def pays_at(cost_s: float) -> float:
            """Stated as an instant, so that it is never just short of what the plan said it would wake at."""
            if not self._tuning.hold or warm_s > cost_s * dearer:
                return now
            return (rent * cost_s + demand.summed_arrival_s) / demand.queued

        if (due_at := pays_at(self._worth.least_load_s(model))) > now:
            if loading:
                return Wait(model, None, "it is being loaded")
            self._alarms.for_model(due_at, model)
            return Wait(model, due_at, f"{_named(holders)} will serve it: a further copy does not pay yet")
        offer = self._best_offer(demand, True, only, False)
        if offer is None:
            self._blocked[model] = inf
            return Wait(model, None, f"{_named(holders)} will serve it: no worker can make room for a further copy")
        if (due_at := pays_at(offer.cost_s)) > now:
            self._blocked[model] = offer.lost_s
            if loading:
                return Wait(model, None, "it is being loaded")
            self._alarms.for_model(due_at, model)
            return Wait(model, due_at, f"{_named(holders)} will serve it: a further copy does not pay yet")
        warm_s = self._worth.warm_start_s(demand, holders.values())
        reason = (
            f"{_named(holders)} hold it, but the last job would wait {warm_s:.1f} s, they waited "
            f"{demand.summed_wait_s(now):.1f} s in sum, and a copy costs {offer.cost_s:.1f} s"
        )
        return _load(offer, demand, len(holders), reason)

    def _best_offer(
        self, demand: Demand, further: bool, only: list[WorkerReport] | None, overdue: bool
    ) -> Offer | None:
        """The cheapest load. A further copy ends nobody's turn."""
        asked = only or self._shortlist.candidates(demand.model, overdue, self._able, self._rooms)
        offers = [offer for worker in asked if (offer := self._offers.on(worker, demand, further))]
        return min(offers, key=Offer.rank, default=None)

    def _serve_all(self) -> list[Serve]:
        """What free workers serve: those that something is new about, and as many as a queue that grew keeps busy."""
        serves = {name: serve for name in self._serving if (serve := self._serve(name))}
        for model in self._models:
            free, facts = self.board.free_holders(model), self.board.facts.get(model)
            if not free or facts is None:
                continue
            left = -(-self.board.waiting[model].queued // facts.max_batch)
            for name in sorted(free):
                if name not in serves and (serve := self._serve(name)):
                    serves[name] = serve
                left -= name in serves and serves[name].model == model
                if not left:
                    break
        return [serves[name] for name in sorted(serves)]

    def _serve(self, name: str) -> Serve | None:
        worker = self.board.workers.get(name)
        if worker is None or not self.board.can_serve(worker):
            return None
        # Served once more, a victim would be running when its load begins, and so for ever.
        leaving = load.victims if (load := self._decided.get(name)) else ()
        queues = [
            self.board.waiting[r.model]
            for r in worker.residents
            if r.model in self.board.waiting
            and r.state is ResidencyState.READY
            and r.model not in leaving
            and r.model in self.board.facts
        ]
        if not queues:
            return None
        first = min(queues, key=lambda d: (d.oldest_at, d.model))
        most = min(first.queued, self.board.facts[first.model].max_batch)
        waited_s = first.oldest_wait_s(self.board.now)
        return Serve(name, first.model, most, f"warm, and its oldest job waited {waited_s:.3f} s")

    def _give_up(self, demand: Demand, facts: ModelFacts) -> Decision | None:
        """Fail the queue where no live worker will ever hold the model; ``None`` while there is hope."""
        fits = fits_one_of(facts, self.board.gpus())
        if fits and not self.board.refused(demand.model):
            return None
        workers = [self.board.workers[name] for name in sorted(self.board.workers)]
        # Also one that is evicting it now: it could load it again.
        staying = [w for w in workers if not w.draining]
        if not staying:
            return None
        if not fits:
            return self._misfit(demand, facts, staying[0])
        large = [w for w in staying if facts.on(w.gpu).footprint_bytes <= w.gpu.usable_bytes]
        refusals = [w.refuses(demand.model, self.board.now) for w in large]
        if large and all(r is not None and r.hopeless for r in refusals):
            last = max((r for r in refusals if r), key=lambda r: (r.until, r.code))
            return GiveUp(large[0].worker, demand.model, JobError(last.code, last.message))
        return None

    def _misfit(self, demand: Demand, facts: ModelFacts, worker: WorkerReport) -> Decision:
        give_up_at = demand.oldest_at + self._tuning.misfit_s
        error = never_fits(facts, FleetView(self.board.workers))
        if give_up_at <= self.board.now:
            return GiveUp(worker.worker, demand.model, JobError(error.code, error.message))
        self._alarms.for_model(give_up_at, demand.model)
        return Wait(demand.model, give_up_at, error.message)


def _oldest_head(asked: tuple[Demand, object]) -> tuple[float, str]:
    return asked[0].oldest_at, asked[0].model


def _load(offer: Offer, demand: Demand, copies: int, reason: str) -> Load:
    return Load(offer.worker.worker, demand.model, offer.footprint_bytes, offer.victims, copies, reason)


def _named(workers: Mapping[str, WorkerReport]) -> str:
    """Their ids, the first few of them if they are many."""
    names = ", ".join(sorted(workers)[:MOST_NAMES])
    return names if len(workers) <= MOST_NAMES else f"{names} and {len(workers) - MOST_NAMES} others"

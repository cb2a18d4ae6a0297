"""Why a queued job waits: the plan's decision, every worker's standing, and when it may start.

Nothing is decided here. The plan is the one that workers carry out; what a worker that was not chosen could do is found
by asking ``plan`` what it would do if that worker were the only one and costs did not matter. Each of these plans is a
step; see ``affinity.policy.eta``.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from affinity.fleet import GIB, Demand, FleetView, ModelFacts, ResidencyState, WorkerReport
from affinity.policy.admission import fits_somewhere
from affinity.policy.decisions import Decision, GiveUp, Load
from affinity.policy.eta import Eta, NoEta, Steps, forecast
from affinity.policy.ledger import VramLedger
from affinity.policy.placement import plan
from affinity.policy.tuning import DEFAULT, Tuning

NEVER = 1e12


class Standing(StrEnum):
    """Where a worker stands towards a model. ``chosen``: it serves or loads it, by the plan."""

    CHOSEN = "chosen"
    BUSY = "busy"
    LOADING = "loading"
    LEAVING = "leaving"
    DRAINING = "draining"
    TOO_SMALL = "too_small"
    REFUSES = "refuses"
    LOADS_OTHER = "loads_other"
    HAS_ROOM = "has_room"
    WOULD_EVICT = "would_evict"
    NO_ROOM = "no_room"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One worker and why it was or was not chosen."""

    worker: str
    standing: Standing
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """``decision`` is what the plan says of the model; ``eta`` when the job starts, or why nothing says so."""

    decision: Decision
    candidates: tuple[Candidate, ...]
    eta: Eta | NoEta


def explain(
    model: str,
    ahead: int,
    created_at: float,
    fleet: FleetView,
    demand: Iterable[Demand],
    facts: Mapping[str, ModelFacts],
    now: float,
    tuning: Tuning = DEFAULT,
) -> Steps[Explanation]:
    """For a job with ``ahead`` queued jobs of its model before it. ``demand`` must have an entry for the model.

    The rest as for ``plan``. A model without facts has no candidates. The candidates are always complete: it is the
    estimate that is cut short where it is enough.
    """
    explainer = _Explainer(model, fleet, {d.model: d for d in demand}, facts, now, tuning)
    return (yield from explainer.explain(ahead, created_at))


class _Explainer:
    def __init__(
        self,
        model: str,
        fleet: FleetView,
        demand: Mapping[str, Demand],
        facts: Mapping[str, ModelFacts],
        now: float,
        tuning: Tuning,
    ) -> None:
        self._model = model
        self._fleet = fleet
        self._demand = demand
        self._facts = facts
        self._now = now
        self._tuning = tuning
        self._made = plan(fleet, demand.values(), facts, now, tuning)
        self._beside: defaultdict[str, dict[str, WorkerReport]] = defaultdict(dict)
        for name, worker in fleet.workers.items():
            # They count as holders of what they hold besides, but load nothing.
            muted = replace(worker, draining=True, residents=tuple(r for r in worker.residents if r.model != model))
            for resident in muted.residents:
                self._beside[resident.model][name] = muted

    def explain(self, ahead: int, created_at: float) -> Steps[Explanation]:
        decision = self._made.about(self._model)
        if self._model not in self._facts:
            return Explanation(decision, (), NoEta.UNFORESEEABLE)
        candidates, enough = [], False
        for name in sorted(self._fleet.workers):
            enough = bool((yield)) or enough
            candidates.append(Candidate(name, *self._standing(self._fleet.workers[name])))
        if enough:
            return Explanation(decision, tuple(candidates), NoEta.OUT_OF_TIME)
        eta = yield from forecast(
            self._model, ahead, created_at, self._fleet, self._demand, self._facts, self._now, self._tuning
        )
        return Explanation(decision, tuple(candidates), eta)

    def _standing(self, worker: WorkerReport) -> tuple[Standing, str]:
        resident = next((r for r in worker.residents if r.model == self._model), None)
        if resident is None:
            return self._hindrance(worker) or self._offer(worker)
        if resident.state is ResidencyState.LOADING:
            return Standing.LOADING, f"loads it, for {self._since(resident.loaded_at)} so far"
        if resident.state is ResidencyState.DRAINING:
            return Standing.LEAVING, "evicts it now"
        return self._holding(worker)

    def _holding(self, worker: WorkerReport) -> tuple[Standing, str]:
        load, serve = self._made.load(worker.worker), self._made.serve(worker.worker)
        if worker.draining:
            return Standing.DRAINING, "holds it, but is stopping and takes no new work"
        if load and self._model in load.victims:
            return Standing.LEAVING, f"holds it, but gives it up for {load.model}: {load.reason}"
        if serve and serve.model == self._model:
            return Standing.CHOSEN, f"holds it and is free: {serve.reason}"
        if serve:
            return Standing.BUSY, f"holds it, but serves {serve.model} first: {serve.reason}"
        if any(unload.model == self._model for unload in self._made.unloads(worker.worker)):
            return Standing.LEAVING, "holds it, but evicts it once none of its jobs runs: asked for by hand"
        if worker.busy:
            running = (f"{r.model} for {self._since(r.last_used_at)}" for r in worker.residents if r.running)
            return Standing.BUSY, f"holds it, busy with {', '.join(running)} so far"
        if worker.loading:
            loading = f"{worker.loading.model}, for {self._since(worker.loading.loaded_at)} so far"
            return Standing.BUSY, f"holds it, but loads {loading}, and serves nothing beside that"
        return Standing.BUSY, "holds it, but takes no work now"

    def _hindrance(self, worker: WorkerReport) -> tuple[Standing, str] | None:
        """Why it cannot load the model now, whatever else it holds; or that it is about to."""
        known, load = self._facts[self._model].on(worker.gpu), self._made.load(worker.worker)
        claimed = [model for model, owner in self._fleet.claims.items() if owner == worker.worker]
        if worker.draining:
            return Standing.DRAINING, "is stopping and takes no new work"
        if not fits_somewhere(self._facts[self._model], FleetView.of([worker])):
            offers = f"its GPU offers {_gib(worker.gpu.usable_bytes)}"
            return Standing.TOO_SMALL, f"the model takes {_gib(known.footprint_bytes)} and {offers}"
        if refusal := worker.refuses(self._model, self._now):
            left_s = refusal.until - self._now
            return Standing.REFUSES, f"refuses it for {left_s:.0f} s more: {refusal.message} ({refusal.code})"
        if self._model in claimed:
            return Standing.LOADING, "has claimed it and makes room for it"
        if load and load.model == self._model:
            evicting = f", evicts {', '.join(load.victims)} for it" if load.victims else ""
            return Standing.CHOSEN, f"loads it{evicting}: {load.reason}"
        if worker.loading or claimed:
            return Standing.LOADS_OTHER, f"is loading {worker.loading.model if worker.loading else claimed[0]}"
        return (Standing.LOADS_OTHER, f"loads {load.model} first: {load.reason}") if load else None

    def _offer(self, worker: WorkerReport) -> tuple[Standing, str]:
        """What a load would take there."""
        known = self._facts[self._model].on(worker.gpu)
        ledger = VramLedger(worker.gpu.capacity_bytes, {r.model: r.footprint_bytes for r in worker.residents})
        room = f"{_gib(known.footprint_bytes)} needed, {_gib(max(0, ledger.free_bytes))} free"
        load = self._load_on(worker)
        if load is None:
            names = ", ".join(_stays(worker))
            return Standing.NO_ROOM, f"cannot make room now ({room}): {names or 'other programs fill it'}"
        if load.victims:
            return Standing.WOULD_EVICT, f"would have to evict {', '.join(load.victims)} ({room}); {self._rather()}"
        return Standing.HAS_ROOM, f"has room ({room}); {self._rather()}"

    def _load_on(self, worker: WorkerReport) -> Load | None:
        """The load that the plan would decide if nobody else could load and none held the model."""
        held = [r.model for r in worker.residents]
        # Not the whole fleet: asked once per worker, that would take a minute where there are thousands.
        beside = {name: muted for model in held for name, muted in self._beside[model].items()}
        alone = FleetView(MappingProxyType({**beside, worker.worker: worker}))
        nearby = [self._demand[model] for model in (self._model, *held) if model in self._demand]
        mine = self._demand[self._model]
        # A further copy ends no turn of another model; a first one may.
        turns = NEVER if self._fleet.holders(self._model) else self._tuning.overdue_loads
        at_any_cost = replace(self._tuning, first_rent=0.0, overdue_loads=turns)
        now = max(self._now, mine.summed_arrival_s / mine.queued)  # Else a job from a clock ahead of ours is not due.
        made = plan(alone, nearby, self._facts, now, at_any_cost)
        return next((d for d in made.decisions if isinstance(d, Load) and d.model == self._model), None)

    def _since(self, instant: float) -> str:
        return f"{max(0.0, self._now - instant):.1f} s"

    def _rather(self) -> str:
        decision = self._made.about(self._model)
        if isinstance(decision, Load):
            return f"{decision.worker} costs less"
        return f"not now: {reason_of(decision)}"


def reason_of(decision: Decision) -> str:
    """A decision's reason, whatever its kind."""
    return decision.error.message if isinstance(decision, GiveUp) else decision.reason


def _stays(worker: WorkerReport) -> list[str]:
    """What lies there, with what keeps it there as far as the report says."""
    return [
        f"{r.model} {'runs' if r.running else 'is pinned' if r.pinned else 'stays for now'}" for r in worker.residents
    ]


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"

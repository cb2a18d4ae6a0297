"""May an operator ask for that? What waiting would never bring about is refused at once, with what to do instead."""

from affinity.errors import CannotLoad, Pinned, UnknownWorker
from affinity.fleet import GIB, FleetView, ModelFacts, WorkerReport
from affinity.policy.admission import check_fits
from affinity.policy.orders import stays

MOST_NAMED = 5
"""A message names so many workers, and counts the others."""


def check_load(facts: ModelFacts, worker: str | None, fleet: FleetView, now: float) -> tuple[str, ...]:
    """The workers that hold the model already, as the order would have it; empty where there is something to do.

    Raises ``UnknownWorker``, ``NeverFits``, or ``CannotLoad`` where waiting would not help.
    """
    candidates = [_live(fleet, worker)] if worker else [fleet.workers[name] for name in sorted(fleet.workers)]
    if held := tuple(c.worker for c in candidates if stays(fleet, c, facts.model)):
        return held
    if not candidates:
        raise CannotLoad("no worker is up: start one, then ask again")
    check_fits(facts, fleet)
    hindrances = {c.worker: found for c in candidates if (found := _hindrance(facts, c, fleet, now))}
    if len(hindrances) == len(candidates):
        named = [f"{name} {hindrances[name]}" for name in list(hindrances)[:MOST_NAMED]]
        others = len(hindrances) - len(named)
        raise CannotLoad(f"{facts.model}: {'; '.join(named)}{f'; and so on for {others} others' if others else ''}")
    return ()


def check_unload(facts: ModelFacts, worker: str | None, fleet: FleetView) -> tuple[str, ...]:
    """The workers that would have to evict the model. Raises ``UnknownWorker``, ``Pinned``."""
    if worker:
        _live(fleet, worker)
    if facts.pinned:
        raise Pinned(f"the catalogue pins {facts.model}: take 'pinned' out of its entry, and restart all services")
    holders = [w for name, w in sorted(fleet.workers.items()) if worker in (None, name)]
    targets = tuple(w.worker for w in holders if w.holds(facts.model))
    if pinned := [name for name in targets if fleet.pins.cover(facts.model, name)]:
        raise Pinned(f"{facts.model} is pinned on {', '.join(pinned)}: unpin it first")
    return targets


def check_worker(worker: str, fleet: FleetView) -> None:
    """Raise ``UnknownWorker`` unless it is live."""
    _live(fleet, worker)


def _live(fleet: FleetView, worker: str) -> WorkerReport:
    report = fleet.workers.get(worker)
    if report is None:
        names = sorted(fleet.workers)
        there = f"there are {', '.join(names[:MOST_NAMED])}" if names else "none is up"
        raise UnknownWorker(f"no live worker is called {worker[:128]!r}; {there}; GET /workers lists them")
    return report


def _hindrance(facts: ModelFacts, worker: WorkerReport, fleet: FleetView, now: float) -> str | None:
    """Why a model cannot be loaded there, however long one waits."""
    size, usable = facts.on(worker.gpu).footprint_bytes, worker.gpu.usable_bytes
    if worker.draining:
        return "is stopping: name another worker, or ask again once it is back"
    if size > usable:
        return f"is too small: the model takes {_gib(size)}, its GPU offers {_gib(usable)}"
    if (refusal := worker.refuses(facts.model, now)) and refusal.hopeless:
        left_s = refusal.until - now
        return f"failed to load it and does not try again for {left_s:.0f} s ({refusal.code}: {refusal.message})"
    pinned = [r for r in worker.residents if r.pinned or fleet.pins.cover(r.model, worker.worker)]
    left = usable - sum(r.footprint_bytes for r in pinned if r.model != facts.model)
    if size > left:
        names = ", ".join(r.model for r in pinned)
        return (
            f"has {_gib(max(0, left))} beside what is pinned there ({names}), the model takes {_gib(size)}: unpin one"
        )
    return None


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"

"""An explanation as JSON: why a job waits, or how it came to run where it ran."""

from affinity.job import Job, StartKind
from affinity.policy import Decision, GiveUp, Load, Serve, Unload, Wait
from affinity.policy.eta import Eta, NoEta
from affinity.policy.explain import Explanation, reason_of
from affinity.wire import rfc3339

Json = dict[str, object]

_KINDS: dict[type[Decision], str] = {
    Serve: "serve",
    Load: "load",
    Unload: "unload",
    GiveUp: "give_up",
    Wait: "wait",
}


def waiting_json(explanation: Explanation, ahead: int, queued: int, waited_s: float) -> Json:
    """The part about a queued job. ``ahead``: jobs of its model before it, of ``queued`` in all."""
    return {
        "position": ahead + 1,
        "queued": queued,
        "waited_s": waited_s,
        "decision": decision_json(explanation.decision),
        "candidates": [
            {"worker": c.worker, "standing": str(c.standing), "reason": c.reason} for c in explanation.candidates
        ],
        "eta": None if isinstance(explanation.eta, NoEta) else _eta_json(explanation.eta),
        "no_eta": str(explanation.eta) if isinstance(explanation.eta, NoEta) else None,
    }


def answer_json(job: Job, waiting: Json | None) -> Json:
    """The whole answer."""
    return {
        "id": job.id,
        "model": job.spec.model,
        "state": str(job.state),
        "attempts": job.attempts,
        "losses": job.losses,
        "summary": _summary(job, waiting),
        "waiting": waiting,
        "ran": None if job.started_at is None else _ran_json(job),
    }


def _ran_json(job: Job) -> Json:
    """Where it ran and where its time went. What is known only at the end is null until then."""
    load_s = None if job.load_s is None or job.wait_s is None else min(job.load_s, job.wait_s)
    ended = None if job.finished_at is None else max(0.0, job.finished_at - job.created_at)
    return {
        "worker": job.worker,
        "start": job.start and str(job.start),
        "wait_s": job.wait_s,
        "wait_for_load_s": load_s,
        "wait_in_queue_s": None if load_s is None or job.wait_s is None else job.wait_s - load_s,
        "load_s": job.load_s,
        "evicted": None if job.evicted is None else list(job.evicted),
        "exec_s": job.exec_s,
        "total_s": ended,
    }


def decision_json(decision: Decision) -> Json:
    """What the plan says."""
    until = decision.until if isinstance(decision, Wait) else None
    return {
        "kind": _KINDS[type(decision)],
        "worker": None if isinstance(decision, Wait) else decision.worker,
        "victims": list(decision.victims) if isinstance(decision, Load) else [],
        "until": None if until is None else rfc3339(until),
        "reason": reason_of(decision),
    }


def _eta_json(eta: Eta) -> Json:
    return {
        "start_in_s": eta.start_in_s,
        "low_s": eta.low_s,
        "high_s": eta.high_s,
        "assuming": list(eta.assuming),
    }


def _summary(job: Job, waiting: Json | None) -> str:
    model, error = job.spec.model, f": {job.error.message} ({job.error.code})" if job.error else ""
    if waiting:
        return f"number {waiting['position']} of {waiting['queued']} that wait for {model}"
    if job.not_before is not None and not job.state.terminal:
        failed = f"{job.attempts} attempts, {job.losses} lost"
        return f"it failed ({failed}) and is tried again from {rfc3339(job.not_before)} on"
    if job.started_at is None:
        return f"{job.state} without a start{error}" if job.state.terminal else "it is about to start"
    if job.start is None:
        return f"{job.state} on {job.worker}{error}"
    how = f"{model} was in VRAM" if job.start is StartKind.WARM else _load(job)
    return f"{job.start} on {job.worker}: {how}; {job.state}{error}"


def _load(job: Job) -> str:
    """The load that a cold job caused. Of a victim it says nothing where nothing is known of any."""
    took = f"{job.spec.model} was loaded for it in {job.load_s or 0.0:.3f} s"
    return f"{took}, for which {', '.join(job.evicted)} had to go" if job.evicted else took

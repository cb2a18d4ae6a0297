"""Fleets, demand and facts as placement may see them, drawn by hypothesis and made by hand. Sizes are a few bytes."""

from dataclasses import replace

from hypothesis import strategies as st

from affinity.fleet import (
    Demand,
    FleetView,
    Gpu,
    Measurement,
    ModelFacts,
    Refusal,
    Residency,
    ResidencyState,
    WorkerReport,
)
from affinity.policy import Load, VramLedger, plan

NOW = 1_700_000_000.0
MODELS = ("a", "b", "c", "d", "e")
WORKERS = ("w1", "w2", "w3")
TYPES = ("small", "large")

ages = st.integers(0, 20_000).map(lambda eighths: NOW - eighths / 8)
sizes = st.integers(1, 12)
residencies = st.builds(
    Residency,
    model=st.sampled_from(MODELS),
    state=st.sampled_from(ResidencyState),
    footprint_bytes=sizes,
    loaded_at=ages,
    last_used_at=ages,
    running=st.sampled_from([0, 0, 0, 1, 2]),
    pinned=st.sampled_from([False, False, False, True]),
)
refusals = st.builds(
    Refusal,
    model=st.sampled_from(MODELS),
    until=st.integers(-40, 400).map(lambda eighths: NOW + eighths / 8),
    code=st.just("load_failed"),
    message=st.just("damaged"),
    hopeless=st.booleans(),
)


@st.composite
def workers(draw: st.DrawFn, name: str) -> WorkerReport:
    """A worker that could exist: only ready models run, at most one is being loaded."""
    residents = draw(st.lists(residencies, max_size=4, unique_by=lambda r: r.model))
    loading = False
    for place, resident in enumerate(residents):
        if resident.state is ResidencyState.LOADING and loading:
            residents[place] = replace(resident, state=ResidencyState.READY)
        loading = loading or resident.state is ResidencyState.LOADING
        if residents[place].state is not ResidencyState.READY:
            residents[place] = replace(residents[place], running=0)
    gpu = Gpu(
        uuid=f"GPU-{name}",
        index=0,
        name=draw(st.sampled_from(TYPES)),
        total_bytes=draw(st.integers(8, 24)),
        foreign_bytes=draw(st.sampled_from([0, 0, 3])),
        reserve_bytes=draw(st.sampled_from([0, 1])),
    )
    refused = draw(st.lists(refusals, max_size=2, unique_by=lambda r: r.model))
    return WorkerReport(
        name,
        "node",
        1,
        1,
        NOW,
        gpu,
        tuple(residents),
        tuple(refused),
        draining=draw(st.sampled_from([False] * 4 + [True])),
    )


@st.composite
def demands(draw: st.DrawFn, model: str) -> Demand:
    """Queued jobs with the arrival times they could have."""
    arrivals = draw(st.lists(ages, max_size=4))
    return Demand(model, len(arrivals), min(arrivals, default=NOW), sum(arrivals))


measurements = st.builds(
    Measurement, footprint_bytes=st.integers(1, 26), load_s=st.sampled_from([0.5, 4.0, 32.0]), exec_s=st.just(0.125)
)


@st.composite
def facts(draw: st.DrawFn, model: str) -> ModelFacts:
    """What is known of a model, per type of GPU."""
    measured = draw(st.dictionaries(st.sampled_from(TYPES), measurements, max_size=2))
    return ModelFacts(model, draw(measurements), draw(st.integers(1, 4)), draw(st.booleans()), measured)


Scene = tuple[FleetView, list[Demand], dict[str, ModelFacts]]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """A fleet, its demand and what is known; up to one claim a worker, on a model that is not ready there."""
    reports = [draw(workers(name)) for name in WORKERS[: draw(st.integers(1, 3))]]
    claims = draw(st.dictionaries(st.sampled_from(MODELS), st.sampled_from(WORKERS), max_size=1))
    known = {model: draw(facts(model)) for model in MODELS if draw(st.integers(0, 9))}
    return FleetView.of(reports, claims), [draw(demands(model)) for model in MODELS], known


def loads_of(scene: Scene) -> list[Load]:
    fleet, demand, known = scene
    return [d for d in plan(fleet, demand, known, NOW).decisions if isinstance(d, Load)]


def a_worker(name: str, *residents: Residency) -> WorkerReport:
    return WorkerReport(name, "node", 1, 1, NOW, Gpu(f"GPU-{name}", 0, "small", 8), residents)


def fleet_of(*reports: WorkerReport) -> FleetView:
    return FleetView.of(reports)


def queued(model: str, waited_s: float = 1.0) -> Demand:
    return Demand(model, 1, NOW - waited_s, NOW - waited_s)


def known_as(model: str, footprint_bytes: int = 4, load_s: float = 4.0) -> ModelFacts:
    return ModelFacts(model, Measurement(footprint_bytes, load_s, 0.125))


def ledger_of(worker: WorkerReport) -> VramLedger:
    return VramLedger(worker.gpu.capacity_bytes, {r.model: r.footprint_bytes for r in worker.residents})

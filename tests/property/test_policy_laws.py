"""The laws of placement that hold for every fleet, every demand, every instant. Each is stated in its docstring."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise, permutations, product
from random import Random
from typing import TypeVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from affinity.errors import NeverFits
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
from affinity.policy import GiveUp, Load, Serve, VramLedger, Wait, check_fits, fits_somewhere, plan

T = TypeVar("T")

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


@given(scenes())
def test_a_planned_load_fits_once_its_victims_are_gone(scene: Scene) -> None:
    """L1: carrying out a plan never takes a ledger past its capacity."""
    for load in loads_of(scene):
        ledger = ledger_of(scene[0].workers[load.worker])
        if load.model in ledger.held:  # Still draining there: B6, below.
            continue
        for victim in load.victims:
            ledger = ledger.release(victim)
        assert ledger.admit(load.model, load.footprint_bytes).free_bytes >= 0


@given(scenes())
def test_what_runs_loads_or_is_pinned_is_never_a_victim(scene: Scene) -> None:
    """L2: a victim is ready, runs nothing and is not pinned."""
    for load in loads_of(scene):
        residents = {r.model: r for r in scene[0].workers[load.worker].residents}
        for victim in load.victims:
            assert residents[victim].state is ResidencyState.READY
            assert not residents[victim].running
            assert not residents[victim].pinned


@given(scenes())
def test_nothing_is_evicted_for_a_model_that_fits(scene: Scene) -> None:
    """L3: where the model fits already, there are no victims."""
    for load in loads_of(scene):
        if load.footprint_bytes <= ledger_of(scene[0].workers[load.worker]).free_bytes:
            assert not load.victims


@given(scenes())
def test_a_worker_with_room_is_chosen_before_one_that_must_evict(scene: Scene) -> None:
    """L3, across the fleet: victims mean that no worker that may load it has room."""
    fleet, _, known = scene
    made = loads_of(scene)
    for load in made:
        others = set(fleet.workers) - {one.worker for one in made} - set(fleet.claims.values())
        for worker in (fleet.workers[name] for name in others if load.victims):
            fits = known[load.model].on(worker.gpu).footprint_bytes <= ledger_of(worker).free_bytes
            may = not (worker.draining or worker.loading or worker.holds(load.model) or worker.refuses(load.model, NOW))
            assert not (fits and may)


@given(scenes())
def test_no_victim_is_superfluous(scene: Scene) -> None:
    """L4: without any one of its victims the load would not fit."""
    for load in loads_of(scene):
        ledger = ledger_of(scene[0].workers[load.worker])
        freed = ledger.free_bytes + sum(ledger.held[victim] for victim in load.victims)
        for victim in load.victims:
            assert freed - ledger.held[victim] < load.footprint_bytes


@given(st.integers(0, 30), st.lists(st.integers(0, 12), max_size=6))
def test_victims_make_room_if_all_candidates_together_can(footprint: int, sizes_: list[int]) -> None:
    """L4, in the ledger: victims are found exactly if they can be, and none of them is superfluous."""
    ledger = VramLedger(20, {f"m{n}": size for n, size in enumerate(sizes_)})
    victims = ledger.victims_for(footprint, list(ledger.held.items()))
    if victims is None:
        assert footprint > 20
        return
    freed = ledger.free_bytes + sum(ledger.held[v] for v in victims)
    assert freed >= footprint
    assert all(freed - ledger.held[v] < footprint for v in victims)


@given(scenes(), st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_its_inputs(scene: Scene, random: Random) -> None:
    """L5: reports, residents, refusals, demand and facts may come in any order."""
    fleet, demand, known = scene

    def mixed(items: Iterable[T]) -> list[T]:
        listed = list(items)
        random.shuffle(listed)
        return listed

    reports = [
        replace(w, residents=tuple(mixed(w.residents)), refusals=tuple(mixed(w.refusals)))
        for w in fleet.workers.values()
    ]
    other = FleetView.of(mixed(reports), dict(mixed(fleet.claims.items())))
    assert plan(other, mixed(demand), dict(mixed(known.items())), NOW) == plan(fleet, demand, known, NOW)


@given(scenes())
def test_a_plan_loads_a_model_once_and_loads_one_model_on_a_worker(scene: Scene) -> None:
    """L8: all who see the same view carry out different loads, and none where a load or a claim is under way."""
    fleet = scene[0]
    made = loads_of(scene)
    assert len({load.model for load in made}) == len(made)
    assert len({load.worker for load in made}) == len(made)
    for load in made:
        worker = fleet.workers[load.worker]
        assert load.model not in fleet.claims
        assert load.worker not in fleet.claims.values()
        assert not worker.loading
        assert not worker.draining
        assert not worker.holds(load.model)
        assert not worker.refuses(load.model, NOW)
        assert load.copies == len(fleet.holders(load.model))
        assert not any(
            r.state is ResidencyState.LOADING and r.model == load.model
            for w in fleet.workers.values()
            for r in w.residents
        )


@given(scenes())
def test_what_fits_nowhere_is_refused_with_the_largest_gpu_named(scene: Scene) -> None:
    """L9: a model larger than every GPU is refused, and the message names the GPU that offers most."""
    fleet, _, known = scene
    for model, of in known.items():
        fitting = [w for w in fleet.workers.values() if of.on(w.gpu).footprint_bytes <= w.gpu.usable_bytes]
        assert fits_somewhere(of, fleet) == bool(fitting)
        if fitting:
            check_fits(of, fleet)
            continue
        with pytest.raises(NeverFits) as caught:
            check_fits(of, fleet)
        most = max(w.gpu.usable_bytes for w in fleet.workers.values())
        largest = [w.worker for w in fleet.workers.values() if w.gpu.usable_bytes == most]
        assert any(f"of worker {name})" in caught.value.message for name in largest)
        assert f"model {model} " in caught.value.message


@given(scenes())
def test_a_queue_is_given_up_only_where_no_live_worker_can_ever_load_it(scene: Scene) -> None:
    """L6, the other side: a job fails unstarted only if no live worker can ever load its model."""
    fleet, demand, known = scene
    for decision in plan(fleet, demand, known, NOW).decisions:
        if isinstance(decision, GiveUp):
            assert not fleet.holders(decision.model)
            of = known[decision.model]
            for worker in fleet.workers.values():
                fits = of.on(worker.gpu).footprint_bytes <= worker.gpu.usable_bytes
                refusal = worker.refuses(decision.model, NOW)
                assert not fits or worker.draining or (refusal is not None and refusal.hopeless)


@given(scenes())
def test_a_worker_serves_only_what_is_ready_on_it_and_waited_for(scene: Scene) -> None:
    """Warm first: an idle worker serves, of its ready models in demand, the one with the oldest head."""
    fleet, demand, known = scene
    made = plan(fleet, demand, known, NOW)
    waiting = {d.model: d for d in demand if d.queued and d.model in known}
    for worker in fleet.workers.values():
        serve = made.serve(worker.worker)
        ready = [r.model for r in worker.residents if r.state is ResidencyState.READY and r.model in waiting]
        if worker.busy or worker.draining or not ready:
            assert serve is None
            continue
        assert serve is not None
        assert waiting[serve.model].oldest_at == min(waiting[model].oldest_at for model in ready)
        assert 1 <= serve.most <= min(waiting[serve.model].queued, known[serve.model].max_batch)
        assert serve.model in ready


@given(scenes())
def test_every_model_in_demand_gets_a_decision_or_is_held(scene: Scene) -> None:
    """Nothing is passed over: a model in demand is served, loaded, given up, waited for, or ready on some worker."""
    fleet, demand, known = scene
    decided = {d.model for d in plan(fleet, demand, known, NOW).decisions}
    for entry in demand:
        assert entry.model in decided or not entry.queued or fleet.holders(entry.model)


def test_a_model_that_is_leaving_a_worker_is_not_loaded_there_at_the_same_time() -> None:
    """L1: what drains is still in the ledger, and a model cannot be in it twice."""
    leaving = Residency("a", ResidencyState.DRAINING, 4, NOW, NOW)
    assert not loads_of((fleet_of(a_worker("w1", leaving)), [queued("a")], {"a": known_as("a")}))


@pytest.mark.parametrize("running", ["a", "b"])
def test_there_is_an_answer_about_a_model_whose_holder_is_busy(running: str) -> None:
    """``Plan.about`` has a decision for every model in demand."""
    residents = [Residency(model, ResidencyState.READY, 4, NOW, NOW, running=int(model == running)) for model in "ab"]
    made = plan(fleet_of(a_worker("w1", *residents)), [queued("a")], {"a": known_as("a")}, NOW)
    assert made.about("a").model == "a"


def test_no_worker_is_told_to_serve_what_it_is_told_to_evict() -> None:
    """The decisions addressed to one worker can all be carried out."""
    resident = Residency("a", ResidencyState.READY, 8, NOW - 1000, NOW)
    known = {"a": known_as("a", 8), "b": known_as("b", 8)}
    worker = replace(a_worker("w1", resident), served_s=1000.0)
    made = plan(fleet_of(worker), [queued("a", 1.0), queued("b", 500.0)], known, NOW)
    load, serve = made.load("w1"), made.serve("w1")
    assert load is not None
    assert serve is None or serve.model not in load.victims


@given(scenes())
def test_nothing_is_decided_about_what_nobody_asked_for(scene: Scene) -> None:
    """A decision concerns a model in demand."""
    fleet, demand, known = scene
    asked = {d.model for d in demand if d.queued}
    assert {d.model for d in plan(fleet, demand, known, NOW).decisions} <= asked


@given(scenes())
def test_decisions_say_why(scene: Scene) -> None:
    """Decisions are values with their reason."""
    for decision in plan(*scene, NOW).decisions:
        said = decision.error.message if isinstance(decision, GiveUp) else decision.reason
        assert said


@given(scenes())
def test_a_plan_wakes_nobody_in_the_past(scene: Scene) -> None:
    """``wake_at`` lies after ``now``, and no wait is longer than until then."""
    made = plan(*scene, NOW)
    assert made.wake_at is None or made.wake_at > NOW
    for decision in made.decisions:
        if isinstance(decision, Wait) and decision.until is not None:
            assert made.wake_at is not None
            assert NOW < made.wake_at <= decision.until


def test_who_sleeps_until_wake_at_gets_on() -> None:
    """A shell that jumps to ``wake_at`` again and again, with nothing else happening, comes to an end."""
    busy = Residency("a", ResidencyState.READY, 4, NOW, NOW, running=1)
    fleet = fleet_of(a_worker("w1", busy), a_worker("w2"))
    for jobs, load_s in product(range(1, 7), (n / 3 for n in range(1, 20))):
        demand = [Demand("a", jobs, NOW, jobs * NOW)]
        instants = [NOW]
        while not (made := plan(fleet, demand, {"a": known_as("a", 4, load_s)}, instants[-1])).load("w2"):
            assert made.wake_at is not None
            assert made.wake_at > instants[-1]
            assert len(instants) < 5
            instants.append(made.wake_at)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5))
def test_a_view_never_moves_backwards(versions: list[tuple[int, int]]) -> None:
    """L12: late and repeated reports change nothing: the newest counts, in whatever order they come."""
    gpu = Gpu("GPU-1", 0, "small", 8)
    reports = [WorkerReport("w1", "n", epoch, sequence, NOW, gpu) for epoch, sequence in versions]
    newest = max(versions)
    for order in permutations(reports):
        assert FleetView.of(order).workers["w1"].version() == newest
        views = [FleetView.of(order[:1])]
        for report in order[1:]:
            views.append(views[-1].with_report(report))
        for before, after in pairwise(views):
            assert before.workers["w1"].version() <= after.workers["w1"].version()
        assert views[-1].workers["w1"].version() == newest


@given(scenes())
def test_with_every_model_everywhere_nothing_is_loaded_for_a_queue_that_is_served(scene: Scene) -> None:
    """L11, as far as a plan goes: with all models ready on all workers, each idle one serves the oldest head."""
    fleet, demand, known = scene
    assume(all(model in known for model in MODELS))
    everything = tuple(Residency(model, ResidencyState.READY, 1, NOW, NOW) for model in MODELS)
    reports = [replace(w, residents=everything, draining=False) for w in fleet.workers.values()]
    made = plan(FleetView.of(reports), demand, known, NOW)
    heads = [d for d in demand if d.queued]
    assert not any(isinstance(d, Load) for d in made.decisions)
    serves = [d for d in made.decisions if isinstance(d, Serve)]
    assert len(serves) == (len(reports) if heads else 0)
    for serve in serves:
        assert next(d for d in heads if d.model == serve.model).oldest_at == min(d.oldest_at for d in heads)

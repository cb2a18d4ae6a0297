"""The laws of loads and evictions that hold for every fleet, every demand, every instant: each in its docstring."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from affinity.fleet import Residency, ResidencyState
from affinity.policy import VramLedger, plan
from tests.support.policy_scenes import NOW, Scene, a_worker, fleet_of, known_as, ledger_of, loads_of, queued, scenes


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


def test_a_model_that_is_leaving_a_worker_is_not_loaded_there_at_the_same_time() -> None:
    """L1: what drains is still in the ledger, and a model cannot be in it twice."""
    leaving = Residency("a", ResidencyState.DRAINING, 4, NOW, NOW)
    assert not loads_of((fleet_of(a_worker("w1", leaving)), [queued("a")], {"a": known_as("a")}))


def test_no_worker_is_told_to_serve_what_it_is_told_to_evict() -> None:
    """The decisions addressed to one worker can all be carried out."""
    resident = Residency("a", ResidencyState.READY, 8, NOW - 1000, NOW)
    known = {"a": known_as("a", 8), "b": known_as("b", 8)}
    worker = replace(a_worker("w1", resident), served_s=1000.0)
    made = plan(fleet_of(worker), [queued("a", 1.0), queued("b", 500.0)], known, NOW)
    load, serve = made.load("w1"), made.serve("w1")
    assert load is not None
    assert serve is None or serve.model not in load.victims

"""The laws of who is served, refused or left to wait, for every fleet, demand and instant: each in its docstring."""

from dataclasses import replace

import pytest
from hypothesis import assume, given

from affinity.errors import NeverFits
from affinity.fleet import FleetView, Residency, ResidencyState
from affinity.policy import GiveUp, Load, Serve, check_fits, fits_somewhere, plan
from tests.support.policy_scenes import MODELS, NOW, Scene, a_worker, fleet_of, known_as, queued, scenes


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


@pytest.mark.parametrize("running", ["a", "b"])
def test_there_is_an_answer_about_a_model_whose_holder_is_busy(running: str) -> None:
    """``Plan.about`` has a decision for every model in demand."""
    residents = [Residency(model, ResidencyState.READY, 4, NOW, NOW, running=int(model == running)) for model in "ab"]
    made = plan(fleet_of(a_worker("w1", *residents)), [queued("a")], {"a": known_as("a")}, NOW)
    assert made.about("a").model == "a"


@given(scenes())
def test_nothing_is_decided_about_what_nobody_asked_for(scene: Scene) -> None:
    """A decision concerns a model in demand."""
    fleet, demand, known = scene
    asked = {d.model for d in demand if d.queued}
    assert {d.model for d in plan(fleet, demand, known, NOW).decisions} <= asked


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

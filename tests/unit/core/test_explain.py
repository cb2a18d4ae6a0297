"""The explanation of a queued job: its candidates, each with its reason, and its estimate."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest

from affinity.fleet import (
    GIB,
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
from affinity.policy import GiveUp, Load, Serve, Wait, plan
from affinity.policy.eta import GUESSED_SPREAD, MEASURED_SPREAD, Eta, NoEta
from affinity.policy.explain import Explanation, Standing, _Explainer, explain
from affinity.policy.tuning import DEFAULT
from tests.support.steps import through

NOW = 1_000_000.0
LOAD_S = 4.0
GPU = "Fake"


def ready(model: str, gib: float = 4, *, running: int = 0, used_s: float = 0.0, pinned: bool = False) -> Residency:
    """Resident for long, used so long ago."""
    return Residency(model, ResidencyState.READY, int(gib * GIB), NOW - 1000.0, NOW - used_s, running, pinned)


def loading(model: str, since_s: float) -> Residency:
    return Residency(model, ResidencyState.LOADING, 4 * GIB, NOW - since_s, NOW - since_s)


def worker(name: str, *residents: Residency, gib: int = 8, **more: object) -> WorkerReport:
    return replace(WorkerReport(name, "node", 1, 1, NOW, Gpu(f"GPU-{name}", 0, GPU, gib * GIB), residents), **more)


def waiting(model: str, *waits_s: float) -> Demand:
    return Demand(model, len(waits_s), NOW - max(waits_s), sum(NOW - s for s in waits_s))


def facts(measured: bool = True, **gib: float) -> dict[str, ModelFacts]:
    """Models of a size each, that load in ``LOAD_S`` and run batches of 4 in a second."""
    known = {name: Measurement(int(size * GIB), LOAD_S, 1.0) for name, size in gib.items()}
    return {n: ModelFacts(n, m, max_batch=4, measured={GPU: m} if measured else {}) for n, m in known.items()}


def explained(
    *workers: WorkerReport,
    demand: Iterable[Demand],
    ahead: int = 0,
    claims: dict[str, str] | None = None,
    measured: bool = True,
    **gib: float,
) -> Explanation:
    """Of the job of model ``a`` that has waited for a second."""
    fleet = FleetView.of(workers, claims)
    return through(explain("a", ahead, NOW - 1.0, fleet, demand, facts(measured, **gib), NOW))


def standings(found: Explanation) -> dict[str, Standing]:
    return {candidate.worker: candidate.standing for candidate in found.candidates}


def reason(found: Explanation, name: str) -> str:
    return next(candidate.reason for candidate in found.candidates if candidate.worker == name)


def test_a_free_holder_is_chosen_and_starts_it_now() -> None:
    found = explained(worker("w1", ready("a")), worker("w2"), demand=[waiting("a", 1.0)], a=4)
    assert isinstance(found.decision, Serve)
    assert standings(found) == {"w1": Standing.CHOSEN, "w2": Standing.HAS_ROOM}
    assert "holds it and is free" in reason(found, "w1")
    assert "8.0 GiB free" in reason(found, "w2")
    assert isinstance(found.eta, Eta)
    assert (found.eta.low_s, found.eta.start_in_s, found.eta.high_s) == (0.0, 0.0, 0.0)


def test_a_busy_holder_is_said_to_be_busy_with_what_and_for_how_long() -> None:
    held = worker("w1", ready("a"), ready("b", running=2, used_s=0.25))
    found = explained(held, demand=[waiting("a", 1.0)], a=4, b=4)
    assert standings(found) == {"w1": Standing.BUSY}
    assert "b for 0.2 s" in reason(found, "w1")
    assert isinstance(found.eta, Eta)
    assert found.eta.start_in_s == pytest.approx(0.75)
    # What runs there may end at once, or take twice as long as expected.
    assert found.eta.low_s == 0.0
    assert found.eta.high_s == pytest.approx(2 * 0.75 * MEASURED_SPREAD)


def test_jobs_ahead_cost_a_batch_for_every_full_one() -> None:
    held = worker("w1", ready("a", running=1))
    for ahead, start_in_s in ((0, 1.0), (3, 1.0), (4, 2.0), (9, 3.0)):
        found = explained(held, demand=[waiting("a", *[1.0] * 10)], ahead=ahead, a=8)
        assert isinstance(found.eta, Eta)
        assert found.eta.start_in_s == pytest.approx(start_in_s)


def test_older_jobs_of_another_model_on_the_same_gpu_go_first_and_younger_ones_only_at_worst() -> None:
    held = worker("w1", ready("a"), ready("b", running=1))
    older = explained(held, demand=[waiting("a", 1.0), waiting("b", *[9.0] * 8)], a=4, b=4).eta
    younger = explained(held, demand=[waiting("a", 1.0), waiting("b", *[0.1] * 8)], a=4, b=4).eta
    assert isinstance(older, Eta)
    assert isinstance(younger, Eta)
    assert (older.start_in_s, younger.start_in_s) == (pytest.approx(3.0), pytest.approx(1.0))
    assert older.low_s == younger.low_s == 0.0
    assert older.high_s == younger.high_s == pytest.approx(4.0 * MEASURED_SPREAD)


def test_the_worker_that_loads_it_is_chosen_and_the_others_could_have() -> None:
    found = explained(
        worker("w1", ready("x", 8, used_s=1.0)),
        worker("w2"),
        worker("w3", ready("y", 8, running=1)),
        worker("w4", ready("z", 8, pinned=True)),
        demand=[waiting("a", 1.0)],
        measured=False,
        a=4,
        x=8,
        y=8,
        z=8,
    )
    assert isinstance(found.decision, Load)
    assert standings(found) == {
        "w1": Standing.WOULD_EVICT,
        "w2": Standing.CHOSEN,
        "w3": Standing.NO_ROOM,
        "w4": Standing.NO_ROOM,
    }
    assert reason(found, "w1") == "would have to evict x (4.0 GiB needed, 0.0 GiB free); w2 costs less"
    assert "y runs" in reason(found, "w3")
    assert "z is pinned" in reason(found, "w4")
    assert isinstance(found.eta, Eta)
    assert found.eta.start_in_s == LOAD_S
    assert found.eta.high_s == LOAD_S * GUESSED_SPREAD
    assert "never measured" in found.eta.assuming[1]


def test_a_load_that_runs_is_waited_for_as_long_as_it_has_left() -> None:
    found = explained(worker("w1", loading("a", 1.5)), worker("w2"), demand=[waiting("a", 1.0)], a=4)
    assert standings(found) == {"w1": Standing.LOADING, "w2": Standing.HAS_ROOM}
    assert isinstance(found.eta, Eta)
    assert found.eta.start_in_s == pytest.approx(LOAD_S - 1.5)


def test_a_claim_is_a_load_that_is_about_to_begin() -> None:
    found = explained(worker("w1"), worker("w2"), demand=[waiting("a", 1.0)], claims={"a": "w1", "b": "w2"}, a=4, b=4)
    assert standings(found) == {"w1": Standing.LOADING, "w2": Standing.LOADS_OTHER}
    assert reason(found, "w2") == "is loading b"
    assert isinstance(found.eta, Eta)
    assert found.eta.start_in_s == LOAD_S


def test_a_worker_that_loads_something_else_first_is_waited_for() -> None:
    found = explained(worker("w1"), demand=[waiting("a", 1.0), waiting("b", 2.0)], a=4, b=4)
    assert isinstance(found.decision, Wait)
    assert standings(found) == {"w1": Standing.LOADS_OTHER}
    assert reason(found, "w1").startswith("loads b first: ")
    assert isinstance(found.eta, Eta)
    assert found.eta.start_in_s == pytest.approx(2 * LOAD_S)


def test_a_model_that_nobody_holds_waits_for_the_loads_of_those_before_it() -> None:
    models = dict.fromkeys("abcde", 8.0)
    demand = [waiting(name, 100.0 - number) for number, name in enumerate("bcdea")]
    found = explained(worker("w1"), worker("w2"), demand=demand, **models)
    assert isinstance(found.decision, Wait)
    assert isinstance(found.eta, Eta)
    # b and c, d and e, then a: a load each, and those before a run their job before they are victims.
    assert found.eta.start_in_s == pytest.approx(3 * LOAD_S + 2 * 1.0)
    assert found.eta.low_s == pytest.approx(LOAD_S / MEASURED_SPREAD)
    assert found.eta.assuming[0] == "w1 loads it and then has its turn"


def test_a_further_copy_that_will_be_bought_counts() -> None:
    queue = waiting("a", *[1.0] * 200)
    alone = explained(worker("w1", ready("a", running=1)), demand=[queue], ahead=199, a=4).eta
    helped = explained(worker("w1", ready("a", running=1)), worker("w2"), demand=[queue], ahead=199, a=4).eta
    assert isinstance(alone, Eta)
    assert isinstance(helped, Eta)
    assert alone.start_in_s == pytest.approx(50.0)
    assert helped.start_in_s == pytest.approx(LOAD_S + (50.0 - LOAD_S) / 2, abs=1.0)


def test_a_job_far_down_a_long_queue_is_expected_at_the_pace_of_its_beginning() -> None:
    queue = waiting("a", *[1.0] * 8000)
    found = explained(worker("w1", ready("a", running=1)), demand=[queue], ahead=7999, a=4).eta
    assert isinstance(found, Eta)
    assert found.start_in_s == pytest.approx(2000.0, rel=0.02)
    assert found.assuming[0] == "the queue gets on as it does at first"


def test_an_estimate_is_none_where_nothing_says_when_it_starts() -> None:
    found = explained(worker("w1", ready("x", 8, pinned=True)), demand=[waiting("a", 1.0)], a=4, x=8)
    assert isinstance(found.decision, Wait)
    assert found.eta is NoEta.UNFORESEEABLE


def test_those_that_cannot_take_it_say_why() -> None:
    refusal = Refusal("a", NOW + 30.0, "load_failed", "weights are damaged")
    found = explained(
        worker("w1", gib=2),
        worker("w2", refusals=(refusal,)),
        worker("w3", draining=True),
        worker("w4", ready("a"), draining=True),
        demand=[waiting("a", 1.0)],
        a=4,
    )
    assert standings(found) == {
        "w1": Standing.TOO_SMALL,
        "w2": Standing.REFUSES,
        "w3": Standing.DRAINING,
        "w4": Standing.DRAINING,
    }
    assert "takes 4.0 GiB and its GPU offers 2.0 GiB" in reason(found, "w1")
    assert "for 30 s more: weights are damaged (load_failed)" in reason(found, "w2")
    assert isinstance(found.eta, Eta)
    assert found.eta.start_in_s == pytest.approx(30.0 + LOAD_S)


def test_a_holder_that_gives_the_model_up_is_leaving() -> None:
    gone = replace(ready("a"), state=ResidencyState.DRAINING)
    found = explained(worker("w1", gone), demand=[waiting("a", 1.0)], a=4)
    assert standings(found) == {"w1": Standing.LEAVING}
    turn = worker("w1", ready("a", 8), served_s=1e6)
    found = explained(turn, demand=[waiting("a", 1.0), waiting("b", 1e5)], a=8, b=8)
    assert standings(found) == {"w1": Standing.LEAVING}
    assert "gives it up for b" in reason(found, "w1")


def test_a_job_the_plan_gives_up_has_no_estimate() -> None:
    hopeless = Refusal("a", NOW + 30.0, "load_failed", "no such class", hopeless=True)
    found = explained(worker("w1", refusals=(hopeless,)), demand=[waiting("a", 1.0)], a=4)
    assert isinstance(found.decision, GiveUp)
    assert standings(found) == {"w1": Standing.REFUSES}
    assert found.eta is NoEta.UNFORESEEABLE


def test_a_model_that_left_the_catalogue_has_no_candidates() -> None:
    found = explained(worker("w1"), demand=[waiting("a", 1.0)], b=4)
    assert (found.candidates, found.eta) == ((), NoEta.UNFORESEEABLE)


def test_a_job_from_a_clock_ahead_of_ours_changes_no_standing() -> None:
    found = explained(worker("w1"), worker("w2", ready("x")), demand=[waiting("a", -5.0)], a=8, x=4)
    assert standings(found)["w2"] is Standing.WOULD_EVICT


def random_case(rng: Random) -> tuple[FleetView, list[Demand], dict[str, ModelFacts]]:
    models = "abcdef"
    sizes = {model: rng.randint(1, 8) for model in models}
    workers = []
    for number in range(rng.randint(1, 4)):
        held = rng.sample(models, rng.randint(0, 3))
        residents = [
            Residency(
                model,
                ResidencyState.READY,
                sizes[model] * GIB,
                NOW - rng.choice([1.0, 100.0]),
                NOW - rng.random(),
                running=int(rng.random() < 0.3),
                pinned=rng.random() < 0.1,
            )
            for model in held
        ]
        if held and rng.random() < 0.2:
            residents[0] = replace(residents[0], state=ResidencyState.LOADING, running=0)
        gib = max(8, sum(sizes[model] for model in held))
        served_s = rng.choice([0.0, 1000.0])
        workers.append(worker(f"w{number}", *residents, gib=gib, draining=rng.random() < 0.1, served_s=served_s))
    demand = [waiting("a", 1.0, rng.choice([1.0, 100.0, 1000.0]))]
    demand += [
        replace(waiting(m, 1.0, rng.choice([2.0, 200.0])), rate=rng.random()) for m in "bcd" if rng.random() < 0.5
    ]
    return FleetView.of(workers), demand, facts(**sizes)


def test_whatever_the_fleet_the_chosen_are_those_whom_the_plan_names_and_the_range_holds_the_estimate() -> None:
    rng = Random(7)
    loads = 0
    for _ in range(600):
        fleet, demand, known = random_case(rng)
        made = plan(fleet, demand, known, NOW)
        found = through(explain("a", 0, NOW - 1.0, fleet, demand, known, NOW))
        assert found.decision == made.about("a")
        named = {d.worker for d in made.decisions if isinstance(d, Load | Serve) and d.model == "a"}
        assert {name for name, standing in standings(found).items() if standing is Standing.CHOSEN} == named
        assert len(found.candidates) == len(fleet.workers)
        if isinstance(found.eta, Eta):
            assert 0.0 <= found.eta.low_s <= found.eta.start_in_s <= found.eta.high_s
        if isinstance(found.decision, Load):
            loads += 1
            alone = _Explainer("a", fleet, {d.model: d for d in demand}, known, NOW, DEFAULT)._load_on(
                fleet.workers[found.decision.worker]
            )
            assert alone is not None
            assert alone.victims == found.decision.victims, "what a worker would evict is what it does evict"
    assert loads > 50

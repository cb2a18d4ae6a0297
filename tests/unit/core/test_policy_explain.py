"""What a worker that was not chosen could do, and what it says of the decision that was made."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from types import FrameType

import pytest

from affinity.fleet import GIB, Demand, FleetView, Refusal, ResidencyState, WorkerReport
from affinity.job import JobError
from affinity.orders import Action, Order
from affinity.policy import GiveUp, Load, Planner, Serve, Wait
from affinity.policy.eta import Eta, NoEta, Steps
from affinity.policy.explain import Explanation, Standing, explain, reason_of
from affinity.policy.tuning import Tuning
from tests.support.policy_fleets import LOAD_S, NOW, RULES, asked, known, resident, waiting, worker
from tests.support.steps import through

LOADING, DRAINING = ResidencyState.LOADING, ResidencyState.DRAINING


def explained(
    *workers: WorkerReport,
    demand: Iterable[Demand],
    claims: dict[str, str] | None = None,
    tuning: Tuning = RULES,
    orders: Iterable[Order] = (),
    **gib: float,
) -> Explanation:
    """Of the job of model ``a`` that has waited for a second."""
    fleet = FleetView.of(workers, claims, orders)
    return through(explain("a", 0, NOW - 1.0, fleet, demand, known(**gib), NOW, tuning))


def candidate(found: Explanation, name: str) -> tuple[Standing, str]:
    return next((c.standing, c.reason) for c in found.candidates if c.worker == name)


def test_candidates_come_in_the_order_of_their_names() -> None:
    found = explained(worker("w3"), worker("w1"), worker("w2"), demand=[waiting("a", 1.0)], a=4)
    assert [each.worker for each in found.candidates] == ["w1", "w2", "w3"]


def test_the_worker_that_loads_it_says_whom_it_evicts_if_anybody() -> None:
    queue = [waiting("a", 1.0)]
    loads = "loads it: 1 queued and nobody holds it"
    assert candidate(explained(worker("w1"), demand=queue, a=4), "w1") == (Standing.CHOSEN, loads)
    full = worker("w1", resident("x"), resident("y"))
    evicts = "loads it, evicts x, y for it: 1 queued and nobody holds it"
    assert candidate(explained(full, demand=queue, a=8, x=4, y=4), "w1") == (Standing.CHOSEN, evicts)


def test_an_eviction_that_does_not_pay_yet_is_what_a_worker_would_have_to_do() -> None:
    """Whether it is worth it is the plan's business: what it could do is said all the same."""
    full = worker("w1", resident("x", 8))
    for waited_s in (0.0, 1.0, RULES.first_rent * LOAD_S * 60 / 61 - 0.1):
        found = explained(full, demand=[waiting("a", waited_s), asked("x", 1.0)], a=8, x=8)
        assert isinstance(found.decision, Wait)
        why = "not now: x would have to go: that does not pay yet"
        said = f"would have to evict x (8.0 GiB needed, 0.0 GiB free); {why}"
        assert candidate(found, "w1") == (Standing.WOULD_EVICT, said)


def test_a_turn_ends_for_a_first_copy_that_is_overdue_and_never_for_a_further_one() -> None:
    """Both workers have paid for their loads. b is waited for on w2."""
    other = worker("w2", resident("b", 8), served_s=1e6)
    queue = [waiting("a", RULES.overdue_loads * LOAD_S), waiting("b", 0.0)]
    first = explained(worker("w1", gib=2), other, demand=queue, a=8, b=8)
    assert candidate(first, "w2")[0] is Standing.CHOSEN
    holder = worker("w1", resident("a", 8, running=1))
    further = explained(holder, other, demand=queue, a=8, b=8)
    assert candidate(further, "w2") == (
        Standing.NO_ROOM,
        "cannot make room now (8.0 GiB needed, 0.0 GiB free): b stays for now",
    )


def test_a_turn_that_is_not_overdue_leaves_no_room() -> None:
    queue = [waiting("a", RULES.overdue_loads * LOAD_S - 0.1), waiting("b", 0.0)]
    found = explained(worker("w1", resident("b", 8), served_s=1e6), demand=queue, a=8, b=8)
    assert candidate(found, "w1")[0] is Standing.NO_ROOM
    hasty = explained(
        worker("w1", resident("b", 8), served_s=1e6), demand=queue, tuning=replace(RULES, overdue_loads=1.0), a=8, b=8
    )
    assert candidate(hasty, "w1")[0] is Standing.CHOSEN


def test_a_worker_without_room_says_what_keeps_each_resident_there() -> None:
    """Memory that others took shows as none free, not as less than none."""
    residents = (
        resident("runs", 1, running=1), resident("kept", 1, pinned=True), resident("fresh", 1, loaded_s=0.0),
        resident("both", 1, running=1, pinned=True),
    )  # fmt: skip
    crowded = worker("w1", *residents)
    crowded = replace(crowded, gpu=replace(crowded.gpu, foreign_bytes=7 * GIB))
    found = explained(crowded, demand=[waiting("a", 1.0)], a=4, runs=1, kept=1, fresh=1, both=1)
    kept = "runs runs, kept is pinned, fresh stays for now, both runs"
    said = f"cannot make room now (4.0 GiB needed, 0.0 GiB free): {kept}"
    assert candidate(found, "w1") == (Standing.NO_ROOM, said)


def test_what_is_fresh_now_makes_no_room_for_two_jobs_either() -> None:
    fresh = worker("w1", resident("x", 8, loaded_s=0.0))
    found = explained(fresh, demand=[waiting("a", 1.0, 0.5)], a=4, x=8)
    assert candidate(found, "w1")[0] is Standing.NO_ROOM


def test_a_worker_without_room_or_residents_blames_other_programs() -> None:
    crowded = worker("w1")
    crowded = replace(crowded, gpu=replace(crowded.gpu, foreign_bytes=5 * GIB))
    found = explained(crowded, demand=[waiting("a", 1.0)], a=4)
    said = "cannot make room now (4.0 GiB needed, 3.0 GiB free): other programs fill it"
    assert candidate(found, "w1") == (Standing.NO_ROOM, said)


def test_a_copy_elsewhere_makes_a_victim_cheaper_as_it_does_in_the_plan() -> None:
    """x lies on w1 and w2 and is asked for as often as y: of w1's residents x goes, not y, the lesser by name."""
    one, two = worker("w1", resident("x", 4), resident("w", 4)), worker("w2", resident("x", 8), draining=True)
    rates = [asked("x", 0.1), asked("w", 0.1)]
    found = explained(one, two, worker("w3"), demand=[waiting("a", 1.0), *rates], a=4, x=4, w=4)
    assert candidate(found, "w3")[0] is Standing.CHOSEN
    said = "would have to evict x (4.0 GiB needed, 0.0 GiB free); w3 costs less"
    assert candidate(found, "w1") == (Standing.WOULD_EVICT, said)


def test_a_copy_elsewhere_does_not_keep_a_worker_from_what_it_could_do() -> None:
    """Also not one beside a model that both workers hold."""
    holder = worker("w2", resident("x"), resident("a", running=1))
    found = explained(worker("w1", resident("x")), holder, demand=[waiting("a", 1.0)], a=4, x=4)
    said = "has room (4.0 GiB needed, 4.0 GiB free); not now: w2 will serve it: a further copy does not pay yet"
    assert candidate(found, "w1") == (Standing.HAS_ROOM, said)


def test_the_estimate_of_a_job_far_down_counts_the_jobs_that_came_before_it() -> None:
    """Of b's 4,000 jobs half came before it, and four start in a second."""
    older = Demand("b", 4000, NOW - 3000, 4000 * (NOW - 2000.0))
    held = FleetView.of([worker("w1", resident("a", 1), resident("b", 1))])
    steps = explain("a", 0, NOW - 2000.0, held, [waiting("a", 2000.0), older], known(a=1, b=1), NOW, RULES)
    found = through(steps).eta
    assert isinstance(found, Eta)
    assert round(found.start_in_s) == 500


def test_a_load_under_way_says_since_when_and_never_since_later_than_now() -> None:
    for since_s, said in ((1.26, "loads it, for 1.3 s so far"), (-5.0, "loads it, for 0.0 s so far")):
        arriving = worker("w1", resident("a", state=LOADING, loaded_s=since_s))
        found = explained(arriving, demand=[waiting("a", 1.0)], a=4)
        assert candidate(found, "w1") == (Standing.LOADING, said)


def test_a_worker_that_evicts_it_says_so_whatever_else_it_could_do() -> None:
    found = explained(worker("w1", resident("a", state=DRAINING), gib=16), demand=[waiting("a", 1.0)], a=4)
    assert candidate(found, "w1") == (Standing.LEAVING, "evicts it now")


def test_a_holder_that_runs_something_says_what_and_since_when() -> None:
    """Two models at once, one of them started by a clock ahead of ours."""
    busy = worker("w1", resident("a"), resident("b", running=1, used_s=2.5), resident("c", running=2, used_s=-9.0))
    found = explained(busy, demand=[waiting("a", 1.0)], a=1, b=1, c=1)
    assert candidate(found, "w1") == (Standing.BUSY, "holds it, busy with b for 2.5 s, c for 0.0 s so far")


def test_a_free_holder_that_has_an_older_job_of_another_model_serves_that_first() -> None:
    holder = worker("w1", resident("a"), resident("b"))
    found = explained(holder, demand=[waiting("a", 1.0), waiting("b", 2.0)], a=4, b=4)
    said = "holds it, but serves b first: warm, and its oldest job waited 2.000 s"
    assert candidate(found, "w1") == (Standing.BUSY, said)


def test_a_free_holder_is_chosen_with_the_reason_of_the_plan() -> None:
    found = explained(worker("w1", resident("a")), demand=[waiting("a", 1.5)], a=4)
    said = "holds it and is free: warm, and its oldest job waited 1.500 s"
    assert (candidate(found, "w1"), isinstance(found.decision, Serve)) == ((Standing.CHOSEN, said), True)


def test_a_holder_that_stops_says_so_even_if_it_runs_or_could_serve() -> None:
    for running in (0, 1):
        leaver = worker("w1", resident("a", running=running), draining=True)
        found = explained(leaver, demand=[waiting("a", 1.0)], a=4)
        assert candidate(found, "w1") == (Standing.DRAINING, "holds it, but is stopping and takes no new work")


def test_what_hinders_a_worker_is_said_in_the_order_in_which_it_matters() -> None:
    """One that stops may be too small, one that is too small may refuse, one that refuses may load something else."""
    refusal = Refusal("a", NOW + 12.4, "load_failed", "truncated")
    loading = resident("x", 1, LOADING)
    cases = [
        (
            worker("w1", draining=True, gib=2, refusals=(refusal,)),
            Standing.DRAINING,
            "is stopping and takes no new work",
        ),
        (
            worker("w1", gib=2, refusals=(refusal,)),
            Standing.TOO_SMALL,
            "the model takes 4.0 GiB and its GPU offers 2.0 GiB",
        ),
        (
            worker("w1", loading, refusals=(refusal,)),
            Standing.REFUSES,
            "refuses it for 12 s more: truncated (load_failed)",
        ),
        (worker("w1", loading), Standing.LOADS_OTHER, "is loading x"),
    ]
    for hindered, standing, said in cases:
        found = explained(hindered, worker("w2"), demand=[waiting("a", 1.0)], a=4, x=1)
        assert candidate(found, "w1") == (standing, said)


def test_a_refusal_of_another_model_or_of_the_past_hinders_nobody() -> None:
    refusals = (Refusal("b", NOW + 9, "load_failed", ""), Refusal("a", NOW, "load_failed", ""))
    found = explained(worker("w1", refusals=refusals), demand=[waiting("a", 1.0)], a=4)
    assert candidate(found, "w1")[0] is Standing.CHOSEN


def test_claims_are_the_claimers_own() -> None:
    """w1 has claimed a, w2 something else, w3 nothing."""
    found = explained(
        worker("w1"), worker("w2"), worker("w3"), demand=[waiting("a", 1.0)], claims={"a": "w1", "b": "w2"}, a=4, b=4
    )
    assert candidate(found, "w1") == (Standing.LOADING, "has claimed it and makes room for it")
    assert candidate(found, "w2") == (Standing.LOADS_OTHER, "is loading b")
    assert candidate(found, "w3") == (
        Standing.HAS_ROOM,
        "has room (4.0 GiB needed, 8.0 GiB free); not now: w1 is loading it",
    )


def test_a_decisions_reason_is_what_it_says_of_itself_and_of_a_queue_given_up_the_error() -> None:
    assert reason_of(Wait("a", None, "later")) == "later"
    assert reason_of(Load("w1", "a", 1, (), 0, "queued")) == "queued"
    assert reason_of(GiveUp("w1", "a", JobError("never_fits", "too large"))) == "too large"


def test_an_unknown_model_has_its_decision_and_nothing_else() -> None:
    found = through(explain("a", 0, NOW, FleetView.of([worker("w1")]), [waiting("a", 1.0)], {}, NOW))
    assert found == Explanation(Wait("a", None, "the catalogue here does not have it"), (), NoEta.UNFORESEEABLE)


def test_the_tuning_is_the_plans() -> None:
    """Where GPUs cannot load beside serving, a holder that loads serves nobody."""
    holder = worker("w1", resident("a", 1), resident("x", 1, LOADING, loaded_s=1.0))
    for overlap, standing in ((True, Standing.CHOSEN), (False, Standing.BUSY)):
        found = explained(holder, demand=[waiting("a", 1.0)], tuning=replace(RULES, overlap=overlap), a=1, x=1)
        assert candidate(found, "w1")[0] is standing


def test_a_holder_that_can_only_load_says_what_and_since_when() -> None:
    holder = worker("w1", resident("a", 1), resident("x", 1, LOADING, loaded_s=1.5))
    found = explained(holder, demand=[waiting("a", 1.0)], tuning=replace(RULES, overlap=False), a=1, x=1)
    said = "holds it, but loads x, for 1.5 s so far, and serves nothing beside that"
    assert candidate(found, "w1") == (Standing.BUSY, said)


def test_a_holder_that_an_operator_has_evict_it_says_so_though_it_is_free() -> None:
    order = Order("o1", Action.UNLOAD, "a", "w1", NOW, NOW + 600.0, "key")
    found = explained(worker("w1", resident("a")), demand=[waiting("a", 1.0)], orders=[order], a=4)
    said = "holds it, but evicts it once none of its jobs runs: asked for by hand"
    assert candidate(found, "w1") == (Standing.LEAVING, said)


def cold_fleet(models: int, workers: int) -> Steps[Explanation]:
    """Everything is asked for, nothing is loaded; explains the first of them."""
    names = [f"m{number}" for number in range(models)]
    fleet = FleetView.of(worker(f"w{number}", gib=24) for number in range(workers))
    queues = [waiting(name, *(1.0 + number / models + job for job in range(5))) for number, name in enumerate(names)]
    sizes = {name: 4.0 + number % 13 for number, name in enumerate(names)}
    return explain(names[0], 4, NOW - 1.0, fleet, queues, known(**sizes), NOW)


def plans_by_step(steps: Steps[Explanation]) -> list[int]:
    """How many plans of a fleet were made in each step."""
    counts, done = [0], object()
    taken = iter(steps)

    def count(frame: FrameType, event: str, _: object) -> None:
        counts[-1] += event == "call" and frame.f_code is Planner.plan.__code__

    sys.setprofile(count)
    try:
        while next(taken, done) is not done:
            counts.append(0)
    finally:
        sys.setprofile(None)
    return counts


@pytest.mark.parametrize(("models", "workers"), [(16, 4), (200, 8)])
def test_no_step_makes_more_than_one_plan_however_many_models_are_cold(models: int, workers: int) -> None:
    """Whoever drives the steps can let others have their turn after each plan."""
    counts = plans_by_step(cold_fleet(models, workers))
    assert max(counts) == 1
    assert sum(counts) > 2 * models, "there is much to be planned"


def test_an_explanation_that_is_told_to_end_has_all_candidates_and_no_estimate() -> None:
    whole, cut = through(cold_fleet(16, 4)), through(cold_fleet(16, 4), enough_after=1)
    assert cut == Explanation(whole.decision, whole.candidates, NoEta.OUT_OF_TIME)
    assert isinstance(whole.eta, Eta)


def test_told_to_end_after_the_last_candidate_it_does_not_begin_to_look_ahead() -> None:
    steps = cold_fleet(16, 4)
    for _ in range(4):
        next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(True)
    assert end.value.value.eta is NoEta.OUT_OF_TIME

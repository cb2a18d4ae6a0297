"""The plain policy rule by rule, with the numbers at which each one turns."""

from dataclasses import dataclass, replace

import pytest

from affinity.errors import InvariantBroken, NeverFits
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
from affinity.policy import GiveUp, Load, Plan, Serve, Wait, check_fits, fits_somewhere, plan
from affinity.policy.facts import LOAD_BANDWIDTH_BYTES_S, UNKNOWN_EXEC_S, UNKNOWN_FOOTPRINT_BYTES, facts_of
from affinity.policy.tuning import DEFAULT

NOW = 1_000_000.0
LOAD_S = 4.0


def ready(model: str, size: int = 4, *, used_s: float = 0.0, loaded_s: float = 1000.0, running: int = 0) -> Residency:
    """Resident that was used and loaded so long ago."""
    return Residency(model, ResidencyState.READY, size * GIB, NOW - loaded_s, NOW - used_s, running)


def worker(name: str, *residents: Residency, gib: int = 8, refusals: tuple[Refusal, ...] = ()) -> WorkerReport:
    gpu = Gpu(f"GPU-{name}", 0, "Fake", gib * GIB)
    return WorkerReport(name, "node", 1, 1, NOW, gpu, residents, refusals)


def waiting(model: str, *waits_s: float) -> Demand:
    """Jobs that have waited so long."""
    return Demand(model, len(waits_s), NOW - max(waits_s), sum(NOW - s for s in waits_s))


def facts(**gib: int) -> dict[str, ModelFacts]:
    return {name: ModelFacts(name, Measurement(size * GIB, LOAD_S, 1.0), max_batch=4) for name, size in gib.items()}


def planned(*workers: WorkerReport, demand: list[Demand], claims: dict[str, str] | None = None, **gib: int) -> Plan:
    return plan(FleetView.of(workers, claims), demand, facts(**gib), NOW)


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert planned(worker("w1", ready("a")), demand=[], a=4) == Plan(())


def test_a_first_copy_is_loaded_at_once_on_the_emptiest_idle_gpu() -> None:
    made = planned(
        worker("w1", ready("x", 2)),
        worker("w2"),
        worker("w3", ready("y", 1, running=1)),
        demand=[waiting("a", 0.0)],
        a=4,
    )
    load = made.load("w2")
    assert load == Load("w2", "a", 4 * GIB, (), 0, "1 queued and nobody holds it")
    assert made.about("a") == load


def test_the_model_with_the_oldest_head_is_placed_first() -> None:
    made = planned(worker("w1"), demand=[waiting("a", 1.0), waiting("b", 2.0, 0.5)], a=4, b=4)
    assert [type(d) for d in made.decisions] == [Load, Wait]
    assert made.decisions[0].model == "b"


def test_an_idle_worker_serves_up_to_a_batch() -> None:
    made = planned(worker("w1", ready("a")), demand=[waiting("a", *[0.1] * 9)], a=4)
    serve = made.serve("w1")
    assert isinstance(serve, Serve)
    assert (serve.model, serve.most) == ("a", 4)


def test_a_further_copy_is_bought_once_the_queue_waited_in_sum_for_its_price() -> None:
    busy, idle, price_s = worker("w1", ready("a", running=1)), worker("w2"), DEFAULT.rent * LOAD_S
    short = planned(busy, idle, demand=[waiting("a", price_s / 2 - 0.5, price_s / 2 - 0.5)], a=4)
    assert short.load("w2") is None
    assert short.wake_at == pytest.approx(NOW + 0.5)
    enough = planned(busy, idle, demand=[waiting("a", price_s / 2, price_s / 2)], a=4)
    load = enough.load("w2")
    assert load is not None
    assert (load.copies, load.victims) == (1, ())


def test_a_further_copy_is_bought_at_once_where_the_last_job_would_wait_longer_for_the_holder() -> None:
    busy, idle = worker("w1", ready("a", running=1)), worker("w2")
    batches = 6  # of 4 jobs and 1 s each: the last one would start 5 s after the one that runs.
    made = planned(busy, idle, demand=[waiting("a", *[0.0] * 4 * batches)], a=4)
    assert made.load("w2") is not None


def test_a_first_copy_that_costs_evictions_waits_until_they_pay() -> None:
    """Asked for every second, it would be loaded again within its minute: 60 / 61 of a load time."""
    asked = Demand("x", 0, 0.0, 0.0, rate=1.0)
    lost_s = DEFAULT.first_rent * LOAD_S * 60 / 61
    full = worker("w1", ready("x", 8))
    early = planned(full, demand=[waiting("a", lost_s - 1.0), asked], a=8, x=8)
    assert early.load("w1") is None
    assert early.wake_at == pytest.approx(NOW + 1.0)
    paid = planned(full, demand=[waiting("a", lost_s), asked], a=8, x=8).load("w1")
    assert paid is not None
    assert paid.victims == ("x",)


def test_of_two_residents_the_one_that_is_asked_for_less_goes() -> None:
    residents = ready("rare", 4, used_s=1), ready("often", 4, used_s=90)
    rates = [Demand("rare", 0, 0.0, 0.0, rate=0.001), Demand("often", 0, 0.0, 0.0, rate=0.1)]
    made = planned(worker("w1", *residents), demand=[waiting("a", 60.0), *rates], a=4, rare=4, often=4)
    load = made.load("w1")
    assert load is not None
    assert load.victims == ("rare",)


def test_a_fresh_resident_is_no_victim() -> None:
    fresh = worker("w1", ready("x", 8, loaded_s=DEFAULT.young_loads * LOAD_S - 1))
    made = planned(fresh, demand=[waiting("a", 60.0)], a=8, x=8)
    assert made.load("w1") is None
    assert made.wake_at == pytest.approx(NOW + 1.0)


def test_a_further_copy_evicts_nobody_who_is_waited_for() -> None:
    made = planned(
        worker("w1", ready("a", running=1)), worker("w2", ready("b", 8)),
        demand=[waiting("a", 500.0), waiting("b", 1.0)], a=4, b=8,
    )  # fmt: skip
    assert made.load("w2") is None


def test_the_least_recently_used_resident_goes() -> None:
    made = planned(
        worker("w1", ready("old", 4, used_s=90), ready("new", 4, used_s=10)), demand=[waiting("a", 0.1)], a=4
    )
    load = made.load("w1")
    assert load is not None
    assert load.victims == ("old",)


@pytest.mark.parametrize(
    ("waited_s", "served_s", "ends"),
    [
        (DEFAULT.overdue_loads * LOAD_S, DEFAULT.amortised_loads * LOAD_S, True),
        (DEFAULT.overdue_loads * LOAD_S - 0.1, 10_000.0, False),
        (10_000.0, DEFAULT.amortised_loads * LOAD_S - 0.1, False),
    ],
)
def test_a_warm_turn_ends_for_an_overdue_job_and_not_before_its_load_is_paid_for(
    waited_s: float, served_s: float, ends: bool
) -> None:
    busy = replace(worker("w1", ready("a", 8, loaded_s=20_000.0)), served_s=served_s)
    made = planned(busy, demand=[waiting("b", waited_s), waiting("a", 0.1)], a=8, b=8)
    assert bool(made.load("w1")) is ends
    if not ends:
        assert isinstance(made.about("b"), Wait)


@pytest.mark.parametrize("state", [ResidencyState.LOADING, ResidencyState.DRAINING])
def test_what_is_loading_or_leaving_makes_no_room(state: ResidencyState) -> None:
    made = planned(worker("w1", replace(ready("x", 8), state=state)), demand=[waiting("a", 9999.0)], a=8)
    assert isinstance(made.about("a"), Wait)


def test_a_claim_or_a_load_under_way_is_waited_for() -> None:
    claimed = planned(worker("w1"), worker("w2"), demand=[waiting("a", 9.0)], claims={"a": "w2"}, a=4)
    assert claimed.decisions == (Wait("a", None, "w2 is loading it"),)
    loading = replace(ready("a"), state=ResidencyState.LOADING)
    under_way = planned(worker("w1", loading), worker("w2"), demand=[waiting("a", 9.0)], a=4)
    assert under_way.decisions == (Wait("a", None, "it is being loaded"),)


def test_a_model_the_catalogue_lacks_waits_for_one_who_knows_it() -> None:
    made = planned(worker("w1"), demand=[waiting("strange", 9.0)], a=4)
    assert made.decisions == (Wait("strange", None, "the catalogue here does not have it"),)


def refusal(until_s: float, *, hopeless: bool) -> Refusal:
    return Refusal("a", NOW + until_s, "load_failed", "the file is truncated", 1, hopeless)


def test_a_refusal_is_waited_out() -> None:
    made = planned(worker("w1", refusals=(refusal(2.0, hopeless=False),)), demand=[waiting("a", 1.0)], a=4)
    assert isinstance(made.about("a"), Wait)
    assert made.wake_at == NOW + 2.0


def test_another_worker_may_try_what_one_refuses() -> None:
    made = planned(worker("w1", refusals=(refusal(60, hopeless=True),)), worker("w2"), demand=[waiting("a", 1.0)], a=4)
    assert made.load("w2") is not None


def test_where_all_that_could_hold_it_are_hopeless_the_queue_fails_with_their_reason() -> None:
    hopeless = (refusal(60, hopeless=True),)
    made = planned(
        worker("w0", gib=2), worker("w1", refusals=hopeless), worker("w2", refusals=hopeless),
        demand=[waiting("a", 1.0)], a=4,
    )  # fmt: skip
    (give_up,) = made.decisions
    assert isinstance(give_up, GiveUp)
    assert (give_up.worker, give_up.error.code, give_up.error.message) == ("w1", "load_failed", "the file is truncated")
    assert made.give_ups("w1") == (give_up,)
    assert made.give_ups("w2") == ()


def test_what_fits_nowhere_waits_a_while_for_a_larger_gpu_and_then_fails() -> None:
    early = planned(worker("w1"), demand=[waiting("a", DEFAULT.misfit_s - 1)], a=9)
    assert isinstance(early.about("a"), Wait)
    assert early.wake_at == pytest.approx(NOW + 1)
    late = planned(worker("w1"), demand=[waiting("a", DEFAULT.misfit_s)], a=9)
    (give_up,) = late.give_ups("w1")
    assert give_up.error.code == "never_fits"


def test_the_refusal_of_a_misfit_has_its_size_and_the_largest_gpu() -> None:
    fleet = FleetView.of([worker("w1", gib=8), worker("w2", gib=24), worker("w3", gib=16)])
    with pytest.raises(NeverFits) as caught:
        check_fits(facts(a=30)["a"], fleet)
    assert caught.value.message == (
        "model a takes 30.0 GiB by the catalogue (vram_gib of its entry, else the size of its weights), and the "
        "largest GPU (Fake of worker w2) offers 24.0 GiB: correct vram_gib if that is too much; else add a larger GPU "
        "or use a smaller model"
    )
    check_fits(facts(a=24)["a"], fleet)


def test_of_a_misfit_that_was_measured_on_that_type_it_is_said_that_the_catalogue_has_no_say_any_more() -> None:
    fleet, declared = FleetView.of([worker("w1", gib=8)]), facts(a=4)["a"]
    measured = replace(declared, measured={"Fake": Measurement(9 * GIB, LOAD_S, 1.0)})
    with pytest.raises(NeverFits) as caught:
        check_fits(measured, fleet)
    assert caught.value.message == (
        "model a takes 9.0 GiB as measured on that type of GPU (where vram_gib no longer counts), and the "
        "largest GPU (Fake of worker w1) offers 8.0 GiB: add a larger GPU or use a smaller model"
    )


def test_with_nobody_there_who_could_tell_everything_may_be_asked_for() -> None:
    assert fits_somewhere(facts(a=1000)["a"], FleetView())


def test_memory_of_others_does_not_make_a_model_a_misfit() -> None:
    taken = worker("w1")
    taken = replace(taken, gpu=replace(taken.gpu, foreign_bytes=6 * GIB))
    assert fits_somewhere(facts(a=8)["a"], FleetView.of([taken]))
    assert isinstance(planned(taken, demand=[waiting("a", 9999.0)], a=8).about("a"), Wait)


def test_a_worker_that_leaves_gets_nothing_to_do() -> None:
    leaving = replace(worker("w1", ready("a")), draining=True)
    made = planned(leaving, demand=[waiting("a", 9.0), waiting("b", 9.0)], a=4, b=4)
    assert made.serve("w1") is None
    assert made.load("w1") is None


def test_a_plan_has_nothing_to_say_of_what_nobody_asked_for() -> None:
    with pytest.raises(InvariantBroken, match="says nothing of a"):
        Plan(()).about("a")


@dataclass(frozen=True)
class Entry:
    name: str
    vram_bytes: int | None
    max_batch: int = 1
    pinned: bool = False


def test_facts_join_what_is_declared_and_what_was_measured() -> None:
    measured = Measurement(5 * GIB, 9.0, 0.5)
    known = facts_of(
        [Entry("a", 4 * GIB, 8, True), Entry("b", None)], {("a", "Fake"): measured, ("z", "Fake"): measured}
    )
    assert known["a"] == ModelFacts(
        "a", Measurement(4 * GIB, 4 * GIB / LOAD_BANDWIDTH_BYTES_S, UNKNOWN_EXEC_S), 8, True, {"Fake": measured}
    )
    assert known["b"].declared.footprint_bytes == UNKNOWN_FOOTPRINT_BYTES
    assert set(known) == {"a", "b"}


def test_without_any_worker_a_model_in_demand_waits() -> None:
    made = planned(demand=[waiting("a", 1.0)], a=4)
    assert isinstance(made.about("a"), Wait)

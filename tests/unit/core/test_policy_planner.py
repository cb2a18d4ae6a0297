"""The planner is told of changes one at a time: what each makes it decide again, and what it leaves as it is."""

from dataclasses import replace

import pytest

from affinity.fleet import GIB, Demand, ModelFacts, Refusal, ResidencyState, WorkerReport
from affinity.policy import Decision, GiveUp, Load, Planner, Serve, Wait
from affinity.policy.shortlist import FEW, SMALL_FLEET
from affinity.policy.tuning import Tuning
from tests.support.policy_fleets import LOAD_S, NOW, RULES, asked, known, resident, waiting, worker

LOADING = ResidencyState.LOADING
BLOCKING = replace(RULES, overlap=False)
PAID_S = RULES.amortised_loads * LOAD_S
X_COSTS = LOAD_S * 60 / 61
"""Of what is asked for once a second, in a minute."""


class Told:
    """A planner, what it was told, and the time."""

    def __init__(
        self, *what: WorkerReport | Demand, facts: dict[str, ModelFacts] | None = None, tuning: Tuning = RULES
    ) -> None:
        self.planner = Planner(facts or known(a=4, b=4, c=4, x=8), tuning)
        self.now = NOW
        self.tell(*what)

    def tell(self, *what: WorkerReport | Demand) -> None:
        for each in what:
            if isinstance(each, WorkerReport):
                self.planner.report(each)
            else:
                self.planner.ask(each)

    def plan(self, after_s: float = 0.0) -> list[Decision]:
        self.now += after_s
        return list(self.planner.plan(self.now).decisions)

    def wakes_after_s(self) -> float | None:
        at = self.planner.plan(self.now).wake_at
        return None if at is None else at - self.now


def loads(decisions: list[Decision]) -> dict[str, str]:
    return {each.model: each.worker for each in decisions if isinstance(each, Load)}


def serves(decisions: list[Decision]) -> dict[str, str]:
    return {each.worker: each.model for each in decisions if isinstance(each, Serve)}


def waits(decisions: list[Decision]) -> dict[str, str]:
    return {each.model: each.reason for each in decisions if isinstance(each, Wait)}


# -- what is new -------------------------------------------------------------------------------------------------------


def test_where_nothing_is_new_nothing_is_decided() -> None:
    told = Told(worker("w1", resident("x", 8, running=1)), waiting("a", 1.0))
    assert waits(told.plan()) == {"a": "no worker can make room for it now"}
    assert told.plan(1.0) == []


def test_a_load_is_decided_again_until_it_is_reported() -> None:
    told = Told(worker("w1"), waiting("a", 1.0))
    assert loads(told.plan()) == loads(told.plan(1.0)) == {"a": "w1"}
    told.tell(worker("w1", resident("a", state=LOADING)))
    assert told.plan() == [Wait("a", None, "it is being loaded")]
    assert told.plan() == []


def test_a_serve_is_decided_again_until_it_is_reported() -> None:
    told = Told(worker("w1", resident("a")), waiting("a", 1.0))
    assert serves(told.plan()) == serves(told.plan()) == {"w1": "a"}
    told.tell(worker("w1", resident("a", running=1)))
    assert told.plan() == [Wait("a", NOW + 2 * LOAD_S - 1.0, "w1 will serve it: a further copy does not pay yet")]


def test_a_queue_given_up_is_given_up_again_until_it_is_reported() -> None:
    told = Told(worker("w1"), waiting("a", RULES.misfit_s), facts=known(a=9))
    assert [type(each) for each in told.plan()] == [type(each) for each in told.plan()] == [GiveUp]
    told.planner.drop("a")
    assert told.plan() == []


def test_what_fits_nowhere_waits_until_it_is_given_up_and_a_queue_dropped_meanwhile_wakes_nobody() -> None:
    told = Told(worker("w1"), waiting("a", RULES.misfit_s - 5.0), facts=known(a=9))
    [wait] = told.plan()
    assert isinstance(wait, Wait)
    assert (wait.until, told.wakes_after_s()) == (NOW + 5.0, 5.0)
    assert [type(each) for each in told.plan(5.0)] == [GiveUp]
    told = Told(worker("w1"), waiting("a", RULES.misfit_s - 5.0), facts=known(a=9))
    told.plan()
    told.planner.drop("a")
    assert told.wakes_after_s() is None


def test_nobody_serves_a_queue_that_was_dropped_or_loads_its_model_where_room_appears() -> None:
    told = Told(worker("w1", resident("x", 8, running=1)), waiting("a", 1.0))
    assert list(waits(told.plan())) == ["a"]
    told.planner.drop("a")
    told.tell(worker("w2"), worker("w3", resident("a")))
    assert told.plan() == []


def test_a_rate_alone_changes_nothing_and_a_queue_that_grew_does() -> None:
    told = Told(worker("w1", resident("x", 8, running=1)), waiting("a", 1.0))
    assert list(waits(told.plan())) == ["a"]
    told.tell(waiting("a", 1.0, rate=3.0))
    assert told.plan() == []
    told.tell(waiting("a", 1.0, 0.5, rate=3.0))
    assert list(waits(told.plan())) == ["a"]


def test_a_queue_that_grew_is_served_by_as_many_more_holders_as_it_fills_batches() -> None:
    holders = [worker(f"w{n}", resident("a")) for n in range(4)]
    told = Told(*holders)
    assert told.plan() == []
    told.tell(waiting("a", *[1.0] * 5))
    assert serves(told.plan()) == {"w0": "a", "w1": "a"}
    told.tell(worker("w0", resident("a", running=4)), waiting("a", *[1.0] * 9))
    assert serves(told.plan()) == {"w1": "a", "w2": "a", "w3": "a"}


def test_a_holder_that_serves_an_older_queue_first_does_not_count_for_a_younger_one() -> None:
    told = Told(worker("w0", resident("a"), resident("b")), worker("w1", resident("a")), waiting("b", 9.0))
    assert serves(told.plan()) == {"w0": "b"}
    told.tell(waiting("a", 1.0))
    assert serves(told.plan()) == {"w0": "b", "w1": "a"}


# -- loads that were decided -------------------------------------------------------------------------------------------


def test_a_worker_whose_load_is_decided_is_given_no_other_until_it_reports() -> None:
    told = Told(worker("w1", gib=16), waiting("a", 1.0))
    assert loads(told.plan()) == {"a": "w1"}
    told.tell(waiting("b", 0.5))
    assert waits(told.plan()) == {"b": "no worker can make room for it now"}
    told.tell(worker("w1", resident("a", state=LOADING), gib=16))
    assert waits(told.plan()) == {"a": "it is being loaded"}
    told.tell(worker("w1", resident("a"), gib=16))
    assert loads(told.plan()) == {"b": "w1"}


def test_a_load_that_is_not_wanted_any_more_leaves_its_worker_to_the_next() -> None:
    for end in (lambda told: told.planner.drop("a"), lambda told: told.tell(asked("a", 0.5))):
        told = Told(worker("w1"), waiting("a", 1.0))
        assert loads(told.plan()) == {"a": "w1"}
        told.tell(waiting("b", 0.5))
        assert loads(told.plan()) == {"a": "w1"}
        end(told)
        assert loads(told.plan()) == {"b": "w1"}


def test_a_load_whose_worker_is_lost_or_stops_goes_elsewhere() -> None:
    for end in (lambda told: told.planner.lose("w1"), lambda told: told.tell(worker("w1", draining=True))):
        told = Told(worker("w1"), waiting("a", 1.0))
        assert loads(told.plan()) == {"a": "w1"}
        told.tell(worker("w2"))
        assert loads(told.plan()) == {"a": "w1"}
        end(told)
        assert loads(told.plan()) == {"a": "w2"}


def test_a_load_that_waits_for_its_worker_begins_where_a_gpu_is_free_before() -> None:
    told = Told(worker("w1", resident("x", 2, running=1)), waiting("a", 1.0), tuning=BLOCKING)
    assert loads(told.plan()) == {"a": "w1"}, "it begins when x has ended"
    told.tell(worker("w2"))
    assert loads(told.plan()) == {"a": "w2"}


def test_a_further_copy_that_waits_for_its_worker_makes_way_for_a_model_without_one() -> None:
    told = Told(worker("w1", resident("a", running=1)), worker("w2", resident("x", 2, running=1)), tuning=BLOCKING)
    told.tell(waiting("a", *[9.0] * 50))
    assert loads(told.plan()) == {"a": "w2"}
    told.tell(waiting("b", 1.0))
    assert loads(told.plan()) == {"b": "w2"}


def test_a_model_whose_only_holder_is_lost_is_loaded_elsewhere() -> None:
    told = Told(worker("w1", resident("a", running=1)), worker("w2"), waiting("a", 1.0))
    assert loads(told.plan()) == {}
    told.planner.lose("w1")
    assert loads(told.plan()) == {"a": "w2"}


def test_a_victim_is_not_served_once_more() -> None:
    told = Told(worker("w1", resident("b"), resident("c"), served_s=PAID_S), waiting("a", 100.0), waiting("b", 1.0))
    told.tell(waiting("c", 0.5))
    decisions = told.plan()
    assert loads(decisions) == {"a": "w1"}
    [victim] = next(each for each in decisions if isinstance(each, Load)).victims
    assert serves(decisions) == {"w1": "c" if victim == "b" else "b"}


# -- models that wait for room -----------------------------------------------------------------------------------------


def test_a_model_without_room_is_loaded_where_room_appears() -> None:
    told = Told(worker("w1", resident("x", 8, running=1)), waiting("a", 1.0))
    assert waits(told.plan()) == {"a": "no worker can make room for it now"}
    told.tell(worker("w2", gib=2))
    assert told.plan() == [], "too small to be worth asking"
    told.tell(worker("w3"))
    assert loads(told.plan()) == {"a": "w3"}


def test_a_model_whose_victims_do_not_pay_yet_takes_a_cheaper_offer_and_ignores_a_dearer_one() -> None:
    told = Told(worker("w1", resident("x", 8)), waiting("a", 0.0), asked("x", 0.1), asked("c", 1.0), asked("b", 0.01))
    assert waits(told.plan()) == {"a": "x would have to go: that does not pay yet"}
    told.tell(worker("w2", resident("c", 8)))
    assert told.plan() == []
    told.tell(worker("w3", resident("b", 8)))
    assert told.plan() == [], "cheaper, and still it does not pay at once"
    pays_after_s = RULES.first_rent * LOAD_S * 0.6 / 1.6
    assert told.wakes_after_s() == pytest.approx(pays_after_s)
    told.now += pays_after_s
    assert loads(told.plan()) == {"a": "w3"}


def test_a_first_copy_that_does_not_pay_yet_says_until_when() -> None:
    [wait] = Told(worker("w1", resident("x", 8)), waiting("a", 1.0, 0.5), asked("x", 1.0)).plan()
    assert isinstance(wait, Wait)
    assert wait.until == pytest.approx(NOW + (RULES.first_rent * X_COSTS - 1.5) / 2)


def test_a_queue_that_empties_makes_its_models_the_victims_of_those_that_wait_for_room() -> None:
    told = Told(worker("w1", resident("b", 8)), waiting("b", 2.0), waiting("a", 1.0))
    assert waits(told.plan())["a"] == "no worker can make room for it now"
    told.tell(asked("b", 0.0))
    assert loads(told.plan()) == {"a": "w1"}


def test_a_claim_is_waited_for_and_its_worker_is_free_once_it_is_gone() -> None:
    told = Told(worker("w1"), waiting("a", 1.0), waiting("b", 0.5))
    told.planner.claimed({"a": "w1"})
    assert waits(told.plan()) == {"a": "w1 is loading it", "b": "no worker can make room for it now"}
    told.planner.claimed({"a": "w1"})
    assert told.plan() == []
    told.planner.claimed({})
    assert loads(told.plan()) == {"a": "w1"}


def test_a_claim_on_another_model_keeps_its_worker_busy_and_nothing_else() -> None:
    told = Told(worker("w1"), worker("w2", gib=16), waiting("a", 1.0))
    told.planner.claimed({"c": "w2"})
    assert loads(told.plan()) == {"a": "w1"}


def test_a_fresh_resident_makes_room_when_it_has_grown_up() -> None:
    told = Told(worker("w1", resident("b", 8, loaded_s=1.0)), waiting("a", 1.0))
    assert told.plan() == [Wait("a", NOW + LOAD_S - 1.0, "no worker can make room for it now")]
    assert told.wakes_after_s() == LOAD_S - 1.0
    assert told.plan(LOAD_S - 1.1) == []
    assert loads(told.plan(0.1)) == {"a": "w1"}


def test_a_job_that_becomes_overdue_ends_a_turn_that_has_paid_for_its_load() -> None:
    told = Told(worker("w1", resident("b", 8), served_s=PAID_S), waiting("b", 0.0), waiting("a", 58.0))
    assert waits(told.plan())["a"] == "no worker can make room for it now"
    assert told.wakes_after_s() == 2.0
    assert loads(told.plan(2.0)) == {"a": "w1"}


def test_a_refusal_that_ends_is_a_new_chance() -> None:
    told = Told(worker("w1", refusals=(Refusal("a", NOW + 5, "failed", ""),)), waiting("a", 1.0))
    assert list(waits(told.plan())) == ["a"]
    assert told.wakes_after_s() == 5.0
    assert loads(told.plan(5.0)) == {"a": "w1"}


def test_in_a_large_fleet_too_an_overdue_model_ends_the_turn_that_lasted_longest_and_a_young_one_none() -> None:
    fleet = [worker(f"w{n:02}", resident("b", 8), served_s=PAID_S + n) for n in range(SMALL_FLEET + 1)]
    told = Told(*fleet, waiting("b", 0.0), waiting("a", RULES.overdue_loads * LOAD_S - 1.0))
    assert loads(told.plan()) == {}
    [chosen] = loads(told.plan(1.0)).values()
    assert chosen in {each.worker for each in fleet[-FEW:]}


# -- further copies ----------------------------------------------------------------------------------------------------


def test_a_further_copy_is_bought_when_its_price_has_been_waited_for() -> None:
    told = Told(worker("w1", resident("a", running=1)), worker("w2"), waiting("a", 1.0, 0.0))
    assert waits(told.plan()) == {"a": "w1 will serve it: a further copy does not pay yet"}
    price_s = RULES.rent * LOAD_S
    assert told.wakes_after_s() == (price_s - 1.0) / 2
    decisions = told.plan((price_s - 1.0) / 2)
    assert loads(decisions) == {"a": "w2"}
    [load] = decisions
    assert isinstance(load, Load)
    assert (load.copies, load.reason) == (
        1,
        "w1 hold it, but the last job would wait 0.5 s, they waited 8.0 s in sum, and a copy costs 4.0 s",
    )


def test_a_further_copy_that_evicts_pays_for_the_victim_as_well() -> None:
    told = Told(
        worker("w1", resident("a", running=1)), worker("w2", resident("x", 8)), waiting("a", 8.0), asked("x", 1.0)
    )
    pays_at = pytest.approx(NOW + RULES.rent * (LOAD_S + X_COSTS) - 8.0)
    assert told.plan() == [Wait("a", pays_at, "w1 will serve it: a further copy does not pay yet")]
    assert told.wakes_after_s() == pytest.approx(RULES.rent * (LOAD_S + X_COSTS) - 8.0)
    told.tell(worker("w3"))
    assert loads(told.plan()) == {"a": "w3"}, "a cheaper place"


def test_a_further_copy_without_room_waits_for_it() -> None:
    told = Told(worker("w1", resident("a", running=1)), worker("w2", resident("x", 8, running=1)), waiting("a", 90.0))
    assert waits(told.plan()) == {"a": "w1 will serve it: no worker can make room for a further copy"}
    told.tell(worker("w3"))
    assert loads(told.plan()) == {"a": "w3"}


def test_while_a_model_has_no_copy_at_all_further_copies_of_others_are_dear() -> None:
    """Ten times as dear; and once it has one, they cost what they did, at once."""
    busy, spare = worker("w1", resident("a", running=1)), worker("w2")
    for queue in (waiting("a", *[0.1] * 400), waiting("a", 20.0)):
        told = Told(busy, spare, queue, waiting("x", 0.5), facts=known(a=4, x=30))
        told.tell(replace(worker("w4", gib=32), draining=True))
        assert loads(told.plan()) == {}
    told.tell(worker("w3", gib=32))
    assert loads(told.plan()) == {"x": "w3", "a": "w2"}
    dear = Told(
        busy, spare, waiting("a", RULES.rent * RULES.scarce * LOAD_S), waiting("x", 0.5), facts=known(a=4, x=30)
    )
    dear.tell(replace(worker("w4", gib=32), draining=True))
    assert loads(dear.plan()) == {"a": "w2"}


def test_beside_a_copy_that_is_being_loaded_another_is_loaded_only_for_a_far_longer_queue() -> None:
    """And not by more than a third of the fleet at once."""
    arriving, rest = worker("w1", resident("a", state=LOADING, loaded_s=0.0)), [worker(f"w{n}") for n in (2, 3, 4)]
    price_s, batch = RULES.beside * LOAD_S, [0.0] * 4
    long, short = waiting("a", *batch * int(price_s)), waiting("a", *batch * int(price_s - LOAD_S - 1))
    assert loads(Told(arriving, *rest, long).plan()) == {"a": "w2"}
    for few in ((arriving, *rest, short), (arriving, *rest[:2], long)):
        assert Told(*few).plan() == [Wait("a", None, "it is being loaded")]


def test_beside_a_load_the_victims_of_another_copy_count_as_well() -> None:
    arriving, full = worker("w1", resident("a", state=LOADING, loaded_s=0.0)), resident("x", 8)
    queue = waiting("a", *[0.0] * 4 * int(RULES.beside * LOAD_S))
    told = Told(arriving, *(worker(f"w{n}", full) for n in (2, 3, 4)), queue, asked("x", 1.0))
    assert told.plan() == [Wait("a", None, "it is being loaded")]
    told.tell(worker("w5"))
    assert loads(told.plan()) == {"a": "w5"}


def test_a_copy_that_takes_exactly_as_long_as_the_holder_is_not_bought() -> None:
    told = Told(worker("w1", resident("a", running=1)), worker("w2"), waiting("a", 0.0), facts=known(exec_s=4.0, a=4))
    assert loads(told.plan()) == {}


def test_a_further_copy_that_somebody_has_claimed_is_waited_for() -> None:
    told = Told(worker("w1", resident("a", running=1)), worker("w2"), worker("w3"), waiting("a", 1e6))
    told.planner.claimed({"a": "w2"})
    assert told.plan() == [Wait("a", None, "w2 is loading it")]


def test_without_holding_back_a_further_copy_is_bought_at_once() -> None:
    told = Told(
        worker("w1", resident("a", running=1)), worker("w2"), waiting("a", 0.0), tuning=replace(RULES, hold=False)
    )
    assert loads(told.plan()) == {"a": "w2"}


def test_a_holder_that_is_free_is_no_reason_for_a_further_copy() -> None:
    holders = [worker(f"w{n}", resident("a", running=int(n != 3))) for n in range(9)]
    told = Told(*holders, worker("w9"), waiting("a", 1e6))
    assert waits(told.plan()) == {"a": "w0, w1, w2, w3, w4 and 4 others will serve it at once"}
    few = Told(*holders[1:6], worker("w9"), waiting("a", 1e6))
    assert waits(few.plan()) == {"a": "w1, w2, w3, w4, w5 will serve it at once"}


# -- by hand, and the end ----------------------------------------------------------------------------------------------


def test_the_best_load_by_hand_is_the_cheapest_of_those_that_have_the_room() -> None:
    told = Told(worker("w1", resident("x", 8)), worker("w2", resident("b", 8)), worker("w3", gib=2), asked("x", 1.0))
    told.plan()
    candidates = [(each, each.residents) for each in told.planner.board.workers.values()]
    best = told.planner.best_by_hand("a", candidates)
    assert best is not None
    assert (best.worker.worker, best.victims, best.footprint_bytes) == ("w2", ("b",), 4 * GIB)
    assert told.planner.best_by_hand("a", candidates[2:]) is None


def test_where_the_large_ones_refuse_for_good_the_last_to_give_up_says_why() -> None:
    def failed(name: str, until_s: float, **more: object) -> WorkerReport:
        refusal = Refusal("a", NOW + until_s, "load_failed", f"no {name}", hopeless=True)
        return replace(worker(name, refusals=(refusal,)), **more)

    exact = replace(failed("w3", 20.0), gpu=worker("w3", gib=4).gpu)
    told = Told(failed("w2", 30.0), exact, worker("w1", gib=2), waiting("a", 1.0))
    [give_up] = told.plan()
    assert isinstance(give_up, GiveUp)
    assert (give_up.worker, give_up.error.message) == ("w2", "no w2")
    hopeful = Told(failed("w2", 30.0), worker("w3", resident("x", 8, running=1)), waiting("a", 1.0))
    assert list(waits(hopeful.plan())) == ["a"]
    fits_exactly = Told(failed("w2", 30.0), replace(exact, refusals=(), draining=False), waiting("a", 1.0))
    assert loads(fits_exactly.plan()) == {"a": "w3"}
    leaving = Told(failed("w2", 30.0), replace(worker("w3"), draining=True), waiting("a", 1.0))
    assert [type(each) for each in leaving.plan()] == [GiveUp]
    alone = Told(failed("w2", 30.0, draining=True), waiting("a", 1.0))
    assert list(waits(alone.plan())) == ["a"], "nobody is left to say so"


def test_an_unknown_model_waits_whether_or_not_somebody_holds_it() -> None:
    for fleet in ((worker("w1"),), (worker("w1", resident("strange", running=1)),)):
        told = Told(*fleet, waiting("strange", 1.0))
        assert told.plan() == [Wait("strange", None, "the catalogue here does not have it")]

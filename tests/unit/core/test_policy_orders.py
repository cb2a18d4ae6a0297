"""Orders where they meet pins, refusals and workers that stop: who carries them out, who says that they are over."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from affinity.fleet import GIB, FleetView, ModelFacts, Refusal, ResidencyState, WorkerReport
from affinity.orders import EVERYWHERE, Action, Order, OrderState, Pins
from affinity.policy import Load, Plan, Serve, Unload, Wait, plan
from affinity.policy.orders import Candidate, Ending, endings, may_go, ordered, stays, with_orders
from tests.support.policy_fleets import NOW, known, resident, waiting, worker

FACTS = known(a=4, b=4, m=8)
DRAINING, LOADING = ResidencyState.DRAINING, ResidencyState.LOADING


def order(model: str = "m", at: str | None = "w1", action: Action = Action.LOAD, name: str = "o1") -> Order:
    return Order(name, action, model, at, NOW - 10, NOW + 590, "me")


def view(*workers: WorkerReport, orders: Sequence[Order], pins: Pins | None = None) -> FleetView:
    return FleetView.of(workers, orders=orders, pins=pins or Pins())


def pinned(*pairs: tuple[str, str]) -> Pins:
    return Pins(frozenset(pairs))


def planned(fleet: FleetView, *demand: str, facts: dict[str, ModelFacts] = FACTS) -> Plan:
    return plan(fleet, [waiting(model, 1.0) for model in demand], facts, NOW)


def hopeless(message: str, left_s: float = 30.0, code: str = "load_failed") -> Refusal:
    return Refusal("m", NOW + left_s, code, message, hopeless=True)


def ending(fleet: FleetView, facts: dict[str, ModelFacts] = FACTS) -> tuple[str, Ending] | None:
    """Who says what of the one order of the view."""
    said = [(name, each) for name in fleet.workers for each in endings(fleet, facts, NOW, name)]
    assert len(said) <= 1
    return said[0] if said else None


# -- in a plan ---------------------------------------------------------------------------------------------------------


def test_an_ordered_load_evicts_first_what_nobody_waits_for_and_of_that_what_costs_least() -> None:
    """However fresh: an order does not ask whether it pays."""
    residents = resident("a", used_s=900, loaded_s=0), resident("b", used_s=5, loaded_s=0)
    fleet = view(worker("w1", *residents, gib=12), orders=[order()])
    assert planned(fleet).about("m") == Load("w1", "m", 8 * GIB, ("a",), 0, "asked for by hand: order o1", "o1")
    load = planned(fleet, "a").load("w1")
    assert load is not None
    assert load.victims == ("b",)


def test_an_ordered_load_goes_where_it_costs_least() -> None:
    full = worker("w1", resident("a"), resident("b"))
    load = planned(view(full, worker("w2"), orders=[order(at=None)])).about("m")
    assert isinstance(load, Load)
    assert (load.worker, load.victims) == ("w2", ())


def test_an_ordered_load_where_nothing_makes_room_waits() -> None:
    fleet = view(worker("w1", resident("a", running=1), gib=8), orders=[order()])
    assert planned(fleet).about("m") == Wait("m", None, "w1 cannot make room for it now: a runs", "o1")


def test_what_is_to_stay_at_home_is_not_unloaded_whether_pinned_here_or_everywhere() -> None:
    unload = order("a", action=Action.UNLOAD)
    fleet = view(worker("w1", resident("a")), orders=[unload])
    assert planned(fleet).unloads("w1") == (Unload("w1", "a", "asked for by hand: order o1", "o1"),)
    for pin in (("a", "w1"), ("a", EVERYWHERE)):
        assert planned(replace(fleet, pins=pinned(pin))).unloads("w1") == ()
    assert planned(replace(fleet, pins=pinned(("a", "w2"), ("b", "w1")))).unloads("w1") != ()


def test_an_order_for_a_model_that_the_catalogue_lacks_waits_under_its_own_id() -> None:
    found = planned(view(worker("w1"), orders=[order("strange")]))
    assert found.decisions == (Wait("strange", None, "the catalogue here does not have it", "o1"),)


def test_unloads_are_carried_out_oldest_order_first_and_before_loads() -> None:
    orders = [
        order("m", at="w2", name="o1"),
        replace(order("b", action=Action.UNLOAD, name="o2"), asked_at=NOW - 1),
        replace(order("a", action=Action.UNLOAD, name="o3"), asked_at=NOW - 2),
    ]
    made = planned(view(worker("w1", resident("a"), resident("b")), worker("w2"), orders=orders))
    assert [(type(d), d.model) for d in made.decisions] == [(Unload, "a"), (Unload, "b"), (Load, "m")]


def test_a_refusal_that_ends_first_is_when_the_order_is_looked_at_again() -> None:
    one, two = (worker(f"w{n}", refusals=(Refusal("m", NOW + s, "hung", f"hung {n}"),)) for n, s in ((1, 9), (2, 5)))
    found = planned(view(one, two, orders=[order(at=None)]))
    said = "its load failed a moment ago and is tried again: hung 1"
    assert found == Plan((Wait("m", NOW + 5, said, "o1"),), NOW + 5)


def test_what_a_load_by_hand_takes_from_the_plan_is_what_meets_it() -> None:
    """w1 is to load m for the order: the policy's own load of m goes, and what w1 would have served of the victim."""
    fleet = view(worker("w1", resident("a", 8)), worker("w2"), orders=[order()])
    made = planned(fleet, "a", "m")
    done = [decision for decision in made.decisions if not isinstance(decision, Wait)]
    assert done == [Load("w1", "m", 8 * GIB, ("a",), 0, "asked for by hand: order o1", "o1")]


def test_the_ranking_is_asked_once_with_all_who_may_load_it_and_what_may_go_there() -> None:
    asked: list[tuple[str, Sequence[Candidate]]] = []

    def none_has_room(model: str, candidates: Sequence[Candidate]) -> None:
        asked.append((model, candidates))

    free, kept, gone = resident("a"), resident("b", pinned=True), worker("w3", draining=True)
    fleet = view(worker("w1", free, kept), gone, worker("w2", resident("m", state=DRAINING)), orders=[order(at=None)])
    list(ordered(fleet, FACTS, NOW, none_has_room))
    assert asked == [("m", [(fleet.workers["w1"], [free])])]


def test_a_plan_is_left_as_it_is_where_the_orders_come_to_nothing() -> None:
    made = Plan((Serve("w1", "m", 1, "warm"),))
    fulfilled = view(worker("w1", resident("m")), orders=[order()])
    assert with_orders(made, fulfilled, FACTS, NOW, lambda model, candidates: None) is made


# -- what may go and what stays ----------------------------------------------------------------------------------------


def test_only_a_resident_that_is_ready_idle_and_pinned_by_nobody_may_go() -> None:
    held = worker("w1", resident("a"))
    fleet = view(held, orders=[])
    assert may_go(fleet, held, resident("a"))
    for other in (resident("a", state=LOADING), resident("a", state=DRAINING), resident("a", running=1)):
        assert not may_go(fleet, held, other)
    assert not may_go(fleet, held, resident("a", pinned=True))
    for pin, goes in ((("a", "w1"), False), (("a", EVERYWHERE), False), (("a", "w2"), True), (("b", "w1"), True)):
        assert may_go(replace(fleet, pins=pinned(pin)), held, resident("a")) is goes


def test_a_model_stays_where_it_is_ready_its_worker_stays_and_nobody_ordered_it_to_leave() -> None:
    held = worker("w1", resident("a"))
    assert stays(view(held, orders=[]), held, "a")
    assert not stays(view(held, orders=[order("a", action=Action.UNLOAD)]), held, "a")
    for other in (order("b", action=Action.UNLOAD), order("a", "w2", Action.UNLOAD), order("a")):
        assert stays(view(held, orders=[other]), held, "a")
    for gone in (
        worker("w1"),
        worker("w1", resident("a", state=LOADING)),
        worker("w1", resident("a", state=DRAINING)),
        worker("w1", resident("a"), draining=True),
    ):
        assert not stays(view(gone, orders=[]), gone, "a")


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_gpu_that_the_model_just_fits_counts_among_those_that_could_hold_it() -> None:
    exact = worker("w1", gib=8, refusals=(hopeless("truncated"),))
    said = ending(view(exact, orders=[order()]))
    assert said == ("w1", Ending(order(), OrderState.FAILED, "load_failed: truncated"))


def test_of_several_hopeless_refusals_the_one_that_lasts_longest_is_told() -> None:
    one, two = (worker(f"w{n}", refusals=(hopeless(f"no {n}", s),)) for n, s in ((1, 30.0), (2, 20.0)))
    said = ending(view(one, two, orders=[order(at=None)]))
    assert said == ("w1", Ending(order(at=None), OrderState.FAILED, "load_failed: no 1"))


def test_a_worker_that_stops_neither_ends_the_order_nor_is_asked_whether_it_could_hold_the_model() -> None:
    leaver = worker("w1", draining=True)
    failed = worker("w2", refusals=(hopeless("truncated"),))
    said = ending(view(leaver, failed, orders=[order(at=None)]))
    assert said == ("w2", Ending(order(at=None), OrderState.FAILED, "load_failed: truncated"))
    assert ending(view(leaver, worker("w0", draining=True), orders=[order(at=None)])) is None


@pytest.mark.parametrize("facts", [FACTS, {}])
def test_an_order_that_nobody_can_say_anything_of_goes_on(facts: dict[str, ModelFacts]) -> None:
    """Nobody fits the model now, or the catalogue here does not have it yet."""
    assert ending(view(worker("w1", gib=4, refusals=(hopeless("no"),)), orders=[order()]), facts) is None


def test_what_is_gone_from_its_worker_was_unloaded_even_if_it_was_pinned_since() -> None:
    unload = order("a", action=Action.UNLOAD)
    gone = view(worker("w1", resident("b")), orders=[unload], pins=pinned(("a", "w1")))
    assert ending(gone) == ("w1", Ending(unload, OrderState.DONE, "w1 has evicted it"))
    leaving = view(worker("w1", resident("a", state=DRAINING)), orders=[unload], pins=pinned(("a", "w2")))
    assert ending(leaving) is None


def test_an_order_whose_worker_is_gone_is_ended_by_the_first_that_stays() -> None:
    fleet = view(worker("w2", draining=True), worker("w4"), worker("w3"), orders=[order()])
    assert ending(fleet) == ("w3", Ending(order(), OrderState.FAILED, "w1 is not up any more"))

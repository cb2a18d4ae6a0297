"""What follows from an operator's orders: loads, unloads, waits and ends, from one view of the fleet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from affinity.fleet import (
    GIB,
    FleetView,
    Gpu,
    Measurement,
    ModelFacts,
    Refusal,
    Residency,
    ResidencyState,
    WorkerReport,
)
from affinity.orders import EVERYWHERE, Action, Order, OrderState, Pins
from affinity.policy import Load, Plan, Serve, Unload, VramLedger, Wait
from affinity.policy.orders import Candidate, about_order, endings, ordered, with_orders

NOW = 1_000.0
FACTS = {
    name: ModelFacts(name, Measurement(gib * GIB, load_s=gib * 0.5, exec_s=0.1))
    for name, gib in (("a", 4), ("b", 8), ("m", 10), ("n", 10), ("huge", 80))
}
READY, LOADING, DRAINING = ResidencyState.READY, ResidencyState.LOADING, ResidencyState.DRAINING


@dataclass(frozen=True)
class Offer:
    worker: WorkerReport
    footprint_bytes: int
    victims: tuple[str, ...]


def best_offer(model: str, candidates: Sequence[Candidate]) -> Offer | None:
    """A ranking of its own: the fewest victims, then the name. Notes nothing may be evicted but what it is offered."""
    offers = []
    for worker, residents in candidates:
        ledger = VramLedger(worker.gpu.capacity_bytes, {r.model: r.footprint_bytes for r in worker.residents})
        size = FACTS[model].on(worker.gpu).footprint_bytes
        victims = ledger.victims_for(size, [(r.model, r.footprint_bytes) for r in residents])
        if victims is not None:
            offers.append(Offer(worker, size, victims))
    return min(offers, key=lambda offer: (len(offer.victims), offer.worker.worker), default=None)


def resident(model: str, state: ResidencyState = READY, *, running: int = 0, pinned: bool = False) -> Residency:
    size = FACTS[model].declared.footprint_bytes
    return Residency(model, state, size, NOW - 0.01, NOW, running, pinned)


def worker(name: str, *residents: Residency, gib: int = 24, draining: bool = False) -> WorkerReport:
    gpu = Gpu(f"GPU-{name}", 0, "Fake", gib * GIB)
    return WorkerReport(name, "node", 1, 1, NOW, gpu, residents, draining=draining)


def order(
    model: str = "m", at: str | None = "w1", action: Action = Action.LOAD, name: str = "o1", s: float = 0
) -> Order:
    return Order(name, action, model, at, NOW - 10 + s, NOW + 590, "me")


def unload(model: str = "m", at: str = "w1", name: str = "o1") -> Order:
    return order(model, at, Action.UNLOAD, name)


def view(*parts: WorkerReport | Order, claims: dict[str, str] | None = None, pins: Pins | None = None) -> FleetView:
    workers = [part for part in parts if isinstance(part, WorkerReport)]
    orders = [part for part in parts if isinstance(part, Order)]
    return FleetView.of(workers, claims, orders, pins or Pins())


def decide(fleet: FleetView) -> list[Load | Unload | Wait]:
    return list(ordered(fleet, FACTS, NOW, best_offer))


def only(fleet: FleetView) -> Load | Unload | Wait:
    [decision] = decide(fleet)
    return decision


# -- load --------------------------------------------------------------------------------------------------------------


def test_without_orders_nothing_follows() -> None:
    assert decide(view(worker("w1"))) == []


def test_an_order_to_load_becomes_a_load_on_the_worker_it_names_with_its_reason() -> None:
    found = only(view(worker("w1", resident("b")), worker("w2"), order(at="w1")))
    assert found == Load("w1", "m", 10 * GIB, (), 0, "asked for by hand: order o1", "o1")


def test_an_order_without_a_worker_goes_where_the_ranking_says() -> None:
    fleet = view(worker("w1", resident("b"), resident("n")), worker("w2"), order(at=None))
    found = only(fleet)
    assert isinstance(found, Load)
    assert (found.worker, found.victims) == ("w2", ())


def test_it_evicts_what_is_idle_however_fresh_or_wanted_and_no_more_than_needed() -> None:
    found = only(view(worker("w1", resident("a"), resident("b"), resident("n")), order()))
    assert isinstance(found, Load)
    assert len(found.victims) == 1


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (resident("n", running=1), "n runs"),
        (resident("n", LOADING), ""),
        (resident("n", DRAINING), "n is draining"),
        (resident("n", pinned=True), "n is pinned"),
    ],
)
def test_what_runs_loads_leaves_or_is_pinned_stays_and_the_order_waits(kept: Residency, why: str) -> None:
    found = only(view(worker("w1", kept, gib=16), order()))
    assert isinstance(found, Wait)
    assert (found.order, found.until) == ("o1", None)
    assert why in found.reason


@pytest.mark.parametrize("pin", [("n", "w1"), ("n", EVERYWHERE)])
def test_a_pin_by_hand_counts_before_the_worker_has_reported_it(pin: tuple[str, str]) -> None:
    fleet = view(worker("w1", resident("n"), gib=16), order(), pins=Pins(frozenset({pin})))
    found = only(fleet)
    assert isinstance(found, Wait)
    assert "n is pinned" in found.reason
    elsewhere = replace(fleet, pins=Pins(frozenset({("n", "w2")})))
    assert isinstance(only(elsewhere), Load)


def test_an_order_that_no_worker_of_several_can_carry_out_now_waits() -> None:
    found = only(view(*(worker(f"w{n}", resident("n", running=1), gib=16) for n in (1, 2)), order(at=None)))
    assert isinstance(found, Wait)
    assert found.reason == "no worker can make room for it now: what is in the way runs, loads or is pinned"


@pytest.mark.parametrize(
    "fleet",
    [
        view(worker("w1", resident("m")), order()),
        view(worker("w1"), worker("w2", resident("m")), order(at=None)),
    ],
)
def test_an_order_that_is_fulfilled_comes_to_nothing(fleet: FleetView) -> None:
    assert decide(fleet) == []


def test_a_copy_elsewhere_does_not_fulfil_an_order_that_names_a_worker() -> None:
    found = only(view(worker("w1"), worker("w2", resident("m")), order(at="w1")))
    assert isinstance(found, Load)
    assert (found.worker, found.copies) == ("w1", 1)


@pytest.mark.parametrize(
    "leaver",
    [worker("w2", resident("m"), draining=True), worker("w2", resident("m", DRAINING))],
)
def test_a_copy_that_is_about_to_go_does_not_count(leaver: WorkerReport) -> None:
    found = only(view(worker("w1"), leaver, order(at=None)))
    assert isinstance(found, Load)
    assert found.worker == "w1"


def test_unload_here_and_load_anywhere_moves_a_model() -> None:
    fleet = view(worker("w1", resident("m")), worker("w2"), unload(at="w1"), order(at=None, name="o2"))
    leaves, comes = decide(fleet)
    assert leaves == Unload("w1", "m", "asked for by hand: order o1", "o1")
    assert isinstance(comes, Load)
    assert (comes.worker, comes.copies) == ("w2", 1)


def test_what_is_loading_or_claimed_is_not_loaded_again() -> None:
    loading = view(worker("w1"), worker("w2", resident("m", LOADING)), order(at="w1"))
    claimed = view(worker("w1"), worker("w2"), order(at="w1"), claims={"m": "w2"})
    assert [only(fleet) for fleet in (loading, claimed)] == [Wait("m", None, "w2 is loading it", "o1")] * 2


def test_a_worker_carries_out_one_load_at_a_time_and_the_oldest_order_first() -> None:
    fleet = view(worker("w1"), order("m", name="o2", s=1), order("n", name="o1", s=2))
    first, second = decide(fleet)
    assert isinstance(first, Load)
    assert (first.model, first.order) == ("m", "o2")
    assert second == Wait("n", None, "w1 is busy with another load", "o1")
    busy = only(view(worker("w1", resident("n", LOADING)), order()))
    assert busy == Wait("m", None, "w1 is busy with another load", "o1")


def test_two_orders_for_one_model_are_carried_out_one_after_the_other() -> None:
    first, second = decide(view(worker("w1"), worker("w2"), order(at="w1"), order(at="w2", name="o2")))
    assert isinstance(first, Load)
    assert second == Wait("m", None, "w1 loads it first", "o2")


def test_a_load_that_just_failed_is_tried_again_when_its_worker_would() -> None:
    refusal = Refusal("m", NOW + 2, "load_timeout", "it hung")
    found = only(view(replace(worker("w1"), refusals=(refusal,)), order()))
    assert found == Wait("m", NOW + 2, "its load failed a moment ago and is tried again: it hung", "o1")
    past = replace(refusal, until=NOW)
    assert isinstance(only(view(replace(worker("w1"), refusals=(past,)), order())), Load)


@pytest.mark.parametrize(
    ("fleet", "why"),
    [
        (view(worker("w2"), order()), "its worker is not up"),
        (view(worker("w1", draining=True), order()), "w1 is stopping"),
        (view(worker("w1"), order("unheard-of")), "the catalogue here does not have it"),
        (view(worker("w1", gib=4), order()), "w1 cannot make room for it now: other programs fill its memory"),
        (view(order(at=None)), "its worker is not up"),
    ],
)
def test_an_order_that_cannot_be_carried_out_says_why(fleet: FleetView, why: str) -> None:
    found = only(fleet)
    assert isinstance(found, Wait)
    assert why in found.reason


def test_the_order_of_the_orders_in_the_view_means_nothing() -> None:
    parts = [worker("w1"), order("m", name="o2", s=1), order("n", name="o1", s=2), order("b", None, name="o3", s=1)]
    assert decide(view(*parts)) == decide(view(*reversed(parts)))


# -- unload ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [0, 3])
def test_an_order_to_unload_is_carried_out_also_while_jobs_run(running: int) -> None:
    found = only(view(worker("w1", resident("m", running=running)), unload()))
    assert found == Unload("w1", "m", "asked for by hand: order o1", "o1")


@pytest.mark.parametrize(
    "holder",
    [
        worker("w1"),
        worker("w1", resident("m", LOADING)),
        worker("w1", resident("m", DRAINING)),
        worker("w1", resident("m", pinned=True)),
        worker("w2", resident("m")),
    ],
)
def test_what_is_not_there_not_ready_or_pinned_is_not_unloaded(holder: WorkerReport) -> None:
    assert decide(view(holder, unload())) == []


def test_what_was_pinned_after_the_order_is_not_unloaded() -> None:
    assert decide(view(worker("w1", resident("m")), unload(), pins=Pins(frozenset({("m", EVERYWHERE)})))) == []


def test_what_is_to_leave_anyway_is_nobodys_victim() -> None:
    fleet = view(worker("w1", resident("n"), gib=16), unload("n"), order(name="o2"))
    leaves, waits = decide(fleet)
    assert isinstance(leaves, Unload)
    assert isinstance(waits, Wait), "its room is there once it has left"


# -- in a plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_without_orders_is_left_as_it_is() -> None:
    made = Plan((Serve("w1", "a", 1, "warm"),), wake_at=NOW + 1)
    assert with_orders(made, view(worker("w1", resident("a"))), FACTS, NOW, best_offer) is made


def test_where_the_policy_wants_something_else_of_a_worker_or_a_model_the_order_goes() -> None:
    """w1 is to load m and evict a for it; the policy had other loads and a batch of a in mind, and some elsewhere."""
    fleet = view(worker("w1", resident("a"), resident("b", running=1), gib=20), worker("w2"), worker("w3"), order())
    here, there = Load("w1", "n", 1, ("a",), 0, "queued"), Load("w2", "m", 1, (), 0, "queued")
    stays, other = Load("w3", "n", 1, (), 0, "queued"), Serve("w1", "b", 1, "warm")
    gone, wait = Serve("w1", "a", 1, "warm"), Wait("a", NOW + 5, "later")
    made = with_orders(Plan((here, there, stays, other, gone, wait), NOW + 5), fleet, FACTS, NOW, best_offer)
    asked = Load("w1", "m", 10 * GIB, ("a",), 0, "asked for by hand: order o1", "o1")
    assert made == Plan((stays, other, wait, asked), NOW + 5)


def test_what_is_to_leave_is_not_served_once_more_there_but_elsewhere() -> None:
    fleet = view(worker("w1", resident("m")), worker("w2", resident("m")), unload())
    serves = tuple(Serve(name, "m", 1, "warm") for name in ("w1", "w2"))
    made = with_orders(Plan(serves), fleet, FACTS, NOW, best_offer)
    assert [(type(d), d.worker) for d in made.decisions if not isinstance(d, Wait)] == [(Serve, "w2"), (Unload, "w1")]


def test_the_plan_wakes_when_a_failed_load_may_be_tried_again() -> None:
    refusal = Refusal("m", NOW + 2, "load_timeout", "it hung")
    fleet = view(replace(worker("w1"), refusals=(refusal,)), order())
    wakes = [with_orders(Plan((), at), fleet, FACTS, NOW, best_offer).wake_at for at in (None, NOW + 1, NOW + 3)]
    assert wakes == [NOW + 2, NOW + 1, NOW + 2]
    assert with_orders(Plan(()), view(order()), FACTS, NOW, best_offer).wake_at is None


# -- ends --------------------------------------------------------------------------------------------------------------


def ends(fleet: FleetView) -> dict[str, tuple[str, OrderState, str]]:
    """Who says what of which order. Nobody says it twice."""
    found: dict[str, tuple[str, OrderState, str]] = {}
    for name in (*fleet.workers, "stranger"):
        for ending in endings(fleet, FACTS, NOW, name):
            assert ending.order.id not in found
            found[ending.order.id] = (name, ending.state, ending.reason)
    return found


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        (view(worker("w1"), order()), None),
        (view(worker("w1", resident("m", LOADING)), order()), None),
        (view(worker("w1", resident("m")), order()), ("w1", OrderState.DONE, "w1 holds it")),
        (view(worker("w1"), worker("w2", resident("m")), order()), None),
        (
            view(worker("w1"), worker("w3", resident("m")), worker("w2", resident("m")), order(at=None)),
            ("w2", OrderState.DONE, "w2 holds it"),
        ),
        (view(worker("w2"), worker("w3"), order()), ("w2", OrderState.FAILED, "w1 is not up any more")),
        (
            view(worker("w1", draining=True), worker("w2"), order()),
            ("w2", OrderState.FAILED, "w1 is stopping"),
        ),
        (view(worker("w1", draining=True), order()), None),
        (view(worker("w1", resident("m")), unload()), None),
        (view(worker("w1", resident("m", DRAINING)), unload()), None),
        (view(worker("w1"), worker("w2", resident("m")), unload()), ("w1", OrderState.DONE, "w1 has evicted it")),
        (
            view(worker("w1", resident("m")), unload(), pins=Pins(frozenset({("m", "w1")}))),
            ("w1", OrderState.FAILED, "it was pinned meanwhile"),
        ),
    ],
)
def test_an_order_is_over_when_what_it_asks_for_is_so_or_cannot_be_and_one_worker_says_so(
    fleet: FleetView, expected: tuple[str, OrderState, str] | None
) -> None:
    assert ends(fleet).get("o1") == expected


def test_an_order_fails_when_nobody_who_could_hold_the_model_can_load_it() -> None:
    refusing = [Refusal("m", NOW + n, "load_failed", f"truncated on w{n}", hopeless=True) for n in (1, 2)]
    one, two = (replace(worker(f"w{n}"), refusals=(refusal,)) for n, refusal in enumerate(refusing, 1))
    small = worker("w0", gib=8)
    why = (OrderState.FAILED, "load_failed: truncated on w2")
    assert ends(view(small, one, two, order(at=None))) == {"o1": ("w0", *why)}
    assert ends(view(small, one, two, order(at="w2"))) == {"o1": ("w2", *why)}
    assert ends(view(small, one, worker("w2"), order(at=None))) == {}
    passing = replace(two, refusals=(replace(refusing[1], hopeless=False),))
    assert ends(view(one, passing, order(at=None))) == {}


def test_an_order_to_load_what_is_ordered_to_leave_is_not_over() -> None:
    fleet = view(worker("w1", resident("m")), unload(), order(at=None, name="o2"))
    assert ends(fleet) == {}


def test_the_plan_says_what_it_does_for_an_order() -> None:
    mine, other = order(), order(at="w2", name="o2")
    made = Plan((Wait("m", None, "queued"), Load("w2", "m", 1, (), 0, "", "o2"), Wait("m", None, "w1 runs a", "o1")))
    assert about_order(mine, made.decisions) == Wait("m", None, "w1 runs a", "o1")
    assert about_order(other, made.decisions) == Load("w2", "m", 1, (), 0, "", "o2")
    assert about_order(order(name="o3"), made.decisions) is None


def test_a_plan_has_the_unloads_of_a_worker_beside_its_other_decisions() -> None:
    leaves = Unload("w1", "m", "asked for by hand", "o1")
    made = Plan((Unload("w2", "m", "", "o2"), leaves, Wait("n", None, "x")))
    assert (made.unloads("w1"), made.load("w1"), made.about("m")) == ((leaves,), None, made.decisions[0])


# -- pins --------------------------------------------------------------------------------------------------------------


def test_a_pin_covers_one_worker_or_all_of_them() -> None:
    pins = Pins(frozenset({("m", "w1"), ("m", "w2"), ("n", EVERYWHERE)}))
    assert [pins.cover("m", name) for name in ("w1", "w2", "w3")] == [True, True, False]
    assert pins.cover("n", "w3")
    assert (pins.everywhere("m"), pins.everywhere("n")) == (False, True)
    assert (pins.workers("m"), pins.workers("n")) == (("w1", "w2"), ())
    assert not Pins().cover("m", "w1")

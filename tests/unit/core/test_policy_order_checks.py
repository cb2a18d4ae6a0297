"""What an operator may ask for, as far as one view of the fleet says: everything refused is refused with a reason."""

from dataclasses import replace

import pytest

from affinity.errors import CannotLoad, NeverFits, Pinned, UnknownWorker
from affinity.fleet import GIB, FleetView, ModelFacts, Refusal, ResidencyState, WorkerReport
from affinity.orders import EVERYWHERE, Action, Order, Pins
from affinity.policy.order_checks import MOST_NAMED, check_load, check_unload, check_worker
from tests.support.policy_fleets import NOW, known, resident, worker

A = known(a=4)["a"]
DRAINING, LOADING = ResidencyState.DRAINING, ResidencyState.LOADING


def load(*workers: WorkerReport, at: str | None = None, pins: Pins | None = None, facts: ModelFacts = A) -> list[str]:
    return list(check_load(facts, at, FleetView.of(workers, pins=pins or Pins()), NOW))


def unload(*workers: WorkerReport, at: str | None = None, pins: Pins | None = None, facts: ModelFacts = A) -> list[str]:
    return list(check_unload(facts, at, FleetView.of(workers, pins=pins or Pins())))


def hopeless(message: str, left_s: float = 30.0) -> Refusal:
    return Refusal("a", NOW + left_s, "load_failed", message, hopeless=True)


# -- load --------------------------------------------------------------------------------------------------------------


def test_a_model_that_somebody_could_load_may_be_asked_for() -> None:
    assert load(worker("w1"), at="w1") == []
    assert load(worker("w1", gib=2), worker("w2")) == []


def test_all_who_hold_the_model_already_are_named_in_order() -> None:
    holding = [worker(name, resident("a")) for name in ("w3", "w1")]
    assert load(*holding, worker("w2")) == ["w1", "w3"]
    assert load(*holding, worker("w2"), at="w3") == ["w3"]
    assert load(*holding, worker("w2"), at="w2") == []


def test_a_copy_that_arrives_leaves_or_is_ordered_to_leave_is_not_held() -> None:
    for holder in (worker("w1", resident("a", state=LOADING)), worker("w1", resident("a", state=DRAINING))):
        assert load(holder) == []
    order = Order("o1", Action.UNLOAD, "a", "w1", NOW, NOW + 600)
    assert list(check_load(A, "w1", FleetView.of([worker("w1", resident("a"))], orders=[order]), NOW)) == []


def test_without_any_worker_nothing_can_be_loaded() -> None:
    with pytest.raises(CannotLoad, match="no worker is up"):
        load()


def test_a_worker_that_is_not_there_is_refused_with_those_that_are() -> None:
    fleet = [worker(f"w{number}") for number in range(7, 0, -1)]
    said = r"no live worker is called 'x'; there are w1, w2, w3, w4, w5; GET /workers"
    for ask in (load, unload):
        with pytest.raises(UnknownWorker, match=said):
            ask(*fleet, at="x")
        with pytest.raises(UnknownWorker, match="no live worker is called 'x'; none is up; GET /workers"):
            ask(at="x")
    with pytest.raises(UnknownWorker, match=said):
        check_worker("x", FleetView.of(fleet))
    check_worker("w1", FleetView.of(fleet))


def test_a_name_of_any_length_is_shown_by_its_beginning() -> None:
    with pytest.raises(UnknownWorker) as caught:
        check_worker("x" * 5000, FleetView())
    assert f"'{'x' * 128}'" in caught.value.message


def test_a_model_larger_than_every_gpu_is_refused_as_such_and_on_a_small_one_with_both_sizes() -> None:
    with pytest.raises(NeverFits, match=r"takes 4\.0 GiB"):
        load(worker("w1", gib=2), worker("w2", gib=3))
    with pytest.raises(CannotLoad, match=r"a: w1 is too small: the model takes 4\.0 GiB, its GPU offers 3\.5 GiB"):
        load(worker("w1", gib=3.5), worker("w2"), at="w1")
    assert load(worker("w1", gib=4), at="w1") == []


def test_a_worker_that_stops_is_refused_and_another_one_need_not() -> None:
    leaver = worker("w1", draining=True)
    with pytest.raises(CannotLoad, match="a: w1 is stopping"):
        load(leaver, at="w1")
    assert load(leaver, worker("w2")) == []


def test_a_worker_that_will_not_try_again_says_for_how_long_and_why() -> None:
    failed = worker("w1", refusals=(hopeless("the file is truncated", left_s=29.6),))
    said = r"w1 failed to load it and does not try again for 30 s \(load_failed: the file is truncated\)"
    with pytest.raises(CannotLoad, match=said):
        load(failed, at="w1")
    passing = replace(failed, refusals=(replace(failed.refusals[0], hopeless=False),))
    over = replace(failed, refusals=(hopeless("", left_s=0.0),))
    other = replace(failed, refusals=(replace(hopeless(""), model="b"),))
    assert load(passing) == load(over) == load(other) == []


def test_what_is_pinned_leaves_so_much_room_and_no_more() -> None:
    """Whether pinned by the worker's own word or by hand, here or everywhere."""
    own = worker("w1", resident("p", 5, pinned=True), resident("free", 3))
    by_hand = worker("w1", resident("p", 5), resident("free", 3))
    said = r"w1 has 3\.0 GiB beside what is pinned there \(p\), the model takes 4\.0 GiB"
    with pytest.raises(CannotLoad, match=said):
        load(own)
    for pin in (("p", "w1"), ("p", EVERYWHERE)):
        with pytest.raises(CannotLoad, match=said):
            load(by_hand, pins=Pins(frozenset({pin})))
    assert load(by_hand, pins=Pins(frozenset({("p", "w2")}))) == []
    assert load(worker("w1", resident("p", 4, pinned=True))) == []


def test_pins_larger_than_the_gpu_leave_nothing_and_all_of_them_are_named() -> None:
    full = worker("w1", resident("p", 5, pinned=True), resident("q", 9, pinned=True))
    with pytest.raises(CannotLoad, match=r"w1 has 0\.0 GiB beside what is pinned there \(p, q\)"):
        load(full)


def test_the_models_own_pin_is_not_in_its_way() -> None:
    arriving = worker("w1", resident("a", 4, LOADING, pinned=True), resident("p", 4, pinned=True))
    assert load(arriving, at="w1") == []


def test_if_all_workers_are_hindered_the_first_few_say_why_and_the_rest_are_counted() -> None:
    fleet = [worker(f"w{number}", refusals=(hopeless(f"no {number}"),)) for number in range(1, MOST_NAMED + 3)]
    with pytest.raises(CannotLoad) as caught:
        load(*fleet)
    message = caught.value.message
    assert message.startswith("a: w1 failed to load it")
    assert [f"(load_failed: no {number})" in message for number in range(1, 8)] == [True] * 5 + [False] * 2
    assert message.endswith("; and so on for 2 others")
    with pytest.raises(CannotLoad) as caught:
        load(*fleet[:MOST_NAMED])
    assert "others" not in caught.value.message
    assert load(*fleet[:MOST_NAMED], worker("w9")) == []


# -- unload ------------------------------------------------------------------------------------------------------------


def test_those_who_hold_the_model_would_have_to_evict_it() -> None:
    fleet = [worker("w3", resident("a")), worker("w1", resident("a", state=LOADING)), worker("w2", resident("b"))]
    assert unload(*fleet) == ["w1", "w3"]
    assert unload(*fleet, at="w3") == ["w3"]
    assert unload(*fleet, at="w2") == []
    assert unload(worker("w1", resident("a", state=DRAINING))) == []


def test_what_the_catalogue_pins_is_unloaded_by_nobody() -> None:
    with pytest.raises(Pinned, match="the catalogue pins a"):
        unload(worker("w1", resident("a")), facts=replace(A, pinned=True))


def test_what_is_pinned_by_hand_is_refused_with_where_it_is_pinned() -> None:
    fleet = [worker(name, resident("a")) for name in ("w1", "w2", "w3")]
    pins = Pins(frozenset({("a", "w3"), ("a", "w1"), ("b", "w2")}))
    with pytest.raises(Pinned, match="a is pinned on w1, w3: unpin it first"):
        unload(*fleet, pins=pins)
    assert unload(*fleet, at="w2", pins=pins) == ["w2"]


def test_footprints_are_shown_in_gib_to_a_tenth() -> None:
    facts = replace(A, measured={}, declared=replace(A.declared, footprint_bytes=int(4.26 * GIB)))
    with pytest.raises(CannotLoad, match=r"takes 4\.3 GiB, its GPU offers 2\.0 GiB"):
        load(worker("w1", gib=2), worker("w2"), at="w1", facts=facts)

"""What the ledger says when it refuses, and which victims it names; who is named when a model fits nowhere."""

from dataclasses import replace

import pytest

from affinity.errors import InvariantBroken, NeverFits, OutOfVram
from affinity.fleet import GIB, FleetView
from affinity.policy import VramLedger, check_fits
from tests.support.policy_fleets import known, worker


def test_a_model_that_is_there_already_or_is_not_is_named() -> None:
    ledger = VramLedger(8, {"a": 4})
    with pytest.raises(InvariantBroken, match="a is in the ledger already"):
        ledger.admit("a", 1)
    for act in (lambda: ledger.release("b"), lambda: ledger.resize("b", 1)):
        with pytest.raises(InvariantBroken, match="b is not in the ledger"):
            act()


@pytest.mark.parametrize(("held", "free"), [(5, 3), (8, 0), (20, 0)])
def test_a_model_without_room_is_told_what_it_takes_and_what_is_free_never_less_than_nothing(
    held: int, free: int
) -> None:
    with pytest.raises(OutOfVram, match=f"b takes 4 bytes and {free} are free"):
        VramLedger(8, {"a": held}).admit("b", 4)


def test_a_model_that_takes_exactly_what_is_free_is_admitted() -> None:
    assert VramLedger(8, {"a": 5}).admit("b", 3).free_bytes == 0


def test_a_ledger_never_changes_it_gives_another() -> None:
    before = VramLedger(8, {"a": 4})
    assert before.admit("b", 2).resize("b", 3).release("a").with_capacity(9) == VramLedger(9, {"b": 3})
    assert before == VramLedger(8, {"a": 4})
    with pytest.raises(TypeError):
        before.admit("b", 2).held["b"] = 9  # type: ignore[index]


@pytest.mark.parametrize(
    ("footprint", "victims"),
    [
        (2, ()),
        (3, ("a",)),
        (4, ("b",)),  # a alone is not enough, and b alone is.
        (6, ("b",)),
        (7, ("a", "b")),
        (8, ("c",)),
        (15, ("a", "b", "c")),
        (16, None),
    ],
)
def test_the_first_candidates_go_that_make_room_and_of_those_the_first_that_are_not_needed_stay(
    footprint: int, victims: tuple[str, ...] | None
) -> None:
    ledger = VramLedger(15, {"a": 1, "b": 4, "c": 8})
    assert ledger.free_bytes == 2
    assert ledger.victims_for(footprint, [("a", 1), ("b", 4), ("c", 8)]) == victims


def test_of_several_superfluous_victims_only_as_many_stay_as_are_not_missed() -> None:
    """Each one that stays takes from what is spared: a and b could each stay, but not both."""
    ledger = VramLedger(20, {"a": 5, "b": 5, "c": 10})
    assert ledger.victims_for(14, [("a", 5), ("b", 5), ("c", 10)]) == ("b", "c")


def test_of_several_gpus_the_largest_counts_and_its_own_type_says_what_the_model_takes() -> None:
    facts = known(a=30)["a"]
    large = worker("w1", gib=24)
    other = replace(large, worker="w3", gpu=replace(large.gpu, name="Other", total_bytes=25 * GIB))
    declared = replace(facts, declared=replace(facts.declared, footprint_bytes=26 * GIB))
    said = r"model a takes 26\.0 GiB by the catalogue .* the largest GPU \(Other of worker w3\) offers 25\.0 GiB"
    with pytest.raises(NeverFits, match=said):
        check_fits(declared, FleetView.of([large, other, worker("w2", gib=8)]))
    fits = replace(facts, declared=replace(facts.declared, footprint_bytes=25 * GIB))
    check_fits(fits, FleetView.of([large, other]))

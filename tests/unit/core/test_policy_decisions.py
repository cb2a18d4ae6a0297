"""Reading a plan, and the facts and rates it is made from."""

import pytest

from affinity.errors import InvariantBroken
from affinity.fleet import GIB, Demand, FleetView, Measurement
from affinity.job import JobError
from affinity.policy import Decision, GiveUp, Load, Plan, Serve, Unload, Wait
from affinity.policy.facts import facts_of, with_rates
from tests.support.policy_fleets import NOW, asked, resident, waiting, worker

DECISIONS: tuple[Decision, ...] = (
    Unload("w1", "a", "asked for by hand", "o1"),
    Wait("a", None, "later"),
    Serve("w1", "a", 1, "warm"),
    GiveUp("w1", "a", JobError("never_fits", "too large")),
    Load("w1", "a", 4, (), 0, "queued"),
)


def test_of_what_a_plan_says_of_a_model_the_weightiest_counts_in_whatever_order_it_stands() -> None:
    left = list(DECISIONS)
    for kind in (Load, GiveUp, Serve, Wait, Unload):
        for decisions in (left, left[::-1]):
            assert isinstance(Plan((Wait("b", None, "another"), *decisions)).about("a"), kind)
        left = [decision for decision in left if not isinstance(decision, kind)]
    with pytest.raises(InvariantBroken, match="the plan says nothing of a"):
        Plan((Wait("b", None, "another"),)).about("a")


def test_a_worker_finds_what_is_addressed_to_it_and_nothing_of_anothers() -> None:
    others = (
        Serve("w2", "b", 1, "warm"),
        Load("w2", "b", 4, (), 0, "queued"),
        Unload("w2", "b", "asked for by hand", "o2"),
        GiveUp("w2", "b", JobError("never_fits", "too large")),
    )
    made = Plan((*others, *DECISIONS))
    unload, _, serve, give_up, load = DECISIONS
    assert (made.serve("w1"), made.load("w1")) == (serve, load)
    assert (made.unloads("w1"), made.give_ups("w1")) == ((unload,), (give_up,))
    assert (made.serve("w3"), made.load("w3"), made.unloads("w3"), made.give_ups("w3")) == (None, None, (), ())


class Entry:
    def __init__(self, name: str, vram_bytes: int | None) -> None:
        self.name, self.vram_bytes, self.max_batch, self.pinned = name, vram_bytes, 1, False


def test_a_model_that_declares_to_take_nothing_is_believed() -> None:
    """Only one that declares no size is guessed at: what runs on the processor takes nothing."""
    known = facts_of([Entry("none", 0), Entry("silent", None)], {})
    assert known["none"].declared == Measurement(0, 0.0, 0.1)
    assert known["silent"].declared == Measurement(GIB, 0.5, 0.1)


def test_measurements_of_one_model_are_kept_apart_by_type_of_gpu() -> None:
    measured = {("a", "x"): Measurement(1, 1.0, 1.0), ("a", "y"): Measurement(2, 2.0, 2.0)}
    known = facts_of([Entry("a", 1), Entry("b", 1)], measured)
    assert known["a"].measured == {"x": Measurement(1, 1.0, 1.0), "y": Measurement(2, 2.0, 2.0)}
    assert known["b"].measured == {}


def test_rates_come_with_what_is_queued_and_with_what_is_resident_and_might_be_evicted() -> None:
    fleet = FleetView.of([worker("w1", resident("c"), resident("a")), worker("w2", resident("b"), resident("d"))])
    queue, unknown = waiting("a", 3.0, 1.0), waiting("q", 1.0)
    found = with_rates([queue, unknown], {"a": 0.5, "b": 0.25, "c": 0.125, "elsewhere": 9.0}, fleet)
    assert found == (
        Demand("a", 2, NOW - 3.0, 2 * NOW - 4.0, 0.5),
        unknown,
        asked("b", 0.25),
        asked("c", 0.125),
    )

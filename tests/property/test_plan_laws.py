"""What holds of a plan and a view as a whole: order of inputs, reasons, wake-ups, late reports."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise, permutations, product
from random import Random
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from affinity.fleet import Demand, FleetView, Gpu, Residency, ResidencyState, WorkerReport
from affinity.policy import GiveUp, Wait, plan
from tests.support.policy_scenes import NOW, Scene, a_worker, fleet_of, known_as, scenes

T = TypeVar("T")


@given(scenes(), st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_its_inputs(scene: Scene, random: Random) -> None:
    """L5: reports, residents, refusals, demand and facts may come in any order."""
    fleet, demand, known = scene

    def mixed(items: Iterable[T]) -> list[T]:
        listed = list(items)
        random.shuffle(listed)
        return listed

    reports = [
        replace(w, residents=tuple(mixed(w.residents)), refusals=tuple(mixed(w.refusals)))
        for w in fleet.workers.values()
    ]
    other = FleetView.of(mixed(reports), dict(mixed(fleet.claims.items())))
    assert plan(other, mixed(demand), dict(mixed(known.items())), NOW) == plan(fleet, demand, known, NOW)


@given(scenes())
def test_decisions_say_why(scene: Scene) -> None:
    """Decisions are values with their reason."""
    for decision in plan(*scene, NOW).decisions:
        said = decision.error.message if isinstance(decision, GiveUp) else decision.reason
        assert said


@given(scenes())
def test_a_plan_wakes_nobody_in_the_past(scene: Scene) -> None:
    """``wake_at`` lies after ``now``, and no wait is longer than until then."""
    made = plan(*scene, NOW)
    assert made.wake_at is None or made.wake_at > NOW
    for decision in made.decisions:
        if isinstance(decision, Wait) and decision.until is not None:
            assert made.wake_at is not None
            assert NOW < made.wake_at <= decision.until


def test_who_sleeps_until_wake_at_gets_on() -> None:
    """A shell that jumps to ``wake_at`` again and again, with nothing else happening, comes to an end."""
    busy = Residency("a", ResidencyState.READY, 4, NOW, NOW, running=1)
    fleet = fleet_of(a_worker("w1", busy), a_worker("w2"))
    for jobs, load_s in product(range(1, 7), (n / 3 for n in range(1, 20))):
        demand = [Demand("a", jobs, NOW, jobs * NOW)]
        instants = [NOW]
        while not (made := plan(fleet, demand, {"a": known_as("a", 4, load_s)}, instants[-1])).load("w2"):
            assert made.wake_at is not None
            assert made.wake_at > instants[-1]
            assert len(instants) < 5
            instants.append(made.wake_at)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5))
def test_a_view_never_moves_backwards(versions: list[tuple[int, int]]) -> None:
    """L12: late and repeated reports change nothing: the newest counts, in whatever order they come."""
    gpu = Gpu("GPU-1", 0, "small", 8)
    reports = [WorkerReport("w1", "n", epoch, sequence, NOW, gpu) for epoch, sequence in versions]
    newest = max(versions)
    for order in permutations(reports):
        assert FleetView.of(order).workers["w1"].version() == newest
        views = [FleetView.of(order[:1])]
        for report in order[1:]:
            views.append(views[-1].with_report(report))
        for before, after in pairwise(views):
            assert before.workers["w1"].version() <= after.workers["w1"].version()
        assert views[-1].workers["w1"].version() == newest

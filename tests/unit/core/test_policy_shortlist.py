"""Whom a large fleet asks for an offer: the few that are likeliest to load a model at the least cost."""

from collections.abc import Callable
from dataclasses import replace

from affinity.fleet import GIB, ResidencyState, WorkerReport
from affinity.policy.alarms import Alarms
from affinity.policy.board import Board
from affinity.policy.offers import Offers
from affinity.policy.shortlist import FEW, SMALL_FLEET, Shortlist
from affinity.policy.tuning import Tuning
from affinity.policy.worth import Worth
from tests.support.policy_fleets import NOW, RULES, asked, known, resident, waiting, worker

MANY = SMALL_FLEET + 1


def full(name: str, model: str = "kept", *, pinned: bool = True, gib: float = 8, **more: object) -> WorkerReport:
    return worker(name, resident(model, gib, pinned=pinned), gib=gib, **more)


class Fleet:
    """Pinned models fill all workers but those that a test reports anew. Model ``a`` takes 4 GiB."""

    def __init__(self, count: int = MANY, tuning: Tuning = RULES) -> None:
        facts = known(a=4, kept=8, wanted=4, **{f"m{n}": 8 for n in range(9)})
        self.board = Board(facts, tuning.overlap)
        self.board.now = NOW
        self.board.ask(waiting("wanted", 1.0))
        for number in range(9):
            self.board.ask(asked(f"m{number}", 0.001 * (1 + number)))
        self.list = Shortlist(self.board, Offers(self.board, Worth(self.board, tuning), tuning, Alarms()), tuning)
        for number in range(count):
            self.report(full(f"w{number:02}"))

    def report(self, *reports: WorkerReport) -> None:
        for each in reports:
            self.board.report(each)
            self.list.changed(each.worker)

    def asked(self, *, overdue: bool = False, able: Callable[[WorkerReport], bool] = lambda worker: True) -> list[str]:
        found = [each.worker for each in self.list.candidates("a", overdue, able)]
        assert len(set(found)) == len(found)
        return sorted(found)


def test_a_small_fleet_is_asked_as_a_whole() -> None:
    fleet = Fleet(SMALL_FLEET)
    assert len(fleet.asked()) == SMALL_FLEET
    assert fleet.asked(able=lambda worker: worker.worker == "w07") == ["w07"]


def test_of_a_large_one_nobody_is_asked_who_can_offer_nothing() -> None:
    assert Fleet().asked() == []


def test_those_with_most_free_memory_are_asked_if_it_is_enough() -> None:
    fleet = Fleet()
    fleet.report(*(worker(f"w{n:02}", gib=gib) for n, gib in enumerate((3.5, 4, 5, 6, 7, 8, 5))))
    assert fleet.asked() == ["w02", "w03", "w04", "w05"]
    fleet.report(full("w03"), full("w04"), full("w05"))
    assert fleet.asked() == ["w01", "w02", "w06"]


def test_of_equals_the_first_by_name_are_asked_and_those_that_are_not_able_are_passed_over() -> None:
    fleet = Fleet()
    fleet.report(*(worker(f"w{n:02}") for n in range(7)))
    assert fleet.asked() == ["w00", "w01", "w02", "w03"]
    assert len(fleet.asked()) == FEW
    assert fleet.asked(able=lambda worker: worker.worker != "w01") == ["w00", "w02", "w03", "w04"]


def test_those_whose_victims_are_cheapest_for_their_size_are_asked() -> None:
    fleet = Fleet()
    fleet.report(*(full(f"w{n:02}", f"m{n}", pinned=False) for n in range(7, 1, -1)))
    fleet.report(full("w08", "m0", pinned=False, gib=2), full("w09", "m1", pinned=False, gib=16))
    # w08 is cheap and too small.
    assert fleet.asked() == ["w02", "w03", "w04", "w09"]
    assert fleet.asked(able=lambda worker: worker.worker > "w02") == ["w03", "w04", "w05", "w09"]


def test_victims_that_make_exactly_the_room_are_enough() -> None:
    fleet = Fleet()
    fleet.report(full("w00", "m1", pinned=False, gib=4), full("w01", "m1", pinned=False, gib=3.5))
    assert fleet.asked() == ["w00"]


def test_those_whose_turns_lasted_longest_are_asked_for_an_overdue_model_only() -> None:
    fleet = Fleet()
    fleet.report(*(full(f"w{n:02}", "wanted", pinned=False, served_s=float(n)) for n in range(1, 7)))
    fleet.report(full("w09", "wanted", pinned=False, gib=2, served_s=99.0))
    assert fleet.asked() == []
    assert fleet.asked(overdue=True) == ["w03", "w04", "w05", "w06"]
    assert fleet.asked(overdue=True, able=lambda worker: worker.worker < "w05") == ["w01", "w02", "w03", "w04"]


def test_all_whose_hosts_keep_the_weights_are_asked_whatever_room_they_have() -> None:
    fleet = Fleet()
    fleet.report(*(full(f"w{n:02}", cached=("a",)) for n in range(6)), full("w07", cached=("b",)))
    assert fleet.asked() == [f"w{n:02}" for n in range(6)]
    assert fleet.asked(able=lambda worker: worker.worker == "w05") == ["w05"]


def test_each_reason_has_its_own_few() -> None:
    fleet = Fleet()
    fleet.report(*(worker(f"w{n:02}") for n in range(5)))
    fleet.report(*(full(f"w{n:02}", "m1", pinned=False) for n in range(5, 10)))
    fleet.report(*(full(f"w{n:02}", "wanted", pinned=False) for n in range(10, 15)))
    fleet.report(full("w20", cached=("a",)))
    assert fleet.asked() == ["w00", "w01", "w02", "w03", "w05", "w06", "w07", "w08", "w20"]
    assert len(fleet.asked(overdue=True)) == 3 * FEW + 1


def test_who_changes_is_looked_at_anew_and_who_stops_loads_or_is_gone_is_not_asked() -> None:
    fleet = Fleet(MANY + 1)
    loading = resident("kept", 1, ResidencyState.LOADING)
    for gone in (full("w00"), worker("w00", draining=True), worker("w00", loading)):
        fleet.report(worker("w00"))
        assert fleet.asked() == ["w00"]
        fleet.report(gone)
        assert fleet.asked() == []
    fleet.report(worker("w00"), worker("w01"))
    assert fleet.asked() == ["w00", "w01"]
    fleet.board.lose("w00")
    fleet.list.changed("w00")
    assert fleet.asked() == ["w01"]
    assert fleet.asked() == ["w01"]


def test_some_that_stop_hide_none_of_the_others() -> None:
    fleet = Fleet()
    fleet.report(*(worker(f"w{n:02}", draining=n > 2) for n in range(MANY)))
    assert fleet.asked() == ["w00", "w01", "w02"]


def test_a_worker_leaves_every_order_it_was_in() -> None:
    fleet = Fleet()
    everything = resident("m1", 4), resident("wanted", 4)
    fleet.report(worker("w00", *everything, gib=12))
    assert fleet.asked(overdue=True) == ["w00"]
    fleet.report(full("w00"))
    assert fleet.asked(overdue=True) == []
    fleet.report(worker("w00", *everything, gib=12))
    assert fleet.asked(overdue=True) == ["w00"]


def test_a_model_is_as_large_as_on_the_gpus_where_it_is_smallest() -> None:
    """Each worker's own offer has its own size; nobody is left out who might fit."""
    fleet = Fleet()
    small = replace(fleet.board.facts["a"].declared, footprint_bytes=2 * GIB)
    facts = fleet.board.facts["a"]
    fleet.board.facts = {**fleet.board.facts, "a": replace(facts, measured={**facts.measured, "Other": small})}
    other = worker("w00", gib=2)
    fleet.report(replace(other, gpu=replace(other.gpu, name="Other")), worker("w01", gib=1.5))
    assert fleet.asked() == ["w00"]


def test_where_loading_stops_a_gpu_busy_ones_are_asked_last() -> None:
    for tuning, expected in (
        (RULES, ["w00", "w01", "w02", "w03"]),
        (replace(RULES, overlap=False), ["w00", "w04", "w05", "w06"]),
    ):
        fleet = Fleet(tuning=tuning)
        fleet.report(*(worker(f"w{n:02}", resident("kept", 4, running=1, pinned=True), gib=16 - n) for n in range(4)))
        fleet.report(*(worker(f"w{n:02}", gib=12 - n) for n in range(4, 7)))
        assert fleet.asked() == expected


def test_where_loading_stops_a_gpu_a_busy_one_is_asked_for_its_victims_and_turns_last() -> None:
    idle = [resident("m1", 8), resident("wanted", 8)]
    for place, overdue in ((0, False), (1, True)):
        fleet = Fleet(tuning=replace(RULES, overlap=False))
        running = resident("kept", 1, running=1)
        fleet.report(worker("w00", idle[place], running, gib=9, served_s=99.0))
        fleet.report(*(worker(f"w{n:02}", idle[place], served_s=1.0) for n in range(1, 6)))
        assert fleet.asked(overdue=overdue) == ["w01", "w02", "w03", "w04"]

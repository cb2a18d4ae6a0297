"""What a load on one worker would take: who has to go, what that costs, and when only time is in the way."""

from dataclasses import replace

import pytest

from affinity.fleet import GIB, Demand, ModelFacts, Refusal, ResidencyState, WorkerReport
from affinity.policy.alarms import Alarms
from affinity.policy.board import Board
from affinity.policy.offers import LEAST_YOUNG_S, Offer, Offers, Room
from affinity.policy.tuning import Tuning
from affinity.policy.worth import Worth
from tests.support.policy_fleets import LOAD_S, NOW, RULES, asked, known, resident, waiting, worker

LOADING, DRAINING = ResidencyState.LOADING, ResidencyState.DRAINING
BLOCKING = replace(RULES, overlap=False)
QUEUE = waiting("a", 1.0)
OVERDUE = waiting("a", RULES.overdue_loads * LOAD_S)
PAID_S = RULES.amortised_loads * LOAD_S
B_COSTS, X_COSTS = LOAD_S * 6 / 7, LOAD_S * 60 / 61
"""Of what is asked for 0.1 and 1.0 times a second, in a minute."""


class Desk:
    """Offers of a few workers, and the alarms they set."""

    def __init__(
        self,
        *workers: WorkerReport,
        queues: tuple[Demand, ...] = (),
        facts: dict[str, ModelFacts] | None = None,
        tuning: Tuning = RULES,
    ) -> None:
        self.board, self.alarms = Board(facts or known(a=4, b=4, c=4, x=4), tuning.overlap), Alarms()
        self.board.now = NOW
        self.offers = Offers(self.board, Worth(self.board, tuning), tuning, self.alarms)
        for each in workers:
            self.board.report(each)
        for demand in (asked("b", 0.1), asked("x", 1.0), *queues):
            self.board.ask(demand)

    def on(self, at: WorkerReport, demand: Demand = QUEUE, *, further: bool = False) -> Offer | None:
        return self.offers.on(at, demand, further)

    def rung(self) -> tuple[float | None, set[str], set[str]]:
        """The next alarm, and whose it is."""
        at = self.alarms.next_at
        return (at, *self.alarms.ring(at if at is not None else NOW))


def queued(model: str, rate: float = 0.0) -> Demand:
    return waiting(model, 0.5, rate=rate)


# -- one worker's offer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free_gib", [4, 5])
def test_a_model_that_fits_is_offered_at_its_load_time(free_gib: int) -> None:
    there = worker("w1", resident("x", 8 - free_gib))
    assert Desk(there).on(there) == Offer(there, 4 * GIB, (), False, LOAD_S, 0.0, free_gib * GIB)


@pytest.mark.parametrize("state", list(ResidencyState))
def test_what_is_there_in_any_state_is_not_loaded_once_more(state: ResidencyState) -> None:
    there = worker("w1", resident("x", 1), resident("a", state=state), gib=24)
    assert Desk(there).on(there) is None


def test_a_refusal_is_waited_out() -> None:
    there = worker("w1", refusals=(Refusal("a", NOW + 5, "failed", ""), Refusal("b", NOW + 3, "failed", "")))
    desk = Desk(there)
    assert desk.on(there) is None
    assert desk.rung() == (NOW + 5, {"a"}, set())
    desk.board.now = NOW + 5
    assert desk.on(there) is not None


def test_the_cheapest_victims_go_and_only_they_are_counted() -> None:
    there = worker("w1", resident("x"), resident("b"))
    assert Desk(there).on(there) == Offer(there, 4 * GIB, ("b",), False, LOAD_S, pytest.approx(B_COSTS), 0)


@pytest.mark.parametrize(
    "kept",
    [
        resident("x", 8, running=1),
        resident("x", 8, pinned=True),
        resident("x", 8, LOADING),
        resident("x", 8, DRAINING),
        resident("x", 8, loaded_s=LOAD_S - 0.1),
    ],
)
def test_what_runs_loads_leaves_is_pinned_or_fresh_makes_no_room(kept: object) -> None:
    there = worker("w1", kept)  # type: ignore[arg-type]
    assert Desk(there).on(there) is None
    assert Desk(there).offers.idle(there) == []


def test_a_fresh_resident_may_go_once_it_is_as_old_as_its_load_took() -> None:
    fresh = worker("w1", resident("x", 8, loaded_s=1.0))
    desk = Desk(fresh)
    assert desk.on(fresh) is None
    assert desk.rung() == (NOW + LOAD_S - 1.0, set(), {"w1"})
    desk.board.now = NOW + LOAD_S - 1.0
    assert desk.on(fresh) is not None


def test_a_model_that_loads_in_no_time_stays_a_moment_all_the_same() -> None:
    fresh = worker("w1", resident("x", 8, loaded_s=0.0))
    desk = Desk(fresh, facts=known(load_s=0.0, a=4, x=8))
    assert desk.on(fresh) is None
    assert desk.rung() == (NOW + LEAST_YOUNG_S, set(), {"w1"})


def test_a_resident_that_nobody_knows_may_go_however_fresh() -> None:
    there = worker("w1", resident("strange", 8, loaded_s=0.0))
    offer = Desk(there).on(there)
    assert offer is not None
    assert offer.victims == ("strange",)


# -- turns -------------------------------------------------------------------------------------------------------------


def test_what_is_waited_for_goes_last_and_only_for_an_overdue_job_on_a_worker_that_has_paid() -> None:
    there = worker("w1", resident("x", 4), resident("c", 4), served_s=PAID_S)
    desk = Desk(there, queues=(queued("c"),), facts=known(a=8, c=4, x=4))
    assert desk.on(there, OVERDUE) == Offer(there, 8 * GIB, ("x", "c"), True, LOAD_S, pytest.approx(X_COSTS), 0)
    assert desk.on(there, OVERDUE, further=True) is None
    hurried = replace(there, served_s=PAID_S - 0.1)
    assert desk.on(hurried, OVERDUE) is None
    assert desk.rung() == (None, set(), set()), "time alone changes nothing: it has to serve"


def test_a_job_that_is_not_overdue_yet_ends_a_turn_when_it_is() -> None:
    there = worker("w1", resident("c", 8), served_s=PAID_S)
    desk = Desk(there, queues=(queued("c"),))
    early = waiting("a", RULES.overdue_loads * LOAD_S - 2.0)
    assert desk.on(there, early) is None
    assert desk.rung() == (NOW + 2.0, {"a"}, set())


def test_a_turn_is_left_alone_where_what_nobody_waits_for_makes_the_room() -> None:
    there = worker("w1", resident("x", 4), resident("c", 4), served_s=PAID_S)
    offer = Desk(there, queues=(queued("c"),)).on(there, OVERDUE)
    assert offer is not None
    assert (offer.victims, offer.ends_turn) == (("x",), False)


def test_a_gpu_that_loading_stops_serves_first_what_is_ready_and_waited_for() -> None:
    there = worker("w1", resident("c", 4), served_s=PAID_S)
    for tuning, demand, offered in ((RULES, QUEUE, True), (BLOCKING, QUEUE, False), (BLOCKING, OVERDUE, True)):
        assert bool(Desk(there, queues=(queued("c"),), tuning=tuning).on(there, demand)) is offered
    for idle in (worker("w1", resident("x")), worker("w1", resident("c", state=DRAINING))):
        assert Desk(idle, queues=(queued("c"),), tuning=BLOCKING).on(idle) is not None


# -- the best of several -----------------------------------------------------------------------------------------------


def test_least_harm_is_no_turn_ended_then_the_least_cost_an_idle_worker_the_emptiest_gpu_the_first_name() -> None:
    idle, busy = worker("w2"), worker("w0", resident("x", running=1))
    best_first = [
        Offer(idle, 1, (), False, 1.0, 1.5, 0),
        Offer(idle, 1, (), False, 2.0, 1.0, 9),
        Offer(idle, 1, (), False, 1.0, 2.0, 8),
        Offer(worker("w3"), 1, (), False, 3.0, 0.0, 8),
        Offer(busy, 1, (), False, 3.0, 0.0, 10),
        Offer(idle, 1, (), True, 0.0, 0.0, 99),
    ]
    mixed = [best_first[place] for place in (3, 5, 1, 0, 4, 2)]
    assert sorted(mixed, key=Offer.rank) == best_first


# -- what could be had at all ------------------------------------------------------------------------------------------


def test_a_worker_could_offer_what_is_free_then_what_nobody_waits_for_then_all_that_is_idle() -> None:
    there = worker("w1", resident("x", 4), resident("b", 2), resident("c", 8), resident("k", 1, pinned=True), gib=16)
    room = Desk(there, queues=(queued("c"),)).offers.room(there)
    assert (room.free_bytes, room.spare_bytes, room.most_bytes) == (1 * GIB, 7 * GIB, 15 * GIB)
    assert room.least_s == pytest.approx(B_COSTS)
    assert room.price_s == pytest.approx(X_COSTS / (4 * GIB)), "dearer as a whole, but not for its size"


def test_a_worker_without_anything_to_evict_has_no_price() -> None:
    full = worker("w1", resident("k", 8, pinned=True))
    assert Desk(full).offers.room(full) == Room(full, 0, 0, 0, 0.0, 0.0, False)
    nothing = worker("w1", resident("x", 0))
    assert Desk(nothing).offers.room(nothing).price_s == pytest.approx(X_COSTS), "one byte at least"


@pytest.mark.parametrize(
    ("free", "spare", "most", "below_s", "may"),
    [
        (4, 4, 4, 0.0, True),
        (3, 4, 4, 2.1, True),
        (3, 4, 4, 2.0, False),  # It costs no less than what is known already.
        (3, 3, 4, 0.0, False),  # Somebody waits for it, and a is not overdue.
        (3, 3, 3, 9.0, False),
    ],
)
def test_a_worker_is_worth_asking_again_where_it_has_room_or_cheaper_victims(
    free: int, spare: int, most: int, below_s: float, may: bool
) -> None:
    there = worker("w1", served_s=PAID_S)
    room = Room(there, free * GIB, spare * GIB, most * GIB, 2.0, 0.0, False)
    assert Desk(there).offers.may_be_had(room, QUEUE, False, below_s) is may


def test_a_worker_whose_turn_may_end_is_worth_asking_for_a_first_copy_and_not_for_a_further_one() -> None:
    there = worker("w1", served_s=PAID_S)
    room = Room(there, 3 * GIB, 3 * GIB, 4 * GIB, 2.0, 0.0, False)
    assert Desk(there).offers.may_be_had(room, OVERDUE, False, 0.0)
    assert not Desk(there).offers.may_be_had(room, OVERDUE, True, 0.0)


def test_a_gpu_that_has_to_serve_first_is_not_worth_asking_however_much_room_it_has() -> None:
    there = worker("w1", resident("c"), served_s=PAID_S)
    for queues, demand, may in (((queued("c"),), QUEUE, False), ((queued("c"),), OVERDUE, True), ((), QUEUE, True)):
        desk = Desk(there, queues=queues, tuning=BLOCKING)
        room = Room(there, 4 * GIB, 8 * GIB, 8 * GIB, 0.0, 0.0, desk.offers.room(there).serves_first)
        assert desk.offers.may_be_had(room, demand, False, 1.0) is may


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_by_hand_what_nobody_waits_for_goes_first_and_then_the_cheapest_whatever_its_age() -> None:
    residents = resident("c", 4, loaded_s=0.0), resident("x", 4, loaded_s=0.0), resident("b", 4, loaded_s=0.0)
    there = worker("w1", *residents, gib=12)
    for size, victims, lost_s, ends_turn in (
        (4, ("b",), B_COSTS, False),
        (8, ("b", "x"), B_COSTS + X_COSTS, False),
        (12, ("b", "x", "c"), B_COSTS + X_COSTS, True),
    ):
        desk = Desk(there, queues=(queued("c"),), facts=known(a=size, b=4, c=4, x=4))
        offer = desk.offers.by_hand(there, "a", residents)
        assert offer == Offer(there, size * GIB, victims, ends_turn, LOAD_S, pytest.approx(lost_s), 0)
        assert desk.offers.by_hand(there, "a", residents[:0]) is None
    assert Desk(there, facts=known(a=13, b=4, c=4, x=4)).offers.by_hand(there, "a", residents) is None

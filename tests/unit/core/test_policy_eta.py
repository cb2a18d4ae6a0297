"""The estimate of a start, in seconds, exactly: batches of four take 1 s, loads 4 s, unless a test says otherwise."""

from dataclasses import replace

import pytest

from affinity.fleet import Demand, FleetView, ModelFacts, ResidencyState, WorkerReport
from affinity.policy.eta import GUESSED_SPREAD, MEASURED_SPREAD, MOST_PLANS, Eta, NoEta, forecast
from affinity.policy.tuning import Tuning
from tests.support.policy_fleets import LOAD_S, NOW, RULES, TYPE, asked, known, resident, waiting, worker
from tests.support.steps import through

LOADING, DRAINING = ResidencyState.LOADING, ResidencyState.DRAINING
BLOCKING = replace(RULES, overlap=False)
BATCHES = MOST_PLANS // 2
"""As far ahead as is looked: a plan starts a batch, the next one waits for its end."""


def eta(
    *workers: WorkerReport,
    demand: list[Demand],
    facts: dict[str, ModelFacts] | None = None,
    ahead: int = 0,
    created_s: float = 1.0,
    claims: dict[str, str] | None = None,
    tuning: Tuning = RULES,
    enough_after: int | None = None,
) -> Eta | NoEta:
    """Of a job of ``a``."""
    fleet, queues = FleetView.of(workers, claims), {each.model: each for each in demand}
    steps = forecast("a", ahead, NOW - created_s, fleet, queues, facts or known(a=4, b=4, x=4), NOW, tuning)
    return through(steps, enough_after)


def start(found: Eta | NoEta) -> float:
    assert isinstance(found, Eta)
    return found.start_in_s


def evenly(model: str, jobs: int, first_s: float, last_s: float) -> Demand:
    """Jobs that came at even intervals, the first and the last one so long ago."""
    return Demand(model, jobs, NOW - first_s, jobs * (NOW - (first_s + last_s) / 2))


# -- what runs, loads or leaves now ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ran_s", "left_s"),
    [(0.0, 2.0), (0.75, 1.25), (1.5, 1.0), (100.0, 1.0)],  # Half a batch at least: long ones are long.
)
def test_a_batch_that_runs_has_the_rest_of_its_mean_left_and_never_less_than_half_of_it(
    ran_s: float, left_s: float
) -> None:
    busy = worker("w1", resident("a"), resident("b", running=1, used_s=ran_s))
    found = eta(busy, demand=[waiting("a", 1.0)], facts=known(exec_s=2.0, a=4, b=4))
    assert isinstance(found, Eta)
    assert (found.low_s, found.start_in_s) == (0.0, left_s)
    assert found.high_s == 2 * left_s * MEASURED_SPREAD


@pytest.mark.parametrize(("since_s", "left_s"), [(0.0, 4.0), (1.5, 2.5), (60.0, 0.0)])
def test_a_load_that_runs_has_the_rest_of_its_time_left_and_never_less_than_nothing(
    since_s: float, left_s: float
) -> None:
    found = eta(worker("w1", resident("a", state=LOADING, loaded_s=since_s)), demand=[waiting("a", 1.0)])
    assert start(found) == left_s
    assert isinstance(found, Eta)
    assert found.assuming[0] == "w1 loads it and then has its turn"


def test_a_worker_that_runs_or_loads_what_nobody_knows_is_not_counted_on() -> None:
    for other in (resident("strange", running=1), resident("strange", state=LOADING)):
        found = eta(worker("w1", resident("a"), other), demand=[waiting("a", 1.0)], tuning=BLOCKING)
        assert found is NoEta.UNFORESEEABLE


def test_what_nobody_knows_hides_nothing_that_loads_beside_it() -> None:
    arriving = worker("w1", resident("strange"), resident("a", state=LOADING, loaded_s=3.0))
    assert start(eta(arriving, demand=[waiting("a", 1.0)])) == 1.0


def test_what_drains_is_as_good_as_gone_and_its_room_as_good_as_free() -> None:
    assert start(eta(worker("w1", resident("x", 8, DRAINING)), demand=[waiting("a", 1.0)])) == LOAD_S
    assert start(eta(worker("w1", resident("a", 8, DRAINING)), demand=[waiting("a", 1.0)])) == LOAD_S


@pytest.mark.parametrize(
    ("claims", "start_in_s"),
    [
        ({"a": "w2"}, 4.0),
        ({"a": "gone"}, 4.0),  # Somebody else loads it.
        ({"strange": "w1"}, 4.0),
        ({"x": "w1"}, 8.0),  # The only one with room for a has that to load first.
    ],
)
def test_a_claim_is_a_load_that_begins_now_where_its_worker_and_its_model_are_known(
    claims: dict[str, str], start_in_s: float
) -> None:
    other = worker("w2", gib=4) if "a" in claims else worker("w2", gib=2)
    assert start(eta(worker("w1"), other, demand=[waiting("a", 1.0)], claims=claims)) == start_in_s


def test_a_worker_that_has_begun_the_load_it_claimed_loads_once() -> None:
    arriving = worker("w1", resident("a", state=LOADING, loaded_s=3.0))
    assert start(eta(arriving, demand=[waiting("a", 1.0)], claims={"a": "w1"})) == 1.0


@pytest.mark.parametrize(
    ("cached", "reload_s", "start_in_s"),
    [(("a",), 0.5, 0.5), (("a",), None, 4.0), ((), 0.5, 4.0), (("x",), 0.5, 4.0)],
)
def test_weights_that_the_host_keeps_are_copied_if_it_is_known_how_long_that_takes(
    cached: tuple[str, ...], reload_s: float | None, start_in_s: float
) -> None:
    facts = known(a=4)
    measured = replace(facts["a"].declared, reload_s=reload_s)
    facts["a"] = replace(facts["a"], measured={TYPE: measured})
    assert start(eta(worker("w1", cached=cached), demand=[waiting("a", 1.0)], facts=facts)) == start_in_s


# -- in which order the queues get on ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "ahead", "start_in_s"), [(12, 0, 0.0), (12, 3, 0.0), (12, 4, 1.0), (12, 11, 2.0), (5, 4, 1.0)]
)
def test_jobs_start_a_batch_at_a_time(jobs: int, ahead: int, start_in_s: float) -> None:
    found = eta(worker("w1", resident("a")), demand=[waiting("a", *[1.0] * jobs)], ahead=ahead)
    assert start(found) == start_in_s


@pytest.mark.parametrize(
    ("ahead", "other_s", "start_in_s"),
    [(4, 8.1, 2.0), (4, 7.9, 1.0), (8, 4.1, 3.0), (8, 3.9, 2.0)],
)
def test_what_is_left_of_a_queue_is_as_old_as_if_its_jobs_came_evenly(
    ahead: int, other_s: float, start_in_s: float
) -> None:
    """Jobs of a came 12, 11, ... 1 s ago: after a batch, the oldest is 8 s old, then 4 s. b has one in between."""
    holder = worker("w1", resident("a"), resident("b"))
    found = eta(holder, demand=[evenly("a", 12, 12.0, 1.0), waiting("b", other_s)], ahead=ahead)
    assert start(found) == start_in_s


def test_of_two_jobs_the_second_is_as_old_as_it_is() -> None:
    """One at a time: the older one of a, then b's, then the younger one of a."""
    holder, facts = worker("w1", resident("a"), resident("b")), known(max_batch=1, a=4, b=4)
    assert start(eta(holder, demand=[evenly("a", 2, 8.0, 2.0), waiting("b", 4.0)], facts=facts, ahead=1)) == 2.0


def test_a_holder_that_comes_too_late_for_one_queue_serves_another_at_once() -> None:
    """Both would serve b, the older one; w1 is first, and w2 has nothing to wait for."""
    holders = worker("w1", resident("b")), worker("w2", resident("b"), resident("a"))
    assert start(eta(*holders, demand=[waiting("a", 1.0), waiting("b", 2.0)])) == 0.0


def test_a_queue_that_is_given_up_is_nobody_elses_end() -> None:
    demand = [waiting("a", 1.0), waiting("b", RULES.misfit_s)]
    assert start(eta(worker("w1"), demand=demand, facts=known(a=4, b=9))) == LOAD_S
    assert eta(worker("w1"), demand=[waiting("a", RULES.misfit_s)], facts=known(a=9)) is NoEta.UNFORESEEABLE


def test_two_holders_share_a_queue_and_a_third_one_gets_none_of_it() -> None:
    holders = [worker(name, resident("a")) for name in ("w1", "w2", "w3")]
    queue = waiting("a", *[1.0] * 16)
    assert [start(eta(*holders[:2], demand=[queue], ahead=ahead)) for ahead in (7, 8, 15)] == [0.0, 1.0, 1.0]
    found = eta(*holders, demand=[waiting("a", *[1.0] * 8)], ahead=7)
    assert isinstance(found, Eta)
    assert (found.start_in_s, found.assuming[0]) == (0.0, "w2 holds it and has its turn")


def test_the_range_is_from_nobody_before_it_to_everybody_and_wider_where_times_are_guessed() -> None:
    """A batch of b runs for 0.6 s more; of b's queued jobs, one is older than a's, and all of one batch."""
    busy = worker("w1", resident("a"), resident("b", running=1, used_s=0.375))
    facts = known(a=4, b=4)
    younger = [waiting("a", 1.0), waiting("b", 0.5)]
    older = [waiting("a", 1.0), waiting("b", 1.5)]
    for demand, start_in_s in ((younger, 0.625), (older, 1.625)):
        found = eta(busy, demand=demand, facts=facts)
        assert isinstance(found, Eta)
        assert (found.low_s, found.start_in_s) == (0.0, start_in_s)
        assert found.high_s == 2.25 * MEASURED_SPREAD
    guessed = {name: replace(each, measured={}) for name, each in facts.items()}
    found = eta(busy, demand=older, facts=guessed)
    assert isinstance(found, Eta)
    assert found.high_s == 2.25 * GUESSED_SPREAD
    assert found.assuming[1:] == (
        "times are guesses: the model was never measured on this type of GPU",
        "jobs of a model start in order, up to 4 at once, and none that arrives goes first",
    )


def test_a_load_takes_a_share_less_at_best() -> None:
    found = eta(worker("w1"), demand=[waiting("a", 1.0), waiting("b", 2.0)])
    assert isinstance(found, Eta)
    assert (found.low_s, found.start_in_s) == (LOAD_S / MEASURED_SPREAD, 2 * LOAD_S)
    assert found.assuming[1] == "times are as measured on this type of GPU"


def test_at_worst_a_queue_has_to_pay_for_an_eviction_as_if_it_had_just_come() -> None:
    """Asked for every second, x costs 60 / 61 of its load time. The queue has waited for long enough: it may go now."""
    full, demand = worker("w1", resident("x", 8)), [waiting("a", 10.0), asked("x", 1.0)]
    pays_after_s = RULES.first_rent * LOAD_S * 60 / 61
    found = eta(full, demand=demand, facts=known(a=8, x=8))
    assert isinstance(found, Eta)
    assert found.start_in_s == LOAD_S
    assert found.high_s == pytest.approx((pays_after_s + LOAD_S) * MEASURED_SPREAD)
    late = eta(full, demand=[waiting("a", 1.0), asked("x", 1.0)], facts=known(a=8, x=8))
    assert start(late) == pytest.approx(pays_after_s - 1.0 + LOAD_S)
    generous = replace(RULES, first_rent=0.0)
    assert (
        start(eta(full, demand=[waiting("a", 1.0), asked("x", 1.0)], facts=known(a=8, x=8), tuning=generous)) == LOAD_S
    )


# -- loads and turns ---------------------------------------------------------------------------------------------------


def test_a_load_begins_beside_what_runs_or_after_it_as_the_gpus_can() -> None:
    busy = worker("w1", resident("b", running=1, used_s=0.375))
    assert start(eta(busy, demand=[waiting("a", 1.0)])) == LOAD_S
    assert start(eta(busy, demand=[waiting("a", 1.0)], tuning=BLOCKING)) == 0.625 + LOAD_S
    assert start(eta(worker("w1"), demand=[waiting("a", 1.0)], tuning=BLOCKING)) == LOAD_S


def test_where_loading_stops_the_gpu_its_residents_wait_for_the_end_of_the_load() -> None:
    arriving = worker("w1", resident("a"), resident("x", state=LOADING, loaded_s=1.0))
    assert start(eta(arriving, demand=[waiting("a", 1.0)])) == 0.0
    assert start(eta(arriving, demand=[waiting("a", 1.0)], tuning=BLOCKING)) == LOAD_S - 1.0


def test_a_claimed_load_stops_the_gpu_as_one_that_runs_does() -> None:
    """And a further copy elsewhere is weighed against it."""
    holders = worker("w1", resident("a")), worker("w2")
    found = eta(*holders, demand=[waiting("a", 1.0)], claims={"x": "w1"}, tuning=BLOCKING)
    assert start(found) == LOAD_S


@pytest.mark.parametrize(("served_s", "batches"), [(39.0, 0), (38.5, 1), (37.5, 2)])
def test_a_turn_goes_on_until_the_batches_served_have_paid_for_its_load(served_s: float, batches: int) -> None:
    """The batch that runs ends in half a second and counts for a whole one; the turn has to last 40 s."""
    turn = worker("w1", resident("b", 8, running=4, used_s=0.5), served_s=served_s)
    demand = [waiting("a", 1000.0), waiting("b", *[0.5] * 400)]
    found = eta(turn, demand=demand, facts=known(a=8, b=8))
    assert start(found) == 0.5 + batches + LOAD_S


def test_only_the_time_a_batch_takes_counts_for_a_turn_not_the_time_before_it() -> None:
    idle = worker("w1", resident("b", 8, used_s=1000.0), served_s=37.5)
    demand = [waiting("a", 1000.0), waiting("b", *[0.5] * 400)]
    assert start(eta(idle, demand=demand, facts=known(a=8, b=8))) == 3.0 + LOAD_S


def test_a_turn_that_has_just_begun_lasts_as_long_as_its_own_load_takes_to_be_paid_for() -> None:
    turn = worker("w1", resident("b", 8, LOADING, loaded_s=3.0), served_s=1e6)
    demand = [waiting("a", 1000.0), waiting("b", *[0.5] * 400)]
    assert start(eta(turn, demand=demand, facts=known(a=8, b=8))) == 1.0 + 40.0 + LOAD_S


def test_a_resident_that_has_just_arrived_is_no_victim_before_it_has_been_there_for_its_load_time() -> None:
    arriving = worker("w1", resident("x", 8, LOADING, loaded_s=3.0))
    assert start(eta(arriving, demand=[waiting("a", 1.0)], facts=known(a=8, x=8))) == 1.0 + LOAD_S + LOAD_S


def test_a_load_takes_the_room_that_the_model_needs() -> None:
    """x is loaded first and leaves no room for a: that takes an eviction, once x is old enough."""
    demand = [waiting("a", 1.0), waiting("x", 2.0)]
    assert start(eta(worker("w1"), demand=demand, facts=known(a=4, x=4))) == 2 * LOAD_S
    assert start(eta(worker("w1"), demand=demand, facts=known(a=5, x=4))) == 3 * LOAD_S


def test_whom_a_load_evicts_has_to_be_loaded_again() -> None:
    """b is overdue and takes a's place: a comes back once b has been there for a load time."""
    turn = worker("w1", resident("a", 8), served_s=1e6)
    found = eta(turn, demand=[waiting("a", 1.0), waiting("b", 1e5)], facts=known(a=8, b=8))
    assert start(found) == 3 * LOAD_S


# -- further than is looked ahead --------------------------------------------------------------------------------------


def test_a_job_far_down_its_own_queue_starts_at_the_pace_of_its_beginning() -> None:
    found = eta(worker("w1", resident("a")), demand=[waiting("a", *[1.0] * 2000)], ahead=1999)
    assert start(found) == pytest.approx(BATCHES * 2000 / (4 * BATCHES))
    assert isinstance(found, Eta)
    assert found.assuming[0] == "the queue gets on as it does at first"
    assert found.high_s == found.start_in_s * GUESSED_SPREAD, "no worker, so none whose times were measured"


@pytest.mark.parametrize(
    ("others", "created_s", "before"),
    [
        (evenly("b", 4000, 8000.0, 4000.0), 1.0, 4000),
        (evenly("b", 4000, 8000.0, 4000.0), 4500.0, 3500),
        (evenly("b", 4000, 8000.0, 7999.5), 7999.75, 2000),
        (waiting("b", *[9.0] * 4000), 1.0, 4000),
    ],
)
def test_a_job_whose_queue_has_not_begun_starts_after_those_of_others_that_came_before_it(
    others: Demand, created_s: float, before: int
) -> None:
    """Four of them start in a second."""
    holder = worker("w1", resident("a", 1), resident("b", 1), resident("x", 1))
    found = eta(holder, demand=[waiting("a", created_s), others, asked("x", 1.0)], created_s=created_s)
    assert start(found) == pytest.approx(before / 4, rel=1e-4)


def test_where_nothing_starts_as_far_as_is_looked_the_jobs_before_it_take_that_time_each() -> None:
    """Loads of other models end one after the other, and a's last of all."""
    arriving = [worker(f"w{n}", resident("x", 8, LOADING, loaded_s=-n, pinned=True)) for n in range(MOST_PLANS)]
    last = worker("last", resident("a", state=LOADING, loaded_s=-1000.0))
    found = eta(*arriving, last, demand=[evenly("a", 3, 30.0, 10.0)], ahead=2, created_s=10.0)
    assert start(found) == pytest.approx((LOAD_S + MOST_PLANS - 1) * (1 + 3))


# -- where the time is up ----------------------------------------------------------------------------------------------


def test_told_to_end_before_anything_has_started_it_says_that_there_was_no_time() -> None:
    for plans in (1, 2):
        found = eta(worker("w1"), demand=[waiting("a", 1.0)], enough_after=plans)
        assert found is NoEta.OUT_OF_TIME


def test_told_to_end_while_its_queue_gets_on_it_goes_by_the_pace_until_there() -> None:
    """Batch after batch of four, one second each: a plan starts one, the next waits for its end."""
    queue = [waiting("a", *[1.0] * 400)]
    found = eta(worker("w1", resident("a")), demand=queue, ahead=399, enough_after=20)
    assert isinstance(found, Eta)
    seen_s = 9.0
    assert start(found) == pytest.approx(seen_s * 400 / (4 * (seen_s + 1)))
    assert found.assuming[0] == "the queue gets on as it does at first"
    assert found.assuming[-1] == "the range is a guess: there was no time to look at it"
    assert (found.low_s, found.high_s) == (0.0, start(found) * GUESSED_SPREAD)


def test_told_to_end_once_the_turn_is_known_only_the_range_is_a_guess() -> None:
    """The whole range is looked at by as many steps as an undisturbed forecast takes."""
    busy = worker("w1", resident("a"), resident("b", running=1, used_s=0.375))
    demand = [waiting("a", 1.0), waiting("b", 1.5)]
    whole = eta(busy, demand=demand)
    founds = [eta(busy, demand=demand, enough_after=plans) for plans in range(1, 30)]
    assert founds[-1] == whole
    guessed = [f for f in founds if isinstance(f, Eta) and f.assuming[-1].startswith("the range is a guess")]
    assert guessed
    assert isinstance(whole, Eta)
    assert (guessed[-1].start_in_s, guessed[-1].low_s) == (whole.start_in_s, 0.0)
    assert guessed[-1].high_s == whole.start_in_s * GUESSED_SPREAD

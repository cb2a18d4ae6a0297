"""What loads, evictions and waits cost, in seconds: the numbers behind every decision."""

from dataclasses import replace

import pytest

from affinity.fleet import Measurement, ModelFacts, ResidencyState, WorkerReport
from affinity.policy.board import Board
from affinity.policy.tuning import Tuning
from affinity.policy.worth import Worth
from tests.support.policy_fleets import LOAD_S, NOW, RULES, TYPE, asked, known, resident, waiting, worker

LOADING = ResidencyState.LOADING
BLOCKING = replace(RULES, overlap=False)


def worth(*workers: WorkerReport, facts: dict[str, ModelFacts] | None = None, tuning: Tuning = RULES) -> Worth:
    board = Board(known(a=4, b=4, x=4) if facts is None else facts, tuning.overlap)
    board.now = NOW
    for each in workers:
        board.report(each)
    for demand in (asked("b", 0.1), asked("x", 1.0)):
        board.ask(demand)
    return Worth(board, tuning)


def tiered(reload_s: float | None, load_s: float = LOAD_S) -> dict[str, ModelFacts]:
    """``a`` from disk and from the host's memory."""
    facts = known(load_s=load_s, a=4)["a"]
    return {"a": replace(facts, measured={TYPE: replace(facts.declared, reload_s=reload_s)})}


@pytest.mark.parametrize(
    ("cached", "reload_s", "load_s"), [(("a",), 0.5, 0.5), (("a",), None, 4.0), ((), 0.5, 4.0), (("x",), 0.5, 4.0)]
)
def test_a_load_takes_as_long_as_the_tier_its_weights_lie_on(
    cached: tuple[str, ...], reload_s: float | None, load_s: float
) -> None:
    there = worker("w1", cached=cached)
    assert worth(there, facts=tiered(reload_s)).load_s(there, "a") == load_s


@pytest.mark.parametrize(("reload_s", "least_s"), [(None, 4.0), (0.5, 0.5), (9.0, 4.0)])
def test_no_load_takes_less_than_the_quickest_tier(reload_s: float | None, least_s: float) -> None:
    assert worth(worker("w1"), facts=tiered(reload_s)).least_load_s("a") == least_s


def test_no_load_takes_less_than_on_the_quickest_type_of_gpu_that_is_there() -> None:
    slow, quick = worker("w1"), worker("w2")
    quick = replace(quick, gpu=replace(quick.gpu, name="Quick"))
    facts = known(a=4)
    facts["a"] = replace(facts["a"], measured={TYPE: Measurement(1, 4.0, 1.0), "Quick": Measurement(1, 2.0, 1.0)})
    assert worth(slow, quick, facts=facts).least_load_s("a") == 2.0
    assert worth(slow, facts=facts).least_load_s("a") == 4.0


def test_what_runs_has_the_rest_of_its_mean_left_and_at_least_half_of_it() -> None:
    for ran_s, left_s in ((0.0, 2.0), (0.5, 1.5), (1.5, 1.0), (60.0, 1.0)):
        busy = worker("w1", resident("b"), resident("x", running=1, used_s=ran_s))
        assert worth(busy, facts=known(exec_s=2.0, a=4, b=4, x=4)).residual_s(busy) == left_s
    idle = worker("w1", resident("b"), resident("x", state=LOADING))
    assert worth(idle).residual_s(idle) == 0.0


def test_a_load_is_in_the_way_only_where_the_gpu_can_do_nothing_beside_it() -> None:
    for since_s, left_s in ((1.5, 2.5), (60.0, 0.0)):
        arriving = worker("w1", resident("x", state=LOADING, loaded_s=since_s))
        assert worth(arriving, tuning=BLOCKING).residual_s(arriving) == left_s
        assert worth(arriving).residual_s(arriving) == 0.0


def test_a_model_is_ready_once_it_is_loaded_and_the_gpu_is_free_or_one_after_the_other() -> None:
    """Where a GPU can load while it runs, the longer of both counts, else both."""
    for exec_s, ready_s, blocking_s in ((1.0, 4.0, 4.75), (9.25, 9.0, 13.0)):
        busy, facts = worker("w1", resident("x", running=1, used_s=0.25)), known(exec_s=exec_s, a=4, x=4)
        assert worth(busy, facts=facts).ready_s(busy, "a") == ready_s
        assert worth(busy, facts=facts, tuning=BLOCKING).ready_s(busy, "a") == blocking_s
    idle = worker("w1")
    assert worth(idle).ready_s(idle, "a") == worth(idle, tuning=BLOCKING).ready_s(idle, "a") == 4.0


def test_what_nobody_knows_is_expected_to_take_no_time() -> None:
    """The first that is known counts."""
    odd = worker("w1", resident("strange", running=1), resident("x", running=1, used_s=0.25))
    assert worth(odd).residual_s(odd) == 0.75
    alone = worker("w1", resident("strange", running=1))
    assert worth(alone).residual_s(alone) == 0.0
    arriving = worker("w1", resident("strange", state=LOADING, loaded_s=0.0))
    assert worth(arriving, tuning=BLOCKING).residual_s(arriving) == 0.0


def test_a_victim_costs_its_load_times_the_chance_that_it_is_asked_for_shared_among_its_copies() -> None:
    """b comes 0.1 times a second, 6 times in its minute: 6 chances in 7. x comes 60 times: 60 in 61."""
    one, two = worker("w1", resident("b"), resident("x")), worker("w2", resident("x"))
    assert worth(one).victim_s(one, one.residents[0]) == pytest.approx(4.0 * 6 / 7)
    assert worth(one).victim_s(one, one.residents[1]) == pytest.approx(4.0 * 60 / 61)
    assert worth(one, two).victim_s(one, one.residents[1]) == pytest.approx(4.0 * 60 / 61 / 2)
    long = replace(RULES, memory_s=600.0)
    assert worth(one, tuning=long).victim_s(one, one.residents[0]) == pytest.approx(4.0 * 60 / 61)


def test_a_victim_that_nobody_asks_for_or_knows_costs_nothing() -> None:
    held = worker("w1", resident("a"), resident("strange"))
    assert [worth(held).victim_s(held, each) for each in held.residents] == [0.0, 0.0]


def test_a_resident_that_is_not_counted_as_a_copy_any_more_costs_as_the_last_one_would() -> None:
    leaving = worker("w1", resident("x", state=ResidencyState.DRAINING))
    assert worth(leaving).victim_s(leaving, leaving.residents[0]) == pytest.approx(4.0 * 60 / 61)


@pytest.mark.parametrize(
    ("jobs", "ran_s", "warm_s"),
    [
        ((1,), (0.25,), 0.75),  # It starts when what runs ends.
        ((4,), (0.25,), 0.75),
        ((5,), (0.25,), 1.75),
        ((12,), (0.0, 0.5), (1.0 + 0.5 + 2 * 1.0) / 2),
        ((1,), (0.0, 0.5), 0.75),  # In the mean, not the first of them.
    ],
)
def test_the_last_queued_job_starts_when_the_holders_together_have_worked_off_those_before_it(
    jobs: tuple[int, ...], ran_s: tuple[float, ...], warm_s: float
) -> None:
    holders = [worker(f"w{n}", resident("a", running=1, used_s=ran)) for n, ran in enumerate(ran_s)]
    queue = waiting("a", *[1.0] * jobs[0])
    assert worth(*holders).warm_start_s(queue, holders) == pytest.approx(warm_s)


def test_each_batch_before_the_last_takes_its_time() -> None:
    holder = worker("w1", resident("a", running=1, used_s=0.5))
    costs = worth(holder, facts=known(exec_s=2.0, a=4))
    assert costs.warm_start_s(waiting("a", *[1.0] * 9), [holder]) == 1.5 + 2 * 2.0


def test_a_holder_that_is_still_loading_counts_from_when_it_is_there_and_free() -> None:
    arriving = resident("a", state=LOADING, loaded_s=1.0)
    for holder, warm_s in (
        (worker("w1", arriving), 3.0),
        (worker("w1", arriving, resident("x", running=1, used_s=0.25)), 3.0),
        (worker("w1", replace(arriving, loaded_at=NOW - 99.0), resident("x", running=1, used_s=0.25)), 0.75),
        (worker("w1", resident("a"), resident("b", state=LOADING, loaded_s=1.0)), 0.0),
    ):
        assert worth(holder).warm_start_s(waiting("a", 1.0), [holder]) == warm_s


def test_a_queue_never_starts_before_the_first_of_its_holders_is_free() -> None:
    facts = known(exec_s=1.0, a=4) | known(exec_s=10.0, x=4)
    holders = [worker(f"w{n}", resident("a"), resident("x", running=1, used_s=s)) for n, s in enumerate((0.0, 4.0))]
    assert worth(*holders, facts=facts).warm_start_s(waiting("a", 1.0), holders) == 8.0


def test_the_victim_that_frees_most_bytes_for_least_cost_goes_first_then_the_one_unused_for_longest() -> None:
    residents = [
        resident("x", 4, used_s=900.0),  # Asked for most.
        resident("b", 4, used_s=900.0),
        resident("b2", 8, used_s=0.0),  # Asked for as often as b, and twice as large.
        resident("new", 1, used_s=1.0),
        resident("old", 1, used_s=2.0),
        resident("also old", 1, used_s=2.0),
        resident("empty", 0, used_s=0.5),
    ]
    held = worker("w1", *residents, gib=64)
    costs = worth(held, facts=known(a=4, b=4, b2=8, x=4, new=1, old=1, empty=0) | known(**{"also old": 1}))
    costs._board.ask(asked("b2", 0.1))
    ranked = costs.cheapest_first(held, residents)
    assert [each.model for each, _ in ranked] == ["also old", "old", "new", "empty", "b2", "b", "x"]
    assert [cost_s for _, cost_s in ranked] == [costs.victim_s(held, each) for each, _ in ranked]


def test_the_ablation_evicts_by_last_use_alone() -> None:
    residents = [resident("x", 4, used_s=900.0), resident("b", 4, used_s=1.0), resident("a", 4, used_s=900.0)]
    held = worker("w1", *residents, gib=16)
    ranked = worth(held, tuning=replace(RULES, by_last_use=True)).cheapest_first(held, residents)
    assert [each.model for each, _ in ranked] == ["a", "x", "b"]


def test_a_model_that_takes_nothing_is_a_victim_at_a_cost_of_its_own() -> None:
    held = worker("w1", resident("x", 0))
    [(_, cost_s)] = worth(held).cheapest_first(held, held.residents)
    assert cost_s == pytest.approx(4.0 * 60 / 61)

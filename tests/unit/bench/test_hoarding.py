"""What counts as hoarded, and that the ways and cells are those the decision speaks of."""

import json

import pytest

from bench.hoarding_cells import (
    AT_ONCE_FROM_S,
    FRESH_S,
    OURS,
    STOP_AFTER_S,
    WAYS,
    Cell,
    Kind,
    one_by_one,
    thresholds,
    together,
)
from bench.hoarding_measures import Hold, Log, Ran, hoarded_s, merged, outcome
from bench.hoarding_table import grid_table
from worker import hoarding

CELL = Cell(1.0, 2, 2)


def test_a_job_that_waits_at_a_busy_worker_beside_an_idle_one_is_hoarded():
    runs = [Ran("a", "w1", 0.0, 10.0), Ran("b", "w2", 0.0, 4.0), Ran("c", "w1", 10.0, 11.0)]
    assert hoarded_s([Hold("c", "w1", 1.0, 10.0, started=True)], runs) == {"c": (6.0, 0.0)}, "from 4 on, but it is next"


def test_what_is_not_even_that_workers_next_is_against_the_rule():
    runs = [Ran("a", "w1", 0.0, 4.0), Ran("b", "w1", 4.0, 6.0), Ran("c", "w1", 6.0, 7.0), Ran("d", "w2", 0.0, 1.0)]
    holds = [Hold("b", "w1", 0.0, 4.0, started=True), Hold("c", "w1", 0.0, 6.0, started=True)]
    assert hoarded_s(holds, runs) == {"b": (3.0, 0.0), "c": (5.0, 3.0)}, "c is the next once b runs"


def test_what_is_handed_back_was_never_next():
    runs = [Ran("a", "w1", 0.0, 4.0), Ran("c", "w2", 3.0, 4.0)]
    assert hoarded_s([Hold("c", "w1", 1.0, 2.5, started=False)], runs) == {"c": (1.5, 1.5)}


def test_nothing_is_hoarded_while_every_other_worker_is_busy_or_has_a_job_in_hand():
    runs = [Ran("a", "w1", 0.0, 4.0), Ran("b", "w2", 0.0, 1.0), Ran("d", "w2", 4.0, 5.0)]
    holds = [Hold("c", "w1", 0.5, 4.0, started=True), Hold("d", "w2", 1.0, 4.0, started=True)]
    assert hoarded_s(holds, runs) == {}


def test_a_job_in_the_hands_of_an_idle_worker_is_not_hoarded():
    runs = [Ran("a", "w1", 0.0, 1.0), Ran("b", "w1", 3.0, 4.0), Ran("d", "w2", 4.0, 5.0)]
    assert hoarded_s([Hold("b", "w1", 1.0, 3.0, started=True)], runs) == {}


def test_one_idle_worker_among_several_is_enough():
    runs = [Ran("a", "w1", 0.0, 9.0), Ran("b", "w2", 0.0, 9.0), Ran("c", "w3", 0.0, 2.0), Ran("d", "w3", 5.0, 9.0)]
    assert hoarded_s([Hold("e", "w1", 1.0, 8.0, started=False)], runs) == {"e": (3.0, 3.0)}


def test_several_holds_of_one_job_add_up():
    runs = [Ran("a", "w1", 0.0, 4.0), Ran("b", "w2", 9.0, 10.0)]
    holds = [Hold("b", "w1", begin, begin + 0.5, started=False) for begin in (1.0, 2.0, 3.75)]
    assert hoarded_s(holds, runs) == {"b": (1.25, 1.25)}


def test_spans_that_touch_or_overlap_become_one():
    assert merged([(3.0, 4.0), (0.0, 1.0), (1.0, 2.0), (3.5, 3.6)]) == [(0.0, 2.0), (3.0, 4.0)]


def a_log() -> Log:
    """Two steady jobs one after the other, then two at once: one of them waits for the other on the same worker."""
    log = Log(sent={"0": 0.0, "1": 5.0, "2": 10.0, "3": 10.0}, burst={"2", "3"})
    log.runs += [Ran("0", "w1", 0.5, 1.5), Ran("1", "w2", 5.25, 6.25), Ran("2", "w1", 10.0, 11.0)]
    log.runs.append(Ran("3", "w1", 11.0, 12.0))
    log.holds.append(Hold("3", "w1", 10.0, 11.0, started=True))
    log.operations.update(deliver=4, ack=4, requeue=2)
    return log


def test_waits_are_those_of_steady_jobs_and_the_drain_that_of_the_burst():
    found = outcome(CELL, OURS, [a_log(), a_log()])
    assert (found.jobs, found.mean_wait_s, found.p99_wait_s) == (8, 0.375, 0.5)
    assert found.drain == 2.0, "two seconds for what two workers could have done in one"
    assert (found.hoarded, found.hoarded_s, found.ruled_out, found.ruled_out_s) == (0.25, 2.0, 0.0, 0.0)
    assert (found.operations, found.handed_back) == (2.5, 0.5)


def test_an_outcome_is_plain_json_and_a_row():
    found = outcome(CELL, OURS, [a_log()])
    assert json.loads(json.dumps(found.as_json()))["way"] == OURS.name
    assert grid_table([found]).row_count == 1


@pytest.mark.parametrize("exec_s", [0.0, 0.005, AT_ONCE_FROM_S - 0.0001, AT_ONCE_FROM_S, 0.04, STOP_AFTER_S, 1.0, 30.0])
def test_what_is_called_ours_does_as_the_worker_does(exec_s: float):
    assert OURS.threshold_s(exec_s) == hoarding.stop_after_s(exec_s)
    assert OURS.hand_first == hoarding.hand_first(max_batch=1, unheard=())
    assert hoarding.BACKLOG_S == FRESH_S


@pytest.mark.parametrize(("exec_s", "threshold_s"), [(0.005, 0.05), (0.03, 0.0), (30.0, 0.0)])
def test_a_threshold_by_length_depends_on_how_long_jobs_take(exec_s: float, threshold_s: float):
    assert OURS.threshold_s(exec_s) == threshold_s


def test_the_grid_is_that_of_the_rule():
    trials = [*one_by_one(quick=False), *together(quick=False)]
    cells = {trial.cell for trial in trials}
    assert {cell.exec_s for cell in cells} == {0.005, 0.04, 1.0, 30.0}
    assert {(cell.residents, cell.workers) for cell in cells} == {(r, w) for r in (1, 2, 4, 8) for w in (2, 4)}
    assert len(cells) == 32
    for cell in cells:
        assert {trial.way for trial in trials if trial.cell == cell} >= set(WAYS)
    assert len(set(trials)) == len(trials)


def test_a_quick_run_has_every_way_and_nothing_that_keeps_the_broker_busy_runs_beside_others():
    assert {trial.way.kind for trial in one_by_one(quick=True)} == set(Kind)
    assert not [*together(quick=True), *thresholds(quick=True)]
    assert Kind.BOUNCING not in {trial.way.kind for trial in together(quick=False)}

"""When a worker counts as stuck: one that waits for what does not come, not one that waits for work."""

import pytest

from affinity.errors import ExecutorDied
from worker.restarts import AWAY_WITHIN_S
from worker.vitals import LOOK_WITHIN_BEATS, Vitals

BEAT_S = 2.0


def test_a_worker_that_looks_is_well_and_one_that_has_not_looked_for_long_is_not():
    vitals = Vitals()
    assert not vitals.stuck(1e9, BEAT_S), "its first look is still to come"

    vitals.looked(100.0)

    assert not vitals.stuck(100.0 + LOOK_WITHIN_BEATS * BEAT_S, BEAT_S)
    assert vitals.stuck(100.1 + LOOK_WITHIN_BEATS * BEAT_S, BEAT_S).startswith("no look at the fleet for 90 s")


def test_a_step_that_takes_too_long_is_named_and_one_that_has_ended_is_forgotten():
    vitals = Vitals()
    with vitals.step("unloading a", 100.0, 10.0), vitals.step("loading b", 100.0, 1000.0):
        assert not vitals.stuck(110.0, BEAT_S)
        assert vitals.stuck(111.0, BEAT_S) == "unloading a has taken 11 s and should have ended within 10 s"

    assert not vitals.stuck(1e6, BEAT_S)


def test_a_step_that_failed_has_ended():
    vitals = Vitals()
    with pytest.raises(ExecutorDied), vitals.step("unloading a", 100.0, 10.0):
        raise ExecutorDied("it is gone")

    assert not vitals.stuck(1e6, BEAT_S)


def test_no_look_is_due_while_there_is_no_executor_but_not_for_ever():
    vitals = Vitals()
    vitals.looked(100.0)
    with vitals.step("starting an executor", 100.0, AWAY_WITHIN_S, instead_of_looks=True):
        assert not vitals.stuck(100.0 + AWAY_WITHIN_S, BEAT_S)
        assert "starting an executor" in vitals.stuck(101.0 + AWAY_WITHIN_S, BEAT_S)

"""When a worker looks at the fleet."""

import pytest

from tests.support.clock import FakeClock
from worker.lookout import AWAY_S, EVERY_S, Lookout
from worker.vitals import Vitals


def test_hints_in_a_burst_are_one_look():
    clock = FakeClock()
    lookout = Lookout(clock, Vitals())
    clock.advance(1.0)
    assert lookout.due()
    lookout.begin()
    assert not lookout.due()
    assert lookout.waits_s() == []
    lookout.wanted = True
    assert not lookout.due()
    assert lookout.waits_s() == [pytest.approx(EVERY_S)]
    clock.advance(EVERY_S)
    assert lookout.due()


def test_some_things_do_not_wait_for_the_burst_to_end():
    clock = FakeClock()
    lookout = Lookout(clock, Vitals())
    lookout.begin()
    lookout.at_once()
    assert lookout.due()
    assert max(lookout.waits_s()) <= 0


def test_the_plans_alarm_is_a_look():
    clock = FakeClock()
    lookout = Lookout(clock, Vitals())
    clock.advance(1.0)
    lookout.begin()
    lookout.wake_at = clock.now() + 30.0
    assert lookout.waits_s() == [30.0]
    clock.advance(29.0)
    assert not lookout.due()
    clock.advance(1.0)
    assert lookout.due()
    lookout.begin()
    assert lookout.wake_at is None


def test_after_an_outage_was_met_nothing_is_tried_for_a_while_and_then_a_look_comes_first():
    clock = FakeClock()
    lookout = Lookout(clock, Vitals())
    lookout.begin()
    lookout.pause()
    lookout.wanted = True
    assert lookout.paused
    assert lookout.waits_s() == [pytest.approx(AWAY_S)]
    clock.advance(AWAY_S)
    assert not lookout.paused
    assert lookout.due()

"""Alarms: the earliest instant set for each model and worker, and which of them ring."""

from affinity.policy.alarms import Alarms


def test_without_alarms_nothing_rings_ever() -> None:
    alarms = Alarms()
    assert alarms.next_at is None
    assert alarms.ring(1e12) == (set(), set())


def test_models_and_workers_ring_each_in_their_own_right_at_their_instant_and_once() -> None:
    alarms = Alarms()
    alarms.for_model(5.0, "x")
    alarms.for_worker(6.0, "x")
    alarms.for_worker(7.0, "y")
    assert alarms.next_at == 5.0
    assert alarms.ring(4.9) == (set(), set())
    assert alarms.ring(6.0) == ({"x"}, {"x"})
    assert alarms.ring(6.0) == (set(), set())
    assert alarms.next_at == 7.0


def test_of_two_instants_for_one_model_the_earlier_counts_in_whatever_order_they_are_set() -> None:
    for instants in ((5.0, 3.0), (3.0, 5.0), (3.0, 3.0)):
        alarms = Alarms()
        for at in instants:
            alarms.for_model(at, "a")
        assert alarms.next_at == 3.0
        assert alarms.ring(3.0) == ({"a"}, set())
        assert alarms.next_at is None, "the later one is gone with it"


def test_a_model_that_is_forgotten_does_not_ring_and_its_worker_does() -> None:
    alarms = Alarms()
    alarms.for_model(3.0, "a")
    alarms.for_worker(4.0, "a")
    alarms.forget_model("a")
    alarms.forget_model("never set")
    assert alarms.next_at == 4.0
    assert alarms.ring(9.0) == (set(), {"a"})


def test_a_later_instant_may_be_set_once_the_earlier_one_is_forgotten_or_has_rung() -> None:
    alarms = Alarms()
    alarms.for_model(3.0, "a")
    alarms.forget_model("a")
    alarms.for_model(8.0, "a")
    assert alarms.next_at == 8.0
    assert alarms.ring(8.0) == ({"a"}, set())
    alarms.for_model(9.0, "a")
    assert alarms.ring(9.0) == ({"a"}, set())


def test_one_that_was_forgotten_and_set_to_the_same_instant_again_rings_once() -> None:
    alarms = Alarms()
    for _ in range(2):
        alarms.for_model(3.0, "a")
        alarms.for_model(2.0, "a")
        alarms.forget_model("a")
    alarms.for_model(3.0, "a")
    assert alarms.ring(2.5) == (set(), set())
    assert alarms.ring(3.0) == ({"a"}, set())
    assert alarms.next_at is None

"""Counting on a simulated GPU: weights add up, and what does not fit is refused and let go again."""

from collections.abc import Sequence

import pytest

from affinity.errors import OutOfVram
from affinity.fleet import GIB
from worker.executor_memory import CountedMemory


class Weights:
    """A loaded model that is nothing but its weight."""

    def __init__(self, weight_bytes: int) -> None:
        self.weight_bytes = weight_bytes
        self.closed = False

    def run(self, inputs: Sequence[object]) -> Sequence[object]:
        return inputs

    def close(self) -> None:
        self.closed = True


def test_models_add_up_and_a_closed_one_no_longer_counts():
    memory = CountedMemory(limit_bytes=None)
    assert memory.load(lambda: Weights(3), Weights.close)[1] == 3
    memory.load(lambda: Weights(4), Weights.close)
    assert memory.total_bytes() == 7
    memory.freed(3)
    assert memory.total_bytes() == 4


def test_the_last_byte_can_be_used_and_one_more_cannot():
    memory = CountedMemory(limit_bytes=10 * GIB)
    memory.load(lambda: Weights(6 * GIB), Weights.close)
    too_large = Weights(4 * GIB + 1)
    with pytest.raises(OutOfVram, match=r"takes 4\.00 GiB, the simulated GPU has 4\.00 GiB free"):
        memory.load(lambda: too_large, Weights.close)
    assert too_large.closed
    memory.load(lambda: Weights(4 * GIB), Weights.close)
    assert memory.total_bytes() == 10 * GIB


def test_a_model_that_has_left_for_the_hosts_memory_goes_back_there_if_its_room_is_gone():
    memory, model, places = CountedMemory(limit_bytes=10), Weights(6), list[str]()
    memory.load(lambda: model, Weights.close)
    memory.leave(lambda: places.append("host"))
    memory.freed(6)
    memory.load(lambda: Weights(5), Weights.close)
    with pytest.raises(OutOfVram):
        memory.load(lambda: model, lambda _: places.append("host again"))
    assert places == ["host", "host again"]
    assert not model.closed
    assert memory.total_bytes() == 5


def test_a_load_that_fails_takes_nothing():
    memory = CountedMemory(limit_bytes=10)

    def load() -> Weights:
        raise OutOfVram("on purpose")

    with pytest.raises(OutOfVram):
        memory.load(load, Weights.close)
    assert memory.total_bytes() == 0


def test_running_does_not_change_the_count():
    memory = CountedMemory(limit_bytes=10)
    model, _ = memory.load(lambda: Weights(3), Weights.close)
    assert memory.run(lambda: model.run([1, 2])) == ([1, 2], 0)
    assert memory.total_bytes() == 3

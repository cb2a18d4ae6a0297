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
    assert memory.load(lambda: Weights(3))[1] == 3
    memory.load(lambda: Weights(4))
    assert memory.total_bytes() == 7
    memory.freed(3)
    assert memory.total_bytes() == 4


def test_the_last_byte_can_be_used_and_one_more_cannot():
    memory = CountedMemory(limit_bytes=10 * GIB)
    memory.load(lambda: Weights(6 * GIB))
    too_large = Weights(4 * GIB + 1)
    with pytest.raises(OutOfVram, match=r"takes 4\.00 GiB, the simulated GPU has 4\.00 GiB free"):
        memory.load(lambda: too_large)
    assert too_large.closed
    memory.load(lambda: Weights(4 * GIB))
    assert memory.total_bytes() == 10 * GIB


def test_a_load_that_fails_takes_nothing():
    memory = CountedMemory(limit_bytes=10)

    def load() -> Weights:
        raise OutOfVram("on purpose")

    with pytest.raises(OutOfVram):
        memory.load(load)
    assert memory.total_bytes() == 0


def test_running_does_not_change_the_count():
    memory = CountedMemory(limit_bytes=10)
    model, _ = memory.load(lambda: Weights(3))
    assert memory.run(lambda: model.run([1, 2])) == ([1, 2], 0)
    assert memory.total_bytes() == 3

"""One computation at a time beside the event loop, with rests, and an end."""

import asyncio
import threading

import pytest

from affinity.policy.eta import Steps
from dispatcher.explaining import PATIENCE_S, REST_S, SLICE_S, Explaining
from tests.support.clock import FakeClock


class Working:
    """Steps that take time on a fake clock, and rests that take as long as they should."""

    def __init__(self, step_s: float) -> None:
        self.clock = FakeClock()
        self.log: list[str] = []
        self.explaining = Explaining(self.clock, self.rest)
        self._step_s = step_s

    def rest(self, seconds: float) -> None:
        assert seconds == REST_S
        self.log.append("rest")
        self.clock.advance(seconds)

    def steps(self, count: int) -> Steps[str]:
        """``count`` steps, or fewer where it is told that it is enough."""
        for _ in range(count):
            self.log.append("step")
            self.clock.advance(self._step_s)
            if (yield):
                return "cut"
        return "whole"


async def test_it_rests_after_every_slice_of_work_and_no_more_often() -> None:
    """Three quick steps fill a slice."""
    work = Working(SLICE_S * 0.4)
    assert await work.explaining.found(work.steps(7)) == "whole"
    assert work.log == [*["step"] * 3, "rest", *["step"] * 3, "rest", "step"]


async def test_it_rests_after_a_step_that_is_longer_than_a_slice() -> None:
    work = Working(SLICE_S * 50)
    await work.explaining.found(work.steps(3))
    assert work.log == ["step", "rest"] * 3


async def test_it_is_told_that_it_is_enough_once_the_time_is_up() -> None:
    work = Working(PATIENCE_S / 4)
    assert await work.explaining.found(work.steps(100)) == "cut"
    assert work.log.count("step") == 4


async def test_steps_that_end_at_once_have_their_result() -> None:
    work = Working(0.0)
    assert await work.explaining.found(work.steps(0)) == "whole"


async def test_an_error_in_a_step_is_the_callers_and_the_next_one_has_its_turn() -> None:
    work = Working(0.0)

    def broken() -> Steps[str]:
        yield
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await work.explaining.found(broken())
    assert await work.explaining.found(work.steps(1)) == "whole"


async def test_there_is_one_at_a_time_and_the_wait_for_its_turn_counts() -> None:
    work = Working(0.0)
    held, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def first() -> Steps[str]:
        loop.call_soon_threadsafe(held.set)
        go.wait(10.0)
        work.clock.advance(PATIENCE_S)
        yield
        return "first"

    one = asyncio.create_task(work.explaining.found(first()))
    await held.wait()
    two = asyncio.create_task(work.explaining.found(work.steps(5)))
    await asyncio.sleep(0)
    assert work.log == []
    go.set()
    assert (await one, await two) == ("first", "cut")
    assert work.log.count("step") == 1

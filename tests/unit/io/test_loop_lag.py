"""How late the loop is, on a loop whose time is moved by hand."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from affinity.io.loop_lag import EVERY_S, LoopLag


class HandLoop:
    """As much of an event loop as is needed: one timer."""

    def __init__(self) -> None:
        self.now = 10.0
        self.due: tuple[float, Callable[..., None], tuple[Any, ...]] | None = None

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., None], *args: Any) -> Any:
        self.due = (when, callback, args)
        return asyncio.TimerHandle(when, callback, args, cast(asyncio.AbstractEventLoop, self))

    def get_debug(self) -> bool:
        return False

    def fire(self, late_s: float) -> None:
        assert self.due is not None
        when, callback, args = self.due
        self.now = when + late_s
        callback(*args)


def test_lateness_is_told_each_time_and_does_not_add_up():
    loop, seen = HandLoop(), list[float]()
    lag = LoopLag(seen.append)
    lag._due(cast(asyncio.AbstractEventLoop, loop), loop.now)
    loop.fire(0.25)
    loop.fire(0.0)
    assert seen == [0.0, 0.25, 0.0]
    assert loop.due is not None
    assert loop.due[0] == loop.now + EVERY_S


async def test_it_is_started_and_stopped_in_the_loop_that_runs():
    lag = LoopLag(lambda _: None)
    lag.stop()
    lag.start()
    assert lag._timer is not None
    lag.stop()
    assert lag._timer.cancelled()

"""The fleet's clock on machines whose own clocks are wrong: by minutes, by drift, by being set while we run."""

from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from affinity.errors import StoreUnavailable
from affinity.io.clock import StoreClock
from tests.support.clock import FakeClock

MINUTES = [-300.0, 300.0, 86_400.0]


@pytest.fixture
def store() -> FakeClock:
    """The store's own clock: what is true here."""
    return FakeClock()


def asking(store: FakeClock, there_s: float = 0.0, back_s: float = 0.0) -> Callable[[], Awaitable[float]]:
    """The way to the store and back takes so long."""

    async def ask() -> float:
        store.advance(there_s)
        at = store.now()
        store.advance(back_s)
        return at

    return ask


def a_machine(store: FakeClock, skew_s: float, **way: float) -> StoreClock:
    """A process on a machine whose clock is wrong by so much."""
    return StoreClock(asking(store, **way), lambda: store.now() + skew_s, lambda: store.monotonic() + 77.0)


@pytest.mark.parametrize("skew_s", MINUTES)
async def test_a_machine_that_is_minutes_off_has_the_stores_time_once_it_has_asked(store: FakeClock, skew_s: float):
    clock = a_machine(store, skew_s)
    assert clock.now() == pytest.approx(store.now() + skew_s)
    await clock.align()
    assert clock.now() == pytest.approx(store.now(), abs=1e-6)
    store.advance(3600.0)
    assert clock.now() == pytest.approx(store.now(), abs=1e-6)


@pytest.mark.parametrize("skew_s", MINUTES)
@pytest.mark.parametrize(("there_s", "back_s"), [(0.0, 2.0), (2.0, 0.0), (1.0, 1.0)])
async def test_a_slow_answer_costs_no_more_than_it_took(store: FakeClock, skew_s: float, there_s: float, back_s: float):
    clock = a_machine(store, skew_s, there_s=there_s, back_s=back_s)
    await clock.align()
    assert abs(clock.now() - store.now()) <= 2.0 + 1e-6


@pytest.mark.parametrize("skew_s", MINUTES)
async def test_a_quick_answer_after_a_slow_one_makes_it_right(store: FakeClock, skew_s: float):
    clock = a_machine(store, skew_s, there_s=2.0)
    await clock.align()
    clock._ask = asking(store, 0.001, 0.001)
    await clock.align()
    assert clock.now() == pytest.approx(store.now(), abs=0.003)


@pytest.mark.parametrize(("there_s", "back_s"), [(3.0, 0.0), (0.0, 3.0)])
async def test_a_clock_that_may_be_right_is_left_alone(store: FakeClock, there_s: float, back_s: float):
    clock = a_machine(store, 0.0, there_s=there_s, back_s=back_s)
    for _ in range(3):
        await clock.align()
        assert clock.now() == pytest.approx(store.now(), abs=1e-6)


async def test_setting_the_machines_clock_changes_nothing(store: FakeClock):
    skew_s = 300.0
    clock = StoreClock(asking(store), lambda: store.now() + skew_s, store.monotonic)
    await clock.align()
    skew_s = -4000.0
    assert clock.now() == pytest.approx(store.now(), abs=1e-6)


async def test_drift_is_taken_back_with_every_look(store: FakeClock):
    """An oscillator that is off by one in a thousand would be 86 s off after a day."""
    clock = StoreClock(asking(store, 0.001, 0.001), store.now, lambda: 1.001 * store.monotonic())
    for _ in range(8640):
        store.advance(10.0)
        await clock.align()
    assert clock.now() == pytest.approx(store.now(), abs=0.01)


async def test_a_store_whose_clock_was_set_is_followed(store: FakeClock):
    clock = a_machine(store, 0.0)
    await clock.align()
    set_back = FakeClock(store.now() - 500.0)
    clock._ask = asking(set_back)
    await clock.align()
    assert clock.now() == pytest.approx(set_back.now(), abs=1e-6)


async def test_without_a_store_time_goes_on_as_it_was(store: FakeClock):
    async def away() -> float:
        raise StoreUnavailable("Redis is away")

    clock = a_machine(store, 300.0)
    await clock.align()
    clock._ask = away
    with pytest.raises(StoreUnavailable):
        await clock.align()
    store.advance(5.0)
    assert clock.now() == pytest.approx(store.now(), abs=1e-6)


@pytest.mark.parametrize(("skew_s", "warnings"), [(0.4, 0), (-300.0, 1)])
async def test_a_machine_that_is_far_off_is_warned_of_once(store: FakeClock, skew_s: float, warnings: int):
    clock = a_machine(store, skew_s)
    with capture_logs() as logs:
        for _ in range(3):
            await clock.align()
    assert [line["event"] for line in logs] == ["clock.moved"] * warnings

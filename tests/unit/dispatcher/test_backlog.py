"""Full queues over HTTP, and the time after which to come back."""

import pytest

from affinity.errors import QueueFull
from affinity.job import JobSpec
from dispatcher.backlog import LEAST_S, MOST_S, UNMEASURED_S, WINDOW_S, Backlog
from tests.support.clock import FakeClock
from tests.support.dispatcher import dispatcher_world
from tests.support.fake_stores import FakeStores


class Counters(FakeStores):
    """Stores whose counters of drained jobs a test sets."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.counts: dict[str, int] = {}

    async def drained(self) -> dict[str, int]:
        return self.counts


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def counters(clock: FakeClock) -> Counters:
    return Counters(clock)


@pytest.fixture
def backlog(counters: Counters, clock: FakeClock) -> Backlog:
    return Backlog(counters, clock)  # type: ignore[arg-type]  # all it asks for is ``drained``


async def measured(backlog: Backlog, counters: Counters, clock: FakeClock, over_s: float, **drained: int) -> None:
    """Two looks, between which so many jobs left."""
    await backlog.look()
    clock.advance(over_s)
    counters.counts = {name: counters.counts.get(name, 0) + count for name, count in drained.items()}
    await backlog.look()


def told_s(backlog: Backlog, bound: str, tenant: str = "") -> float:
    return backlog.told(QueueFull("full", bound=bound), JobSpec("j", "m", 1, tenant=tenant)).retry_after_s


async def test_those_refused_come_back_one_by_one_as_fast_as_the_queue_empties(
    backlog: Backlog, counters: Counters, clock: FakeClock
):
    await measured(backlog, counters, clock, 10.0, m=2, other=8)

    assert [told_s(backlog, "model") for _ in range(3)] == pytest.approx([5.0, 10.0, 15.0])
    assert [told_s(backlog, "all") for _ in range(3)] == pytest.approx([1.0, 2.0, 3.0])
    clock.advance(14.0)
    assert told_s(backlog, "model") == pytest.approx(6.0)


async def test_a_tenants_rate_is_its_own(backlog: Backlog, counters: Counters, clock: FakeClock):
    counters.counts = {"m": 0, "@acme": 0}
    await measured(backlog, counters, clock, 10.0, **{"m": 100, "@acme": 1})

    assert told_s(backlog, "tenant", "acme") == pytest.approx(10.0)
    assert backlog.rate("") == pytest.approx(10.0)


async def test_nobody_is_sent_away_for_ever_or_for_no_time(backlog: Backlog, counters: Counters, clock: FakeClock):
    assert told_s(backlog, "model") == UNMEASURED_S
    await measured(backlog, counters, clock, 1.0)
    assert told_s(backlog, "model") == MOST_S
    await measured(backlog, counters, clock, 1.0, m=1_000_000)
    assert told_s(backlog, "model") == LEAST_S
    await measured(backlog, counters, clock, 1e6, m=1_000_001)
    assert [told_s(backlog, "model") for _ in range(300)][-1] <= MOST_S


async def test_the_rate_is_that_of_the_last_minute(backlog: Backlog, counters: Counters, clock: FakeClock):
    for _ in range(100):
        await measured(backlog, counters, clock, 2.0, m=100)
    for _ in range(40):
        await measured(backlog, counters, clock, 2.0, m=2)

    assert backlog.rate("m") == pytest.approx(1.0, rel=0.1)
    assert len(backlog._samples) < WINDOW_S + 5


async def test_a_store_that_was_emptied_is_no_queue_that_fills(backlog: Backlog, counters: Counters, clock: FakeClock):
    await measured(backlog, counters, clock, 10.0, m=100)
    counters.counts = {}
    await backlog.look()
    assert told_s(backlog, "model") == UNMEASURED_S
    clock.advance(10.0)
    counters.counts = {"m": 20}
    await backlog.look()

    assert backlog.rate("m") == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("settings", "models"),
    [({"dispatcher_max_queued_per_model": 2}, ["echo"] * 3), ({"dispatcher_max_queued": 2}, ["echo", "big", "echo"])],
)
async def test_a_full_queue_is_a_429_that_leaves_nothing_and_ends_when_there_is_room(
    settings: dict[str, int], models: list[str]
):
    async with dispatcher_world(**settings) as world:
        jobs = [{"id": f"j{number}", "model": model, "input": {}} for number, model in enumerate(models)]
        answers = [await world.post("/jobs", job) for job in jobs]

        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert answers[2].json()["code"] == "overloaded"
        assert answers[2].headers["retry-after"] == str(int(UNMEASURED_S))
        assert (await world.http.get("/jobs/j2")).status_code == 404
        assert len(world.publisher.published) == 2
        await world.serve("j0")
        assert (await world.post("/jobs", jobs[2])).status_code == 202


async def test_a_batch_is_taken_as_far_as_there_is_room():
    async with dispatcher_world(dispatcher_max_queued=2) as world:
        batch = {"jobs": [{"id": f"j{number}", "model": "echo", "input": 1} for number in range(3)]}
        answer = (await world.post("/jobs/batch", batch)).json()

        assert (answer["accepted"], answer["refused"]) == (2, 1)
        assert [job.get("code") for job in answer["jobs"]] == [None, None, "overloaded"]

"""What every ``JobStore`` says of many jobs: pages, demand and the events of their lives."""

import asyncio

import pytest

from affinity.errors import InvalidInput
from affinity.fleet import Demand
from affinity.io.event_port import Event
from affinity.io.ports import JobStore
from affinity.job import MAX_LOSSES, JobError, JobState
from tests.support.job_samples import a_report, a_spec, an_attempt, an_outcome
from tests.support.stores import Stores

NOW = 1_700_000_000.5


async def walk(store: JobStore, state: JobState | None, model: str | None, limit: int) -> list[list[str]]:
    """The ids of all pages."""
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = await store.page(state, model, limit, cursor)
        pages.append([job.id for job in page.jobs])
        if page.cursor is None:
            return pages
        cursor = page.cursor


async def test_pages_run_from_the_newest_to_the_oldest_and_end(stores: Stores) -> None:
    for number in range(5):
        await stores.jobs.create(a_spec(f"j{number}"), NOW + number)
    assert await walk(stores.jobs, None, None, 2) == [["j4", "j3"], ["j2", "j1"], ["j0"]]
    assert await walk(stores.jobs, None, None, 5) == [["j4", "j3", "j2", "j1", "j0"]]


async def test_pages_lose_and_repeat_no_job_though_all_have_the_same_instant(stores: Stores) -> None:
    ids = [f"{letter}{number}" for letter in ("Z", "a", "-", ".", "_", ":") for number in range(30)]
    for job_id in ids:
        await stores.jobs.create(a_spec(job_id), NOW)
    pages = await walk(stores.jobs, None, None, 7)
    assert [job_id for page in pages for job_id in page] == sorted(ids, reverse=True)


async def test_pages_are_filtered_by_state_and_model(stores: Stores) -> None:
    for number in range(6):
        await stores.jobs.create(a_spec(f"j{number}", model="a/b:1" if number % 2 else "c"), NOW + number)
    await stores.jobs.cancel("j1", NOW)
    await stores.jobs.cancel("j2", NOW)
    assert await walk(stores.jobs, JobState.CANCELLED, None, 10) == [["j2", "j1"]]
    assert await walk(stores.jobs, None, "a/b:1", 10) == [["j5", "j3", "j1"]]
    assert await walk(stores.jobs, JobState.QUEUED, "a/b:1", 10) == [["j5", "j3"]]
    assert await walk(stores.jobs, JobState.FAILED, "c", 10) == [[]]
    assert await walk(stores.jobs, None, "nobody's", 10) == [[]]


async def test_a_cursor_holds_its_place_when_its_job_has_left_the_index(stores: Stores) -> None:
    for number in range(6):
        await stores.jobs.create(a_spec(f"j{number}"), NOW)
    page = await stores.jobs.page(JobState.QUEUED, None, 2, None)
    assert [job.id for job in page.jobs] == ["j5", "j4"]
    for job_id in ("j4", "j3"):
        await stores.jobs.cancel(job_id, NOW)
    await stores.jobs.create(a_spec("j9"), NOW)
    rest = await stores.jobs.page(JobState.QUEUED, None, 10, page.cursor)
    assert [job.id for job in rest.jobs] == ["j2", "j1", "j0"]


async def test_records_past_their_retention_take_no_room_on_a_page(stores: Stores) -> None:
    for number in range(4):
        await stores.jobs.create(a_spec(f"j{number}"), NOW + number)
    await stores.jobs.cancel("j2", NOW)
    await stores.expire("job", "j2")
    assert await walk(stores.jobs, None, None, 3) == [["j3", "j1", "j0"]]
    assert await walk(stores.jobs, JobState.CANCELLED, None, 3) == [[]]


@pytest.mark.parametrize("cursor", ["", "x", "ä", "MTIz", "MTIzIGEgYg", "////", "LTEgag"])
async def test_a_cursor_that_is_not_ours_is_refused(stores: Stores, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        await stores.jobs.page(None, None, 10, cursor)


@pytest.mark.parametrize("limit", [0, -1, 501])
async def test_a_page_has_a_size_within_bounds(stores: Stores, limit: int) -> None:
    with pytest.raises(InvalidInput, match="500"):
        await stores.jobs.page(None, None, limit, None)


async def test_demand_counts_queued_jobs_and_sums_their_instants_exactly(stores: Stores) -> None:
    assert not await stores.jobs.demand()
    for number in range(3):
        await stores.jobs.create(a_spec(f"a{number}", model="a"), NOW + number)
    await stores.jobs.sight(a_spec("b0", model="b"), NOW + 0.25, NOW + 1)
    expected = [Demand("a", 3, NOW, 3 * NOW + 3), Demand("b", 1, NOW + 0.25, NOW + 0.25)]
    assert await stores.jobs.demand() == expected
    assert expected[0].summed_wait_s(NOW + 2) == 3.0


async def test_demand_follows_every_way_into_and_out_of_the_queue(stores: Stores) -> None:
    attempt, error = an_attempt("j0"), JobError("load_failed", "no")
    for number in range(4):
        await stores.jobs.create(a_spec(f"j{number}"), NOW + number)

    async def queued() -> tuple[int, float, float] | None:
        demands = await stores.jobs.demand()
        return (demands[0].queued, demands[0].oldest_at, demands[0].summed_arrival_s) if demands else None

    assert await queued() == (4, NOW, 4 * NOW + 6)
    await stores.jobs.start([(attempt, a_spec("j0"), NOW)], NOW + 9)
    assert await queued() == (3, NOW + 1, 3 * NOW + 6)
    await stores.jobs.give_back(attempt, None, uses_attempt=False, now=NOW + 10)
    assert await queued() == (4, NOW, 4 * NOW + 6)
    await stores.jobs.cancel("j1", NOW + 10)
    await stores.jobs.fail("j2", error, NOW + 10)
    await stores.jobs.withdraw("j3")
    assert await queued() == (1, NOW, NOW)
    again = an_attempt("j0")
    await stores.jobs.start([(again, a_spec("j0"), NOW)], NOW + 11)
    assert await queued() is None
    await stores.jobs.finish(again, an_outcome(), NOW + 12)
    assert await queued() is None


async def test_a_position_counts_the_queued_jobs_of_the_same_model_that_came_before(stores: Stores) -> None:
    for job_id, model, at in (("c", "a/b:1", 1), ("b", "a/b:1", 1), ("a", "a/b:1", 2), ("x", "other", 0)):
        await stores.jobs.create(a_spec(job_id, model), NOW + at)

    async def positions() -> list[int | None]:
        return [await stores.jobs.position(job_id, "a/b:1") for job_id in ("b", "c", "a", "x", "nobody")]

    assert await positions() == [0, 1, 2, None, None]
    attempt = an_attempt("b")
    await stores.jobs.start([(attempt, a_spec("b", "a/b:1"), NOW + 1)], NOW + 3)
    assert await positions() == [None, 0, 1, None, None]
    await stores.jobs.give_back(attempt, None, uses_attempt=False, now=NOW + 4)
    await stores.jobs.cancel("c", NOW + 5)
    assert await positions() == [0, None, 1, None, None]


async def events_until(stores: Stores, job_id: str, kind: str) -> list[Event]:
    """All events of a job up to the first of that kind."""
    found = []
    async with asyncio.timeout(10):
        async for event in stores.events.read("0-0"):
            if event.fields.get("job") == job_id:
                found.append(event)
                if event.kind == kind:
                    return found
    raise AssertionError("the stream ended")


async def test_a_life_is_told_in_events_each_said_once(stores: Stores) -> None:
    first, second = an_attempt("j1", "w1"), an_attempt("j1", "w2")
    await stores.jobs.create(a_spec("j1", "m"), NOW)
    await stores.jobs.published("j1")
    await stores.jobs.published("j1")
    await stores.jobs.start([(first, a_spec("j1", "m"), NOW)], NOW + 1)
    await stores.jobs.give_back(first, JobError("load_timeout", "slow"), uses_attempt=True, now=NOW + 2)
    await stores.jobs.start([(second, a_spec("j1", "m"), NOW)], NOW + 3)
    await stores.jobs.finish(second, an_outcome(), NOW + 4)
    told = await events_until(stores, "j1", "job.settled")
    assert [(event.kind, event.fields) for event in told] == [
        ("job.accepted", {"job": "j1", "model": "m"}),
        ("job.started", {"job": "j1", "model": "m", "worker": "w1", "attempt": "1"}),
        ("job.requeued", {"job": "j1", "model": "m", "code": "load_timeout"}),
        ("job.started", {"job": "j1", "model": "m", "worker": "w2", "attempt": "2"}),
        ("job.settled", {"job": "j1", "model": "m", "state": "succeeded", "worker": "w2", "start": "warm"}),
    ]
    assert [event.at for event in told[1:]] == [NOW + 1, NOW + 2, NOW + 3, NOW + 4]


async def test_a_job_without_a_confirmed_publish_is_accepted_by_its_first_delivery(stores: Stores) -> None:
    await stores.jobs.create(a_spec("started"), NOW)
    await stores.jobs.start([(an_attempt("started"), a_spec("started"), NOW)], NOW + 1)
    await stores.jobs.published("started")
    await stores.jobs.sight(a_spec("seen"), NOW, NOW + 1)
    await stores.jobs.cancel("seen", NOW + 2)
    assert [event.kind for event in await events_until(stores, "started", "job.started")] == [
        "job.accepted",
        "job.started",
    ]
    told = await events_until(stores, "seen", "job.settled")
    assert [event.kind for event in told] == ["job.accepted", "job.settled"]
    assert told[-1].fields == {"job": "seen", "model": "m", "state": "cancelled", "worker": ""}


async def test_a_takeover_tells_of_the_loss(stores: Stores) -> None:
    await stores.fleet.report(a_report("w1"))
    await stores.jobs.start([(an_attempt("j1", "w1"), a_spec("j1"), NOW)], NOW)
    await stores.expire("lease", "w1")
    second = an_attempt("j1", "w2")
    await stores.jobs.start([(second, a_spec("j1"), NOW)], NOW + 1)
    await stores.jobs.finish(second, an_outcome(error=JobError("job_failed", "no")), NOW + 2)
    told = await events_until(stores, "j1", "job.settled")
    kinds = [event.kind for event in told]
    assert kinds == ["job.accepted", "job.started", "job.requeued", "job.started", "job.settled"]
    assert (told[2].fields["code"], told[4].fields["code"]) == ("worker_lost", "job_failed")


async def test_a_job_lost_too_often_is_told_as_nobodys(stores: Stores) -> None:
    for _ in range(MAX_LOSSES + 1):
        await stores.jobs.start([(an_attempt("j1", "w1"), a_spec("j1"), NOW)], NOW)
    told = await events_until(stores, "j1", "job.settled")
    ended = {"job": "j1", "model": "m", "state": "failed", "worker": "", "code": "attempts_exhausted"}
    assert told[-1].fields == ended
    assert [event.kind for event in told].count("job.requeued") == MAX_LOSSES

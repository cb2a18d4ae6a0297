"""What every store does when a job is cancelled while it runs, and with the wish that a worker be drained."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from affinity.errors import NotCancellable
from affinity.io.fleet_store import RedisFleetStore
from affinity.io.ports import Verdict
from affinity.io.redis_client import RedisLink
from affinity.job import Attempt, JobError, JobState
from affinity.topology import Keys
from tests.support.job_samples import a_report, a_spec, an_attempt, an_outcome, later
from tests.support.stores import Stores

NOW = 1_700_000_000.123456
LOST = JobError("out_of_vram", "no room")


async def running(stores: Stores, attempt: Attempt) -> None:
    """Its job runs under a live lease."""
    await stores.jobs.create(a_spec(attempt.job_id), NOW)
    assert await stores.fleet.report(a_report(attempt.worker, attempt.epoch))
    (answer,) = await stores.jobs.start([(attempt, a_spec(attempt.job_id), NOW)], NOW + 2)
    assert answer.verdict is Verdict.STARTED


async def told(stores: Stores, kind: str) -> list[Mapping[str, str]]:
    """The fields of all events of a kind so far."""
    await stores.events.emit("test.end", NOW, {})
    found = []
    async with asyncio.timeout(10):
        async for event in stores.events.read("0-0"):
            if event.kind == "test.end":
                break
            if event.kind == kind:
                found.append(event.fields)
    return found


async def after_the_first(hints: AsyncIterator[str]) -> None:
    async with asyncio.timeout(10):
        assert await anext(hints) == ""


async def test_a_running_job_is_cancelled_once_and_says_where_it_ran(stores: Stores) -> None:
    await running(stores, an_attempt(worker="w7"))
    job = await stores.jobs.cancel("j1", NOW + 5)
    assert (job.state, job.finished_at, job.started_at) == (JobState.CANCELLED, NOW + 5, NOW + 2)
    assert (job.worker, job.attempts, job.losses, job.error, job.result) == ("w7", 1, 0, None, None)
    with pytest.raises(NotCancellable, match="ended already: it is cancelled"):
        await stores.jobs.cancel("j1", NOW + 6)
    assert await stores.jobs.get("j1") == job
    settled = {"job": "j1", "model": "m", "state": "cancelled", "worker": "w7"}
    assert await told(stores, "job.settled") == [settled]


async def test_a_result_that_is_stored_first_wins(stores: Stores) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    assert await stores.jobs.finish(attempt, an_outcome(), NOW + 3)
    with pytest.raises(NotCancellable, match="ended already: it is succeeded"):
        await stores.jobs.cancel("j1", NOW + 4)
    assert (await stores.jobs.get("j1")).state is JobState.SUCCEEDED
    assert not await stores.jobs.cancelled(["j1"])


async def test_of_a_result_and_a_cancel_at_once_exactly_one_is_stored(stores: Stores) -> None:
    for number in range(20):
        attempt = an_attempt(f"j{number}")
        await running(stores, attempt)
        calls = [stores.jobs.finish(attempt, an_outcome(), NOW + 3), stores.jobs.cancel(attempt.job_id, NOW + 3)]
        order = calls if number % 2 else calls[::-1]
        answers = await asyncio.gather(*order, return_exceptions=True)
        finished = next(answer for answer in answers if isinstance(answer, bool))
        refused = any(isinstance(answer, NotCancellable) for answer in answers)
        assert finished is refused
        state = (await stores.jobs.get(attempt.job_id)).state
        assert state is (JobState.SUCCEEDED if finished else JobState.CANCELLED)


async def test_whatever_the_attempt_of_a_cancelled_job_still_says_changes_nothing(stores: Stores) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    job = await stores.jobs.cancel("j1", NOW + 3)
    assert not await stores.jobs.finish(attempt, an_outcome(), NOW + 4)
    assert not await stores.jobs.finish(attempt, an_outcome(error=LOST), NOW + 4)
    assert not await stores.jobs.give_back(attempt, LOST, True, NOW + 4)
    assert not await stores.jobs.give_back(attempt, None, False, NOW + 4)
    (answer,) = await stores.jobs.start([(attempt, a_spec(), NOW)], NOW + 5)
    assert (answer.verdict, answer.job) == (Verdict.FINISHED, job)
    assert not await stores.jobs.demand()


async def test_a_job_whose_worker_dies_after_the_cancel_stays_cancelled(stores: Stores) -> None:
    await running(stores, an_attempt(worker="w1"))
    job = await stores.jobs.cancel("j1", NOW + 3)
    await stores.expire("lease", "w1")
    assert await stores.jobs.reclaim("w1", NOW + 20) == 0
    (answer,) = await stores.jobs.start([(an_attempt(worker="w2"), a_spec(), NOW)], NOW + 20)
    assert answer.verdict is Verdict.FINISHED, "its delivery comes again, and is dropped"
    assert await stores.jobs.get("j1") == job


async def test_a_job_that_was_lost_and_is_queued_again_is_cancelled_for_its_next_worker_too(stores: Stores) -> None:
    attempt = an_attempt(worker="w1")
    await running(stores, attempt)
    await stores.expire("lease", "w1")
    await stores.jobs.reclaim("w1", NOW + 10)
    assert (await stores.jobs.cancel("j1", NOW + 11)).state is JobState.CANCELLED
    (answer,) = await stores.jobs.start([(an_attempt(worker="w2"), a_spec(), NOW)], NOW + 12)
    assert answer.verdict is Verdict.FINISHED


async def test_the_cancelled_among_some_jobs_are_known(stores: Stores) -> None:
    for job_id in ("ran", "runs", "waits"):
        await stores.jobs.create(a_spec(job_id), NOW)
    for job_id in ("ran", "runs"):
        await running(stores, an_attempt(job_id))
    await stores.jobs.cancel("ran", NOW + 3)
    assert await stores.jobs.cancelled(["ran", "runs", "waits", "nobody"]) == {"ran"}
    await stores.jobs.cancel("waits", NOW + 3)
    assert await stores.jobs.cancelled(["waits", "ran"]) == {"ran", "waits"}
    assert await stores.jobs.cancelled([]) == frozenset()


async def test_workers_are_hinted_at_a_cancel_of_what_runs_and_of_nothing_else(stores: Stores) -> None:
    hints = stores.fleet.wakes()
    await after_the_first(hints)
    await stores.jobs.create(a_spec("queued"), NOW)
    await stores.jobs.cancel("queued", NOW)
    await running(stores, an_attempt("j1"))
    await stores.jobs.cancel("j1", NOW + 3)
    async with asyncio.timeout(10):
        assert await anext(hints) == "j1"
        await stores.fleet.wake()
        assert await anext(hints) == ""


async def test_a_drain_lasts_until_it_is_taken_back_whatever_the_worker_does(stores: Stores) -> None:
    report = a_report("w1")
    await stores.fleet.drain("w1", "me", NOW)
    await stores.fleet.report(report)
    assert (await stores.fleet.sighting()).view.drains == {"w1"}
    await stores.fleet.leave(report)
    await stores.fleet.drain("w2", "me", NOW)
    view = (await stores.fleet.sighting()).view
    assert (view.drains, view.with_report(later(report)).drains) == ({"w1", "w2"}, {"w1", "w2"})
    await stores.fleet.undrain("w1", "me", NOW)
    assert (await stores.fleet.sighting()).view.drains == {"w2"}


async def test_a_drain_is_said_when_something_has_changed(stores: Stores) -> None:
    for _ in range(2):
        await stores.fleet.drain("w1", "me", NOW)
    for _ in range(2):
        await stores.fleet.undrain("w1", "you", NOW)
    await stores.fleet.undrain("w2", "you", NOW)
    assert await told(stores, "worker.drain_asked") == [{"worker": "w1", "by": "me"}]
    assert await told(stores, "worker.drain_ended") == [{"worker": "w1", "by": "you"}]


async def test_a_drain_leaves_no_key_that_the_topology_does_not_name(link: RedisLink, keys: Keys) -> None:
    fleet = RedisFleetStore(link, keys)
    await fleet.drain("w1", "me", NOW)
    async with link.guard() as client:
        assert {key async for key in client.scan_iter(f"{keys.prefix}*")} == {keys.drains, keys.events}
        await fleet.undrain("w1", "me", NOW)
        assert not await client.exists(keys.drains)

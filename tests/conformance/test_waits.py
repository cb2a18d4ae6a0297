"""A job that is not to run yet: neither started nor demand, but queued, and nothing is forgotten of it."""

import pytest

from affinity.io.ports import StartAnswer, Verdict
from affinity.job import DUE_SLACK_S, Attempt, JobError, JobState
from tests.support.job_samples import a_spec, an_attempt, an_outcome
from tests.support.stores import Stores

NOW = 1_700_000_000.5
WAIT_S = 8.0
NEVER_S = 1e10
"""Longer than the real server's clock, which cannot be told the time, is ahead of ``NOW``."""

ERROR = JobError("job_timeout", "too long")


async def start(stores: Stores, attempt: Attempt, at: float, ttl_s: float | None = None) -> StartAnswer:
    (answer,) = await stores.jobs.start([(attempt, a_spec(ttl_s=ttl_s), NOW)], at)
    return answer


async def failed_once(stores: Stores, wait_s: float, ttl_s: float | None = None, died: bool = False) -> Attempt:
    attempt = an_attempt()
    await start(stores, attempt, NOW, ttl_s)
    assert await stores.jobs.give_back(attempt, ERROR, True, NOW, wait_s, died)
    return attempt


async def test_a_job_in_its_wait_is_not_started_and_says_until_when(stores: Stores) -> None:
    await failed_once(stores, WAIT_S)
    answer = await start(stores, an_attempt(), NOW + WAIT_S - DUE_SLACK_S - 0.1)
    assert (answer.verdict, answer.job.state, answer.job.not_before) == (Verdict.DELAYED, JobState.QUEUED, NOW + WAIT_S)
    assert (await stores.jobs.get("j1")).attempts == 1


@pytest.mark.parametrize("early_s", [DUE_SLACK_S - 0.1, 0.0, -100.0])
async def test_after_its_wait_it_starts_and_the_wait_is_over_for_good(stores: Stores, early_s: float) -> None:
    await failed_once(stores, WAIT_S)
    attempt = an_attempt()
    answer = await start(stores, attempt, NOW + WAIT_S - early_s)
    assert (answer.verdict, answer.job.attempts) == (Verdict.STARTED, 2)
    assert (await stores.jobs.get("j1")).not_before is None
    assert await stores.jobs.give_back(attempt, None, False, NOW + WAIT_S)
    assert (await start(stores, an_attempt(), NOW)).verdict is Verdict.STARTED


async def test_it_is_queued_and_listed_but_no_demand(stores: Stores) -> None:
    await failed_once(stores, NEVER_S)
    await stores.jobs.create(a_spec("j2"), NOW + 1)
    (demand,) = await stores.jobs.demand()
    assert (demand.queued, demand.oldest_at, demand.summed_arrival_s) == (1, NOW + 1, NOW + 1)
    page = await stores.jobs.page(JobState.QUEUED, "m", 10, None)
    assert [job.id for job in page.jobs] == ["j2", "j1"]
    assert await stores.jobs.position("j1", "m") is None
    assert await stores.jobs.position("j2", "m") == 0


async def test_a_delivery_that_is_seen_in_the_wait_makes_it_no_demand(stores: Stores) -> None:
    await failed_once(stores, NEVER_S)
    await stores.jobs.sight(a_spec(), NOW, NOW + 1)
    assert await stores.jobs.demand() == []


async def test_once_it_is_due_it_is_demand_again_since_its_creation(stores: Stores) -> None:
    await failed_once(stores, WAIT_S)
    stores_clock_is_past = stores.clock.now() - NOW - WAIT_S
    if stores_clock_is_past < 0:
        await stores.expire("job", "nobody")  # the fake's way to let a day pass
    (demand,) = await stores.jobs.demand()
    assert (demand.queued, demand.oldest_at) == (1, NOW)
    assert await stores.jobs.position("j1", "m") == 0
    await start(stores, an_attempt(), NOW + WAIT_S)
    assert await stores.jobs.demand() == []


@pytest.mark.parametrize("ending", ["cancel", "fail", "expire"])
async def test_it_may_end_in_its_wait_and_leaves_no_demand(stores: Stores, ending: str) -> None:
    await failed_once(stores, NEVER_S, ttl_s=5.0)
    if ending == "cancel":
        await stores.jobs.cancel("j1", NOW + 1)
    elif ending == "fail":
        assert await stores.jobs.fail("j1", JobError("load_failed", "no"), NOW + 1)
    else:
        assert (await start(stores, an_attempt(), NOW + 5.5, ttl_s=5.0)).verdict is Verdict.EXPIRED
    job = await stores.jobs.get("j1")
    assert (job.state.terminal, job.not_before) == (True, None)
    assert await stores.jobs.demand() == []


async def test_a_job_that_lost_its_worker_starts_again_whatever_its_time_to_live(stores: Stores) -> None:
    await start(stores, an_attempt(worker="gone"), NOW, ttl_s=5.0)
    assert (await start(stores, an_attempt(), NOW + 50, ttl_s=5.0)).verdict is Verdict.STARTED


async def test_deaths_are_counted_and_told_to_whoever_starts_it_next(stores: Stores) -> None:
    await failed_once(stores, 0.0, died=True)
    answer = await start(stores, an_attempt(), NOW)
    assert (answer.verdict, answer.job.deaths, answer.job.not_before) == (Verdict.STARTED, 1, None)


async def test_an_outcome_of_the_attempt_that_was_given_back_is_refused_in_the_wait(stores: Stores) -> None:
    attempt = await failed_once(stores, WAIT_S)
    assert not await stores.jobs.finish(attempt, an_outcome(), NOW + 1)

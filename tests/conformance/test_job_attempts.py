"""What an attempt may do: nothing under an id that is another job's, and nothing before its start."""

import pytest

from affinity.io.ports import JobStore, StartAnswer, Verdict
from affinity.job import Attempt, JobSpec
from tests.support.job_samples import a_spec, an_attempt, an_outcome
from tests.support.stores import Stores

NOW = 1_700_000_000.5


async def start(store: JobStore, attempt: Attempt, spec: JobSpec) -> StartAnswer:
    (answer,) = await store.start([(attempt, spec, NOW)], NOW + 2)
    return answer


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
async def test_other_content_under_a_taken_id_is_a_stranger_and_the_job_there_is_left_alone(
    stores: Stores, state: str
) -> None:
    attempt, stranger = an_attempt(), an_attempt(worker="w2")
    await stores.jobs.create(a_spec(n=1), NOW)
    if state != "queued":
        await start(stores.jobs, attempt, a_spec(n=1))
    if state == "succeeded":
        await stores.jobs.finish(attempt, an_outcome(), NOW + 3)
    before, outbox = await stores.jobs.get("j1"), await stores.jobs.unpublished(NOW + 1, 10)
    answer = await start(stores.jobs, stranger, a_spec(n=2))
    assert (answer.verdict, answer.job) == (Verdict.STRANGER, before)
    assert not await stores.jobs.finish(stranger, an_outcome("a stranger's"), NOW + 4)
    assert await stores.jobs.get("j1") == before
    assert await stores.jobs.unpublished(NOW + 1, 10) == outbox


async def test_an_outcome_that_comes_before_its_start_is_refused_and_taken_after_it(stores: Stores) -> None:
    attempt = an_attempt()
    await stores.jobs.create(a_spec(), NOW)
    assert not await stores.jobs.finish(attempt, an_outcome(), NOW + 1)
    assert (await start(stores.jobs, attempt, a_spec())).verdict is Verdict.STARTED
    assert await stores.jobs.finish(attempt, an_outcome(), NOW + 3)
    assert (await start(stores.jobs, attempt, a_spec())).verdict is Verdict.FINISHED
    assert (await stores.jobs.get("j1")).attempts == 1

"""What every ``JobStore`` keeps of the load before a cold start."""

import pytest

from affinity.job import JobError, Outcome, StartKind
from tests.support.job_samples import a_spec, an_attempt
from tests.support.stores import Stores

NOW = 1_700_000_000.5


@pytest.mark.parametrize("evicted", [(), ("a",), ("team/a:1.0", "b_c-d")])
@pytest.mark.parametrize("error", [None, JobError("job_failed", "it raised")])
async def test_a_cold_job_keeps_whom_its_load_evicted(
    stores: Stores, evicted: tuple[str, ...], error: JobError | None
) -> None:
    attempt = an_attempt()
    await stores.jobs.start([(attempt, a_spec(), NOW)], NOW + 1)
    assert (await stores.jobs.get("j1")).evicted is None
    await stores.jobs.finish(attempt, Outcome(StartKind.COLD, 0.5, 0.1, error=error, evicted=evicted), NOW + 2)
    job = await stores.jobs.get("j1")
    assert (job.start, job.load_s, job.evicted) == (StartKind.COLD, 0.5, evicted)


async def test_a_warm_job_evicted_nobody_and_says_nothing(stores: Stores) -> None:
    attempt = an_attempt()
    await stores.jobs.start([(attempt, a_spec(), NOW)], NOW + 1)
    await stores.jobs.finish(attempt, Outcome(StartKind.WARM, 0.0, 0.1, evicted=("a",)), NOW + 2)
    assert (await stores.jobs.get("j1")).evicted is None


async def test_a_result_that_cannot_be_stored_takes_nothing_from_what_is_known_of_the_load(stores: Stores) -> None:
    attempt = an_attempt()
    await stores.jobs.start([(attempt, a_spec(), NOW)], NOW + 1)
    await stores.jobs.finish(attempt, Outcome(StartKind.COLD, 0.5, 0.1, object(), evicted=("a",)), NOW + 2)
    job = await stores.jobs.get("j1")
    assert job.error is not None
    assert (job.start, job.load_s, job.evicted) == (StartKind.COLD, 0.5, ("a",))

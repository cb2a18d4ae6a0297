"""What the store believes of jobs that may be astray, the same in the fake and in Redis."""

import pytest

from affinity.io.ports import StartAnswer
from affinity.job import Attempt, JobError, JobSpec
from tests.support.job_samples import a_report, a_spec, an_attempt, an_outcome
from tests.support.stores import Stores

NOW = 1_700_000_000.5


async def start(stores: Stores, spec: JobSpec, attempt: Attempt) -> StartAnswer:
    (answer,) = await stores.jobs.start([(attempt, spec, NOW)], NOW)
    return answer


async def test_one_at_a_time_has_the_turn_until_its_time_is_over(stores: Stores) -> None:
    strays = stores.jobs.strays
    assert await strays.take_turn("a", 10.0)
    assert await strays.take_turn("a", 10.0)
    assert not await strays.take_turn("b", 10.0)
    await stores.expire("turn", "")
    assert await strays.take_turn("b", 10.0)


async def test_queued_jobs_are_named_oldest_first_and_those_of_other_models_are_not(stores: Stores) -> None:
    for n, model in enumerate(("m", "n", "m", "m")):
        await stores.jobs.create(a_spec(f"j{n}", model=model), NOW + n)
    assert list(await stores.jobs.strays.queued("m", 2)) == ["j0", "j2"]
    assert list(await stores.jobs.strays.queued("m", 10)) == ["j0", "j2", "j3"]
    assert list(await stores.jobs.strays.queued("x", 10)) == []


@pytest.mark.parametrize("ending", ["finish", "give back", "cancel", "reclaim"])
async def test_what_runs_on_a_worker_is_named_with_its_token_until_it_does_not(stores: Stores, ending: str) -> None:
    await stores.fleet.report(a_report("w1"))
    attempt = an_attempt("j1", "w1")
    await start(stores, a_spec("j1"), attempt)
    await start(stores, a_spec("j2"), an_attempt("j2", "w2"))
    strays = stores.jobs.strays
    assert dict(await strays.running("w1", attempt.epoch)) == {"j1": attempt.token}
    assert dict(await strays.running("w1", attempt.epoch + 1)) == {}
    if ending == "finish":
        await stores.jobs.finish(attempt, an_outcome(), NOW)
    elif ending == "give back":
        await stores.jobs.give_back(attempt, JobError("x", "x"), True, NOW)
    elif ending == "cancel":
        await stores.jobs.cancel("j1", NOW)
    else:
        await stores.expire("lease", "w1")
        await stores.jobs.reclaim("w1", NOW)
    assert dict(await strays.running("w1", attempt.epoch)) == {}

"""What every ``JobStore`` does: creation, outbox, starts and ends. Pages and demand are in ``test_job_listing``."""

import asyncio

import pytest

from affinity.errors import IdConflict, NotCancellable, UnknownJob
from affinity.io.ports import JobStore, StartAnswer, Verdict
from affinity.job import MAX_LOSSES, Attempt, Job, JobError, JobSpec, JobState, StartKind
from tests.support.job_samples import a_report, a_spec, an_attempt, an_outcome
from tests.support.stores import Stores

OOM = JobError("out_of_vram", "no room \ud800 for it")
NOW = 1_700_000_000.123456


async def start(store: JobStore, attempt: Attempt, spec: JobSpec | None = None, now: float = NOW + 2) -> StartAnswer:
    (answer,) = await store.start([(attempt, spec or a_spec(attempt.job_id), NOW)], now)
    return answer


async def running(stores: Stores, attempt: Attempt) -> Job:
    """A job that runs under a live lease."""
    await stores.jobs.create(a_spec(attempt.job_id), NOW)
    assert await stores.fleet.report(a_report(attempt.worker, attempt.epoch))
    answer = await start(stores.jobs, attempt)
    assert answer.verdict is Verdict.STARTED
    return answer.job


async def test_a_new_job_is_queued_unpublished_and_found_by_its_id(stores: Stores) -> None:
    created = await stores.jobs.create(a_spec(), NOW)
    assert (created.fresh, created.published) == (True, False)
    assert created.job == Job(a_spec(), JobState.QUEUED, created_at=NOW)
    assert await stores.jobs.get("j1") == created.job


async def test_the_same_id_and_content_gives_the_job_that_is_there(stores: Stores) -> None:
    first = await stores.jobs.create(a_spec(), NOW)
    again = await stores.jobs.create(a_spec(), NOW + 5)
    assert (again.job, again.fresh, again.published) == (first.job, False, False)
    await stores.jobs.published("j1")
    assert (await stores.jobs.create(a_spec(), NOW + 5)).published


async def test_the_same_id_with_other_content_is_a_conflict_and_changes_nothing(stores: Stores) -> None:
    await stores.jobs.create(a_spec(), NOW)
    with pytest.raises(IdConflict, match="j1"):
        await stores.jobs.create(a_spec(n=2), NOW)
    assert (await stores.jobs.get("j1")).spec == a_spec()


async def test_an_id_nobody_used_is_unknown(stores: Stores) -> None:
    with pytest.raises(UnknownJob, match="nobody"):
        await stores.jobs.get("nobody")
    with pytest.raises(UnknownJob):
        await stores.jobs.cancel("nobody", NOW)


async def test_the_outbox_holds_what_was_not_confirmed_oldest_first(stores: Stores) -> None:
    for number in (3, 1, 2, 4):
        await stores.jobs.create(a_spec(f"j{number}"), NOW + number)
    await stores.jobs.published("j2")
    waiting = await stores.jobs.unpublished(NOW + 4, limit=10)
    assert [job.id for job in waiting] == ["j1", "j3"]
    assert [job.id for job in await stores.jobs.unpublished(NOW + 4, limit=1)] == ["j1"]


async def test_a_withdrawn_job_is_as_if_it_had_never_been(stores: Stores) -> None:
    await stores.jobs.create(a_spec(), NOW)
    assert await stores.jobs.withdraw("j1")
    with pytest.raises(UnknownJob):
        await stores.jobs.get("j1")
    assert not await stores.jobs.demand()
    assert not await stores.jobs.unpublished(NOW + 1, 10)
    assert not (await stores.jobs.page(None, None, 10, None)).jobs
    assert await stores.jobs.withdraw("j1")
    assert (await stores.jobs.create(a_spec(n=2), NOW)).fresh


@pytest.mark.parametrize("event", ["published", "started", "sighted", "cancelled"])
async def test_a_job_that_got_through_after_all_is_not_withdrawn(stores: Stores, event: str) -> None:
    await stores.jobs.create(a_spec(), NOW)
    if event == "published":
        await stores.jobs.published("j1")
    elif event == "started":
        await start(stores.jobs, an_attempt())
    elif event == "sighted":
        await stores.jobs.sight(a_spec(), NOW, NOW)
    else:
        await stores.jobs.cancel("j1", NOW)
    before = await stores.jobs.get("j1")
    assert not await stores.jobs.withdraw("j1")
    assert await stores.jobs.get("j1") == before
    assert not await stores.jobs.unpublished(NOW + 1, 10)


async def test_a_start_says_who_runs_it_since_when_and_how_long_it_waited(stores: Stores) -> None:
    job = await running(stores, an_attempt(worker="w7"))
    assert (job.state, job.worker, job.attempts, job.losses) == (JobState.RUNNING, "w7", 1, 0)
    assert (job.started_at, job.wait_s) == (NOW + 2, NOW + 2 - NOW)
    assert await stores.jobs.get("j1") == job


async def test_a_start_before_the_creation_by_a_slow_clock_waited_zero_seconds(stores: Stores) -> None:
    await stores.jobs.create(a_spec(), NOW)
    assert (await start(stores.jobs, an_attempt(), now=NOW - 3)).job.wait_s == 0.0


async def test_a_start_that_is_repeated_counts_once(stores: Stores) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    again = await start(stores.jobs, attempt)
    assert (again.verdict, again.job.attempts, again.job.losses) == (Verdict.STARTED, 1, 0)


async def test_a_second_delivery_is_held_while_the_first_runs_under_a_live_lease(stores: Stores) -> None:
    job = await running(stores, an_attempt())
    answer = await start(stores.jobs, an_attempt(worker="w2"))
    assert (answer.verdict, answer.job) == (Verdict.HELD, job)


@pytest.mark.parametrize("loss", ["lease", "epoch"])
async def test_a_job_whose_worker_is_lost_starts_again_and_the_lost_attempt_ends_nothing(
    stores: Stores, loss: str
) -> None:
    lost, second = an_attempt(worker="w1"), an_attempt(worker="w2")
    await running(stores, lost)
    if loss == "lease":
        await stores.expire("lease", "w1")
    else:
        assert await stores.fleet.report(a_report("w1", epoch=2))
    answer = await start(stores.jobs, second, now=NOW + 9)
    assert (answer.verdict, answer.job.worker, answer.job.started_at) == (Verdict.STARTED, "w2", NOW + 9)
    assert (answer.job.attempts, answer.job.losses) == (1, 1)
    assert not await stores.jobs.finish(lost, an_outcome(), NOW + 10)
    assert not await stores.jobs.give_back(lost, None, uses_attempt=True, now=NOW + 10)
    assert (await stores.jobs.get("j1")).state is JobState.RUNNING
    assert await stores.jobs.finish(second, an_outcome(), NOW + 10)


async def test_an_attempt_without_a_lease_still_ends_its_job_if_nobody_took_over(stores: Stores) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    await stores.expire("lease", "w1")
    assert await stores.jobs.finish(attempt, an_outcome(), NOW + 3)


async def test_an_outcome_is_kept_to_the_last_bit(stores: Stores) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    result = {"vectors": [[0.1, 1e-300]], "text": "ä\ud800", "empty": [], "none": None}
    assert await stores.jobs.finish(attempt, an_outcome(result), NOW + 3)
    job = await stores.jobs.get("j1")
    assert (job.state, job.finished_at, job.worker, job.error) == (JobState.SUCCEEDED, NOW + 3, "w1", None)
    assert (job.start, job.load_s, job.exec_s, job.result) == (StartKind.WARM, 0.1, 0.1 + 0.2, result)


async def test_the_first_outcome_wins_and_repeating_it_is_no_error(stores: Stores) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    assert await stores.jobs.finish(attempt, an_outcome("first"), NOW + 3)
    assert await stores.jobs.finish(attempt, an_outcome("second"), NOW + 4)
    assert not await stores.jobs.finish(an_attempt(), an_outcome("third"), NOW + 5)
    assert not await stores.jobs.give_back(attempt, None, uses_attempt=True, now=NOW + 6)
    job = await stores.jobs.get("j1")
    assert (job.result, job.finished_at) == ("first", NOW + 3)


async def test_a_delivery_of_a_job_that_ended_is_told_so_with_its_result(stores: Stores) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    await stores.jobs.finish(attempt, an_outcome([1, 2]), NOW + 3)
    answer = await start(stores.jobs, an_attempt(worker="w2"))
    assert (answer.verdict, answer.job.result) == (Verdict.FINISHED, [1, 2])


async def test_a_failure_keeps_its_error(stores: Stores) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    assert await stores.jobs.finish(attempt, an_outcome(error=JobError("job_failed", "raised ä")), NOW + 3)
    job = await stores.jobs.get("j1")
    assert (job.state, job.result, job.error) == (JobState.FAILED, None, JobError("job_failed", "raised ä"))
    assert job.start is StartKind.WARM


async def test_a_result_over_the_limit_makes_the_job_failed_and_says_what_to_do(stores: Stores) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    assert await stores.jobs.finish(attempt, an_outcome("x" * stores.max_result_bytes), NOW + 3)
    job = await stores.jobs.get("j1")
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == "payload_too_large"
    assert str(stores.max_result_bytes) in job.error.message


@pytest.mark.parametrize("result", [float("nan"), {1, 2}, object()], ids=["nan", "set", "object"])
async def test_a_result_that_is_no_json_makes_the_job_failed(stores: Stores, result: object) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    assert await stores.jobs.finish(attempt, an_outcome(result), NOW + 3)
    job = await stores.jobs.get("j1")
    assert job.error is not None
    assert job.error.code == "job_failed"


@pytest.mark.parametrize(
    ("error", "uses_attempt", "attempts", "losses"),
    [(OOM, True, 1, 0), (None, True, 1, 0), (OOM, False, 0, 1), (None, False, 0, 0)],
)
async def test_a_job_given_back_counts_what_it_should_once(
    stores: Stores, error: JobError | None, uses_attempt: bool, attempts: int, losses: int
) -> None:
    attempt = an_attempt()
    await running(stores, attempt)
    assert not await stores.jobs.give_back(an_attempt(), error, uses_attempt, NOW + 3)
    assert await stores.jobs.give_back(attempt, error, uses_attempt, NOW + 3)
    assert await stores.jobs.give_back(attempt, error, uses_attempt, NOW + 3)
    job = await stores.jobs.get("j1")
    assert job == Job(a_spec(), JobState.QUEUED, NOW, attempts=attempts, losses=losses)
    again = await start(stores.jobs, an_attempt(worker="w2"))
    assert (again.verdict, again.job.attempts, again.job.losses) == (Verdict.STARTED, attempts + 1, losses)


async def test_a_job_that_is_lost_too_often_gives_up_and_names_the_last_loss(stores: Stores) -> None:
    await stores.jobs.create(a_spec(), NOW)
    for _ in range(MAX_LOSSES):
        attempt = an_attempt()
        assert (await start(stores.jobs, attempt)).verdict is Verdict.STARTED
        assert await stores.jobs.give_back(attempt, OOM, uses_attempt=False, now=NOW + 3)
    last = an_attempt()
    answer = await start(stores.jobs, last, now=NOW + 9)
    assert (answer.verdict, answer.job.state, answer.job.finished_at) == (Verdict.EXHAUSTED, JobState.FAILED, NOW + 9)
    assert answer.job.error is not None
    assert answer.job.error.code == "attempts_exhausted"
    assert "out_of_vram" in answer.job.error.message
    assert (await start(stores.jobs, last)).verdict is Verdict.EXHAUSTED
    assert (await start(stores.jobs, an_attempt())).verdict is Verdict.FINISHED


async def test_losing_the_worker_too_often_is_bounded_too(stores: Stores) -> None:
    await stores.jobs.create(a_spec(), NOW)
    verdicts = [(await start(stores.jobs, an_attempt())).verdict for _ in range(MAX_LOSSES + 1)]
    assert verdicts == [Verdict.STARTED] * MAX_LOSSES + [Verdict.EXHAUSTED]
    job = await stores.jobs.get("j1")
    assert (job.losses, job.worker) == (MAX_LOSSES, None)
    assert job.error is not None
    assert "worker_lost" in job.error.message


async def test_a_job_past_its_ttl_expires_instead_of_starting(stores: Stores) -> None:
    spec, attempt = a_spec(ttl_s=5.0), an_attempt()
    await stores.jobs.create(spec, NOW)
    answer = await start(stores.jobs, attempt, spec, now=NOW + 5.001)
    assert (answer.verdict, answer.job.state, answer.job.error) == (Verdict.EXPIRED, JobState.EXPIRED, None)
    assert (await start(stores.jobs, attempt, spec)).verdict is Verdict.EXPIRED
    assert (await start(stores.jobs, an_attempt(), spec)).verdict is Verdict.FINISHED


async def test_the_ttl_is_over_once_the_job_has_started(stores: Stores) -> None:
    spec, attempt = a_spec(ttl_s=5.0), an_attempt()
    await stores.jobs.create(spec, NOW)
    assert (await start(stores.jobs, attempt, spec, now=NOW + 5)).verdict is Verdict.STARTED
    await stores.jobs.give_back(attempt, OOM, uses_attempt=True, now=NOW + 6)
    assert (await start(stores.jobs, an_attempt(), spec, now=NOW + 60)).verdict is Verdict.STARTED


async def test_a_job_nobody_recorded_is_recorded_when_it_starts(stores: Stores) -> None:
    answer = await start(stores.jobs, an_attempt("foreign"))
    assert (answer.verdict, answer.job.spec, answer.job.created_at) == (Verdict.STARTED, a_spec("foreign"), NOW)
    assert await stores.jobs.get("foreign") == answer.job


async def test_several_starts_are_answered_in_order(stores: Stores) -> None:
    await running(stores, an_attempt("held"))
    await stores.jobs.create(a_spec("ended"), NOW)
    await stores.jobs.cancel("ended", NOW)
    await stores.jobs.create(a_spec("late", ttl_s=1.0), NOW)
    await stores.jobs.create(a_spec("other", n=2), NOW)
    names = ("held", "new", "ended", "late", "other")
    batch = [(an_attempt(name, "w2"), a_spec(name, ttl_s=1.0 if name == "late" else None), NOW) for name in names]
    answers = await stores.jobs.start(batch, NOW + 2)
    assert tuple(answer.job.id for answer in answers) == names
    assert [answer.verdict.value for answer in answers] == ["held", "started", "finished", "expired", "stranger"]
    assert not await stores.jobs.start([], NOW)


async def test_of_many_starts_at_once_exactly_one_is_granted(stores: Stores) -> None:
    await stores.jobs.create(a_spec(), NOW)
    attempts = [an_attempt(worker=f"w{number}") for number in range(40)]
    for attempt in attempts:
        await stores.fleet.report(a_report(attempt.worker, attempt.epoch))
    answers = await asyncio.gather(*(start(stores.jobs, attempt) for attempt in attempts))
    winners = [a for a, answer in zip(attempts, answers, strict=True) if answer.verdict is Verdict.STARTED]
    assert len(winners) == 1
    assert all(answer.verdict in (Verdict.STARTED, Verdict.HELD) for answer in answers)
    assert (await stores.jobs.get("j1")).worker == winners[0].worker
    ends = await asyncio.gather(*(stores.jobs.finish(a, an_outcome(a.worker), NOW + 3) for a in attempts))
    assert sum(ends) == 1
    assert (await stores.jobs.get("j1")).result == winners[0].worker


async def test_a_sighting_records_a_foreign_job_once(stores: Stores) -> None:
    job = await stores.jobs.sight(a_spec(), NOW, NOW + 1)
    assert job == Job(a_spec(), JobState.QUEUED, NOW)
    assert await stores.jobs.sight(a_spec(), NOW + 5, NOW + 6) == job
    with pytest.raises(IdConflict):
        await stores.jobs.sight(a_spec(n=2), NOW, NOW)
    created = await stores.jobs.create(a_spec(), NOW + 7)
    assert (created.job, created.fresh, created.published) == (job, False, True)


@pytest.mark.parametrize(("claimed", "believed"), [(NOW + 3600, NOW), (-5e10, 0.0)])
async def test_an_impossible_creation_is_not_believed(stores: Stores, claimed: float, believed: float) -> None:
    assert (await stores.jobs.sight(a_spec(), claimed, NOW)).created_at == believed
    (demand,) = await stores.jobs.demand()
    assert demand.oldest_wait_s(NOW) >= 0
    assert (await stores.jobs.cancel("j1", NOW)).state is JobState.CANCELLED
    assert not await stores.jobs.demand()


async def test_a_sighting_leaves_a_running_and_an_ended_job_alone(stores: Stores) -> None:
    attempt = an_attempt()
    job = await running(stores, attempt)
    assert await stores.jobs.sight(a_spec(), NOW, NOW + 3) == job
    await stores.jobs.finish(attempt, an_outcome(), NOW + 4)
    assert (await stores.jobs.sight(a_spec(), NOW, NOW + 5)).state is JobState.SUCCEEDED
    assert not await stores.jobs.demand()


async def test_a_queued_job_is_cancelled_once(stores: Stores) -> None:
    await stores.jobs.create(a_spec(), NOW)
    job = await stores.jobs.cancel("j1", NOW + 1)
    assert (job.state, job.finished_at, job.error) == (JobState.CANCELLED, NOW + 1, None)
    with pytest.raises(NotCancellable, match="cancelled"):
        await stores.jobs.cancel("j1", NOW + 2)


async def test_a_queued_job_may_fail_without_a_start(stores: Stores) -> None:
    await stores.jobs.create(a_spec(), NOW)
    error = JobError("load_failed", "weights are damaged")
    assert await stores.jobs.fail("j1", error, NOW + 1)
    job = await stores.jobs.get("j1")
    assert (job.state, job.error, job.start, job.attempts) == (JobState.FAILED, error, None, 0)
    assert not await stores.jobs.fail("j1", error, NOW + 2)
    assert not await stores.jobs.fail("nobody", error, NOW + 2)
    await running(stores, an_attempt("j2"))
    assert not await stores.jobs.fail("j2", error, NOW + 2)


async def test_a_record_past_its_retention_is_unknown_and_its_id_is_free(stores: Stores) -> None:
    await stores.jobs.create(a_spec(), NOW)
    await stores.jobs.cancel("j1", NOW)
    await stores.expire("job", "j1")
    with pytest.raises(UnknownJob):
        await stores.jobs.get("j1")
    assert (await stores.jobs.create(a_spec(n=2), NOW + 60)).fresh
    assert [job.spec for job in (await stores.jobs.page(None, None, 10, None)).jobs] == [a_spec(n=2)]
    assert not (await stores.jobs.page(JobState.CANCELLED, None, 10, None)).jobs


async def test_arrivals_are_counted_per_model_once_for_each_job(stores: Stores) -> None:
    assert await stores.jobs.rates() == {}
    for number in range(6):
        spec = JobSpec(f"j{number}", "often" if number else "rare", number)
        await stores.jobs.create(spec, NOW)
        await stores.jobs.published(spec.id)
        await stores.jobs.published(spec.id)
        await stores.jobs.sight(spec, NOW, NOW)
    await stores.jobs.create(JobSpec("refused", "refused", 0), NOW)
    await stores.jobs.withdraw("refused")
    rates = await stores.jobs.rates()
    assert set(rates) == {"often", "rare"}
    assert rates["often"] == pytest.approx(5 * rates["rare"], rel=0.01)
    assert 0.0 < rates["rare"] <= 1.01, "one arrival, seen for a second at least"

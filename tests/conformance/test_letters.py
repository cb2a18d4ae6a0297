"""Dead letters: every failed job is one, some that are no jobs are too, and each is put back once."""

import pytest

from affinity.errors import InvalidInput
from affinity.io.letters import Burial, Letter, LetterFilter, LooseLetter
from affinity.io.ports import StartAnswer, Verdict
from affinity.job import MAX_LIVES, Attempt, JobError, JobSpec, JobState, Life
from tests.support.job_samples import a_report, a_spec, an_attempt, an_outcome
from tests.support.stores import Stores

NOW = 1_700_000_000.5
ANY = LetterFilter()
FAILED = JobError("job_failed", "raised")


async def start(stores: Stores, spec: JobSpec, attempt: Attempt, at: float = NOW) -> StartAnswer:
    (answer,) = await stores.jobs.start([(attempt, spec, NOW)], at)
    return answer


async def fail(stores: Stores, spec: JobSpec, error: JobError = FAILED) -> None:
    attempt = an_attempt(spec.id)
    assert (await start(stores, spec, attempt)).verdict is Verdict.STARTED
    assert await stores.jobs.finish(attempt, an_outcome(error=error), NOW + 2)


async def listed(stores: Stores, which: LetterFilter = ANY) -> list[str]:
    return [letter.id for letter in (await stores.jobs.letters.page(which, 500, None)).letters]


async def put_back(stores: Stores, job_id: str = "j1", at: float = NOW + 10) -> None:
    assert (await stores.jobs.letters.redrive([job_id], 0.01))[0] == [job_id]
    job = await stores.jobs.letters.revive(job_id, at)
    assert job == await stores.jobs.get(job_id)


def a_loose(name: str = "a", body: bytes | None = b"\xff\x00{", model: str = "m") -> LooseLetter:
    error = JobError("undecodable_message", "the body is not JSON")
    return LooseLetter(f"~{name}", error, model, "w1", body, 3, model, "their-id")


async def test_a_failed_job_is_a_dead_letter_with_its_cause(stores: Stores) -> None:
    attempt = an_attempt()
    await start(stores, a_spec(), an_attempt(worker="gone"))
    await start(stores, a_spec(), attempt, NOW + 1)
    await stores.jobs.finish(attempt, an_outcome(error=FAILED), NOW + 2)
    (letter,) = (await stores.jobs.letters.page(ANY, 10, None)).letters
    expected = Letter("j1", "job_failed", "m", FAILED, NOW + 2, NOW, "w1", attempts=1, losses=1)
    assert letter == expected


@pytest.mark.parametrize("ending", ["succeeded", "cancelled", "expired"])
async def test_other_ends_are_no_dead_letters(stores: Stores, ending: str) -> None:
    spec = a_spec(ttl_s=5.0)
    if ending == "cancelled":
        await stores.jobs.create(spec, NOW)
        await stores.jobs.cancel("j1", NOW)
    elif ending == "expired":
        await stores.jobs.create(spec, NOW)
        await start(stores, spec, an_attempt(), NOW + 9)
    else:
        attempt = an_attempt()
        await start(stores, spec, attempt)
        await stores.jobs.finish(attempt, an_outcome(), NOW)
    assert (await stores.jobs.get("j1")).state == ending
    assert await listed(stores) == []


async def test_they_are_listed_newest_first_by_code_and_model_page_by_page(stores: Stores) -> None:
    for number in range(6):
        error = JobError("job_failed" if number % 2 else "quarantined", "x")
        await fail(stores, a_spec(f"j{number}", "m" if number < 4 else "n"), error)
    await stores.jobs.letters.keep(a_loose(), NOW)
    assert await listed(stores) == ["~a", "j5", "j4", "j3", "j2", "j1", "j0"]
    assert await listed(stores, LetterFilter(code="job_failed")) == ["j5", "j3", "j1"]
    assert await listed(stores, LetterFilter(model="m")) == ["~a", "j3", "j2", "j1", "j0"]
    assert await listed(stores, LetterFilter("quarantined", "m")) == ["j2", "j0"]
    assert await listed(stores, LetterFilter("quarantined", "none")) == []
    found, cursor = [], None
    for _ in range(3):
        page = await stores.jobs.letters.page(ANY, 3, cursor)
        found += [letter.id for letter in page.letters]
        cursor = page.cursor
    assert (len(found), len(set(found)), cursor) == (7, 7, None)
    assert await stores.jobs.letters.counts() == {"job_failed": 3, "quarantined": 3, "undecodable_message": 1}


@pytest.mark.parametrize("cursor", ["", "x", "1.5", "-1", "9" * 18])
async def test_a_cursor_we_never_gave_out_is_refused(stores: Stores, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await stores.jobs.letters.page(ANY, 10, cursor)


async def test_a_job_that_is_put_back_begins_anew_under_its_id_and_keeps_its_history(stores: Stores) -> None:
    await fail(stores, a_spec(ttl_s=5.0))
    await put_back(stores, at=NOW + 1000)
    job = await stores.jobs.get("j1")
    assert (job.state, job.attempts, job.losses, job.created_at, job.life) == (JobState.QUEUED, 0, 0, NOW + 1000, 1)
    assert (job.error, job.finished_at, job.worker, job.started_at, job.start) == (None,) * 5
    assert job.lives == (Life(NOW, NOW + 2, 1, 0, 0, "w1", FAILED),)
    assert await listed(stores) == []
    assert [one.id for one in await stores.jobs.unpublished(NOW + 2000, 10)] == ["j1"], "a sweep would publish it"
    (demand,) = await stores.jobs.demand()
    assert (demand.queued, demand.oldest_at) == (1, NOW + 1000)
    await stores.jobs.published("j1")
    answer = await start(stores, a_spec(ttl_s=5.0), an_attempt(token="again"), NOW + 1001)
    assert (answer.verdict, answer.job.attempts, answer.job.life) == (Verdict.STARTED, 1, 1)
    assert await stores.jobs.finish(Attempt("j1", "again", "w1", 1), an_outcome(), NOW + 1002)
    done = await stores.jobs.get("j1")
    assert (done.state, done.result, len(done.lives)) == (JobState.SUCCEEDED, "done", 1)


async def test_the_attempt_of_an_earlier_life_has_no_say_in_the_next(stores: Stores) -> None:
    attempt = an_attempt()
    await start(stores, a_spec(), attempt)
    await stores.jobs.finish(attempt, an_outcome(error=FAILED), NOW)
    await put_back(stores)
    assert not await stores.jobs.finish(attempt, an_outcome("late"), NOW + 11)
    assert not await stores.jobs.give_back(attempt, None, False, NOW + 11)
    assert (await stores.jobs.get("j1")).state is JobState.QUEUED


async def test_of_many_lives_the_last_are_kept(stores: Stores) -> None:
    for number in range(MAX_LIVES + 3):
        await fail(stores, a_spec(), JobError("job_failed", f"life {number}"))
        await put_back(stores, at=NOW + 10 + number)
    job = await stores.jobs.get("j1")
    assert (job.life, len(job.lives)) == (MAX_LIVES + 3, MAX_LIVES)
    assert job.lives[-1].error.message == f"life {MAX_LIVES + 2}"


async def test_only_what_is_dead_gets_a_turn_and_each_only_one(stores: Stores) -> None:
    for name in ("j1", "j2"):
        await fail(stores, a_spec(name))
    await stores.jobs.create(a_spec("j3"), NOW)
    await stores.jobs.letters.keep(a_loose(), NOW)
    asked_at = stores.clock.now()
    taken, ends_at = await stores.jobs.letters.redrive(["j1", "nothing", "j3", "~a", "~none", "j2"], 10.0)
    assert list(taken) == ["j1", "~a", "j2"]
    assert 19.9 <= ends_at - asked_at < 25.0
    assert (await stores.jobs.letters.redrive(["j2"], 10.0))[1] == ends_at, "it has its turn"
    assert list(await stores.jobs.letters.due(asked_at + 5, 10)) == ["j1"]
    assert list(await stores.jobs.letters.due(asked_at + 100, 10)) == ["j1", "~a", "j2"]
    assert list(await stores.jobs.letters.due(asked_at + 100, 2)) == ["j1", "~a"]


async def test_what_is_asked_for_later_has_its_turns_after_those_that_wait(stores: Stores) -> None:
    for name in ("j1", "j2"):
        await fail(stores, a_spec(name))
    _, first = await stores.jobs.letters.redrive(["j1"], 10.0)
    _, second = await stores.jobs.letters.redrive(["j2"], 10.0)
    assert second == pytest.approx(first + 10.0, abs=0.01)


async def test_the_same_job_put_back_twice_lives_once(stores: Stores) -> None:
    await fail(stores, a_spec())
    await put_back(stores)
    assert await stores.jobs.letters.revive("j1", NOW + 11) is None
    assert (await stores.jobs.letters.redrive(["j1"], 1.0))[0] == []
    assert (await stores.jobs.get("j1")).life == 1


async def test_a_job_without_a_turn_is_not_put_back(stores: Stores) -> None:
    await fail(stores, a_spec())
    assert await stores.jobs.letters.revive("j1", NOW + 11) is None
    assert (await stores.jobs.get("j1")).state is JobState.FAILED


# -- what comes by in the dead-letter queue ----------------------------------------------------------------------------


async def bury(stores: Stores, spec: JobSpec, life: int | None = 0) -> Burial:
    return await stores.jobs.letters.bury(spec, NOW, life, JobError("undeliverable", "in vain"), NOW + 5)


async def test_the_letter_of_a_failed_job_changes_nothing(stores: Stores) -> None:
    await fail(stores, a_spec())
    before = await stores.jobs.get("j1")
    assert await bury(stores, a_spec()) is Burial.LISTED
    assert await stores.jobs.get("j1") == before
    assert await listed(stores) == ["j1"]


async def test_a_letter_of_an_earlier_life_means_nothing(stores: Stores) -> None:
    await fail(stores, a_spec())
    await put_back(stores)
    assert await bury(stores, a_spec(), life=0) is Burial.DROPPED
    assert (await stores.jobs.get("j1")).state is JobState.QUEUED


async def test_the_letter_of_a_job_nobody_knows_any_more_makes_its_record(stores: Stores) -> None:
    assert await bury(stores, a_spec(), life=2) is Burial.LISTED
    job = await stores.jobs.get("j1")
    assert (job.state, job.error, job.life) == (JobState.FAILED, JobError("undeliverable", "in vain"), 2)
    assert await listed(stores, LetterFilter("undeliverable", "m")) == ["j1"]
    assert await stores.jobs.demand() == []


@pytest.mark.parametrize("life", [None, 0])
async def test_a_queued_job_whose_delivery_ended_there_has_failed(stores: Stores, life: int | None) -> None:
    await stores.jobs.create(a_spec(), NOW)
    assert await bury(stores, a_spec(), life) is Burial.LISTED
    assert (await stores.jobs.get("j1")).state is JobState.FAILED
    assert await stores.jobs.unpublished(NOW + 100, 10) == []


async def test_a_job_that_runs_under_a_live_lease_goes_on_and_a_lost_one_fails(stores: Stores) -> None:
    await stores.fleet.report(a_report("w1"))
    await start(stores, a_spec("j1"), an_attempt("j1", "w1"))
    await start(stores, a_spec("j2"), an_attempt("j2", "gone"))
    assert await bury(stores, a_spec("j1"), None) is Burial.DROPPED
    assert await bury(stores, a_spec("j2"), None) is Burial.LISTED
    assert [(await stores.jobs.get(j)).state for j in ("j1", "j2")] == ["running", "failed"]


async def test_another_jobs_letter_under_a_taken_id_is_a_strangers(stores: Stores) -> None:
    await stores.jobs.create(a_spec(n=1), NOW)
    before = await stores.jobs.get("j1")
    assert await bury(stores, a_spec(n=2)) is Burial.STRANGER
    assert await stores.jobs.get("j1") == before


@pytest.mark.parametrize("body", [b"\xff\x00{", b"", None])
async def test_a_letter_that_is_no_job_is_kept_whole_and_forgotten_when_told(
    stores: Stores, body: bytes | None
) -> None:
    letter = a_loose(body=body)
    await stores.jobs.letters.keep(letter, NOW)
    await stores.jobs.letters.keep(letter, NOW + 1)
    assert await stores.jobs.letters.loose("~a") == letter
    (shown,) = (await stores.jobs.letters.page(ANY, 10, None)).letters
    assert (shown.id, shown.code, shown.model, shown.worker) == ("~a", "undecodable_message", "m", "w1")
    assert (shown.size_bytes, shown.excerpt) == (3, "\\xff\x00{" if body else "")
    await stores.jobs.letters.redrive(["~a"], 1.0)
    await stores.jobs.letters.forget("~a")
    assert await stores.jobs.letters.loose("~a") is None
    assert await listed(stores) == []
    assert await stores.jobs.letters.due(stores.clock.now() + 100, 10) == []


async def test_a_turn_may_be_dropped(stores: Stores) -> None:
    await fail(stores, a_spec())
    await stores.jobs.letters.redrive(["j1"], 1.0)
    await stores.jobs.letters.drop_turn("j1")
    assert await stores.jobs.letters.due(stores.clock.now() + 100, 10) == []
    assert await listed(stores) == ["j1"]

"""What only a real Redis can show of the stores: its keys, their times to live, and what scripts leave behind."""

import json

import pytest

from affinity.errors import InvariantBroken
from affinity.io.fleet_store import RedisFleetStore
from affinity.io.job_store import RedisJobStore, moves_table
from affinity.io.letter_store import LETTER_RETENTION_S
from affinity.io.letters import LetterFilter, LooseLetter
from affinity.io.redis_client import RedisLink, lua
from affinity.job import TRANSITIONS, JobError, JobState
from affinity.topology import Keys
from tests.support.job_samples import a_report, a_spec, an_attempt, an_outcome

NOW = 1_700_000_000.5


@pytest.fixture
def jobs(link: RedisLink, keys: Keys) -> RedisJobStore:
    return RedisJobStore(link, keys, retention_s=100.0)


@pytest.fixture
def fleet(link: RedisLink, keys: Keys) -> RedisFleetStore:
    return RedisFleetStore(link, keys)


async def all_keys(link: RedisLink, keys: Keys) -> set[str]:
    async with link.guard() as client:
        return {key async for key in client.scan_iter(f"{keys.prefix}*", count=1000)}


@pytest.mark.parametrize("before", list(JobState))
@pytest.mark.parametrize("after", list(JobState))
async def test_scripts_allow_exactly_the_transitions_of_the_table(
    link: RedisLink, keys: Keys, jobs: RedisJobStore, before: JobState, after: JobState
) -> None:
    await jobs.create(a_spec(), NOW)
    async with link.guard() as client:
        await client.hset(keys.job("j1"), "state", before)
    move = link.script(moves_table(), lua("record"), "move(read(ARGV[3]), ARGV[4]) return 1")
    shared = [keys.unpublished, keys.demand, keys.events, "unused"]
    args = [keys.prefix, repr(NOW), "j1", after]
    if after in TRANSITIONS[before]:
        await move(shared, args)
        assert (await jobs.get("j1")).state is after
    else:
        with pytest.raises(InvariantBroken, match=f"from {before} to {after}"):
            await move(shared, args)
        assert (await jobs.get("j1")).state is before


async def test_a_withdrawn_job_leaves_no_key(link: RedisLink, keys: Keys, jobs: RedisJobStore) -> None:
    await jobs.create(a_spec(), NOW)
    assert await jobs.withdraw("j1")
    assert not await all_keys(link, keys)


async def test_every_key_is_one_that_the_topology_names(
    link: RedisLink, keys: Keys, jobs: RedisJobStore, fleet: RedisFleetStore
) -> None:
    await jobs.create(a_spec("j1", "m"), NOW)
    await jobs.create(a_spec("j2", "m"), NOW)
    await jobs.start([(an_attempt("j2"), a_spec("j2", "m"), NOW)], NOW)
    assert await all_keys(link, keys) == {
        keys.job("j1"), keys.job("j2"), keys.unpublished, keys.queued("m"), keys.demand, keys.events,
        keys.index(), keys.index("", "m"), keys.index("queued"), keys.index("queued", "m"),
        keys.index("running"), keys.index("running", "m"), keys.rates, keys.drained,
        keys.held("w1"),
    }  # fmt: skip
    report = a_report("w1", gpu="GPU-1")
    before = await all_keys(link, keys)
    await fleet.next_epoch()
    await fleet.report(report)
    await fleet.claim("m", "w1", 30.0)
    await fleet.begin_reaping("w9", "w1", 30.0)
    assert await all_keys(link, keys) - before == {
        keys.epoch, keys.report("w1"), keys.workers, keys.lease("w1"), keys.gpu("GPU-1"), keys.claim("m"),
        keys.reaping("w9"), keys.claimed,
    }  # fmt: skip
    await fleet.leave(report)
    assert await all_keys(link, keys) - before == {keys.epoch, keys.reaping("w9")}


async def test_waits_and_dead_letters_have_keys_that_the_topology_names_too(
    link: RedisLink, keys: Keys, jobs: RedisJobStore
) -> None:
    attempt, error = an_attempt("j1"), JobError("job_failed", "raised")
    await jobs.start([(attempt, a_spec("j1", "m"), NOW)], NOW)
    before = await all_keys(link, keys)
    await jobs.give_back(attempt, error, True, NOW, wait_s=1e10)
    assert await all_keys(link, keys) - before == {
        keys.delayed, keys.index("queued"), keys.index("queued", "m"),
    }  # fmt: skip
    await jobs.fail("j1", error, NOW)
    await jobs.letters.redrive(["j1"], 1.0)
    await jobs.letters.keep(LooseLetter("~a", error, "m", None, b"", 0, "m", None), NOW)
    assert await all_keys(link, keys) - before == {
        keys.index("failed"), keys.index("failed", "m"), keys.retained, keys.dead(), keys.dead("job_failed"),
        keys.dead("", "m"), keys.dead("job_failed", "m"), keys.dead_codes, keys.redrives, keys.letter("~a"),
    }  # fmt: skip


async def test_dead_letters_stay_for_a_week_and_one_that_is_put_back_for_good(
    link: RedisLink, keys: Keys, jobs: RedisJobStore
) -> None:
    await jobs.create(a_spec(), NOW)
    await jobs.fail("j1", JobError("job_failed", "raised"), NOW)
    await jobs.letters.keep(LooseLetter("~a", JobError("x", "y"), "m", None, b"", 0, "m", None), NOW)
    week_ms = LETTER_RETENTION_S * 1000
    async with link.guard() as client:
        for key in (keys.job("j1"), keys.letter("~a")):
            assert week_ms - 60_000 < await client.pttl(key) <= week_ms
        await jobs.letters.redrive(["j1"], 1.0)
        await jobs.letters.revive("j1", NOW)
        assert await client.pttl(keys.job("j1")) == -1


async def test_letters_past_their_week_and_those_without_a_record_leave_every_index(
    link: RedisLink, keys: Keys, jobs: RedisJobStore
) -> None:
    for name in ("old", "gone", "j1"):
        await jobs.create(a_spec(name), NOW)
        await jobs.fail(name, JobError("job_failed", "raised"), NOW)
    indexes = [keys.dead(), keys.dead("job_failed"), keys.dead("", "m"), keys.dead("job_failed", "m")]
    async with link.guard() as client:
        for index in indexes:
            await client.zadd(index, {"job_failed m old": 1000})
        await client.delete(keys.job("gone"))
        assert await jobs.letters.counts() == {"job_failed": 2}
        assert [one.id for one in (await jobs.letters.page(LetterFilter(), 10, None)).letters] == ["j1"]
        assert [await client.zcard(index) for index in indexes] == [1] * 4


async def test_only_terminal_records_expire(link: RedisLink, keys: Keys, jobs: RedisJobStore) -> None:
    attempt = an_attempt()
    async with link.guard() as client:
        await jobs.create(a_spec(), NOW)
        assert await client.pttl(keys.job("j1")) == -1
        await jobs.start([(attempt, a_spec(), NOW)], NOW)
        assert await client.pttl(keys.job("j1")) == -1
        await jobs.finish(attempt, an_outcome(), NOW)
        assert 0 < await client.pttl(keys.job("j1")) <= 100_000


async def test_leases_and_claims_run_out_by_themselves(link: RedisLink, keys: Keys, fleet: RedisFleetStore) -> None:
    await fleet.report(a_report("w1", gpu="GPU-1"))
    await fleet.claim("m", "w1", 30.0)
    await fleet.begin_reaping("w2", "w1", 30.0)
    async with link.guard() as client:
        for key in (keys.lease("w1"), keys.gpu("GPU-1"), keys.claim("m"), keys.reaping("w2")):
            assert 0 < await client.pttl(key) <= 30_000
        assert await client.pttl(keys.report("w1")) == -1


async def test_a_sighting_takes_what_has_gone_off_its_lists(
    link: RedisLink, keys: Keys, fleet: RedisFleetStore
) -> None:
    await fleet.report(a_report("w1"))
    await fleet.claim("m", "w1", 30.0)
    async with link.guard() as client:
        await client.delete(keys.claim("m"), keys.report("w1"))
    await fleet.sighting()
    assert not await all_keys(link, keys) & {keys.workers, keys.claimed}


async def test_ends_sweep_the_indexes_of_records_that_have_expired(
    link: RedisLink, keys: Keys, jobs: RedisJobStore
) -> None:
    for job_id in ("old1", "old2", "again", "new"):
        await jobs.create(a_spec(job_id), NOW)
        if job_id != "new":
            await jobs.cancel(job_id, NOW)
    async with link.guard() as client:
        # As Redis does when their time is over.
        for job_id in ("old1", "old2", "again"):
            await client.delete(keys.job(job_id))
        retained = f"{keys.prefix}retained"
        await client.zadd(retained, dict.fromkeys(await client.zrange(retained, 0, -1), 1.0))
        await jobs.create(a_spec("again"), NOW + 1)
        await jobs.cancel("new", NOW)
        assert set(await client.zrange(keys.index(), 0, -1)) == {"again", "new"}
        assert await client.zrange(keys.index("cancelled"), 0, -1) == ["new"]
        assert await client.zrange(keys.index("cancelled", "m"), 0, -1) == ["new"]
        assert await client.zrange(keys.index("queued", "m"), 0, -1) == ["again"]
        assert len(await client.zrange(retained, 0, -1)) == 1


async def test_a_sighting_mends_the_demand_of_a_queued_job(link: RedisLink, keys: Keys, jobs: RedisJobStore) -> None:
    await jobs.create(a_spec("j1"), NOW)
    await jobs.create(a_spec("j2"), NOW + 1)
    before = await jobs.demand()
    async with link.guard() as client:
        await client.delete(keys.demand, keys.queued("m"))
    assert not await jobs.demand()
    for job_id in ("j1", "j2", "j1"):
        await jobs.sight(a_spec(job_id), NOW, NOW + 2)
    assert await jobs.demand() == before


async def test_scripts_survive_a_server_that_has_forgotten_them(link: RedisLink, jobs: RedisJobStore) -> None:
    await jobs.create(a_spec(), NOW)
    async with link.guard() as client:
        await client.script_flush()
    assert not (await jobs.create(a_spec(), NOW)).fresh


async def test_epochs_grow_across_a_flush(link: RedisLink, keys: Keys, fleet: RedisFleetStore) -> None:
    before = await fleet.next_epoch()
    async with link.guard() as client:
        await client.delete(keys.epoch)
    assert await fleet.next_epoch() > before
    async with link.guard() as client:
        await client.set(keys.epoch, "9007199254740000")
    assert await fleet.next_epoch() == 9007199254740001


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"worker": "w9"}', '"x"', '{"epoch": null}'])
async def test_a_report_we_cannot_read_hides_nobody_and_stays_for_those_who_can(
    link: RedisLink, keys: Keys, fleet: RedisFleetStore, text: str
) -> None:
    await fleet.report(a_report("w1"))
    async with link.guard() as client:
        await client.set(keys.report("w9"), text)
        await client.sadd(keys.workers, "w9")
        sighting = await fleet.sighting()
        assert (list(sighting.view.workers), sighting.lost) == (["w1"], ())
        assert await client.get(keys.report("w9")) == text
    assert await fleet.report(a_report("w9"))
    assert sorted((await fleet.sighting()).view.workers) == ["w1", "w9"]


async def test_a_measurement_we_cannot_read_is_left_out(link: RedisLink, keys: Keys, fleet: RedisFleetStore) -> None:
    async with link.guard() as client:
        await client.hset(keys.measured, "m|Fake", json.dumps({"bytes": 1}))
    assert not await fleet.learned()


async def test_a_page_of_very_large_jobs_ends_early_and_goes_on(link: RedisLink, keys: Keys) -> None:
    store = RedisJobStore(link, keys)
    for number in range(5):
        attempt = an_attempt(f"j{number}")
        await store.start([(attempt, a_spec(f"j{number}"), NOW)], NOW)
        assert await store.finish(attempt, an_outcome("x" * (8 * 1024**2 - 2)), NOW)
    sizes, cursor = [], None
    while not sizes or cursor:
        page = await store.page(None, None, 500, cursor)
        sizes.append(len(page.jobs))
        cursor = page.cursor
    assert sizes == [2, 2, 1]

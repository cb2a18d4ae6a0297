"""The use case where it is hard: refused publishes, crashes between record and publish, the sweep, admission."""

import asyncio

import pytest

from affinity.errors import BrokerUnavailable, NeverFits, UnknownJob
from affinity.fleet import GIB, Measurement
from affinity.job import JobSpec, JobState
from dispatcher.fleet_glance import MAX_AGE_S
from dispatcher.submit import SWEEP_AFTER_S
from tests.support.dispatcher import DispatcherWorld
from tests.support.job_samples import a_report

SPEC = JobSpec("j1", "echo", {"n": 1})


async def crash_between_record_and_publish(world: DispatcherWorld) -> None:
    await world.stores.jobs.create(SPEC, world.clock.now())


async def unpublished(world: DispatcherWorld) -> list[str]:
    return [job.id for job in await world.stores.jobs.unpublished(world.clock.now() + 1, 10)]


async def test_a_refused_publish_leaves_nothing_behind(world: DispatcherWorld):
    world.broker.down = True

    answer = await world.post("/jobs", {"model": "echo", "input": 1, "id": "j1"})

    assert (answer.status_code, answer.json()["code"]) == (503, "broker_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    with pytest.raises(UnknownJob):
        await world.stores.jobs.get("j1")
    assert await unpublished(world) == []
    assert await world.stores.jobs.demand() == []


async def test_the_id_of_a_refused_job_is_free_again(world: DispatcherWorld):
    world.broker.down = True
    await world.post("/jobs", {"model": "echo", "input": 1, "id": "j1"})
    world.broker.down = False

    answer = await world.post("/jobs", {"model": "echo", "input": 2, "id": "j1"})

    assert answer.status_code == 202


async def test_a_job_that_started_before_its_publish_failed_is_accepted(world: DispatcherWorld):
    async def start_then_lose_the_confirm(spec: JobSpec) -> None:
        await world.start(spec.id)
        raise BrokerUnavailable("the confirm did not come")

    world.publisher.on_publish = start_then_lose_the_confirm
    answer = await world.post("/jobs", {"model": "echo", "input": 1, "id": "j1"})

    assert answer.status_code == 202
    assert (await world.stores.jobs.get("j1")).state is JobState.RUNNING


async def test_with_broker_and_store_away_the_client_is_told_no_and_the_sweep_has_the_record(world: DispatcherWorld):
    async def lose_both(spec: JobSpec) -> None:
        world.stores.down = True
        raise BrokerUnavailable("gone")

    world.publisher.on_publish = lose_both
    answer = await world.post("/jobs", {"model": "echo", "input": 1, "id": "j1"})
    world.stores.down = False

    assert answer.status_code == 503
    assert await unpublished(world) == ["j1"]


async def test_a_store_that_goes_away_after_the_confirm_does_not_unaccept_the_job(world: DispatcherWorld):
    async def lose_the_store(spec: JobSpec) -> None:
        world.stores.down = True

    world.publisher.on_publish = lose_the_store
    answer = await world.post("/jobs", {"model": "echo", "input": 1, "id": "j1"})
    world.stores.down = False

    assert answer.status_code == 202
    assert await unpublished(world) == ["j1"]


async def test_a_job_that_is_over_while_its_client_waits_costs_the_store_no_mark(world: DispatcherWorld):
    marked: list[str] = []

    async def note(job_id: str) -> None:
        marked.append(job_id)

    world.stores.jobs.published = note  # type: ignore[method-assign]
    submitter = world.dispatcher.submitter
    submitter.mark_later(await submitter.submit(SPEC))
    await world.serve("j1")
    submitter.ended("j1")
    await submitter.close()

    assert marked == []
    assert await unpublished(world) == [], "the worker that started it took it out of the outbox"


async def test_a_job_whose_client_waits_is_marked_when_the_dispatcher_stops(world: DispatcherWorld):
    submission = await world.dispatcher.submitter.submit(SPEC)
    world.dispatcher.submitter.mark_later(submission)

    await world.dispatcher.submitter.close()

    assert await unpublished(world) == []
    assert [event.kind for event in world.stores.said] == ["job.accepted"]


async def test_a_job_whose_client_waits_is_marked_after_a_little_while(world: DispatcherWorld):
    marked = asyncio.Event()
    published = world.stores.jobs.published

    async def notice(job_id: str) -> None:
        await published(job_id)
        marked.set()

    world.stores.jobs.published = notice  # type: ignore[method-assign]
    submitter = world.dispatcher.submitter
    submitter.mark_later(await submitter.submit(SPEC))
    again = await submitter.submit(SPEC)
    submitter.mark_later(again)
    await marked.wait()

    assert await unpublished(world) == []
    assert not again.fresh
    assert len(world.publisher.published) == 1, "a retry in between needs no second copy"


async def test_a_retry_publishes_what_a_crash_left_unpublished(world: DispatcherWorld):
    await crash_between_record_and_publish(world)

    answer = await world.post("/jobs", {"model": "echo", "input": {"n": 1}, "id": "j1"})

    assert answer.status_code == 200
    assert [spec.id for spec in world.publisher.published] == ["j1"]
    assert await unpublished(world) == []


async def test_a_refused_retry_leaves_the_record_to_the_call_that_made_it(world: DispatcherWorld):
    await crash_between_record_and_publish(world)
    world.broker.down = True

    answer = await world.post("/jobs", {"model": "echo", "input": {"n": 1}, "id": "j1"})

    assert answer.status_code == 503
    assert await unpublished(world) == ["j1"]


async def test_the_sweep_publishes_what_a_crash_left_but_not_what_is_still_in_hand(world: DispatcherWorld):
    await crash_between_record_and_publish(world)

    assert await world.dispatcher.submitter.sweep() == 0
    world.clock.advance(SWEEP_AFTER_S + 0.1)
    assert await world.dispatcher.submitter.sweep() == 1
    assert await world.dispatcher.submitter.sweep() == 0

    assert world.publisher.published == [SPEC]


async def test_the_sweep_publishes_nothing_that_runs_already(world: DispatcherWorld):
    await crash_between_record_and_publish(world)
    await world.start("j1")
    world.clock.advance(SWEEP_AFTER_S + 0.1)

    await world.dispatcher.submitter.sweep()

    assert world.publisher.published == []
    assert await unpublished(world) == []


async def test_the_sweep_gives_up_while_the_broker_is_away_and_forgets_nothing(world: DispatcherWorld):
    await crash_between_record_and_publish(world)
    world.clock.advance(SWEEP_AFTER_S + 0.1)
    world.broker.down = True

    with pytest.raises(BrokerUnavailable):
        await world.dispatcher.submitter.sweep()

    assert await unpublished(world) == ["j1"]


async def test_two_clients_with_one_id_at_the_same_time_make_one_job(world: DispatcherWorld):
    job = {"model": "echo", "input": 1, "id": "j1"}

    answers = await asyncio.gather(*(world.post("/jobs", job) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]


async def test_a_model_larger_than_every_gpu_is_refused_with_the_largest_named(world: DispatcherWorld):
    report = a_report("w1")
    await world.stores.fleet.report(report)
    await world.stores.fleet.learn("big", report.gpu.name, Measurement(30 * GIB, 1.0, 0.1))

    answer = await world.post("/jobs", {"model": "big", "input": {}})

    assert (answer.status_code, answer.json()["code"]) == (422, NeverFits.code)
    assert report.gpu.name in answer.json()["detail"]
    assert world.publisher.published == []
    assert (await world.http.get("/jobs")).json()["jobs"] == []


async def test_without_live_workers_every_model_is_accepted(world: DispatcherWorld):
    answer = await world.post("/jobs", {"model": "big", "input": {}})

    assert answer.status_code == 202


async def test_a_gpu_that_joins_is_seen_within_a_second(world: DispatcherWorld):
    small = a_report("small")
    await world.stores.fleet.report(small)
    await world.stores.fleet.learn("big", small.gpu.name, Measurement(30 * GIB, 1.0, 0.1))
    refused = await world.post("/jobs", {"model": "big", "input": {}})
    await world.stores.fleet.leave(small)

    still_refused = await world.post("/jobs", {"model": "big", "input": {}})
    world.clock.advance(MAX_AGE_S)
    accepted = await world.post("/jobs", {"model": "big", "input": {}})

    assert [a.status_code for a in (refused, still_refused, accepted)] == [422, 422, 202]

"""``/jobs/batch``: each job by itself, in order, a bounded number at a time."""

import asyncio

from affinity.job import JobSpec
from dispatcher.submit import BATCH_AT_ONCE
from tests.support.dispatcher import DispatcherWorld, dispatcher_world

ECHO = {"model": "echo", "input": 1}


async def test_each_job_is_accepted_or_refused_by_itself_in_order(world: DispatcherWorld):
    await world.post("/jobs", {**ECHO, "id": "taken"})
    items = [
        {**ECHO, "id": "j1"},
        {"model": "nobody", "input": 1},
        "not an object",
        {"model": "minilm-l6-v2", "input": {"texts": []}},
        {"model": "echo", "input": 2, "id": "taken"},
        {**ECHO, "id": "taken"},
        {**ECHO, "id": "j2"},
    ]

    answer = await world.post("/jobs/batch", {"jobs": items})

    body = answer.json()
    assert answer.status_code == 200
    assert (body["accepted"], body["refused"]) == (3, 4)
    assert [job.get("code", job.get("id")) for job in body["jobs"]] == [
        "j1", "unknown_model", "invalid_input", "invalid_input", "id_conflict", "taken", "j2",
    ]  # fmt: skip
    assert body["jobs"][3]["errors"][0]["field"] == "input.texts"
    assert {spec.id for spec in world.publisher.published} == {"taken", "j1", "j2"}


async def test_an_empty_batch_is_fine(world: DispatcherWorld):
    answer = await world.post("/jobs/batch", {"jobs": []})

    assert answer.json() == {"accepted": 0, "refused": 0, "jobs": []}


async def test_one_id_twice_in_a_batch_is_one_job(world: DispatcherWorld):
    answer = await world.post("/jobs/batch", {"jobs": [{**ECHO, "id": "j1"}] * 2})

    assert (answer.json()["accepted"], answer.json()["refused"]) == (2, 0)
    assert len((await world.http.get("/jobs")).json()["jobs"]) == 1


async def test_a_batch_above_the_limit_is_refused_whole():
    async with dispatcher_world(dispatcher_max_batch=2) as world:
        answer = await world.post("/jobs/batch", {"jobs": [ECHO] * 3})

        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
        assert world.publisher.published == []


async def test_a_batch_that_is_no_list_of_jobs_is_refused_with_the_field(world: DispatcherWorld):
    for body, field in (({}, "jobs"), ({"jobs": {}}, "jobs"), ({"jobs": [], "job": 1}, "job")):
        answer = await world.post("/jobs/batch", body)

        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


async def test_a_broker_that_goes_away_refuses_the_rest_and_keeps_nothing_of_it(world: DispatcherWorld):
    async def fail_from_the_third(spec: JobSpec) -> None:
        world.broker.down = len(world.publisher.published) >= 1

    world.publisher.on_publish = fail_from_the_third
    answer = await world.post("/jobs/batch", {"jobs": [{**ECHO, "id": f"j{n}"} for n in range(200)]})

    body = answer.json()
    kept = [job["id"] for job in body["jobs"] if "id" in job]
    assert {job["code"] for job in body["jobs"] if "code" in job} == {"broker_unavailable"}
    assert body["refused"] > 0
    assert sorted(kept) == sorted(spec.id for spec in world.publisher.published)
    listed = (await world.http.get("/jobs", params={"limit": 500})).json()["jobs"]
    assert sorted(job["id"] for job in listed) == sorted(kept)


async def test_a_large_batch_is_published_a_bounded_number_at_a_time(world: DispatcherWorld):
    at_once = most = 0

    async def count(spec: JobSpec) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    world.publisher.on_publish = count
    answer = await world.post("/jobs/batch", {"jobs": [ECHO] * (BATCH_AT_ONCE * 3)})

    assert answer.json()["accepted"] == BATCH_AT_ONCE * 3
    assert 1 < most <= BATCH_AT_ONCE

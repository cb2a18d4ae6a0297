"""``/jobs``: submit, idempotent ids, look, list, cancel."""

import pytest

from affinity.job import JobError, JobState, Outcome, StartKind
from affinity.wire import job_to_json
from tests.support.dispatcher import DispatcherWorld

ECHO = {"model": "echo", "input": {"n": 1}}


async def test_a_submitted_job_is_published_recorded_and_answered_202_with_its_location(world: DispatcherWorld):
    answer = await world.post("/jobs", ECHO)

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert job == job_to_json(await world.stores.jobs.get(job["id"]))
    assert (job["state"], job["model"], job["attempts"], job["error"]) == ("queued", "echo", 0, None)
    assert [spec.id for spec in world.publisher.published] == [job["id"]]
    assert world.publisher.published[0].input == {"n": 1}


async def test_every_field_of_a_job_reaches_the_broker(world: DispatcherWorld):
    asked = {**ECHO, "id": "j1", "ttl_s": 5, "timeout_s": 2.5, "max_attempts": 7, "metadata": {"user": "u"}}

    answer = await world.post("/jobs", asked)

    spec = world.publisher.published[0]
    assert (spec.id, spec.ttl_s, spec.timeout_s, spec.max_attempts) == ("j1", 5.0, 2.5, 7)
    assert spec.metadata == answer.json()["metadata"] == {"user": "u"}


async def test_jobs_without_an_id_get_different_ones(world: DispatcherWorld):
    first, second = [(await world.post("/jobs", ECHO)).json()["id"] for _ in range(2)]

    assert first != second


async def test_the_same_job_under_the_same_id_is_answered_200_and_not_published_again(world: DispatcherWorld):
    first = await world.post("/jobs", {**ECHO, "id": "j1"})
    again = await world.post("/jobs", {"id": "j1", "input": {"n": 1}, "model": "echo", "max_attempts": 3})

    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json() == again.json()
    assert len(world.publisher.published) == 1


async def test_an_id_taken_by_other_content_is_a_conflict_and_the_first_job_stays(world: DispatcherWorld):
    await world.post("/jobs", {**ECHO, "id": "j1"})
    other = await world.post("/jobs", {"model": "echo", "input": {"n": 2}, "id": "j1"})

    assert (other.status_code, other.json()["code"]) == (409, "id_conflict")
    assert (await world.stores.jobs.get("j1")).spec.input == {"n": 1}
    assert len(world.publisher.published) == 1


@pytest.mark.parametrize("key", ["j1", '"j1"'])
async def test_the_idempotency_key_header_is_the_id(world: DispatcherWorld, key: str):
    answer = await world.post("/jobs", ECHO, Idempotency_Key=key)

    assert answer.json()["id"] == "j1"


async def test_id_and_idempotency_key_may_agree_but_not_differ(world: DispatcherWorld):
    agreed = await world.post("/jobs", {**ECHO, "id": "j1"}, Idempotency_Key="j1")
    differing = await world.post("/jobs", {**ECHO, "id": "j2"}, Idempotency_Key="j3")

    assert agreed.status_code == 202
    assert (differing.status_code, differing.json()["errors"][0]["field"]) == (422, "id")
    assert len(world.publisher.published) == 1


async def test_an_id_already_in_use_by_a_finished_job_gives_its_result(world: DispatcherWorld):
    await world.post("/jobs", {**ECHO, "id": "j1"})
    await world.serve("j1", result={"said": "\ud800"})

    again = await world.post("/jobs", {**ECHO, "id": "j1"})

    assert again.status_code == 200
    assert again.json()["result"] == {"said": "\ud800"}
    assert again.json()["start"] == "warm"


async def test_a_job_can_be_looked_at_in_every_state(world: DispatcherWorld):
    for job_id in ("done", "broken", "running", "queued"):
        await world.post("/jobs", {**ECHO, "id": job_id})
    await world.serve("done", result=[1])
    await world.serve("broken", error=JobError("job_failed", "it raised"))
    await world.start("running")

    seen = {name: (await world.http.get(f"/jobs/{name}")).json() for name in ("done", "broken", "running", "queued")}

    assert {name: job["state"] for name, job in seen.items()} == {
        "done": "succeeded", "broken": "failed", "running": "running", "queued": "queued",
    }  # fmt: skip
    assert seen["done"]["result"] == [1]
    assert seen["broken"]["error"] == {"code": "job_failed", "message": "it raised"}


@pytest.mark.parametrize("job_id", ["nobody", "b%20d", "x" * 129, "%F0%9F%98%80"])
async def test_a_job_nobody_knows_is_404_also_where_it_cannot_be_an_id(world: DispatcherWorld, job_id: str):
    for answer in (await world.http.get(f"/jobs/{job_id}"), await world.http.delete(f"/jobs/{job_id}")):
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


async def test_a_queued_job_can_be_cancelled_once(world: DispatcherWorld):
    await world.post("/jobs", {**ECHO, "id": "j1"})

    first, second = await world.http.delete("/jobs/j1"), await world.http.delete("/jobs/j1")

    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert (second.status_code, second.json()["code"]) == (409, "not_cancellable")
    assert (await world.stores.jobs.get("j1")).state is JobState.CANCELLED
    assert second.json()["job"] == first.json()


async def test_a_running_job_can_be_cancelled(world: DispatcherWorld):
    await world.post("/jobs", {**ECHO, "id": "j1"})
    attempt = await world.start("j1")

    answer = await world.http.delete("/jobs/j1")

    job = answer.json()
    assert (answer.status_code, job["state"], job["worker"], job["result"]) == (200, "cancelled", "w1", None)
    assert not await world.stores.jobs.finish(attempt, Outcome(StartKind.WARM, 0.0, 0.1, "late"), world.clock.now())


async def test_a_result_that_came_first_is_in_the_answer_to_the_cancel(world: DispatcherWorld):
    await world.post("/jobs", {**ECHO, "id": "j1"})
    attempt = await world.start("j1")
    await world.stores.jobs.finish(attempt, Outcome(StartKind.WARM, 0.0, 0.1, "done"), world.clock.now())

    refused = await world.http.delete("/jobs/j1")

    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "not_cancellable")
    assert problem["detail"] == "job j1 has ended already: it is succeeded"
    assert (problem["job"]["state"], problem["job"]["result"]) == ("succeeded", "done")


async def test_cancels_are_counted_by_what_the_job_was_doing(world: DispatcherWorld):
    for number in range(3):
        await world.post("/jobs", {**ECHO, "id": f"j{number}"})
    await world.start("j2")
    for number in (0, 1, 2, 2):
        await world.http.delete(f"/jobs/j{number}")

    text = (await world.http.get("/metrics")).text

    assert 'jobs_cancelled_total{model="echo",was="queued"} 2.0' in text
    assert 'jobs_cancelled_total{model="echo",was="running"} 1.0' in text


async def test_jobs_are_listed_newest_first_and_pages_join_up(world: DispatcherWorld):
    for number in range(5):
        await world.post("/jobs", {**ECHO, "id": f"j{number}"})
        world.clock.advance(1.0)

    first = (await world.http.get("/jobs", params={"limit": 3})).json()
    second = (await world.http.get("/jobs", params={"limit": 3, "cursor": first["cursor"]})).json()

    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ["j4", "j3", "j2", "j1", "j0"]
    assert second["cursor"] is None


async def test_jobs_can_be_filtered_by_state_and_model(world: DispatcherWorld):
    await world.post("/jobs", {**ECHO, "id": "e1"})
    await world.post("/jobs", {**ECHO, "id": "e2"})
    await world.post("/jobs", {"model": "big", "input": {}, "id": "b1"})
    await world.http.delete("/jobs/e2")

    async def ids(**filters: str) -> set[str]:
        return {job["id"] for job in (await world.http.get("/jobs", params=filters)).json()["jobs"]}

    assert await ids(state="queued") == {"e1", "b1"}
    assert await ids(model="echo") == {"e1", "e2"}
    assert await ids(state="queued", model="echo") == {"e1"}
    assert await ids(model="nobody") == set()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("state", "lost"), ("limit", "0"), ("limit", "501"), ("limit", "many"), ("cursor", "%%%"), ("model", "m" * 129)],
)
async def test_a_bad_filter_is_named(world: DispatcherWorld, parameter: str, value: str):
    answer = await world.http.get("/jobs", params={parameter: value})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert answer.json()["errors"][0]["field"] == parameter

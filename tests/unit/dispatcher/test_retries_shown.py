"""A job that waits to be tried again says so, everywhere it is asked for."""

from affinity.job import JobError
from affinity.wire import rfc3339
from tests.support.dispatcher import DispatcherWorld


async def test_a_job_that_waits_to_be_tried_again_says_until_when(world: DispatcherWorld) -> None:
    await world.post("/jobs", {"id": "j1", "model": "echo", "input": {}})
    attempt = await world.start("j1")
    error = JobError("job_timeout", "too long")
    await world.stores.jobs.give_back(attempt, error, True, world.clock.now(), wait_s=4.0)
    due_at = rfc3339(world.clock.now() + 4.0)
    job = (await world.http.get("/jobs/j1")).json()
    assert (job["state"], job["attempts"], job["retry_at"]) == ("queued", 1, due_at)
    explained = (await world.http.get("/jobs/j1/explain")).json()
    assert explained["waiting"] is None
    assert explained["summary"] == f"it failed (1 attempts, 0 lost) and is tried again from {due_at} on"
    models = {model["name"]: model for model in (await world.http.get("/models")).json()["models"]}
    assert models["echo"]["queued"] == 0
    world.clock.advance(4.0)
    explained = (await world.http.get("/jobs/j1/explain")).json()
    assert explained["waiting"]["position"] == 1


async def test_a_job_that_never_failed_has_neither_a_retry_nor_lives(world: DispatcherWorld) -> None:
    answer = await world.post("/jobs", {"id": "j1", "model": "echo", "input": {}})
    assert not {"retry_at", "lives"} & answer.json().keys()

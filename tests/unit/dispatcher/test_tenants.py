"""What a tenant's key opens: its own jobs, and nobody else's. Asked over HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from affinity.job import JobState
from tests.support.dispatcher import DispatcherWorld, dispatcher_world
from tests.unit.dispatcher.test_keys import a_file

OPERATOR = {"X-API-Key": "ops"}
ACME, OTHER = {"X-API-Key": "acme-key"}, {"X-API-Key": "other-key"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[DispatcherWorld]:
    keys = a_file(tmp_path / "keys", {"other": ["other-key"], "acme": ["acme-key"]}, "max_queued = 3", ["ops"])
    async with dispatcher_world(affinity_api_keys_file=keys, dispatcher_max_queued_per_tenant=4) as made:
        yield made


async def posted(world: DispatcherWorld, key: dict[str, str], job_id: str, model: str = "echo") -> httpx.Response:
    return await world.http.post("/jobs", json={"id": job_id, "model": model, "input": 1}, headers=key)


async def test_a_tenant_sees_its_own_jobs_and_an_operator_sees_all(world: DispatcherWorld):
    assert [(await posted(world, key, name)).status_code for key, name in ((ACME, "a"), (OTHER, "o"), (OPERATOR, "p"))]

    async def listed(key: dict[str, str], query: str = "") -> set[str]:
        return {job["id"] for job in (await world.http.get(f"/jobs{query}", headers=key)).json()["jobs"]}

    assert (await listed(ACME), await listed(OTHER), await listed(OPERATOR)) == ({"a"}, {"o"}, {"a", "o", "p"})
    assert await listed(ACME, "?state=queued&model=echo") == {"a"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/jobs/mine"), ("GET", "/jobs/mine/explain"), ("DELETE", "/jobs/mine"), ("GET", "/jobs/mine?wait")],
)
async def test_a_job_of_another_is_answered_as_if_there_were_none(world: DispatcherWorld, method: str, path: str):
    await posted(world, ACME, "mine")

    theirs = await world.http.request(method, path, headers={**OTHER, "Prefer": "wait=1"})
    none = await world.http.request(method, path.replace("mine", "none"), headers=OTHER)

    assert (theirs.status_code, theirs.json()["code"]) == (404, "unknown_job")
    assert theirs.json()["detail"] == none.json()["detail"].replace("none", "mine")
    assert (await world.stores.jobs.get("mine")).state is JobState.QUEUED
    assert (await world.http.request(method, path, headers=ACME)).status_code == 200


async def test_an_operator_may_cancel_anybodys_job(world: DispatcherWorld):
    await posted(world, ACME, "mine")

    assert (await world.http.delete("/jobs/mine", headers=OPERATOR)).json()["state"] == "cancelled"


async def test_an_id_of_another_tenants_job_is_taken_and_nothing_of_it_is_shown(world: DispatcherWorld):
    await posted(world, ACME, "mine")

    answer = await posted(world, OTHER, "mine")

    assert (answer.status_code, answer.json()["code"]) == (409, "id_conflict")
    assert "echo" not in answer.text
    assert "acme" not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/models/echo/load"),
        ("POST", "/models/echo/pin"),
        ("GET", "/orders/1"),
        ("GET", "/dead-letters"),
        ("POST", "/dead-letters/redrive"),
        ("POST", "/workers/w1/drain"),
        ("GET", "/events"),
        ("GET", "/nowhere"),
        ("POST", "/models"),
        ("GET", "/jobsx"),
    ],
)
async def test_what_is_an_operators_is_forbidden_to_tenants(world: DispatcherWorld, method: str, path: str):
    answer = await world.http.request(method, path, headers=ACME, json={})

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("path", ["/models", "/workers", "/openapi.json", "/docs"])
async def test_tenants_may_look_at_the_fleet_and_at_the_documentation(world: DispatcherWorld, path: str):
    assert (await world.http.get(path, headers=ACME)).status_code == 200


async def test_nobody_says_whose_job_it_is_but_the_key(world: DispatcherWorld):
    body = {"id": "forged", "model": "echo", "input": 1, "tenant": "other"}

    answer = await world.http.post("/jobs", json=body, headers=ACME)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "tenant")


async def test_every_way_of_submitting_takes_the_tenant_from_the_key(world: DispatcherWorld):
    await world.http.post("/jobs/batch", json={"jobs": [{"id": "b", "model": "echo", "input": 1}]}, headers=ACME)
    await world.http.post("/produce", json={"id": "p", "payload": 1}, headers=ACME)
    await world.http.post("/batch-produce", json={"messages": [{"id": "m", "payload": 1}]}, headers=OTHER)

    assert [(spec.id, spec.tenant) for spec in world.publisher.published] == [
        ("b", "acme"),
        ("p", "acme"),
        ("m", "other"),
    ]


async def test_the_tenant_with_too_many_jobs_is_refused_and_no_other(world: DispatcherWorld):
    answers = [await posted(world, ACME, f"a{number}") for number in range(4)]

    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert answers[3].json()["code"] == "overloaded"
    assert int(answers[3].headers["retry-after"]) >= 1
    assert "tenant acme" in answers[3].json()["detail"]
    assert [(await posted(world, OTHER, f"o{number}")).status_code for number in range(5)] == [202] * 4 + [429]
    assert (await posted(world, OPERATOR, "p")).status_code == 202
    assert (await posted(world, ACME, "a0")).status_code == 200


async def test_a_tenant_that_asks_too_often_is_told_when_to_ask_again(tmp_path: Path):
    keys = a_file(tmp_path / "keys", {"acme": ["acme-key"]}, "requests_per_s = 0.5\nburst = 2", ["ops"])
    async with dispatcher_world(affinity_api_keys_file=keys) as world:
        answers = [await world.http.get("/jobs", headers=ACME) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].headers["retry-after"] == "2"
        assert (await world.http.get("/jobs", headers=OPERATOR)).status_code == 200
        world.clock.advance(2.0)
        assert (await world.http.get("/jobs", headers=ACME)).status_code == 200


async def test_the_document_says_what_the_gate_may_answer(world: DispatcherWorld):
    document = (await world.http.get("/openapi.json", headers=OPERATOR)).json()

    assert {"401", "403", "429"} <= set(document["paths"]["/jobs"]["get"]["responses"])
    assert "403" not in document["paths"]["/health"]["get"]["responses"]

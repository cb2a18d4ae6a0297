"""The OpenAPI document, and that it says what the code does."""

from typing import Any

import jsonschema
import pytest

from dispatcher import schemas, schemas_dead_letters
from dispatcher.auth import OPEN_PATHS
from dispatcher.bodies import JOB_FIELDS
from tests.support.dispatcher import DispatcherWorld, dispatcher_world
from tests.support.job_samples import a_report

ROUTES = {
    ("get", "/"),
    ("post", "/jobs"),
    ("post", "/jobs/batch"),
    ("get", "/jobs"),
    ("get", "/jobs/{job_id}"),
    ("delete", "/jobs/{job_id}"),
    ("get", "/jobs/{job_id}/explain"),
    ("get", "/jobs/{job_id}/events"),
    ("get", "/events"),
    ("get", "/workers"),
    ("get", "/models"),
    ("post", "/models/{name}/load"),
    ("post", "/models/{name}/unload"),
    ("post", "/models/{name}/pin"),
    ("post", "/models/{name}/unpin"),
    ("post", "/workers/{worker_id}/drain"),
    ("post", "/workers/{worker_id}/undrain"),
    ("get", "/orders/{order_id}"),
    ("get", "/dead-letters"),
    ("post", "/dead-letters/redrive"),
    ("get", "/health"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("get", "/metrics"),
    ("post", "/produce"),
    ("post", "/batch-produce"),
}


@pytest.fixture
async def document(world: DispatcherWorld) -> dict[str, Any]:
    found: dict[str, Any] = (await world.http.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): op for path, item in document["paths"].items() for method, op in item.items()}


def references(value: object) -> set[str]:
    """Every ``$ref`` in a document."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(below) for below in value.values()))
    return set().union(*(references(below) for below in value)) if isinstance(value, list) else set()


def test_every_route_of_the_contract_is_there_and_said_in_words(document: dict[str, Any]):
    found = operations(document)

    assert set(found) == ROUTES
    assert all(operation["summary"] and operation["description"] for operation in found.values())


def test_every_reference_leads_somewhere(document: dict[str, Any]):
    defined = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    assert references(document) <= defined


def test_every_error_is_a_problem_and_nothing_of_the_frameworks_own_shape_is_left(document: dict[str, Any]):
    for operation in operations(document).values():
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == ["application/problem+json"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_success_has_a_schema(document: dict[str, Any]):
    for operation in operations(document).values():
        for status, answer in operation["responses"].items():
            if status < "400" and status != "204":
                assert all(content["schema"] for content in answer["content"].values())


def test_every_post_has_a_body_with_a_schema(document: dict[str, Any]):
    for (method, _), operation in operations(document).items():
        if method == "post":
            assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]


def test_the_job_schema_has_the_fields_that_are_accepted():
    assert set(schemas.JobRequest.model_fields) == JOB_FIELDS


async def test_what_the_routes_answer_is_what_their_schemas_say(world: DispatcherWorld):
    await world.stores.fleet.report(a_report("w1"))
    submitted = await world.post("/jobs", {"model": "echo", "input": 1, "id": "j1"})
    await world.serve("j1", result={"y": 1})
    batch = await world.post("/jobs/batch", {"jobs": [{"model": "echo", "input": 1}, 5]})
    await world.post("/jobs", {"model": "big", "input": {}, "id": "j2"})
    ordered = await world.post("/models/big/load", {"worker": "w1"})
    pairs = {
        schemas.JobView: [submitted, await world.http.get("/jobs/j1")],
        schemas.ExplainView: [
            await world.http.get("/jobs/j2/explain"),
            await world.http.get("/jobs/j1/explain"),
        ],
        schemas.JobPage: [await world.http.get("/jobs")],
        schemas.BatchAnswer: [batch],
        schemas.Workers: [await world.http.get("/workers")],
        schemas.Models: [await world.http.get("/models")],
        schemas.AskedView: [ordered, await world.http.post("/models/echo/unload")],
        schemas.OrderView: [await world.http.get(ordered.headers["location"])],
        schemas.PinView: [
            await world.post("/models/big/pin", {"worker": "w1"}),
            await world.http.post("/models/big/unpin"),
        ],
        schemas.Health: [await world.http.get("/health")],
        schemas.Ready: [await world.http.get("/health/ready")],
        schemas.ProduceAnswer: [await world.post("/produce", {"payload": 1})],
        schemas.BatchProduceAnswer: [await world.post("/batch-produce", {"messages": []})],
        schemas.NotCancellableView: [await world.http.delete("/jobs/j1")],
        schemas.ProblemView: [await world.http.get("/jobs/nobody"), await world.post("/jobs", {})],
    }

    for model, answers in pairs.items():
        schema = model.model_json_schema(mode="serialization")
        for part in [schema, *schema.get("$defs", {}).values()]:
            part["additionalProperties"] = False
        for answer in answers:
            jsonschema.validate(answer.json(), schema)


async def test_where_keys_are_set_every_route_needs_one_but_those_that_say_that_they_do_not():
    async with dispatcher_world(affinity_api_keys="k") as world:
        found = operations((await world.http.get("/openapi.json", headers={"X-API-Key": "k"})).json())

    assert {path for (_, path), operation in found.items() if operation.get("security") == []} == OPEN_PATHS


def test_the_schema_of_a_redrive_wants_what_the_route_wants():
    schema = schemas_dead_letters.RedriveRequest.model_json_schema()
    validator = jsonschema.validators.validator_for(schema)(schema)
    one_way = [{"ids": ["j1"]}, {"code": "quarantined", "all": None}, {"code": "a", "model": "m"}, {"all": True}]
    none_or_two = [{}, {"rate": 5}, {"ids": None}, {"ids": ["j1"], "code": "a"}, {"all": True, "model": "m"}]

    assert all(validator.is_valid(body) for body in one_way)
    assert not any(validator.is_valid(body) for body in none_or_two)


def test_the_examples_are_jobs_the_schema_takes():
    schema = schemas.JobRequest.model_json_schema()

    for example in schema["examples"]:
        jsonschema.validate(example, schema)

"""Keys: who may come in, and what stays open."""

import logging

import httpx
import pytest

from tests.support.dispatcher import DispatcherWorld, dispatcher_world

KEYS = "first-key, second-key"
CLOSED = [
    "/jobs",
    "/jobs/j1",
    "/workers",
    "/models",
    "/openapi.json",
    "/docs",
    "/nowhere",
    "/metrics/",
    "http://dispatcher//metrics",
]
OPEN = ["/", "/console/main.js", "/health", "/health/live", "/health/ready", "/metrics"]


async def asked(world: DispatcherWorld, path: str, **headers: str) -> httpx.Response:
    return await world.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("path", CLOSED)
async def test_with_keys_set_every_other_route_needs_one(path: str):
    async with dispatcher_world(affinity_api_keys=KEYS) as world:
        answer = await asked(world, path)

        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", OPEN)
async def test_health_and_metrics_and_the_console_stay_open(path: str):
    async with dispatcher_world(affinity_api_keys=KEYS) as world:
        assert (await asked(world, path)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer second-key"},
        {"X_API_Key": "first-key"},
        {"X_API_Key": "second-key"},
    ],
)
async def test_any_known_key_opens_either_way(headers: dict[str, str]):
    async with dispatcher_world(affinity_api_keys=KEYS) as world:
        assert (await asked(world, "/jobs", **headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer third-key"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic first-key"},
        {"Authorization": "first-key"},
        {"Authorization": "Bearer first-key, second-key"},
        {"X_API_Key": "first"},
        {"X_API_Key": ""},
        {"X_API_Key": "first-key,"},
    ],
)
async def test_nothing_else_opens(headers: dict[str, str]):
    async with dispatcher_world(affinity_api_keys=KEYS) as world:
        assert (await asked(world, "/jobs", **headers)).status_code == 401


async def test_a_job_without_a_key_is_not_even_read():
    async with dispatcher_world(affinity_api_keys=KEYS) as world:
        answer = await world.http.post("/jobs", content=b"{", headers={"Content-Type": "application/json"})

        assert answer.status_code == 401
        assert world.publisher.published == []


async def test_the_openapi_document_says_that_a_key_is_needed():
    async with dispatcher_world(affinity_api_keys=KEYS) as world:
        document = (await asked(world, "/openapi.json", X_API_Key="first-key")).json()

        assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
        assert KEYS not in str(document)


async def test_a_dispatcher_without_keys_says_so_when_it_starts(capsys: pytest.CaptureFixture[str]):
    logging.getLogger().handlers.clear()
    async with dispatcher_world():
        pass
    unset = capsys.readouterr()
    async with dispatcher_world(affinity_api_keys=KEYS):
        pass
    set_ = capsys.readouterr()

    assert "AFFINITY_API_KEYS is not set" in unset.out + unset.err
    assert "AFFINITY_API_KEYS is not set" not in set_.out + set_.err

"""Every way a request can be wrong: a problem with a stable code, and nothing kept."""

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import ClientDisconnect

from affinity.errors import (
    AffinityError,
    CallerError,
    InvariantBroken,
    Overloaded,
    QueueFull,
    Unauthorized,
)
from affinity.wire import MAX_DEPTH, MAX_SECONDS
from dispatcher.problems import ProblemResponse
from tests.support.dispatcher import DispatcherWorld, dispatcher_world

JSON = {"Content-Type": "application/json"}


def is_a_problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The problem, after a look at what all problems have in common."""
    body: dict[str, object] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code)
    assert body["type"] == f"urn:affinity:error:{code}"
    assert body["title"]
    assert body["detail"]
    return body


def subclasses(kind: type[AffinityError]) -> list[type[AffinityError]]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in subclasses(below))]


@pytest.mark.parametrize("kind", [*subclasses(CallerError), *subclasses(Overloaded)], ids=lambda kind: kind.__name__)
def test_every_error_a_caller_may_see_becomes_a_problem_of_its_status_and_code(kind: type[AffinityError]):
    response = ProblemResponse.of(kind("do this"))

    assert response.status_code == kind.status
    assert f'"code":"{kind.code}"'.encode() in response.body
    assert b"do this" in response.body
    assert ("retry-after" in response.headers) == (kind.status in (429, 503))
    assert ("www-authenticate" in response.headers) == (kind is Unauthorized)


def test_retry_after_is_a_whole_number_of_seconds_and_never_zero():
    waits = {0.0: "1", 0.2: "1", 1.0: "1", 1.2: "2", 30.0: "30"}

    assert {s: ProblemResponse.of(QueueFull("full", s)).headers["retry-after"] for s in waits} == waits


@pytest.mark.parametrize(
    "body", ["", "{", "[1, 2", '{"a": NaN}', '{"a": -Infinity}', "{'a': 1}", "[" * 200_000, "\xff"]
)
async def test_what_is_not_json_is_malformed(world: DispatcherWorld, body: str):
    for path in ("/jobs", "/jobs/batch", "/produce", "/batch-produce"):
        answer = await world.http.post(path, content=body.encode("latin-1"), headers=JSON)

        is_a_problem(answer, 400, "malformed_json")
    assert world.publisher.published == []


@pytest.mark.parametrize("body", ["[]", "1", "null", '"job"'])
async def test_json_that_is_no_object_is_invalid(world: DispatcherWorld, body: str):
    for path in ("/jobs", "/jobs/batch", "/produce", "/batch-produce"):
        is_a_problem(await world.http.post(path, content=body, headers=JSON), 422, "invalid_input")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_a_web_page_could_send_unasked_is_refused(world: DispatcherWorld, content_type: str):
    answer = await world.http.post(
        "/jobs", content='{"model": "echo", "input": 1}', headers={"Content-Type": content_type}
    )

    is_a_problem(answer, 415, "unsupported_media_type")
    assert world.publisher.published == []


async def test_json_may_say_its_charset(world: DispatcherWorld):
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}

    answer = await world.http.post("/jobs", content='{"model": "echo", "input": 1}', headers=headers)

    assert answer.status_code == 202


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"model": "no such name!"}, "model"),
        ({"model": "a*"}, "model"),
        ({"id": "b d"}, "id"),
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"id": "x" * 129}, "id"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": "5"}, "ttl_s"),
        ({"ttl_s": True}, "ttl_s"),
        ({"ttl_s": MAX_SECONDS + 1}, "ttl_s"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"max_attempts": 101}, "max_attempts"),
        ({"metadata": []}, "metadata"),
        ({"metadata": "user"}, "metadata"),
        ({"priority": 1}, "priority"),
        ({"created_at": "2026-01-01T00:00:00Z"}, "created_at"),
    ],
)
async def test_a_field_that_is_wrong_is_named(world: DispatcherWorld, change: dict[str, object], field: str):
    answer = await world.post("/jobs", {"model": "echo", "input": 1, **change})

    problem = is_a_problem(answer, 422, "invalid_input")
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]
    assert str(problem["detail"]).startswith(f"{field}: ")
    assert world.publisher.published == []
    assert (await world.http.get("/jobs")).json()["jobs"] == []


@pytest.mark.parametrize("missing", ["model", "input"])
async def test_a_field_that_is_missing_is_named(world: DispatcherWorld, missing: str):
    job = {"model": "echo", "input": 1}
    del job[missing]

    answer = await world.post("/jobs", job)

    is_a_problem(answer, 422, "invalid_input")
    assert answer.json()["errors"][0]["field"] == missing


async def test_an_input_the_model_cannot_take_is_refused_with_its_field(world: DispatcherWorld):
    answer = await world.post("/jobs", {"model": "minilm-l6-v2", "input": {"texts": ["fine", 5]}})

    is_a_problem(answer, 422, "invalid_input")
    assert answer.json()["errors"][0]["field"] == "input.texts[1]"


async def test_an_unknown_model_is_refused_and_a_similar_one_offered(world: DispatcherWorld):
    answer = await world.post("/jobs", {"model": "ecko", "input": 1})

    assert "echo" in str(is_a_problem(answer, 404, "unknown_model")["detail"])


@pytest.mark.parametrize("field", ["input", "metadata"])
async def test_bottomless_nesting_is_refused_and_the_deepest_allowed_is_not(world: DispatcherWorld, field: str):
    def nested(levels: int) -> dict[str, object]:
        value: dict[str, object] = {}
        for _ in range(levels - 1):
            value = {"a": value}
        return {"model": "echo", "input": 1, field: value}

    is_a_problem(await world.post("/jobs", nested(MAX_DEPTH + 1)), 422, "invalid_input")
    assert (await world.post("/jobs", nested(MAX_DEPTH))).status_code == 202


async def test_a_route_that_is_not_there_and_a_method_it_does_not_take_are_problems(world: DispatcherWorld):
    is_a_problem(await world.http.get("/nowhere"), 404, "not_found")
    is_a_problem(await world.http.get("/jobs/"), 404, "not_found")
    answer = await world.http.put("/jobs")
    is_a_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"
    assert (await world.http.put("/jobs/j1")).headers["allow"] == "DELETE, GET"


async def test_a_body_announced_too_large_is_refused_before_it_is_read():
    async with dispatcher_world(dispatcher_max_body_bytes=1024) as world:
        read = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal read
            read += 1
            yield b"x"

        headers = {**JSON, "Content-Length": "1025"}
        answer = await world.http.post("/jobs", content=body(), headers=headers)

        is_a_problem(answer, 413, "payload_too_large")
        assert answer.headers["connection"] == "close"
        assert read == 0


async def test_an_endless_body_is_cut_off_at_the_limit():
    async with dispatcher_world(dispatcher_max_body_bytes=1024) as world:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 1_000_000:
                sent += 100
                yield b" " * 100

        answer = await world.http.post("/jobs", content=endless(), headers=JSON)

        is_a_problem(answer, 413, "payload_too_large")
        assert answer.headers["connection"] == "close"
        assert sent < 2000


async def test_a_body_of_exactly_the_limit_is_read():
    async with dispatcher_world(dispatcher_max_body_bytes=1024) as world:
        job = '{"model": "echo", "input": 1}'

        async def chunked() -> AsyncIterator[bytes]:
            yield job.encode().ljust(1024)

        for content in (job.ljust(1024).encode(), chunked()):
            assert (await world.http.post("/jobs", content=content, headers=JSON)).status_code == 202


async def test_a_store_that_is_away_is_503_on_every_route_that_needs_it(world: DispatcherWorld):
    world.stores.down = True
    asked = [
        await world.post("/jobs", {"model": "echo", "input": 1}),
        await world.http.get("/jobs"),
        await world.http.get("/jobs/j1"),
        await world.http.delete("/jobs/j1"),
        await world.http.get("/workers"),
        await world.http.get("/models"),
        await world.post("/produce", {"payload": 1}),
        await world.post("/batch-produce", {"messages": [{"payload": 1}]}),
    ]

    for answer in asked:
        is_a_problem(answer, 503, "store_unavailable")
        assert answer.headers["retry-after"] == "1"


async def test_a_client_that_goes_away_does_no_harm(world: DispatcherWorld):
    async def gone() -> AsyncIterator[bytes]:
        yield b"{"
        raise ClientDisconnect

    answer = await world.http.post("/jobs", content=gone(), headers=JSON)

    is_a_problem(answer, 400, "client_disconnected")


@pytest.mark.parametrize("error", [InvariantBroken("secret"), ZeroDivisionError("secret")])
async def test_a_bug_is_a_500_that_says_nothing_of_what_is_inside(world: DispatcherWorld, error: Exception):
    async def fail() -> None:
        raise error

    world.app.add_api_route("/bug", fail)
    answer = await world.http.get("/bug")

    code = error.code if isinstance(error, AffinityError) else "internal"
    is_a_problem(answer, 500, code)
    assert "secret" not in answer.text

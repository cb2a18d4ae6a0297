"""What every answer tells a browser, errors and refusals included."""

import pytest
from starlette.responses import PlainTextResponse

from tests.support.dispatcher import dispatcher_world

EVERY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


@pytest.mark.parametrize("path", ["/health", "/jobs", "/jobs/none", "/nowhere", "/openapi.json", "/metrics"])
async def test_every_answer_has_them_and_runs_nothing_that_is_not_ours(path: str):
    async with dispatcher_world() as world:
        headers = (await world.http.get(path)).headers

        assert {name: headers.get(name) for name in EVERY} == EVERY
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


async def test_a_refusal_at_the_gate_has_them_too():
    async with dispatcher_world(affinity_api_keys="key") as world:
        answer = await world.http.get("/jobs")

        assert answer.status_code == 401
        assert answer.headers["x-frame-options"] == "DENY"


async def test_the_documentation_page_may_load_its_own_script_and_nothing_else():
    async with dispatcher_world() as world:
        page = await world.http.get("/docs")
        policy = page.headers["content-security-policy"]

        assert "https://cdn.jsdelivr.net/npm/swagger-ui-dist" in page.text
        assert "script-src 'unsafe-inline' https://cdn.jsdelivr.net;" in policy
        assert "default-src 'none'" in policy


async def test_what_a_route_says_itself_stands():
    async with dispatcher_world() as world:

        @world.app.get("/kept")
        async def kept() -> object:
            return PlainTextResponse("", headers={"Cache-Control": "max-age=60"})

        answer = await world.http.get("/kept")
        assert answer.headers.get_list("cache-control") == ["max-age=60"]

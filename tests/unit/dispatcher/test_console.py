"""The console's files: open to all, of one origin, sent again only when they have changed."""

import re

import pytest

from dispatcher.routes.console import FOLDER, PAGE, read_files
from tests.support.dispatcher import dispatcher_world

FILES = sorted(read_files())


@pytest.mark.parametrize("keys", [None, "a-key"])
async def test_the_page_and_its_files_need_no_key(keys: str | None):
    async with dispatcher_world(**({"affinity_api_keys": keys} if keys else {})) as world:
        for path in ("/", *(f"/console/{name}" for name in FILES)):
            answer = await world.http.get(path)
            assert answer.status_code == 200, path
            assert "script-src 'self'" in answer.headers["content-security-policy"]


async def test_a_file_that_has_not_changed_is_not_sent_again():
    async with dispatcher_world() as world:
        first = await world.http.get("/")
        assert first.headers["cache-control"] == "no-cache"
        again = await world.http.get("/", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fauth.py", "%2e%2e/auth.py", "__init__.py", ""])
async def test_what_is_no_file_of_the_page_is_not_there(name: str):
    async with dispatcher_world(affinity_api_keys="a-key") as world:
        answer = await world.http.get(f"/console/{name}")
        assert answer.status_code in {401, 404}
        assert b"def " not in answer.content


def test_every_file_is_asked_for_by_another_and_none_leaves_this_origin():
    texts = {name: (FOLDER / name).read_text() for name in FILES}
    named = {found.rpartition("/")[2] for text in texts.values() for found in re.findall(r'"((?:\.?/)[^"]+)"', text)}
    assert set(FILES) - named == {PAGE}
    for name, text in texts.items():
        addresses = set(re.findall(r"https?://[^\s\"']+", text)) - {"http://www.w3.org/2000/svg"}
        assert addresses == set(), name
        assert "innerHTML" not in text, name
        assert len(text.splitlines()) <= 400, name

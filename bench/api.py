"""A dispatcher as its clients see it: plain HTTP, with a note of every operation that was called."""

from collections.abc import Mapping
from typing import Any, Self

import httpx

TIMEOUT_S = 10.0
ENDED = frozenset({"succeeded", "failed", "cancelled", "expired"})


class Unreachable(Exception):
    """Nobody answers at the URL, or the URL is none."""


def auth_header(api_key: str | None) -> dict[str, str]:
    """The header that shows a key; empty without one."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


class Api:
    """Synchronous; use it as a context manager. ``called`` has each operation as ``(method, path template)``."""

    def __init__(self, url: str, api_key: str | None, transport: httpx.BaseTransport | None = None) -> None:
        """``transport`` stands in for the network in tests. Raises ``Unreachable`` for a URL that is none."""
        self.has_key = bool(api_key)
        self.called: set[tuple[str, str]] = set()
        try:
            self._http = httpx.Client(
                base_url=url, headers=auth_header(api_key), timeout=TIMEOUT_S, transport=transport
            )
        except httpx.InvalidURL as error:
            raise Unreachable(f"{url!r} is no address: {error}") from error

    def call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: int = 0,
        **places: str,
    ) -> httpx.Response:
        """One request. ``path`` is a template of the OpenAPI document; ``places`` fill it.

        ``wait_s`` asks with ``Prefer`` and is added to the time-out. Raises ``Unreachable``.
        """
        self.called.add((method, path))
        asked = {**({"Prefer": f"wait={wait_s}"} if wait_s else {}), **(headers or {})}
        if content is not None:
            asked.setdefault("Content-Type", "application/json")
        try:
            return self._http.request(
                method,
                path.format(**places),
                json=json,
                content=content,
                params=params,
                headers=asked,
                timeout=TIMEOUT_S + wait_s,
            )
        except httpx.HTTPError as error:
            raise Unreachable(f"{method} {path}: {error or type(error).__name__}") from error

    def beginning(self, path: str, params: Mapping[str, str], until: str) -> str:
        """An answer that goes on and on, up to where a text comes. Raises ``Unreachable``, ``AssertionError``."""
        self.called.add(("GET", path))
        text = ""
        try:
            with self._http.stream("GET", path, params=params, timeout=TIMEOUT_S) as answer:
                assert answer.status_code == 200, f"{path} answered {answer.status_code}"
                for chunk in answer.iter_text():
                    text += chunk
                    if until in text:
                        return text
        except httpx.HTTPError as error:
            raise Unreachable(f"GET {path}: {error or type(error).__name__}") from error
        raise AssertionError(f"{path} ended without {until}: {text[-300:]}")

    def without_key(self, method: str, path: str) -> httpx.Response:
        """The same as a stranger would ask."""
        self.called.add((method, path))
        request = self._http.build_request(method, path)
        request.headers.pop("Authorization", None)
        return self._http.send(request)

    def submit(self, model: str, value: object, wait_s: int = 0, **fields: Any) -> dict[str, Any]:
        """A job that must be accepted; with ``wait_s``, one that must be over by then. Raises ``AssertionError``."""
        answer = self.call("POST", "/jobs", json={"model": model, "input": value, **fields}, wait_s=wait_s)
        assert answer.status_code in (200, 202), f"POST /jobs answered {answer.status_code}: {answer.text[:300]}"
        job: dict[str, Any] = answer.json()
        assert not wait_s or job["state"] in ENDED, f"job {job['id']} is still {job['state']} after {wait_s} s"
        return job

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

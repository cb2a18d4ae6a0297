"""A client of the HTTP interface: what the command line stands on, usable from programs too."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

TIMEOUT_S = 10.0
MAX_WAIT_S = 60

Json = dict[str, Any]


class Refused(Exception):
    """The dispatcher answered with a problem. ``code`` is its stable code, ``status`` the HTTP status.

    ``retry_after_s``: it says that it will do then; ``None`` where asking again does not help.
    """

    def __init__(self, problem: Mapping[str, Any], status: int, retry_after_s: float | None = None) -> None:
        super().__init__(str(problem.get("detail", "no detail")))
        self.problem = dict(problem)
        self.code = str(problem.get("code", f"http_{status}"))
        self.status = status
        self.retry_after_s = retry_after_s


class Unreachable(Exception):
    """Nobody answered at that address, or not as a dispatcher does."""


class Client:
    """Synchronous; close it, or use it as a context manager. Methods raise ``Refused`` and ``Unreachable``.

    ``transport`` stands in for the network in tests.
    """

    def __init__(self, url: str, api_key: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, transport=transport)
        except httpx.InvalidURL as error:
            raise Unreachable(f"{url!r} is no address: {error}") from error

    def submit(self, job: Mapping[str, Any], wait_s: int = 0) -> Json:
        """Submit a job; with ``wait_s`` (60 at most), the job as it stands when it is over or the time is."""
        return self._ask("POST", "/jobs", json=dict(job), wait_s=wait_s)

    def get(self, job_id: str, wait_s: int = 0) -> Json:
        """One job."""
        return self._ask("GET", f"/jobs/{_quoted(job_id)}", wait_s=wait_s)

    def explain(self, job_id: str) -> Json:
        """Why a job waits, or ran where it ran."""
        return self._ask("GET", f"/jobs/{_quoted(job_id)}/explain")

    def cancel(self, job_id: str) -> Json:
        """Cancel a job; the job."""
        return self._ask("DELETE", f"/jobs/{_quoted(job_id)}")

    def jobs(self, state: str | None, model: str | None, limit: int, cursor: str | None) -> Json:
        """A page ``{jobs, cursor}``, newest first."""
        asked = {"state": state, "model": model, "limit": limit, "cursor": cursor}
        return self._ask("GET", "/jobs", params={name: value for name, value in asked.items() if value is not None})

    def accepted(self) -> float | None:
        """How many jobs this dispatcher has ever accepted, from its metrics; ``None`` where it does not say."""
        try:
            lines = self._http.get("/metrics").text.splitlines()
            counts = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("messages_produced_total{")]
        except (httpx.HTTPError, ValueError):
            return None
        return sum(counts) if counts else None

    def workers(self) -> list[Json]:
        """The live workers."""
        return cast(list[Json], self._ask("GET", "/workers")["workers"])

    def models(self) -> list[Json]:
        """The catalogue."""
        return cast(list[Json], self._ask("GET", "/models")["models"])

    def load(self, model: str, worker: str | None = None) -> Json:
        """Have a model loaded on a worker, or where it costs least; what will happen, as ``{detail, orders}``."""
        return self._by_hand("load", model, worker)

    def unload(self, model: str, worker: str | None = None) -> Json:
        """Have a model leave a worker, or all that hold it; what will happen, as ``{detail, orders}``."""
        return self._by_hand("unload", model, worker)

    def pin(self, model: str, worker: str | None = None) -> Json:
        """Have a model stay on a worker, or on all; where it is pinned now."""
        return self._by_hand("pin", model, worker)

    def unpin(self, model: str, worker: str | None = None) -> Json:
        """Take back a pin set by hand; where the model is pinned now."""
        return self._by_hand("unpin", model, worker)

    def drain(self, worker: str) -> Json:
        """Have a worker take no more work; ``{worker, drain, detail}``."""
        return self._ask("POST", f"/workers/{_quoted(worker)}/drain", json={})

    def undrain(self, worker: str) -> Json:
        """Have a drained worker take work again; ``{worker, drain, detail}``."""
        return self._ask("POST", f"/workers/{_quoted(worker)}/undrain", json={})

    def order(self, order_id: str) -> Json:
        """How far an order is."""
        return self._ask("GET", f"/orders/{_quoted(order_id)}")

    def dead_letters(self, code: str | None, model: str | None, limit: int, cursor: str | None) -> Json:
        """A page ``{dead_letters, cursor}`` of what gave up, newest first."""
        asked = {"code": code, "model": model, "limit": limit, "cursor": cursor}
        params = {name: value for name, value in asked.items() if value is not None}
        return self._ask("GET", "/dead-letters", params=params)

    def redrive(self, which: Mapping[str, Any]) -> Json:
        """Have dead letters put back: ``ids``, or ``code``, ``model``, ``all``; at a ``rate`` per second."""
        return self._ask("POST", "/dead-letters/redrive", json=dict(which))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _by_hand(self, verb: str, model: str, worker: str | None) -> Json:
        return self._ask("POST", f"/models/{_quoted(model)}/{verb}", json={"worker": worker})

    def _ask(self, method: str, path: str, wait_s: int = 0, **more: Any) -> Json:
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        try:
            response = self._http.request(method, path, headers=headers, timeout=TIMEOUT_S + wait_s, **more)
            answer = response.json()
        except httpx.HTTPError as error:
            raise Unreachable(f"no dispatcher answers at {self._url}: {error or type(error).__name__}") from error
        except ValueError as error:
            raise Unreachable(f"what answers at {self._url} is no dispatcher: it does not speak JSON") from error
        if not isinstance(answer, dict) or response.is_error:
            raise Refused(answer if isinstance(answer, dict) else {}, response.status_code, _retry_after_s(response))
        return answer


def _retry_after_s(response: httpx.Response) -> float | None:
    """Only where it makes sense to ask again; a date, which we never send, counts as a second."""
    if response.status_code not in {429, 503}:
        return None
    said = response.headers.get("Retry-After", "1")
    return float(said) if said.isdecimal() else 1.0


def _quoted(name: str) -> str:
    """An id from a person as one segment of a path: a slash in it must not become another route."""
    return quote(name, safe="")

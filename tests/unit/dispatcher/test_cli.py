"""The ``affinity`` program against the real application, without a socket."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio.from_thread
import httpx
import pytest
from rich.console import Console

from affinity.fleet import GIB, Residency, ResidencyState
from affinity.job import JobError
from affinity.orders import OrderState
from dispatcher import cli_output as show
from dispatcher.cli import run
from dispatcher.cli_shell import Shell
from dispatcher.client import Client, Unreachable
from tests.support.dispatcher import DispatcherWorld, dispatcher_world
from tests.support.job_samples import a_report


class Bridge(httpx.BaseTransport):
    """Carries a synchronous client's requests to an application on another thread's loop.

    ``on_ask`` has what is to happen once a request for that path has been answered.
    """

    def __init__(self, portal: anyio.from_thread.BlockingPortal, world: DispatcherWorld) -> None:
        self.on_ask: dict[str, Callable[[], None]] = {}
        self._portal = portal
        self._world = world

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def carry() -> httpx.Response:
            asked = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
            answer = await self._world.http.send(asked)
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

        answer = self._portal.call(carry)
        self.on_ask.get(request.url.path, lambda: None)()
        return answer


@dataclass(slots=True)
class Terminal:
    """A command line connected to a dispatcher, and what it printed last."""

    world: DispatcherWorld
    portal: anyio.from_thread.BlockingPortal
    transport: httpx.BaseTransport
    on_ask: dict[str, Callable[[], None]]
    out: str = ""
    err: str = ""
    key: str | None = None

    def type(self, *arguments: str) -> int:
        """Run a command; its exit code."""
        out, err = io.StringIO(), io.StringIO()

        def connect(url: str, key: str | None) -> Client:
            self.key = key
            return Client(url, key, self.transport)

        code = run(arguments, Shell(connect, Console(file=out, width=200), Console(file=err, width=200)))
        self.out, self.err = out.getvalue(), err.getvalue()
        return code

    def json(self) -> Any:
        """What was printed, as JSON."""
        return json.loads(self.out)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with ExitStack() as stack:
        portal = stack.enter_context(anyio.from_thread.start_blocking_portal())
        world = stack.enter_context(portal.wrap_async_context_manager(dispatcher_world()))
        bridge = Bridge(portal, world)
        yield Terminal(world, portal, bridge, bridge.on_ask)


def test_a_job_is_submitted_with_all_its_options(terminal: Terminal):
    code = terminal.type(
        "submit", "echo", "--input", '{"n": 1}', "--id", "j1", "--ttl-s", "5", "--timeout-s", "2",
        "--max-attempts", "4", "--metadata", "user=u", "--metadata", "equation=a=b", "--json",
    )  # fmt: skip

    [spec] = terminal.world.publisher.published
    assert code == 0
    assert terminal.json()["id"] == "j1"
    assert (spec.input, spec.ttl_s, spec.timeout_s, spec.max_attempts) == ({"n": 1}, 5.0, 2.0, 4)
    assert spec.metadata == {"user": "u", "equation": "a=b"}


def test_the_input_may_be_in_a_file(terminal: Terminal, tmp_path: Path):
    (tmp_path / "input.json").write_text('["from", "file"]')

    assert terminal.type("submit", "echo", "--input", f"@{tmp_path}/input.json") == 0
    assert terminal.world.publisher.published[0].input == ["from", "file"]


def test_waiting_for_a_job_that_is_over_shows_its_result_and_exits_by_its_state(terminal: Terminal):
    terminal.type("submit", "echo", "--input", "1", "--id", "good")
    terminal.type("submit", "echo", "--input", "1", "--id", "bad")
    terminal.portal.call(terminal.world.serve, "good", {"said": "[bold]hello[/bold]"})
    terminal.portal.call(terminal.world.serve, "bad", None, JobError("job_failed", "it raised [red]"))

    assert terminal.type("wait", "good") == 0
    assert "[bold]hello[/bold]" in terminal.out
    assert terminal.type("wait", "bad") == 1
    assert "job_failed: it raised [red]" in terminal.out
    assert terminal.type("submit", "echo", "--input", "1", "--id", "bad", "--wait", "5") == 1
    assert terminal.type("get", "bad") == 0


def test_a_job_that_is_not_over_in_time_is_exit_5(terminal: Terminal):
    terminal.portal.call(terminal.world.dispatcher.settlements.close)  # answers waiting clients at once
    terminal.type("submit", "echo", "--input", "1", "--id", "j1")

    assert terminal.type("wait", "j1", "--timeout-s", "0") == 5
    assert terminal.type("submit", "echo", "--input", "1", "--wait", "1") == 5


def test_a_job_can_be_cancelled(terminal: Terminal):
    terminal.type("submit", "echo", "--input", "1", "--id", "j1")

    assert terminal.type("cancel", "j1", "--json") == 0
    assert terminal.json()["state"] == "cancelled"


def test_jobs_are_listed_with_filters_and_a_way_to_go_on(terminal: Terminal):
    for number in range(3):
        terminal.type("submit", "echo", "--input", "1", "--id", f"j{number}")
        terminal.world.clock.advance(1.0)

    assert terminal.type("jobs", "--limit", "2", "--state", "queued", "--model", "echo") == 0
    assert "j2" in terminal.out
    assert "j0" not in terminal.out
    cursor = terminal.out.rpartition("--cursor ")[2].strip()
    assert terminal.type("jobs", "--cursor", cursor, "--json") == 0
    assert [job["id"] for job in terminal.json()["jobs"]] == ["j0"]


def test_a_job_is_explained_to_people_and_to_programs(terminal: Terminal):
    terminal.portal.call(terminal.world.stores.fleet.report, a_report("w1"))
    terminal.type("submit", "echo", "--input", "1", "--id", "j1")

    assert terminal.type("explain", "j1") == 0
    assert "plan: load by w1" in terminal.out
    assert terminal.type("explain", "j1", "--json") == 0
    assert [candidate["standing"] for candidate in terminal.json()["waiting"]["candidates"]] == ["chosen"]


def test_workers_and_models_are_shown_in_gib_and_seconds(terminal: Terminal):
    terminal.portal.call(terminal.world.stores.fleet.report, a_report("w1"))

    assert terminal.type("workers") == 0
    assert "0.00 GiB of 24.00 GiB" in terminal.out
    assert "host RAM" not in terminal.out, "no column for what nobody has"
    assert terminal.type("models") == 0
    assert "14.00 GiB (declared)" in terminal.out
    assert terminal.type("workers", "--json") == 0
    assert terminal.json()["workers"][0]["id"] == "w1"
    assert terminal.type("models", "--json") == 0
    assert [model["name"] for model in terminal.json()["models"]] == ["big", "echo", "minilm-l6-v2"]


def test_what_a_host_keeps_in_its_memory_has_a_column_where_a_host_keeps_anything(terminal: Terminal):
    terminal.portal.call(terminal.world.stores.fleet.report, replace(a_report("w1"), cached=("echo", "big")))
    terminal.portal.call(terminal.world.stores.fleet.report, a_report("w2"))

    assert terminal.type("workers") == 0
    assert "host RAM" in terminal.out
    assert "big" in terminal.out
    assert "echo" in terminal.out


def hold(terminal: Terminal, model: str, worker: str = "w1") -> None:
    """Have a worker report that model as resident."""
    held = Residency(model, ResidencyState.READY, GIB, loaded_at=1.0, last_used_at=1.0)
    report = replace(a_report(worker), residents=(held,), sequence=2)
    terminal.portal.call(terminal.world.stores.fleet.report, report)


def end(terminal: Terminal, state: OrderState, reason: str) -> None:
    """End the order that waits."""

    async def ended() -> None:
        [order] = (await terminal.world.stores.fleet.sighting()).view.orders
        await terminal.world.stores.fleet.end_order(order.id, state, reason, terminal.world.clock.now())

    terminal.portal.call(ended)


def test_a_load_by_hand_says_what_will_happen(terminal: Terminal):
    terminal.portal.call(terminal.world.stores.fleet.report, a_report("w1"))

    assert terminal.type("load", "big", "--worker", "w1") == 0
    assert "big is to be loaded on w1 within 10 minutes" in terminal.out
    assert terminal.type("load", "big", "--json") == 0
    assert [(order["worker"], order["state"]) for order in terminal.json()["orders"]] == [(None, "waiting")]


@pytest.mark.parametrize(
    ("state", "code"),
    [(OrderState.DONE, 0), (OrderState.FAILED, 1), (OrderState.REPLACED, 1), (OrderState.EXPIRED, 5)],
)
def test_waiting_for_an_order_shows_how_it_ended_and_exits_by_it(terminal: Terminal, state: OrderState, code: int):
    terminal.portal.call(terminal.world.stores.fleet.report, a_report("w1"))
    terminal.on_ask["/models/big/load"] = lambda: end(terminal, state, "[red] is why")

    assert terminal.type("load", "big", "--worker", "w1", "--wait") == code
    assert f" on w1 {state}: [red] is why" in terminal.out


def test_an_order_that_is_not_over_in_time_is_exit_5(terminal: Terminal):
    hold(terminal, "big")

    assert terminal.type("unload", "big", "--wait", "--timeout-s", "0") == 5
    assert "big is to leave w1" in terminal.out
    assert terminal.type("unload", "big", "--wait", "--timeout-s", "0", "--json") == 5
    assert terminal.json()["orders"][0]["state"] == "waiting"


def test_waiting_for_what_is_so_already_is_over_at_once(terminal: Terminal):
    hold(terminal, "big")

    assert terminal.type("load", "big", "--wait") == 0
    assert "big is resident on w1 already" in terminal.out
    assert terminal.type("unload", "echo", "--wait", "--json") == 0
    assert terminal.json()["orders"] == []


def test_pins_are_set_shown_and_taken_back(terminal: Terminal):
    hold(terminal, "big")

    assert terminal.type("pin", "big", "--worker", "w1") == 0
    assert "big is pinned on w1" in terminal.out
    assert terminal.type("workers") == 0
    assert "big 1.00 GiB ready, pinned" in terminal.out
    assert terminal.type("pin", "big") == 0
    assert "big is pinned on every worker, by hand" in terminal.out
    assert terminal.type("models") == 0
    assert "everywhere" in terminal.out
    assert terminal.type("unload", "big") == 3
    assert "refused (pinned)" in terminal.err
    assert terminal.type("unpin", "big", "--json") == 0
    assert terminal.json() == {"model": "big", "pinned": False, "pinned_by": None, "pinned_on": []}
    assert terminal.type("unpin", "big") == 0
    assert "big is not pinned" in terminal.out


def test_a_worker_is_drained_and_waited_for(terminal: Terminal):
    hold(terminal, "big")

    assert terminal.type("drain", "w1", "--wait", "--timeout-s", "0") == 5
    assert "w1 takes no more work" in terminal.out
    empty = replace(a_report("w1", sequence=2), draining=True)
    terminal.on_ask["/workers/w1/drain"] = lambda: terminal.portal.call(terminal.world.stores.fleet.report, empty)
    assert terminal.type("drain", "w1", "--wait", "--json") == 0
    assert terminal.json()["drain"] is True
    assert terminal.type("undrain", "w1") == 0
    assert terminal.out.strip() == "w1 takes work again"


def test_an_outlook_is_said_in_words():
    out = Console(file=io.StringIO(), width=200)
    decision = {"worker": "w2", "victims": [], "reason": "w2 runs a"}
    orders = [
        {"id": f"o{number}", "worker": None, "outlook": {**decision, "kind": kind, "victims": victims}}
        for number, (kind, victims) in enumerate([("load", ["a", "b"]), ("load", []), ("wait", []), ("unload", [])])
    ]
    show.print_asked(out, {"detail": "big is to be loaded", "orders": orders})
    assert out.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "big is to be loaded",
        "order o0: w2 loads it now, evicting a, b",
        "order o1: w2 loads it now",
        "order o2: waits: w2 runs a",
        "order o3: w2 evicts it",
    ]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("submit", "nobody", "--input", "1"), "unknown_model"),
        (("submit", "echo", "--input", "1", "--id", "b d"), "invalid_input"),
        (("get", "nobody"), "unknown_job"),
        (("get", "../metrics"), "not_found"),
        (("explain", "nobody"), "unknown_job"),
        (("cancel", "nobody"), "unknown_job"),
        (("load", "nobody"), "unknown_model"),
        (("load", "big"), "cannot_load"),
        (("unload", "big", "--worker", "w9"), "unknown_worker"),
        (("pin", "../jobs"), "unknown_model"),
        (("unpin", "nobody"), "unknown_model"),
        (("drain", "nobody"), "unknown_worker"),
        (("undrain", "../jobs"), "not_found"),
        (("jobs", "--cursor", "%"), "invalid_input"),
    ],
)
def test_a_refusal_is_exit_3_with_its_code_on_stderr(terminal: Terminal, arguments: tuple[str, ...], code: str):
    assert terminal.type(*arguments) == 3
    assert f"refused ({code})" in terminal.err
    assert terminal.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "echo"),
        ("submit", "echo", "--input", "{"),
        ("submit", "echo", "--input", "@/nowhere.json"),
        ("submit", "echo", "--input", "1", "--metadata", "novalue"),
        ("submit", "echo", "--input", "1", "--wait", "-1"),
        ("jobs", "--state", "lost"),
        ("jobs", "--limit", "0"),
        ("load",),
        ("unload", "big", "--wait", "--timeout-s", "-1"),
        ("brew",),
    ],
)
def test_wrong_usage_is_exit_2(terminal: Terminal, arguments: tuple[str, ...]):
    assert terminal.type(*arguments) == 2
    assert terminal.world.publisher.published == []


class Answering(httpx.BaseTransport):
    """Somebody who always answers the same, or nobody."""

    def __init__(self, answer: httpx.Response | httpx.HTTPError) -> None:
        self.answer = answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if isinstance(self.answer, httpx.HTTPError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("connection refused"),
        httpx.ReadTimeout(""),
        httpx.Response(200, text="<html>hello</html>"),
        httpx.Response(502, text="bad gateway"),
    ],
)
def test_nobody_there_is_exit_4_and_says_where_it_looked(terminal: Terminal, answer: httpx.Response | httpx.HTTPError):
    terminal.transport = Answering(answer)

    assert terminal.type("jobs", "--url", "http://elsewhere:1") == 4
    assert "http://elsewhere:1" in terminal.err
    assert "AFFINITY_URL" in terminal.err


@pytest.mark.parametrize("url", ["localhost:5000", "http://x:port", "ftp://x"])
def test_an_address_that_is_none_is_exit_4(url: str):
    def connect(url: str, key: str | None) -> Client:
        return Client(url, key)

    assert run(["jobs", "--url", url], Shell(connect, Console(), Console(stderr=True))) == 4


def test_a_key_is_sent_as_a_bearer_token():
    seen: list[str] = []

    class Noting(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            seen.append(request.headers.get("authorization", ""))
            return httpx.Response(200, json={"workers": []})

    with Client("http://x", "k1", Noting()) as client:
        client.workers()
    with Client("http://x", None, Noting()) as client:
        client.workers()

    assert seen == ["Bearer k1", ""]


def test_the_client_can_be_used_without_the_command_line(terminal: Terminal):
    with Client("http://dispatcher", transport=terminal.transport) as client:
        job = client.submit({"model": "echo", "input": 1})
        assert client.get(job["id"])["state"] == "queued"
    with pytest.raises(Unreachable), Client("http://x:port") as client:
        client.workers()


def test_dead_letters_are_listed_and_put_back(terminal: Terminal) -> None:
    for name in ("j1", "j2"):
        terminal.type("submit", "echo", "--input", "{}", "--id", name)
        error = JobError("quarantined", "[bold]3 executors died")
        terminal.portal.call(lambda name=name, error=error: terminal.world.serve(name, error=error))

    assert terminal.type("dead-letters", "--code", "quarantined", "--model", "echo") == 0
    assert "j1" in terminal.out
    assert "[bold]3 executors" in terminal.out
    assert terminal.type("dead-letters", "--limit", "1", "--json") == 0
    page = terminal.json()
    assert [letter["id"] for letter in page["dead_letters"]] == ["j2"]
    assert terminal.type("dead-letters", "--limit", "1") == 0
    assert f"more: --cursor {page['cursor']}" in terminal.out

    assert terminal.type("redrive", "j1", "nobody", "--rate", "10") == 0
    assert "1 put back, the last one at" in terminal.out
    assert "no dead letters: nobody" in terminal.out
    assert terminal.type("redrive", "--all", "--json") == 0
    assert terminal.json()["scheduled"] == 2


def test_a_redrive_must_say_which(terminal: Terminal) -> None:
    assert terminal.type("redrive") == 2
    assert terminal.type("redrive", "j1", "--all") == 3
    assert "goes without ids" in terminal.err

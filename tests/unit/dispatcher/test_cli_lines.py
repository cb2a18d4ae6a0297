"""``affinity submit --file``: many jobs, side by side, safe to run again."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from dispatcher.cli import run
from dispatcher.cli_lines import Sender, parsed
from dispatcher.cli_shell import Shell
from dispatcher.client import Client

Answer = Callable[[dict[str, Any], int], httpx.Response | None]
"""To a job, and how often it has been asked for: another answer than 202."""


class Dispatcher(httpx.BaseTransport):
    """Takes every job that ``answer`` has nothing against. ``most`` is how many it was asked for at the same time."""

    def __init__(self, answer: Answer = lambda _job, _times: None) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: Counter[str] = Counter()
        self.most = 0
        self._now = 0
        self._answer = answer
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            job = self.jobs[request.url.path.rpartition("/")[2]]
            return httpx.Response(200, json={**job, "state": "failed" if job["input"] == "bad" else "succeeded"})
        job = json.loads(request.read())
        with self._lock:
            self.asked[job["id"]] += 1
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            refused = self._answer(job, self.asked[job["id"]])
        finally:
            with self._lock:
                self._now -= 1
        if refused is not None:
            return refused
        self.jobs[job["id"]] = job
        return httpx.Response(202, json={**job, "state": "queued"})


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": f"{code} it is"}, headers=headers)


class Lines:
    """The command against such a dispatcher."""

    def __init__(self, folder: Path, dispatcher: Dispatcher) -> None:
        self._file = folder / "jobs.jsonl"
        self._folder = folder
        self.dispatcher = dispatcher

    def submit(self, *lines: object, options: tuple[str, ...] = ()) -> int:
        self._file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        with (self._folder / "out").open("w") as out, (self._folder / "err").open("w") as err:
            shell = Shell(
                lambda url, key: Client(url, key, self.dispatcher), Console(file=out), Console(file=err, width=200)
            )
            code = run(["submit", "--file", str(self._file), *options], shell)
        self.out, self.err = (self._folder / "out").read_text(), (self._folder / "err").read_text()
        return code


def test_every_line_is_a_job_and_a_second_run_makes_no_new_ones(tmp_path: Path) -> None:
    lines = Lines(tmp_path, Dispatcher())
    content = [{"model": "a", "input": 1}, {"model": "a", "input": 1}, {"input": 2}, "", {"input": 3, "id": "mine"}]
    assert lines.submit(*content, options=("echo",)) == 0
    assert "4 accepted, 0 refused, 0 not sent" in lines.err
    jobs = lines.dispatcher.jobs
    assert sorted((job["model"], job["input"]) for job in jobs.values()) == [
        ("a", 1), ("a", 1), ("echo", 2), ("echo", 3)
    ]  # fmt: skip
    assert "mine" in jobs
    # A line put in front changes nothing about the others.
    assert lines.submit({"input": 0}, *content, options=("echo",)) == 0
    assert len(jobs) == 5
    assert lines.submit(*content, options=("echo", "--run", "tuesday")) == 0
    assert len(jobs) == 8, "the same lines as other jobs, but for the one with an id of its own"


def test_refused_lines_are_named_with_their_reason_and_the_others_are_taken(tmp_path: Path) -> None:
    def answer(job: dict[str, Any], _times: int) -> httpx.Response | None:
        return problem(404, "unknown_model") if job["model"] == "\x1b[31mnobody" else None

    lines = Lines(tmp_path, Dispatcher(answer))
    content = [{"model": "a", "input": 1}, "{", {"model": "\x1b[31mnobody", "input": 1}, "[1]"]
    assert lines.submit(*content) == 3
    assert "line 2: malformed_json: is not JSON" in lines.err
    assert "line 3: unknown_model: unknown_model it is" in lines.err
    assert "line 4: malformed_json: must be an object" in lines.err
    assert "1 accepted, 3 refused, 0 not sent" in lines.err
    assert "\x1b" not in lines.err
    assert lines.submit(*content, options=("--json",)) == 3
    assert [(left["line"], left["code"]) for left in json.loads(lines.out)["left"]] == [
        (2, "malformed_json"), (3, "unknown_model"), (4, "malformed_json")
    ]  # fmt: skip


def test_results_come_as_json_lines_and_the_worst_of_them_is_the_exit_code(tmp_path: Path) -> None:
    lines = Lines(tmp_path, Dispatcher())
    assert lines.submit({"model": "a", "input": 1}, options=("--wait", "5")) == 0
    assert lines.submit({"model": "a", "input": 1}, {"model": "a", "input": "bad"}, options=("--wait", "5")) == 1
    assert sorted(json.loads(line)["state"] for line in lines.out.splitlines()) == ["failed", "succeeded"]
    assert "1 failed, 1 succeeded" in lines.err


def test_a_line_waits_as_long_as_the_dispatcher_says_and_is_sent_again() -> None:
    def answer(job: dict[str, Any], times: int) -> httpx.Response | None:
        if job["input"] == 1 and times == 1:
            return problem(429, "overloaded", **{"Retry-After": "7"})
        if job["input"] == 2 and times < 3:
            raise httpx.ConnectError("refused")
        return problem(503, "store_unavailable", **{"Retry-After": "3600"}) if job["input"] == 3 else None

    paused: list[float] = []
    dispatcher = Dispatcher(answer)
    with Client("http://x", transport=dispatcher) as client:
        sender = Sender(client, 4, 60.0, paused.append)
        done: list[int] = []
        sender.send(parsed([f'{{"model": "a", "input": {n}}}' for n in (1, 2, 3, 4)], None, ""), lambda: done.append(1))
    assert sorted(paused) == [1.0, 1.0, 7.0], "not the hour: that is more patience than it was told to have"
    assert len(done) == 4
    assert len(sender.tally.accepted) == 3
    assert [(left.line, left.code) for left in sender.tally.left] == [(3, "store_unavailable")]


def test_no_more_requests_run_at_a_time_than_asked_for() -> None:
    met = threading.Barrier(3)

    def answer(_job: dict[str, Any], _times: int) -> None:
        met.wait(10)  # Goes on when three are there at the same time.

    dispatcher = Dispatcher(answer)
    with Client("http://x", transport=dispatcher) as client:
        Sender(client, 3, 0.0).send(parsed([f'{{"input": {n}}}' for n in range(9)], "a", ""), int)
    assert dispatcher.most == 3


def test_a_key_that_is_wrong_ends_it_at_the_first_line(tmp_path: Path) -> None:
    lines = Lines(tmp_path, Dispatcher(lambda _job, _times: problem(401, "unauthorized")))
    assert lines.submit(*({"model": "a", "input": n} for n in range(500)), options=("--parallel", "1")) == 3
    assert "refused (unauthorized)" in lines.err
    assert len(lines.dispatcher.asked) < 10


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit",),
        ("submit", "echo"),
        ("submit", "--file", "/nowhere.jsonl"),
        ("submit", "--file", "-", "--input", "1"),
        ("submit", "--file", "-", "--id", "j1"),
        ("submit", "--file", "-", "--parallel", "0"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    dispatcher = Dispatcher()
    shell = Shell(lambda url, key: Client(url, key, dispatcher), Console(), Console(stderr=True))
    assert run(list(arguments), shell) == 2
    assert dispatcher.asked == Counter()

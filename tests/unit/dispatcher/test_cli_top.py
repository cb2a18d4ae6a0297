"""What ``affinity top`` and ``jobs --watch`` draw, and that nothing from outside can steer the terminal."""

import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rich.console import Console
from rich.text import Text

from dispatcher import cli_output as show
from dispatcher.cli import run
from dispatcher.cli_live import Pause
from dispatcher.cli_shell import Shell
from dispatcher.cli_top import Look, Rate, Rates, picture
from dispatcher.client import Client

GIB = 1024**3
NASTY = 'a"b\n[red]\x1b[2J\u202e'
ESCAPED = 'a"b\\n[red]\\x1b[2J\\u202e'


def worker(name: str = "w1", *residents: tuple[str, float, str], foreign: float = 0.0) -> dict[str, Any]:
    held = [
        {"model": model, "bytes": int(size * GIB), "state": state, "running": 0, "pinned": False}
        for model, size, state in residents
    ]
    used = sum(r["bytes"] for r in held) + foreign * GIB
    gpu = {"name": "A100", "total_bytes": 24 * GIB, "used_bytes": used, "foreign_bytes": foreign * GIB}
    return {
        "id": name, "busy": True, "draining": False, "lease_age_s": 0.5, "residents": held, "cached": [],
        "gpu": {**gpu, "free_bytes": 24 * GIB - used, "utilization": 0.5},
    }  # fmt: skip


def model(name: str, queued: int = 0, oldest_s: float | None = None, holders: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"name": name, "queued": queued, "oldest_wait_s": oldest_s, "holders": list(holders), "orders": []}


def drawn(look: Look, width: int = 80, height: int | None = None) -> list[str]:
    out = Console(file=io.StringIO(), width=width, force_terminal=False)
    out.print(picture(look, width, height))
    return out.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_a_gpu_is_a_bar_of_its_residents_with_what_comes_goes_and_is_foreign() -> None:
    look = Look("http://x", [worker("w1", ("a", 12, "ready"), ("b", 6, "loading"), foreign=3)], [])
    head, line, bar, held, nothing = drawn(look, width=26)
    assert head.startswith("1 GPUs, 1 busy | 0 queue")
    assert line == "w1  busy, 50%  21.0 of 24…"
    assert bar == "[aaaaaaaaaaaabbbbbb▒▒▒···]"
    assert held == "  a a 12.0G  b b 6.0G LOA…"
    assert nothing == "nothing waits"
    assert "LEAVES" in drawn(Look("", [worker("w1", ("a", 1, "draining"))], []))[3]


def test_a_small_resident_has_a_cell_and_the_whole_never_more_than_there_is() -> None:
    tiny = [(f"m{n}", 0.001, "ready") for n in range(3)]
    assert drawn(Look("", [worker("w1", *tiny, ("big", 12, "ready"))], []), width=22)[2] == "[abcdddddddddd·······]"
    assert drawn(Look("", [worker("w1", ("big", 23.9, "ready"), *tiny)], []), width=22)[2] == f"[{20 * 'a'}]"


def test_what_waits_longest_comes_first_with_its_holders() -> None:
    models = [model("idle"), model("young", 9, 1.0, ("w1",)), model("old", 2, 30.0)]
    rows = drawn(Look("", [], models, Rate(4.0, 2.5)))
    assert "11 queued, oldest 30 s | in 4.0/s | out 2.5/s" in rows[0]
    assert "no worker is there" in rows[1]
    assert [row.split() for row in rows[3:]] == [["old", "2", "30", "s", "nobody"], ["young", "9", "1.000", "s", "w1"]]


@pytest.mark.parametrize(("width", "height"), [(20, 8), (40, 12), (80, 24), (200, 50)])
def test_it_fits_any_terminal_and_says_what_it_leaves_out(width: int, height: int) -> None:
    workers = [worker(f"w{n}", ("some/long-name-of-a-model", 12, "ready")) for n in range(64)]
    models = [model(f"family/model-{n}", 5, float(n), ("w1", "w2")) for n in range(500)]
    lines = drawn(Look("http://dispatcher.example", workers, models), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert any("more GPUs" in line for line in lines)
    assert any("more models" in line for line in lines)


def test_rates_are_of_two_looks_and_a_dispatcher_that_began_again_has_none_yet() -> None:
    rates = Rates()
    assert rates.since(0.0, 100.0, 10) is None
    assert rates.since(2.0, 120.0, 14) == Rate(10.0, 8.0)
    assert rates.since(3.0, 5.0, 14) is None
    assert rates.since(4.0, 6.0, 14) == Rate(1.0, 1.0)
    assert rates.since(5.0, None, 14) is None


def test_no_name_from_outside_steers_the_terminal() -> None:
    """As the console of a real terminal gets it: colours of ours are there, escapes of theirs are not."""
    out = Console(file=io.StringIO(), width=300, force_terminal=True, color_system="truecolor")
    look = Look(NASTY, [worker(NASTY, (NASTY, 1, "ready"))], [model(NASTY, 3, 1.0, (NASTY,))])
    out.print(picture(look, 300, None))
    job = {
        "id": NASTY, "model": NASTY, "state": "failed", "worker": NASTY, "start": NASTY, "wait_s": 1, "load_s": None,
        "exec_s": None, "error": {"code": NASTY, "message": NASTY}, "created_at": NASTY, "result": None,
    }  # fmt: skip
    show.print_job(out, job)
    show.print_job(out, {**job, "state": "succeeded", "error": None, "result": {NASTY: "\x9b31m"}})
    show.print_jobs(out, [job], NASTY)
    show.print_workers(out, [{**look.workers[0], "cached": [NASTY]}])
    listed = {
        "runtime": NASTY,
        "measured": [],
        "declared_bytes": None,
        "pinned": False,
        "pinned_on": [NASTY],
        "depth": 1,
    }
    show.print_models(out, [{**look.models[0], **listed, "depth": 1}])
    said = out.file.getvalue()  # type: ignore[attr-defined]
    assert said.count(ESCAPED) >= 20
    assert Text.from_ansi(said).plain.isprintable() is False, "it has newlines of ours"
    assert "\x1b[2J" not in said
    assert "\u202e" not in said
    assert "\x9b" not in said


class Fleet(httpx.BaseTransport):
    """A dispatcher with one worker and a job that moves on at every look."""

    def __init__(self) -> None:
        self.looks = 0
        self.down = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused")
        match request.url.path:
            case "/workers":
                return httpx.Response(200, json={"workers": [worker("w1", ("a", 6, "ready"))]})
            case "/models":
                return httpx.Response(200, json={"models": [model("a", 2, 1.0)]})
            case "/jobs":
                self.looks += 1
                state = ("queued", "running", "running", "succeeded")[min(self.looks, 4) - 1]
                job = {"id": "j1", "model": "a", "state": state, "worker": "w1", "start": "warm", "wait_s": 0.1,
                       "exec_s": 0.1, "created_at": "2026-11-24T07:36:10Z"}  # fmt: skip
                return httpx.Response(200, json={"jobs": [job], "cursor": None})
        return httpx.Response(200, text='messages_produced_total{model="a"} 5.0\n')


class Watched:
    """A command that goes on for some looks and is then ended, as by q."""

    def __init__(self, looks: int, terminal: bool) -> None:
        self.fleet = Fleet()
        self._left = looks
        self._out = Console(file=io.StringIO(), width=100, height=20, force_terminal=terminal)
        self.err = io.StringIO()

    def run(self, *arguments: str) -> int:
        shell = Shell(lambda url, key: Client(url, key, self.fleet), self._out, Console(file=self.err), self._keyboard)
        return run(arguments, shell)

    @property
    def said(self) -> str:
        return self._out.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    def _pause(self, _duration_s: float) -> bool:
        self._left -= 1
        self.fleet.down = self._left == 1
        return self._left > 0

    @contextlib.contextmanager
    def _keyboard(self) -> Iterator[Pause]:
        yield self._pause


def test_top_goes_on_until_it_is_ended_and_says_when_nobody_answers() -> None:
    watched = Watched(looks=3, terminal=True)
    assert watched.run("top") == 0
    said = Text.from_ansi(watched.said).plain
    assert said.count("1 GPUs, 1 busy | 2 queued") == 3
    assert "no answer, showing what was last seen" in said


@pytest.mark.parametrize("arguments", [("top",), ("top", "--once")])
def test_without_a_terminal_top_is_one_picture(arguments: tuple[str, ...]) -> None:
    watched = Watched(looks=9, terminal=False)
    assert watched.run(*arguments) == 0
    assert watched.said.count("1 GPUs, 1 busy") == 1
    assert "\x1b" not in watched.said


def test_top_says_what_it_sees_to_programs_and_that_nobody_is_there() -> None:
    watched = Watched(looks=9, terminal=True)
    assert watched.run("top", "--json") == 0
    assert json.loads(watched.said)["workers"][0]["id"] == "w1"
    watched.fleet.down = True
    assert watched.run("top") == 4
    assert "no dispatcher answers" in watched.err.getvalue()


def test_jobs_that_are_watched_by_a_program_are_a_line_for_each_change() -> None:
    watched = Watched(looks=6, terminal=False)
    assert watched.run("jobs", "--watch", "--json") == 0
    assert [json.loads(line)["state"] for line in watched.said.splitlines()] == ["queued", "running", "succeeded"]
    watched = Watched(looks=2, terminal=False)
    assert watched.run("jobs", "--watch") == 0
    assert watched.said == "2026-11-24T07:36:10 j1 a queued on w1\n"


def test_jobs_that_are_watched_by_a_person_are_a_picture() -> None:
    watched = Watched(looks=2, terminal=True)
    assert watched.run("jobs", "--watch") == 0
    assert "j1" in Text.from_ansi(watched.said).plain

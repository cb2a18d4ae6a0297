"""``affinity jobs`` and ``affinity top``: what there is now, and with a terminal what there is from now on."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import typer

from affinity.job import JobState
from dispatcher import cli_output as show
from dispatcher.cli_live import redraw
from dispatcher.cli_shell import DEFAULT_URL, AsJson, EveryS, Key, Shell, Url, client_of, shell_of
from dispatcher.cli_text import shown
from dispatcher.cli_top import Look, Rates, picture
from dispatcher.client import Json, Unreachable


def register(app: typer.Typer) -> None:
    """Add the commands to a program."""
    app.command()(jobs)
    app.command()(top)


def jobs(
    context: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Most jobs to show.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where the last page ended.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until q or Ctrl-C; piped: a line per change.")] = False,
    every_s: EveryS = 1.0,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    shell = shell_of(context)
    with client_of(context, url, api_key) as client:

        def page() -> Json:
            return client.jobs(None if state is None else state.value, model, limit, cursor)

        if watch and shell.out.is_terminal and not as_json:
            with shell.keyboard() as pause:
                redraw(shell.out, pause, every_s, lambda: show.jobs_table(page()["jobs"]))
            return
        found = page()
        if watch:
            _follow(shell, page, found, every_s, as_json)
        elif as_json:
            show.print_json(shell.out, found)
        else:
            show.print_jobs(shell.out, found["jobs"], found["cursor"])


def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="One picture; so it is where nobody watches, too.")] = False,
    every_s: EveryS = 1.0,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Watch the fleet: GPUs and what is in their VRAM, what loads and leaves, what waits. q or Ctrl-C ends it."""
    shell = shell_of(context)
    with client_of(context, url, api_key) as client:
        rates = Rates()

        def look() -> Look:
            seen = client.workers(), client.models(), client.accepted()
            return Look(url, *seen[:2], rates.since(time.monotonic(), seen[2], sum(m["queued"] for m in seen[1])))

        if as_json:
            seen = look()
            show.print_json(shell.out, {"workers": seen.workers, "models": seen.models})
        elif once or not shell.out.is_terminal:
            shell.out.print(picture(look(), shell.out.width, None, ascii_only=not _unicode(shell)))
        else:
            with shell.keyboard() as pause:
                redraw(
                    shell.out,
                    pause,
                    every_s,
                    lambda: picture(look(), shell.out.width, shell.out.height, ascii_only=not _unicode(shell)),
                )


def _follow(shell: Shell, page: Callable[[], Json], found: Json, every_s: float, as_json: bool) -> None:
    """A line for every job that is new on the page or has another state than it had."""
    known: dict[str, str] = {}
    with shell.keyboard() as pause, suppress(KeyboardInterrupt):
        while True:
            for job in reversed(found["jobs"]):
                if known.get(job["id"]) != job["state"]:
                    _say(shell, job, as_json)
            known = {job["id"]: job["state"] for job in found["jobs"]}  # What left the page does not come back to it.
            if not pause(every_s):
                return
            with suppress(Unreachable):  # It was there a moment ago.
                found = page()


def _say(shell: Shell, job: Json, as_json: bool) -> None:
    if as_json:
        shell.out.file.write(json.dumps(job) + "\n")
    else:
        where = f" on {job['worker']}" if job["worker"] else ""
        shell.out.print(
            shown(f"{job['created_at'][:19]} {job['id']} {job['model']} {job['state']}{where}"), soft_wrap=True
        )
    shell.out.file.flush()


def _unicode(shell: Shell) -> bool:
    return shell.out.encoding.lower().startswith("utf")

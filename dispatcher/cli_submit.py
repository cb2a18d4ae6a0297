"""``affinity submit``: one job from the command line, or many from a file or standard input, one JSON object a line."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dispatcher import cli_output as show
from dispatcher.cli_job import exit_by_state, show_job, until_over
from dispatcher.cli_lines import Sender, Tally, parsed
from dispatcher.cli_shell import (
    DEFAULT_URL,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_OVER,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    AsJson,
    Key,
    Url,
    client_of,
    shell_of,
)
from dispatcher.cli_text import shown
from dispatcher.client import MAX_WAIT_S, Client, Json

SHOWN = 20
"""Lines left out that the summary for people names."""


def submit(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="A model of the catalogue. With --file: of the lines that name none.")
    ] = None,
    content: Annotated[
        str | None, typer.Option("--input", help="The input as JSON, @FILE, or - for standard input.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", help="Many jobs: JSON lines as POST /jobs takes them; - for stdin."),
    ] = None,
    wait_s: Annotated[int, typer.Option("--wait", min=0, help="Wait this many seconds for the jobs to end.")] = 0,
    job_id: Annotated[str | None, typer.Option("--id", help="Idempotency key.")] = None,
    ttl_s: Annotated[float | None, typer.Option(help="Give up if it has not started after this long.")] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Longest run of one attempt.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Starts before it fails for good.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Yours; may be repeated.")] = None,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="With --file: requests at the same time.")] = 8,
    patience_s: Annotated[
        float, typer.Option(min=0, help="With --file: how long a line is tried again after 429, 503 or no answer.")
    ] = 60.0,
    run: Annotated[str, typer.Option(help="With --file: another name makes the same lines other jobs.")] = "",
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job, or those of a file (--file)."""
    options: Json = {"id": job_id, "ttl_s": ttl_s, "timeout_s": timeout_s, "max_attempts": max_attempts}
    given = {name: value for name, value in options.items() if value is not None}
    if metadata:
        given["metadata"] = dict(_pair(text) for text in metadata)
    if file is not None:
        if content is not None or given:
            raise typer.BadParameter("goes without --input and the options of one job: each line has its own")
        with _lines_of(file) as lines, client_of(context, url, api_key) as client:
            sender = Sender(client, parallel, patience_s)
            _submit_lines(context, sender, parsed(lines, model, run), wait_s, as_json)
        return
    if model is None or content is None:
        raise typer.BadParameter("say MODEL and --input, or --file")
    job: Json = {"model": model, "input": _json_of(content), **given}
    with client_of(context, url, api_key) as client:
        answer = _submit_one(client, job, wait_s)
    show_job(context, answer, as_json)
    if wait_s:
        exit_by_state(answer)


def register(app: typer.Typer) -> None:
    """Add the command to a program."""
    app.command()(submit)


def _submit_one(client: Client, job: Json, wait_s: int) -> Json:
    answer = client.submit(job, min(wait_s, MAX_WAIT_S))
    return until_over(client, answer, wait_s - MAX_WAIT_S) if wait_s > MAX_WAIT_S else answer


def _submit_lines(context: typer.Context, sender: Sender, lines: Iterable[Any], wait_s: int, as_json: bool) -> None:
    """Results go to stdout as JSON lines, the summary to stderr; with ``--json`` it is all one object on stdout."""
    shell, tally, results = shell_of(context), sender.tally, list[Json]()
    code: int | None = None

    def ended(job: Json) -> None:
        if as_json:
            results.append(job)
        else:
            shell.out.file.write(json.dumps(job) + "\n")

    try:
        with _progress(shell.err, "submitting") as done:
            sender.send(lines, done)
        if wait_s:
            with _progress(shell.err, "waiting", len(tally.accepted)) as done:
                sender.wait(wait_s, ended, done)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    tally.left.sort(key=lambda left: left.line)
    if as_json:
        left = [{"line": each.line, "code": each.code, "detail": each.detail} for each in tally.left]
        answer = {"accepted": len(tally.accepted), "left": left, "states": dict(tally.states)}
        show.print_json(shell.out, {**answer, "jobs": results} if wait_s else answer)
    else:
        _summarise(shell.err, tally, code is not None)
    raise typer.Exit(_exit_code(tally) if code is None else code)


def _summarise(out: Console, tally: Tally, interrupted: bool) -> None:
    for left in tally.left[:SHOWN]:
        out.print(shown(f"line {left.line}: {left.code}: {left.detail}", "red"))
    if len(tally.left) > SHOWN:
        out.print(shown(f"... and {len(tally.left) - SHOWN} more lines", "red"))
    unsent = sum(left.unsent for left in tally.left)
    parts = [f"{len(tally.accepted)} accepted", f"{len(tally.left) - unsent} refused", f"{unsent} not sent"]
    parts += [f"{count} {state}" for state, count in sorted(tally.states.items())]
    out.print(shown(", ".join(parts)))
    if interrupted or unsent:
        out.print(shown("Running it again is safe: what was accepted already is the same job."))


def _exit_code(tally: Tally) -> int:
    """The worst of what happened."""
    if any(left.unsent for left in tally.left):
        return EXIT_UNREACHABLE
    if tally.left:
        return EXIT_REFUSED
    if tally.states.keys() & {"failed", "cancelled", "expired"}:
        return EXIT_FAILED
    return EXIT_NOT_OVER if tally.states.keys() & {"queued", "running"} else 0


@contextmanager
def _progress(out: Console, what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar where somebody may watch it, else nothing. Gives what is called for each that is done."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def _lines_of(file: str) -> Iterator[Iterable[str]]:
    if file == "-":
        yield sys.stdin
        return
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(Path(file).open(encoding="utf-8"))
        except OSError as error:
            raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="--file") from error
        yield opened


def _json_of(text: str) -> Any:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {text[1:]}: {error.strerror}", param_hint="--input") from error
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="--input") from error


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--metadata")
    return key, value

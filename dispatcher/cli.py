"""``affinity``: the command line over HTTP.

Exit codes: 0 fine; 1 the job or order ended, but not well; 2 wrong usage; 3 the dispatcher refused; 4 nobody answers; 5
it was not over in the time given.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from affinity.job import JobState
from dispatcher import cli_dead_letters, cli_drain, cli_orders
from dispatcher import cli_output as show
from dispatcher.cli_shell import (
    DEFAULT_URL,
    EXIT_FAILED,
    EXIT_NOT_OVER,
    AsJson,
    Key,
    Shell,
    Url,
    client_of,
    shell_of,
)
from dispatcher.client import MAX_WAIT_S, Client, Json

app = typer.Typer(
    help="Submit jobs to an Affinity dispatcher and see what becomes of them.",
    epilog="Exit codes: 0 fine, 1 job or order failed, 2 usage, 3 refused, 4 no answer, 5 not over in time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


@app.command()
def submit(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model of the catalogue; 'affinity models' lists them.")],
    content: Annotated[str, typer.Option("--input", help="The input as JSON, @FILE, or - for standard input.")],
    wait_s: Annotated[int, typer.Option("--wait", min=0, help="Wait this many seconds for the job to end.")] = 0,
    job_id: Annotated[str | None, typer.Option("--id", help="Idempotency key.")] = None,
    ttl_s: Annotated[float | None, typer.Option(help="Give up if it has not started after this long.")] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Longest run of one attempt.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Starts before it fails for good.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Yours; may be repeated.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job."""
    job: Json = {"model": model, "input": _json_of(content)}
    given = {"id": job_id, "ttl_s": ttl_s, "timeout_s": timeout_s, "max_attempts": max_attempts}
    job |= {name: value for name, value in given.items() if value is not None}
    if metadata:
        job["metadata"] = dict(_pair(text) for text in metadata)
    with client_of(context, url, api_key) as client:
        answer = client.submit(job, min(wait_s, MAX_WAIT_S))
        if wait_s > MAX_WAIT_S:
            answer = _until_over(client, answer, wait_s - MAX_WAIT_S)
    _show_job(context, answer, as_json)
    if wait_s:
        _exit_by_state(answer)


@app.command()
def get(
    context: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: Key = None, as_json: AsJson = False
) -> None:
    """Show a job."""
    with client_of(context, url, api_key) as client:
        job = client.get(job_id)
    _show_job(context, job, as_json)


@app.command()
def wait(
    context: typer.Context,
    job_id: JobId,
    timeout_s: Annotated[float | None, typer.Option(min=0, help="Give up after this long. Left out: never.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a job to end, and show it."""
    with client_of(context, url, api_key) as client:
        job = _until_over(client, client.get(job_id), timeout_s)
    _show_job(context, job, as_json)
    _exit_by_state(job)


@app.command()
def explain(
    context: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: Key = None, as_json: AsJson = False
) -> None:
    """Say why a job waits, or how it came to run where it ran."""
    with client_of(context, url, api_key) as client:
        answer = client.explain(job_id)
    (show.print_json if as_json else show.print_explanation)(shell_of(context).out, answer)


@app.command()
def cancel(
    context: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: Key = None, as_json: AsJson = False
) -> None:
    """Cancel a job: a queued one never runs, a running one is stopped."""
    with client_of(context, url, api_key) as client:
        job = client.cancel(job_id)
    _show_job(context, job, as_json)


@app.command()
def jobs(
    context: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Most jobs to show.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where the last page ended.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with client_of(context, url, api_key) as client:
        page = client.jobs(None if state is None else state.value, model, limit, cursor)
    out = shell_of(context).out
    if as_json:
        show.print_json(out, page)
    else:
        show.print_jobs(out, page["jobs"], page["cursor"])


@app.command()
def workers(context: typer.Context, url: Url = DEFAULT_URL, api_key: Key = None, as_json: AsJson = False) -> None:
    """List the workers and what is in their VRAM."""
    with client_of(context, url, api_key) as client:
        found = client.workers()
    out = shell_of(context).out
    if as_json:
        show.print_json(out, {"workers": found})
    else:
        show.print_workers(out, found)


@app.command()
def models(context: typer.Context, url: Url = DEFAULT_URL, api_key: Key = None, as_json: AsJson = False) -> None:
    """List the catalogue, who holds each model and what waits for it."""
    with client_of(context, url, api_key) as client:
        found = client.models()
    out = shell_of(context).out
    if as_json:
        show.print_json(out, {"models": found})
    else:
        show.print_models(out, found)


cli_orders.register(app)
cli_drain.register(app)
cli_dead_letters.register(app)


def run(arguments: Sequence[str], shell: Shell) -> int:
    """Run one command; its exit code."""
    try:
        app(list(arguments), obj=shell, prog_name="affinity")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def main() -> None:
    """The ``affinity`` program."""
    sys.exit(run(sys.argv[1:], Shell(Client, Console(), Console(stderr=True))))


def _until_over(client: Client, job: Json, timeout_s: float | None) -> Json:
    """The job when it is over, or as it stands after ``timeout_s``."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while not JobState(job["state"]).terminal:
        left_s = MAX_WAIT_S if deadline is None else deadline - time.monotonic()
        if left_s <= 0:
            break
        job = client.get(job["id"], max(1, min(MAX_WAIT_S, round(left_s))))
    return job


def _show_job(context: typer.Context, job: Json, as_json: bool) -> None:
    (show.print_json if as_json else show.print_job)(shell_of(context).out, job)


def _exit_by_state(job: Json) -> None:
    state = JobState(job["state"])
    if not state.terminal:
        raise typer.Exit(EXIT_NOT_OVER)
    if state is not JobState.SUCCEEDED:
        raise typer.Exit(EXIT_FAILED)


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


if __name__ == "__main__":
    main()

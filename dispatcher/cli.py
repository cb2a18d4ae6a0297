"""``affinity``: the command line over HTTP. Its exit codes are ``cli_shell.EXIT_CODES``; docs/cli.md describes it."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from typer.completion import completion_init, get_completion_script  # type: ignore[attr-defined]  # imported there

from dispatcher import cli_dead_letters, cli_drain, cli_orders, cli_submit, cli_watch
from dispatcher import cli_output as show
from dispatcher.cli_job import exit_by_state, show_job, until_over
from dispatcher.cli_shell import DEFAULT_URL, EXIT_CODES, AsJson, Key, Shell, Url, client_of, shell_of
from dispatcher.client import Client

PROGRAM = "affinity"

app = typer.Typer(
    help="Submit jobs to an Affinity dispatcher and see what becomes of them.",
    epilog=f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,  # Ours is a command: the library's options would show up in every help.
)

cli_submit.register(app)


class CompletedShell(StrEnum):
    """Shells that words can be completed in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


@app.command()
def get(
    context: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: Key = None, as_json: AsJson = False
) -> None:
    """Show a job."""
    with client_of(context, url, api_key) as client:
        job = client.get(job_id)
    show_job(context, job, as_json)


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
        job = until_over(client, client.get(job_id), timeout_s)
    show_job(context, job, as_json)
    exit_by_state(job)


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
    show_job(context, job, as_json)


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


@app.command()
def completion(shell: Annotated[CompletedShell, typer.Argument(help="Yours.")]) -> None:
    """Print what makes a shell complete our commands and options: source it, or put it where your shell looks."""
    variable = f"_{PROGRAM.upper()}_COMPLETE"
    sys.stdout.write(get_completion_script(prog_name=PROGRAM, complete_var=variable, shell=shell.value) + "\n")


cli_watch.register(app)
cli_orders.register(app)
cli_drain.register(app)
cli_dead_letters.register(app)


def run(arguments: Sequence[str], shell: Shell) -> int:
    """Run one command; its exit code."""
    try:
        completion_init()  # Else a shell that asks for completions is not understood.
        app(list(arguments), obj=shell, prog_name=PROGRAM)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def main() -> None:
    """The ``affinity`` program."""
    sys.exit(run(sys.argv[1:], Shell(Client, Console(), Console(stderr=True))))


if __name__ == "__main__":
    main()

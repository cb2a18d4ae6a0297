"""One job on the command line: waited for, shown, and turned into an exit code."""

import time

import typer

from affinity.job import JobState
from dispatcher import cli_output as show
from dispatcher.cli_shell import EXIT_FAILED, EXIT_NOT_OVER, shell_of
from dispatcher.client import MAX_WAIT_S, Client, Json


def until_over(client: Client, job: Json, timeout_s: float | None) -> Json:
    """The job when it is over, or as it stands after ``timeout_s``."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while not JobState(job["state"]).terminal:
        left_s = MAX_WAIT_S if deadline is None else deadline - time.monotonic()
        if left_s <= 0:
            break
        job = client.get(job["id"], max(1, min(MAX_WAIT_S, round(left_s))))
    return job


def show_job(context: typer.Context, job: Json, as_json: bool) -> None:
    """Print it."""
    (show.print_json if as_json else show.print_job)(shell_of(context).out, job)


def exit_by_state(job: Json) -> None:
    """Raise ``typer.Exit`` unless it succeeded."""
    state = JobState(job["state"])
    if not state.terminal:
        raise typer.Exit(EXIT_NOT_OVER)
    if state is not JobState.SUCCEEDED:
        raise typer.Exit(EXIT_FAILED)

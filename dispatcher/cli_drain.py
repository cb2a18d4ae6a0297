"""``affinity drain`` and ``undrain``: a worker that is to take no work, so that somebody can see to its machine."""

import time
from typing import Annotated

import typer

from dispatcher import cli_output as show
from dispatcher.cli_orders import LOOK_EVERY_S, TimeoutS
from dispatcher.cli_shell import DEFAULT_URL, EXIT_NOT_OVER, AsJson, Key, Url, client_of, shell_of
from dispatcher.cli_text import shown
from dispatcher.client import Client, Json

Worker = Annotated[str, typer.Argument(help="A worker's id; 'affinity workers' lists them.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until nothing runs there and its GPU is empty.")]


def register(app: typer.Typer) -> None:
    """Add the commands to a program."""
    app.command()(drain)
    app.command()(undrain)


def drain(
    context: typer.Context,
    worker: Worker,
    wait: Wait = False,
    timeout_s: TimeoutS = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Have a worker take no more work, also after a restart, and empty its GPU."""
    with client_of(context, url, api_key) as client:
        answer = client.drain(worker)
        drained = not wait or _until_empty(client, worker, float("inf") if timeout_s is None else timeout_s)
    _show(context, answer, as_json)
    if not drained:
        raise typer.Exit(EXIT_NOT_OVER)


def undrain(
    context: typer.Context, worker: Worker, url: Url = DEFAULT_URL, api_key: Key = None, as_json: AsJson = False
) -> None:
    """Have a drained worker take work again."""
    with client_of(context, url, api_key) as client:
        answer = client.undrain(worker)
    _show(context, answer, as_json)


def _until_empty(client: Client, worker: str, timeout_s: float) -> bool:
    """Wait until the worker is drained, or gone; false if it was not in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = next((each for each in client.workers() if each["id"] == worker), None)
        if found is None or (found["draining"] and not found["busy"] and not found["residents"]):
            return True
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(LOOK_EVERY_S, left_s))


def _show(context: typer.Context, answer: Json, as_json: bool) -> None:
    out = shell_of(context).out
    if as_json:
        show.print_json(out, answer)
    else:
        out.print(shown(answer["detail"]))

"""``affinity load``, ``unload``, ``pin`` and ``unpin``: the operator's hand."""

import time
from collections.abc import Callable
from typing import Annotated

import typer

from affinity.orders import OrderState
from dispatcher import cli_output as show
from dispatcher.cli_shell import (
    DEFAULT_URL,
    EXIT_FAILED,
    EXIT_NOT_OVER,
    AsJson,
    Key,
    Url,
    client_of,
    shell_of,
)
from dispatcher.client import Client, Json

LOOK_EVERY_S = 0.25
"""Between two looks at an order that is waited for."""

Ask = Callable[[Client, str, str | None], Json]
"""A method of the client: for a model, on a worker or on none in particular."""

Model = Annotated[str, typer.Argument(help="A model of the catalogue; 'affinity models' lists them.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is done, or given up.")]
TimeoutS = Annotated[float | None, typer.Option(min=0, help="With --wait: wait no longer than this.")]


def register(app: typer.Typer) -> None:
    """Add the commands to a program."""
    for name, command, about in (
        (
            "load",
            _order(Client.load, "Where. Left out: where it costs least."),
            "Have a model loaded, though no job asks for it. Pin it as well if it is to stay.",
        ),
        (
            "unload",
            _order(Client.unload, "Where. Left out: wherever it is resident."),
            "Have a model leave VRAM once none of its jobs runs. It comes back as soon as a job asks for it.",
        ),
        (
            "pin",
            _pin(Client.pin, "Where. Left out: on every worker."),
            "Never evict a model once it is resident. Does not load it.",
        ),
        (
            "unpin",
            _pin(Client.unpin, "Where. Left out: take back all pins set by hand."),
            "Let a model be evicted again.",
        ),
    ):
        app.command(name, help=about)(command)


def _order(ask: Ask, where: str) -> Callable[..., None]:
    """The command for an order, which takes its time and may be waited for."""

    def command(
        context: typer.Context,
        model: Model,
        worker: Annotated[str | None, typer.Option(help=where)] = None,
        wait: Wait = False,
        timeout_s: TimeoutS = None,
        url: Url = DEFAULT_URL,
        api_key: Key = None,
        as_json: AsJson = False,
    ) -> None:
        with client_of(context, url, api_key) as client:
            _follow(context, client, ask(client, model, worker), as_json, _patience_s(wait, timeout_s))

    return command


def _pin(ask: Ask, where: str) -> Callable[..., None]:
    """The command for a pin, which is set or taken back at once."""

    def command(
        context: typer.Context,
        model: Model,
        worker: Annotated[str | None, typer.Option(help=where)] = None,
        url: Url = DEFAULT_URL,
        api_key: Key = None,
        as_json: AsJson = False,
    ) -> None:
        with client_of(context, url, api_key) as client:
            answer = ask(client, model, worker)
        (show.print_json if as_json else show.print_pin)(shell_of(context).out, answer)

    return command


def _follow(context: typer.Context, client: Client, answer: Json, as_json: bool, wait_s: float | None) -> None:
    """Show what was asked for; with ``wait_s``, once it is over or so much time is, and exit by how it ended."""
    out = shell_of(context).out
    if wait_s is not None:
        if not as_json:
            show.print_asked(out, answer)
        deadline = time.monotonic() + wait_s
        answer = {**answer, "orders": [_until_over(client, order, deadline) for order in answer["orders"]]}
    if as_json:
        show.print_json(out, answer)
    elif wait_s is None:
        show.print_asked(out, answer)
    else:
        show.print_ends(out, answer["orders"])
    if wait_s is not None:
        _exit_by([OrderState(order["state"]) for order in answer["orders"]])


def _patience_s(wait: bool, timeout_s: float | None) -> float | None:
    if not wait:
        return None
    return float("inf") if timeout_s is None else timeout_s  # An order ends by itself, in ten minutes at most.


def _until_over(client: Client, order: Json, deadline: float) -> Json:
    while order["state"] == OrderState.WAITING:
        order = client.order(order["id"])
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        if order["state"] == OrderState.WAITING:
            time.sleep(min(LOOK_EVERY_S, left_s))
    return order


def _exit_by(states: list[OrderState]) -> None:
    if OrderState.WAITING in states or OrderState.EXPIRED in states:
        raise typer.Exit(EXIT_NOT_OVER)
    if any(state is not OrderState.DONE for state in states):
        raise typer.Exit(EXIT_FAILED)

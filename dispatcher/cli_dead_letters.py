"""``affinity dead-letters`` and ``affinity redrive``: what gave up, and putting it back."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dispatcher.cli_output import print_json
from dispatcher.cli_shell import DEFAULT_URL, AsJson, Key, Url, client_of, shell_of
from dispatcher.cli_text import shown
from dispatcher.client import Client, Json

TITLES = ("died (UTC)", "id", "model", "code", "worker", "attempts", "why")
SHOWN = 160

Code = Annotated[str | None, typer.Option(help="Only those that ended with this code.")]
Model = Annotated[str | None, typer.Option(help="Only those of this model.")]


def dead_letters(
    context: typer.Context,
    code: Code = None,
    model: Model = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Most to show.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where the last page ended.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List what gave up, newest first, and why."""
    with client_of(context, url, api_key) as client:
        page = client.dead_letters(code, model, limit, cursor)
    out = shell_of(context).out
    if as_json:
        print_json(out, page)
    else:
        _print(out, page)


def redrive(
    context: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="These. Left out: see the options.")] = None,
    code: Code = None,
    model: Model = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    rate: Annotated[float | None, typer.Option(help="Jobs per second; 100 where left out, 1000 at most.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Put dead letters back: these, or all of a code or model. Jobs keep their id; attempts count anew."""
    if not (ids or code or model or everything):
        raise typer.BadParameter("say which: ids, --code, --model or --all")
    asked: Json = {"ids": ids or None, "code": code, "model": model, "all": everything or None, "rate": rate}
    with client_of(context, url, api_key) as client:
        answer = _redriven(client, asked)
    out = shell_of(context).out
    if as_json:
        print_json(out, answer)
        return
    until = f", the last one at {answer['ends_at'][:19]}" if answer["ends_at"] else ""
    out.print(shown(f"{answer['scheduled']} put back{until}"))
    if answer["unknown"]:
        out.print(shown(f"no dead letters: {', '.join(answer['unknown'])}"))


def register(app: typer.Typer) -> None:
    """Add the commands to a program."""
    app.command("dead-letters")(dead_letters)
    app.command()(redrive)


def _redriven(client: Client, asked: Json) -> Json:
    return client.redrive({name: value for name, value in asked.items() if value is not None})


def _print(out: Console, page: Json) -> None:
    table = Table(*TITLES)
    for letter in page["dead_letters"]:
        row = (
            letter["died_at"][:19],
            letter["id"],
            letter["model"],
            letter["code"],
            letter["worker"] or "",
            str(letter["attempts"]) if letter["kind"] == "job" else "",
            letter["error"]["message"][:SHOWN],
        )
        table.add_row(*map(shown, row))
    out.print(table)
    if page["cursor"]:
        out.print(shown(f"more: --cursor {page['cursor']}"))

"""What every command of ``affinity`` shares: whom it asks, where it prints, its options and its exit codes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.text import Text

from dispatcher.client import Client, Refused, Unreachable

EXIT_FAILED = 1
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4
EXIT_NOT_OVER = 5

DEFAULT_URL = "http://127.0.0.1:5000"


@dataclass(frozen=True, slots=True)
class Shell:
    """Whom the command line asks and where it prints. Tests bring their own."""

    connect: Callable[[str, str | None], Client]
    out: Console
    err: Console


Url = Annotated[str, typer.Option("--url", envvar="AFFINITY_URL", help="Where the dispatcher is.")]
Key = Annotated[str | None, typer.Option("--api-key", envvar="AFFINITY_API_KEY", help="A key, if it asks for one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the HTTP interface has it.")]


def shell_of(context: typer.Context) -> Shell:
    """The shell that this command was started with."""
    return cast(Shell, context.obj)


@contextmanager
def client_of(context: typer.Context, url: str, api_key: str | None) -> Iterator[Client]:
    """A client of the dispatcher; what it cannot do is said on stderr and becomes the exit code."""
    shell = shell_of(context)
    try:
        with shell.connect(url, api_key) as client:
            yield client
    except Refused as error:
        shell.err.print(Text(f"refused ({error.code}): {error}"))
        raise typer.Exit(EXIT_REFUSED) from error
    except Unreachable as error:
        shell.err.print(Text(f"{error}; is it running? --url or AFFINITY_URL say where"))
        raise typer.Exit(EXIT_UNREACHABLE) from error

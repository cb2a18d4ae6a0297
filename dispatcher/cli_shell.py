"""What every command of ``affinity`` shares: whom it asks, where it prints, its options and its exit codes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, cast

import typer
from rich.console import Console

from dispatcher.cli_live import Pause, keyboard
from dispatcher.cli_text import shown
from dispatcher.client import Client, Refused, Unreachable

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4
EXIT_NOT_OVER = 5
EXIT_INTERRUPTED = 130

EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        0: "fine",
        EXIT_FAILED: "a job or order ended, but not well",
        EXIT_USAGE: "wrong usage: nothing was asked of the dispatcher",
        EXIT_REFUSED: "the dispatcher refused, or some of the jobs",
        EXIT_UNREACHABLE: "nobody answers",
        EXIT_NOT_OVER: "it was not over in the time given",
        EXIT_INTERRUPTED: "Ctrl-C",
    }
)
"""All there are; ``docs/cli.md`` has the same table."""

DEFAULT_URL = "http://127.0.0.1:5000"


@dataclass(frozen=True, slots=True)
class Shell:
    """Whom the command line asks, where it prints, and what ends what goes on for ever. Tests bring their own."""

    connect: Callable[[str, str | None], Client]
    out: Console
    err: Console
    keyboard: Callable[[], AbstractContextManager[Pause]] = keyboard


Url = Annotated[str, typer.Option("--url", envvar="AFFINITY_URL", help="Where the dispatcher is.")]
Key = Annotated[str | None, typer.Option("--api-key", envvar="AFFINITY_API_KEY", help="A key, if it asks for one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the HTTP interface has it.")]
EveryS = Annotated[float, typer.Option("--every", min=0.1, max=3600, help="Seconds between two looks.")]


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
        shell.err.print(shown(f"refused ({error.code}): {error}"))
        raise typer.Exit(EXIT_REFUSED) from error
    except Unreachable as error:
        shell.err.print(shown(f"{error}; is it running? --url or AFFINITY_URL say where"))
        raise typer.Exit(EXIT_UNREACHABLE) from error

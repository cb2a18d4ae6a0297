"""The system test: every operation of a running system, then many jobs at once. Needs nothing but its URL."""

import asyncio
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import load
from bench.api import Api, Unreachable
from bench.checks import Verdict, run_checks
from bench.system_checks import CHECKS, every_operation_of_the_openapi_document_was_called

SHOWN_FAULTS = 5
_MARKS = {"ok": "[green]ok[/green]", "failed": "[red]failed[/red]", "left out": "[yellow]left out[/yellow]"}
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def run(url: str, api_key: str | None, jobs: int, in_flight: int, console: Console) -> int:
    """Exit code: 0 if every check held and every job of the load test succeeded, 1 if not, 2 if nobody answers."""
    try:
        with Api(url, api_key) as api:
            if reason := _why_not(api):
                console.print(f"[red]does not hold:[/red] {escape(reason)}")
                return 1
            verdicts = _check(api, console)
            models = api.call("GET", "/models").json()["models"]
    except (Unreachable, KeyError, TypeError, ValueError) as error:
        console.print(f"[red]no dispatcher answers at {escape(url)}:[/red] {escape(str(error))}")
        return 2
    result = _load(url, api_key, load.mix(models, jobs), in_flight, console)
    console.print(load.table(result))
    for fault in result.faults[:SHOWN_FAULTS]:
        console.print(f"[red]{escape(fault)}[/red]")
    failed = sum(verdict.outcome == "failed" for verdict in verdicts)
    if failed or result.faults:
        console.print(f"[red]does not hold:[/red] {failed} checks and {len(result.faults)} jobs failed")
        return 1
    console.print("[green]holds[/green]")
    return 0


def verdict_table(verdicts: Iterable[Verdict]) -> Table:
    """A row per check."""
    table = Table("check", "", "remark")
    for verdict in verdicts:
        table.add_row(verdict.sentence, _MARKS[verdict.outcome], escape(verdict.remark))
    return table


def _why_not(api: Api) -> str | None:
    """Why there is no point in going on: every check that runs a job would wait out its time."""
    answer = api.call("GET", "/workers")
    if answer.status_code == 401:
        return "the dispatcher wants a key: set AFFINITY_API_KEY to one of its AFFINITY_API_KEYS"
    if answer.status_code == 503:
        return f"the dispatcher cannot work: {answer.json()['detail']}"
    return None if answer.json()["workers"] else "no worker is up: start one, then run this again"


def _check(api: Api, console: Console) -> list[Verdict]:
    # Last, since it looks back at what the others have called.
    checks = (*CHECKS, every_operation_of_the_openapi_document_was_called)
    with Progress(*_COLUMNS, console=console) as progress:
        bar = progress.add_task("checks", total=len(checks))
        verdicts = []
        for verdict in run_checks(api, checks):
            verdicts.append(verdict)
            progress.advance(bar)
    console.print(verdict_table(verdicts))
    return verdicts


def _load(url: str, api_key: str | None, jobs: list[load.LoadJob], in_flight: int, console: Console) -> load.LoadResult:
    with Progress(*_COLUMNS, console=console) as progress:
        bar = progress.add_task(f"load, {in_flight} in flight", total=len(jobs))
        return asyncio.run(load.send_all(url, api_key, jobs, in_flight, lambda: progress.advance(bar)))

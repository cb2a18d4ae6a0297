"""``python -m bench report``: every workload under every policy, as JSON, pictures, a page and a table."""

import argparse
import html
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench.baselines import POLICIES
from bench.cases import Case, cases, with_gaps
from bench.measures import Measures

SHOWN = ("mean_s", "p50_s", "p99_s", "loads", "hit_ratio", "load_share", "rare_wait_ratio", "gap_closed")
BESIDE = ("lower_bound_mean_s", "zero_load_mean_s")
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)
_STYLE = (
    "body{font:15px system-ui;margin:2em auto;max-width:75em;padding:0 1em}"
    "table{border-collapse:collapse;font-size:13px}"
    "td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:right}td:nth-child(-n+5){text-align:left}"
    "tr.ours{background:#fbe9e7}img{max-width:100%;margin:1em 0}"
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's arguments."""
    added = commands.add_parser("report", help="every workload under every policy: JSON, plots, a page and a table")
    added.add_argument("--out", type=Path, required=True, help="a folder; it is made if it is not there")
    added.add_argument("--quick", action="store_true", help="a few short runs: shows that it works, not how well")
    added.add_argument("--seeds", type=int, nargs="+", default=[0], help="each run once per seed (default: 0)")
    added.add_argument("--policies", nargs="+", choices=POLICIES, default=[*POLICIES], help="default: all")
    added.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at a time (default: one per core)")


def run(options: argparse.Namespace) -> int:
    """Exit code: 0, 1 if a policy failed in some run, 2 if the folder cannot be written."""
    console = Console(highlight=False)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        console.print(f"[red]cannot write a report:[/red] {error}")
        return 2
    wanted = cases(options.policies, options.seeds, options.quick)
    rows = with_gaps(_measured(wanted, max(1, options.processes), Console(stderr=True, highlight=False)))
    for case, row in zip(wanted, rows, strict=True):
        row["setting"] = _setting(case)
    (options.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    _write_page(rows, options.out)
    console.print(_table(rows))
    console.print(f"all numbers and pictures: {options.out / 'index.html'}")
    faults = [row for row in rows if "fault" in row]
    for row in faults:
        console.print(f"[red]{row['policy']} on {row['workload']}:[/red] {row['fault']}")
    return 1 if faults else 0


def _measured(wanted: Sequence[Case], processes: int, notes: Console) -> Mapping[Case, Measures]:
    """All runs, in the order asked for, however many at a time."""
    with Progress(*_COLUMNS, console=notes) as bar:
        found = dict(bar.track(_runs(wanted, processes), len(wanted), description="runs"))
    return {case: found[case] for case in wanted}


def _runs(wanted: Sequence[Case], processes: int) -> Iterator[tuple[Case, Measures]]:
    if processes == 1:
        yield from ((case, case.run()) for case in wanted)
        return
    # Forked, a child would take over the threads of the progress bar half-way.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(case.run): case for case in wanted}
        yield from ((futures[future], future.result()) for future in as_completed(futures))


def _setting(case: Case) -> str:
    """In which way a case differs from its workload as committed."""
    differs = {"arrivals": case.arrivals, "load": case.utilisation, "fleet": case.workers}
    return next((name for name, value in differs.items() if value is not None), "own")


def _table(rows: Sequence[Measures]) -> Table:
    """A row per policy under a line that says where; narrow enough for 80 columns."""
    table = Table("policy", title="latency in seconds", title_justify="left", pad_edge=False)
    for measure in SHOWN:
        table.add_column(
            measure.removesuffix("_s").replace("rare_wait_ratio", "rare").replace("_", "\n"), justify="right"
        )
    before: list[str] = []
    for row in rows:
        *where, policy = _identity(row)
        if where != before:
            table.add_section()
            workload, arrivals, load, workers = before = where
            table.add_row(f"[bold]{workload}[/bold]")
            table.add_row(f"[dim]{arrivals} {load} x{workers}[/dim]")
        style = "bold" if policy == "affinity" else None
        table.add_row(policy, *(_cell(row.get(measure)) for measure in SHOWN), style=style)
    return table


def _identity(row: Measures) -> list[str]:
    return [str(row[name]) for name in ("workload", "arrivals", "utilisation", "workers", "policy")]


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def _write_page(rows: Sequence[Measures], folder: Path) -> None:
    # Here, so that a simulation needs no matplotlib.
    from bench.plots import draw  # noqa: PLC0415

    pictures = draw(rows, folder)
    seeds = ", ".join(sorted({str(row["seed"]) for row in rows}))
    heads = "".join(f"<th>{name}</th>" for name in ("workload", "arrivals", "load", "GPUs", "policy", *SHOWN, *BESIDE))
    shown = "".join(f"<img src='{name}' alt='{html.escape(caption, quote=True)}'>" for name, caption in pictures)
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Affinity: placement compared</title>"
        f"<style>{_STYLE}</style><h1>Placement compared</h1><p>Simulated; seeds {seeds}; "
        f"Python {platform.python_version()}, {os.cpu_count()} cores. Latency is from arrival to end, in seconds. "
        f"<code>results.json</code> has every number.</p>{shown}<table><tr>{heads}</tr>"
        + "".join(_html_row(row) for row in rows)
        + "</table></html>\n"
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _html_row(row: Measures) -> str:
    cells = [*_identity(row), *(_cell(row.get(measure)) for measure in (*SHOWN, *BESIDE))]
    mark = " class='ours'" if row["policy"] == "affinity" else ""
    return f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"

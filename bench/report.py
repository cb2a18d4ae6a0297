"""``python -m bench report``: every workload under every policy, as JSON, pictures, a page and a table.

At full length it takes hours. Each run that is done is kept in the folder: the same command goes on after a cut.
"""

import argparse
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench import targets
from bench.baselines import POLICIES
from bench.cases import OURS, Case, cases, with_gaps
from bench.cells import kept, run_and_keep
from bench.machine import machine
from bench.measures import Measures
from bench.page import SHOWN, write_page
from bench.rows import cell, mean_of, place, places, policies

CELLS = "cells"
DECISION_US = ("decision_us_p50", "decision_us_p99", "decision_us_mean")
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's arguments."""
    added = commands.add_parser("report", help="every workload under every policy: JSON, plots, a page and a table")
    added.add_argument("--out", type=Path, required=True, help="a folder; it is made if it is not there")
    added.add_argument("--quick", action="store_true", help="a few short runs: shows that it works, not how well")
    added.add_argument("--seeds", type=int, nargs="+", default=[0], help="each run once per seed (default: 0)")
    added.add_argument("--policies", nargs="+", choices=POLICIES, default=[*POLICIES], help="default: all")
    added.add_argument(
        *("--processes", "--jobs"), type=int, default=os.cpu_count() or 1, help="at a time (default: one per core)"
    )


def run(options: argparse.Namespace) -> int:
    """Exit code: 0, 1 if a policy failed in some run, 2 if the folder cannot be written, 130 if it was interrupted."""
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    wanted = cases(options.policies, options.seeds, options.quick)
    try:
        (options.out / CELLS).mkdir(parents=True, exist_ok=True)
        rows = with_gaps(_measured(wanted, max(1, options.processes), options.out / CELLS, notes))
        for case, row in zip(wanted, rows, strict=True):
            row["setting"] = _setting(case)
        _write(rows, _header(options), options.out)
    except OSError as error:
        notes.print(f"[red]cannot write a report:[/red] {error}")
        return 2
    except KeyboardInterrupt:
        notes.print("interrupted: the same command goes on from here")
        return 130
    faults = _show(rows, console)
    console.print(f"all numbers and pictures: {options.out / 'index.html'}")
    return 1 if faults else 0


def _header(options: argparse.Namespace) -> dict[str, str]:
    seeds = " ".join(map(str, options.seeds))
    chosen = "" if options.policies == [*POLICIES] else f" --policies {' '.join(options.policies)}"
    quick = " --quick" if options.quick else ""
    command = f"python -m bench report --out {shlex.quote(str(options.out))}{quick} --seeds {seeds}{chosen}"
    return {"command": command, "seeds": seeds, "machine": machine(), "at a time": str(options.processes)}


def _write(rows: Sequence[Measures], header: dict[str, str], folder: Path) -> None:
    found = {**header, "runs": rows}
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_page(rows, targets.verdicts(rows), header, folder)


def _show(rows: Sequence[Measures], console: Console) -> list[Measures]:
    """Print it all; returns the rows of policies that failed."""
    console.print(_table(rows))
    verdicts = targets.verdicts(rows)
    console.print(targets.table(verdicts))
    console.print(f"aims reached: {sum(verdict.holds for verdict in verdicts)} of {len(verdicts)}")
    console.print(_decisions(rows))
    faults = [row for row in rows if "fault" in row]
    for row in faults:
        console.print(f"[red]{row['policy']} on {row['workload']}:[/red] {row['fault']}")
    return faults


def _measured(wanted: Sequence[Case], processes: int, folder: Path, notes: Console) -> Mapping[Case, Measures]:
    """All runs, in the order asked for, however many at a time; those that are kept are not run again."""
    found = {case: row for case in wanted if (row := kept(case, folder)) is not None}
    left = [case for case in wanted if case not in found]
    if found:
        notes.print(f"{len(found)} of {len(wanted)} runs are kept in {folder} and not made again")
    with Progress(*_COLUMNS, console=notes) as bar:
        found.update(bar.track(_runs(left, processes, folder), len(left), description="runs"))
    return {case: found[case] for case in wanted}


def _runs(wanted: Sequence[Case], processes: int, folder: Path) -> Iterator[tuple[Case, Measures]]:
    if processes == 1:
        yield from ((case, run_and_keep(case, folder)) for case in wanted)
        return
    # Forked, a child would take over the threads of the progress bar half-way.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_and_keep, case, folder): case for case in wanted}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        finally:
            # Interrupted, the pool would otherwise run all that was handed to it before it lets go.
            pool.shutdown(cancel_futures=True)


def _setting(case: Case) -> str:
    """In which way a case differs from its workload as committed."""
    differs = {"arrivals": case.arrivals, "load": case.utilisation, "fleet": case.workers}
    return next((name for name, value in differs.items() if value is not None), "own")


def _decisions(rows: Sequence[Measures]) -> Table:
    """What one plan costs, by size of the fleet and the number of models: our policy, means over runs."""
    table = Table("workload", "GPUs", title="one decision, in microseconds", title_justify="left", pad_edge=False)
    for measure in DECISION_US:
        table.add_column(measure.removeprefix("decision_us_"), justify="right")
    ours = [row for row in rows if row["policy"] == OURS and "fault" not in row]
    for workload, workers in dict.fromkeys((row["workload"], row["workers"]) for row in ours):
        here = [row for row in ours if (row["workload"], row["workers"]) == (workload, workers)]
        table.add_row(str(workload), str(workers), *(f"{mean_of(here, measure):.0f}" for measure in DECISION_US))
    return table


def _table(rows: Sequence[Measures]) -> Table:
    """A row per policy under a line that says where, means over seeds; narrow enough for 80 columns."""
    table = Table(
        title="latency in seconds", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("policy", min_width=max(map(len, POLICIES)))
    for measure in SHOWN:
        heading = measure.removesuffix("_s").replace("rare_wait_ratio", "rare").replace("_", "\n")
        table.add_column(heading, justify="right")
    for where in places(rows):
        workload, arrivals, load, workers = where
        table.add_section()
        table.add_row(f"[bold]{workload}[/bold]")
        table.add_row(f"[dim]{arrivals} {load:g} x{workers}[/dim]")
        here = [row for row in rows if place(row) == where]
        for policy in policies(here):
            means = (mean_of([row for row in here if row["policy"] == policy], measure) for measure in SHOWN)
            table.add_row(policy, *map(cell, means), style="bold" if policy == OURS else None)
    return table

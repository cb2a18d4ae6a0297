"""``python -m bench hoarding``: how a worker should come by its jobs, so that none lies where it does no good.

Decision 0001 rests on it. Every way is run in every cell, on a private RabbitMQ and Redis, over the product's own
broker port; ``hoarding_cells`` names the ways and the cells, ``hoarding_measures`` says what is counted.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence

import uvloop
from rich.console import Console
from rich.progress import Progress

from affinity.io.log import configure_logging
from bench.hoarding_cells import WORKERS, Trial, one_by_one, thresholds, together
from bench.hoarding_measures import Log, Outcome, outcome
from bench.hoarding_table import grid_table, threshold_table
from bench.hoarding_trial import Rig, side_by_side
from bench.machine import machine
from bench.private_system import Addresses, private_system
from bench.round_trip import CannotMeasure

NAMESPACE = "hoarding"
WIDTH = 180


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's arguments."""
    added = commands.add_parser("hoarding", help="ways for a worker to come by its jobs, compared (about 17 minutes)")
    added.add_argument("--quick", action="store_true", help="few cells and few jobs: that it works, not how well")
    added.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Exit code: 0, or 1 if it cannot be measured."""
    configure_logging("warning", "bench")
    notes = Console(stderr=True, highlight=False)
    try:
        notes.print("starting private servers")
        with private_system(workers=0) as own, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            grid, varied = runner.run(_measured(own, options.quick, notes))
    except CannotMeasure as error:
        notes.print(f"[red]cannot measure:[/red] {error}", soft_wrap=True)
        return 1
    if options.json:
        found = {"grid": [each.as_json() for each in grid], "thresholds": [each.as_json() for each in varied]}
        print(json.dumps({"machine": machine()} | found))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:  # A file has no width; the default would fold every word.
            console = Console(highlight=False, width=WIDTH)
        console.print(machine(), grid_table(grid))
        if varied:
            console.print(threshold_table(varied))
    return 0


async def _measured(own: Addresses, quick: bool, notes: Console) -> tuple[list[Outcome], list[Outcome]]:
    alone, beside, varied = one_by_one(quick), together(quick), thresholds(quick)
    rig = Rig(own.amqp_url, own.redis_url, NAMESPACE, max(WORKERS))
    with Progress(console=notes, transient=True) as progress:
        bar = progress.add_task("trials", total=sum(each.effort.seeds for each in (*alone, *varied)) + 1)
        async with rig.opened():
            grid = await outcomes(rig, alone, lambda: progress.advance(bar))
            with_thresholds = await outcomes(rig, varied, lambda: progress.advance(bar))
            runs = [(trial, seed) for trial in beside for seed in range(trial.effort.seeds)]
            grid += _summed_up(runs, await side_by_side(rig, runs, "beside"))
    return grid, with_thresholds


async def outcomes(rig: Rig, trials: Sequence[Trial], advance: Callable[[], None]) -> list[Outcome]:
    """One trial after the other, in as many rounds as there are seeds: what disturbs the machine for a while meets one
    round of each cell and not all of one cell. Raises ``CannotMeasure``."""
    rounds = max((trial.effort.seeds for trial in trials), default=0)
    runs = [(trial, seed) for seed in range(rounds) for trial in trials if seed < trial.effort.seeds]
    logs: list[Log] = []
    for each in runs:
        logs += await side_by_side(rig, [each], "alone")
        advance()
    return _summed_up(runs, logs)


def _summed_up(runs: Sequence[tuple[Trial, int]], logs: Sequence[Log]) -> list[Outcome]:
    """The outcome of each trial, all seeds together."""
    found: dict[Trial, list[Log]] = {}
    for (trial, _), log in zip(runs, logs, strict=True):
        found.setdefault(trial, []).append(log)
    return [outcome(trial.cell, trial.way, seeds) for trial, seeds in found.items()]

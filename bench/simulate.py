"""``python -m bench simulate``: one trace, one fleet, one policy, one JSON object."""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from affinity.fleet import GIB
from bench.baselines import POLICIES, scheduler
from bench.measures import Measures, bounds_of, gap_closed, measures
from bench.models_file import BadInput, BenchModel, read_models
from bench.scheduler import PolicyFault, Scheduler
from bench.simulator import simulate
from bench.trace import TraceJob, read_trace
from bench.world import FleetShape, LoadMode, World

GAP_BASELINE = "round-robin-lru"

Watch = Callable[[Scheduler, World], Scheduler]
"""Puts a watcher around a scheduler."""

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's arguments."""
    added = commands.add_parser("simulate", help="one trace on a simulated fleet under one policy")
    added.add_argument("--trace", type=Path, required=True, help="JSON lines; 'workload' writes some")
    added.add_argument("--models", type=Path, required=True, help="JSON; 'workload' writes one")
    added.add_argument("--workers", type=_count, required=True, help="GPUs")
    added.add_argument("--vram-gib", type=_size, required=True, help="memory of each GPU")
    added.add_argument("--policy", choices=POLICIES, default="affinity", help="default: %(default)s")
    added.add_argument("--load", choices=[*LoadMode], default=LoadMode.BLOCKING, help="default: %(default)s")
    added.add_argument("--host-cache-gib", type=_size, default=0.0, help="per GPU; what is evicted stays there")
    added.add_argument("--seed", type=int, default=0, help="for policies that draw lots (default: 0)")
    added.add_argument("--gap", action="store_true", help=f"run {GAP_BASELINE} too, and print gap_closed")
    added.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Exit code: 0, 1 if the policy leaves jobs waiting, 2 for input that cannot be used."""
    notes = Console(stderr=True, highlight=False)
    try:
        models = read_models(options.models)
        jobs = read_trace(options.trace, models)
        shape = FleetShape(
            options.workers, round(options.vram_gib * GIB), LoadMode(options.load), round(options.host_cache_gib * GIB)
        )
        World(shape, models)
        with Progress(*_COLUMNS, console=notes, transient=True) as bar:
            found = simulated(jobs, models, shape, options.policy, options.seed, options.gap, bar)
    except BadInput as error:
        notes.print(f"[red]cannot simulate:[/red] {error}", soft_wrap=True)
        return 2
    except PolicyFault as error:
        notes.print(f"[red]the policy failed:[/red] {error}", soft_wrap=True)
        return 1
    if options.json:
        print(json.dumps(found))
    else:
        _show(found, Console(highlight=False))
    return 0


def simulated(
    jobs: Sequence[TraceJob],
    models: Mapping[str, BenchModel],
    shape: FleetShape,
    policy: str,
    seed: int,
    with_gap: bool = False,
    bar: Progress | None = None,
    watch: Watch | None = None,
) -> Measures:
    """The numbers of one run. Raises ``BadInput`` and ``PolicyFault``."""
    bounds = bounds_of(jobs, models, shape.workers)
    found: Measures = {"policy": policy, "seed": seed, "workers": shape.workers, "vram_gib": shape.vram_bytes / GIB}
    found |= {"load": str(shape.load), "host_cache_gib": shape.host_cache_bytes / GIB}
    found |= _one(jobs, models, shape, policy, seed, bounds, bar, watch)
    if with_gap:
        beside = _one(jobs, models, shape, GAP_BASELINE, seed, bounds, bar)
        found["gap_closed"] = gap_closed(_seconds(found["mean_s"]), _seconds(beside["mean_s"]), bounds[1])
    return found


def _one(
    jobs: Sequence[TraceJob],
    models: Mapping[str, BenchModel],
    shape: FleetShape,
    policy: str,
    seed: int,
    bounds: tuple[float, float],
    bar: Progress | None,
    watch: Watch | None = None,
) -> Measures:
    world = World(shape, models)
    asked = scheduler(policy, world, jobs, seed)
    told: Callable[[int], None] | None = None
    if bar:
        task = bar.add_task(policy, total=len(jobs))
        told = lambda done: bar.update(task, completed=done)  # noqa: E731
    return measures(simulate(world, watch(asked, world) if watch else asked, jobs, told), shape, bounds)


def _seconds(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _show(found: Measures, console: Console) -> None:
    table = Table("measure", "value", title=f"{found['policy']} on {found['workers']} workers", title_justify="left")
    for name, value in found.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number above 0")
    return int(text)


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 up")
    return size

"""``python -m bench soak``: many jobs at a steady rate, and whether the memory of the processes stays what it was.

Hours of a fleet's life in minutes: synthetic models that take a millisecond, more of them than fit, so that loads and
evictions go on all the time. Every job must succeed.
"""

import argparse
import json
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from affinity.fleet import GIB
from bench.api import Api, Unreachable
from bench.catalog_command import catalogue_lines
from bench.memory import resident_bytes
from bench.models_file import BenchModel
from bench.private_system import private_system
from bench.round_trip import CannotMeasure

WORKERS = 4
MODELS = 16
BATCH = 50
MOST_WAITING = 4 * BATCH
"""Above so many unfinished jobs the next batch waits: the load is as steady as the machine allows, and no backlog."""

LOOK_EVERY_S = 2.0
STUCK_S = 120.0
WARM_UP = 0.2
"""The share of the run after which caches, pools and learned figures have their size."""

MOST_GROWTH = 0.05
PAGE = "500"
UNENDED = ("queued", "running")
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


@dataclass(slots=True)
class Soaked:
    """What a run has shown. ``looks`` are resident bytes of every process by role, every ``LOOK_EVERY_S``."""

    jobs: int
    looks: list[Mapping[str, Sequence[int]]] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0

    def growth(self) -> dict[str, tuple[float, float]]:
        """By role, the median resident bytes of all its processes right after warm-up and at the end: a tenth each."""
        warm, tenth = int(len(self.looks) * WARM_UP), max(1, len(self.looks) // 10)
        early, late = self.looks[warm : warm + tenth], self.looks[-tenth:]
        return {
            role: (median(sum(look[role]) for look in early), median(sum(look[role]) for look in late))
            for role in early[0]
        }

    def faults(self) -> list[str]:
        """What does not hold."""
        lost = self.jobs - self.states["succeeded"]
        found = [f"{lost} of {self.jobs} jobs did not succeed: {dict(self.states)}"] if lost else []
        return found + [
            f"the memory of {role} grew by {after / before - 1:.1%}"
            for role, (before, after) in self.growth().items()
            if after > before * (1 + MOST_GROWTH)
        ]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", count: Callable[[str], int]) -> None:
    """The command's arguments."""
    added = commands.add_parser("soak", help="many jobs at a steady rate: does memory grow? (starts a private system)")
    added.add_argument("--jobs", type=count, default=200_000, help="default: %(default)s")
    added.add_argument("--rate", type=count, default=400, help="jobs a second at most (default: %(default)s)")
    added.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Exit code: 0 if all jobs succeeded and no role grew by more than ``MOST_GROWTH``."""
    notes = Console(stderr=True, highlight=False)
    try:
        found = soak(options.jobs, options.rate, notes)
    except (CannotMeasure, Unreachable) as error:
        notes.print(f"[red]cannot measure:[/red] {error}")
        return 1
    faults = found.faults()
    if options.json:
        print(json.dumps({"jobs": found.jobs, "took_s": found.took_s, "bytes": found.growth(), "faults": faults}))
    else:
        _show(found, faults, Console(highlight=False))
    return 1 if faults else 0


def soak(jobs: int, rate: float, notes: Console) -> Soaked:
    """Send them, watching. Raises ``CannotMeasure`` where nothing moves any more."""
    notes.print(f"starting private servers, a dispatcher and {WORKERS} workers (about half a minute)")
    found = Soaked(jobs)
    with (
        _catalogue() as catalogue,
        private_system(WORKERS, {"MODELS_CATALOG": str(catalogue)}) as system,
        Api(system.url, None) as api,
        Progress(*_COLUMNS, console=notes) as progress,
    ):
        began_s = time.monotonic()
        bar = progress.add_task("soak", total=jobs)
        for done in _sending(api, jobs, rate):
            progress.update(bar, completed=done)
            if time.monotonic() - began_s >= LOOK_EVERY_S * len(found.looks):
                found.looks.append(resident_bytes(system.pid))
        found.took_s = time.monotonic() - began_s
        found.states = _states(api)
    return found


def _sending(api: Api, jobs: int, rate: float) -> Iterator[int]:
    """Send batch after batch; yields how many are over, again and again until all are."""
    sent, began_s, moved_s, waiting = 0, time.monotonic(), time.monotonic(), 0
    done = 0
    while done < jobs:
        now_s = time.monotonic()
        if sent < jobs and waiting < MOST_WAITING and sent <= (now_s - began_s) * rate:
            batch = _batch(min(BATCH, jobs - sent), sent)
            accepted = api.call("POST", "/jobs/batch", json={"jobs": batch}).json()["accepted"]
            if accepted != len(batch):
                raise CannotMeasure(f"{len(batch) - accepted} of {len(batch)} jobs were refused")
            sent += len(batch)
        else:
            time.sleep(0.02)
        waiting = _unfinished(api)
        if sent - waiting > done:
            done, moved_s = sent - waiting, now_s
        elif now_s - moved_s > STUCK_S:
            raise CannotMeasure(f"no job ended for {STUCK_S:.0f} s: {waiting} of {sent} are not over")
        yield done


def _batch(size: int, number: int) -> list[dict[str, object]]:
    """Every model in turn, two thirds of them for a quarter of the models: some stay, the others come and go."""
    turns = [n % (MODELS // 4) if n % 3 else n // 3 % MODELS for n in range(number, number + size)]
    return [{"model": f"soak-{turn:02}", "input": {"text": secrets.token_hex(32)}} for turn in turns]


def _unfinished(api: Api) -> int:
    """Jobs queued or running, as the workers have reported these."""
    models = api.call("GET", "/models").json()["models"]
    workers = api.call("GET", "/workers").json()["workers"]
    running: int = sum(resident["running"] for worker in workers for resident in worker["residents"])
    queued: int = sum(model["queued"] for model in models)
    return queued + running


def _states(api: Api) -> Counter[str]:
    """How many jobs are in each state once all are over; every record is read."""
    while any(api.call("GET", "/jobs", params={"state": state, "limit": "1"}).json()["jobs"] for state in UNENDED):
        time.sleep(0.1)
    states: Counter[str] = Counter()
    cursor: str | None = ""
    while cursor is not None:
        page = api.call("GET", "/jobs", params={"limit": PAGE, **({"cursor": cursor} if cursor else {})}).json()
        states.update(job["state"] for job in page["jobs"])
        cursor = page["cursor"]
    return states


@contextmanager
def _catalogue() -> Iterator[Path]:
    """Sixteen models of which four fit on a worker."""
    models = [
        BenchModel(f"soak-{n:02}", vram_bytes=5 * GIB, load_s=0.3, exec_s=0.001, max_batch=8) for n in range(MODELS)
    ]
    with tempfile.TemporaryDirectory(prefix="affinity-soak-") as folder:
        path = Path(folder) / "catalogue.toml"
        path.write_text("\n".join(catalogue_lines(models)) + "\n", encoding="utf-8")
        yield path


def _show(found: Soaked, faults: Sequence[str], console: Console) -> None:
    table = Table("memory of", "after warm-up, MiB", "at the end, MiB", "growth")
    for role, (before, after) in found.growth().items():
        table.add_row(role, f"{before / 2**20:.1f}", f"{after / 2**20:.1f}", f"{after / before - 1:+.1%}")
    console.print(table)
    pace = f"{found.took_s:.0f} s, {found.jobs / found.took_s:.0f} a second"
    console.print(f"{found.jobs} jobs in {pace}: {dict(found.states)}")
    for fault in faults:
        console.print(f"[red]does not hold:[/red] {fault}")

"""Runs of a report that are done, one JSON file each: a report that was cut off goes on where it stopped.

A file counts only for the code that made it: its name has a hash of the case, of the workload and of all sources that
have a say. A baseline's does not depend on our policy, so a change there makes only our own runs anew.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from time import perf_counter

from bench.baselines.registry import BASELINES
from bench.cases import Case
from bench.measures import Measures

ROOT = Path(__file__).parents[1]
PHYSICS = (
    *("arrivals.py", "bounds.py", "cases.py", "measures.py", "models_file.py", "observed.py", "percentiles.py"),
    *("scenarios.py", "scheduler.py", "simulate.py", "simulator.py", "trace.py", "workload.py", "world.py"),
)
"""Of ``bench``: what every run depends on."""

OURS = ("planned.py", "demand.py")
"""Of ``bench``: what runs of our policy depend on besides, with all of ``affinity`` but the shells around it."""

APART = ("io", "policy/eta.py", "policy/explain.py", "wire.py", "topology.py")
"""Of ``affinity``: what has no say in a simulation."""


def path_of(case: Case, folder: Path) -> Path:
    """Where the case's numbers are kept."""
    made = "\n".join([repr(case), repr(case.made()), sources_hash(case.policy in {each.name for each in BASELINES})])
    name = "-".join(str(value) for value in asdict(case).values() if value is not None)
    return folder / f"{name}-{hashlib.sha256(made.encode()).hexdigest()[:12]}.json"


def kept(case: Case, folder: Path) -> Measures | None:
    """The numbers of a run that is done, ``None`` if it is not. Half a file counts as none."""
    try:
        found: Measures = json.loads(path_of(case, folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def run_and_keep(case: Case, folder: Path) -> Measures:
    """Run it and write its numbers down. Raises ``OSError``."""
    began_s = perf_counter()
    found = case.run() | {"took_s": 0.0}
    found["took_s"] = round(perf_counter() - began_s, 2)
    target = path_of(case, folder)
    # Renamed into place, so that a run cut off here leaves no half a file.
    unfinished = target.with_suffix(".part")
    unfinished.write_text(json.dumps(found) + "\n", encoding="utf-8")
    unfinished.replace(target)
    return found


@cache
def sources_hash(baseline: bool) -> str:
    """A hash of all sources a run depends on."""
    digest = hashlib.sha256()
    for path in _sources(baseline):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _sources(baseline: bool) -> Iterator[Path]:
    yield from (ROOT / "bench" / name for name in PHYSICS)
    yield from sorted((ROOT / "bench" / "baselines").glob("*.py"))
    if not baseline:
        yield from (ROOT / "bench" / name for name in OURS)
        apart = [ROOT / "affinity" / name for name in APART]
        yield from (
            path
            for path in sorted((ROOT / "affinity").rglob("*.py"))
            if not any(path == each or each in path.parents for each in apart)
        )

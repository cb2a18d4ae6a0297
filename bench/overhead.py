"""What the dispatcher adds: a warm job over HTTP beside a bare publish and consume, measured in the same run.

Both take turns in short rounds, so that a busy moment of the machine falls on both.
"""

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.percentiles import percentile
from bench.round_trip import BareRoundTrip, WarmJob

BODY = b'{"model":"echo","input":{"hello":"world"}}'
TARGET = 3.0
ROUND = 25
WARM_UP = 100


@dataclass(frozen=True, slots=True)
class Overhead:
    """Ascending times in seconds."""

    bare_s: Sequence[float]
    job_s: Sequence[float]

    @property
    def ratio(self) -> float:
        """Median of a job over the median of a bare round trip."""
        return percentile(self.job_s, 50) / percentile(self.bare_s, 50)

    def as_json(self) -> str:
        """One JSON object; times in milliseconds."""
        return json.dumps(
            {
                "jobs": len(self.job_s),
                "bare_p50_ms": percentile(self.bare_s, 50) * 1000,
                "bare_p95_ms": percentile(self.bare_s, 95) * 1000,
                "job_p50_ms": percentile(self.job_s, 50) * 1000,
                "job_p95_ms": percentile(self.job_s, 95) * 1000,
                "ratio": self.ratio,
                "target": TARGET,
            }
        )


def measure(amqp_url: str, url: str, api_key: str | None, jobs: int) -> Overhead:
    """At least ``jobs`` of each, in rounds. Raises ``CannotMeasure``."""
    bare, job = BareRoundTrip(BODY), WarmJob(url, BODY, api_key)
    bare_s: list[float] = []
    job_s: list[float] = []
    with asyncio.Runner() as runner:
        runner.run(bare.open(amqp_url))
        try:
            runner.run(bare.times_s(WARM_UP))
            job.warm_up(WARM_UP)
            for _ in range(math.ceil(jobs / ROUND)):
                bare_s += runner.run(bare.times_s(ROUND))
                job_s += job.times_s(ROUND)
        finally:
            job.close()
            runner.run(bare.close())
    return Overhead(sorted(bare_s), sorted(job_s))


def show(found: Overhead, console: Console) -> None:
    """A table, and whether the target is met."""
    table = Table("round trip", title=f"{len(found.job_s)} of each, one at a time", title_justify="left")
    for heading in ("p50 ms", "p95 ms"):
        table.add_column(heading, justify="right")
    for name, times in (("bare confirmed publish and consume", found.bare_s), ("warm echo job", found.job_s)):
        table.add_row(name, *(f"{percentile(times, percent) * 1000:.2f}" for percent in (50, 95)))
    console.print(table)
    console.print(f"ratio of the medians: {found.ratio:.2f} (target: at most {TARGET:g})")

"""Many jobs at once against a running system: how many a second, how long each takes, how many start warm."""

import asyncio
import json
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
from rich.table import Table

from bench.api import ENDED, auth_header
from bench.percentiles import percentile

WAIT_S = 30
DEADLINE_S = 300.0
ECHO = "echo"
ECHO_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class LoadJob:
    """A job to send. ``expected``: its result, where the model returns its input."""

    model: str
    value: object
    expected: object = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job. ``latency_s``: from sending it to knowing its end. ``fault``: why it does not count."""

    model: str
    latency_s: float
    start: str | None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All outcomes, and how long the whole took."""

    outcomes: Sequence[Outcome]
    took_s: float

    @property
    def faults(self) -> list[str]:
        """What went wrong, per job."""
        return [f"{outcome.model}: {outcome.fault}" for outcome in self.outcomes if outcome.fault]


def mix(models: Sequence[Mapping[str, object]], jobs: int, seed: int = 11) -> list[LoadJob]:
    """Jobs for the synthetic models of a catalogue (as ``GET /models`` gives it), half of them for ``echo``."""
    others = [str(model["name"]) for model in models if model["runtime"] == "synthetic" and model["name"] != ECHO]
    chance = random.Random(seed)
    made = []
    for _ in range(jobs):
        if others and chance.random() >= ECHO_SHARE:
            made.append(LoadJob(chance.choice(others), {}))
        else:
            value = {"load": secrets.token_hex(8)}
            made.append(LoadJob(ECHO, value, value))
    return made


async def send_all(
    url: str, api_key: str | None, jobs: Sequence[LoadJob], in_flight: int, advance: Callable[[], None]
) -> LoadResult:
    """Send every job, at most ``in_flight`` at a time; ``advance`` is called as each ends. Faults are outcomes."""
    slots = asyncio.Semaphore(in_flight)
    limits = httpx.Limits(max_connections=in_flight)
    began_s = time.monotonic()
    async with httpx.AsyncClient(
        base_url=url, headers=auth_header(api_key), timeout=WAIT_S + 30.0, limits=limits
    ) as client:

        async def one(job: LoadJob) -> Outcome:
            async with slots:
                outcome = await _send(client, job, began_s + DEADLINE_S)
            advance()
            return outcome

        outcomes = await asyncio.gather(*(one(job) for job in jobs))
    return LoadResult(outcomes, time.monotonic() - began_s)


def table(result: LoadResult) -> Table:
    """A row per model and one for all: jobs, latency percentiles in milliseconds, share of warm starts."""
    made = Table("model", title=_headline(result), title_justify="left")
    for heading in ("jobs", "failed", "p50 ms", "p95 ms", "p99 ms", "warm"):
        made.add_column(heading, justify="right")
    for model in sorted({outcome.model for outcome in result.outcomes}):
        made.add_row(model, *_cells([outcome for outcome in result.outcomes if outcome.model == model]))
    made.add_section()
    made.add_row("all", *_cells(result.outcomes))
    return made


def _headline(result: LoadResult) -> str:
    return f"{len(result.outcomes)} jobs in {result.took_s:.1f} s: {len(result.outcomes) / result.took_s:.0f} jobs/s"


def _cells(outcomes: Sequence[Outcome]) -> list[str]:
    good = [outcome for outcome in outcomes if not outcome.fault]
    failed = str(len(outcomes) - len(good))
    if not good:
        return [str(len(outcomes)), failed, *["-"] * 4]
    latencies = sorted(outcome.latency_s for outcome in good)
    warm = sum(outcome.start == "warm" for outcome in good) / len(good)
    times = (f"{percentile(latencies, percent) * 1000:.1f}" for percent in (50, 95, 99))
    return [str(len(outcomes)), failed, *times, f"{warm:.1%}"]


async def _send(client: httpx.AsyncClient, job: LoadJob, deadline_s: float) -> Outcome:
    began_s = time.monotonic()
    record: dict[str, object] = {}
    try:
        record = await _ended(client, job, deadline_s)
        fault = _fault(job, record)
    except (httpx.HTTPError, json.JSONDecodeError, KeyError) as error:
        fault = f"{type(error).__name__}: {error}"
    start = record.get("start")
    return Outcome(job.model, time.monotonic() - began_s, str(start) if start else None, fault)


async def _ended(client: httpx.AsyncClient, job: LoadJob, deadline_s: float) -> dict[str, object]:
    prefer = {"Prefer": f"wait={WAIT_S}"}
    answer = await client.post("/jobs", json={"model": job.model, "input": job.value}, headers=prefer)
    record: dict[str, object] = answer.raise_for_status().json()
    while record["state"] not in ENDED and time.monotonic() < deadline_s:
        answer = await client.get(f"/jobs/{record['id']}", headers=prefer)
        record = answer.raise_for_status().json()
    return record


def _fault(job: LoadJob, record: Mapping[str, object]) -> str | None:
    if record["state"] != "succeeded":
        return f"job {record['id']} is {record['state']}: {record['error']}"
    if job.expected is not None and record["result"] != job.expected:
        return f"job {record['id']} returned {record['result']!r}, not its own input"
    return None

"""``python -m bench replay``: a trace sent to a running system of synthetic models, in real time.

Latencies are those of the job records; loads and the time spent on them come from the workers' own metrics. The output
is that of ``simulate``, so that the two can be laid side by side.
"""

import argparse
import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress

from bench.api import auth_header
from bench.measures import Measures, bounds_of
from bench.models_file import BadInput, BenchModel, read_models
from bench.percentiles import percentile
from bench.trace import TraceJob, read_trace

IN_FLIGHT = 64
TIMEOUT_S = 70.0
WAIT_S = 60
GIVE_UP_S = 900.0
"""A job that has not ended so long after the last arrival never will."""


class CannotReplay(Exception):
    """The message says what is missing, or which job did not end as it should."""


@dataclass(frozen=True, slots=True)
class Loads:
    """What the workers have loaded so far: how often, and seconds in all."""

    count: float
    seconds: float


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", default_url: str) -> None:
    """The command's arguments."""
    added = commands.add_parser("replay", help="send a trace to a running system of synthetic models ('catalog')")
    added.add_argument("--trace", type=Path, required=True, help="JSON lines; 'workload' writes one")
    added.add_argument("--models", type=Path, required=True, help="JSON; 'workload' writes one")
    added.add_argument("--url", default=default_url, help="the dispatcher (default: %(default)s)")
    added.add_argument("--speed", type=float, default=1.0, help="arrivals so many times as fast (default: 1)")
    added.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace, api_key: str | None) -> int:
    """Exit code: 0; 1 where the system does not do its part; 2 for input that cannot be used."""
    notes = Console(stderr=True, highlight=False)
    try:
        if not options.speed > 0:
            raise BadInput("--speed must be above 0")
        models = read_models(options.models)
        jobs = read_trace(options.trace, models)
        found = asyncio.run(_replayed(jobs, models, options.url, api_key, options.speed, notes))
    except BadInput as error:
        notes.print(f"[red]cannot replay:[/red] {error}", soft_wrap=True)
        return 2
    except (CannotReplay, httpx.HTTPError) as error:
        notes.print(f"[red]the replay failed:[/red] {error or type(error).__name__}", soft_wrap=True)
        return 1
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0


async def _replayed(
    jobs: Sequence[TraceJob],
    models: Mapping[str, BenchModel],
    url: str,
    api_key: str | None,
    speed: float,
    notes: Console,
) -> Measures:
    # As many connections for submitting as for waiting: one that waits must not hold up an arrival.
    limits = httpx.Limits(max_connections=2 * IN_FLIGHT)
    async with httpx.AsyncClient(
        base_url=url, headers=auth_header(api_key), timeout=TIMEOUT_S, limits=limits
    ) as client:
        before, workers = await _loads(client)
        records = await _served(client, jobs, speed, notes)
        after, _ = await _loads(client)
    return {
        "policy": "live",
        "workers": workers,
        "speed": speed,
        **_measures(records, workers, Loads(after.count - before.count, after.seconds - before.seconds)),
        **dict(zip(("lower_bound_mean_s", "zero_load_mean_s"), bounds_of(jobs, models, workers), strict=True)),
    }


async def _served(
    client: httpx.AsyncClient, jobs: Sequence[TraceJob], speed: float, notes: Console
) -> list[Mapping[str, Any]]:
    """Every job's record once it has ended, in order of the trace."""
    run_id, loop = secrets.token_hex(4), asyncio.get_running_loop()
    began_at = loop.time()
    slots = asyncio.Semaphore(IN_FLIGHT)
    with Progress(console=notes, transient=True) as bar:
        ended = bar.add_task("jobs", total=len(jobs))

        async def one(job: TraceJob) -> Mapping[str, Any]:
            await asyncio.sleep(max(0.0, began_at + job.arrival_s / speed - loop.time()))
            job_id = f"replay-{run_id}-{job.number}"
            body = {"id": job_id, "model": job.model, "input": {"exec_s": job.exec_s}}
            answer = await client.post("/jobs", json=body)
            if answer.status_code != 202:
                raise CannotReplay(f"a job for {job.model} was answered {answer.status_code}: {answer.text[:300]}")
            async with slots:
                record = await _ended(client, job_id)
            bar.advance(ended)
            return record

        async with asyncio.timeout(jobs[-1].arrival_s / speed + GIVE_UP_S), asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(one(job)) for job in jobs]
        return [task.result() for task in asked]


async def _ended(client: httpx.AsyncClient, job_id: str) -> Mapping[str, Any]:
    while True:
        record: dict[str, Any] = (await client.get(f"/jobs/{job_id}", headers={"Prefer": f"wait={WAIT_S}"})).json()
        if record["state"] == "succeeded":
            return record
        if record["state"] not in ("queued", "running"):
            raise CannotReplay(f"job {job_id} ended {record['state']}: {record['error']}")


async def _loads(client: httpx.AsyncClient) -> tuple[Loads, int]:
    """All loads of the fleet so far, and how many workers there are."""
    workers = (await client.get("/workers")).raise_for_status().json()["workers"]
    if not workers:
        raise CannotReplay("no worker is up")
    count = seconds = 0.0
    for url in {worker["metrics_url"] for worker in workers}:
        page = (await client.get(url)).raise_for_status().text
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                count += sample.value if sample.name == "model_loads_total" else 0.0
                seconds += sample.value if sample.name == "model_load_duration_seconds_sum" else 0.0
    return Loads(count, seconds), len(workers)


def _measures(records: Sequence[Mapping[str, Any]], workers: int, loads: Loads) -> Measures:
    spans = [(_at(record["created_at"]), _at(record["finished_at"])) for record in records]
    latencies = sorted(finished - created for created, finished in spans)
    makespan_s = max(finished for _, finished in spans) - min(created for created, _ in spans)
    cold = sum(record["start"] == "cold" for record in records)
    return {
        "jobs": len(records),
        "mean_s": sum(latencies) / len(latencies),
        "p50_s": percentile(latencies, 50),
        "p95_s": percentile(latencies, 95),
        "p99_s": percentile(latencies, 99),
        "max_wait_s": max(record["wait_s"] for record in records),
        "loads": int(loads.count),
        "hit_ratio": 1 - cold / len(records),
        "load_share": loads.seconds / (workers * makespan_s),
        "makespan_s": makespan_s,
    }


def _at(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()

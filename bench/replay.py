"""``python -m bench replay``: a trace sent to a running system of synthetic models, in real time.

Latencies are those of the job records; loads and the time spent on them come from the workers' own metrics. The output
is that of ``simulate``, and with ``--compare`` a simulation of the same trace on the same fleet stands beside it.
Estimates of when a job starts are asked for on the way and judged at the end.
"""

import argparse
import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import compare
from bench.api import auth_header
from bench.eta_score import Questions, epoch_s, score
from bench.measures import Measures, bounds_of
from bench.models_file import BadInput, BenchModel, read_models
from bench.percentiles import percentile
from bench.scheduler import PolicyFault
from bench.trace import TraceJob, read_trace

SUBMITTING = 16
COLLECTING = 4
"""Connections of each kind. The client's pool looks at all it has for every request: more of them, or a connection
waiting for every job, and the client takes half of a small machine from what it measures."""

TIMEOUT_S = 70.0
WAIT_S = 60
LATE_S = 1.0
"""Jobs accepted so much later than the trace says make another, lighter load of it."""

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
    added.add_argument("--compare", action="store_true", help="simulate the same beside it (on a fleet just started)")
    added.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace, api_key: str | None) -> int:
    """Exit code: 0; 1 where the system does not do its part; 2 for input that cannot be used."""
    notes = Console(stderr=True, highlight=False)
    try:
        if not options.speed > 0:
            raise BadInput("--speed must be above 0")
        models = read_models(options.models)
        jobs = read_trace(options.trace, models)
        faster = [replace(job, arrival_s=job.arrival_s / options.speed) for job in jobs]
        asked = _replayed(faster, models, options.url, api_key, options.compare, notes)
        found = asyncio.run(asked) | {"speed": options.speed}
    except BadInput as error:
        notes.print(f"[red]cannot replay:[/red] {error}", soft_wrap=True)
        return 2
    except (CannotReplay, PolicyFault, httpx.HTTPError) as error:
        notes.print(f"[red]the replay failed:[/red] {error or type(error).__name__}", soft_wrap=True)
        return 1
    if float(found["late_p99_s"] or 0.0) > LATE_S:
        notes.print(
            f"[yellow]jobs were accepted up to {found['late_p99_s']:.1f} s later than the trace says:[/yellow] the "
            "machine did not keep up, and the numbers are those of a lighter load",
            soft_wrap=True,
        )
    if options.json:
        print(json.dumps(found))
    else:
        _show(found, Console(highlight=False))
    return 0


def _show(found: Measures, console: Console) -> None:
    table = Table("measure", "value", title=f"live on {found['workers']} workers", title_justify="left")
    for name, value in found.items():
        if not name.startswith(compare.PREFIX):
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value))
    console.print(table)
    if f"{compare.PREFIX}mean_s" in found:
        console.print(compare.table(found))


async def _replayed(
    jobs: Sequence[TraceJob],
    models: Mapping[str, BenchModel],
    url: str,
    api_key: str | None,
    comparing: bool,
    notes: Console,
) -> Measures:
    limits = httpx.Limits(max_connections=SUBMITTING)
    async with httpx.AsyncClient(
        base_url=url, headers=auth_header(api_key), timeout=TIMEOUT_S, limits=limits
    ) as client:
        fleet = await _fleet(client)
        shape = compare.shape_of(fleet) if comparing else None
        before = await _loads(client, fleet)
        questions = Questions(client)
        records = await _served(client, jobs, questions, notes)
        after = await _loads(client, fleet)
    loads = Loads(after.count - before.count, after.seconds - before.seconds)
    return {
        "policy": "live",
        "workers": len(fleet),
        **_measures(records, len(fleet), loads),
        "late_p99_s": percentile(sorted(_lateness(jobs, records)), 99),
        **dict(zip(("lower_bound_mean_s", "zero_load_mean_s"), bounds_of(jobs, models, len(fleet)), strict=True)),
        **score(questions, records),
        **(compare.beside(jobs, models, shape) if shape else {}),
    }


async def _served(
    client: httpx.AsyncClient, jobs: Sequence[TraceJob], questions: Questions, notes: Console
) -> list[Mapping[str, Any]]:
    """Every job's record, in order of the trace. They are read when all have been sent: a record says itself when its
    job ended, and whoever asks meanwhile is a load that the trace has not.
    """
    run_id, loop = secrets.token_hex(4), asyncio.get_running_loop()
    began_at = loop.time()
    slots = asyncio.Semaphore(COLLECTING)
    with Progress(console=notes, transient=True) as bar:
        sent, ended = (bar.add_task(what, total=len(jobs)) for what in ("jobs sent", "jobs ended"))

        async def send(job: TraceJob) -> str:
            await asyncio.sleep(max(0.0, began_at + job.arrival_s - loop.time()))
            job_id = f"replay-{run_id}-{job.number}"
            body = {"id": job_id, "model": job.model, "input": {"exec_s": job.exec_s}}
            answer = await client.post("/jobs", json=body)
            if answer.status_code != 202:
                raise CannotReplay(f"a job for {job.model} was answered {answer.status_code}: {answer.text[:300]}")
            if questions.due(loop.time()):
                tasks.create_task(questions.ask(job_id))
            bar.advance(sent)
            return job_id

        async def collect(job_id: str) -> Mapping[str, Any]:
            async with slots:
                record = await _ended(client, job_id)
            bar.advance(ended)
            return record

        async with asyncio.timeout(jobs[-1].arrival_s + GIVE_UP_S):
            async with asyncio.TaskGroup() as tasks:
                sending = [tasks.create_task(send(job)) for job in jobs]
            async with asyncio.TaskGroup() as tasks:
                collecting = [tasks.create_task(collect(task.result())) for task in sending]
        return [task.result() for task in collecting]


async def _ended(client: httpx.AsyncClient, job_id: str) -> Mapping[str, Any]:
    while True:
        record: dict[str, Any] = (await client.get(f"/jobs/{job_id}", headers={"Prefer": f"wait={WAIT_S}"})).json()
        if record["state"] == "succeeded":
            return record
        if record["state"] not in ("queued", "running"):
            raise CannotReplay(f"job {job_id} ended {record['state']}: {record['error']}")


async def _fleet(client: httpx.AsyncClient) -> list[Mapping[str, Any]]:
    """All workers that are up, as ``GET /workers`` shows them."""
    workers: list[Mapping[str, Any]] = (await client.get("/workers")).raise_for_status().json()["workers"]
    if not workers:
        raise CannotReplay("no worker is up")
    return workers


async def _loads(client: httpx.AsyncClient, workers: Sequence[Mapping[str, Any]]) -> Loads:
    """All loads of the fleet so far."""
    count = seconds = 0.0
    for url in {worker["metrics_url"] for worker in workers}:
        page = (await client.get(url)).raise_for_status().text
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                count += sample.value if sample.name == "model_loads_total" else 0.0
                seconds += sample.value if sample.name == "model_load_duration_seconds_sum" else 0.0
    return Loads(count, seconds)


def _measures(records: Sequence[Mapping[str, Any]], workers: int, loads: Loads) -> Measures:
    spans = [(epoch_s(record["created_at"]), epoch_s(record["finished_at"])) for record in records]
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


def _lateness(jobs: Sequence[TraceJob], records: Sequence[Mapping[str, Any]]) -> list[float]:
    """How much later than the trace says each job was accepted, in seconds, the first one being in time."""
    first = min(epoch_s(record["created_at"]) for record in records) - jobs[0].arrival_s
    return [epoch_s(record["created_at"]) - first - job.arrival_s for job, record in zip(jobs, records, strict=True)]

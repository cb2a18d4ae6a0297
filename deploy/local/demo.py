"""``make demo``: the whole system for a minute, a mix of jobs through it, a table of what happened.

``python -m deploy.local.demo``
"""

import argparse
import asyncio
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.local.child import StartFailed
from deploy.local.demo_jobs import DemoJob, demo_jobs
from deploy.local.demo_report import JobsFailed, Outcome, loads_per_model, sample_lines, table
from deploy.local.environment import BadSetting, read_plan
from deploy.local.fleet import Commands, Fleet, api_key_header
from deploy.local.ports import free_ports
from deploy.local.stop import StopRequest
from deploy.local.system import Stopped, local_system

IN_FLIGHT = 16
WAIT_S = 30
DEADLINE_S = 180.0
ENDED = {"succeeded", "failed", "cancelled", "expired"}

# The demo is the same everywhere: simulated GPUs, and ports and queues that collide with nothing that runs here.
FIXED = {"WORKER_GPU": "simulated", "WORKER_SIMULATED_VRAM_GIB": "24", "DISPATCHER_HOST": "127.0.0.1"}
CHOSEN_HERE = {"DISPATCHER_PORT", "WORKER_METRICS_PORT", "WORKER_GPU_INDEX"}


def main(argv: Sequence[str], environ: Mapping[str, str], commands: Commands | None = None) -> int:
    """Exit code 0 when every job succeeded, 1 with the reason otherwise."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.demo", description="Affinity in one minute")
    parser.add_argument("--directory", type=Path, default=Path(".run/demo"), help="data and logs (default: .run/demo)")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when the process that started this ends")
    options = parser.parse_args(argv)
    console = Console(highlight=False)
    own = {name: value for name, value in environ.items() if name not in CHOSEN_HERE} | FIXED
    own.setdefault("AFFINITY_NAMESPACE", "affinity-demo")
    stop = StopRequest(with_parent=options.stop_with_parent)

    def say(line: str) -> None:
        console.print(f"[dim]demo[/dim] {line}")

    try:
        dispatcher_port, metrics_port = free_ports(2)
        plan = read_plan(own, has_gpu=False)
        # Jobs of an earlier demo would be counted as this one's.
        for leftover in ("rabbitmq", "redis"):
            shutil.rmtree(options.directory / leftover, ignore_errors=True)
        with local_system(
            plan,
            own,
            directory=options.directory,
            stop=stop,
            say=say,
            ports_from=(dispatcher_port, metrics_port),
            commands=commands,
        ) as (fleet, _):
            asyncio.run(tour(fleet, stop, console, own))
    except Stopped:
        say("stopped before the end")
        return 1
    except (StartFailed, JobsFailed, BadSetting) as error:
        console.print(f"[red]demo failed:[/red] {error}", markup=True)
        return 1
    return 0


async def tour(fleet: Fleet, stop: StopRequest, console: Console, environ: Mapping[str, str]) -> None:
    """Send every job, show progress, print table and sample. Raises ``JobsFailed``, ``StartFailed`` or ``Stopped``."""
    jobs = demo_jobs()
    columns = (TextColumn("demo jobs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    limits = httpx.Limits(max_connections=IN_FLIGHT)
    timeout = httpx.Timeout(WAIT_S + 30)
    headers = api_key_header(environ)
    async with httpx.AsyncClient(base_url=fleet.url, timeout=timeout, limits=limits, headers=headers) as client:
        with Progress(*columns, console=console) as progress:
            began_at = time.monotonic()
            outcomes = await _send_all(client, jobs, fleet, stop, progress)
            took_s = time.monotonic() - began_at
        loads = await loads_per_model(client)
    console.print(table(outcomes, loads))
    console.print(f"{len(outcomes)} jobs in {took_s:.1f} s ({len(outcomes) / took_s:.0f} jobs/s)")
    for line in sample_lines(outcomes):
        console.print(line, soft_wrap=True)


async def _send_all(
    client: httpx.AsyncClient, jobs: Sequence[DemoJob], fleet: Fleet, stop: StopRequest, progress: Progress
) -> list[Outcome]:
    bar = progress.add_task("jobs", total=len(jobs))
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(job: DemoJob) -> Outcome:
        async with slots:
            outcome = Outcome(job, await _finished(client, job))
        progress.advance(bar)
        return outcome

    pending = {asyncio.ensure_future(one(job)) for job in jobs}
    tasks = list(pending)
    deadline = time.monotonic() + DEADLINE_S
    try:
        while pending:
            done, pending = await asyncio.wait(pending, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            if stop.requested:
                raise Stopped
            fleet.raise_if_one_ended()
            if time.monotonic() > deadline:
                raise JobsFailed(f"{len(pending)} jobs had not ended after {DEADLINE_S:.0f} s; see {fleet.log_folder}")
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


async def _finished(client: httpx.AsyncClient, job: DemoJob) -> Mapping[str, object]:
    body = {"model": job.model, "input": job.input}
    try:
        answer = await client.post("/jobs", json=body, headers={"Prefer": f"wait={WAIT_S}"})
        if answer.status_code not in (httpx.codes.OK, httpx.codes.ACCEPTED):
            raise JobsFailed(f"POST /jobs for {job.model} answered {answer.status_code}: {answer.text}")
        record: dict[str, object] = answer.json()
        while record["state"] not in ENDED:
            await asyncio.sleep(0.5)
            record = (await client.get(f"/jobs/{record['id']}")).raise_for_status().json()
    except httpx.HTTPError as error:
        raise JobsFailed(f"a job for {job.model}: {type(error).__name__} {error}") from error
    if record["state"] != "succeeded":
        raise JobsFailed(f"job {record['id']} for {job.model} is {record['state']}: {record.get('error')}")
    return record


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], os.environ))

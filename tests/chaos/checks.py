"""Whether a fleet that was healed is whole again: nothing left in queues, bindings, keys, memory and processes.

Each check says what is wrong, or nothing.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import redis.asyncio as redis

from affinity.fleet import GIB
from affinity.topology import Topology, model_in
from tests.chaos.catalogue import MODELS
from tests.chaos.faults import processes
from tests.chaos.fleet import NAMESPACE, Fleet, marked
from tests.chaos.keys import KEYS, orphan_keys
from tests.chaos.ledger import Record

PAGE = 500
CONTROL_WITHIN_S = 30.0

TOPOLOGY = Topology(NAMESPACE)

WEIGHS = {model.name: model.vram_gib * GIB for model in MODELS}
"""What the simulated GPUs count for each model, in bytes."""


@dataclass(slots=True)
class Checks:
    """What is looked at, over one HTTP client, one connection to the store and the broker's own tool."""

    fleet: Fleet
    http: httpx.AsyncClient
    store: redis.Redis

    def all(self) -> Mapping[str, Callable[[], Awaitable[str]]]:
        """Every check by name."""
        return {
            "every job is over": self.jobs_over,
            "all queues are drained": self.queues_drained,
            "bindings equal residency": self.bindings_equal_residency,
            "the memory ledger equals the probe": self.ledger_equals_probe,
            "no orphan keys": self.no_orphan_keys,
            "no leaked processes": self.no_leaked_processes,
        }

    async def records(self) -> dict[str, Record]:
        """Every job the system has. Raises ``httpx.HTTPError``."""
        url = f"{self.fleet.dispatchers[0].url}/jobs"
        found: dict[str, Record] = {}
        query: dict[str, str | int] = {"limit": PAGE}
        while True:
            answer = (await self.http.get(url, params=query)).raise_for_status().json()
            found |= {str(job["id"]): job for job in answer["jobs"]}
            if not answer["cursor"]:
                return found
            query["cursor"] = answer["cursor"]

    async def explained(self, job_id: str) -> str:
        """Why the system says that a job is not over. Raises ``httpx.HTTPError``."""
        answer = await self.http.get(f"{self.fleet.dispatchers[0].url}/jobs/{job_id}/explain")
        return answer.text

    async def jobs_over(self) -> str:
        """Nothing is queued, nothing runs, nothing is unpublished."""
        waiting = {}
        for state in ("queued", "running"):
            ids = [str(job_id) for job_id in await self.store.zrange(KEYS.index(state), 0, -1)]
            if ids:
                waiting[state] = f"{len(ids)}, such as {ids[0]}"
        if unpublished := await self.store.zcard(KEYS.unpublished):
            waiting["unpublished"] = str(unpublished)
        return f"{waiting}" if waiting else ""

    async def queues_drained(self) -> str:
        """No message waits or is out, but for the dead letters."""
        rows = await self._control("list_queues", "name", "messages", "messages_unacknowledged", "state")
        full = {row["name"]: row for row in rows if row["name"] != TOPOLOGY.dead and row["messages"] != 0}
        return f"{full}" if full else ""

    async def bindings_equal_residency(self) -> str:
        """A model's queue, or that of a lane of it, is bound for a worker exactly where the worker has the model."""
        columns = ("source_name", "destination_name", "arguments")
        bound = set()
        for row in await self._control("list_bindings", *columns):
            if row["source_name"] == TOPOLOGY.jobs_exchange:
                arguments = {name: value for name, _, value in row["arguments"]}
                bound.add((model_in(row["destination_name"]), arguments.get("worker", "nobody")))
        resident = {
            (TOPOLOGY.model_queue(str(each["model"])), worker)
            for worker, report in (await self.fleet.reports(self.http)).items()
            for each in cast(list[dict[str, object]], report["residents"])
        }
        if bound == resident:
            return ""
        return f"bound only: {sorted(bound - resident)}, resident only: {sorted(resident - bound)}"

    async def ledger_equals_probe(self) -> str:
        """What each GPU says is in use is what the worker's models weigh, and nobody else's memory is there.

        A model that ran out of memory is planned larger than it is until a batch of it has run, so the ledger may say
        more than the probe; never less.
        """
        wrong = []
        reports = await self.fleet.reports(self.http)
        if missing := {worker.name for worker in self.fleet.workers} - reports.keys():
            wrong.append(f"{sorted(missing)} are not in the fleet")
        for worker, report in reports.items():
            gpu = cast(dict[str, int], report["gpu"])
            residents = cast(list[dict[str, Any]], report["residents"])
            held = {str(resident["model"]): int(resident["bytes"]) for resident in residents}
            short = [model for model, size in held.items() if size < WEIGHS[model]]
            busy = [resident["model"] for resident in residents if resident["state"] != "ready" or resident["running"]]
            if sum(WEIGHS[model] for model in held) != gpu["used_bytes"] or gpu["foreign_bytes"] or short or busy:
                wrong.append(f"{worker}: {held}, uses {gpu['used_bytes']}, foreign {gpu['foreign_bytes']}, busy {busy}")
        return "; ".join(wrong)

    async def no_orphan_keys(self) -> str:
        """Every key of the namespace belongs to a job, a live worker or the system as such.

        On a thread and a loop of its own: with every record looked at, it takes seconds, and on the harness's loop what
        goes through its proxies would be late by these.
        """
        live = frozenset(worker.name for worker in self.fleet.workers)
        return await asyncio.to_thread(asyncio.run, orphan_keys(self.fleet.servers.redis.url, live))

    async def no_leaked_processes(self) -> str:
        """Of this run there are the fleet's processes and one executor for each worker."""
        running = processes()
        parents = {pid: parent for pid, (parent, _) in running.items()}
        expected = {member.child.pid for member in self.fleet.members if member.child is not None}
        executors = {member.child.pid: 0 for member in self.fleet.workers if member.child is not None}
        rabbit, store = self.fleet.servers.rabbit, self.fleet.servers.redis
        servers = {pid for pid in (rabbit.pid, rabbit.epmd_pid, store.pid) if pid is not None}
        left = []
        for pid, command in marked(self.fleet.mark).items():
            if "worker.executor_child" in command and parents.get(pid) in executors:
                executors[parents[pid]] += 1
            elif pid not in expected and not _ancestry(pid, parents) & servers:
                left.append(f"{pid} {command}")
        return "; ".join([*left, *(f"{n} executors of process {pid}" for pid, n in executors.items() if n != 1)])

    async def _control(self, *command: str) -> list[dict[str, Any]]:
        """What the broker's own tool says."""
        rabbit = self.fleet.servers.rabbit
        process = await asyncio.create_subprocess_exec(
            str(Path(rabbit._programs.rabbitmq_server).with_name("rabbitmqctl")),
            *("--quiet", "--formatter", "json"),
            *command,
            env=rabbit._environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(CONTROL_WITHIN_S):
            out, errors = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"rabbitmqctl {command[0]} failed: {errors.decode()[-300:]}")
        return list(json.loads(out or b"[]"))


def _ancestry(pid: int, parents: Mapping[int, int]) -> set[int]:
    """The process, its parent, and so on."""
    found = set()
    while pid in parents and pid not in found:
        found.add(pid)
        pid = parents[pid]
    return found

"""Injecting and healing: what each kind of fault does to the fleet."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.fleet import Fleet, Member
from tests.chaos.script import FaultStep, Kind
from tests.chaos.wire import Wire

EXECUTOR_WITHIN_S = 15.0
"""A worker that has no executor by then has lost several in a row."""

LOST_ANSWERS = 5


@dataclass(slots=True)
class Injected:
    """A fault as it was carried out; instants are epoch seconds. ``healed_at`` ``None``: under way."""

    number: int
    kind: Kind
    target: str
    at: float
    healed_at: float | None = None


@dataclass(slots=True)
class Faults:
    """Injects faults, each on a target that is whole, and heals them in the background. ``injected`` has all of them.

    ``send`` is what a fault of a job is sent with: it returns once that job is over.
    """

    fleet: Fleet
    send: Callable[[FaultStep], Awaitable[None]]
    injected: list[Injected] = field(default_factory=list)
    _healing: set[asyncio.Task[None]] = field(default_factory=set)

    async def inject(self, step: FaultStep) -> Injected:
        """Return as soon as the fault is there. Waits before that until an earlier one of the same target is healed."""
        begun: asyncio.Future[Injected] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._carry_out(step, begun), name=f"{step.kind} {step.number}")
        self._healing.add(task)
        waiting: set[asyncio.Future[Any]] = {task, begun}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            task.result()
        return await begun

    async def healed(self) -> None:
        """Return once every fault is healed; raises what went wrong in the harness itself."""
        await asyncio.gather(*self._healing)

    async def _carry_out(self, step: FaultStep, begun: asyncio.Future[Injected]) -> None:
        async with self._fault(step) as target:
            injected = Injected(step.number, step.kind, target, time.time())
            self.injected.append(injected)
            begun.set_result(injected)
            await asyncio.sleep(step.lasts_s)
        injected.healed_at = time.time()

    def _fault(self, step: FaultStep) -> AbstractAsyncContextManager[str]:
        """A context that injects on entry and heals on exit; it yields the name of what it does it to."""
        fleet, kind = self.fleet, step.kind
        worker = fleet.workers[step.target % len(fleet.workers)]
        match kind:
            case Kind.WORKER_KILLED:
                return self._killed(worker)
            case Kind.DISPATCHER_KILLED:
                return self._killed(fleet.dispatchers[step.target % len(fleet.dispatchers)])
            case Kind.WORKER_FROZEN:
                return _frozen(worker)
            case Kind.EXECUTOR_KILLED:
                return _executor_killed(worker)
            case Kind.JOB_OUT_OF_MEMORY | Kind.JOB_CRASH | Kind.JOB_HANG:
                return self._sent(step)
            case Kind.BROKER_RESTARTED | Kind.BROKER_KILLED | Kind.STORE_RESTARTED | Kind.STORE_KILLED:
                return self._server(kind)
            case _:
                return _wire(fleet.members[step.target % len(fleet.members)], step)

    @asynccontextmanager
    async def _killed(self, member: Member) -> AsyncIterator[str]:
        async with member.whole:
            assert member.child is not None
            member.child.kill()
            yield member.name
            self.fleet.start(member)

    @asynccontextmanager
    async def _sent(self, step: FaultStep) -> AsyncIterator[str]:
        sending = asyncio.ensure_future(self.send(step))
        assert step.job is not None
        yield step.job.model
        await sending

    @asynccontextmanager
    async def _server(self, kind: Kind) -> AsyncIterator[str]:
        broker = kind in {Kind.BROKER_RESTARTED, Kind.BROKER_KILLED}
        server = self.fleet.servers.rabbit if broker else self.fleet.servers.redis
        async with self.fleet.broker_whole if broker else self.fleet.store_whole:
            killed = kind in {Kind.BROKER_KILLED, Kind.STORE_KILLED}
            if killed:
                await asyncio.to_thread(server.kill)
            else:
                # The clients notice at once; that its end takes a while is part of the fault.
                stopping = asyncio.ensure_future(asyncio.to_thread(server.stop))
            yield "broker" if broker else "store"
            if not killed:
                await stopping
            await asyncio.to_thread(server.start)


@asynccontextmanager
async def _frozen(worker: Member) -> AsyncIterator[str]:
    """Stopped in the middle of whatever it does, as a virtual machine that is moved: its lease may run out."""
    async with worker.whole:
        assert worker.child is not None
        worker.child.signal(signal.SIGSTOP)
        yield worker.name
        worker.child.signal(signal.SIGCONT)


@asynccontextmanager
async def _executor_killed(worker: Member) -> AsyncIterator[str]:
    async with worker.whole:
        assert worker.child is not None
        # It may end by itself just then, or there may be none: the worker waits before it starts the next one.
        with suppress(ProcessLookupError, TimeoutError):
            os.killpg(await _executor_of(worker.child.pid), signal.SIGKILL)
        yield worker.name


async def _executor_of(worker_pid: int) -> int:
    """The process id of its executor, once it has one. Raises ``TimeoutError``."""
    async with asyncio.timeout(EXECUTOR_WITHIN_S):
        while True:
            for pid, (parent, command) in processes().items():
                if parent == worker_pid and "worker.executor_child" in command:
                    return pid
            await asyncio.sleep(0.05)  # While it starts one anew: no event tells.


@asynccontextmanager
async def _wire(member: Member, step: FaultStep) -> AsyncIterator[str]:
    side = "store" if step.store_side else "broker"
    wire = member.wires[side]
    async with wire.whole, _worse(wire, step):
        yield f"{member.name} to {side}"


@asynccontextmanager
async def _worse(wire: Wire, step: FaultStep) -> AsyncIterator[None]:
    match step.kind:
        case Kind.WIRE_CUT:
            await wire.shut()
            yield
            await wire.open()
        case Kind.WIRE_SLOW:
            wire.delay_s = step.delay_s
            yield
            wire.delay_s = 0.0
        case Kind.WIRE_SILENT:
            wire.swallow = True
            yield
            # What was swallowed is gone: no connection can go on without it.
            wire.swallow = False
            await wire.drop()
        case Kind.WIRE_DROPPED:
            await wire.drop()
            yield
        case _:
            wire.deafen = LOST_ANSWERS
            yield


def processes() -> Mapping[int, tuple[int, str]]:
    """Parent and command line of every process that is no zombie, by process id."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            command = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if state not in "ZX":
                found[int(stat.parent.name)] = (int(parent), command)
    return found

"""The worker's end of an executor: a child process that holds one GPU's models and runs them.

A CUDA fault, a leak or a job that must be stopped costs the child, never the worker; the worker's loop never waits for
torch.
``load`` and ``unload`` go to one thread of the child and ``run`` to another: a GPU serves while its next model loads.
"""

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar, cast

from affinity.errors import AffinityError, ExecutorDied, InvariantBroken, OutOfVram
from models.entry import ModelEntry
from worker.executor_messages import (
    HELLO_ID,
    Failed,
    Load,
    LoadDone,
    Reply,
    Request,
    Run,
    RunDone,
    Unload,
    UnloadDone,
    entry_fields,
    error_of,
    read_reply,
)
from worker.frames import BrokenStream, FrameSplitter, pack
from worker.host_cache import Cached, Tier

START_TIMEOUT_S = 120.0
"""Longest wait for a child's first word: a cold torch import plus CUDA's start on a busy host take tens of seconds."""

_STDERR = 2  # where the child's output goes, whatever sys.stderr has been replaced by

Done = TypeVar("Done", LoadDone, UnloadDone, RunDone)

_LAST_WORDS_S = 1.0  # longest wait, once one of process and socket has ended, for the other to end by itself


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model has become resident.

    ``reserved_bytes``: the most it took while loading. ``total_bytes``: all the executor holds now. ``tier``: where its
    weights came from.
    """

    reserved_bytes: int
    total_bytes: int
    load_s: float
    tier: Tier


@dataclass(frozen=True, slots=True)
class BatchReply:
    """A result or that job's own error per input, in order.

    ``reserved_bytes``: the most the model is known to have taken, loading and running. ``total_bytes``: all the
    executor holds now.
    """

    results: tuple[object | AffinityError, ...]
    exec_s: float
    reserved_bytes: int
    total_bytes: int

    @property
    def out_of_vram(self) -> bool:
        """True if a job found no memory, though it ran by itself."""
        return any(isinstance(result, OutOfVram) for result in self.results)


class Executor:
    """One child process at a time; after its death ``start`` makes another.

    ``env`` is the child's whole environment. ``torch_device`` is ``cpu`` or ``cuda:0``; with CUDA the child checks that
    it sees the GPU named in ``CUDA_VISIBLE_DEVICES``. ``limit_bytes`` bounds what models may hold on a simulated GPU.
    ``host_cache_bytes`` bounds the weights of unloaded models that it keeps in the host's memory. ``label`` names it in
    messages and the process list. Every call raises ``ExecutorDied`` when the child ends first.
    """

    def __init__(
        self,
        *,
        env: Mapping[str, str],
        torch_device: str,
        limit_bytes: int | None,
        label: str,
        host_cache_bytes: int = 0,
    ) -> None:
        self._env = dict(env)
        self._torch_device = torch_device
        self._limit_bytes = limit_bytes
        self._host_cache_bytes = host_cache_bytes
        self._label = label
        self._cached = Cached()
        self._ids = itertools.count(HELLO_ID + 1)
        self._process: asyncio.subprocess.Process | None = None
        self._link: _Link | None = None
        self._watch: asyncio.Task[None] | None = None
        self._end_is_wanted = False
        self._callbacks: list[Callable[[ExecutorDied], None]] = []

    @property
    def pid(self) -> int | None:
        """The child's process id; ``None`` while there is none."""
        return self._process.pid if self._process else None

    @property
    def cached(self) -> Cached:
        """What the child keeps in the host's memory, as of its last reply; nothing without a child."""
        return self._cached

    def on_death(self, callback: Callable[[ExecutorDied], None]) -> None:
        """Call it whenever a child that was ready has ended, unless ``stop`` or ``kill`` asked for it."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Start the child and wait until it has its device. Raises ``ExecutorDied`` if it cannot."""
        if self._process:
            raise InvariantBroken(f"executor {self._label} runs already")
        self._end_is_wanted = True  # until it is ready, its end is this call's to report
        link = _Link()
        hello = link.expect(HELLO_ID)
        process = await self._spawn(link)
        self._process, self._link = process, link
        self._watch = asyncio.create_task(self._watch_child(process, link), name=f"watch-{self._label}")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await hello
        except TimeoutError as error:
            await self.kill()
            raise ExecutorDied(f"executor {self._label} was not ready within {START_TIMEOUT_S:.0f} s") from error
        except AffinityError as error:
            await self.kill()
            raise ExecutorDied(f"executor {self._label} cannot start: {error}") from error
        except BaseException:
            await self.kill()
            raise
        self._end_is_wanted = False

    async def load(self, entry: ModelEntry) -> Loaded:
        """Make a model resident. Raises ``LoadFailed``, ``OutOfVram``; a failed load leaves nothing behind."""
        done = await self._ask(Load(next(self._ids), entry_fields(entry)), LoadDone)
        self._cached = done.cached
        return Loaded(done.reserved_bytes, done.total_bytes, done.load_s, done.tier)

    async def unload(self, model: str, room_for: str = "") -> int:
        """Free a model; one that is not resident is fine. Gives the bytes the executor still holds.

        ``room_for`` is the model that is to be loaded next, if any: its weights stay in the host's memory.
        """
        done = await self._ask(Unload(next(self._ids), model, room_for), UnloadDone)
        self._cached = done.cached
        return done.total_bytes

    async def run(self, model: str, inputs: Sequence[object]) -> BatchReply:
        """Run one batch of JSON values on a resident model. Cancelling the call does not stop the child: ``kill`` does.

        Raises ``PayloadTooLarge`` for a batch over the frame limit; errors of single jobs are among the results.
        """
        done = await self._ask(Run(next(self._ids), list(inputs), model), RunDone)
        results = tuple(
            error_of(done.errors[position]) if position in done.errors else value
            for position, value in enumerate(done.values)
        )
        return BatchReply(results, done.exec_s, done.reserved_bytes, done.total_bytes)

    async def stop(self, grace_s: float) -> None:
        """Let what is asked already end, for at most ``grace_s`` seconds, then end the child."""
        self._end_is_wanted = True
        if self._link:
            if pending := self._link.pending():
                await asyncio.wait(pending, timeout=grace_s)
            self._link.hang_up()  # the child ends by itself; _watch_child kills it if it does not
        await self._gone()

    async def kill(self) -> None:
        """End the child at once; when this returns, the process is gone."""
        self._end_is_wanted = True
        if self._process:
            _kill_group(self._process.pid)
        await self._gone()

    async def _spawn(self, link: "_Link") -> asyncio.subprocess.Process:
        ours, theirs = socket.socketpair()
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
            return await asyncio.create_subprocess_exec(
                *self._command(theirs.fileno()),
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is the worker's to handle
            )
        except BaseException:
            link.hang_up()
            raise
        finally:
            theirs.close()  # or we would never see the child's end of the socket close

    def _command(self, socket_fd: int) -> list[str]:
        gpu = self._env.get("CUDA_VISIBLE_DEVICES", "") if self._torch_device != "cpu" else ""
        return [
            *(sys.executable, "-m", "worker.executor_child"),
            *("--label", self._label),
            *("--socket", str(socket_fd)),
            *("--parent", str(os.getpid())),
            *("--device", self._torch_device),
            *(("--gpu", gpu) if gpu else ()),
            *(("--limit-bytes", str(self._limit_bytes)) if self._limit_bytes is not None else ()),
            *("--host-cache-bytes", str(self._host_cache_bytes)),
        ]

    async def _ask(self, request: Request, expected: type[Done]) -> Done:
        link = self._link
        if link is None or self._process is None:
            raise ExecutorDied(f"executor {self._label} is not running")
        frame = pack(request)
        answer = link.expect(request.id)
        link.send(frame)
        try:
            reply = await answer
        finally:
            link.forget(request.id)
        if not isinstance(reply, expected):
            raise InvariantBroken(f"the executor answered {type(request).__name__} with {type(reply).__name__}")
        return reply

    async def _gone(self) -> None:
        if self._watch:
            # A caller that is cancelled here must not take the watch with it: it fails the pending calls.
            await asyncio.shield(self._watch)

    async def _watch_child(self, process: asyncio.subprocess.Process, link: "_Link") -> None:
        """Wait for the child's end, make it complete, and tell everybody who waits for it."""
        ended = asyncio.ensure_future(process.wait())
        await asyncio.wait((ended, link.closed), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((ended,), timeout=_LAST_WORDS_S)
        # A child without its socket is of no use; and whatever a model has started goes with it.
        _kill_group(process.pid)
        status = await ended
        # Replies it sent before it ended are still in the socket.
        await asyncio.wait((link.closed,), timeout=_LAST_WORDS_S)
        link.hang_up()
        self._process, self._cached = None, Cached()
        death = ExecutorDied(f"executor {self._label} {link.fault or _how(status)}")
        link.fail_all(death)
        if not self._end_is_wanted:
            for callback in self._callbacks:
                callback(death)


class _Link(asyncio.Protocol):
    """Our end of the socket: sends frames and gives each reply to the future that waits for its id."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._splitter = FrameSplitter()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self.closed: asyncio.Future[None] = asyncio.Future()
        self.fault: str | None = None

    def expect(self, request_id: int) -> asyncio.Future[Reply]:
        self._waiting[request_id] = asyncio.get_running_loop().create_future()
        return self._waiting[request_id]

    def forget(self, request_id: int) -> None:
        self._waiting.pop(request_id, None)

    def pending(self) -> Sequence[asyncio.Future[Reply]]:
        return list(self._waiting.values())

    def send(self, frame: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(frame)

    def hang_up(self) -> None:
        if self._transport:
            self._transport.abort()

    def fail_all(self, error: ExecutorDied) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ExecutorDied(error.message))
        self._waiting.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, piece: bytes) -> None:
        try:
            for body in self._splitter.feed(piece):
                self._deliver(read_reply(body))
        except BrokenStream as error:
            self.fault = f"was stopped: {error}"
            self.hang_up()

    def _deliver(self, reply: Reply) -> None:
        answer = self._waiting.pop(reply.id, None)
        if answer is None or answer.done():  # the caller has given up
            return
        if isinstance(reply, Failed):
            answer.set_exception(error_of(reply.error))
        else:
            answer.set_result(reply)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}; its last lines on stderr may say why"
    name = signal.Signals(-status).name
    return f"was killed by {name}" + (" (by us, or by the host for want of memory)" if name == "SIGKILL" else "")

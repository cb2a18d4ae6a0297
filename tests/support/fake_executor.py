"""An executor without a process, which does what a test says and when.

``tests/integration/worker/test_fake_executor.py`` shows that it does what the real one does.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from affinity.errors import (
    AffinityError,
    ExecutorDied,
    InvariantBroken,
    JobFailed,
    LoadFailed,
    OutOfVram,
)
from models.entry import ModelEntry, SyntheticOptions
from models.runtimes import synthetic
from models.runtimes.base import GuardedModel
from worker.executor import BatchReply, Executor, Loaded
from worker.host_cache import Cached, HostCache, Tier


class Pause:
    """A place where a call waits: ``reached`` tells that it is there, ``go`` lets it pass."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def go(self) -> None:
        """Let the call pass."""
        self._open.set()

    async def hold(self) -> None:
        """Wait here."""
        self.reached.set()
        await self._open.wait()


class FakeExecutor(Executor):
    """An executor without a process; its models are of the ``synthetic`` runtime: ``fail`` in an input works as there.

    ``asked`` has every call that reached it, as in ``"load m"``. ``pause`` makes calls wait, ``load_faults`` makes
    loads fail, ``grown`` is memory that running a model adds for good and ``passing`` what it needs while it runs.
    ``die`` ends it without anybody having asked for it.
    """

    def __init__(self, limit_bytes: int | None = None, host_cache_bytes: int = 0) -> None:
        super().__init__(
            env={}, torch_device="cpu", limit_bytes=limit_bytes, label="fake", host_cache_bytes=host_cache_bytes
        )
        self._host = HostCache(host_cache_bytes)
        self._tiers: dict[str, Tier] = {}
        self.asked: list[str] = []
        self.load_faults: dict[str, Exception] = {}
        self.grown: dict[str, int] = {}
        self.passing: dict[str, int] = {}
        self.exec_s = 0.25
        self._limit = limit_bytes
        self._models: dict[str, ModelEntry] = {}
        self._pauses: dict[str, Pause] = {}
        self._pending: set[asyncio.Future[None]] = set()
        self._end: asyncio.Future[str] | None = None
        self._lives = 0

    @property
    def pid(self) -> int | None:
        """See the real one."""
        return 1000 + self._lives if self._end else None

    @property
    def total_bytes(self) -> int:
        """What all its models hold."""
        return sum(self._size(entry) for entry in self._models.values())

    def pause(self, call: str) -> Pause:
        """Calls such as ``"run m"`` wait from now on."""
        self._pauses[call] = Pause()
        return self._pauses[call]

    def die(self, reason: str = "was killed by SIGSEGV") -> None:
        """It ends by itself."""
        death = self._finish(reason)
        for callback in self._callbacks:
            callback(death)

    async def start(self) -> None:
        """See the real one."""
        if self._end:
            raise InvariantBroken("executor fake runs already")
        self._lives += 1
        self._end = asyncio.get_running_loop().create_future()

    async def load(self, entry: ModelEntry) -> Loaded:
        """See the real one."""
        await self._reach(f"load {entry.name}")
        options = entry.options_as(SyntheticOptions)
        if fault := self.load_faults.get(entry.name):
            raise fault
        if options.load_fail == "error":
            raise LoadFailed(f"{entry.name}: fails because it was asked to")
        missing = self.total_bytes + self._size(entry) - (self._limit or 0)
        if options.load_fail == "oom" or (self._limit is not None and missing > 0 and entry.name not in self._models):
            raise OutOfVram(f"{entry.name}: takes {self._size(entry)} bytes more than there are")
        if entry.name not in self._models:
            self._tiers[entry.name] = Tier.HOST if self._host.parked(entry.name) else Tier.DISK
            if self._tiers[entry.name] is Tier.HOST:
                self._host.returned(entry.name)
        self._models[entry.name] = entry
        self._cached = self._host.cached
        return Loaded(self._size(entry), self.total_bytes, options.load_s, self._tiers[entry.name])

    async def unload(self, model: str, room_for: str = "") -> int:
        """See the real one."""
        await self._reach(f"unload {model}")
        if entry := self._models.pop(model, None):
            core = synthetic.load(entry, "cpu", lambda _: None)
            self._host.park(model, GuardedModel(entry, core, lambda: None), lambda: None, room_for)
        self._cached = self._host.cached
        return self.total_bytes

    async def run(self, model: str, inputs: Sequence[object]) -> BatchReply:
        """See the real one."""
        await self._reach(f"run {model}")
        entry = self._models.get(model)
        if entry is None:
            raise InvariantBroken(f"{model} is not resident")
        failures = [value.get("fail") if isinstance(value, Mapping) else None for value in inputs]
        if "crash" in failures:
            self.die("ended with exit status 70")
            raise ExecutorDied("executor fake ended with exit status 70")
        if "hang" in failures:
            await self._reach(f"run {model}", Pause())
        results = tuple(_result(entry, value) for value in inputs)
        if self._limit is not None and self.total_bytes + self.passing.get(model, 0) > self._limit:
            results = tuple(OutOfVram(f"{model}: the GPU ran out of memory") for _ in inputs)
        return BatchReply(results, self.exec_s, self._size(entry) + self.grown.get(model, 0), self.total_bytes)

    async def stop(self, grace_s: float) -> None:
        """See the real one."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=grace_s)
            await asyncio.sleep(0)  # Those that waited get their answer before the end.
        self._finish("was stopped")

    async def kill(self) -> None:
        """See the real one."""
        self._finish("was killed by SIGKILL")
        await asyncio.sleep(0)

    def _finish(self, reason: str) -> ExecutorDied:
        if self._end:
            self._end.set_result(reason)
        self._end = None
        self._models.clear()
        self._host, self._cached = HostCache(self._host_cache_bytes), Cached()
        return ExecutorDied(f"executor fake {reason}")

    async def _reach(self, call: str, hung: Pause | None = None) -> None:
        """Go as far as the test lets it. Raises ``ExecutorDied`` where the executor ends first."""
        end = self._end
        if end is None:
            raise ExecutorDied("executor fake is not running")
        if hung is None:
            self.asked.append(call)
        paused = hung or self._pauses.get(call)
        waiting = asyncio.ensure_future(paused.hold() if paused else asyncio.sleep(0))
        self._pending.add(waiting)
        try:
            either: set[asyncio.Future[Any]] = {waiting, end}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pending.discard(waiting)
            waiting.cancel()
        if end.done():
            raise ExecutorDied(f"executor fake {end.result()}")

    @staticmethod
    def _size(entry: ModelEntry) -> int:
        return entry.vram_bytes or 0


def _result(entry: ModelEntry, value: object) -> object | AffinityError:
    if entry.options_as(SyntheticOptions).echo:
        return value
    match value.get("fail") if isinstance(value, Mapping) else None:
        case "error":
            return JobFailed(f"{entry.name}: fails because it was asked to")
        case "oom":
            return OutOfVram(f"{entry.name}: runs out of memory because it was asked to")
    return {"model": entry.name, "exec_s": 0.0}

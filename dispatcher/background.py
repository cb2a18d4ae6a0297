"""What goes on while requests are served. A step that fails because a server is away is tried again; a bug is not."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import structlog

from affinity.errors import Overloaded

log = structlog.get_logger(__name__)


class Background:
    """Tasks that live as long as the process. ``on_crash`` is called when one ends that should not."""

    def __init__(self, on_crash: Callable[[], None]) -> None:
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    def start(self, work: Coroutine[object, object, None], name: str) -> None:
        """Run a coroutine that never ends."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def every(self, period_s: float, step: Callable[[], Awaitable[object]], name: str) -> None:
        """Run a step now and again and again, ``period_s`` apart."""
        self.start(self._repeat(period_s, step, name), name)

    async def stop(self) -> None:
        """End all tasks and wait for them."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, period_s: float, step: Callable[[], Awaitable[object]], name: str) -> None:
        while True:
            try:
                await step()
            except Overloaded as error:
                log.warning("background.skipped", task=name, code=error.code)
            try:
                async with asyncio.timeout(period_s):
                    await self._stopping.wait()
                    return
            except TimeoutError:
                continue

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._stopping.is_set():
            return
        error = None if task.cancelled() else task.exception()
        log.critical("background.crashed", task=task.get_name(), exc_info=error)
        self._on_crash()

"""Background tasks of one worker: kept alive until they end, and heard when they fail."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Tasks:
    """Strong references to running tasks; a task that raises is passed to ``failed``, never lost."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._failed = failed

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._over)
        return task

    def group(self) -> "Tasks":
        """Further tasks, waited for and cancelled by themselves; their failures are heard in the same place."""
        return Tasks(self._failed)

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait until all that run now are over; false if they were not in time."""
        if not self._running:
            return True
        _, late = await asyncio.wait(self._running, timeout=timeout_s)
        return not late

    async def cancel(self) -> None:
        """Cancel all that run and wait for them."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failed(error)

"""Many jobs from JSON lines: read, sent side by side, tried again while the dispatcher says later, and counted.

An id that a line does not have follows from its content, so that the same lines handed in again are the same jobs: a
run that was cut off, or whose answers were lost, is simply run again.
"""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from affinity.job import JobState
from dispatcher.client import MAX_WAIT_S, Client, Json, Refused, Unreachable

Item = TypeVar("Item")

HOPELESS = frozenset({"unauthorized", "forbidden"})
"""What refuses one line refuses all."""

AWAY_S = 1.0
"""Between two tries where nobody answers."""


@dataclass(frozen=True, slots=True)
class Line:
    """One job and where it was; or, without a ``job``, why it is none."""

    number: int
    job: Json | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Left:
    """A line that did not become a job. ``unsent``: nobody answered, so that it may yet; the others were refused."""

    line: int
    code: str
    detail: str
    unsent: bool = False


@dataclass(slots=True)
class Tally:
    """What became of the lines: ids of accepted jobs, what was left out, and the states of those waited for."""

    accepted: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)


def parsed(lines: Iterable[str], model: str | None, run: str) -> Iterator[Line]:
    """A job for each line that is not blank; ``model`` is that of lines without one.

    ``run`` goes into the ids that are made here. Equal lines are told apart by which of them it is.
    """
    seen: Counter[str] = Counter()
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            job = json.loads(text)
        except ValueError as error:
            yield Line(number, None, f"is not JSON: {error}")
            continue
        if not isinstance(job, dict):
            yield Line(number, None, 'must be an object, as {"model": "echo", "input": 1}')
            continue
        if model is not None:
            job = {"model": model, **job}
        if job.get("id") is None:
            content = json.dumps(job, sort_keys=True)
            seen[content] += 1
            digest = hashlib.sha256(f"{run}\n{seen[content]}\n{content}".encode()).hexdigest()
            job["id"] = f"line-{digest[:32]}"
        yield Line(number, job)


class Sender:
    """Sends lines, ``parallel`` at a time. A line is tried again for ``patience_s`` where that may help.

    ``pause`` stands in for the time between two tries.
    """

    def __init__(
        self, client: Client, parallel: int, patience_s: float, pause: Callable[[float], object] | None = None
    ) -> None:
        self.tally = Tally()
        self._client = client
        self._parallel = parallel
        self._patience_s = patience_s
        self._interrupted = threading.Event()
        self._pause = pause or self._interrupted.wait
        self._lock = threading.Lock()
        self._stop: Refused | None = None

    def send(self, lines: Iterable[Line], done: Callable[[], None]) -> None:
        """Hand them all in; ``done`` after each. Raises ``Refused`` where no line can be taken."""
        self._each(lines, self._send, done)
        if self._stop:
            raise self._stop

    def wait(self, timeout_s: float, ended: Callable[[Json], None], done: Callable[[], None]) -> None:
        """Wait until the accepted ones are over, or so long; ``ended`` gets each as it is then, one at a time."""
        deadline = time.monotonic() + timeout_s

        def one(job_id: str) -> None:
            job = self._over(job_id, deadline)
            with self._lock:
                self.tally.states[job["state"]] += 1
                ended(job)

        self._each(self.tally.accepted, one, done)

    def _each(self, items: Iterable[Item], work: Callable[[Item], None], done: Callable[[], None]) -> None:
        """Not all are taken at once: what comes by a pipe may be more than memory holds."""
        room = threading.Semaphore(2 * self._parallel)

        def after(_: Future[None]) -> None:
            room.release()
            done()

        with ThreadPoolExecutor(self._parallel, "submit") as pool:
            running: set[Future[None]] = set()
            try:
                for item in items:
                    room.acquire()
                    if self._stop:
                        break
                    future = pool.submit(work, item)
                    future.add_done_callback(after)
                    running.add(future)
                    for ended in [each for each in running if each.done()]:
                        ended.result()
                        running.discard(ended)
                for future in running:
                    future.result()
            except BaseException:
                self._interrupted.set()  # Nobody goes on waiting for a better moment.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _send(self, line: Line) -> None:
        if line.job is None:
            self._leave(Left(line.number, "malformed_json", line.reason))
            return
        until = time.monotonic() + self._patience_s
        while True:
            try:
                job = self._client.submit(line.job)
            except Refused as error:
                if error.code in HOPELESS:
                    self._stop = error
                wait_s, left = error.retry_after_s, Left(line.number, error.code, str(error))
            except Unreachable as error:
                wait_s, left = AWAY_S, Left(line.number, "no_answer", str(error), unsent=True)
            else:
                with self._lock:
                    self.tally.accepted.append(str(job["id"]))
                return
            if wait_s is None or time.monotonic() + wait_s > until or self._interrupted.is_set():
                self._leave(left)
                return
            self._pause(wait_s)

    def _leave(self, left: Left) -> None:
        with self._lock:
            self.tally.left.append(left)

    def _over(self, job_id: str, deadline: float) -> Json:
        job: Json = {}
        while not job or not JobState(job["state"]).terminal:
            left_s = deadline - time.monotonic()
            if job and left_s <= 0:
                break
            job = self._client.get(job_id, max(0, min(MAX_WAIT_S, round(left_s))))
        return job

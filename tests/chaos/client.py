"""The client: sends each job until it is accepted, under the same id, to whichever dispatcher answers."""

import asyncio
import random
import time
from collections.abc import Sequence

import httpx

from tests.chaos.ledger import Entry, Ledger
from tests.chaos.script import JobStep

PATIENCE_S = 5
"""What a patient job asks for with ``Prefer: wait``."""

ANSWER_WITHIN_S = 20.0
PAUSE_FIRST_S = 0.1
PAUSE_MOST_S = 2.0
TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
AT_ONCE = 64


class Client:
    """Sends jobs to the dispatchers at ``urls``. ``give_up_at`` (monotonic), once set, ends all trying."""

    def __init__(self, urls: Sequence[str], ledger: Ledger, seed: int) -> None:
        self._urls = urls
        self._ledger = ledger
        self._chance = random.Random(f"client {seed}")
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(ANSWER_WITHIN_S, connect=2.0), limits=httpx.Limits(max_connections=AT_ONCE)
        )
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._sending: set[asyncio.Task[None]] = set()
        self.give_up_at: float | None = None

    async def begin(self, job: JobStep) -> None:
        """Start to send a job, once there is a slot."""
        await self._slots.acquire()
        task = asyncio.create_task(self._send_and_leave(job))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def send(self, job: JobStep) -> Entry:
        """Send a job until it is accepted or refused for good."""
        entry = self._ledger.open(job, time.time())
        headers = {"Prefer": f"wait={PATIENCE_S}"} if job.patient else {}
        pause_s, place = PAUSE_FIRST_S, self._chance.randrange(len(self._urls))
        while not self._over:
            if await self._sent(entry, f"{self._urls[place % len(self._urls)]}/jobs", headers):
                break
            await asyncio.sleep(pause_s * self._chance.uniform(0.5, 1.0))
            pause_s, place = min(2 * pause_s, PAUSE_MOST_S), place + 1
        return entry

    async def all_sent(self) -> None:
        """Return once every job is accepted or given up."""
        while self._sending:
            await asyncio.gather(*self._sending)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    @property
    def _over(self) -> bool:
        return self.give_up_at is not None and time.monotonic() > self.give_up_at

    async def _send_and_leave(self, job: JobStep) -> None:
        try:
            await self.send(job)
        finally:
            self._slots.release()

    async def _sent(self, entry: Entry, url: str, headers: dict[str, str]) -> bool:
        """One try; whether it was the last."""
        try:
            answer = await self._http.post(url, json=dict(entry.job.body), headers=headers)
        except httpx.HTTPError as error:
            entry.answers[type(error).__name__] += 1
            return False
        entry.answers[str(answer.status_code)] += 1
        if answer.status_code in {200, 202}:
            entry.accepted_at = time.time()
            entry.saw(answer.json(), time.time())
            return True
        if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            entry.broken = answer.text[:200]
        if answer.status_code not in TRY_AGAIN:
            entry.refused = f"{answer.status_code}: {answer.text[:200]}"
            return True
        return False

"""Dead letters: what lies in the broker's dead-letter queue is listed in the store; what is to be tried again is put
back, one after the other.

Any number of dispatchers do this side by side. A letter is acked once it is listed; a job that is put back is in the
outbox from that instant on, so that any dispatcher's sweep publishes it if this one dies.
"""

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from affinity.errors import IdConflict, UndecodableMessage, Undeliverable
from affinity.io.letters import Burial, LetterFilter, LooseLetter
from affinity.io.ports import Buried, Clock, JobStore, Publisher
from affinity.io.rabbit_publisher import CODE_HEADER, LIFE_HEADER
from affinity.job import JobError, JobSpec
from affinity.topology import Topology
from affinity.wire import decode_message
from dispatcher.background import Background

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
LISTED_AT_ONCE = 100
DUE_AT_ONCE = 500
PUT_BACK_SIDE_BY_SIDE = 16

MAX_IDS = 1000
MAX_SELECTED = 100_000
"""Letters that one request may select by code or model. Asked again, it goes on."""

MIN_RATE, MAX_RATE, DEFAULT_RATE = 0.1, 1000.0, 100.0
"""Jobs per second that are put back."""

KEPT_BYTES = 1024**2
"""Largest body of a message that is no job which is kept to be put back."""

_CODE = re.compile(r"[a-z][a-z_]{0,63}\Z")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._:/\-]")


@dataclass(frozen=True, slots=True)
class Redriven:
    """Answer to a redrive. ``unknown`` are ids that are no dead letters. ``ends_at``: the last one's turn."""

    scheduled: int
    unknown: tuple[str, ...]
    ends_at: float | None


class DeadLetterDesk:
    """Lists and puts back. ``start`` has it go on by itself."""

    def __init__(self, store: JobStore, publisher: Publisher, topology: Topology, clock: Clock) -> None:
        self._store = store
        self._letters = store.letters
        self._publisher = publisher
        self._topology = topology
        self._clock = clock
        self._in_hand: deque[Buried] = deque()

    def start(self, background: Background) -> None:
        """Do both again and again."""
        background.every(LOOK_EVERY_S, self.list_buried, "dead letters")
        background.every(LOOK_EVERY_S, self.put_back_due, "redrive")

    async def list_buried(self) -> int:
        """List all that lies in the dead-letter queue; says how many. What cannot be listed now stays in hand: handed
        back too often, the broker would drop it.
        """
        listed = 0
        while True:
            if not self._in_hand:
                self._in_hand.extend(await self._publisher.take_dead(LISTED_AT_ONCE))
            if not self._in_hand:
                return listed
            while self._in_hand:
                await self._list(self._in_hand[0])
                await self._in_hand.popleft().ack()
                listed += 1

    async def redrive(self, ids: Sequence[str] | None, which: LetterFilter, rate: float) -> Redriven:
        """Have letters put back, ``rate`` per second: these, or all of a kind, oldest first."""
        chosen = await self._select(which) if ids is None else list(dict.fromkeys(ids))
        scheduled: set[str] = set()
        ends_at = 0.0
        for first in range(0, len(chosen), MAX_IDS):
            taken, ends_at = await self._letters.redrive(chosen[first : first + MAX_IDS], 1.0 / rate)
            scheduled.update(taken)
        unknown = () if ids is None else tuple(one for one in chosen if one not in scheduled)
        return Redriven(len(scheduled), unknown, ends_at if scheduled else None)

    async def put_back_due(self) -> int:
        """Put back those whose turn has come; says how many."""
        slots = asyncio.Semaphore(PUT_BACK_SIDE_BY_SIDE)

        async def one(letter_id: str) -> None:
            async with slots:
                await (self._put_back_loose if letter_id.startswith("~") else self._put_back)(letter_id)

        done = 0
        while due := await self._letters.due(self._clock.now(), DUE_AT_ONCE):
            # All are tried before an error is raised: half a group would be cancelled in the middle of its calls.
            for ended in await asyncio.gather(*map(one, due), return_exceptions=True):
                if isinstance(ended, BaseException):
                    raise ended
            done += len(due)
        return done

    async def _put_back(self, job_id: str) -> None:
        job = await self._letters.revive(job_id, self._clock.now())
        if job is None:  # Another dispatcher was first, or it is over in another way by now.
            return
        await self._publisher.publish(job.spec, job.created_at)
        await self._store.published(job.id)
        log.info("job.redriven", job=job.id, model=job.spec.model, life=job.life)

    async def _put_back_loose(self, letter_id: str) -> None:
        letter = await self._letters.loose(letter_id)
        if letter is None or letter.body is None:
            await self._letters.drop_turn(letter_id)
            return
        # Before it is forgotten: it comes again as another letter, or runs, and either may happen twice.
        await self._publisher.publish_raw(letter.body, letter.routing_key, letter.message_id)
        await self._letters.forget(letter_id)
        log.info("letter.redriven", letter=letter_id, model=letter.model)

    async def _select(self, which: LetterFilter) -> list[str]:
        found: list[str] = []
        cursor = None
        while len(found) < MAX_SELECTED:
            page = await self._letters.page(which, 500, cursor)
            found += [letter.id for letter in page.letters]
            cursor = page.cursor
            if cursor is None:
                break
        return found[::-1]

    async def _list(self, buried: Buried) -> None:
        now = self._clock.now()
        error, model = _error_in(buried), self._model_in(buried)
        try:
            job = self._job_in(buried, error, model)
        except UndecodableMessage as undecodable:
            job = None
            if error.code == Undeliverable.code:
                error = JobError(undecodable.code, undecodable.message)
        if job is not None:
            spec, created_at = job
            life = _life_in(buried)
            became = await self._letters.bury(spec, now if created_at is None else created_at, life, error, now)
            log.info("letter.seen", job=spec.id, model=spec.model, code=error.code, became=became)
            if became is not Burial.STRANGER:
                return
        await self._letters.keep(_loose(buried, error, model), now)
        log.warning("letter.kept", code=error.code, model=model, reason=error.message)

    def _job_in(self, buried: Buried, error: JobError, model: str) -> tuple[JobSpec, float | None] | None:
        """The job in a letter and when it was created; ``None`` where it is known to be none of its own id."""
        if error.code in (UndecodableMessage.code, IdConflict.code):
            return None
        # A letter that a worker wrote has the delivery's own message id as its correlation id.
        return decode_message(buried.body, model, buried.correlation_id or buried.message_id)

    def _model_in(self, buried: Buried) -> str:
        name = _text(buried.headers, "affinity-model") or buried.routing_key
        return _NOT_IN_NAMES.sub("?", self._topology.model_of(name))[:128] or "?"


def _error_in(buried: Buried) -> JobError:
    """Why it is dead. The broker's own dead letters do not say much."""
    code = _text(buried.headers, CODE_HEADER)
    if code:
        known = code if _CODE.match(code) else UndecodableMessage.code
        return JobError(known, _text(buried.headers, "affinity-reason") or "no reason was given")
    reason = _text(buried.headers, "x-last-death-reason") or _text(buried.headers, "x-first-death-reason")
    return JobError(
        Undeliverable.code,
        f"the broker gave it up ({reason or 'nobody knows why'}): it was delivered again and again, and nobody could "
        "take it; see the workers' logs, then put it back",
    )


def _life_in(buried: Buried) -> int | None:
    """In which life of its job a worker wrote the letter; ``None`` for the broker's own."""
    text = _text(buried.headers, LIFE_HEADER)
    if not _text(buried.headers, CODE_HEADER):
        return None
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 0


def _loose(buried: Buried, error: JobError, model: str) -> LooseLetter:
    # From the message itself: where it comes again after it was listed, it is the same letter.
    name = hashlib.sha256((buried.message_id or "").encode(errors="replace") + b"\0" + buried.body).hexdigest()[:32]
    size = len(buried.body)
    return LooseLetter(
        id=f"~{name}",
        error=error,
        model=model,
        worker=_text(buried.headers, "affinity-worker") or None,
        body=buried.body if size <= KEPT_BYTES else None,
        size_bytes=size,
        routing_key=model,
        message_id=buried.correlation_id,
    )


def _text(headers: Mapping[str, object], name: str) -> str:
    value = headers.get(name)
    return value if isinstance(value, str) else ""

"""``LetterStore`` in Redis: the failed jobs' own records, loose letters as hashes, and their indexes.

The scripts that fail a job list it in the same step (``settle`` in ``record.lua``); here is what happens to it then.
"""

import base64
import re
import secrets
from collections.abc import Callable, Mapping, Sequence

from affinity.errors import InvalidInput
from affinity.io import job_record as record
from affinity.io.letters import Burial, Letter, LetterFilter, LetterPage, LooseLetter
from affinity.io.redis_client import RedisLink, Script
from affinity.job import MAX_LIVES, Job, JobError, JobSpec
from affinity.topology import Keys

LETTER_RETENTION_S = 7 * 86400.0
"""How long a dead letter stays, at least: somebody may be on holiday."""

EXCERPT_BYTES = 200

_PLACE = re.compile(r"\d{1,17}\Z")


class RedisLetterStore:
    """See ``letters.LetterStore``. ``shared`` are the keys of every job script, ``script`` makes one of them."""

    def __init__(self, link: RedisLink, keys: Keys, shared: Sequence[str], script: Callable[[str], Script]) -> None:
        self._link = link
        self._keys = keys
        self._shared = shared
        self._bury, self._keep, self._page = script("bury"), script("letter"), script("letters")
        self._redrive, self._revive, self._forget = script("redrive"), script("revive"), script("forget_letter")
        self._counts = script("dead_counts")

    async def bury(self, spec: JobSpec, created_at: float, life: int | None, error: JobError, now: float) -> Burial:
        """See the port."""
        retention_ms = str(int(LETTER_RETENTION_S * 1000))
        fields = record.new_fields(spec, record.sighted(created_at, now))
        args = ["" if life is None else str(life), retention_ms, *record.encode_error(error), *fields]
        return Burial(await self._bury(self._shared, self._args(now, *args)))

    async def keep(self, letter: LooseLetter, now: float) -> None:
        """See the port."""
        error, code = record.encode_error(letter.error)
        said = {
            "created_at": repr(float(now)),
            "worker": letter.worker or "",
            "error": error,
            "size_bytes": str(letter.size_bytes),
            "excerpt": excerpt_of(letter.body),
            "routing_key": letter.routing_key,
            "message_id": letter.message_id or "",
            "body": "" if letter.body is None else base64.b64encode(letter.body).decode(),
            "kept": "" if letter.body is None else "1",
        }
        args = [text for pair in said.items() for text in pair]
        await self._keep(self._shared, self._args(now, letter.id, code, letter.model, *args))

    async def page(self, which: LetterFilter, limit: int, cursor: str | None) -> LetterPage:
        """See the port. ``limit`` is 1 to 500."""
        filters = [which.code, which.model, str(record.check_limit(limit)), check_place(cursor)]
        rows = await self._page(self._shared, self._args(0.0, *filters))
        letters = tuple(_letter(place, entry, flat) for place, entry, flat in rows[:limit])
        return LetterPage(letters, rows[limit - 1][0] if len(rows) > limit else None)

    async def redrive(self, ids: Sequence[str], apart_s: float) -> tuple[Sequence[str], float]:
        """See the port."""
        last_ms, *taken = await self._redrive(self._shared, self._args(0.0, repr(apart_s * 1000), *ids))
        return taken, float(last_ms) / 1000

    async def due(self, now: float, limit: int) -> Sequence[str]:
        """See the port."""
        ids = await self._link.call(
            "ZRANGE", self._keys.redrives, "-inf", record.millis(now), "BYSCORE", "LIMIT", 0, limit
        )
        return [str(job_id) for job_id in ids]

    async def revive(self, job_id: str, now: float) -> Job | None:
        """See the port."""
        args = [job_id, str(record.millis(now)), repr(float(now)), str(MAX_LIVES), secrets.token_hex(8)]
        flat = await self._revive(self._shared, self._args(now, *args))
        return record.decode_job(flat) if flat else None

    async def loose(self, letter_id: str) -> LooseLetter | None:
        """See the port."""
        flat = await self._link.call("HGETALL", self._keys.letter(letter_id))
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        if not fields:
            return None
        return LooseLetter(
            id=letter_id,
            error=record.decode_error(fields["error"]),
            model=fields["model"],
            worker=fields["worker"] or None,
            body=base64.b64decode(fields["body"]) if fields["kept"] else None,
            size_bytes=int(fields["size_bytes"]),
            routing_key=fields["routing_key"],
            message_id=fields["message_id"] or None,
        )

    async def forget(self, letter_id: str) -> None:
        """See the port."""
        await self._forget(self._shared, self._args(0.0, letter_id))

    async def drop_turn(self, letter_id: str) -> None:
        """See the port."""
        await self._link.call("ZREM", self._keys.redrives, letter_id)

    async def counts(self) -> Mapping[str, int]:
        """See the port."""
        flat = await self._counts(self._shared, self._args(0.0))
        return dict(zip(flat[::2], map(int, flat[1::2]), strict=True))

    def _args(self, now: float, *rest: str) -> list[str]:
        return [self._keys.prefix, repr(float(now)), *rest]


def check_place(cursor: str | None) -> str:
    """The place in a cursor, or ``InvalidInput``."""
    if cursor is not None and not _PLACE.match(cursor):
        raise InvalidInput("is not a cursor of ours; take it from the page before, or leave it out", "cursor")
    return cursor or ""


def excerpt_of(body: bytes | None) -> str:
    """The beginning of a body, as ASCII."""
    return (body or b"")[:EXCERPT_BYTES].decode("ascii", "backslashreplace")


def _letter(place: str, entry: str, flat: Sequence[str]) -> Letter:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    code, model, letter_id = entry.split(" ")
    died_at = float(place) / 1e6
    loose = letter_id.startswith("~")
    return Letter(
        id=letter_id,
        code=code,
        model=model,
        error=record.decode_error(fields["error"]),
        died_at=float(fields.get("finished_at") or died_at),
        created_at=float(fields["created_at"]),
        worker=fields.get("worker") or None,
        tenant=fields.get("tenant", ""),
        attempts=int(fields.get("attempts") or 0),
        losses=int(fields.get("losses") or 0),
        deaths=int(fields.get("deaths") or 0),
        life=int(fields.get("life") or 0),
        size_bytes=int(fields["size_bytes"]) if loose else None,
        excerpt=fields["excerpt"] if loose else None,
    )

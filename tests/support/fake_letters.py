"""``LetterStore`` in memory, part of ``fake_job_store``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from affinity.io import job_record as record
from affinity.io.letter_store import LETTER_RETENTION_S, check_place, excerpt_of
from affinity.io.letters import Burial, Letter, LetterFilter, LetterPage, LooseLetter
from affinity.job import MAX_LIVES, Job, JobError, JobSpec, JobState, Life
from tests.support.fake_record import Record
from tests.support.fake_world import FakeWorld

if TYPE_CHECKING:
    from tests.support.fake_job_store import FakeJobStore


@dataclass(frozen=True, slots=True)
class _Entry:
    place: int
    code: str
    model: str


class FakeLetterStore:
    """See ``letters.LetterStore``."""

    def __init__(self, world: FakeWorld, jobs: "FakeJobStore") -> None:
        self._world = world
        self._jobs = jobs
        self._entries: dict[str, _Entry] = {}
        self._loose: dict[str, tuple[LooseLetter, float]] = {}
        self._turns: dict[str, float] = {}
        self._codes: set[str] = set()

    def add(self, found: Record) -> None:
        """A job has failed."""
        assert found.job.error is not None
        self._list(found.job.id, found.job.error.code, found.job.spec.model)

    async def bury(self, spec: JobSpec, created_at: float, life: int | None, error: JobError, now: float) -> Burial:
        found = self._jobs._find(spec.id)
        if found is None:
            found = self._jobs._make(spec, record.sighted(created_at, now))
            found.job = replace(found.job, life=life or 0)
        elif found.job.spec.digest != spec.digest:
            return Burial.STRANGER
        job = found.job
        if job.state is JobState.FAILED:
            self.add(found)
            return Burial.LISTED
        if job.state.terminal or (life is not None and life < job.life):
            return Burial.DROPPED
        if job.state is JobState.RUNNING and self._world.holder("lease", job.worker or "") == str(found.epoch):
            return Burial.DROPPED
        found.token = "buried"
        self._jobs._settle(found, JobState.FAILED, now, error)
        return Burial.LISTED

    async def keep(self, letter: LooseLetter, now: float) -> None:
        self._world.reach()
        self._loose[letter.id] = (letter, now)
        self._list(letter.id, letter.error.code, letter.model)

    async def page(self, which: LetterFilter, limit: int, cursor: str | None) -> LetterPage:
        record.check_limit(limit)
        before = check_place(cursor)
        chosen = [
            letter
            for entry, letter in reversed(self._listed())
            if which.code in ("", entry.code)
            and which.model in ("", entry.model)
            and (not before or entry.place < int(before))
        ]
        more = len(chosen) > limit
        return LetterPage(tuple(chosen[:limit]), str(self._entries[chosen[limit - 1].id].place) if more else None)

    async def redrive(self, ids: Sequence[str], apart_s: float) -> tuple[Sequence[str], float]:
        self._world.reach()
        turn = max(self._world.clock.now(), max(self._turns.values(), default=0.0) + apart_s)
        taken = [one for one in ids if self._is_dead(one)]
        for one in taken:
            if one not in self._turns:
                self._turns[one] = turn
                turn += apart_s
        return taken, max((self._turns[one] for one in taken), default=0.0)

    async def due(self, now: float, limit: int) -> Sequence[str]:
        self._world.reach()
        return sorted((one for one, turn in self._turns.items() if turn <= now), key=lambda one: self._turns[one])[
            :limit
        ]

    async def revive(self, job_id: str, now: float) -> Job | None:
        found = self._jobs._find(job_id)
        if self._turns.pop(job_id, None) is None or found is None or found.job.state is not JobState.FAILED:
            return None
        old = found.job
        assert old.finished_at is not None
        assert old.error is not None
        life = Life(old.created_at, old.finished_at, old.attempts, old.losses, old.deaths, old.worker, old.error)
        lives = (*old.lives, life)[-MAX_LIVES:]
        found.job = Job(old.spec, JobState.QUEUED, now, life=old.life + 1, lives=lives)
        found.token, found.last_code, found.gone_at = "", "", float("inf")
        self._entries.pop(job_id, None)
        self._jobs._outbox.add(job_id)
        self._world.say("job.redriven", now, {"job": job_id, "model": old.spec.model, "life": str(old.life + 1)})
        return found.job

    async def loose(self, letter_id: str) -> LooseLetter | None:
        self._world.reach()
        found = self._loose.get(letter_id)
        return found[0] if found else None

    async def forget(self, letter_id: str) -> None:
        self._world.reach()
        self._turns.pop(letter_id, None)
        if self._loose.pop(letter_id, None):
            self._entries.pop(letter_id, None)

    async def drop_turn(self, letter_id: str) -> None:
        self._world.reach()
        self._turns.pop(letter_id, None)

    async def counts(self) -> Mapping[str, int]:
        codes = [entry.code for entry, _ in self._listed()]
        return {code: codes.count(code) for code in self._codes}

    def _list(self, letter_id: str, code: str, model: str) -> None:
        if letter_id in self._entries:
            return
        newest = max((entry.place for entry in self._entries.values()), default=0)
        place = max(int(self._world.clock.now() * 1000) * 1000, newest + 1)
        self._entries[letter_id] = _Entry(place, code, model)
        self._codes.add(code)

    def _listed(self) -> list[tuple[_Entry, Letter]]:
        self._world.reach()
        oldest = (self._world.clock.now() - LETTER_RETENTION_S) * 1e6
        self._entries = {one: entry for one, entry in self._entries.items() if entry.place > oldest}
        letters = ((entry, self._letter(one, entry)) for one, entry in self._entries.items())
        return sorted(((e, letter) for e, letter in letters if letter), key=lambda pair: pair[0].place)

    def _is_dead(self, letter_id: str) -> bool:
        found = self._jobs._find(letter_id)
        return letter_id in self._loose or (found is not None and found.job.state is JobState.FAILED)

    def _letter(self, letter_id: str, entry: _Entry) -> Letter | None:
        if loose := self._loose.get(letter_id):
            kept, at = loose
            return Letter(
                letter_id,
                entry.code,
                entry.model,
                kept.error,
                died_at=entry.place / 1e6,
                created_at=at,
                worker=kept.worker,
                size_bytes=kept.size_bytes,
                excerpt=excerpt_of(kept.body),
            )
        found = self._jobs._find(letter_id)
        if found is None or found.job.state is not JobState.FAILED or found.job.finished_at is None:
            return None
        job = found.job
        assert job.error is not None
        return Letter(
            letter_id,
            entry.code,
            entry.model,
            job.error,
            died_at=job.finished_at or 0.0,
            created_at=job.created_at,
            worker=job.worker,
            tenant=job.spec.tenant,
            attempts=job.attempts,
            losses=job.losses,
            deaths=job.deaths,
            life=job.life,
        )

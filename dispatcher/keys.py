"""Keys, and whose they are: from the setting, and from a file that is read again when it changes.

Only SHA-256 sums of keys are kept, and the file holds nothing else: whoever reads it has no key. ``docs/security.md``
shows how to make one, and how to change it without a restart.
"""

import asyncio
import hashlib
import hmac
import secrets
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

log = structlog.get_logger(__name__)

FINGERPRINT = 8
"""So many hexadecimal digits tell the keys of one installation apart, and say nothing of a key worth its name."""


class Role(StrEnum):
    """What a key may do: everything, or with its tenant's own jobs only."""

    OPERATOR = "operator"
    TENANT = "tenant"


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of a key, in hexadecimal")]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keys: list[Hash] = Field(max_length=1000)


class OperatorEntry(_Entry):
    """``[[operator]]`` of the file."""

    name: str = Field(pattern=r"^[A-Za-z0-9._\-]{1,64}$")


class TenantEntry(OperatorEntry):
    """``[[tenant]]`` of the file. ``max_queued`` replaces the setting; no rate: as often as it likes. ``share``: weight
    of the tenant where several want the GPUs' time at once.
    """

    max_queued: int | None = Field(None, ge=1)
    requests_per_s: float | None = Field(None, gt=0, le=100_000)
    burst: int = Field(50, ge=1, le=1_000_000)
    share: float = Field(1.0, ge=0.001, le=1000)


class KeysFile(BaseModel):
    """The file as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tenant: list[TenantEntry] = []
    operator: list[OperatorEntry] = []


class KeysInvalid(ValueError):
    """The file cannot be used; the message says why and names no key."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``tenant`` is empty for operators, whose own jobs are nobody's."""

    name: str
    role: Role
    fingerprint: str = ""

    @property
    def tenant(self) -> str:
        """The tenant whose jobs it may see; empty: everybody's."""
        return self.name if self.role is Role.TENANT else ""


ANYBODY = Caller("", Role.OPERATOR)
"""The caller where no keys are set."""


@dataclass(slots=True)
class Bucket:
    """A tenant's requests: ``burst`` at once, then ``per_s``. Counted by each dispatcher for itself."""

    per_s: float
    burst: int
    left: float
    at_s: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """Take one request out; 0, or how long to wait for the next one."""
        self.left = min(float(self.burst), self.left + (now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        if self.left < 1.0:
            return (1.0 - self.left) / self.per_s
        self.left -= 1.0
        return 0.0


class KeyRing:
    """All keys that open. Reading the file again replaces its part; one that is bad, or gone, changes nothing."""

    def __init__(self, hashes: Sequence[bytes], file: Path | None = None) -> None:
        """``hashes``: of operators' keys, from the setting. Raises ``KeysInvalid``."""
        # What is looked up is known to nobody outside: how long a look-up takes says nothing of the keys.
        self._salt = secrets.token_bytes(32)
        self._fixed = {hashed: Caller("", Role.OPERATOR, hashed.hex()[:FINGERPRINT]) for hashed in hashes}
        self._file = file
        self._seen: object = None
        self._known: Mapping[bytes, tuple[bytes, Caller]] = {}
        self._tenants: Mapping[str, TenantEntry] = {}
        self._buckets: dict[str, Bucket] = {}
        self._seen = _stamp(file) if file else None
        self._take(read_keys(file) if file else KeysFile())

    @property
    def asked_for(self) -> bool:
        """Whether a key is needed at all. A file without keys shuts everybody out rather than letting all in."""
        return bool(self._fixed) or self._file is not None

    def find(self, key: str) -> Caller | None:
        """Whose key it is."""
        hashed = key_hash(key)
        kept, caller = self._known.get(self._blind(hashed), (b"", None))
        return caller if hmac.compare_digest(kept, hashed) else None

    def wait_s(self, caller: Caller, now_s: float) -> float:
        """Count a request of this caller at this instant (``monotonic``): 0, or how long it has to wait."""
        bucket = self._buckets.get(caller.tenant)
        return bucket.wait_s(now_s) if bucket else 0.0

    def max_queued(self, tenant: str, otherwise: int | None) -> int | None:
        """Most queued jobs of a tenant."""
        entry = self._tenants.get(tenant)
        return otherwise if entry is None or entry.max_queued is None else entry.max_queued

    @property
    def tenants(self) -> Collection[str]:
        """Tenants in the file."""
        return self._tenants.keys()

    @property
    def shares(self) -> Mapping[str, float]:
        """Shares of the tenants whose share is not 1."""
        return {name: entry.share for name, entry in self._tenants.items() if entry.share != 1.0}

    async def look(self) -> None:
        """Read the file again if it has changed."""
        if self._file and (await asyncio.to_thread(_stamp, self._file)) != self._seen:
            self.reload()

    def reload(self) -> None:
        """Read the file again. What is wrong with it is logged, and the keys that were known stay."""
        if self._file is None:
            return
        self._seen = _stamp(self._file)
        try:
            self._take(read_keys(self._file))
        except KeysInvalid as error:
            log.error("keys.unreadable", file=str(self._file), reason=str(error), kept=len(self._known))
            return
        log.info("keys.read", file=str(self._file), keys=len(self._known), tenants=len(self._tenants))

    def _take(self, file: KeysFile) -> None:
        callers = {**self._fixed, **dict(_callers(file))}
        self._known = {self._blind(hashed): (hashed, caller) for hashed, caller in callers.items()}
        self._tenants = {entry.name: entry for entry in file.tenant}
        self._buckets = {name: self._bucket(entry) for name, entry in self._tenants.items() if entry.requests_per_s}

    def _bucket(self, entry: TenantEntry) -> Bucket:
        per_s, before = entry.requests_per_s or 0.0, self._buckets.get(entry.name)
        # A new key must not give a tenant its burst anew.
        if before and (before.per_s, before.burst) == (per_s, entry.burst):
            return before
        return Bucket(per_s, entry.burst, float(entry.burst))

    def _blind(self, hashed: bytes) -> bytes:
        return hashlib.blake2b(hashed, key=self._salt, digest_size=16).digest()


def read_keys(path: Path) -> KeysFile:
    """The file, checked. ``KeysInvalid`` says everything that is wrong with it."""
    try:
        file = KeysFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise KeysInvalid(f"cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        # The text of either could quote the file.
        raise KeysInvalid(f"is not TOML ({type(error).__name__}); docs/security.md shows one") from None
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        raise KeysInvalid("; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults)) from None
    entries = [*file.tenant, *file.operator]
    for what, names in (("name", [e.name for e in entries]), ("key", [key for e in entries for key in e.keys])):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            shown = ", ".join(name[:FINGERPRINT] if what == "key" else name for name in twice)
            raise KeysInvalid(f"has a {what} twice: {shown}")
    return file


def key_hash(key: str) -> bytes:
    """What is kept and compared instead of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _callers(file: KeysFile) -> Iterator[tuple[bytes, Caller]]:
    for role, entries in ((Role.TENANT, file.tenant), (Role.OPERATOR, file.operator)):
        for entry in entries:
            for key in entry.keys:
                yield bytes.fromhex(key), Caller(entry.name, role, key[:FINGERPRINT])


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does, also where a link to it is turned elsewhere; ``None`` if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

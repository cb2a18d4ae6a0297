"""Hash fields in Redis <-> ``Job``, and what of a job travels to the scripts.

Instants and durations are kept as ``repr`` of the float, so that they come back bit for bit; scores and sums are whole
milliseconds, so that they stay exact. ``wait_s`` is not kept: it follows from two instants.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp
from typing import Any, cast

from affinity.errors import InvalidInput, JobFailed, PayloadTooLarge
from affinity.fleet import Demand, Lane
from affinity.job import Job, JobError, JobSpec, JobState, Life, Outcome, StartKind
from affinity.topology import OF, is_tenants, model_in
from affinity.wire import dumps, loads, spec_to_json

_PLACE = re.compile(r"(\d{1,16}) ([A-Za-z0-9._:\-]{1,128})\Z")

RATE_TAU_S = 3000.0
"""Time constant of a model's arrival rate. Long against a residency, so that what is asked for now and then is told
from what is asked for once; short against a day's changes."""

USED_TAU_S = 120.0
"""Time constant with which a tenant's GPU seconds fade. Long against a load, so that who caused one pays for it; short
enough that who has used much while nobody else came waits for a minute and a half at most, not for hours."""

LEAST_SEEN_S = 1.0
"""A rate is not extrapolated from less than this."""

NEGLIGIBLE = 0.01
"""A model expected to be asked for less often than this per time constant has no rate."""

MAX_PAGE = 500
"""Most jobs on one page."""


def millis(at: float) -> int:
    """An instant in whole ms. At least 1: Redis has no ``-0`` to take off a sum."""
    return max(1, int(at * 1000))


def sighted(created_at: float, now: float) -> float:
    """When a job from outside was created, as far as we believe it: not before 1970, not after ``now``.

    A producer's clock that runs ahead would otherwise give a job that waits for a negative time, and one that says year
    9999 would make the sum of a model's instants overflow.
    """
    return min(max(created_at, 0.0), now)


def new_fields(spec: JobSpec, created_at: float) -> list[str]:
    """The seven arguments from which a script makes a record: id, model, created in ms and s, ttl, digest, spec."""
    ttl = "" if spec.ttl_s is None else repr(float(spec.ttl_s))
    text = dumps(spec_to_json(spec))
    return [spec.id, spec.model, str(millis(created_at)), repr(float(created_at)), ttl, spec.digest, text]


def decode_job(flat: Sequence[str]) -> Job:
    """The job in the flat reply to HGETALL. Fields that are missing or empty have not happened yet."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    created_at, started_at = float(fields["created_at"]), _number(fields, "started_at")
    return Job(
        spec=JobSpec(**cast(dict[str, Any], loads(fields["spec"]))),
        state=JobState(fields["state"]),
        created_at=created_at,
        started_at=started_at,
        finished_at=_number(fields, "finished_at"),
        attempts=int(fields["attempts"]),
        losses=int(fields["losses"]),
        worker=fields.get("worker") or None,
        start=StartKind(fields["start"]) if fields.get("start") else None,
        wait_s=waited(created_at, started_at),
        load_s=_number(fields, "load_s"),
        exec_s=_number(fields, "exec_s"),
        evicted=tuple(fields["evicted"].split()) if "evicted" in fields else None,
        result=loads(fields["result"]) if fields.get("result") else None,
        error=decode_error(fields["error"]) if fields.get("error") else None,
        deaths=int(fields.get("deaths") or 0),
        not_before=_number(fields, "not_before"),
        life=int(fields.get("life") or 0),
        lives=_lives(fields.get("lives")),
    )


def decode_started(flat: Sequence[str], spec: JobSpec) -> Job:
    """The job in an answer to a start: the whole record, or what the caller of a started job does not know of it."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if "state" in fields:
        return decode_job(flat)
    created_at, started_at = float(fields["created_at"]), float(fields["started_at"])
    return Job(
        spec=spec,
        state=JobState.RUNNING,
        created_at=created_at,
        started_at=started_at,
        attempts=int(fields["attempts"]),
        losses=int(fields["losses"]),
        worker=fields["worker"],
        wait_s=waited(created_at, started_at),
        deaths=int(fields["deaths"]),
        life=int(fields["life"]),
    )


def decode_rates(flat: Sequence[str], now_s: float) -> dict[str, float]:
    """Arrivals per second by model, from the hash that ``count_arrival`` in ``record.lua`` keeps."""
    kept = dict(zip(flat[::2], flat[1::2], strict=True))
    seen_s = max(LEAST_SEEN_S, now_s - float(kept.pop("", now_s)))
    rates = {}
    for model, text in kept.items():
        rate, at = map(float, text.split())
        rates[model] = rate * exp((at - now_s) / RATE_TAU_S) / (1.0 - exp(-seen_s / RATE_TAU_S))
    return {model: rate for model, rate in rates.items() if rate * RATE_TAU_S >= NEGLIGIBLE}


def decode_demand(rows: Sequence[Sequence[Any]]) -> list[Demand]:
    """The answer of ``demand.lua``, by model name. Whose jobs they are is said only where some are a tenant's."""
    by_lane = {row[0]: row for row in rows if row[0]}
    now_s, used, shares = next((row[1:] for row in rows if not row[0]), (0.0, (), ()))
    accounts = {tenant: faded_s(text, float(now_s)) for tenant, text in zip(used[::2], used[1::2], strict=True)}
    weights = {tenant: float(share) for tenant, share in zip(shares[::2], shares[1::2], strict=True)}

    def lane_of(tenant: str, queued: int, oldest_ms: str) -> Lane:
        return Lane(tenant, queued, float(oldest_ms) / 1000, accounts.get(tenant, 0.0), weights.get(tenant, 1.0))

    lanes: dict[str, list[Lane]] = {}
    for name, queued, oldest, _ in by_lane.values():
        if is_tenants(name):
            lanes.setdefault(model_in(name), []).append(lane_of(name.partition(OF)[2], queued, oldest))
    found = []
    for model, queued, oldest, total in by_lane.values():
        if is_tenants(model):
            continue
        own = lanes.get(model, [])
        others = queued - sum(lane.queued for lane in own)
        if lanes and others > 0:
            own = [*own, lane_of("", others, oldest)]
        shown = tuple(sorted(own, key=lambda lane: lane.tenant))
        found.append(Demand(model, queued, float(oldest) / 1000, int(total) / 1000, lanes=shown))
    return sorted(found, key=lambda demand: demand.model)


def faded_s(account: str, now_s: float) -> float:
    """What is left by now of the seconds in an account, as ``charge`` in ``record.lua`` keeps it."""
    used, at, _ = map(float, account.split())
    return used * exp((at - now_s) / USED_TAU_S)


def waited(created_at: float, started_at: float | None) -> float | None:
    """Seconds from creation to the start; never negative, though the two clocks may be two machines'."""
    return None if started_at is None else max(0.0, started_at - created_at)


def encode_error(error: JobError | None) -> tuple[str, str]:
    """An error as JSON text and its code; both empty for none. The code comes first: a script looks for it."""
    return ("", "") if error is None else (dumps({"code": error.code, "message": error.message}), error.code)


def decode_error(text: str) -> JobError:
    """The error in its JSON text."""
    return JobError(**cast(dict[str, Any], loads(text)))


def encode_outcome(outcome: Outcome, max_result_bytes: int) -> tuple[Outcome, str]:
    """The outcome to store and its result as JSON. A result that is too large or no JSON makes it a failure."""
    if outcome.error is not None:
        return outcome, ""
    try:
        text = dumps(outcome.result)
    except (ValueError, TypeError, RecursionError) as error:
        return _failed(outcome, JobFailed.code, f"the result is not JSON ({error}); return JSON values only"), ""
    if len(text) > max_result_bytes:
        message = f"the result has {len(text)} bytes, more than the {max_result_bytes} allowed; return less of it"
        return _failed(outcome, PayloadTooLarge.code, message), ""
    return outcome, text


def encode_load(outcome: Outcome) -> list[str]:
    """What is kept of the load before a cold start, as names and values of fields; nothing for a warm one."""
    return ["evicted", " ".join(outcome.evicted)] if outcome.start is StartKind.COLD else []


def encode_cursor(job: Job) -> str:
    """The opaque text that continues a page after this job."""
    return base64.urlsafe_b64encode(f"{millis(job.created_at)} {job.id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[str, str]:
    """Creation in ms and id in a cursor; ``InvalidInput`` for one that we never gave out."""
    try:
        place = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        place = ""
    if not (match := _PLACE.match(place)):
        raise InvalidInput("is not a cursor of ours; take it from the page before, or leave it out", "cursor")
    return match[1], match[2]


def check_limit(limit: int) -> int:
    """The size of a page, or ``InvalidInput``."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"must be 1 to {MAX_PAGE}", "limit")
    return limit


def _failed(outcome: Outcome, code: str, message: str) -> Outcome:
    return replace(outcome, result=None, error=JobError(code, message))


def _lives(text: str | None) -> tuple[Life, ...]:
    """The earlier lives, oldest first; their numbers are texts, as ``revive.lua`` wrote them."""
    lives = cast(list[dict[str, str]], loads(text)) if text else []
    return tuple(
        Life(
            created_at=float(life["created_at"]),
            finished_at=float(life["finished_at"]),
            attempts=int(life["attempts"]),
            losses=int(life["losses"]),
            deaths=int(life["deaths"]),
            worker=life["worker"] or None,
            error=decode_error(life["error"]),
        )
        for life in lives
    )


def _number(fields: Mapping[str, str], name: str) -> float | None:
    return float(fields[name]) if fields.get(name) else None

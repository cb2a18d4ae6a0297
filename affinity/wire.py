"""Versioned JSON <-> jobs and reports: what travels in AMQP messages, lies in Redis and is shown over HTTP.

``docs/wire.md`` states the message format for those who publish without us. Everything a foreign client may leave out
has a default here; everything it may get wrong raises ``UndecodableMessage`` with the reason.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from types import UnionType
from typing import Any, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

from affinity.errors import InvalidInput, UndecodableMessage
from affinity.fleet import Gpu, Measurement, Refusal, Residency, ResidencyState, WorkerReport
from affinity.job import DEFAULT_MAX_ATTEMPTS, Job, JobSpec, Life, check_job_id, check_model_name, check_tenant

Built = TypeVar("Built")

VERSION = 1

MAX_ATTEMPTS = 100
MAX_SECONDS = 30 * 24 * 3600.0
"""Longest ``ttl_s`` and ``timeout_s``: 30 days."""

MAX_DEPTH = 64
"""Deepest nesting of a job's JSON. Far below the interpreter's own limit, so that no reader of ours can overflow."""

MESSAGE_FIELDS = frozenset(
    {"v", "id", "model", "input", "ttl_s", "timeout_s", "max_attempts", "metadata", "created_at", "tenant"}
)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value


# Made once: json.dumps and json.loads make a new one for every value, which takes as long as a small value itself.
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def rfc3339(at: float) -> str:
    """An instant as RFC 3339 in UTC, to the microsecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> float:
    """Epoch seconds of an RFC 3339 instant; ``ValueError`` without a zone or where it is none."""
    try:
        at = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(f"{text!a} is not an instant such as 2026-01-31T12:00:00Z") from None
    if at.tzinfo is None:
        raise ValueError(f"{text!a} has no time zone")
    return at.timestamp()


def dumps(value: object) -> str:
    """Compact JSON. ASCII only: a lone surrogate from a producer cannot break an encoder further on."""
    return _ENCODER.encode(value)


def loads(text: str | bytes) -> object:
    """A JSON value; ``ValueError`` for anything else, ``NaN`` and ``Infinity`` and bottomless nesting included."""
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def depth(value: object) -> int:
    """Nesting of a JSON value: 0 for a scalar, 1 for a flat list or object."""
    deepest, level = 0, [value]
    while level:
        containers = [v for v in level if isinstance(v, (dict, list))]
        if not containers:
            return deepest
        deepest += 1
        level = [child for v in containers for child in (v.values() if isinstance(v, dict) else v)]
    return deepest


def spec_to_json(spec: JobSpec) -> dict[str, object]:
    """The producer's part of a job. Fields left at their default are written too: the format explains itself.

    Only the tenant is left out where there is none, and comes first: scripts in the store read it there.
    """
    return {
        **({"tenant": spec.tenant} if spec.tenant else {}),
        "id": spec.id,
        "model": spec.model,
        "input": spec.input,
        "ttl_s": spec.ttl_s,
        "timeout_s": spec.timeout_s,
        "max_attempts": spec.max_attempts,
        "metadata": dict(spec.metadata),
    }


def spec_from_json(fields: Mapping[str, object]) -> JobSpec:
    """A checked ``JobSpec``; ``InvalidInput`` names the field. ``id`` and ``model`` must be there."""
    return JobSpec(
        id=check_job_id(_text(fields, "id")),
        model=check_model_name(_text(fields, "model")),
        input=_bounded(fields.get("input")),
        ttl_s=_seconds(fields, "ttl_s"),
        timeout_s=_seconds(fields, "timeout_s"),
        max_attempts=_attempts(fields),
        metadata=_metadata(fields),
        tenant=check_tenant(_text(fields, "tenant")) if "tenant" in fields else "",
    )


def encode_message(spec: JobSpec, created_at: float) -> bytes:
    """The body of the AMQP message that carries a job."""
    return dumps({"v": VERSION, **spec_to_json(spec), "created_at": rfc3339(created_at)}).encode()


def decode_message(body: bytes, routed_model: str, message_id: str | None) -> tuple[JobSpec, float | None]:
    """The job in a message and when it was created (``None``: not said).

    ``model`` may be left out: it is the routing key. ``id`` may be left out: it is the message id (our own messages
    carry it in the body, since theirs is unique to the publish). Raises ``UndecodableMessage``.
    """
    try:
        fields = loads(body)
    except ValueError as error:
        raise UndecodableMessage(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UndecodableMessage("the body must be a JSON object with an 'input'")
    if "input" not in fields:
        raise UndecodableMessage("the body has no 'input'")
    if fields.get("v", VERSION) != VERSION:
        raise UndecodableMessage(f"version {fields['v']!a} is unknown here; this is version {VERSION}")
    if unknown := sorted(set(fields) - MESSAGE_FIELDS):
        raise UndecodableMessage(f"unknown fields: {', '.join(ascii(name)[1:-1] for name in unknown)}")
    defaults = {"id": message_id, "model": routed_model}
    said = {name: value for name, value in fields.items() if value is not None}
    try:
        spec = spec_from_json({**defaults, **said})
        created_at = fields.get("created_at")
        return spec, None if created_at is None else parse_rfc3339(_text(fields, "created_at"))
    except (InvalidInput, ValueError) as error:
        raise UndecodableMessage(str(error)) from error


def job_to_json(job: Job) -> dict[str, object]:
    """A job as every caller sees it: section "Job" of the public contract. ``retry_at`` is only there while it waits to
    be tried again, ``lives`` only after it was put back from the dead letters.
    """
    return {
        "id": job.id,
        "model": job.spec.model,
        "state": str(job.state),
        "created_at": rfc3339(job.created_at),
        "started_at": _instant(job.started_at),
        "finished_at": _instant(job.finished_at),
        "attempts": job.attempts,
        "worker": job.worker,
        "start": None if job.start is None else str(job.start),
        "wait_s": job.wait_s,
        "load_s": job.load_s,
        "exec_s": job.exec_s,
        "result": job.result,
        "error": None if job.error is None else {"code": job.error.code, "message": job.error.message},
        "metadata": dict(job.spec.metadata),
        **({} if job.not_before is None else {"retry_at": rfc3339(job.not_before)}),
        **({"lives": [_life_to_json(life) for life in job.lives]} if job.lives else {}),
    }


def encode_report(report: WorkerReport) -> str:
    """A worker's report as JSON text."""
    return dumps(
        {
            **{name: getattr(report, name) for name in _REPORT_SCALARS},
            "gpu": asdict(report.gpu),
            "residents": [asdict(resident) for resident in report.residents],
            "refusals": [asdict(refusal) for refusal in report.refusals],
            "cached": list(report.cached),
            "owed": list(report.owed),
        }
    )


def decode_report(text: str | bytes) -> WorkerReport:
    """The report in ``text``; ``UndecodableMessage`` where it is none (another version's, or damaged)."""
    try:
        fields = cast(dict[str, Any], loads(text))
        residents = [{**r, "state": ResidencyState(r["state"])} for r in fields.pop("residents")]
        return _build(
            WorkerReport,
            {
                **fields,
                "gpu": _build(Gpu, fields["gpu"]),
                "residents": tuple(_build(Residency, resident) for resident in residents),
                "refusals": tuple(_build(Refusal, refusal) for refusal in fields["refusals"]),
                "cached": tuple(map(str, fields["cached"])),
                "owed": tuple(map(str, fields.get("owed", ()))),
            },
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UndecodableMessage(f"not a worker's report: {error!r}") from error


def encode_measurement(measurement: Measurement) -> str:
    """What was learned of a model, as JSON text."""
    return dumps(asdict(measurement))


def decode_measurement(text: str | bytes) -> Measurement:
    """The measurement in ``text``; ``UndecodableMessage`` where it is none."""
    try:
        return _build(Measurement, cast(dict[str, Any], loads(text)))
    except (ValueError, TypeError, AttributeError) as error:
        raise UndecodableMessage(f"not a measurement: {error!r}") from error


_REPORT_SCALARS = ("worker", "node", "epoch", "sequence", "as_of", "served_s", "draining", "lease_s", "metrics_url")


def _build(kind: type[Built], values: Mapping[str, Any]) -> Built:
    """A dataclass from decoded values; ``TypeError`` for one of another type than its field (whole numbers are floats).

    Another version's report must be refused here: further on it would be believed.
    """
    for name, allowed in _FIELDS[kind]:
        value = values.get(name)
        fits = isinstance(value, (*allowed, int) if float in allowed else allowed)
        if name in values and (not fits or (isinstance(value, bool) and bool not in allowed)):
            raise TypeError(f"{kind.__name__}.{name} cannot be {value!r}")
    return kind(**values)


def _fields(kind: type) -> Sequence[tuple[str, tuple[type, ...]]]:
    return [
        (name, tuple(get_origin(part) or part for part in (get_args(hint) if isinstance(hint, UnionType) else (hint,))))
        for name, hint in get_type_hints(kind).items()
    ]


_FIELDS: Mapping[Any, Sequence[tuple[str, tuple[type, ...]]]] = {
    kind: _fields(kind) for kind in (WorkerReport, Gpu, Residency, Refusal, Measurement)
}
"""Each field's name and the types it may have. Looked up once: it takes longer than decoding a report."""


def _life_to_json(life: Life) -> dict[str, object]:
    return {
        "created_at": rfc3339(life.created_at),
        "finished_at": rfc3339(life.finished_at),
        "attempts": life.attempts,
        "losses": life.losses,
        "deaths": life.deaths,
        "worker": life.worker,
        "error": {"code": life.error.code, "message": life.error.message},
    }


def _instant(at: float | None) -> str | None:
    return None if at is None else rfc3339(at)


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise InvalidInput("must be a string", name)
    return value


def _bounded(value: object) -> object:
    if depth(value) > MAX_DEPTH:
        raise InvalidInput(f"is nested deeper than {MAX_DEPTH} levels", "input")
    return value


def _seconds(fields: Mapping[str, object], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_SECONDS:
        raise InvalidInput(f"must be a number of seconds above 0 and at most {MAX_SECONDS:.0f}", name)
    return float(value)


def _attempts(fields: Mapping[str, object]) -> int:
    value = fields.get("max_attempts")
    if value is None:
        return DEFAULT_MAX_ATTEMPTS
    # 3.0 is whole, too: JSON has one kind of number.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 1 <= cast(float, value) <= MAX_ATTEMPTS:
        raise InvalidInput(f"must be a whole number from 1 to {MAX_ATTEMPTS}", "max_attempts")
    return int(cast(float, value))


def _metadata(fields: Mapping[str, object]) -> Mapping[str, object]:
    value = fields.get("metadata")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("must be an object", "metadata")
    if depth(value) > MAX_DEPTH:
        raise InvalidInput(f"is nested deeper than {MAX_DEPTH} levels", "metadata")
    return cast(dict[str, object], value)

"""A trace: the jobs of a benchmark in order of arrival.

JSON lines ``{"arrival_s": 0.0, "model": "a", "exec_s": 0.04}``, and ``tenant`` where there is one.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from bench.models_file import BadInput, is_amount

KNOWN_FIELDS = frozenset({"arrival_s", "model", "exec_s", "tenant"})


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One job. ``number`` counts from 0 in order of arrival; ``exec_s`` is what it takes by itself on a GPU."""

    number: int
    arrival_s: float
    model: str
    exec_s: float
    tenant: str | None = None


def read_trace(path: Path, models: Collection[str]) -> list[TraceJob]:
    """The jobs of a file. Raises ``BadInput`` with the number of the first line at fault.

    Each job's model must be one of ``models``; arrivals must not go back in time.
    """
    jobs: list[TraceJob] = []
    try:
        with path.open("rb") as lines:
            for line_number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        jobs.append(_job(line, len(jobs), models, jobs[-1].arrival_s if jobs else 0.0))
                    except BadInput as error:
                        raise BadInput(f"{path}, line {line_number}: {error}") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    if not jobs:
        raise BadInput(f"{path}: holds no jobs")
    return jobs


def write_trace(path: Path, jobs: Iterable[TraceJob]) -> None:
    """Write them as ``read_trace`` reads them."""
    with path.open("w", encoding="utf-8") as file:
        for job in jobs:
            fields: dict[str, object] = {"arrival_s": job.arrival_s, "model": job.model, "exec_s": job.exec_s}
            if job.tenant is not None:
                fields["tenant"] = job.tenant
            file.write(json.dumps(fields) + "\n")


def of_arrivals(arrivals: Iterable[tuple[float, str, float]]) -> Sequence[TraceJob]:
    """Jobs from ``(arrival_s, model, exec_s)``, in whatever order; equal instants keep theirs."""
    ordered = sorted(arrivals, key=lambda each: each[0])
    return [TraceJob(number, *each) for number, each in enumerate(ordered)]


def _job(line: bytes, number: int, models: Collection[str], not_before_s: float) -> TraceJob:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        # Bytes that are not UTF-8 end here too, and brackets in thousands.
        raise BadInput(f"is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadInput("must be a JSON object with arrival_s, model and exec_s")
    if unknown := sorted(fields.keys() - KNOWN_FIELDS):
        raise BadInput(f"{unknown[0]!r} is not known; use {', '.join(sorted(KNOWN_FIELDS))}")
    for field in ("arrival_s", "exec_s"):
        if not is_amount(fields.get(field)):
            raise BadInput(f"{field} must be a number from 0 up, it is {fields.get(field)!r}")
    model, tenant = fields.get("model"), fields.get("tenant")
    if not isinstance(model, str) or model not in models:
        near = get_close_matches(str(model), models, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "add it to the models file"
        raise BadInput(f"there is no model {model!r}; {hint}")
    if tenant is not None and not isinstance(tenant, str):
        raise BadInput(f"tenant must be a text, it is {tenant!r}")
    if fields["arrival_s"] < not_before_s:
        raise BadInput(
            f"arrives at {fields['arrival_s']} s, before the line above it ({not_before_s} s): sort the trace"
        )
    return TraceJob(number, float(fields["arrival_s"]), model, float(fields["exec_s"]), tenant)

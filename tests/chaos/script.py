"""What a chaos run does, from its seed alone: which jobs are sent, which faults are injected between them. Pure."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.catalogue import ECHOES_FROM, MODELS, an_input, expected_result

ALL_MODELS_BY = 0.6
"""By this share of the jobs every model has been asked for: which models are popular changes all the while."""

QUIET_SHARE = 0.03
"""No fault in the first and last of the jobs: the first find the system whole, the last find it under faults still."""

PATIENT_SHARE = 0.2
"""Jobs whose client waits for the result."""

FAILING_SHARE = 0.01
"""Jobs whose model raises, beside the faults: they fail at once, and for good."""

HANG_TIMEOUT_S = 1.0


class Kind(StrEnum):
    """Faults. Those of a job are jobs that are sent; the rest is done to processes, servers and connections."""

    WORKER_KILLED = "worker-killed"
    WORKER_FROZEN = "worker-frozen"
    EXECUTOR_KILLED = "executor-killed"
    DISPATCHER_KILLED = "dispatcher-killed"
    BROKER_RESTARTED = "broker-restarted"
    BROKER_KILLED = "broker-killed"
    STORE_RESTARTED = "store-restarted"
    STORE_KILLED = "store-killed"
    WIRE_CUT = "wire-cut"
    WIRE_DROPPED = "wire-dropped"
    WIRE_SLOW = "wire-slow"
    WIRE_SILENT = "wire-silent"
    ANSWERS_LOST = "answers-lost"
    JOB_OUT_OF_MEMORY = "job-out-of-memory"
    JOB_CRASH = "job-crash"
    JOB_HANG = "job-hang"


WEIGHTS: Mapping[Kind, int] = {
    Kind.WORKER_KILLED: 4,
    Kind.WORKER_FROZEN: 1,
    Kind.EXECUTOR_KILLED: 4,
    Kind.DISPATCHER_KILLED: 3,
    Kind.BROKER_RESTARTED: 1,
    Kind.BROKER_KILLED: 2,
    Kind.STORE_RESTARTED: 2,
    Kind.STORE_KILLED: 2,
    Kind.WIRE_CUT: 3,
    Kind.WIRE_DROPPED: 2,
    Kind.WIRE_SLOW: 3,
    Kind.WIRE_SILENT: 2,
    Kind.ANSWERS_LOST: 2,
    Kind.JOB_OUT_OF_MEMORY: 2,
    Kind.JOB_CRASH: 3,
    Kind.JOB_HANG: 3,
}
"""How often each comes, relative to the others."""

LASTS_S: Mapping[Kind, tuple[float, float]] = {
    Kind.WORKER_KILLED: (0.0, 8.0),
    Kind.WORKER_FROZEN: (2.0, 12.0),
    Kind.DISPATCHER_KILLED: (0.0, 3.0),
    Kind.BROKER_KILLED: (0.0, 3.0),
    Kind.STORE_KILLED: (0.0, 3.0),
    Kind.WIRE_CUT: (0.5, 10.0),
    Kind.WIRE_SLOW: (2.0, 10.0),
    Kind.WIRE_SILENT: (1.0, 12.0),
}
"""How long until it is healed, drawn from this range. Those left out heal by themselves."""

FAIL: Mapping[Kind, str] = {Kind.JOB_OUT_OF_MEMORY: "oom", Kind.JOB_CRASH: "crash", Kind.JOB_HANG: "hang"}
"""Faults that are jobs, as a synthetic model is told of them."""


@dataclass(frozen=True, slots=True)
class JobStep:
    """Send a job. ``expected`` is its result, ``None`` where it is to fail. ``patient``: wait for it."""

    id: str
    model: str
    body: Mapping[str, object]
    expected: object
    patient: bool = False


@dataclass(frozen=True, slots=True)
class FaultStep:
    """Inject a fault. ``target`` picks a process (modulo how many there are), ``lasts_s`` as drawn from ``LASTS_S``.

    ``store_side``: the connection to the store, else the one to the broker. ``job`` is what is sent for a fault of a
    job.
    """

    number: int
    kind: Kind
    target: int
    lasts_s: float
    delay_s: float
    store_side: bool
    job: JobStep | None


Step = JobStep | FaultStep


def script(seed: int, jobs: int, faults: int, kinds: Sequence[Kind] | None = None) -> list[Step]:
    """All steps in order: ``jobs`` jobs with ``faults`` faults in between, the same for the same arguments.

    ``kinds`` are dealt instead of all kinds by weight, each before one comes again.
    """
    chance = random.Random(f"chaos {seed}")
    numbers = iter(range(jobs + faults))
    deck = _deck(chance, kinds or [kind for kind, weight in WEIGHTS.items() for _ in range(weight)])
    quiet = round(jobs * QUIET_SHARE)
    places = sorted(chance.sample(range(quiet, jobs - quiet), faults))
    steps: list[Step] = []
    for place in range(jobs):
        for _ in range(places.count(place)):
            steps.append(_fault(chance, seed, numbers, next(deck), len(steps) - place))
        steps.append(_job(chance, seed, next(numbers), _known(place, jobs)))
    return steps


def first_jobs(seed: int, jobs: int, faults: int) -> list[JobStep]:
    """A job for each model, to be sent before the script: then every queue is there."""
    steps = []
    for place, model in enumerate(MODELS):
        value = an_input(model, jobs + faults + place)
        body = {"id": f"c{seed}-first-{place:02d}", "model": model.name, "input": value}
        steps.append(JobStep(str(body["id"]), model.name, body, expected_result(model, value)))
    return steps


def _deck(chance: random.Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    while True:
        yield from chance.sample(kinds, len(kinds))


def _known(place: int, jobs: int) -> int:
    """How many models jobs are sent for by then."""
    return min(len(MODELS), 1 + int(len(MODELS) * place / (jobs * ALL_MODELS_BY)))


def _job(chance: random.Random, seed: int, number: int, known: int) -> JobStep:
    # The newest is asked for most, the others less and less.
    model = chance.choices(MODELS[:known], [1 / (known - place) for place in range(known)])[0]
    value = an_input(model, number)
    expected = expected_result(model, value)
    if not model.echo and chance.random() < FAILING_SHARE:
        value, expected = {**value, "fail": "error"}, None
    body = {"id": f"c{seed}-{number:05d}", "model": model.name, "input": value}
    return JobStep(str(body["id"]), model.name, body, expected, chance.random() < PATIENT_SHARE)


def _fault(chance: random.Random, seed: int, numbers: Iterator[int], kind: Kind, number: int) -> FaultStep:
    job = None
    if fail := FAIL.get(kind):
        model = chance.choice(MODELS[:ECHOES_FROM])
        place = next(numbers)
        body: dict[str, object] = {"id": f"c{seed}-{place:05d}-{fail}", "model": model.name}
        body["input"] = {**an_input(model, place), "fail": fail}
        if kind is Kind.JOB_HANG:
            body["timeout_s"] = HANG_TIMEOUT_S
        job = JobStep(str(body["id"]), model.name, body, None)
    least_s, most_s = LASTS_S.get(kind, (0.0, 0.0))
    return FaultStep(
        number=number,
        kind=kind,
        target=chance.randrange(2**16),
        lasts_s=round(chance.uniform(least_s, most_s), 2),
        delay_s=round(chance.uniform(0.05, 0.6), 2),
        store_side=chance.random() < 0.5,
        job=job,
    )

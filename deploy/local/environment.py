"""What ``make run`` and ``make demo`` read from the environment, and what each child gets. Pure.

A child inherits everything, so that every setting of the services can be given on the command line; only what must
differ per child, or must agree between them, is set here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from deploy.local.servers import ServerUrls

SIMULATED_WORKERS = 3
DISPATCHER_PORT = 5000
METRICS_PORT = 8000

WORKER_GRACE_S = 30.0
KILL_AFTER_GRACE_S = 20.0
"""What a worker may take, beyond the grace time of its jobs, before it is killed."""

WILDCARDS = {"0.0.0.0", "::", ""}


class BadSetting(Exception):
    """A variable of the environment cannot be used; the message names it and says what it must be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. A port of ``None`` was not asked for: the first free one from the default upwards is taken."""

    workers: int
    worker_prefix: str
    worker_gpu: str
    dispatcher_host: str
    dispatcher_port: int | None
    metrics_port: int | None
    stop_grace_s: float

    @property
    def worker_ids(self) -> list[str]:
        """``worker-1``, ``worker-2`` ... with ``WORKER_ID`` as the prefix where it is set."""
        return [f"{self.worker_prefix}-{number}" for number in range(1, self.workers + 1)]


def read_plan(environ: Mapping[str, str], has_gpu: bool) -> Plan:
    """The plan that ``environ`` asks for. Raises ``BadSetting``.

    Without a GPU the workers simulate one each. With real GPUs one worker serves all of them, so one is the default.
    """
    worker_gpu = environ.get("WORKER_GPU") or ("auto" if has_gpu else "simulated")
    workers = _integer(environ, "WORKERS", 0, 64)
    if workers is None:
        workers = SIMULATED_WORKERS if worker_gpu == "simulated" else 1
    return Plan(
        workers=workers,
        worker_prefix=environ.get("WORKER_ID") or "worker",
        worker_gpu=worker_gpu,
        dispatcher_host=environ.get("DISPATCHER_HOST") or "127.0.0.1",
        dispatcher_port=_integer(environ, "DISPATCHER_PORT", 1, 65535),
        # 0 means "any free one" to the worker; here each gets a known one, so that it can be printed.
        metrics_port=_integer(environ, "WORKER_METRICS_PORT", 0, 65535) or None,
        stop_grace_s=_seconds(environ, "WORKER_GRACE_S", WORKER_GRACE_S) + KILL_AFTER_GRACE_S,
    )


def dispatcher_environment(environ: Mapping[str, str], urls: ServerUrls, port: int) -> dict[str, str]:
    """The environment of ``python -m dispatcher``."""
    return _shared(environ, urls) | {"DISPATCHER_PORT": str(port)}


def worker_environment(
    environ: Mapping[str, str], urls: ServerUrls, plan: Plan, worker_id: str, metrics_port: int
) -> dict[str, str]:
    """The environment of one ``python -m worker``."""
    own = {"WORKER_ID": worker_id, "WORKER_GPU": plan.worker_gpu, "WORKER_METRICS_PORT": str(metrics_port)}
    return _shared(environ, urls) | own


def local_url(host: str, port: int) -> str:
    """An address this machine can call for a service that listens on ``host``."""
    return f"http://{'127.0.0.1' if host in WILDCARDS else host}:{port}"


def without_password(url: str) -> str:
    """``url`` as it may be printed: a password becomes ``***``."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))


def _shared(environ: Mapping[str, str], urls: ServerUrls) -> dict[str, str]:
    # Without PYTHONUNBUFFERED the last lines of a child that crashed would be missing from its log.
    fixed = {"RABBITMQ_URL": urls.rabbitmq_url, "REDIS_URL": urls.store_url, "PYTHONUNBUFFERED": "1"}
    return dict(environ) | fixed


def _integer(environ: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = environ.get(name, "")
    if not text:
        return None
    if not text.isdecimal() or not least <= int(text) <= most:
        raise BadSetting(f"{name}={text}: must be a whole number from {least} to {most}")
    return int(text)


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    try:
        return max(0.0, float(environ.get(name) or default))
    except ValueError as error:
        raise BadSetting(f"{name}={environ[name]}: must be a number of seconds") from error

"""A whole system on one machine, servers included, as one context manager: what ``run`` and ``demo`` share."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.local.child import StartFailed
from deploy.local.environment import Plan
from deploy.local.fleet import Commands, Fleet
from deploy.local.programs import MissingPrograms, find_programs
from deploy.local.servers import PrivateServers, ServerUrls, external_urls
from deploy.local.stop import StopRequest
from deploy.local.warden import Warden

Say = Callable[[str], None]


class Stopped(Exception):
    """The user asked to stop before the system was up."""


def has_gpu() -> bool:
    """Whether an NVIDIA driver shows a device on this machine."""
    return Path("/dev/nvidia0").exists()


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for this process. Raises ``StartFailed`` when another process holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise StartFailed(
                f"{directory} is in use by process {lock.read().strip() or '?'}: stop it first (Ctrl-C where it runs)"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def servers(directory: Path, environ: Mapping[str, str], warden: Warden, say: Say) -> Iterator[ServerUrls]:
    """The servers ``environ`` names, or private ones under ``directory`` for as long as the context is open."""
    urls = external_urls(environ)
    if urls is not None:
        say("using the servers of RABBITMQ_URL and REDIS_URL")
        yield urls
        return
    if environ.get("RABBITMQ_URL") or environ.get("REDIS_URL"):
        say("only one of RABBITMQ_URL and REDIS_URL is set: set both to use your servers; starting private ones")
    try:
        programs = find_programs()
    except MissingPrograms as error:
        raise StartFailed(f"{error}. `python3 -m deploy.local.install` installs or names what is needed.") from error
    started_at = time.monotonic()
    say("starting RabbitMQ and Redis")
    with PrivateServers(programs, directory, warden, environ) as private:
        say(f"RabbitMQ and Redis are up ({time.monotonic() - started_at:.1f} s)")
        yield private.urls
        say("stopping RabbitMQ and Redis")


@contextmanager
def local_system(
    plan: Plan,
    environ: Mapping[str, str],
    *,
    directory: Path,
    stop: StopRequest,
    say: Say,
    ports_from: tuple[int, int],
    commands: Commands | None = None,
) -> Iterator[tuple[Fleet, ServerUrls]]:
    """Servers, dispatcher and workers, ready for jobs; all stopped in order on exit.

    ``ports_from`` are the first ports to try for the dispatcher and for the workers' metrics. Raises ``StartFailed``
    with the reason, or ``Stopped`` when the user was faster.
    """
    with ExitStack() as stack:
        stack.enter_context(exclusive(directory))
        warden = stack.enter_context(Warden())
        urls = stack.enter_context(servers(directory, environ, warden, say))
        if stop.requested:
            raise Stopped
        fleet = Fleet(plan, urls, environ, directory=directory, warden=warden, commands=commands)
        stack.callback(_stop_fleet, fleet, say)
        say(f"starting the dispatcher and {plan.workers} worker{'' if plan.workers == 1 else 's'}")
        fleet.start(*ports_from)
        if not fleet.wait_until_ready(lambda: stop.requested):
            raise Stopped
        yield fleet, urls


def _stop_fleet(fleet: Fleet, say: Say) -> None:
    say("stopping the workers and the dispatcher")
    fleet.stop()

"""``make run``: the whole system in the foreground until Ctrl-C. ``python -m deploy.local.run``."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.local.child import StartFailed
from deploy.local.environment import DISPATCHER_PORT, METRICS_PORT, BadSetting, read_plan, without_password
from deploy.local.fleet import Commands, Fleet
from deploy.local.servers import ServerUrls, external_urls
from deploy.local.stop import StopRequest
from deploy.local.system import Stopped, has_gpu, local_system

WATCH_EVERY_S = 0.2


def main(argv: Sequence[str], environ: Mapping[str, str], commands: Commands | None = None) -> int:
    """Exit code 0 after Ctrl-C or SIGTERM, 1 when something could not start or ended by itself, 2 for a bad setting."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.run", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path(".run"), help="data and logs (default: .run)")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when the process that started this ends")
    options = parser.parse_args(argv)
    try:
        plan = read_plan(environ, has_gpu())
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 2
    stop = StopRequest(with_parent=options.stop_with_parent)
    began_at = time.monotonic()
    try:
        with local_system(
            plan,
            environ,
            directory=options.directory,
            stop=stop,
            say=say,
            ports_from=(DISPATCHER_PORT, METRICS_PORT),
            commands=commands,
        ) as (fleet, urls):
            for line in summary(fleet, urls, external_urls(environ) is not None, time.monotonic() - began_at):
                say(line)
            watch(fleet, stop.wait)
    except Stopped:
        pass
    except StartFailed as error:
        print(f"[run] {error}", file=sys.stderr, flush=True)
        return 1
    say("stopped")
    return 0


def watch(fleet: Fleet, wait: Callable[[float], bool]) -> None:
    """Return when ``wait`` says to stop. Raises ``StartFailed`` as soon as a child has ended by itself."""
    while not wait(WATCH_EVERY_S):
        fleet.raise_if_one_ended()


def summary(fleet: Fleet, urls: ServerUrls, external: bool, took_s: float) -> list[str]:
    """The addresses of everything. Passwords of servers that are not ours are not printed."""
    shown = without_password if external else str
    return [
        f"Affinity is up ({took_s:.1f} s). Ctrl-C stops all of it.",
        f"  dispatcher  {fleet.url}  (API: /docs, health: /health/ready, metrics: /metrics)",
        *(f"  {worker_id:<10}  {url}" for worker_id, url in fleet.metrics_urls.items()),
        f"  RabbitMQ    {shown(urls.rabbitmq_url)}",
        f"  Redis       {shown(urls.redis_url)}",
        f"  logs        {fleet.log_folder}/*.log",
        f"  try         curl -s {fleet.url}/jobs -H 'content-type: application/json' -H 'prefer: wait=60' \\",
        """                -d '{"model": "echo", "input": {"hello": "world"}}'""",
    ]


def say(line: str) -> None:
    """One line to the terminal, at once."""
    print(f"[run] {line}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], os.environ))

"""``python -m bench <command>``. Exit 0 when all is well, 1 when something does not hold, 2 for wrong arguments."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from bench import (
    catalog_command,
    hoarding,
    overhead,
    replay,
    report,
    scenarios,
    simulate,
    soak,
    system_test,
    telemetry,
    workload,
)
from bench.private_system import Addresses, private_system
from bench.round_trip import CannotMeasure

OFFLINE: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "simulate": simulate.run,
    "workload": workload.run,
    "catalog": catalog_command.run,
    "report": report.run,
    "scenario": scenarios.run,
}
"""Commands that need no running system."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit code."""
    parser = _parser(environ)
    options = parser.parse_args(argv)
    if not __debug__:
        parser.error("python -O removes what the checks assert: run it without")
    api_key = environ.get("AFFINITY_API_KEY") or None
    if options.command in OFFLINE:
        return OFFLINE[options.command](options)
    if options.command == "hoarding":
        return hoarding.run(options)
    if options.command == "soak":
        return soak.run(options)
    if options.command == "replay":
        return replay.run(options, api_key)
    if options.command == "system-test":
        return system_test.run(options.url, api_key, options.jobs, options.in_flight, Console(highlight=False))
    if options.telemetry:
        return _telemetry(options)
    return _overhead(options, environ.get("RABBITMQ_URL"), api_key)


def _telemetry(options: argparse.Namespace) -> int:
    notes = Console(stderr=True, highlight=False)
    notes.print(f"starting private servers and two systems (about half a minute), then {options.rounds} rounds of 4 s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Else what was started would be left behind.
    try:
        found = telemetry.measure(options.rounds)
    except CannotMeasure as error:
        notes.print(f"[red]cannot measure:[/red] {error}")
        return 1
    if options.json:
        print(found.as_json())
    else:
        telemetry.show(found, Console(highlight=False))
    return 0


def _overhead(options: argparse.Namespace, amqp_url: str | None, api_key: str | None) -> int:
    notes = Console(stderr=True, highlight=False)
    try:
        if options.url is None:
            notes.print("starting private servers, a dispatcher and one worker (about half a minute)")
            with private_system() as own:
                found = _measured(own, None, options.jobs)
        elif amqp_url:
            found = _measured(Addresses(amqp_url, options.url), api_key, options.jobs)
        else:
            raise CannotMeasure("--url needs RABBITMQ_URL too: both round trips must use the same broker")
    except CannotMeasure as error:
        notes.print(f"[red]cannot measure:[/red] {error}")
        return 1
    if options.json:
        print(found.as_json())
    else:
        overhead.show(found, Console(highlight=False))
    return 0


def _measured(where: Addresses, api_key: str | None, jobs: int) -> overhead.Overhead:
    return overhead.measure(where.amqp_url, where.url, api_key, jobs)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    system = commands.add_parser("system-test", help="check and load a running system (key: AFFINITY_API_KEY)")
    url = environ.get("AFFINITY_URL", "http://127.0.0.1:5000")
    system.add_argument("--url", default=url, help="the dispatcher (default: %(default)s)")
    system.add_argument("--jobs", type=_positive, default=300, help="jobs of the load test (default: 300)")
    system.add_argument("--in-flight", type=_positive, default=32, help="jobs at the same time (default: 32)")
    added = commands.add_parser("overhead", help="a warm job over HTTP beside a bare publish and consume")
    added.add_argument("--jobs", type=_positive, default=500, help="round trips of each kind (default: 500)")
    added.add_argument("--url", help="a running dispatcher on RABBITMQ_URL's broker (default: start a private system)")
    added.add_argument("--json", action="store_true", help="one JSON object")
    added.add_argument("--telemetry", action="store_true", help="instead: what metrics and events cost")
    added.add_argument("--rounds", type=_positive, default=15, help="of 2 s each, with --telemetry (default: 15)")
    simulate.add_parser(commands)
    workload.add_parser(commands)
    catalog_command.add_parser(commands)
    report.add_parser(commands)
    scenarios.add_parser(commands)
    replay.add_parser(commands, url)
    hoarding.add_parser(commands)
    soak.add_parser(commands, _positive)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))

"""``python -m tests.deploy``: the images are built, docker-compose.gpu.yml is brought up with simulated GPUs, used,
hurt and taken down. Exit code 0: every step was as it should be; 1: one was not; 2: there is no engine to do it with.

Needs docker, or podman (``make test-deploy`` installs it on Debian). Where no image can be pulled, stand-ins are made
of Debian's packages. Grafana and the exporter of Redis' metrics are left out: Debian has neither.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from tests.deploy import scenario
from tests.deploy.engine import Engine, Failed, NoEngine, find_engine
from tests.deploy.images import Built, build_ours, build_standins, can_pull
from tests.deploy.stack import Stack

FOLDER = Path(".run/test-deploy")


def say(line: str) -> None:
    """One line, at once."""
    print(f"[deploy] {line}", flush=True)


def main() -> int:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="images and settings of podman are kept here")
    parser.add_argument("--built", action="store_true", help="use the images of an earlier run as they are")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    began_at = time.monotonic()
    try:
        engine = find_engine(folder, os.environ)
        standins = not can_pull(engine)
        for image in build_standins(engine, folder, say) if standins else ():
            _tell(image)
        for image in () if asked.built else build_ours(engine, folder, say):
            _tell(image)
        _use(engine, Stack(engine, folder, standins=standins))
    except NoEngine as error:
        print(f"cannot be tried here: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    say(f"all of it took {time.monotonic() - began_at:.0f} s")
    return 0


def _tell(image: Built) -> None:
    say(f"{image.name}: {image.size_bytes / 1e6:.0f} MB, made in {image.took_s:.0f} s")


def _use(engine: Engine, stack: Stack) -> None:
    # A run that was ended half-way left containers, which would be taken for those of this one.
    stack.down("--volumes")
    try:
        say(scenario.missing_secrets_are_refused(stack))
        say(scenario.servers_come_up(stack))
        say(scenario.services_come_up(stack))
        say(scenario.containers_have_no_rights(stack, engine))
        say(scenario.keys_are_asked_for(stack))
        say(scenario.jobs_are_done(stack, "one"))
        say(scenario.workers_are_scaled(stack))
        say(scenario.prometheus_sees_all(stack))
        say(scenario.a_worker_is_killed(stack, engine))
        say(scenario.all_is_taken_down(stack, engine))
    finally:
        stack.down("--volumes")


if __name__ == "__main__":
    raise SystemExit(main())

"""``python -m tests.fuzz``: whatever the OpenAPI document allows or forbids, sent to a real dispatcher.

Exit code 0: nothing was found, in at least ``--cases`` cases; 1: something was; 2: the harness could not do its work.
"""

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.fuzz.run import Options, run
from tests.support.servers import session_servers


def main() -> int:
    """Run it as the command line says."""
    asked = _arguments()
    directory = asked.directory or Path(tempfile.mkdtemp(prefix="affinity-fuzz-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with session_servers(directory / "servers", os.environ) as servers:
            outcome = run(Options(asked.examples, asked.seed), directory, servers, f"fuzz{os.getpid()}")
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001 - told from a run that has found something
        traceback.print_exc()
        print(f"the harness failed; logs: {directory}", file=sys.stderr)
        return 2
    print(outcome.said)
    for fault in outcome.faults:
        print(f"fault: {fault}")
    enough = outcome.cases >= asked.cases
    print(f"{outcome.cases} cases of {outcome.operations} operations, seed {asked.seed}, {outcome.running_s:.0f} s")
    if not enough:
        print(f"fewer than {asked.cases} cases: ask for more with --examples")
    if outcome.passed and enough and asked.directory is None:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"logs: {directory}")
    return 0 if outcome.passed and enough else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=50, help="cases of an operation drawn in a phase, at most")
    parser.add_argument("--cases", type=int, default=2000, help="fewer than these is a failure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="keep logs and reports here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

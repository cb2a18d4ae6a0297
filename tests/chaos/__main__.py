"""``python -m tests.chaos``: random faults from a seed, a ledger kept by the client, a report at the end.

Exit code 0: nothing was lost, nothing is stuck, all was whole again in time; 1: something was not; 2: the harness
itself could not do its work.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.chaos.report import as_json, as_text
from tests.chaos.run import Options, run
from tests.chaos.script import Kind


def main() -> int:
    """Run it as the command line says."""
    asked = _arguments()
    directory = asked.directory or Path(tempfile.mkdtemp(prefix="affinity-chaos-"))
    told = ("jobs", "faults", "seed", "rate", "alone", "young", "kinds")
    options = Options(**{name: getattr(asked, name) for name in told})
    try:
        outcome = asyncio.run(run(options, directory, lambda line: print(line, file=sys.stderr, flush=True)))
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001 - told from a run that has failed
        traceback.print_exc()
        print(f"the harness failed; logs: {directory}", file=sys.stderr)
        return 2
    print(as_text(outcome))
    if asked.json:
        asked.json.write_text(json.dumps(as_json(outcome), indent=1) + "\n")
    if outcome.passed and asked.directory is None:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"\nlogs: {directory / 'logs'}")
    return 0 if outcome.passed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=40.0, help="jobs per second at most")
    parser.add_argument("--alone", action="store_true", help="one fault at a time: measures how long each takes")
    parser.add_argument("--young", action="store_true", help="declare queues while the broker is killed as well")
    parser.add_argument("--kinds", type=Kind, nargs="+", choices=list(Kind), help="these faults only")
    parser.add_argument("--directory", type=Path, help="keep logs and data here")
    parser.add_argument("--json", type=Path, help="write the report here as well, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

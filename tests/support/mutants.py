"""``make mutants``: would the fast tests notice if a rule of the policy were wrong?

mutmut changes ``affinity/policy`` in one place at a time and runs, in a forked process, the tests that pass through the
changed function, the quickest first. Its settings are in pyproject.toml; here is what it has no setting for: a folder
of its own, no mutants of text, hypothesis without chance, a table per file, and the limit.

It changes bodies of functions only. Constants, the numbers of ``tuning``, defaults of fields and functions with a
decorator (in the policy: properties) stay as they are: they are evaluated when a module is imported, once for all
mutants of a run.
"""

import os
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import hypothesis
from libcst import BaseString
from mutmut import __main__ as mutmut
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.mutators import mutation_operators, operator_string
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".run" / "mutants"
PARTS = ("affinity", "bench", "deploy", "models", "pyproject.toml", "tests", "worker")
LEAST_PERCENT = 90.0
PROCESSES = 2
NOTICED = ("killed", "timeout", "segfault")

Outcome = tuple[Path, str, str]
"""A mutant: the file it is in, its name, how it ended (``killed``, ``survived``, ``no tests``, ...)."""


def prepare() -> None:
    """Go into a new folder that looks like the project: mutmut works in the current one, on a copy of what is there."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for part in PARTS:
        (FOLDER / part).symlink_to(ROOT / part)
    os.chdir(FOLDER)
    # Else the tests would import what is not mutated.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]


def configure() -> None:
    """Set what mutmut has no setting for."""
    # Mutants of text ("XX...XX", upper case, lower case) show only whether a test compares a reason letter by letter.
    # Tests look for the names and the numbers in it, which are mutated; its wording may change.
    cast(list[object], mutation_operators).remove((BaseString, operator_string))
    hypothesis.settings.register_profile(
        "mutants",
        max_examples=30,
        deadline=None,
        derandomize=True,  # Else other mutants would survive each time.
        database=None,
        # Nobody reads the example. Shrinking it would take most of the time.
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )


def outcomes() -> list[Outcome]:
    """Of all mutants that were tried."""
    found = []
    for path in sorted(walk_mutatable_files()):
        mutants = SourceFileMutationData(path=path)
        mutants.load()
        found += [(path, name, status_by_exit_code[code]) for name, code in mutants.exit_code_by_key.items()]
    return [each for each in found if each[2] != "not checked"]


def percent(found: Iterable[str]) -> float:
    """Share of the mutants that were noticed, of all of them."""
    counts = Counter(found)
    return 100.0 * sum(counts[status] for status in NOTICED) / max(1, counts.total())


def report(found: list[Outcome]) -> None:
    """Each mutant that nobody noticed, as a difference, then a table per file."""
    by_file: defaultdict[str, list[str]] = defaultdict(list)
    for path, name, status in found:
        by_file[path.stem].append(status)
        if status not in NOTICED:
            lines = get_diff_for_mutant(name, path=path).splitlines()
            print(f"\n{status}: {name}", *(line for line in lines[2:] if line[:1] in {"-", "+"}), sep="\n    ")
    print(f"\n{'file':<16}{'mutants':>8}{'noticed':>8}{'missed':>8}{'percent':>9}")
    for file, statuses in [*by_file.items(), ("all", [status for _, _, status in found])]:
        noticed = sum(status in NOTICED for status in statuses)
        print(f"{file:<16}{len(statuses):>8}{noticed:>8}{len(statuses) - noticed:>8}{percent(statuses):>8.1f}%")


def main(files: list[str]) -> None:
    """Try all mutants, or those of some files (``eta``, ``ledger``); exit 1 if too few are noticed."""
    began_at = time.monotonic()
    prepare()
    configure()
    mutmut._run([f"affinity.policy.{file}.*" for file in files], PROCESSES)
    found = outcomes()
    report(found)
    print(f"\n{time.monotonic() - began_at:.0f} s; 'mutmut show NAME' in {FOLDER} shows all of a changed function")
    if percent(status for _, _, status in found) < LEAST_PERCENT:
        sys.exit(f"fewer than {LEAST_PERCENT:.0f} % of the mutants were noticed: the rules above need a test")


if __name__ == "__main__":
    main(sys.argv[1:])

"""One run: a real dispatcher and a worker on private servers, Schemathesis at them, and a look at what is left."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import TestServers
from tests.support.system import REPOSITORY, System, running_system, until

HERE = Path(__file__).parent
USERS = ("acme", "other", "op")
PHASES = ("examples", "coverage", "fuzzing", "stateful")
QUIET_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """``examples`` is how many cases of an operation are drawn in a phase at most; a run makes several for each."""

    examples: int = 50
    seed: int = 0
    phases: tuple[str, ...] = PHASES
    settings: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """``asked`` is how many of the document's ``operations`` were; ``said`` is Schemathesis' own report; ``faults`` are
    what else was found, in words.
    """

    cases: int
    operations: int
    asked: int
    exit_code: int
    running_s: float
    said: str
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True if every operation was asked and nothing was found."""
        return self.exit_code == 0 and not self.faults and self.asked == self.operations


def key_of(user: str) -> str:
    """The key of one of ``USERS``: fixed, or a seed would not make the same run."""
    return hashlib.sha256(user.encode()).hexdigest()


def write_users(directory: Path) -> tuple[Path, Path]:
    """The file of keys that the dispatcher reads, and that of users that Schemathesis reads."""
    keys, users = directory / "keys.toml", directory / "users.json"
    sums = {user: hashlib.sha256(key_of(user).encode()).hexdigest() for user in USERS}
    kinds = {user: "operator" if user == "op" else "tenant" for user in USERS}
    keys.write_text("\n".join(f"[[{kinds[u]}]]\nname = '{u}'\nkeys = ['{sums[u]}']\n" for u in USERS))
    header = {user: [{"name": "Authorization", "value": f"Bearer {key_of(user)}"}] for user in USERS}
    users.write_text(json.dumps({"auth": [{"name": u, "fixedHeaders": header[u]} for u in USERS]}))
    return keys, users


def run(options: Options, directory: Path, servers: TestServers, namespace: str) -> Outcome:
    """Fuzz a system of its own on these servers. Logs and the whole report stay in ``directory``."""
    keys, users = write_users(directory)
    settings = {**(options.settings or {}), "AFFINITY_API_KEYS_FILE": str(keys)}
    with running_system(servers.rabbitmq_url, servers.redis_url, namespace, directory, **settings) as system:
        system.http.headers["Authorization"] = f"Bearer {key_of('op')}"
        system.start_worker("w1")
        before = system.post("echo", {"n": 1}).json()["id"]
        # As a file, since it takes a key to have it, and users are for the operations only.
        (directory / "openapi.json").write_text(system.http.get("/openapi.json").text)
        status, said = _schemathesis(options, str(system.http.base_url), directory, users)
        faults = tuple(_left_behind(system, before))
    report = json.loads((directory / "report.json").read_text())
    return Outcome(
        cases=report["test_cases"]["generated"],
        operations=report["operations"]["total"],
        asked=report["operations"]["tested"],
        exit_code=status,
        running_s=report["running_time"],
        said=said,
        faults=faults,
    )


def _schemathesis(options: Options, url: str, directory: Path, users: Path) -> tuple[int, str]:
    """Its exit status and what it said."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
        *("run", str(directory / "openapi.json"), "--url", url, "--phases", ",".join(options.phases)),
        *("--max-examples", str(options.examples), "--seed", str(options.seed), "--no-color", "--no-shrink"),
        *("--report", "json", "--report-json-path", str(directory / "report.json")),
    ]
    ended = subprocess.run(
        command,
        cwd=directory,  # Where it leaves what it keeps for itself.
        env={**os.environ, "AFFINITY_FUZZ_USERS": str(users), "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (directory / "schemathesis.log").write_text(ended.stdout)
    return ended.returncode, ended.stdout


def _left_behind(system: System, before: str) -> Iterator[str]:
    """What the requests have done that they should not have. They may well have drained the worker."""
    for child in system.started:
        if not child.running:
            yield f"{child.name} has ended: {child.last_lines()}"
    if system.job(before).get("state") != "succeeded":
        yield f"a job from before is {system.job(before)}"
    system.http.post("/workers/w1/undrain")
    if system.run("echo", {"n": 2})["state"] != "succeeded":
        yield "a job afterwards has failed"
    try:
        until(lambda: not _unfinished(system), "every accepted job is over", QUIET_WITHIN_S)
    except AssertionError:
        yield f"jobs that do not end: {_unfinished(system)}"
    for line in (system.logs / "dispatcher.log").read_text().splitlines():
        if '"request.failed"' in line or "Traceback" in line:
            yield f"the dispatcher logged: {line}"


def _unfinished(system: System) -> list[str]:
    pages = [system.http.get("/jobs", params={"state": state}).json() for state in ("queued", "running")]
    return [job["id"] for page in pages for job in page["jobs"]]

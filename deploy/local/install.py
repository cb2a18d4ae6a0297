"""Make sure RabbitMQ, Redis and venv are on this machine: ``python3 -m deploy.local.install [prometheus] [chromium]``.

Runs before there is a virtual environment, so it imports the standard library only. Installs with apt where that is
possible (root, or sudo without a password); anywhere else it says in one message what to install.
"""

import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.local.programs import MissingPrograms, find_programs
from deploy.local.servers import external_urls

RUN_FOLDER = Path(".run")
POLICY_FILE = Path("/usr/sbin/policy-rc.d")

# epmd comes with Erlang, which comes with RabbitMQ.
PACKAGES = {"rabbitmq-server": "rabbitmq-server", "epmd": "rabbitmq-server", "redis-server": "redis-server"}
EXTRAS = {
    "prometheus": "promtool",
    "chromium": "chromium",
    # make test-deploy: an engine, its runtime, its network and names in it, a first process, root folders.
    "podman": "podman",
    "runc": "runc",
    "netavark": "/usr/lib/podman/netavark",
    "aardvark-dns": "/usr/lib/podman/aardvark-dns",
    "catatonit": "catatonit",
    "debootstrap": "debootstrap",
}
"""Debian packages, with a program of each, that are installed where somebody asks for them and that is possible. What
needs one says so itself where it is missing."""
ADVICE = {
    "debian": "sudo apt-get install rabbitmq-server redis-server",
    "fedora": "sudo dnf install rabbitmq-server redis",
    "darwin": "brew install rabbitmq redis",
}

Run = Callable[[Sequence[str]], int]


class CannotInstall(Exception):
    """The message says what to install, and how."""


def missing_packages(environ: Mapping[str, str]) -> list[str]:
    """Debian packages this machine lacks; none of the servers' when both are given by URL."""
    packages: set[str] = set()
    if external_urls(environ) is None:
        try:
            find_programs()
        except MissingPrograms as error:
            packages |= {PACKAGES[name] for name in error.missing}
    if importlib.util.find_spec("ensurepip") is None:
        # Debian keeps the part of venv that puts pip into it in a package of its own.
        packages.add(f"python3.{sys.version_info.minor}-venv")
    return sorted(packages)


def system_family(system: str, os_release: str) -> str:
    """``debian``, ``fedora``, ``darwin`` or ``other``, from ``platform.system()`` and the text of /etc/os-release."""
    if system == "Darwin":
        return "darwin"
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    names = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
    if {"debian", "ubuntu"} & set(names):
        return "debian"
    return "fedora" if {"fedora", "rhel", "centos"} & set(names) else "other"


def advice(packages: Sequence[str], family: str) -> str:
    """What a person has to do, in one message."""
    lines = [f"Affinity needs {', '.join(packages)} on this machine and cannot install them itself. Either run"]
    if family == "debian":
        lines.append(f"  sudo apt-get install {' '.join(packages)}")
    elif family in ADVICE:
        lines.append(f"  {ADVICE[family]}")
    else:
        lines += [f"  {command}    ({name})" for name, command in ADVICE.items()]
    lines.append("and start again, or set RABBITMQ_URL and REDIS_URL to servers you have: then none is started here.")
    return "\n".join(lines)


def privileges(run: Run, user: int, which: Callable[[str], str | None] = shutil.which) -> list[str] | None:
    """The prefix that makes a command run as root: nothing for root, ``sudo -n`` where it asks nothing, or ``None``."""
    if user == 0:
        return []
    if which("sudo") is not None and run(["sudo", "-n", "true"]) == 0:
        return ["sudo", "-n"]
    return None


@contextmanager
def services_stay_off(prefix: Sequence[str], run: Run, policy: Path = POLICY_FILE) -> Iterator[None]:
    """While open, installed packages start no service. A policy file that is there already is left as it is."""
    if policy.exists():
        yield
        return
    write = f"printf '#!/bin/sh\\nexit 101\\n' > {policy} && chmod 755 {policy}"
    run([*prefix, "sh", "-c", write])
    try:
        yield
    finally:
        run([*prefix, "rm", "-f", str(policy)])


def apt_install(packages: Sequence[str], prefix: Sequence[str], run: Run) -> None:
    """Install with apt; the distribution's services are neither started nor enabled. Raises ``CannotInstall``."""
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-o", "DPkg::Lock::Timeout=300"]
    # Stale lists name package versions the mirror no longer has. A broken third-party list only warns here; whether
    # the packages can be had is for the install to say.
    run([*apt, "update"])
    with services_stay_off(prefix, run):
        code = run([*apt, "install", "--no-install-recommends", *packages])
    if code != 0:
        raise CannotInstall(f"apt-get install {' '.join(packages)} failed with code {code}")
    for service in sorted({"prometheus", "rabbitmq-server", "redis-server"} & set(packages)):
        if shutil.which("systemctl"):
            run([*prefix, "systemctl", "disable", service])
        elif shutil.which("update-rc.d"):
            run([*prefix, "update-rc.d", service, "disable"])


def missing_extras(asked: Sequence[str], which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Those of ``EXTRAS`` that were asked for and are not here."""
    return [package for package, name in EXTRAS.items() if package in asked and which(name) is None]


def ensure(environ: Mapping[str, str], run: Run, say: Callable[[str], None], extras: Sequence[str] = ()) -> None:
    """Install what is missing. Raises ``CannotInstall`` when this user or system cannot; not for ``extras``."""
    packages, extras = missing_packages(environ), missing_extras(extras)
    if not packages and not extras:
        return
    release = Path("/etc/os-release")
    family = system_family(platform.system(), release.read_text() if release.exists() else "")
    prefix = privileges(run, os.geteuid()) if shutil.which("apt-get") else None
    if prefix is None:
        if packages:
            raise CannotInstall(advice(packages, family))
        say(f"{', '.join(extras)} is not here and cannot be installed by this user: what needs it is left out")
        return
    packages = [*packages, *extras]
    say(f"installing {', '.join(packages)} with apt (about a minute)")
    started_at = time.monotonic()
    apt_install(packages, prefix, run)
    still_missing = missing_packages(environ)
    if still_missing:
        raise CannotInstall(advice(still_missing, family))
    say(f"installed {', '.join(packages)} in {time.monotonic() - started_at:.0f} s")


def main(environ: Mapping[str, str], extras: Sequence[str] = ()) -> int:
    """Exit code 0 when everything is there; 1 with a message otherwise."""
    RUN_FOLDER.mkdir(exist_ok=True)
    log_path = RUN_FOLDER / "install.log"
    # `make` may run two of us side by side; apt's own locks would make the second fail instead of wait.
    with (RUN_FOLDER / "install.lock").open("w") as lock, log_path.open("a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def run(command: Sequence[str]) -> int:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode

        try:
            ensure(environ, run, lambda line: print(f"[servers] {line}", flush=True), extras)
        except CannotInstall as error:
            print(f"{error}\n(the log of what was tried is in {log_path})", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(os.environ, sys.argv[1:]))

"""The container engine of this machine: docker, or podman with podman-compose in a world of its own.

Podman's images, containers and settings lie under one folder, so that a run leaves nothing on the machine and finds
nothing of another one. Its runtime is runc: on machines whose kernel has control groups of version 1 crun does not run.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PODMAN = ("podman", "runc", "/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns", "catatonit")
"""What podman needs here: the engine, a runtime, its network, names in it, and the first process of a container."""


class NoEngine(Exception):
    """The message says what to install."""


class Failed(Exception):
    """A command of the engine ended with an error; the message has its last lines."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How its two commands are called, and in which environment."""

    program: str
    compose: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def checks_health(self) -> bool:
        """Whether it asks by itself how its containers are. Podman has systemd do it, which is not everywhere."""
        return self.program == "docker"

    def run(self, *arguments: str, timeout_s: float = 600.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The engine's own command. Raises ``Failed``."""
        return call([self.program, *arguments], self.environment, timeout_s, check=check)

    def lines(self, *arguments: str) -> list[str]:
        """What such a command prints, without empty lines."""
        return [line for line in self.run(*arguments).stdout.splitlines() if line.strip()]

    def inspect(self, container: str) -> dict[str, object]:
        """All that it knows of a container."""
        (found,) = json.loads(self.run("container", "inspect", container).stdout)
        return dict(found)


def call(
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout_s: float,
    *,
    check: bool = True,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end. Raises ``Failed`` with the last lines of what it said."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=dict(environment), timeout=timeout_s, cwd=cwd
    )
    if check and done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise Failed(f"{' '.join(command)[:300]}: exit code {done.returncode}\n{tail}")
    return done


def find_engine(folder: Path, environ: Mapping[str, str]) -> Engine:
    """Docker where it answers, else podman with all it needs. Raises ``NoEngine``."""
    if shutil.which("docker") and not _fails(["docker", "compose", "version"]) and not _fails(["docker", "info"]):
        return Engine("docker", ("docker", "compose"), environ)
    missing = [name for name in PODMAN if shutil.which(name) is None]
    if missing:
        packages = " ".join(Path(name).name for name in missing)
        raise NoEngine(
            f"no docker answers, and podman lacks {', '.join(missing)}. Install docker with its compose plugin, or: "
            f"apt-get install {packages} debootstrap"
        )
    compose = Path(sys.executable).with_name("podman-compose")
    # Without a pod: its first container is an image of its own, which cannot be pulled everywhere.
    return Engine("podman", (str(compose), "--in-pod", "false"), dict(environ) | _private(folder))


def _fails(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode != 0


def _private(folder: Path) -> dict[str, str]:
    """Settings files under ``folder``, and the variables that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    # Podman's own defaults may be above what this process may give away, and then no container starts.
    files = min(16384, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    processes = min(32768, resource.getrlimit(resource.RLIMIT_NPROC)[1])
    texts = {
        "containers.conf": f"""\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
image_default_format = "docker"
[network]
network_backend = "netavark"
""",
        "storage.conf": f"""\
[storage]
driver = "overlay"
runroot = "{folder / "run"}"
graphroot = "{folder / "storage"}"
""",
        "registries.conf": 'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "permissive"\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        # Without it an image in the format of OCI is made, which has no room for a health check.
        "BUILDAH_FORMAT": "docker",
        "TMPDIR": os.environ.get("TMPDIR", "/var/tmp"),
    }

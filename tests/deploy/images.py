"""The images of a run: ours from their Dockerfiles, and stand-ins for what cannot be pulled.

A stand-in is made of Debian's packages (``debootstrap`` and apt). Ours are built from ``deploy/docker`` as they are:
the stand-in for their base has its name. pip inside such a build gets this machine's settings by mounts: they are in no
layer and in no file of the repository.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.engine import Engine, Failed, NoEngine, call

ROOT = Path(__file__).parents[2]
STANDINS = Path(__file__).with_name("standins")
OURS = ("dispatcher", "worker")
SERVERS = {"rabbitmq": "debian-trixie", "redis": "debian-bookworm", "prometheus": "debian-bookworm"}
BUILD_TIMEOUT_S = 1800.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """An image: its name, how long it took to make, and what it takes of the disk with all its layers."""

    name: str
    took_s: float
    size_bytes: int


def base_image() -> str:
    """What our images are built from."""
    text = (ROOT / "deploy" / "docker" / "dispatcher.Dockerfile").read_text()
    (base,) = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    return str(base)


def can_pull(engine: Engine) -> bool:
    """Whether the base of our images is there or can be had."""
    return engine.run("pull", base_image(), check=False, timeout_s=300).returncode == 0


def build_standins(engine: Engine, folder: Path, say: Say) -> Iterator[Built]:
    """Base and servers out of Debian's packages; ``NoEngine`` where that is impossible."""
    if engine.program != "podman" or shutil.which("debootstrap") is None:
        raise NoEngine("no image can be pulled, and stand-ins need podman and debootstrap: apt-get install debootstrap")
    for suite in ("bookworm", "trixie"):
        if engine.run("image", "exists", f"localhost/debian:{suite}", check=False).returncode:
            say(f"no image can be pulled: Debian {suite} from its packages")
            yield _debian(engine, folder, suite)
    names = {"python": f"localhost/{base_image()}"}
    names |= {name: f"localhost/standin/{name}:{tag}" for name, tag in SERVERS.items()}
    for name, tag in names.items():
        say(f"stand-in for {name}")
        yield _build(engine, tag, STANDINS / f"{name}.Dockerfile", ["--network", "host", str(STANDINS)])


def build_ours(engine: Engine, folder: Path, say: Say) -> Iterator[Built]:
    """Dispatcher and worker, from the Dockerfiles that users build."""
    for name in OURS:
        file = ROOT / "deploy" / "docker" / f"{name}.Dockerfile"
        mounts = pip_mounts(folder) if engine.program == "podman" else []
        extra = ["--network", "host", "--ignorefile", f"{file}.dockerignore", *mounts] if mounts else []
        say(f"building affinity-{name}")
        yield _build(engine, f"affinity-{name}:0.1.0", file, [*extra, str(ROOT)])


def pip_mounts(folder: Path) -> list[str]:
    """Options of a build that give pip in it what pip on this machine has: its settings, and the files they name."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    settings = dict(re.findall(r"^(?:global|:env:|user|site|install)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    # A list of versions for this machine's own Python would be held against our pins; those are complete.
    settings.pop("constraint", None)
    text = "".join(f"{name} = {value}\n" for name, value in settings.items())
    file = folder / "pip.conf"
    file.write_text(f"[global]\n{text}")
    words = [word for value in settings.values() for word in value.split()]
    # An index in a folder links to files beside it.
    paths = {Path(word.removeprefix("file://")).parent for word in words if word.startswith("file://")}
    paths |= {Path(word) for word in words if word.startswith("/")}
    paths = {path for path in paths if path.exists()}
    mounts = [(file, "/etc/pip.conf"), *((path, str(path)) for path in sorted(paths))]
    return [option for source, target in mounts for option in ("--volume", f"{source}:{target}:ro")]


def _debian(engine: Engine, folder: Path, suite: str) -> Built:
    began_at = time.monotonic()
    root = folder / suite
    if not (root / "usr" / "bin" / "dpkg").exists() or (root / "debootstrap").exists():
        # A half-finished one cannot be gone on with.
        shutil.rmtree(root, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", suite, str(root), _mirror()]
        call(command, engine.environment, BUILD_TIMEOUT_S)
    packed = folder / f"{suite}.tar"
    left_out = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys", "var/cache/apt/archives")]
    call(["tar", "-C", str(root), *left_out, "-cf", str(packed), "."], engine.environment, BUILD_TIMEOUT_S)
    name = f"localhost/debian:{suite}"
    engine.run("import", "--quiet", str(packed), name, timeout_s=BUILD_TIMEOUT_S)
    packed.unlink()
    shutil.rmtree(root)
    return Built(name, time.monotonic() - began_at, size_bytes(engine, name))


def _mirror() -> str:
    """Where this machine gets Debian's packages."""
    for file in [*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")]:
        found = re.search(r"^(?:URIs:|deb(?: \[[^]]*\])?) *(\S+/debian/?)(?:\s|$)", file.read_text(), re.MULTILINE)
        if found:
            return found[1]
    raise NoEngine("this machine's sources of packages are not Debian's: stand-ins cannot be made")


def _build(engine: Engine, name: str, file: Path, options: list[str]) -> Built:
    began_at = time.monotonic()
    try:
        engine.run("build", "--tag", name, "--file", str(file), *options, timeout_s=BUILD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{name} was not built within {BUILD_TIMEOUT_S:.0f} s") from error
    return Built(name, time.monotonic() - began_at, size_bytes(engine, name))


def size_bytes(engine: Engine, name: str) -> int:
    """What an image takes with all its layers."""
    return int(engine.run("image", "inspect", "--format", "{{.Size}}", name).stdout)

"""Where RabbitMQ's, Erlang's and Redis' programs are on this machine.

Debian's ``rabbitmq-server`` in PATH is a wrapper that switches to the user ``rabbitmq``, which a private node must not
do; the program it wraps is in ``/usr/lib/rabbitmq/bin``. Elsewhere (Homebrew, Fedora, the generic Unix package) the
one in PATH is the program itself.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RABBITMQ_FOLDERS = (
    Path("/usr/lib/rabbitmq/bin"),
    Path("/opt/rabbitmq/sbin"),
    Path("/opt/homebrew/opt/rabbitmq/sbin"),
    Path("/usr/local/opt/rabbitmq/sbin"),
)
ERLANG_FOLDERS = (Path("/usr/lib/erlang/bin"), Path("/usr/local/lib/erlang/bin"), Path("/opt/homebrew/lib/erlang/bin"))
SYSTEM_FOLDERS = (Path("/usr/sbin"), Path("/usr/local/sbin"), Path("/usr/local/bin"), Path("/opt/homebrew/bin"))


class MissingPrograms(Exception):
    """``missing`` names the programs that were not found: ``rabbitmq-server``, ``epmd``, ``redis-server``."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(f"not found on this machine: {', '.join(missing)}")
        self.missing = tuple(missing)


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the programs a private broker and store are made of."""

    rabbitmq_server: Path
    epmd: Path
    redis_server: Path


def find_programs(which: Callable[[str], str | None] = shutil.which, *, folders_of_the_system: bool = True) -> Programs:
    """Look in the usual folders and in PATH. Raises ``MissingPrograms`` naming every one that is not there.

    ``folders_of_the_system=False`` asks ``which`` only.
    """
    first = {"rabbitmq-server": RABBITMQ_FOLDERS, "epmd": ERLANG_FOLDERS, "redis-server": ()}
    found: dict[str, Path] = {}
    for name, folders in first.items():
        in_path = which(name)
        candidates = [folder / name for folder in folders] if folders_of_the_system else []
        candidates += [Path(in_path)] if in_path is not None else []
        candidates += [folder / name for folder in SYSTEM_FOLDERS] if folders_of_the_system else []
        path = next((path for path in candidates if path.is_file()), None)
        if path is not None:
            found[name] = path
    missing = [name for name in first if name not in found]
    if missing:
        raise MissingPrograms(missing)
    return Programs(found["rabbitmq-server"], found["epmd"], found["redis-server"])

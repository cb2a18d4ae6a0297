"""Where a model's files are: in an installed package, or under a path. No torch, no network."""

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path, PurePath

from affinity.errors import LoadFailed

PACKAGE = "package:"
"""Prefix of a source whose files were installed with a distribution, as in ``package:silero-vad``."""

PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
"""Endings of files that run code when they are read."""


def find_files(source: str, folder: Path, pattern: str) -> tuple[Path, ...]:
    """Files of a source whose names match a glob pattern, sorted; at least one.

    ``source`` is ``package:<distribution>``, a folder (searched at its top) or a file. Relative paths start at
    ``folder``. Raises ``LoadFailed`` that says what is missing.
    """
    if source.startswith(PACKAGE):
        candidates = _package_files(source.removeprefix(PACKAGE))
    else:
        candidates = _path_files(folder / source)
    found = tuple(sorted(path for path in candidates if path.match(pattern) and path.is_file()))
    if not found:
        raise LoadFailed(f"source {source!r} holds no {pattern}{_hint(candidates)}")
    return found


def disk_bytes(source: str, folder: Path, pattern: str) -> int | None:
    """Size of a source's matching files; ``None`` where they are not on this machine."""
    try:
        return sum(path.stat().st_size for path in find_files(source, folder, pattern))
    except (LoadFailed, OSError):
        return None


def _package_files(distribution: str) -> list[Path]:
    try:
        files = metadata.distribution(distribution).files
    except metadata.PackageNotFoundError:
        raise LoadFailed(f"package {distribution!r} is not installed here: pip install {distribution}") from None
    return [Path(str(file.locate())) for file in files or ()]


def _path_files(path: Path) -> list[Path]:
    if path.is_dir():
        return list(path.iterdir())
    if path.is_file():
        return [path]
    raise LoadFailed(f"{path} does not exist on this machine: put the weights there or correct 'source'")


def _hint(candidates: Iterable[PurePath]) -> str:
    pickles = sorted(path.name for path in candidates if path.suffix in PICKLES)
    return f" but {', '.join(pickles)}: a pickle is never loaded, convert it to safetensors" if pickles else ""

"""Puts an overlay on the cluster that kubectl points at: ``python -m deploy.k8s.apply gpu [--dry-run]``.

Kustomize takes an empty password as readily as a good one, so the secrets are looked at first. Nothing is sent to the
cluster where one is missing.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "overlays"
SHORTEST = {"REDIS_PASSWORD": 16, "AFFINITY_API_KEYS": 32}
"""Secrets of an overlay and how long each (each key of a list) has to be."""

DEMO = "demo-cpu"
EXIT_REFUSED = 2


def secrets_of(text: str) -> dict[str, str]:
    """Names and values of a file of ``NAME=value`` lines, as kustomize reads it."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value for name, _, value in pairs}


def problems(secrets: Mapping[str, str]) -> list[str]:
    """What is wrong with them, one line each; never a value."""
    lines = []
    for name, shortest in SHORTEST.items():
        values = [value.strip() for value in secrets.get(name, "").split(",")]
        if values == [""]:
            lines.append(f"{name} is not set")
        elif not all(value.isascii() and value.isalnum() for value in values):
            lines.append(f"{name} may have letters and digits only")
        elif min(map(len, values)) < shortest:
            lines.append(f"{name} is shorter than {shortest} characters")
        elif any(len(set(value)) < 6 or value.startswith("demo") for value in values):
            lines.append(f"{name} can be guessed")
    return lines


def refusal(overlay: Path) -> str | None:
    """Why this overlay is not applied, with what to do; ``None`` where nothing is wrong."""
    if not (overlay / "kustomization.yaml").is_file():
        there = sorted(path.name for path in overlay.parent.iterdir() if path.is_dir())
        return f"there is no overlay {overlay.name}; there are {', '.join(there)}"
    if overlay.name == DEMO:
        return None
    file = overlay / ".env"
    if not file.is_file():
        return f"the secrets are missing: cp {overlay / 'env.example'} {file}, and set what is in it"
    wrong = problems(secrets_of(file.read_text(encoding="utf-8")))
    if wrong:
        return "\n  ".join([f"{file}:", *wrong, "make one with: openssl rand -hex 24 (a key: openssl rand -hex 32)"])
    return None


def main(arguments: Sequence[str], folder: Path = FOLDER) -> int:
    """Exit code of kubectl, or 2 where nothing was sent."""
    parser = argparse.ArgumentParser(prog="python -m deploy.k8s.apply", description=__doc__)
    parser.add_argument("overlay", help="gpu, or demo-cpu")
    parser.add_argument("--dry-run", action="store_true", help="have the cluster check it and change nothing")
    asked = parser.parse_args(arguments)
    overlay = folder / asked.overlay
    why = refusal(overlay)
    if why is not None:
        print(f"not applied: {why}", file=sys.stderr)
        return EXIT_REFUSED
    # Server-side: the dashboards are too long for the annotation that kubectl would otherwise keep.
    command = ["kubectl", "apply", "--server-side", "--kustomize", str(overlay)]
    if asked.dry_run:
        command.append("--dry-run=server")
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        print("not applied: kubectl is not on this machine", file=sys.stderr)
        return EXIT_REFUSED


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

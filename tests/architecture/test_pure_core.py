"""``affinity`` outside ``io`` is pure: standard library only, and nothing of it that asks the world for anything."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = sorted(path for path in (ROOT / "affinity").rglob("*.py") if "io" not in path.relative_to(ROOT).parts)

BANNED_MODULES = {"asyncio", "logging", "os", "subprocess", "socket", "threading", "time"}
BANNED_CALLS = {"now", "utcnow", "today", "print", "open", "input"}
# ``random.Random`` is the type of an argument; a generator of one's own would make a decision unrepeatable.
ALLOWED_OF_RANDOM = {"Random"}


def violations(source: str) -> Iterator[str]:
    """What in ``source`` the core must not contain, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        for name in names:
            top = name.partition(".")[0]
            if top in BANNED_MODULES or (top not in sys.stdlib_module_names and top != "affinity"):
                yield f"line {node.lineno}: import {name}"
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            yield from (f"line {node.lineno}: random.{a.name}" for a in node.names if a.name not in ALLOWED_OF_RANDOM)
        if (
            isinstance(node, ast.Attribute)
            and ast.unparse(node.value) == "random"
            and node.attr not in ALLOWED_OF_RANDOM
        ):
            yield f"line {node.lineno}: random.{node.attr}"
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in BANNED_CALLS:
                yield f"line {node.lineno}: {called}()"
            if called == "Random":
                yield f"line {node.lineno}: a random generator is an argument"


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_asks_nobody(path: Path) -> None:
    assert list(violations(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import environ",
        "import redis.asyncio",
        "from datetime import datetime\nat = datetime.now()",
        "import random\nx = random.random()",
        "from random import choice",
        "from random import Random\nrng = Random(7)",
        "print('hello')",
        "def f():\n    import logging",
    ],
)
def test_the_check_itself_finds_what_it_should(source: str) -> None:
    assert list(violations(source))


def test_a_generator_as_an_argument_is_fine() -> None:
    assert not list(violations("from random import Random\ndef f(rng: Random) -> float:\n    return rng.random()"))

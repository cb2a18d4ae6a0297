"""Every line of the log that names a job names its model as well: who looks for one finds it by either."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("affinity", "dispatcher", "worker") for path in (ROOT / package).rglob("*.py"))
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
NEVER = {"input", "result", "body", "content", "metadata", "key", "password", "url", "headers"}


def wrong(source: str) -> list[str]:
    """Lines that name a job without its model, or say what no log may hold."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
            continue
        if ast.unparse(node.func.value) != "log":
            continue
        fields = {keyword.arg for keyword in node.keywords}
        if (fields & {"job", "jobs"} and "model" not in fields) or fields & NEVER:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_line_about_a_job_has_its_model_and_no_line_has_an_input(path: Path) -> None:
    assert wrong(path.read_text()) == []


@pytest.mark.parametrize("source", ['log.info("x", job=1)', 'log.debug("x", job=1, model="m", input=2)'])
def test_the_check_itself_finds_what_it_should(source: str) -> None:
    assert wrong(source)

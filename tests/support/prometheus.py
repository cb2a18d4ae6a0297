"""Prometheus' own programs for tests: where they are missing a test is skipped, with ``CI`` set it fails."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
RULE_FILES = ("recording.yml", "slo.yml", "alerts.yml")


def program(name: str) -> str:
    """The path of ``promtool`` or ``prometheus``."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed: {sys.executable} -m deploy.local.install prometheus"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool; its output is in ``stdout`` and ``stderr``."""
    command = [program("promtool"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def run_rule_tests(tests: list[dict[str, Any]], folder: Path, evaluate_every: str = "1m") -> str:
    """Run promtool's unit tests over our rules; what it says where one fails, else nothing."""
    document = {
        "rule_files": [str(RULES / name) for name in RULE_FILES],
        "evaluation_interval": evaluate_every,
        "tests": tests,
    }
    path = folder / "tests.yml"
    path.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML.
    ran = promtool("test", "rules", str(path))
    return "" if ran.returncode == 0 else f"{ran.stdout}\n{ran.stderr}"


def metrics_in(expr: str) -> set[str]:
    """Names of the series that an expression reads."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]', " ", expr)
    bare = re.sub(r"\b(by|on|group_left|without)\s*\([^)]*\)", " ", bare)
    words = set(re.findall(r"[a-zA-Z_:][\w:]*(?!\w|\s*\()", bare))
    return {word for word in words if "_" in word or ":" in word or word in {"up", "ALERTS"}}

"""What people read agrees with what runs: settings with ``.env.example``, the contract's commands with the Makefile."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from dispatcher.settings import DispatcherSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]

# CUDA's own variable, documented by NVIDIA; the worker only takes note of it.
NOT_OURS = {"CUDA_VISIBLE_DEVICES"}
# What is read by `make run`, by the command line and by the Hugging Face libraries.
READ_ELSEWHERE = {"WORKERS", "AFFINITY_URL", "AFFINITY_API_KEY", "HF_HUB_OFFLINE"}
COMMANDS = (
    *("demo", "run", "test", "check", "bench", "up", "down", "logs", "scale-worker", "monitor", "clean", "help"),
    "system-test",
)


def example_names() -> set[str]:
    """Every variable of ``.env.example``, those commented out included."""
    text = (ROOT / ".env.example").read_text()
    return set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", text, flags=re.MULTILINE))


def setting_names(settings: type[BaseSettings]) -> set[str]:
    """Environment variables of a settings class."""
    prefix = settings.model_config.get("env_prefix", "")
    return {f"{prefix}{name}".upper() for name in settings.model_fields}


@pytest.mark.parametrize("settings", [DispatcherSettings, WorkerSettings])
def test_every_setting_is_in_the_example(settings: type[BaseSettings]) -> None:
    assert setting_names(settings) - NOT_OURS <= example_names()


def test_the_example_names_no_setting_that_is_gone() -> None:
    compose = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.gpu.yml").read_text()))
    known = setting_names(DispatcherSettings) | setting_names(WorkerSettings) | compose | READ_ELSEWHERE
    assert example_names() - known == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_contract_is_a_documented_make_target(command: str) -> None:
    assert re.search(rf"^{command}:.*## \S", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_gate_runs_check_and_test() -> None:
    gate = ROOT / ".ci" / "run"
    assert re.search(r"^make .*\bcheck test\b", gate.read_text(), flags=re.MULTILINE)
    assert gate.stat().st_mode & 0o111, "it must be executable"

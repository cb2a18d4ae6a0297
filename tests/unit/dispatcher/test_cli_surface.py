"""What the command line promises: its exit codes as documented, and completion in three shells."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dispatcher.cli import app, run
from dispatcher.cli_shell import EXIT_CODES, Shell
from dispatcher.client import Client

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "cli.md").read_text()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints that asks nobody."""
    assert run(arguments, Shell(Client, Console(), Console(stderr=True))) == 0
    return capsys.readouterr().out


def test_the_exit_codes_are_those_of_the_document() -> None:
    table = re.findall(r"^\| (\d+) \| (.+) \|$", TEXT, flags=re.MULTILINE)
    assert {int(code): meaning for code, meaning in table} == EXIT_CODES


def test_every_command_and_option_that_the_document_shows_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    named = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    assert set(re.findall(r"^affinity ([a-z-]+)", TEXT, flags=re.MULTILINE)) <= set(named)
    known = "".join(said(capsys, command, "--help") for command in ("submit", "jobs", "top"))
    assert {option for option in re.findall(r"--[a-z][a-z-]+", TEXT) if option not in known} == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_ask(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = said(capsys, "completion", shell)
    assert f"_AFFINITY_COMPLETE=complete_{shell}" in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_command_with_our_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(said(capsys, "completion", "bash"))
    typed = "COMP_WORDS=(affinity un); COMP_CWORD=1; _affinity_completion affinity; echo ${COMPREPLY[@]}"
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-c", f"source {script}; {typed}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"unload", "unpin", "undrain"}

"""The supervisor of ``make run`` with stand-ins for the services: what it starts, says, notices and stops."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import free_ports
from tests.support.processes import group_is_gone

ROOT = Path(__file__).parents[3]
FAKES = Path(__file__).with_name("fake_services.py")
EXTERNAL = {"RABBITMQ_URL": "amqp://me:secret@broker.test/", "REDIS_URL": "redis://store.test/0"}


@contextmanager
def running(tmp_path: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """``make run`` with stand-ins; killed at the end should the test not have ended it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WORKER", "DISPATCHER"))}
    environment = inherited | EXTERNAL | {"FAKE_FOLDER": str(tmp_path), "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, str(FAKES), "run", "--directory", str(tmp_path / "run"), *arguments]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"{text!r} never came:\n{''.join(lines)}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def worker_note(tmp_path: Path, worker_id: str) -> dict[str, str]:
    note: dict[str, str] = json.loads((tmp_path / f"{worker_id}.worker").read_text())
    return note


def test_it_starts_three_simulated_workers_prints_addresses_and_stops_workers_first(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        lines = "".join(lines_until(process, "try "))
        url = re.search(r"dispatcher +(http://\S+)", lines)
        assert url is not None
        assert httpx.get(f"{url[1]}/health/ready").status_code == 200
        assert [worker_note(tmp_path, f"worker-{n}")["WORKER_GPU"] for n in (1, 2, 3)] == ["simulated"] * 3
        assert len({worker_note(tmp_path, f"worker-{n}")["WORKER_METRICS_PORT"] for n in (1, 2, 3)}) == 3
        assert "secret" not in lines
        process.send_signal(signal.SIGTERM)
        code, output = ended(process)
    assert code == 0, output
    order = [line.split()[0] for line in (tmp_path / "ended").read_text().splitlines()]
    assert sorted(order[:3]) == ["worker-1", "worker-2", "worker-3"]
    assert order[3:] == ["dispatcher"]


def test_settings_of_the_environment_reach_the_workers(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with running(
        tmp_path, WORKERS="1", WORKER_ID="rack7", WORKER_SIMULATED_VRAM_GIB="80", DISPATCHER_PORT=str(port)
    ) as process:
        lines = "".join(lines_until(process, "try "))
        assert f"http://127.0.0.1:{port} " in lines
        note = worker_note(tmp_path, "rack7-1")
        assert note["WORKER_SIMULATED_VRAM_GIB"] == "80"
        assert (note["RABBITMQ_URL"], note["REDIS_URL"]) == (EXTERNAL["RABBITMQ_URL"], EXTERNAL["REDIS_URL"])
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 0


def test_two_sigterms_at_once_are_one_request(tmp_path: Path) -> None:
    with running(tmp_path, WORKERS="1") as process:
        lines_until(process, "try ")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 0
    assert (tmp_path / "ended").read_text().count("\n") == 2


def test_a_worker_that_dies_is_reported_with_its_last_words_and_everything_stops(tmp_path: Path) -> None:
    with running(tmp_path, FAKE_CRASH="worker-2") as process:
        code, output = ended(process)
    assert code == 1
    assert "worker-2 ended unexpectedly with code 17" in output
    assert "the GPU has fallen off the bus" in output
    assert "dispatcher" in (tmp_path / "ended").read_text()


def test_a_worker_killed_later_stops_the_system_too(tmp_path: Path) -> None:
    with running(tmp_path, WORKERS="2") as process:
        lines_until(process, "try ")
        os.kill(int(worker_note(tmp_path, "worker-1")["pid"]), signal.SIGKILL)
        code, output = ended(process)
    assert code == 1
    assert "worker-1 ended unexpectedly with code -9" in output


def test_killing_the_supervisor_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path, WORKERS="1") as process:
        lines_until(process, "try ")
        process.kill()
        process.wait()
        assert group_is_gone(int(worker_note(tmp_path, "worker-1")["pid"]))


def test_it_stops_with_the_process_that_started_it(tmp_path: Path) -> None:
    with running(tmp_path, "--stop-with-parent", WORKERS="1") as process:
        lines_until(process, "try ")
    # The parent of `process` is this test, so a shell in between plays the part of make.
    command = [sys.executable, str(FAKES), "run", "--directory", str(tmp_path / "second"), "--stop-with-parent"]
    environment = os.environ | EXTERNAL | {"FAKE_FOLDER": str(tmp_path), "PYTHONPATH": str(ROOT), "WORKERS": "1"}
    with subprocess.Popen(
        ["sh", "-c", '"$@"; exit', "sh", *command], env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE
    ) as shell:
        lines_until(shell, "try ")
        shell.kill()
        assert "stopped" in lines_until(shell, "stopped")[-1]


@pytest.mark.parametrize("variables", [{"WORKERS": "many"}, {"DISPATCHER_PORT": "99999"}])
def test_a_bad_setting_is_named_and_nothing_starts(tmp_path: Path, variables: dict[str, str]) -> None:
    with running(tmp_path, **variables) as process:
        code, output = ended(process)
    assert code == 2
    assert next(iter(variables)) in output
    assert not (tmp_path / "run").exists()


def test_a_port_that_was_asked_for_and_is_taken_is_named(tmp_path: Path) -> None:
    with running(tmp_path, WORKERS="0") as first:
        taken = re.search(r"dispatcher +http://127.0.0.1:(\d+)", "".join(lines_until(first, "try ")))
        assert taken is not None
        with running(tmp_path / "other", DISPATCHER_PORT=taken[1]) as second:
            code, output = ended(second)
    assert code == 1
    assert f"DISPATCHER_PORT={taken[1]} is in use" in output


def test_a_second_run_in_the_same_directory_is_refused_with_the_first_one_named(tmp_path: Path) -> None:
    with running(tmp_path, WORKERS="0") as first:
        lines_until(first, "try ")
        with running(tmp_path, WORKERS="0") as second:
            code, output = ended(second)
        assert code == 1
        assert f"in use by process {first.pid}" in output

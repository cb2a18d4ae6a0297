"""The system test against the real thing: it must hold there, and must not where something is wrong."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.system import REPOSITORY, System, running_system

KEY = "system-test-key"


def system_test(system: System, *arguments: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", "system-test", "--url", str(system.http.base_url), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "AFFINITY_API_KEY": key, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_it_holds_on_a_dispatcher_with_two_workers(rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path):
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path, AFFINITY_API_KEYS=KEY) as system:
        system.http.headers["Authorization"] = f"Bearer {KEY}"
        system.start_worker("w1")
        system.start_worker("w2")
        done = system_test(system, "--jobs", "60", "--in-flight", "16")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed:" not in done.stdout
    assert "left out" not in done.stdout
    assert done.stdout.rstrip().endswith("holds")


def test_it_fails_without_a_worker_or_a_key_and_says_so(
    rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path
):
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path, AFFINITY_API_KEYS=KEY) as system:
        without_worker = system_test(system)
        without_key = system_test(system, key="another")
    assert (without_worker.returncode, without_key.returncode) == (1, 1)
    assert "no worker is up" in without_worker.stdout
    assert "set AFFINITY_API_KEY" in without_key.stdout


def test_it_says_that_nobody_answers():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "system-test", "--url", "http://127.0.0.1:9"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "no dispatcher answers at http://127.0.0.1:9" in done.stdout

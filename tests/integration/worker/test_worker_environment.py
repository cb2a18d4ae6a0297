"""The worker's settings in a process of their own: what the real environment makes of them."""

import os
import subprocess
import sys

LOAD = "from affinity.io.connection_settings import load_settings\nfrom worker.settings import *\n"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process with this environment alone, as a worker is started."""
    return subprocess.run(
        [sys.executable, "-c", LOAD + code],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_defaults_fit_together():
    code = (
        "s = load_settings(WorkerSettings)\nprint(s.worker_gpu, s.worker_lease_s, s.worker_metrics_port, s.worker_id)"
    )
    words = run(code).stdout.split()
    assert words[:3] == ["auto", "10.0", "8000"]
    name, _, pid = words[3].rpartition("-")
    assert name
    assert pid.isdecimal(), "two workers on one host must not share an id"


def test_every_bad_setting_is_named_at_once_and_the_process_ends_with_2():
    ended = run(
        "load_settings(WorkerSettings)",
        WORKER_GPU="amd",
        WORKER_GPU_INDEX="0,x",
        WORKER_SIMULATED_VRAM_GIB="-1",
        WORKER_HEARTBEAT_S="5",
        WORKER_METRICS_PORT="70000",
        WORKER_ID="a b",
        REDIS_URL="here",
    )
    assert ended.returncode == 2
    bad = ["WORKER_GPU:", "WORKER_GPU_INDEX:", "WORKER_SIMULATED_VRAM_GIB:", "WORKER_METRICS_PORT:", "WORKER_ID:"]
    for name in [*bad, "WORKER_LEASE_S: must be at least 3 x WORKER_HEARTBEAT_S (5)", "REDIS_URL:"]:
        assert name in ended.stderr
    assert ended.stderr.startswith("7 bad settings")


def test_an_empty_cuda_visible_devices_is_not_the_same_as_none():
    code = "print(repr(load_settings(WorkerSettings).cuda_visible_devices))"
    assert run(code, CUDA_VISIBLE_DEVICES="").stdout.strip() == "''"
    assert run(code, CUDA_VISIBLE_DEVICES="0,1").stdout.strip() == "'0,1'"
    assert run(code).stdout.strip() == "None"


def test_executors_inherit_the_environment_without_passwords():
    code = "print(*sorted(executor_environment()))"
    secret = {"RABBITMQ_URL": "amqp://u:p@h", "REDIS_URL": "x", "AFFINITY_API_KEYS": "k", "WORKER_ID": "w"}
    names = run(code, **secret, HF_HOME="/models").stdout.split()
    assert {"PATH", "HF_HOME"} <= set(names)
    assert not set(names) & secret.keys()

"""What the simulator says of a scenario is what real processes do in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.catalog_command import catalogue_lines
from bench.models_file import write_models
from bench.trace import write_trace
from bench.workload import workloads
from tests.support.system import REPOSITORY, running_system

AGREE = 0.15
ALIKE = 0.35
"""How far latency and loads may be apart: half of the loads are decided before anything was measured."""


def test_makespan_and_hit_ratio_of_a_replay_are_those_of_the_simulator(
    rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    workload = workloads()["agreement"]
    jobs, models = workload.generate(0)
    trace, sizes, catalogue = (tmp_path / name for name in ("trace.jsonl", "models.json", "catalogue.toml"))
    write_trace(trace, jobs)
    write_models(sizes, models)
    catalogue.write_text("\n".join(catalogue_lines(models.values())))
    # Leases as in service: a machine that is busy for a second must not lose a worker here.
    lease = {"WORKER_HEARTBEAT_S": "1", "WORKER_LEASE_S": "10"}
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path, MODELS_CATALOG=str(catalogue), **lease) as system:
        for number in range(workload.workers):
            system.start_worker(f"w{number}", WORKER_SIMULATED_VRAM_GIB=f"{workload.worker_vram_gib:g}")
        files = ("--trace", str(trace), "--models", str(sizes))
        done = subprocess.run(
            (
                sys.executable,
                "-m",
                "bench",
                "replay",
                "--compare",
                "--json",
                *files,
                "--url",
                str(system.http.base_url),
            ),
            cwd=REPOSITORY,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["jobs"] == len(jobs)
    for name, apart in (("makespan_s", AGREE), ("hit_ratio", AGREE), ("mean_s", ALIKE), ("loads", ALIKE)):
        assert found[name] == pytest.approx(found[f"simulated_{name}"], rel=apart), name
    # Saturated: the last arrival does not decide when all is done.
    assert found["makespan_s"] > 1.2 * jobs[-1].arrival_s
    assert found["eta_scored"] >= 20
    assert found["eta_unknown"] == 0
    assert found["eta_in_range"] >= 0.5

"""The Redis primary is killed while jobs flow, and Sentinel makes its replica the primary; that is emptied later on."""

import os
import secrets
import time
from collections.abc import Iterator

import pytest

from tests.support.sentinel_servers import DOWN_AFTER_MS, Watched, watched_redis
from tests.support.steady_load import CATALOGUE, MODELS, goes_on
from tests.support.system import System, running_system, until

BEFORE_S = 3.0
BACK_WITHIN_S = DOWN_AFTER_MS / 1000 + 20.0


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_redis(tmp_path_factory.mktemp("watched"), os.environ) as running:
        yield running


@pytest.fixture(scope="module")
def system(rabbitmq_url: str, watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two workers, each with a model."""
    folder = tmp_path_factory.mktemp("sentinel")
    catalogue = folder / "catalogue.toml"
    catalogue.write_text(CATALOGUE)
    # What the tests themselves read is on the replica, first and last.
    urls, namespace = (rabbitmq_url, watched.server_url(1)), f"t{secrets.token_hex(6)}"
    settings = {"REDIS_URL": watched.url, "MODELS_CATALOG": str(catalogue)}
    with running_system(*urls, namespace, folder, **settings) as running:
        for worker, model in zip(("w1", "w2"), MODELS, strict=True):
            running.start_worker(worker)
            running.run(model, {})
        yield running


@pytest.mark.timeout(180)
def test_the_primary_may_be_killed_under_load_and_its_replica_goes_on(watched: Watched, system: System) -> None:
    goes_on(system, watched.first.kill, BEFORE_S, BACK_WITHIN_S, "the primary")


def test_jobs_that_are_queued_when_redis_is_emptied_are_run_all_the_same(watched: Watched, system: System) -> None:
    values = [{"processing_time": 0.15, "number": number} for number in range(60)]
    jobs = [{"model": MODELS[0], "input": value} for value in values]
    ids = [job["id"] for job in system.http.post("/jobs/batch", json={"jobs": jobs}).json()["jobs"]]
    until(lambda: system.job(ids[0])["state"] == "succeeded", "they are under way")
    with watched.primary as client:
        client.flushdb()
    assert system.http.get(f"/jobs/{ids[-1]}").status_code == 404
    began = time.monotonic()
    # The first may have ended before, and are forgotten; what is behind them was queued for sure.
    ended = [system.ended(job_id, within_s=60) for job_id in ids[30:]]
    print(f"30 queued jobs that Redis forgot were over after {time.monotonic() - began:.1f} s")
    assert [(job["state"], job["result"]) for job in ended] == [("succeeded", value) for value in values[30:]]

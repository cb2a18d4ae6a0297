"""One of three RabbitMQ nodes is killed while jobs flow."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from affinity.topology import Topology
from tests.support.cluster_servers import NAMES, Cluster, rabbit_cluster
from tests.support.steady_load import CATALOGUE, MODELS, goes_on
from tests.support.system import System, running_system

BEFORE_S = 4.0
"""Of load before the fault: to know the usual rate, and since 3.10 may lose a queue that is younger than 2 s."""

BACK_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with rabbit_cluster(tmp_path_factory.mktemp("cluster"), os.environ) as running:
        yield running


@pytest.fixture
def system(cluster: Cluster, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[System]:
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(CATALOGUE)
    with running_system(cluster.url, redis_url, namespace, tmp_path, MODELS_CATALOG=str(catalogue)) as running:
        yield running


@pytest.mark.timeout(240)
def test_of_three_nodes_the_one_that_all_use_is_killed_under_load_and_nothing_is_lost(
    cluster: Cluster, system: System
) -> None:
    for worker, model in zip(("w1", "w2"), MODELS, strict=True):
        system.start_worker(worker)
        system.run(model, {})
    names = Topology(system.namespace)
    queues = cluster.nodes[NAMES[0]].queues()
    ours = [names.fallback, names.dead, *(names.model_queue(model) for model in MODELS)]
    assert {queues[queue].members for queue in ours} == {frozenset(NAMES)}, "each has a member on every node"
    assert {queues[queue].leader for queue in ours} == {NAMES[0]}, "all are connected to the first, which leads all"
    cluster.doors.open()
    goes_on(system, cluster.nodes[NAMES[0]].kill, BEFORE_S, BACK_WITHIN_S, "the leader")

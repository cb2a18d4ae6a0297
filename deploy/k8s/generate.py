"""Writes what the manifests share with the compose stack: ``python -m deploy.k8s.generate``. A test demands that it is
in step.

Kustomize reads no file outside of its own folder, so configuration files and dashboards are copied; rules and the
broker's settings have to be a part of a manifest.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
DEPLOY = FOLDER.parent
RULES = ("recording.yml", "slo.yml", "alerts.yml")
HEAD = "# Written by deploy/k8s/generate.py from {source}: change that, then run python -m deploy.k8s.generate\n"


class _Text(str):
    """Text that is written as a block, so that a difference is one of lines."""

    __slots__ = ()


yaml.SafeDumper.add_representer(
    _Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def _manifest(document: Mapping[str, object], source: str) -> str:
    return HEAD.format(source=source) + yaml.safe_dump(document, sort_keys=False, width=10_000)


def rules() -> str:
    """Recording rules, objectives and alerts as one PrometheusRule."""
    texts = [(DEPLOY / "prometheus" / name).read_text(encoding="utf-8") for name in RULES]
    groups = [group for text in texts for group in yaml.safe_load(text)["groups"]]
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "affinity"},
        "spec": {"groups": groups},
    }
    return _manifest(document, "deploy/prometheus")


def broker_settings() -> str:
    """deploy/docker/rabbitmq.conf and the plugins as a patch of the RabbitmqCluster."""
    document = {
        "apiVersion": "rabbitmq.com/v1beta1",
        "kind": "RabbitmqCluster",
        "metadata": {"name": "rabbitmq"},
        "spec": {"rabbitmq": {"additionalConfig": _Text(_docker("rabbitmq.conf"))}},
    }
    return _manifest(document, "deploy/docker/rabbitmq.conf")


def _docker(name: str) -> str:
    return (DEPLOY / "docker" / name).read_text(encoding="utf-8")


def files() -> dict[str, str]:
    """Path below deploy/k8s -> text."""
    boards = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    return {
        "base/files/redis.conf": _docker("redis.conf"),
        "base/files/redis.rights": _docker("redis.rights"),
        "overlays/demo-cpu/files/90-affinity.conf": _docker("rabbitmq.conf"),
        "overlays/demo-cpu/files/enabled_plugins": _docker("enabled_plugins"),
        "components/rabbitmq/config.yaml": broker_settings(),
        "components/monitoring/rules.yaml": rules(),
        **{f"components/monitoring/dashboards/{path.name}": path.read_text(encoding="utf-8") for path in boards},
    }


def write() -> None:
    """Put every file in its place."""
    for name, text in files().items():
        path = FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()

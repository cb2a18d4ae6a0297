"""deploy/k8s: both overlays are built with kubectl, every object is held against its schema and against our policies.

What only a cluster can show (that the operators make of it what their documents say) is not shown here.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.k8s.apply import main, problems, refusal, secrets_of
from deploy.k8s.generate import FOLDER, files
from dispatcher.settings import DispatcherSettings
from models.catalog import Catalog, default_catalog_path
from tests.support.custom_resources import SCHEMAS
from tests.support.prometheus import metrics_in
from worker.loading import LOAD_TIMEOUT_S
from worker.settings import WorkerSettings

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
OVERLAYS = ("demo-cpu", "gpu")
OLDEST, NEWEST = "1.29", "1.37"
SECRETS = "REDIS_PASSWORD=0123456789abcdef01234567\nAFFINITY_API_KEYS=0123456789abcdef0123456789abcdef01\n"
WORKLOADS = {"Deployment", "StatefulSet"}
NO_BUDGET = {"redis": "a single pod", "rabbitmq": "a single pod in the demo; the cluster has one"}

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def copied(target: Path) -> Path:
    return shutil.copytree(FOLDER, target / "k8s", ignore=shutil.ignore_patterns(".env", "__pycache__")) / "overlays"


def kustomized(overlay: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "kustomize", str(overlay)], check=False, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """Overlay -> its objects, with good secrets."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine, and no package of the registries has one that is new enough")
    overlays = copied(tmp_path_factory.mktemp("overlays"))
    (overlays / "gpu" / ".env").write_text(SECRETS)
    documents = {}
    for name in OVERLAYS:
        done = kustomized(overlays / name)
        assert done.returncode == 0, done.stderr
        assert "deprecated" not in done.stderr
        documents[name] = [document for document in yaml.safe_load_all(done.stdout) if document]
    return documents


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def as_stateful_set(cluster: Manifest) -> Manifest:
    """The pods of a RabbitmqCluster, as far as we say what they are like."""
    template = cluster["spec"]["override"]["statefulSet"]["spec"]["template"]
    labels = {"app.kubernetes.io/name": cluster["metadata"]["name"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": cluster["metadata"],
        "spec": {
            "serviceName": "rabbitmq-nodes",
            "replicas": cluster["spec"]["replicas"],
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
        },
    }


def workloads(objects: list[Manifest]) -> list[Manifest]:
    return of_kind(objects, *WORKLOADS) + [as_stateful_set(item) for item in of_kind(objects, "RabbitmqCluster")]


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def containers(objects: list[Manifest]) -> list[Manifest]:
    """Those that we write; the operator writes the broker's probes and puts in what the cluster says of resources."""
    return [container for item in of_kind(objects, *WORKLOADS) for container in pod(item)["containers"]]


def variables(objects: list[Manifest], name: str) -> dict[str, Any]:
    (container,) = [item for item in containers(objects) if item["name"] == name]
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    return selector["matchLabels"].items() <= labels.items()


def test_what_the_manifests_share_with_the_compose_stack_is_as_generated():
    for name, text in files().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: run python -m deploy.k8s.generate"
    made = {FOLDER / name for name in files()}
    for folder in ("components/monitoring/dashboards", "overlays/demo-cpu/files"):
        assert set((FOLDER / folder).iterdir()) <= made


@each_overlay
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_fits_its_schema(built: dict[str, list[Manifest]], overlay: str, version: str):
    for item in built[overlay]:
        if item["kind"] in SCHEMAS:
            jsonschema.validate(item, SCHEMAS[item["kind"]])
        else:
            kubernetes_validate.validate(item, version, strict=True)
    for workload in workloads(built[overlay]):
        kubernetes_validate.validate(workload, version, strict=True)


def test_the_schemas_would_see_a_misspelt_field(built: dict[str, list[Manifest]]):
    worker = named(built["gpu"], "Deployment", "affinity-worker")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**worker, "spec": {**worker["spec"], "replica": 3}}, NEWEST, strict=True)
    scaled = named(built["gpu"], "ScaledObject", "affinity-worker")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**scaled, "spec": {**scaled["spec"], "coolDownPeriod": 3}}, SCHEMAS["ScaledObject"])


@each_overlay
def test_every_container_has_limits_probes_and_no_more_rights_than_it_needs(
    built: dict[str, list[Manifest]], overlay: str
):
    for container in containers(built[overlay]):
        assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), container["name"]
    for workload in workloads(built[overlay]):
        spec = pod(workload)
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        # A service called redis would set REDIS_PORT=tcp://..., which is none of our settings' values.
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    for workload in of_kind(built[overlay], *WORKLOADS):
        assert pod(workload)["automountServiceAccountToken"] is False


@each_overlay
def test_images_are_those_of_the_compose_stack(built: dict[str, list[Manifest]], overlay: str):
    compose = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    known = {service["image"] for service in compose.values()}
    used = {container["image"] for container in containers(built[overlay])}
    assert used <= known
    for cluster in of_kind(built[overlay], "RabbitmqCluster"):
        # The operator's scripts need bash, which the small image lacks.
        assert f"{cluster['spec']['image']}-alpine" in known


def test_the_broker_has_three_nodes_on_three_machines(built: dict[str, list[Manifest]]):
    cluster = named(built["gpu"], "RabbitmqCluster", "rabbitmq")["spec"]
    assert cluster["replicas"] == 3
    assert cluster["rabbitmq"]["additionalConfig"] == (ROOT / "deploy/docker/rabbitmq.conf").read_text()
    (spread,) = cluster["override"]["statefulSet"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "DoNotSchedule")


@each_overlay
def test_the_store_keeps_its_file_on_a_volume(built: dict[str, list[Manifest]], overlay: str):
    (claim,) = named(built[overlay], "StatefulSet", "redis")["spec"]["volumeClaimTemplates"]
    (redis, _) = pod(named(built[overlay], "StatefulSet", "redis"))["containers"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in redis["volumeMounts"]
    assert "dir /data\n" in (ROOT / "deploy/docker/redis.conf").read_text()


@each_overlay
def test_every_selector_finds_its_pods_and_every_port_its_name(built: dict[str, list[Manifest]], overlay: str):
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in workloads(built[overlay])]
    ports = {port["name"] for container in containers(built[overlay]) for port in container["ports"]}
    for service in of_kind(built[overlay], "Service"):
        assert any(service["spec"]["selector"].items() <= labels.items() for labels in pods)
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in of_kind(built[overlay], "PodDisruptionBudget"):
        assert any(matches(budget["spec"]["selector"], labels) for labels in pods)
    for monitor in of_kind(built[overlay], "ServiceMonitor"):
        name = monitor["metadata"]["name"]
        if name != "rabbitmq":  # Its service is the operator's.
            service = named(built[overlay], "Service", name)
            assert matches(monitor["spec"]["selector"], service["metadata"]["labels"])
            assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


@each_overlay
def test_a_workload_survives_the_loss_of_a_node_as_a_whole(built: dict[str, list[Manifest]], overlay: str):
    budgets = of_kind(built[overlay], "PodDisruptionBudget")
    for workload in workloads(built[overlay]):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        if any(matches(budget["spec"]["selector"], labels) for budget in budgets):
            (spread,) = pod(workload)["topologySpreadConstraints"]
            assert matches(spread["labelSelector"], labels)
        else:
            assert workload["metadata"]["name"] in NO_BUDGET
            assert workload["spec"]["replicas"] == 1


@each_overlay
def test_nobody_is_talked_to_without_a_rule_that_says_so(built: dict[str, list[Manifest]], overlay: str):
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(built[overlay], "NetworkPolicy")}
    assert policies["nothing-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for workload in workloads(built[overlay]):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        own = [spec for spec in policies.values() if spec["podSelector"] and matches(spec["podSelector"], labels)]
        assert len(own) == 1, workload["metadata"]["name"]
    # Who may go out to a server may come in there.
    for client in ("dispatcher", "worker"):
        for rule in policies[client]["egress"]:
            server = rule["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
            (allowed,) = [entry for entry in policies[server]["ingress"] if entry["ports"] == rule["ports"]]
            (who,) = allowed["from"][0]["podSelector"]["matchExpressions"]
            assert f"affinity-{client}" in who["values"]


@each_overlay
def test_secrets_and_config_maps_that_are_asked_for_are_there(built: dict[str, list[Manifest]], overlay: str):
    secrets = {item["metadata"]["name"]: set(item["data"]) for item in of_kind(built[overlay], "Secret")}
    if of_kind(built[overlay], "RabbitmqCluster"):
        secrets["rabbitmq-default-user"] = {"username", "password"}  # By the operator, at random.
    maps = {item["metadata"]["name"] for item in of_kind(built[overlay], "ConfigMap")}
    for workload in of_kind(built[overlay], *WORKLOADS):
        for volume in pod(workload)["volumes"]:
            assert volume.get("configMap", {}).get("name") in maps | {None}
    for container in containers(built[overlay]):
        for variable in container["env"]:
            asked = variable.get("valueFrom", {}).get("secretKeyRef")
            assert asked is None or asked["key"] in secrets[asked["name"]]


@each_overlay
@pytest.mark.parametrize(("name", "kind"), [("dispatcher", DispatcherSettings), ("worker", WorkerSettings)])
def test_the_settings_of_a_pod_are_accepted(
    built: dict[str, list[Manifest]], overlay: str, name: str, kind: type[DispatcherSettings | WorkerSettings]
):
    given = {
        key: value if isinstance(value, str) else "x" * 40 for key, value in variables(built[overlay], name).items()
    }
    given["REDIS_URL"] = given["REDIS_URL"].replace("$(REDIS_PASSWORD)", given["REDIS_PASSWORD"])
    known = {field.upper() for field in kind.model_fields}
    assert set(given) - known <= {"REDIS_PASSWORD", "HF_HUB_OFFLINE"}
    settings = kind(**{"rabbitmq_url": None, **{key.lower(): value for key, value in given.items()}})
    assert settings.store_url == f"redis://affinity:{'x' * 40}@redis:6379/0"
    assert settings.broker_url == f"amqp://{'x' * 40}:{'x' * 40}@rabbitmq:5672/"


def test_gpus_are_asked_for_where_there_are_any(built: dict[str, list[Manifest]]):
    (worker,) = pod(named(built["gpu"], "Deployment", "affinity-worker"))["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert variables(built["gpu"], "worker")["WORKER_GPU"] == "nvml"
    (worker,) = pod(named(built["demo-cpu"], "Deployment", "affinity-worker"))["containers"]
    assert "nvidia.com/gpu" not in worker["resources"]["limits"]
    assert variables(built["demo-cpu"], "worker")["WORKER_GPU"] == "simulated"


@each_overlay
def test_a_pod_may_start_and_stop_in_its_own_time(built: dict[str, list[Manifest]], overlay: str):
    worker = named(built[overlay], "Deployment", "affinity-worker")
    (container,) = pod(worker)["containers"]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > LOAD_TIMEOUT_S
    assert worker["spec"]["progressDeadlineSeconds"] > probe["periodSeconds"] * probe["failureThreshold"]
    grace_s = float(variables(built[overlay], "worker")["WORKER_GRACE_S"])
    assert grace_s >= max(entry.timeout_s for entry in Catalog.load(default_catalog_path()))
    assert pod(worker)["terminationGracePeriodSeconds"] >= grace_s + 60
    spec = pod(named(built[overlay], "Deployment", "affinity-dispatcher"))
    waits_s = float(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])
    grace_s = float(variables(built[overlay], "dispatcher")["DISPATCHER_GRACE_S"])
    assert spec["terminationGracePeriodSeconds"] >= waits_s + grace_s + 60


def test_a_gpu_is_kept_for_longer_than_a_load_takes(built: dict[str, list[Manifest]]):
    scaled = named(built["gpu"], "ScaledObject", "affinity-worker")["spec"]
    behaviour = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] > LOAD_TIMEOUT_S
    assert scaled["cooldownPeriod"] > LOAD_TIMEOUT_S
    # KEDA's number and ours would be put in turn.
    assert "replicas" not in named(built["gpu"], "Deployment", scaled["scaleTargetRef"]["name"])["spec"]
    rules = named(built["gpu"], "PrometheusRule", "affinity")["spec"]["groups"]
    recorded = {rule["record"] for group in rules for rule in group["rules"] if "record" in rule}
    assert metrics_in(scaled["triggers"][0]["metadata"]["query"]) <= recorded


def test_services_have_the_names_that_rules_and_dashboards_ask_for(built: dict[str, list[Manifest]]):
    texts = [yaml.safe_dump(item) for item in of_kind(built["gpu"], "PrometheusRule", "ConfigMap")]
    asked = {job for text in texts for job in re.findall(r'[{,]job=\\*"([^"\\]+)', text)}
    services = {item["metadata"]["name"] for item in of_kind(built["gpu"], "Service")} | {"rabbitmq"}
    assert asked
    assert asked <= services


def test_dashboards_are_found_by_grafana_and_small_enough_for_a_config_map(built: dict[str, list[Manifest]]):
    boards = named(built["gpu"], "ConfigMap", "affinity-dashboards")
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {f"{name}" for name in boards["data"]} == {
        path.name for path in (ROOT / "deploy/grafana/dashboards").iterdir()
    }
    assert sum(map(len, boards["data"].values())) < 1_000_000


def test_without_secrets_nothing_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    overlays = copied(tmp_path)
    if shutil.which("kubectl") is not None:
        assert kustomized(overlays / "gpu").returncode != 0
    assert main(["gpu"], overlays) == 2
    assert "the secrets are missing: cp " in capsys.readouterr().err
    (overlays / "gpu" / ".env").write_text((overlays / "gpu" / "env.example").read_text())
    assert main(["gpu"], overlays) == 2
    said = capsys.readouterr().err
    assert "REDIS_PASSWORD is not set" in said
    assert "AFFINITY_API_KEYS is not set" in said
    assert main(["gpus"], overlays) == 2
    assert "there are demo-cpu, gpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("REDIS_PASSWORD=qx7z", "shorter than 16"),
        ("REDIS_PASSWORD=with/slash0123456789", "letters and digits only"),
        ("REDIS_PASSWORD=demo0demo0demo0demo0", "can be guessed"),
        ("REDIS_PASSWORD=aaaaaaaaaaaaaaaaaaaaaaaa", "can be guessed"),
        ("AFFINITY_API_KEYS=0123456789abcdef0123456789abcdef01,qx7z", "shorter than 32"),
        ("AFFINITY_API_KEYS=0123456789abcdef0123456789abcdef01,", "letters and digits only"),
    ],
)
def test_a_weak_secret_is_refused_with_its_name_and_without_its_value(line: str, why: str):
    name, _, value = line.partition("=")
    (said,) = problems(secrets_of(SECRETS) | {name: value})
    assert said.startswith(name)
    assert why in said
    assert not any(part and part in said for part in value.split(","))


def test_good_secrets_and_the_demo_are_let_through(tmp_path: Path):
    overlays = copied(tmp_path)
    (overlays / "gpu" / ".env").write_text(SECRETS)
    assert refusal(overlays / "gpu") is None
    assert refusal(overlays / "demo-cpu") is None


@pytest.mark.parametrize("password", ["", "short", "demo0demo0demo0demo!"])
def test_the_store_does_not_start_with_a_password_that_is_none(password: str):
    script = FOLDER / "base" / "files" / "start.sh"
    environment = {"PATH": os.environ["PATH"], "REDISCLI_AUTH": password}
    done = subprocess.run(["sh", script], check=False, capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 2
    assert "affinity-secrets must be 16 or more letters and digits" in done.stderr


def test_only_the_demo_has_passwords_in_the_repository():
    committed = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".py" and path.name != ".env"]
    found = {path.relative_to(FOLDER).parts[:2] for path in committed if "demo0" in path.read_text(errors="ignore")}
    assert found == {("overlays", "demo-cpu")}
    for line in (FOLDER / "overlays" / "gpu" / "env.example").read_text().splitlines():
        assert line.startswith("#") or line.endswith("=")

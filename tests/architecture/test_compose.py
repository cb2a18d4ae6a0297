"""docker-compose.gpu.yml and the images it builds, checked without a container engine.

What only an engine can show (that an image builds, that a container starts) is not shown here; that every command is
one the other tests run, that every variable is known and that no container gets more rights than it needs is.
"""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.fleet import Commands
from deploy.local.rabbit import CONSUMER_TIMEOUT_S
from dispatcher.settings import DispatcherSettings
from models.catalog import Catalog, default_catalog_path
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.gpu.yml"
TEXT = FILE.read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"dispatcher": DispatcherSettings, "worker": WorkerSettings}
ENV_EXAMPLE = (ROOT / ".env.example").read_text()

VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?:(?P<kind>:-|:\?)(?P<rest>[^}]*))?\}")
REQUIRED = {"RABBITMQ_PASS": "rabbit0", "REDIS_PASSWORD": "redis0", "GRAFANA_PASSWORD": "grafana0"}
MONITORING = {"prometheus", "grafana", "redis-exporter"}

# The compose specification's names that this file uses: a misspelt one would be ignored, or refused, by the engine.
SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "deploy", "environment", "expose", "healthcheck", "hostname", "image",
    "init", "logging", "pids_limit", "ports", "read_only", "restart", "security_opt", "stop_grace_period", "tmpfs",
    "ulimits", "user", "volumes",
}  # fmt: skip

# Settings that a container does not take from .env, and why.
LEFT_OUT = {
    "RABBITMQ_URL": "the stack has its own broker, by host, port, user and password",
    "MODELS_CATALOG": "a path of the host means nothing in a container; the catalogue is in the image",
    "AFFINITY_API_KEYS_FILE": "a path of the host; docs/security.md shows the override that mounts it",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "the images have no OpenTelemetry; docs/tracing.md",
    "RABBITMQ_CA_FILE": "the stack's servers are on a network of their own",
    "REDIS_CA_FILE": "the stack's servers are on a network of their own",
    "WORKER_ID": "several containers would have the same; the default is the container's own id",
    "CUDA_VISIBLE_DEVICES": "empty it would hide every GPU; WORKER_GPU_INDEX chooses",
}


def interpolated(value: Any, environ: Mapping[str, str]) -> Any:
    """``value`` with its variables put in as compose does it; ``KeyError`` for a required one that is missing."""
    if isinstance(value, dict):
        return {key: interpolated(child, environ) for key, child in value.items()}
    if isinstance(value, list):
        return [interpolated(child, environ) for child in value]
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        given = environ.get(match["name"], "")
        if not given and match["kind"] == ":?":
            raise KeyError(match["rest"])
        return given or match["rest"] or ""

    return VARIABLE.sub(put, value).replace("$$", "$")


def started_with(**environ: str) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = interpolated(SERVICES, REQUIRED | environ)
    return services


def duration_s(text: str) -> float:
    parts = re.findall(r"([\d.]+)(m|s)", text)
    assert "".join(number + unit for number, unit in parts) == text
    return sum(float(number) * {"m": 60, "s": 1}[unit] for number, unit in parts)


def dockerfile(service: str) -> str:
    return (ROOT / SERVICES[service]["build"]["dockerfile"]).read_text()


def commands_of(text: str) -> tuple[list[str], list[str]]:
    """What a Dockerfile runs to check its health, and what it runs."""
    check, command = re.findall(r"^(?:    )?CMD (\[.*\])$", text, re.M)
    return json.loads(check), json.loads(command)


each_service = pytest.mark.parametrize("name", sorted(SERVICES))
each_of_ours = pytest.mark.parametrize("name", sorted(OURS))


def test_the_stack_is_broker_store_dispatcher_and_worker_and_what_watches_them():
    assert set(SERVICES) == {"rabbitmq", "redis", "dispatcher", "worker"} | MONITORING


@each_service
def test_a_service_uses_only_names_of_the_compose_specification(name: str):
    assert set(SERVICES[name]) <= SERVICE_KEYS


@each_service
def test_a_service_has_a_health_check_limits_and_a_restart_policy(name: str):
    service = SERVICES[name]
    assert set(service["healthcheck"]) == {"test", "interval", "timeout", "retries", "start_period"}
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert set(service["deploy"]["resources"]["limits"]) == {"memory"}
    assert service["pids_limit"] > 0
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


@each_service
def test_a_container_has_no_more_rights_than_it_needs(name: str):
    service = SERVICES[name]
    assert service["user"].partition(":")[0] not in {"", "0", "root"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for mount in service.get("volumes", ()):
        source, target, *mode = mount.split(":")
        if source.startswith("."):
            assert (ROOT / source).is_file()
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]
        assert target.startswith("/")
        assert "docker.sock" not in mount


def test_every_declared_volume_is_used():
    mounted = {mount.partition(":")[0] for service in SERVICES.values() for mount in service.get("volumes", ())}
    assert set(COMPOSE["volumes"]) <= mounted


@each_service
def test_images_are_pinned_to_a_full_version(name: str):
    assert re.fullmatch(r"([a-z0-9]+/)?[a-z_\-]+:v?\d+\.\d+\.\d+(-[a-z\-]+)?", SERVICES[name]["image"])
    if name in OURS:
        bases = re.findall(r"^FROM (\S+)", dockerfile(name), re.M)
        assert len(bases) == 2
        assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", base) for base in bases)


def test_the_broker_is_new_enough():
    version = re.search(r":(\d+)\.(\d+)\.(\d+)-management", SERVICES["rabbitmq"]["image"])
    assert version is not None
    assert tuple(map(int, version.groups())) >= (4, 2, 3)


def test_nothing_is_published_beyond_this_machine_unless_told_to():
    published = [port for service in started_with().values() for port in service.get("ports", ())]
    assert published == [f"127.0.0.1:{port}:{port}" for port in (5672, 15672, 5000, 9090, 3000)]
    opened = started_with(DISPATCHER_HOST="0.0.0.0", DISPATCHER_PORT="8080")["dispatcher"]
    assert opened["ports"] == ["0.0.0.0:8080:5000"]


def test_every_variable_is_explained_in_the_example():
    used = {match["name"] for match in VARIABLE.finditer(TEXT)}
    for name in sorted(used):
        assert len(re.findall(rf"^#?{name}=", ENV_EXAMPLE, re.M)) == 1, name


def test_no_password_has_a_default():
    by_name = {match["name"]: match["kind"] for match in VARIABLE.finditer(TEXT) if "PASS" in match["name"]}
    assert by_name == dict.fromkeys(REQUIRED, ":?")
    for name in REQUIRED:
        assert f"\n{name}=\n" in ENV_EXAMPLE
        with pytest.raises(KeyError, match=f"set {name} there"):
            interpolated(TEXT, {other: value for other, value in REQUIRED.items() if other != name})


def test_the_passwords_reach_those_who_need_them():
    services = started_with(RABBITMQ_USER="me")
    assert services["rabbitmq"]["environment"] == {"RABBITMQ_DEFAULT_USER": "me", "RABBITMQ_DEFAULT_PASS": "rabbit0"}
    assert services["redis"]["environment"]["REDISCLI_AUTH"] == "redis0"
    for name, settings_class in OURS.items():
        given = {key.lower(): value for key, value in services[name]["environment"].items() if value}
        settings = settings_class(**{"rabbitmq_url": None, **given})  # Not that of whoever runs the tests.
        assert settings.broker_url == "amqp://me:rabbit0@rabbitmq:5672/"
        assert settings.store_url == "redis://affinity:redis0@redis:6379/0"


@each_of_ours
def test_every_setting_is_handed_on_or_left_out_for_a_reason(name: str):
    settings = {field.upper() for field in OURS[name].model_fields}
    environment = SERVICES[name]["environment"]
    assert settings - set(environment) == settings & set(LEFT_OUT)
    assert set(environment) - settings <= {"HF_HUB_OFFLINE"}
    for variable, value in environment.items():
        match = VARIABLE.fullmatch(value)
        assert match is None or match["name"] == variable


@each_of_ours
def test_the_settings_of_the_stack_are_accepted(name: str):
    environment = started_with()[name]["environment"]
    settings = OURS[name](**{key.lower(): value for key, value in environment.items() if value})
    assert settings.affinity_namespace == "affinity"


@each_of_ours
def test_a_container_runs_the_command_that_tests_run(name: str):
    tested = getattr(Commands(), name)
    assert SERVICES[name]["command"] == ["python", *tested[1:]]
    assert commands_of(dockerfile(name))[1] == SERVICES[name]["command"]


@each_of_ours
def test_a_container_waits_for_healthy_servers(name: str):
    assert SERVICES[name]["depends_on"] == {
        "rabbitmq": {"condition": "service_healthy"},
        "redis": {"condition": "service_healthy"},
    }


@each_of_ours
@pytest.mark.parametrize("grace", ["", "0", "7.5", "300"])
def test_a_container_may_stop_in_its_own_time(name: str, grace: str):
    variable = f"{name.upper()}_GRACE_S"
    default = OURS[name].model_fields[variable.lower()].default
    given_s = duration_s(started_with(**{variable: grace})[name]["stop_grace_period"])
    assert given_s >= float(grace or default) + 10


def test_the_worker_gets_every_gpu():
    assert SERVICES["worker"]["deploy"]["resources"]["reservations"] == {
        "devices": [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    }
    assert started_with()["worker"]["environment"]["WORKER_GPU"] == "nvml"


def test_the_worker_can_be_scaled():
    assert not {"container_name", "hostname", "ports"} & set(SERVICES["worker"])


def test_the_broker_lets_the_longest_job_run():
    lines = (ROOT / "deploy/docker/rabbitmq.conf").read_text().splitlines()
    settings = dict(line.split(" = ") for line in lines if line and not line.startswith("#"))
    timeout_s = int(settings["consumer_timeout"]) / 1000
    assert timeout_s == CONSUMER_TIMEOUT_S
    assert timeout_s >= max(entry.timeout_s for entry in Catalog.load(default_catalog_path()))
    assert settings["loopback_users.guest"] == "true"
    plugins = (ROOT / "deploy/docker/enabled_plugins").read_text()
    assert plugins == "[rabbitmq_management,rabbitmq_prometheus].\n"


def test_the_store_keeps_what_it_is_given():
    settings = (ROOT / "deploy/docker/redis.conf").read_text().splitlines()
    assert "appendonly yes" in settings
    assert "maxmemory-policy noeviction" in settings


@each_of_ours
def test_an_image_holds_its_service_and_not_the_other(name: str):
    text = dockerfile(name)
    other = next(service for service in OURS if service != name)
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M) for word in line.split()[:-1]}
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "affinity", "models", name}
    assert all((ROOT / source).exists() for source in copied)
    assert f"pip install --constraint constraints.txt --editable '.[{name}]'" in text
    assert f"[{other}]" not in text
    assert re.findall(r"^USER (.*)$", text, re.M) == [SERVICES[name]["user"]]


@each_of_ours
def test_only_what_an_image_copies_reaches_the_builder(name: str):
    ignored = (ROOT / f"{SERVICES[name]['build']['dockerfile']}.dockerignore").read_text().splitlines()
    assert [line for line in ignored if not line.startswith(("#", "!"))] == ["*", "**/__pycache__"]
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert allowed == {"pyproject.toml", "constraints.txt", "README.md", "affinity", "models", name}


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server on a free port that answers every GET with ``status``, and the paths it was asked for."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


def check_health(name: str, port: int) -> int:
    """Exit code of the service's own health command, asked of ``port``."""
    _, python, *arguments = SERVICES[name]["healthcheck"]["test"]
    assert python == "python"
    own_port = f"'127.0.0.1', {5000 if name == 'dispatcher' else 8000},"
    assert arguments[-1].count(own_port) == 1
    arguments[-1] = arguments[-1].replace(own_port, f"'127.0.0.1', {port},")
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True, timeout=30).returncode


@each_of_ours
def test_the_health_command_says_what_the_service_says(name: str):
    assert ["CMD", *commands_of(dockerfile(name))[0]] == SERVICES[name]["healthcheck"]["test"]
    with answering(200) as (port, asked):
        assert check_health(name, port) == 0
    assert asked == ["/health/ready"]
    assert check_health(name, port) != 0
    with answering(503) as (port, _):
        assert check_health(name, port) != 0


def compose_plugin() -> list[str] | None:
    """The compose command of this machine, if it has one."""
    if shutil.which("docker") is None:
        return None
    asked = subprocess.run(["docker", "compose", "version"], check=False, capture_output=True, timeout=30)
    return None if asked.returncode else ["docker", "compose"]


def test_docker_compose_itself_accepts_the_file(tmp_path: Path):
    command = compose_plugin()
    if command is None:
        pytest.skip("docker compose is not installed here")
    env_file = tmp_path / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in REQUIRED.items()))
    config = [*command, "--file", str(FILE), "--env-file", str(env_file), "config", "--quiet"]
    accepted = subprocess.run(config, check=False, capture_output=True, text=True, timeout=60)
    assert accepted.returncode == 0, accepted.stderr
    env_file.write_text("RABBITMQ_PASS=rabbit0\nGRAFANA_PASSWORD=grafana0\n")
    refused = subprocess.run(config, check=False, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0
    assert "set REDIS_PASSWORD there" in refused.stderr

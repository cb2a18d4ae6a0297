"""A private RabbitMQ and Redis that speak TLS, with exactly the users and rights of the compose stack.

The files under ``deploy/docker`` are what they are started with; certificates are made by ``openssl`` for each session.
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from deploy.local.child import Child
from deploy.local.ports import LOOPBACK, free_ports, wait_for
from deploy.local.programs import Programs
from deploy.local.rabbit import PrivateRabbit
from deploy.local.warden import Warden
from tests.support.servers import require_programs

DOCKER = Path(__file__).parents[2] / "deploy" / "docker"
NAMESPACE = "secured"
USER, PASSWORD = "affinity", "pass-word-7"
CTL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM: who signs, and what a server on 127.0.0.1 shows."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class SecureServers:
    """What ``secure_servers`` yields; the addresses hold user and password, not the CA."""

    rabbit: "SecureRabbit"
    rabbitmq_url: str
    redis_url: str
    certificates: Certificates

    @property
    def settings(self) -> dict[str, str]:
        """Of a service that is to trust them."""
        return {"RABBITMQ_CA_FILE": str(self.certificates.ca), "REDIS_CA_FILE": str(self.certificates.ca)}


class SecureRabbit(PrivateRabbit):
    """Listens for TLS beside its plain port. Users and rights are those of ``deploy/docker/rabbitmq.conf``."""

    def __init__(
        self, programs: Programs, directory: Path, warden: Warden, environ: Mapping[str, str], shown: Certificates
    ) -> None:
        super().__init__(programs, directory, warden, environ)
        self._ctl = programs.rabbitmq_server.with_name("rabbitmqctl")
        self._shown = shown
        (self.tls_port,) = free_ports(1)

    def ctl(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` says of this node."""
        command = [str(self._ctl), "--quiet", *arguments]
        done = subprocess.run(
            command, check=False, env=self._environment(), capture_output=True, timeout=CTL_TIMEOUT_S, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _write_files(self) -> None:
        super()._write_files()
        rights = [line for line in (DOCKER / "rabbitmq.conf").read_text().splitlines() if line.startswith("default_")]
        lines = [
            *rights,
            f"default_user = {USER}",
            f"default_pass = {PASSWORD}",
            f"listeners.ssl.default = {LOOPBACK}:{self.tls_port}",
            f"ssl_options.cacertfile = {self._shown.ca}",
            f"ssl_options.certfile = {self._shown.certificate}",
            f"ssl_options.keyfile = {self._shown.key}",
            "ssl_options.verify = verify_none",
        ]
        with (self.directory / "rabbitmq.conf").open("a") as config:
            config.write("\n" + "\n".join(lines) + "\n")


def rights_in_redis(namespace: str) -> str:
    """The rights of the compose stack's user."""
    return (DOCKER / "redis.rights").read_text().strip().replace("NAMESPACE", namespace)


@contextmanager
def secure_servers(directory: Path, environ: Mapping[str, str]) -> Iterator[SecureServers]:
    """Both servers, running, with one user each."""
    programs = require_programs(environ)
    directory.mkdir(parents=True, exist_ok=True)
    shown = make_certificates(directory)
    with Warden() as warden:
        rabbit = SecureRabbit(programs, directory / "rabbitmq", warden, environ, shown)
        (port,) = free_ports(1)
        store = _start_redis(programs, directory / "redis", warden, environ, shown, port)
        try:
            rabbit.start()
            yield SecureServers(
                rabbit,
                f"amqps://{USER}:{PASSWORD}@{LOOPBACK}:{rabbit.tls_port}/",
                f"rediss://{USER}:{PASSWORD}@{LOOPBACK}:{port}/0",
                shown,
            )
        finally:
            rabbit.stop()
            store.stop()
            shutil.rmtree(directory, ignore_errors=True)


def make_certificates(directory: Path) -> Certificates:
    """A CA of our own, and a certificate for 127.0.0.1 (and no name) that it has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on this machine: no certificates can be made")
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    certificate, key, request = directory / "server.pem", directory / "server.key", directory / "server.csr"
    names = directory / "names"
    names.write_text(f"subjectAltName=IP:{LOOPBACK}\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl("req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=a CA of the tests")
    _openssl("req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=a server of the tests")
    signed_by = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", names]
    _openssl("x509", "-req", "-in", request, *signed_by, "-out", certificate, "-days", "2")
    return Certificates(ca, certificate, key)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _start_redis(
    programs: Programs, directory: Path, warden: Warden, environ: Mapping[str, str], shown: Certificates, port: int
) -> Child:
    directory.mkdir()
    config = directory / "redis.conf"
    lines = [
        *("port 0", f"bind {LOOPBACK}", f"tls-port {port}", "tls-auth-clients no", f'dir "{directory}"'),
        *(f"tls-ca-cert-file {shown.ca}", f"tls-cert-file {shown.certificate}", f"tls-key-file {shown.key}"),
        *("appendonly yes", 'save ""', "maxmemory-policy noeviction"),
        *("user default off", f"user {USER} on >{PASSWORD} {rights_in_redis(NAMESPACE)}"),
    ]
    config.write_text("\n".join(lines) + "\n")
    command = (str(programs.redis_server), str(config))
    child = Child("redis", command, env=environ, log_path=directory / "redis.log", warden=warden)
    url = f"rediss://{USER}:{PASSWORD}@{LOOPBACK}:{port}/0?ssl_ca_certs={shown.ca}"

    def answers() -> bool:
        with suppress(redis.RedisError), redis.Redis.from_url(url) as client:
            return bool(client.ping())
        return False

    wait_for(child, answers, 30.0)
    return child

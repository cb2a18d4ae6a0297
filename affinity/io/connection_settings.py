"""Settings that both processes share, and the loader that names every bad one at once.

``dispatcher/settings.py`` and ``worker/settings.py`` subclass ``ConnectionSettings``; a field's name in capitals is the
environment variable it comes from. A field that depends on another checks it in a ``field_validator`` through
``ValidationInfo.data`` - a model validator would only run once all fields are right, and hide the problem until then.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BeforeValidator, Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from affinity.io.server_urls import SENTINEL_SCHEMES, each_host, names_sentinels, sentinel_url
from affinity.series import DEFAULT_MODELS

EXIT_BAD_SETTINGS = 2


def _no_service_link(value: object) -> object:
    """Kubernetes sets ``<SERVICE>_PORT=tcp://...`` for a service of that name: say so instead of "not a number"."""
    if isinstance(value, str) and value.startswith("tcp://"):
        raise ValueError("is a Kubernetes service link; set enableServiceLinks: false on the pod, or the port itself")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Port = Annotated[int, BeforeValidator(_no_service_link), Field(ge=1, le=65535)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]


class ConnectionSettings(BaseSettings):
    """Broker, store, namespace, log level and catalogue. Frozen; an empty variable counts as not set."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    rabbitmq_url: SecretStr | None = Field(
        None,
        description="Broker as amqp://user:password@host:port/vhost, for a cluster with host:port,host:port. Wins over "
        "RABBITMQ_HOST, PORT, USER and PASS.",
    )
    rabbitmq_host: str = Field(
        "127.0.0.1", description="Broker host, or several of one cluster by commas, where RABBITMQ_URL is not set."
    )
    rabbitmq_port: Port = Field(5672, description="Broker port, where RABBITMQ_URL is not set.")
    rabbitmq_user: str = Field("guest", description="Broker user, where RABBITMQ_URL is not set.")
    rabbitmq_pass: SecretStr = Field(SecretStr("guest"), description="Broker password, where RABBITMQ_URL is not set.")
    rabbitmq_ca_file: FilePath | None = Field(
        None,
        description="Certificates (PEM) of who may sign the broker's. Needs amqps:// in RABBITMQ_URL; where that is "
        "not set, TLS is spoken to RABBITMQ_PORT.",
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Store as redis://user:password@host:port/database, or by its Sentinels as "
        "redis+sentinel://user:password@host:port,host:port/service/database.",
    )
    redis_ca_file: FilePath | None = Field(
        None, description="Certificates (PEM) of who may sign the store's. Needs rediss:// in REDIS_URL."
    )
    log_level: LogLevel = Field("info", description="Least severe level that is logged: debug, info, warning or error.")
    affinity_namespace: str = Field(
        "affinity",
        pattern=r"^[A-Za-z0-9_\-]{1,64}$",
        description="Head of every exchange, queue and Redis key: several installations share one broker.",
    )
    affinity_retention_s: float = Field(
        86400.0, ge=1, le=31_536_000, description="How long a finished job and its result are kept."
    )
    affinity_max_result_bytes: int = Field(
        8 * 1024**2, ge=1024, le=512 * 1024**2, description="Largest result of a job; above it the job fails."
    )
    affinity_metrics_models: int = Field(
        DEFAULT_MODELS,
        ge=1,
        le=100_000,
        description="Models with metrics of their own, by name, pinned ones first; the rest counts as other.",
    )
    models_catalog: FilePath | None = Field(
        None, description="Model catalogue, a TOML file. Default: models/catalog.toml of this installation."
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None, description="Where to send traces (OpenTelemetry, OTLP over HTTP), as http://host:4318. Unset: none."
    )

    @field_validator("rabbitmq_url")
    @classmethod
    def _amqp(cls, url: SecretStr | None) -> SecretStr | None:
        for node in each_host(url.get_secret_value()) if url is not None else ():
            _check_url(node, ("amqp", "amqps"), "amqp://user:password@host:port/vhost")
        return url

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: SecretStr) -> SecretStr:
        text, example = url.get_secret_value(), "redis://user:password@host:port/database"
        if names_sentinels(text):
            example = "redis+sentinel://user:password@host:port,host:port/service/database"
            for sentinel in each_host(text):
                _check_url(sentinel, SENTINEL_SCHEMES, example)
            try:
                sentinel_url(text)
            except ValueError:
                raise ValueError(f"must look like {example}") from None
        elif len(each_host(text)) > 1 and not text.startswith("unix:"):
            raise ValueError("names several hosts: for Sentinels write redis+sentinel://, else name the primary alone")
        else:
            _check_url(text, ("redis", "rediss", "unix"), example)
        return url

    @field_validator("rabbitmq_ca_file", "redis_ca_file")
    @classmethod
    def _with_tls(cls, path: FilePath | None, seen: ValidationInfo) -> FilePath | None:
        # A file of certificates says that TLS is meant: without this a missing "s" would send passwords in the clear.
        server, scheme = ("rabbitmq", "amqps") if seen.field_name == "rabbitmq_ca_file" else ("redis", "rediss")
        url = seen.data.get(f"{server}_url")
        said = url.get_secret_value().partition("://")[0].lower().removesuffix("+sentinel") if url else scheme
        if path is not None and said != scheme:
            raise ValueError(f"is for TLS: write {server.upper()}_URL as {scheme}://")
        return path

    @property
    def broker_url(self) -> str:
        """Where RabbitMQ is, with the password: for the client, never for a log."""
        if self.rabbitmq_url is not None:
            return _with_query(self.rabbitmq_url.get_secret_value(), cafile=self.rabbitmq_ca_file)
        user, password = quote(self.rabbitmq_user, safe=""), quote(self.rabbitmq_pass.get_secret_value(), safe="")
        hosts = [host for piece in self.rabbitmq_host.split(",") if (host := piece.strip())]
        named = [f"[{host}]" if ":" in host else host for host in hosts]
        places = ",".join(f"{host}:{self.rabbitmq_port}" for host in named)
        scheme = "amqps" if self.rabbitmq_ca_file else "amqp"
        return _with_query(f"{scheme}://{user}:{password}@{places}/", cafile=self.rabbitmq_ca_file)

    @property
    def store_url(self) -> str:
        """Where Redis is, with the password: for the client, never for a log."""
        return _with_query(self.redis_url.get_secret_value(), ssl_ca_certs=self.redis_ca_file)


Settings = TypeVar("Settings", bound=ConnectionSettings)


def load_settings(kind: type[Settings]) -> Settings:
    """The settings of this process's environment.

    Where any is bad, prints one line for each to stderr and ends the process with exit 2.
    """
    try:
        return kind()
    except ValidationError as error:
        lines = problems(kind, error)
        print(f"{len(lines)} bad setting{'s' if len(lines) > 1 else ''}:", *lines, sep="\n  ", file=sys.stderr)
        sys.exit(EXIT_BAD_SETTINGS)


def problems(kind: type[ConnectionSettings], error: ValidationError) -> list[str]:
    """One line ``NAME: what is wrong (what the setting is)`` for each bad setting. Never a value: it may be secret."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_input=False, include_url=False):
        name = str(problem["loc"][0])
        described = kind.model_fields[name].description if name in kind.model_fields else None
        message = problem["msg"].removeprefix("Value error, ")
        lines.setdefault(name, f"{name.upper()}: {message}" + (f" ({described})" if described else ""))
    return list(lines.values())


def _with_query(url: str, **files: Path | None) -> str:
    """The URL with what its client is to read, as the clients take it from there."""
    said = urlencode({name: str(path) for name, path in files.items() if path is not None})
    return f"{url}{'&' if '?' in url else '?'}{said}" if said else url


def _check_url(url: str, schemes: tuple[str, ...], example: str) -> None:
    wanted = f"must look like {example}"
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port != 0
    except ValueError:  # urlsplit's own text may quote the URL, and with it the password
        raise ValueError(wanted) from None
    if parts.scheme not in schemes or not port_is_fine or not (parts.hostname or parts.scheme == "unix"):
        raise ValueError(wanted)

"""Settings of the dispatcher: the shared ones and its own. The only place here that reads the environment."""

from typing import Annotated

from pydantic import Field, FilePath, SecretStr, field_validator

from affinity.io.connection_settings import ConnectionSettings, Port
from dispatcher.keys import KeysInvalid, key_hash, read_keys

MIB = 1024**2


class DispatcherSettings(ConnectionSettings):
    """Frozen. Durations in seconds, sizes in bytes."""

    dispatcher_host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on. 0.0.0.0 serves other machines: set keys then."
    )
    dispatcher_port: Port = Field(5000, description="Port to listen on.")
    dispatcher_max_body_bytes: Annotated[int, Field(ge=1024, le=1024 * MIB)] = Field(
        8 * MIB, description="Largest request body; a larger one is answered 413 without being read to its end."
    )
    dispatcher_max_batch: Annotated[int, Field(ge=1, le=100_000)] = Field(
        1000, description="Most jobs in one POST /jobs/batch and most messages in one POST /batch-produce."
    )
    dispatcher_grace_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        10.0,
        description="After SIGTERM: how long requests in flight may still take. Waiting clients are answered at once.",
    )
    dispatcher_max_event_clients: Annotated[int, Field(ge=1, le=10_000)] = Field(
        200, description="Most clients that follow events at one time; above it they are answered 429."
    )
    affinity_api_keys: SecretStr | None = Field(
        None,
        description="Comma-separated keys of operators. Where set, all but health, metrics and console files need one.",
    )
    affinity_api_keys_file: FilePath | None = Field(
        None,
        description="TOML file of tenants and operators with SHA-256 sums of their keys (docs/security.md). "
        "Read again when it changes, and on SIGHUP.",
    )
    dispatcher_max_queued: Annotated[int, Field(ge=1)] = Field(
        500_000, description="Most queued jobs in all; above it new ones are answered 429."
    )
    dispatcher_max_queued_per_model: Annotated[int, Field(ge=1)] = Field(
        200_000, description="Most queued jobs of one model; above it new ones are answered 429."
    )
    dispatcher_max_queued_per_tenant: Annotated[int, Field(ge=1)] = Field(
        100_000, description="Most queued jobs of a tenant that has no max_queued of its own in AFFINITY_API_KEYS_FILE."
    )

    @field_validator("affinity_api_keys")
    @classmethod
    def _no_blank_key(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None and not all(key.strip() for key in keys.get_secret_value().split(",")):
            raise ValueError("holds an empty key: separate keys by one comma, without one at the end")
        return keys

    @field_validator("affinity_api_keys_file")
    @classmethod
    def _usable(cls, path: FilePath | None) -> FilePath | None:
        if path is not None:
            try:
                read_keys(path)
            except KeysInvalid as error:
                raise ValueError(str(error)) from None
        return path

    @property
    def api_key_hashes(self) -> tuple[bytes, ...]:
        """SHA-256 of each key in ``AFFINITY_API_KEYS``."""
        if self.affinity_api_keys is None:
            return ()
        return tuple(key_hash(key.strip()) for key in self.affinity_api_keys.get_secret_value().split(","))

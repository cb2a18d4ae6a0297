"""Settings of the dispatcher: the shared ones and its own. The only place here that reads the environment."""

import hashlib
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from affinity.io.connection_settings import ConnectionSettings, Port

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
    affinity_api_keys: SecretStr | None = Field(
        None, description="Comma-separated keys. Where set, every route but health and metrics needs one of them."
    )

    @field_validator("affinity_api_keys")
    @classmethod
    def _no_blank_key(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None and not all(key.strip() for key in keys.get_secret_value().split(",")):
            raise ValueError("holds an empty key: separate keys by one comma, without one at the end")
        return keys

    @property
    def api_key_hashes(self) -> tuple[bytes, ...]:
        """SHA-256 of each key; empty where everybody may come in."""
        if self.affinity_api_keys is None:
            return ()
        return tuple(key_hash(key.strip()) for key in self.affinity_api_keys.get_secret_value().split(","))


def key_hash(key: str) -> bytes:
    """What is kept and compared instead of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()

"""The broker and the store a local run, a demo or a test session needs: given by URL, or private ones of ours."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deploy.local.programs import Programs
from deploy.local.rabbit import PrivateRabbit
from deploy.local.redis import PrivateRedis
from deploy.local.warden import Warden


@dataclass(frozen=True, slots=True)
class ServerUrls:
    """Where broker and store are; ``redis_socket_url`` is a quicker way to the same store, where there is one."""

    rabbitmq_url: str
    redis_url: str
    redis_socket_url: str | None = None

    @property
    def store_url(self) -> str:
        """How a process of this machine best reaches the store."""
        return self.redis_socket_url or self.redis_url


def external_urls(environ: Mapping[str, str]) -> ServerUrls | None:
    """The servers named by ``RABBITMQ_URL`` and ``REDIS_URL``, when both are set: then we start none."""
    rabbitmq_url, redis_url = environ.get("RABBITMQ_URL", ""), environ.get("REDIS_URL", "")
    return ServerUrls(rabbitmq_url, redis_url) if rabbitmq_url and redis_url else None


class PrivateServers:
    """A RabbitMQ and a Redis under ``directory``, started together and stopped together.

    ``rabbit`` and ``redis`` can also be killed and restarted one by one. A context manager: starts on entry, stops on
    exit. Thread-safe to the extent that each server is driven by one thread at a time.
    """

    def __init__(
        self, programs: Programs, directory: Path, warden: Warden, environ: Mapping[str, str] | None = None
    ) -> None:
        inherited = os.environ if environ is None else environ
        self.rabbit = PrivateRabbit(programs, directory / "rabbitmq", warden, inherited)
        self.redis = PrivateRedis(programs, directory / "redis", warden, inherited)

    @property
    def urls(self) -> ServerUrls:
        """Their addresses; valid after ``start``."""
        return ServerUrls(self.rabbit.url, self.redis.url, self.redis.socket_url)

    def start(self) -> None:
        """Start both side by side and wait for both. Raises ``StartFailed``; then neither is left running."""
        try:
            with ThreadPoolExecutor(max_workers=2) as pool:
                for future in [pool.submit(self.rabbit.start), pool.submit(self.redis.start)]:
                    future.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both and wait until their processes are gone; their data stays under the directory."""
        self.rabbit.stop()
        self.redis.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

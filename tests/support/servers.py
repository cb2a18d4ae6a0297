"""Servers for tests: those named by URL, or private ones that live as long as the test session.

A machine without the programs skips these tests; with ``CI`` set it fails them, so that nothing is silently left out.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.programs import MissingPrograms, Programs, find_programs
from deploy.local.servers import PrivateServers, external_urls
from deploy.local.warden import Warden


@dataclass(frozen=True, slots=True)
class TestServers:
    """Addresses of the session's servers; ``private`` is ``None`` where they are somebody else's."""

    __test__ = False

    rabbitmq_url: str
    redis_url: str
    private: PrivateServers | None


def require_programs(environ: Mapping[str, str]) -> Programs:
    """The server programs; without them the calling test is skipped, or fails where ``CI`` is set."""
    try:
        return find_programs()
    except MissingPrograms as error:
        message = f"{error}; `make test` installs them, or set RABBITMQ_URL and REDIS_URL"
        if environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@contextmanager
def private_servers(directory: Path, environ: Mapping[str, str]) -> Iterator[PrivateServers]:
    """Fresh, running servers under ``directory`` that a test may kill and restart; stopped and removed at the end."""
    programs = require_programs(environ)
    try:
        with Warden() as warden, PrivateServers(programs, directory, warden, environ) as servers:
            yield servers
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def session_servers(directory: Path, environ: Mapping[str, str]) -> Iterator[TestServers]:
    """The servers of ``RABBITMQ_URL`` and ``REDIS_URL`` when both are set, else private ones under ``directory``."""
    urls = external_urls(environ)
    if urls is not None:
        yield TestServers(urls.rabbitmq_url, urls.redis_url, None)
        return
    with private_servers(directory, environ) as servers:
        yield TestServers(servers.urls.rabbitmq_url, servers.urls.redis_url, servers)

"""One pair of servers with TLS and least rights for all tests here."""

import os
from collections.abc import Iterator

import pytest

from tests.support.secure_servers import SecureServers, secure_servers


@pytest.fixture(scope="package")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServers]:
    with secure_servers(tmp_path_factory.mktemp("secured") / "servers", os.environ) as servers:
        yield servers

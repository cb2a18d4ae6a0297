"""Free TCP ports on 127.0.0.1, and waiting until somebody answers on one."""

import random
import socket
import time
from collections.abc import Callable, Iterable

from deploy.local.child import Child, StartFailed

LOOPBACK = "127.0.0.1"
CHOSEN_FROM = range(12_000, 32_000)


class PortTaken(StartFailed):
    """Another process listens where ours should."""


def free_ports(count: int) -> list[int]:
    """``count`` different ports nobody listens on now. Another process may take one before we do: retry then.

    Below those that the kernel gives to connections (from 32768 on Linux, 49152 elsewhere): one that it has named as
    free it may give to the next client, and before our server starts there are many of these.
    """
    found: list[int] = []
    for port in random.sample(CHOSEN_FROM, len(CHOSEN_FROM)):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether ``port`` could be listened on at 127.0.0.1 now."""
    with socket.socket() as probe:
        # Without it a port whose last connection closed a minute ago counts as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def require_free(name: str, ports: Iterable[int]) -> None:
    """Raises ``PortTaken`` that says which port of ``name`` is in use."""
    for port in ports:
        if not is_free(port):
            raise PortTaken(f"{name}: port {port} is in use by another process")


def first_free_port(start: int, taken: frozenset[int] = frozenset()) -> int:
    """The first free port at or above ``start`` that is not in ``taken``."""
    port = start
    while port in taken or not is_free(port):
        port += 1
    return port


def answers(port: int, request: bytes, expected: bytes) -> bool:
    """Whether the server on ``port`` answers ``request`` with something that begins with ``expected``."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2.0) as connection:
            connection.sendall(request)
            return connection.recv(len(expected)) == expected
    except OSError:
        return False


def wait_for(child: Child, ready: Callable[[], bool], timeout_s: float) -> None:
    """Poll ``ready`` until it holds. Raises ``StartFailed`` when ``child`` ends or ``timeout_s`` seconds pass."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if not child.running:
            raise StartFailed(f"{child.name} ended with code {child.returncode}; its log says:\n{child.last_lines()}")
        if time.monotonic() > deadline:
            raise StartFailed(f"{child.name} was not ready in {timeout_s:.0f} s; its log says:\n{child.last_lines()}")
        time.sleep(0.05)

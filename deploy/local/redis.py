"""A private Redis: append-only file, no eviction, this machine only; a restart keeps its addresses and contents."""

import os
from collections.abc import Mapping
from pathlib import Path

from deploy.local.child import Child, StartFailed
from deploy.local.ports import LOOPBACK, PortTaken, answers, free_ports, require_free, wait_for
from deploy.local.programs import Programs
from deploy.local.warden import Warden

START_TIMEOUT_S = 30.0
START_ATTEMPTS = 3

LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path that every system takes; Redis does not start on a longer one."""

CONFIG = """\
bind {host}
port {port}
{unix_socket}
dir "{directory}"
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
loglevel notice
"""


class PrivateRedis:
    """One store under ``directory``."""

    def __init__(self, programs: Programs, directory: Path, warden: Warden, environ: Mapping[str, str]) -> None:
        self.directory = directory
        self.port = 0
        self._programs = programs
        self._warden = warden
        self._environ = environ
        self._server: Child | None = None

    @property
    def url(self) -> str:
        """``redis://`` address; valid after the first ``start`` and unchanged by ``restart``."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def socket_url(self) -> str | None:
        """``unix://`` address of the same store, a quicker way for processes of this machine and user.

        ``None`` where the directory's name is too long for a socket.
        """
        path = self._socket
        # A client takes the path out of a URL as it is: what has a meaning in one cannot be in it.
        usable = len(os.fsencode(path)) <= LONGEST_SOCKET and not set("?#%") & set(str(path))
        return f"unix://{path}?db=0" if usable else None

    @property
    def _socket(self) -> Path:
        return self.directory.resolve() / "redis.sock"

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int | None:
        """Process id, ``None`` when it is stopped."""
        return self._server.pid if self._server is not None and self._server.running else None

    @property
    def log_path(self) -> Path:
        """What the server wrote to its log."""
        return self.directory / "redis.log"

    def start(self) -> None:
        """Start and wait until it answers PING. Raises ``StartFailed``: why, or its last log lines."""
        if self.running:
            return
        if self.port:
            self._start_once()
            return
        for attempt in range(1, START_ATTEMPTS + 1):
            (self.port,) = free_ports(1)
            try:
                self._start_once()
                return
            except PortTaken:
                # Between choosing a port and listening on it another process may have taken it.
                if attempt == START_ATTEMPTS:
                    raise

    def stop(self) -> None:
        """Stop cleanly and wait; the contents stay."""
        if self._server is not None:
            self._server.stop()

    def kill(self) -> None:
        """Kill it without warning; up to a second of writes may be lost, as ``appendfsync everysec`` says."""
        if self._server is not None:
            self._server.kill()

    def restart(self) -> None:
        """``stop`` and ``start`` on the same port with the same contents."""
        self.stop()
        self.start()

    def _start_once(self) -> None:
        require_free("redis", [self.port])
        try:
            self._launch()
        except StartFailed:
            self.stop()
            # What its log says of a taken port is hard to find; asking again is not.
            require_free("redis", [self.port])
            raise

    def _launch(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "redis.conf"
        unix_socket = f'unixsocket "{self._socket}"\nunixsocketperm 700' if self.socket_url else ""
        config.write_text(
            CONFIG.format(host=LOOPBACK, port=self.port, unix_socket=unix_socket, directory=self.directory.resolve())
        )
        self._server = Child(
            "redis",
            [str(self._programs.redis_server), str(config.resolve())],
            env=self._environ,
            log_path=self.log_path,
            warden=self._warden,
        )
        # While it reads its append-only file it answers "-LOADING", which is not "+PONG" yet.
        wait_for(self._server, lambda: answers(self.port, b"PING\r\n", b"+PONG"), START_TIMEOUT_S)

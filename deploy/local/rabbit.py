"""A private RabbitMQ node: own name, ports, data, cookie and port mapper; listens on 127.0.0.1 only.

Stopping and starting it again keeps port and data, which is what the chaos tests need. The port mapper (epmd) is
started by us on a port of its own: the one Erlang starts by itself is a daemon that would stay on the machine.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

from deploy.local.child import Child, StartFailed
from deploy.local.ports import LOOPBACK, PortTaken, answers, free_ports, require_free, wait_for
from deploy.local.programs import Programs
from deploy.local.warden import Warden

NODE_NAME = "affinity@localhost"
START_TIMEOUT_S = 120.0
START_ATTEMPTS = 3

# Longer than any model's timeout: a delivery that stays unacked for longer makes the broker close the channel.
CONSUMER_TIMEOUT_S = 86_400

CONFIG = """\
listeners.tcp.1 = {host}:{port}
loopback_users.guest = true
consumer_timeout = {consumer_timeout_ms}
log.console = false
log.file.level = warning
# The default of 512 MiB per write-ahead log is kept in memory until it rolls over.
raft.wal_max_size_bytes = 67108864
# Disks of laptops and small machines are often nearly full; the default of 50 MB blocks publishers without a word.
disk_free_limit.absolute = 10MB
"""


class PrivateRabbit:
    """One broker under ``directory``. ``environ`` is what the child inherits, less what belongs to other brokers."""

    def __init__(self, programs: Programs, directory: Path, warden: Warden, environ: Mapping[str, str]) -> None:
        self.directory = directory
        self.port = 0
        self._programs = programs
        self._warden = warden
        self._environ = environ
        self._dist_port = 0
        self._epmd_port = 0
        self._epmd: Child | None = None
        self._node: Child | None = None

    @property
    def url(self) -> str:
        """``amqp://`` address; valid after the first ``start`` and unchanged by ``restart``."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}/"

    @property
    def running(self) -> bool:
        """Whether the node's process is there."""
        return self._node is not None and self._node.running

    @property
    def pid(self) -> int | None:
        """Process id of the node, ``None`` when it is stopped."""
        return self._node.pid if self._node is not None and self._node.running else None

    @property
    def epmd_pid(self) -> int | None:
        """Process id of the node's port mapper, ``None`` when it is stopped."""
        return self._epmd.pid if self._epmd is not None and self._epmd.running else None

    @property
    def log_path(self) -> Path:
        """What the node wrote to its log."""
        return self.directory / "log" / "rabbit.log"

    @property
    def _ports(self) -> tuple[int, ...]:
        return self.port, self._dist_port, self._epmd_port

    def start(self) -> None:
        """Start and wait until it speaks AMQP (3 to 10 s). Raises ``StartFailed``: why, or its last log lines."""
        if self.running:
            return
        if self.port:
            self._start_once()
            return
        for attempt in range(1, START_ATTEMPTS + 1):
            self.port, self._dist_port, self._epmd_port = free_ports(3)
            try:
                self._start_once()
                return
            except PortTaken:
                # Between choosing a port and listening on it another process may have taken it.
                if attempt == START_ATTEMPTS:
                    raise

    def stop(self) -> None:
        """Stop cleanly (flushes everything) and wait; the data stays."""
        if self._node is not None:
            self._node.stop(grace_s=30.0)
        self._stop_epmd()

    def kill(self) -> None:
        """Kill the node without warning, as a crash would; the data stays.

        RabbitMQ 3.10 writes the name of a new quorum queue to disk up to two seconds after it has confirmed messages
        in it: a crash within that time loses the queue, and the node then answers nothing about it.
        """
        if self._node is not None:
            self._node.kill()
        self._stop_epmd()

    def restart(self) -> None:
        """``stop`` and ``start`` on the same port with the same data."""
        self.stop()
        self.start()

    def _start_once(self) -> None:
        # A node that ended by itself left its port mapper running, on a port that we need.
        self.stop()
        require_free("rabbitmq", self._ports)
        try:
            self._launch()
        except StartFailed:
            self.stop()
            # What its log says of a taken port is hard to find; asking again is not.
            require_free("rabbitmq", self._ports)
            raise

    def _launch(self) -> None:
        self._write_files()
        environment = self._environment()
        self._start_epmd(environment)
        self._node = Child(
            "rabbitmq",
            [str(self._programs.rabbitmq_server)],
            env=environment,
            cwd=self.directory,
            log_path=self.log_path.with_name("console.log"),
            warden=self._warden,
        )
        # A protocol header is answered by a method frame (type 1) on channel 0 once the listener is up, and the
        # listener is the last step of the node's start.
        wait_for(self._node, lambda: answers(self.port, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00"), START_TIMEOUT_S)

    def _start_epmd(self, environment: Mapping[str, str]) -> None:
        address = ["-port", str(self._epmd_port), "-address", LOOPBACK]
        self._epmd = Child(
            "epmd",
            [str(self._programs.epmd), *address],
            env=environment,
            log_path=self.directory / "log" / "epmd.log",
            warden=self._warden,
        )

    def _stop_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.stop(grace_s=5.0)

    def _write_files(self) -> None:
        for name in ("data", "log"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        config = CONFIG.format(host=LOOPBACK, port=self.port, consumer_timeout_ms=CONSUMER_TIMEOUT_S * 1000)
        (self.directory / "rabbitmq.conf").write_text(config)
        (self.directory / "advanced.config").write_text("[].\n")
        (self.directory / "enabled_plugins").write_text("[].\n")
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16))
            # Erlang refuses a cookie that others may read or that it could write to.
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        foreign = ("RABBITMQ_", "ERL_", "ERLANG_")
        kept = {name: value for name, value in self._environ.items() if not name.startswith(foreign)}
        directory = self.directory.resolve()
        return kept | {
            "HOME": str(directory),
            "RABBITMQ_NODENAME": NODE_NAME,
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_LOGS": str(self.log_path.resolve()),
            "RABBITMQ_PID_FILE": str(directory / "rabbit.pid"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            # The machine's own settings file must not override ours.
            "RABBITMQ_CONF_ENV_FILE": str(directory / "no-rabbitmq-env.conf"),
            # With input allowed the start script replaces itself by the node, so that the child's pid is the node's
            # and SIGTERM is a clean stop; -noinput then keeps the node off our terminal.
            "RABBITMQ_ALLOW_INPUT": "1",
            # No busy waiting: idle schedulers would spin on the few cores that everything else here needs, too.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
        }

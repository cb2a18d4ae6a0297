"""A child process in a process group of its own: started, watched, stopped, and never left behind."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local.warden import Warden, kill_group


class StartFailed(Exception):
    """A process did not come up; the message holds its last log lines and what to do."""


class Child:
    """One started process. Its output is appended to ``log_path``; its group is guarded by ``warden``.

    ``env`` is the whole environment of the child. Raises ``StartFailed`` when the program cannot be executed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log_path: Path,
        warden: Warden,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._warden = warden
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            try:
                # A group of its own: Ctrl-C in the terminal reaches us alone, and we stop the others in order.
                self._process = subprocess.Popen(
                    list(command),
                    env=dict(env),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise StartFailed(f"{name}: cannot run {command[0]}: {error.strerror}") from error
        self._finished = False
        warden.guard(self._process.pid)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; ``None`` while it runs."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.returncode is None

    def terminate(self) -> None:
        """Ask it to end (SIGTERM to the leader) and return at once."""
        if self.running:
            self._process.terminate()

    def stop(self, grace_s: float = 20.0) -> int:
        """SIGTERM, up to ``grace_s`` seconds, then SIGKILL to the whole group; returns the exit code."""
        self.terminate()
        try:
            self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            kill_group(self.pid)
        return self._finish()

    def kill(self) -> int:
        """SIGKILL to the whole group, as a crash would; returns the exit code."""
        if self.running:
            kill_group(self.pid)
        return self._finish()

    def signal(self, number: signal.Signals) -> None:
        """Send one signal to the leader, for tests that freeze or interrupt it."""
        os.kill(self.pid, number)

    def wait_until_ended(self, timeout_s: float) -> bool:
        """Whether it ended by itself within ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        while self.running and time.monotonic() < deadline:
            time.sleep(0.02)
        return not self.running

    def last_lines(self, count: int = 15) -> str:
        """The last ``count`` lines of its log, for messages."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-count:])

    def _finish(self) -> int:
        code = self._process.wait()
        if not self._finished:
            self._finished = True
            # The leader may leave children of its own behind (an executor, Erlang's port programs): end them as well.
            # Once only: later the group's number may be somebody else's.
            kill_group(self.pid)
            self._warden.release(self.pid)
        return code

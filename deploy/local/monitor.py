"""``make monitor``: Prometheus, with our rules and alerts, on a system that runs. ``python -m deploy.local.monitor``.

Workers come and go, so the dispatcher is asked for them again and again and Prometheus reads them from a file. The own
metrics of RabbitMQ and Redis are scraped where their addresses are given; whether both answer the dispatcher says.
"""

import argparse
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.child import Child, StartFailed
from deploy.local.ports import LOOPBACK, answers, first_free_port, wait_for
from deploy.local.stop import StopRequest
from deploy.local.system import exclusive
from deploy.local.warden import Warden

RULES = Path(__file__).parents[1] / "prometheus"
RULE_FILES = ("recording.yml", "slo.yml", "alerts.yml")
PORT = 9090
ASK_EVERY_S = 5.0
START_TIMEOUT_S = 30.0


def configuration(dispatcher: str, workers: Path, others: Mapping[str, str], every_s: float = 5.0) -> dict[str, object]:
    """Prometheus' configuration; as JSON it is YAML. ``workers``: the file with their targets. ``others``: jobs and
    their ``host:port``.
    """

    def static(job: str, target: str) -> dict[str, object]:
        return {"job_name": job, "static_configs": [{"targets": [target]}]}

    every = f"{int(1000 * every_s)}ms"
    files = [{"files": [str(workers.absolute())], "refresh_interval": every}]
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(RULES / name) for name in RULE_FILES],
        "scrape_configs": [
            static("affinity-dispatcher", urlsplit(dispatcher).netloc),
            {"job_name": "affinity-worker", "file_sd_configs": files},
            *(static(job, target) for job, target in others.items()),
        ],
    }


def targets(metrics_urls: Iterable[str]) -> str:
    """The file of targets: one for each process, whatever number of GPUs it serves."""
    return json.dumps([{"targets": sorted({urlsplit(url).netloc for url in metrics_urls})}])


def metrics_urls(dispatcher: str, api_key: str) -> list[str]:
    """Where the live workers have their metrics. Raises ``StartFailed`` where the dispatcher does not say."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        # Given by whoever runs this, and http in all that is documented.
        asked = urllib.request.Request(f"{dispatcher}/workers", headers=headers)  # noqa: S310
        with urllib.request.urlopen(asked, timeout=5.0) as answer:  # noqa: S310
            return [worker["metrics_url"] for worker in json.load(answer)["workers"]]
    except (OSError, ValueError, KeyError) as error:
        raise StartFailed(f"{dispatcher}/workers: {error}. Is the system up, and AFFINITY_API_KEY set?") from error


class Monitor:
    """A Prometheus under ``directory``, and the file that names the workers to it."""

    def __init__(self, directory: Path, dispatcher: str, api_key: str, warden: Warden) -> None:
        self.port = 0
        self._directory = directory
        self._dispatcher = dispatcher
        self._api_key = api_key
        self._warden = warden
        self._child: Child | None = None
        self._workers = directory / "workers.json"

    def start(self, others: Mapping[str, str], port: int, every_s: float = 5.0) -> None:
        """Start it on the first free port from ``port`` on and wait until it is ready. Raises ``StartFailed``."""
        program = shutil.which("prometheus")
        if program is None:
            raise StartFailed("prometheus is not installed. On Debian: sudo apt-get install prometheus")
        self.look()
        config = self._directory / "prometheus.json"
        config.write_text(json.dumps(configuration(self._dispatcher, self._workers, others, every_s)))
        self.port = first_free_port(port)
        command = [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={LOOPBACK}:{self.port}",
        ]
        log = self._directory / "prometheus.log"
        self._child = Child("prometheus", command, env=dict(os.environ), log_path=log, warden=self._warden)
        ready = f"GET /-/ready HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode()
        wait_for(self._child, lambda: answers(self.port, ready, b"HTTP/1.1 200"), START_TIMEOUT_S)

    def look(self) -> list[str]:
        """Ask for the workers and tell Prometheus. Returns where their metrics are. Raises ``StartFailed``."""
        found = metrics_urls(self._dispatcher, self._api_key)
        # Replaced as a whole: Prometheus may read it at any moment.
        fresh = self._workers.with_suffix(".new")
        fresh.write_text(targets(found))
        fresh.replace(self._workers)
        return found

    def stop(self) -> None:
        """Stop it; its data stays."""
        if self._child is not None:
            self._child.stop()

    def raise_if_ended(self) -> None:
        """Raises ``StartFailed`` where Prometheus has ended by itself."""
        if self._child is not None and not self._child.running:
            raise StartFailed(f"prometheus ended; its log says:\n{self._child.last_lines()}")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit code 0 after Ctrl-C or SIGTERM, 1 when it could not start or ended by itself."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.monitor", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:5000", help="the dispatcher")
    parser.add_argument("--directory", type=Path, default=Path(".run/monitor"), help="data and log")
    parser.add_argument("--port", type=int, default=PORT, help="first port to try")
    parser.add_argument("--rabbitmq", metavar="HOST:PORT", help="RabbitMQ's rabbitmq_prometheus plugin, usually :15692")
    parser.add_argument("--redis", metavar="HOST:PORT", help="a Redis exporter, usually :9121")
    options = parser.parse_args(argv)
    others = {job: target for job, target in (("rabbitmq", options.rabbitmq), ("redis", options.redis)) if target}
    stop = StopRequest()
    url = options.url.rstrip("/")
    try:
        with exclusive(options.directory), Warden() as warden:
            monitor = Monitor(options.directory, url, environ.get("AFFINITY_API_KEY", ""), warden)
            try:
                monitor.start(others, options.port)
                for line in summary(monitor, url, others):
                    print(f"[monitor] {line}", flush=True)
                watch(monitor, stop)
            finally:
                monitor.stop()
    except StartFailed as error:
        print(f"[monitor] {error}", file=sys.stderr, flush=True)
        return 1
    print("[monitor] stopped", flush=True)
    return 0


def watch(monitor: Monitor, stop: StopRequest) -> None:
    """Keep the list of workers fresh until it is time to stop. A dispatcher that is away is an alert, no end."""
    while not stop.wait(ASK_EVERY_S):
        monitor.raise_if_ended()
        try:
            monitor.look()
        except StartFailed as error:
            print(f"[monitor] {error}", file=sys.stderr, flush=True)


def summary(monitor: Monitor, url: str, others: Mapping[str, str]) -> list[str]:
    """The addresses of everything."""
    here = f"http://{LOOPBACK}:{monitor.port}"
    return [
        "Prometheus is up. Ctrl-C stops it; its data stays.",
        f"  graphs      {here}/graph?g0.expr=affinity%3Ahit_ratio%3Arate5m",
        f"  alerts      {here}/alerts  (what to do: docs/runbook.md)",
        f"  targets     {here}/targets",
        f"  dispatcher  {url}/metrics",
        *(f"  worker      {found}" for found in monitor.look()),
        *(f"  {job:<10}  http://{target}/metrics" for job, target in others.items()),
        f"  Grafana     {here} as data source with the uid affinity-prometheus, then deploy/grafana/dashboards/*.json",
    ]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], os.environ))

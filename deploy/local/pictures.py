"""``make pictures``: the console page as it looks while the demo runs. ``python -m deploy.local.pictures``.

Real servers, a real dispatcher, workers with simulated GPUs, the demo's jobs; a browser without a window looks at it.
"""

import argparse
import itertools
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
from playwright.sync_api import Browser, sync_playwright

from deploy.local.child import StartFailed
from deploy.local.demo import CHOSEN_HERE, FIXED
from deploy.local.demo_jobs import demo_jobs
from deploy.local.environment import read_plan
from deploy.local.fleet import api_key_header
from deploy.local.ports import free_ports
from deploy.local.stop import StopRequest
from deploy.local.system import Stopped, local_system

FOLDER = Path("docs/pictures")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SIZE = (1280, 900)
AT_ONCE = 18
EVERY_S = 1.2
WARM_UP_MS = 180_000.0
BETWEEN_MS = 3_000.0
LARGEST_BYTES = 300_000
READY = """() => ["minilm-l6-v2", "silero-vad"].every(
    (name) => document.querySelector(`.part[data-state=ready][title^="${name}"]`))"""

# More models than fit, so that something is always on its way.
OWN = {"WORKERS": "4", "WORKER_ID": "gpu", "AFFINITY_NAMESPACE": "affinity-pictures", "WORKER_SIMULATED_VRAM_GIB": "18"}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit code 0 once all pictures are written, 1 with the reason otherwise."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.pictures", description="Pictures of the console page")
    parser.add_argument("--directory", type=Path, default=Path(".run/pictures"), help="data and logs of the system")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the pictures go (default: {FOLDER})")
    options = parser.parse_args(argv)
    program = shutil.which("chromium")
    if program is None:
        print(f"chromium is not installed: {sys.executable} -m deploy.local.install chromium", file=sys.stderr)
        return 1
    own = {name: value for name, value in environ.items() if name not in CHOSEN_HERE} | FIXED | OWN
    dispatcher_port, metrics_port = free_ports(2)
    # Jobs of an earlier run would wait in these.
    for leftover in ("rabbitmq", "redis"):
        shutil.rmtree(options.directory / leftover, ignore_errors=True)
    try:
        with (
            local_system(
                read_plan(own, has_gpu=False),
                own,
                directory=options.directory,
                stop=StopRequest(),
                say=lambda line: print(f"[pictures] {line}", flush=True),
                ports_from=(dispatcher_port, metrics_port),
            ) as (fleet, _),
            jobs_flowing(fleet.url, api_key_header(own)),
            sync_playwright() as playwright,
        ):
            # In a container it runs as root, where its own sandbox cannot be set up; the page is ours.
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            draw(browser, fleet.url, options.folder)
            browser.close()
    except (StartFailed, Stopped) as error:
        print(f"[pictures] {error or 'stopped'}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def jobs_flowing(url: str, headers: Mapping[str, str]) -> Iterator[None]:
    """The demo's jobs, a handful at a time, over and over while the context is open."""
    over = threading.Event()

    def flow() -> None:
        endless = itertools.cycle(demo_jobs())
        with httpx.Client(base_url=url, headers=headers, timeout=30.0) as client:
            while not over.wait(EVERY_S):
                jobs = [{"model": job.model, "input": job.input} for job in itertools.islice(endless, AT_ONCE)]
                client.post("/jobs/batch", json={"jobs": jobs}).raise_for_status()

    flowing = threading.Thread(target=flow)
    flowing.start()
    try:
        yield
    finally:
        over.set()
        flowing.join()


def draw(browser: Browser, url: str, folder: Path) -> None:
    """Write the pictures. Raises ``StartFailed`` where one is too large for a repository."""
    folder.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
    page.goto(url)
    # Once the real models are there, too: they take longest to load.
    page.wait_for_function(READY, timeout=WARM_UP_MS)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(BETWEEN_MS)
        path = folder / f"console-{scheme}.png"
        page.screenshot(path=path)
        print(f"[pictures] {path}: {path.stat().st_size} bytes", flush=True)
        if path.stat().st_size > LARGEST_BYTES:
            raise StartFailed(f"{path} is larger than {LARGEST_BYTES} bytes")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], os.environ))

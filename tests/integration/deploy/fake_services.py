"""Stand-ins for the two services, so that the supervisor can be tested by itself.

``fake_services.py dispatcher`` answers the few calls the supervisor makes; ``fake_services.py worker`` only registers
and waits. ``fake_services.py run ...`` is ``make run`` with these two in place of the real ones.
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from deploy.local.fleet import Commands
from deploy.local.run import main as run


def folder() -> Path:
    return Path(os.environ["FAKE_FOLDER"])


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        workers = [{"id": path.stem, "node": "here"} for path in folder().glob("*.worker")]
        body = json.dumps({"workers": workers} if self.path == "/workers" else {"status": "healthy"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def dispatcher() -> None:
    signal.signal(signal.SIGTERM, lambda *_: note_end("dispatcher"))
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["DISPATCHER_PORT"])), Answers).serve_forever()


def worker() -> None:
    if os.environ.get("FAKE_CRASH") == os.environ["WORKER_ID"]:
        print("the GPU has fallen off the bus")
        raise SystemExit(17)
    signal.signal(signal.SIGTERM, lambda *_: note_end(os.environ["WORKER_ID"]))
    seen = {name: value for name, value in os.environ.items() if name.startswith(("WORKER_", "REDIS_", "RABBITMQ_"))}
    (folder() / f"{os.environ['WORKER_ID']}.worker").write_text(json.dumps(seen | {"pid": os.getpid()}))
    signal.pause()


def note_end(name: str) -> None:
    with (folder() / "ended").open("a") as ended:
        ended.write(f"{name} {time.monotonic()}\n")
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        me = (sys.executable, __file__)
        raise SystemExit(run(sys.argv[2:], os.environ, Commands((*me, "dispatcher"), (*me, "worker"))))
    {"dispatcher": dispatcher, "worker": worker}[sys.argv[1]]()

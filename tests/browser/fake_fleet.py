"""A dispatcher that is nothing but its answers: 64 GPUs, 2,000 models, 500 events a second, and names that bite."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from affinity.wire import rfc3339
from dispatcher.routes.console import PAGE, read_files
from dispatcher.secure_headers import PAGE_POLICY

GIB = 1024**3
NASTY = 'nasty"\'<img src=x onerror="window.bitten=1">\n&amp;<b>bold</b>'
FAMILIES = ("llama", "mistral", "qwen", "whisper", "sdxl", "bge", "clip", "gemma", "phi", "yolo")
EVENT_EVERY_S = 0.02

Json = dict[str, Any]


@dataclass(slots=True)
class FakeFleet:
    """What it answers with. ``ahead_s``: how far its clock is ahead of ours. ``down``: it answers nobody.
    ``given`` are the ids of its events, ``resumed`` those after which somebody wanted to go on."""

    gpus: int = 64
    models: int = 2000
    events_per_s: int = 500
    ahead_s: float = 0.0
    down: bool = False
    told: int = 0
    given: set[str] = field(default_factory=set)
    resumed: list[str] = field(default_factory=list)
    dice: random.Random = field(default_factory=lambda: random.Random(5))
    names: list[str] = field(default_factory=list)
    held: dict[str, list[Json]] = field(default_factory=dict)
    holders: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = [f"{FAMILIES[n % len(FAMILIES)]}/{FAMILIES[n % 7]}-{n}b:v{n % 5}" for n in range(self.models - 1)]
        self.names.insert(3, NASTY)
        for n in range(self.gpus):
            picked = self.dice.sample(self.names, self.dice.randint(4, 11)) if n else [NASTY, *self.names[4:9]]
            states = ["ready"] * len(picked)
            states[-1] = ("loading", "draining", "ready")[n % 3]
            self.held[f"gpu-{n:02}"] = [
                {"model": model, "state": state, "bytes": int(self.dice.uniform(0.5, 7) * GIB)}
                for model, state in zip(picked, states, strict=True)
            ]
            for model in picked:
                self.holders.setdefault(model, []).append(f"gpu-{n:02}")

    def now(self) -> float:
        """Epoch seconds on its clock."""
        return time.time() + self.ahead_s

    def ago(self, seconds: float) -> str:
        """That instant as it writes it."""
        return rfc3339(self.now() - seconds)

    def answer(self, path: str) -> Json | None:
        """What a GET gets; none where there is no such thing."""
        return {
            "/health": lambda: {"status": "healthy", "timestamp": self.ago(0)},
            "/health/ready": lambda: {"status": "ready", "broker": "ok", "store": "ok", "warnings": []},
            "/workers": lambda: {"workers": [self._worker(n, name) for n, name in enumerate(self.held)]},
            "/models": lambda: {"models": [self._model(n, name) for n, name in enumerate(self.names)]},
            "/jobs": lambda: {"jobs": [self._job(n) for n in range(50)], "cursor": None},
            "/jobs/job-0": lambda: self._job(0),
            "/jobs/job-0/explain": self._explained,
            "/dead-letters": lambda: {"dead_letters": [self._letter(n) for n in range(20)], "cursor": "50"},
        }.get(path, lambda: None)()

    def events(self) -> Iterator[bytes]:
        """Frames that are due, over and over: as many a second as were asked for, however late it is asked."""
        began, sent = time.monotonic(), 0
        while True:
            many = int((time.monotonic() - began) * self.events_per_s) - sent
            sent += many
            yield b"".join(self._event() for _ in range(many)) or b":\n\n"

    def _worker(self, n: int, name: str) -> Json:
        foreign = int((n % 4 == 1) * 9 * GIB)
        residents = [
            {
                **held,
                "running": self.dice.choice((0, 0, 1, 4)) if held["state"] == "ready" else 0,
                "pinned": number == 1,
                "loaded_at": self.ago(3.0 if held["state"] == "loading" else 600.0),
                "last_used_at": self.ago(5.0),
            }
            for number, held in enumerate(self.held[name])
        ]
        used = foreign + sum(r["bytes"] for r in residents if r["state"] != "loading") + GIB
        return {
            "id": name,
            "node": f"node-{n // 8}",
            "lease_age_s": 0.5,
            "as_of": self.ago(0.5),
            "draining": n % 16 == 5,
            "busy": any(r["running"] for r in residents),
            "gpu": {
                "uuid": f"GPU-{n}",
                "index": n % 8,
                "name": "NVIDIA H100 80GB HBM3",
                "total_bytes": 80 * GIB,
                "used_bytes": used,
                "free_bytes": 80 * GIB - used,
                "foreign_bytes": foreign,
                "utilization": self.dice.random(),
            },
            "residents": residents,
            "cached": self.names[n % self.models :][:6] if n % 5 == 2 else [],
            "metrics_url": "",
        }

    def _model(self, n: int, name: str) -> Json:
        queued = self.dice.randint(1, 900) if n % 11 == 0 else 0
        return {
            "name": name,
            "pinned": n % 97 == 0,
            "pinned_by": "hand" if n % 97 == 0 else None,
            "pinned_on": [],
            "runtime": "torch",
            "max_batch": 8,
            "timeout_s": 60.0,
            "orders": [],
            "declared_bytes": 4 * GIB,
            "holders": self.holders.get(name, []),
            "measured": [
                {
                    "gpu": "NVIDIA H100 80GB HBM3",
                    "footprint_bytes": (n % 40 + 1) * GIB // 2,
                    "load_s": 5.0,
                    "exec_s": 0.2,
                }
            ],
            "queued": queued,
            "oldest_wait_s": queued / 30 if queued else None,
            "depth": queued,
        }

    def _job(self, n: int) -> Json:
        state = ("succeeded", "running", "queued", "failed", "succeeded")[n % 5]
        return {
            "id": f"job-{n}",
            "model": self.names[n % self.models],
            "state": state,
            "created_at": self.ago(n + 3.0),
            "started_at": None if state == "queued" else self.ago(n + 2.0),
            "finished_at": self.ago(n + 1.0) if state in {"succeeded", "failed"} else None,
            "worker": None if state == "queued" else "gpu-01",
            "start": "cold" if n % 9 == 0 else "warm",
            "error": {"code": "job_failed", "message": NASTY} if state == "failed" else None,
            "attempts": 1,
            "load_s": 0.5,
            "result": {"text": NASTY},
            "metadata": {"n": n},
        }

    def _explained(self) -> Json:
        ran = {"worker": "gpu-01", "start": "cold", "wait_in_queue_s": 0.5, "wait_for_load_s": 0.5, "exec_s": 1.0}
        ran |= {"total_s": 2.0, "evicted": [NASTY]}
        return {"summary": f"cold on gpu-01: it was loaded, for which {NASTY} had to go", "waiting": None, "ran": ran}

    def _letter(self, n: int) -> Json:
        return {
            "id": f"letter-{n}",
            "kind": "job" if n % 5 else "message",
            "model": self.names[n % self.models],
            "code": "job_failed",
            "error": {"code": "job_failed", "message": f"{NASTY} raised ValueError in line {n}"},
            "worker": "gpu-01",
            "created_at": self.ago(90.0),
            "died_at": self.ago(60.0),
            "attempts": 3,
            "losses": 0,
            "deaths": 0,
            "life": 0,
            "tenant": None,
            "size_bytes": None,
            "excerpt": None,
        }

    def _event(self) -> bytes:
        self.told += 1
        n, at = self.told, self.now()
        job, model, worker = f"live-{n // 3}", self.names[(n // 3) % self.models], f"gpu-{n % self.gpus:02}"
        said: Json = {"job": job, "model": model, "worker": worker}
        kind = ("job.accepted", "job.started", "job.settled")[n % 3]
        said |= {"attempt": 1, "state": "succeeded", "start": "warm"}
        if n % 100 == 0:
            kind = ("model.loading", "model.resident", "model.evicted")[n // 100 % 3]
            said = {
                "model": model,
                "worker": worker,
                "load_s": 4.2,
                "reason": "12 jobs wait, nobody holds it",
                "room_for": NASTY,
            }
        event_id = f"{int(at * 1000)}-{n}"
        self.given.add(event_id)
        text = json.dumps({**said, "kind": kind, "at": rfc3339(at), "id": event_id})
        return f"id: {event_id}\nevent: {kind}\ndata: {text}\n\n".encode()


class _Answers(BaseHTTPRequestHandler):
    fleet: FakeFleet
    files = read_files()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if self.fleet.down:
            self.close_connection = True
            return
        with contextlib.suppress(OSError):  # The page has gone.
            self._answer(path)

    def _answer(self, path: str) -> None:
        if path == "/events":
            self._stream()
        elif found := self.files.get(PAGE if path == "/" else path.removeprefix("/console/")):
            self._send(200, found.content, found.media_type)
        elif (said := self.fleet.answer(path)) is not None:
            self._send(200, json.dumps(said).encode(), "application/json")
        else:
            self._send(404, b'{"detail": "there is no such thing", "code": "not_found"}', "application/problem+json")

    def _send(self, status: int, content: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Security-Policy", PAGE_POLICY)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        self.fleet.resumed.append(self.headers.get("Last-Event-ID", ""))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        pause = threading.Event()
        for frames in self.fleet.events():
            self.wfile.write(frames)
            if pause.wait(EVENT_EVERY_S) or self.fleet.down:
                return

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serving(fleet: FakeFleet) -> Iterator[str]:
    """Its address, for as long as the context is open."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"fleet": fleet})) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            fleet.down = True
            server.shutdown()
            thread.join()

"""What one minor version writes and understands, written down so that the next one can be held against it.

``python -m tests.support.wire_contract`` writes ``tests/architecture/wire/<version>.json`` of this version. What is
understood is found out by trying: each field of a sample is left out, and replaced by a value of each kind of JSON.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from affinity import wire
from affinity.errors import UndecodableMessage
from affinity.fleet import Gpu, Measurement, Refusal, Residency, ResidencyState, WorkerReport
from affinity.job import JobSpec
from affinity.topology import Topology

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "architecture" / "wire"

KINDS: Mapping[str, object] = {
    "null": None, "boolean": True, "integer": 1, "number": 1.5, "string": "a", "array": [], "object": {}
}  # fmt: skip
"""Kind of JSON value -> one that is harmless everywhere. What a sample has of that kind is tried as well."""

SPEC = JobSpec("j1", "m", {"n": 1}, 60.0, 30.0, 3, {"user": "u"}, "acme")
REPORT = WorkerReport(
    "w1", "node", 1, 2, 1.5, Gpu("GPU-1", 0, "GPU of 24 GiB", 24 * 2**30, 5, 6, 7, 0.5, 8),
    (Residency("m", ResidencyState.READY, 2**30, 1.5, 2.5, 1, pinned=True),),
    (Refusal("n", 9.5, "load_failed", "no such file", 1, hopeless=True),),
    ("o",), 0.5, True, 10.5, "http://node:8000/metrics", ("p",),
)  # fmt: skip

Contract = dict[str, Any]


def version() -> str:
    """Major and minor version of this tree."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return ".".join(tomllib.loads(text)["project"]["version"].split(".")[:2])


def decoders() -> dict[str, Callable[[bytes], object]]:
    """What reads each kind of message."""
    return {
        "message": lambda body: wire.decode_message(body, "m", "j1"),
        "report": wire.decode_report,
        "measurement": wire.decode_measurement,
    }


def samples() -> dict[str, Any]:
    """One of each kind, with every field that is ever written."""
    return {
        "message": json.loads(wire.encode_message(SPEC, 1.5)),
        "report": json.loads(wire.encode_report(REPORT)),
        "measurement": json.loads(wire.encode_measurement(Measurement(2**30, 1.5, 0.5, 0.25))),
    }


def contract() -> Contract:
    """All of it, as it stands in a file."""
    written = samples()
    return {
        "version": version(),
        "wire": wire.VERSION,
        "writes": written,
        "reads": {
            path: _understood(kind, path, written[kind])
            for kind in written
            for path in (kind, *(_inner(written[kind], kind)))
        },
        "broker": _broker(),
    }


def text() -> str:
    """The file."""
    return json.dumps(contract(), indent=1, sort_keys=True) + "\n"


def problems(writer: Contract, reader: Contract) -> list[str]:
    """What ``reader`` would not understand of what ``writer`` writes, and what they declare differently."""
    found = []
    if writer["wire"] != reader["wire"]:
        found.append(f"wire format {writer['wire']} against {reader['wire']}")
    for path, understood in reader["reads"].items():
        written = part(writer["writes"], path)
        fields = understood["fields"]
        found += [
            f"{path}.{name} is not known" for name in sorted(set(written) - set(fields)) if not understood["open"]
        ]
        found += [f"{path}.{name} is missing" for name in understood["needs"] if name not in written]
        found += [
            f"{path}.{name} as {kind_of(written[name])} is not understood"
            for name in sorted(set(written) & set(fields))
            if kind_of(written[name]) not in fields[name]
        ]
    shared = set(writer["broker"]) & set(reader["broker"])
    found += [f"{name} is declared differently" for name in shared if writer["broker"][name] != reader["broker"][name]]
    return found


def part(written: Any, path: str) -> Any:
    """The object at ``report.gpu`` or, the first of a list, ``report.residents``."""
    for name in path.split("."):
        written = written[name]
        written = written[0] if isinstance(written, list) else written
    return written


def kind_of(value: object) -> str:
    """The kind of a JSON value; whole numbers are integers."""
    types = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return types.get(type(value), "object")


def _inner(sample: Mapping[str, Any], kind: str) -> list[str]:
    """Objects inside a report; inputs and metadata of a job are its owner's affair."""
    inner = (name for name, value in sample.items() if isinstance(value, dict) or _objects(value))
    return [f"{kind}.{name}" for name in inner] if kind == "report" else []


def _objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _understood(kind: str, path: str, sample: Any) -> dict[str, Any]:
    def taken(without: str = "", **changed: object) -> bool:
        copy = {kind: json.loads(json.dumps(sample))}
        fields = part(copy, path)
        fields.pop(without, None)
        fields.update(changed)
        try:
            decoders()[kind](json.dumps(copy[kind]).encode())
        except UndecodableMessage:
            return False
        return True

    here = part({kind: sample}, path)
    tried = {name: {**KINDS, kind_of(value): value} for name, value in here.items()}
    return {
        "open": taken(field_of_the_future=1),
        "needs": sorted(name for name in here if not taken(without=name)),
        "fields": {
            name: [kind for kind, value in values.items() if taken(**{name: value})] for name, values in tried.items()
        },
    }


def _broker() -> dict[str, Any]:
    """Exchanges and queues with their arguments: who declares one differently is refused by the broker."""
    names = Topology("ns")
    return {
        names.jobs_exchange: ["topic", names.jobs_exchange_arguments],
        names.fallback: ["fanout", names.fallback_arguments],
        names.dead: ["fanout", names.dead_arguments],
        names.retry(2.0): ["fanout", names.retry_arguments(2.0)],
        names.model_queue("m"): ["queue", names.model_queue_arguments],
    }


def file_of(named: str) -> Path:
    """Where the contract of a version such as 0.1 is."""
    assert re.fullmatch(r"\d+\.\d+", named)
    return FOLDER / f"{named}.json"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    file_of(version()).write_text(text(), encoding="utf-8")

"""The executor: the process that holds one GPU's models. Started by ``worker.executor``, never by hand.

The main thread only reads the socket. One thread loads and unloads, another runs, so a batch need not wait for a load.
The process ends with the worker, whatever its threads are doing.
"""

import argparse
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NoReturn

from affinity.errors import AffinityError, ExecutorDied, InvariantBroken, JobFailed, LoadFailed, OutOfVram
from models import runtimes
from models.entry import ModelEntry
from models.runtimes import LoadedModel
from worker.executor_memory import CountedMemory, ExecutorMemory
from worker.executor_messages import (
    HELLO_ID,
    ErrorRecord,
    Failed,
    Load,
    LoadDone,
    Ready,
    Reply,
    Request,
    Run,
    RunDone,
    Unload,
    UnloadDone,
    entry_of,
    read_request,
    record_of,
)
from worker.frames import BrokenStream, FrameSplitter, pack
from worker.host_cache import HostCache, Tier

EXIT_CANNOT_START = 1
EXIT_BROKEN_STREAM = 2
EXIT_DEVICE_FAULT = 71

_READ_BYTES = 1 << 18
_PR_SET_PDEATHSIG = 1
_SWITCH_INTERVAL_S = 0.0005


@dataclass(slots=True)
class _Resident:
    model: LoadedModel
    reserved_bytes: int
    load_s: float
    tier: Tier


class _Replies:
    """The writing end of the socket, shared by both working threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._turn = threading.Lock()  # a frame of one thread must not land inside the other's

    def send(self, reply: Reply) -> None:
        try:
            frame = pack(reply)
        except AffinityError as error:  # PayloadTooLarge
            frame = pack(Failed(reply.id, record_of(error)))
        except (TypeError, ValueError) as error:
            frame = pack(Failed(reply.id, record_of(JobFailed(f"the results are not JSON: {error}"))))
        with self._turn:
            self._connection.sendall(frame)


class _Models:
    """The resident models, those in the host's memory, and the three things one can ask for."""

    def __init__(self, device: str, memory: ExecutorMemory, host: HostCache) -> None:
        self._device = device
        self._memory = memory
        self._host = host
        self._residents: dict[str, _Resident] = {}

    def load(self, request: Load) -> LoadDone:
        """A model that is resident already is left as it is: a caller that gave up on the first load may ask again."""
        entry = entry_of(request.entry)
        resident = self._residents.get(entry.name)
        if resident is None:
            resident = self._from_host(entry.name) or self._from_disk(entry)
            self._residents[entry.name] = resident
        return LoadDone(
            request.id,
            resident.reserved_bytes,
            self._memory.total_bytes(),
            resident.load_s,
            resident.tier,
            self._host.cached,
        )

    def unload(self, request: Unload) -> UnloadDone:
        resident = self._residents.pop(request.model, None)
        if resident is not None:
            if not self._to_host(request, resident.model):
                resident.model.close()
            self._memory.freed(resident.reserved_bytes)
        return UnloadDone(request.id, self._memory.total_bytes(), self._host.cached)

    def _from_disk(self, entry: ModelEntry) -> _Resident:
        began = time.monotonic()
        model, reserved_bytes = self._memory.load(lambda: runtimes.load(entry, self._device), LoadedModel.close)
        return _Resident(model, reserved_bytes, time.monotonic() - began, Tier.DISK)

    def _from_host(self, name: str) -> _Resident | None:
        model = self._host.parked(name)
        if model is None:
            return None

        def returned() -> LoadedModel:
            model.return_to_device()
            return model

        began = time.monotonic()
        try:
            _, reserved_bytes = self._memory.load(returned, LoadedModel.leave_device)
        except LoadFailed as error:
            print(f"{name} cannot come back from the host's memory: {error}", file=sys.stderr, flush=True)
            self._host.drop(name)
            return None
        self._host.returned(name)
        return _Resident(model, reserved_bytes, time.monotonic() - began, Tier.HOST)

    def _to_host(self, request: Unload, model: LoadedModel) -> bool:
        try:
            return self._host.park(
                request.model, model, lambda: self._memory.leave(model.leave_device), request.room_for
            )
        except (LoadFailed, OutOfVram) as error:  # Its own fault, or the host has no page-locked memory to give.
            print(f"{request.model} cannot stay in the host's memory: {error}", file=sys.stderr, flush=True)
            return False

    def run(self, request: Run) -> RunDone:
        resident = self._residents.get(request.model)
        if resident is None:
            raise InvariantBroken(f"{request.model} is not resident in this executor")
        began = time.monotonic()
        results, grown_bytes = self._memory.run(lambda: resident.model.run(request.values))
        exec_s = time.monotonic() - began
        resident.reserved_bytes += grown_bytes
        errors: dict[int, ErrorRecord] = {}
        values: list[object] = []
        for position, result in enumerate(results):
            if isinstance(result, AffinityError):
                errors[position] = record_of(result)
            values.append(None if position in errors else result)
        return RunDone(request.id, values, errors, exec_s, resident.reserved_bytes, self._memory.total_bytes())


def _serve(
    requests: "SimpleQueue[Request]",
    answer: Callable[[Request], Reply],
    otherwise: type[JobFailed | LoadFailed],
    replies: _Replies,
) -> NoReturn:
    """One working thread: answer requests in order, whatever the models' code does."""
    while True:
        request = requests.get()
        try:
            reply = answer(request)
        except ExecutorDied as error:
            # The device is gone, and with it every model of this process: the others' calls must fail too.
            replies.send(Failed(request.id, record_of(error)))
            os._exit(EXIT_DEVICE_FAULT)
        except AffinityError as error:
            reply = Failed(request.id, record_of(error))
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a model's code would end this thread unnoticed
            reply = Failed(request.id, record_of(otherwise(f"{type(error).__name__}: {error}")))
        replies.send(reply)


def _read_requests(connection: socket.socket, loads: "SimpleQueue[Request]", runs: "SimpleQueue[Request]") -> NoReturn:
    """Sort requests to the threads until the worker hangs up, then end without waiting for either."""
    splitter = FrameSplitter()
    while piece := connection.recv(_READ_BYTES):
        for body in splitter.feed(piece):
            request = read_request(body)
            (runs if isinstance(request, Run) else loads).put(request)
    os._exit(0)


def _open_memory(arguments: argparse.Namespace) -> ExecutorMemory:
    if arguments.device == "cpu":
        return CountedMemory(arguments.limit_bytes)
    from models.runtimes.device_memory import CudaMemory  # noqa: PLC0415 - imports torch: seconds that a CPU child saves

    return CudaMemory(arguments.gpu)


def _die_with(parent_pid: int) -> None:
    """End this process when the worker ends, even while a model's code keeps every thread of ours from running."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before we asked
        os._exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.executor_child", description=__doc__)
    parser.add_argument("--label", required=True, help="whose executor this is, for the process list")
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of the connection to the worker")
    parser.add_argument("--parent", type=int, required=True, help="process id of the worker")
    parser.add_argument("--device", required=True, help="cpu or cuda:0")
    parser.add_argument("--gpu", default="", help="UUID the CUDA device must have")
    parser.add_argument("--limit-bytes", type=int, help="memory of a simulated GPU")
    parser.add_argument("--host-cache-bytes", type=int, default=0, help="most that unloaded models keep in RAM")
    return parser.parse_args()


def main() -> NoReturn:
    """Serve the worker at the other end of ``--socket`` until it hangs up."""
    arguments = _arguments()
    _die_with(arguments.parent)
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # what models print must survive os._exit
    # A thread that loads would keep the running one from its results for 5 ms at a time, with Python's default.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    connection = socket.socket(fileno=arguments.socket)
    replies = _Replies(connection)
    try:
        models = _Models(arguments.device, _open_memory(arguments), HostCache(arguments.host_cache_bytes))
    except AffinityError as error:
        replies.send(Failed(HELLO_ID, record_of(error)))
        os._exit(EXIT_CANNOT_START)
    loads: SimpleQueue[Request] = SimpleQueue()
    runs: SimpleQueue[Request] = SimpleQueue()

    def change_residents(request: Request) -> Reply:
        return models.load(request) if isinstance(request, Load) else models.unload(request)  # type: ignore[arg-type]

    threading.Thread(
        target=_serve, args=(loads, change_residents, LoadFailed, replies), name="loads", daemon=True
    ).start()
    threading.Thread(target=_serve, args=(runs, models.run, JobFailed, replies), name="runs", daemon=True).start()
    replies.send(Ready(HELLO_ID))
    try:
        _read_requests(connection, loads, runs)
    except (BrokenStream, OSError) as error:
        print(f"executor {arguments.label}: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_BROKEN_STREAM)


if __name__ == "__main__":
    main()

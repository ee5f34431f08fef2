"""The CPU that a server takes for a request, with a model that does nothing and a 64 kB image.

Each target is a server process of its own: mlserve (asked over both protocols, REST and gRPC), a
FastAPI endpoint (sync, without Pydantic models), and uvicorn alone. They are asked in turn, so that
the machine's moods hit each of them. What counts is user and system time of the server's process;
the ratio is to FastAPI's in the same round.

    python benchmarks/null_request.py [--connections 1,16] [--stages] [--output json]

`--stages` samples mlserve's process with py-spy while it serves, and splits the time of a request
by the code that spent it.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import selectors
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import hpack
import null_server
import numpy as np
from PIL import Image

from mlserve.wire.proto.inference_pb2 import ModelInferRequest
from mlserve.wire.proto.serving_pb2 import PredictRequest

MODEL = "m"
IMAGE_BYTES = 64 * 2**10
_SIDE = 324
"""Of a square of noise that makes a JPEG of almost that size."""
BASELINE = "FastAPI"
WARM_UP = 300
"""Requests to each target before anything is measured."""
READ = 2**18
_PATIENCE = 20.0
"""Seconds without any answer after which something is wrong."""


@dataclass(frozen=True)
class Target:
    """One way to ask one server: its process, its port, and the request as a client sends it."""

    name: str
    pid: int
    port: int
    connect: Callable[[int], Connection]


class Connection(Protocol):
    """A kept connection with at most one request in flight."""

    socket: socket.socket

    def ask(self) -> None:
        """Send the request."""

    def hear(self) -> bool:
        """Read what has arrived; return whether the answer is whole. Raises SystemExit."""


class HttpConnection:
    """HTTP/1.1; the request is the same each time."""

    def __init__(self, request: bytes, port: int) -> None:
        self.socket = _connected(port)
        self._request = request
        self._heard = b""

    def ask(self) -> None:
        self.socket.sendall(self._request)

    def hear(self) -> bool:
        self._heard += self.socket.recv(READ)
        head, blank, body = self._heard.partition(b"\r\n\r\n")
        if not blank:
            return False
        size = re.search(rb"content-length: (\d+)", head.lower())
        if not head.startswith(b"HTTP/1.1 200 ") or size is None:
            raise SystemExit(f"an answer that was not expected: {self._heard[:500]!r}")
        if len(body) < int(size[1]):
            return False
        self._heard = b""
        return True


class GrpcConnection:
    """HTTP/2 as gRPC's clients use it: headers from the table, data as the windows allow."""

    def __init__(self, path: str, message: bytes, port: int) -> None:
        self.socket = _connected(port)
        fields = [
            *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")),
            *(("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "30S")),
        ]
        encoder = hpack.Encoder()
        self._blocks = [encoder.encode(fields), encoder.encode(fields)]
        self._message = struct.pack(">BI", 0, len(message)) + message
        self._stream = -1
        self._window, self._room, self._first_room, self._most = 65535, 0, 65535, 2**14
        self._at = 0
        self._rest = b""
        self._is_told = False
        hello = _frame(4, 0, 0, b"") + _frame(8, 0, 0, (2**30).to_bytes(4, "big"))
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hello)

    def ask(self) -> None:
        block = self._blocks[self._stream > 0]
        self._stream += 2
        self._room, self._at = self._first_room, 0
        self._send(_frame(1, 4, self._stream, block))

    def hear(self) -> bool:
        data = self._rest + self.socket.recv(READ)
        at, has_ended = 0, False
        while len(data) - at >= 9 and len(data) - at - 9 >= (
            size := int.from_bytes(data[at : at + 3], "big")
        ):
            payload = data[at + 9 : at + 9 + size]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            has_ended = self._take(data[at + 3], data[at + 4], stream, payload) or has_ended
            at += 9 + size
        self._rest = data[at:]
        if not has_ended and self._at < len(self._message):
            self._send(b"")
        return has_ended

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        if kind == 8:
            more = int.from_bytes(payload, "big")
            self._window += 0 if stream else more
            self._room += more if stream == self._stream else 0
        elif kind == 4 and not flags & 1:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 4:
                    self._first_room = value
                    self._room += value - 65535
                elif name == 5:
                    self._most = value
            self.socket.sendall(_frame(4, 1, 0, b""))
        elif kind in (3, 7):
            raise SystemExit(f"the server ended the call: {payload!r}")
        elif kind == 1 and flags & 1:
            if b"grpc-status\x010" not in payload:
                raise SystemExit(f"an answer that was not expected: {payload!r}")
            return True
        return False

    def _send(self, first: bytes) -> None:
        parts = [first]
        while self._at < len(self._message) and min(self._room, self._window) > 0:
            size = min(self._room, self._window, self._most, len(self._message) - self._at)
            part = self._message[self._at : self._at + size]
            self._at += size
            self._room -= size
            self._window -= size
            ends = self._at == len(self._message)
            parts.append(_frame(0, int(ends), self._stream, part))
        self.socket.sendall(b"".join(parts))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _post(path: str, body: bytes, kind: str, *more: str) -> bytes:
    head = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", *more)
    return "\r\n".join((*head, f"Content-Length: {len(body)}", "", "")).encode() + body


def jpeg() -> bytes:
    """Return a JPEG of 64 kB: noise, and a few bytes behind its end."""
    noise = np.random.default_rng(0).bytes(_SIDE * _SIDE * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (_SIDE, _SIDE), noise).save(file, "JPEG")
    return file.getvalue().ljust(IMAGE_BYTES, b"\0")


def _own_targets(pid: int, grpc: int, rest: int) -> list[Target]:
    image = jpeg()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES"}
    binary = struct.pack("<I", len(image)) + image
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": len(binary)}}]}
    text = json.dumps(head).encode()
    rows = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
    tfs = PredictRequest()
    tfs.model_spec.name = MODEL
    tfs.inputs["image"].dtype = null_server.SIGNATURE.inputs[0].dtype.tf_number
    tfs.inputs["image"].tensor_shape.dim.add(size=1)
    tfs.inputs["image"].string_val.append(image)
    oip = ModelInferRequest(model_name=MODEL, raw_input_contents=[binary])
    oip.inputs.add(name="image", datatype="BYTES", shape=[1])
    infer, predict = f"/v2/models/{MODEL}/infer", f"/v1/models/{MODEL}:predict"
    length = f"Inference-Header-Content-Length: {len(text)}"
    asked = {
        "OIP REST, binary": (rest, _post(infer, text + binary, "application/octet-stream", length)),
        "TFS REST, JSON": (rest, _post(predict, rows, "application/json")),
        "TFS gRPC": (grpc, ("/tensorflow.serving.PredictionService/Predict", tfs)),
        "OIP gRPC": (grpc, ("/inference.GRPCInferenceService/ModelInfer", oip)),
    }
    targets = []
    for name, (port, how) in asked.items():
        if isinstance(how, bytes):
            connect: Callable[[int], Connection] = partial(HttpConnection, how)
        else:
            connect = partial(GrpcConnection, how[0], how[1].SerializeToString())
        targets.append(Target(name, pid, port, connect))
    return targets


@contextmanager
def process(log: Path, announces: str, *argv: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Run `python ARGV`; yield its process and the ports that its log announces."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *argv], cwd=Path(__file__).parent, stdout=file, stderr=file
        )
        try:
            while not (found := re.search(announces, log.read_text(), re.DOTALL)):
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.02)
            yield process.pid, tuple(map(int, found.groups()))
        finally:
            process.kill()
            process.wait()


@contextmanager
def _targets(loop: str) -> Iterator[list[Target]]:
    with tempfile.TemporaryDirectory(prefix="mlserve-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / MODEL / "1").mkdir(parents=True)
        (folder / MODEL / "1" / "model.null").touch()
        ready = r"listening grpc=\S+:(\d+) rest=\S+:(\d+).*is available"
        argv = ("null_server.py", str(folder / MODEL), "--model", MODEL)
        pid, (grpc, rest) = stack.enter_context(process(folder / "own", ready, *argv))
        targets = _own_targets(pid, grpc, rest)
        image = _post("/predict", jpeg(), "image/jpeg")
        for shown, app in ((BASELINE, "fastapi_app"), ("uvicorn alone", "bare_app")):
            running = r"running on http://127\.0\.0\.1:(\d+)"
            flags = ("--port", "0", "--no-access-log", "--loop", loop)
            argv = ("-m", "uvicorn", f"null_apps:{app}", *flags)
            pid, (port,) = stack.enter_context(process(folder / app, running, *argv))
            targets.append(Target(shown, pid, port, partial(HttpConnection, image)))
        yield targets


class Load:
    """Keeps one request in flight on each of the connections of a target."""

    def __init__(self, target: Target, connections: int) -> None:
        self.target = target
        self._selector = selectors.DefaultSelector()
        self._idle = [target.connect(target.port) for _ in range(connections)]
        for connection in self._idle:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def run(self, count: int) -> tuple[float, float]:
        """Ask so many times; return the seconds of CPU and of the clock for each."""
        before, started = _cpu_seconds(self.target.pid), time.perf_counter()
        asked, answered = 0, 0
        while self._idle and asked < count:
            self._idle.pop().ask()
            asked += 1
        while answered < asked:
            if not (ready := self._selector.select(_PATIENCE)):
                raise SystemExit(f"{self.target.name}: no answer within {_PATIENCE} s")
            for key, _ in ready:
                connection: Connection = key.data
                if not connection.hear():
                    continue
                answered += 1
                if asked < count:
                    connection.ask()
                    asked += 1
                else:
                    self._idle.append(connection)
        clock = time.perf_counter() - started
        return (_cpu_seconds(self.target.pid) - before) / count, clock / count

    def close(self) -> None:
        """Close the connections."""
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()


def _cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


@dataclass(frozen=True)
class Row:
    """The median over the rounds for one target: seconds a request, and its ratio to FastAPI."""

    target: str
    connections: int
    cpu: float
    ratio: float
    a_second: float


def _measure(targets: Sequence[Target], connections: int, count: int, rounds: int) -> list[Row]:
    loads = [Load(target, connections) for target in targets]
    seen: dict[str, list[tuple[float, float]]] = {target.name: [] for target in targets}
    for load in loads:
        load.run(WARM_UP)
    for _ in range(rounds):
        for load in loads:
            seen[load.target.name].append(load.run(count))
    for load in loads:
        load.close()
    base = [cpu for cpu, _ in seen[BASELINE]]
    return [
        Row(
            name,
            connections,
            statistics.median(cpu for cpu, _ in runs),
            statistics.median(cpu / b for (cpu, _), b in zip(runs, base, strict=True)),
            1 / statistics.median(clock for _, clock in runs),
        )
        for name, runs in seen.items()
    ]


STAGES = (
    ("the model", ("null_server.py",)),
    ("metrics, statistics, log", ("server/telemetry/", "prometheus_client/")),
    ("reading the request", ("server/codec/", "json/", "base64.py", "tensor_proto.py")),
    ("reading the request", ("oip/json_body.py", "oip/request.py", "oip/tensors.py")),
    ("reading the request", ("tfs/json_tensors.py", "server/tensors.py", "oip/parameters.py")),
    ("admission and queue", ("mlserve/admission/", "server/engine/", "server/models/")),
    ("admission and queue", ("mlserve/deadline.py",)),
    ("to a thread and back", ("concurrent/futures/", "threading.py", "queue.py")),
    ("the body and its memory", ("listen/http_body.py", "server/body_memory.py")),
    ("HTTP/2 and gRPC", ("listen/grpc/", "hpack/")),
    (
        "HTTP/1.1",
        (
            "listen/http_connection.py",
            "listen/http_connections.py",
            "listen/http_request.py",
            "listen/http_framing.py",
            "listen/http_parser.py",
            "uvicorn/",
            "httptools/",
        ),
    ),
    ("routes, record, answer", ("server/listen/", "server/request.py", "starlette/", "server/")),
    ("the event loop and its system calls", ("asyncio/", "selectors.py", "uvloop/")),
)
"""What the time of a request is split into, and the source files of each part."""


def _stages(load: Load, seconds: float) -> dict[str, float]:
    """Return the microseconds of CPU that each part takes for a request, largest first."""
    with tempfile.NamedTemporaryFile() as file:
        argv = ("py-spy", "record", "--pid", str(load.target.pid), "--format", "raw")
        more = ("--rate", "500", "--duration", str(round(seconds)), "--output", file.name)
        sampler = subprocess.Popen(
            [*argv, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        spent = []
        while sampler.poll() is None:
            spent.append(load.run(200)[0])
        samples = Path(file.name).read_text().splitlines()
    counts: Counter[str] = Counter()
    for line in samples:
        stack, _, count = line.rpartition(" ")
        if not _WAITS.search(stack):
            counts[_stage_of(stack)] += int(count)
    cpu, total = statistics.median(spent) * 1e6, counts.total()
    return {name: cpu * count / total for name, count in counts.most_common()}


_WAITS = re.compile(r"(?:WorkerThreads\._serve \(|wait \(threading|_worker \(concurrent)[^;]*$")
"""Where a thread waits for work, which py-spy takes for work."""


def _stage_of(stack: str) -> str:
    for frame in reversed(stack.split(";")):
        for name, files in STAGES:
            if any(part in frame for part in files):
                return name
    return "the rest"


def _table(rows: Sequence[Row]) -> str:
    lines = [f"{'':<20}{'connections':>12}{'CPU us':>9}{'to FastAPI':>12}{'a second':>10}"]
    lines += [
        f"{row.target:<20}{row.connections:>12}{row.cpu * 1e6:>9.0f}{row.ratio:>12.2f}"
        f"{row.a_second:>10.0f}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Ask all in turn and print the table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", default="1,16", help="each with one request in flight")
    parser.add_argument("--requests", type=int, default=400, help="to each target in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--loop", default="asyncio", help="the event loop of the other servers")
    parser.add_argument("--only", help="a part of the name of mlserve's targets")
    parser.add_argument("--stages", action="store_true", help="split the time; needs py-spy")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    rows: list[Row] = []
    stages: dict[str, dict[str, float]] = {}
    with _targets(options.loop) as every:
        own = every[0].pid
        targets = [t for t in every if t.pid != own or (options.only or "") in t.name]
        for connections in map(int, options.connections.split(",")):
            rows += _measure(targets, connections, options.requests, options.rounds)
        for target in targets if options.stages else ():
            if target.pid == own:
                load = Load(target, 4)
                stages[target.name] = _stages(load, 8)
                load.close()
    if options.output == "json":
        print(json.dumps({"rows": [row.__dict__ for row in rows], "stages_us": stages}, indent=1))
        return
    print(f"{os.cpu_count()} cores; {IMAGE_BYTES // 1024} kB; medians of {options.rounds} rounds")
    print(_table(rows))
    for name, parts in stages.items():
        print(f"\n{name}, us of CPU a request:")
        for part, spent in parts.items():
            print(f"  {part:<40}{spent:>6.0f}")


if __name__ == "__main__":
    main()

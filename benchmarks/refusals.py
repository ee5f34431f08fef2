"""What a refusal costs: CPU time of the server for each call that it turns away.

    python benchmarks/refusals.py [--seconds 3] [--rate 400] [--case NAME] [--json FILE]
    python benchmarks/refusals.py --case rest --profile FOLDER

A server of the tests' echo backend has one thread, which a call holds that lasts until the end, and
no queue: whatever else comes is refused. The table has the CPU time of all threads of the server,
user and system, for each refusal. Connections stay open, but for the cases `new`, where each
request brings its own, and closes it. `grpcio` is gRPC's own client; the other calls are written by
mlserve's load generator, whose calls all have the same headers. In the cases `late` the queue holds
a dozen patient calls, and a refused one is told that its answer would be late.

With `--profile` the server runs under cProfile: what it spends is then several times as much, and
the file of each case in FOLDER tells where.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from mlserve.bench.arrivals import Arrivals
from mlserve.bench.load import ClosedLoop, OpenLoop, Window, run_load
from mlserve.bench.processes import LoadProcesses
from mlserve.bench.target import Target
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection, Endpoint
from mlserve.testing.processes import ServerProcess, stopping
from mlserve.wire.proto.serving_pb2 import PredictRequest
from mlserve.wire.services import PREDICTION, method_path

MODEL = "m"
PREDICT = method_path(PREDICTION, "Predict")
SMALL, LARGE = 200, 150_000
"""Bytes of an image: of the usual calls, and of the cases `image`."""
FOR_EVER = 600.0
"""Seconds that the call lasts which holds the only thread."""
_PROFILED = """
import cProfile, runpy, sys, threading
profile = cProfile.Profile()
def write():
    file = sys.stdin.readline().strip()
    profile.dump_stats(file)
threading.Thread(target=write, daemon=True).start()
profile.enable()
runpy.run_module("mlserve.server", run_name="__main__", alter_sys=True)
"""
"""Runs the server under cProfile, which is written to the file that is named on stdin."""
_DELAY = 0.2
"""Seconds of a call in the cases `late`."""


@dataclass(frozen=True)
class Case:
    """One kind of refused call: `send` says how the calls are made."""

    name: str
    transport: str = "rest"
    image: int = SMALL
    send: str = "load"
    is_late: bool = False


CASES = (
    Case("rest"),
    Case("rest, image", image=LARGE),
    Case("rest, new", send="new"),
    Case("rest, late", is_late=True),
    Case("grpc", "grpc"),
    Case("grpc, image", "grpc", LARGE),
    Case("grpc, late", "grpc", is_late=True),
    Case("grpc, grpcio", "grpc", send="grpcio"),
)


@dataclass(frozen=True)
class Cost:
    """What a case took: CPU seconds of the server in all, refusals, and calls that it let in."""

    case: str
    cpu: float
    refused: int
    answered: int
    seconds: float

    @property
    def milliseconds(self) -> float:
        """CPU time of a refusal."""
        return 1000 * self.cpu / max(1, self.refused)

    def line(self) -> str:
        """The row of the table."""
        rate = self.refused / self.seconds
        return f"{self.case:16} {self.milliseconds:8.3f} ms  {rate:8.0f}/s  {self.answered:6}"


def main() -> None:
    """Measure the cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case")
    parser.add_argument("--rate", type=float, default=400.0, help="calls a second")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--profile", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    costs = []
    print("case              CPU a refusal   refused  let in")
    for case in CASES:
        if given.case is None or case.name in given.case:
            cost = measured(case, given.seconds, given.rate, given.profile)
            print(cost.line(), flush=True)
            costs.append(cost)
    if given.json is not None:
        rows = [{"case": cost.case, "cpu_ms": cost.milliseconds} for cost in costs]
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


def measured(case: Case, seconds: float, rate: float, profiles: Path | None) -> Cost:
    """Return what the refusals of a case cost."""
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name), case, profiles) as server,
        held(server, is_late=case.is_late),
    ):
        before = _idle_cost(server, seconds) if case.is_late else 0.0
        refused, answered, cpu, took = _SENDERS[case.send](server, case, seconds, rate)
        return Cost(case.name, max(0.0, cpu - before * took), refused, answered, took)


@contextmanager
def serving(folder: Path, case: Case, profiles: Path | None) -> Iterator[ServerProcess]:
    """Serve the model with one thread, and without a queue unless the case is `late`."""
    version = folder / MODEL / "1"
    version.mkdir(parents=True)
    (version / "echo.json").write_text(json.dumps({"delay": _DELAY if case.is_late else 0.0}))
    log = folder / "log"
    flags = ["--backend", "echo", "--model", MODEL, "--base-path", str(folder / MODEL)]
    flags += ["--grpc-port", "0", "--rest-port", "0", "--threads", "1"]
    flags += [] if case.is_late else ["--max-queue", "0"]
    program = ["-m", "mlserve.server"] if profiles is None else ["-c", _PROFILED]
    argv = [sys.executable, *program, *flags]
    with (
        log.open("wb") as output,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=output) as process,
        stopping(process),
    ):
        server = ServerProcess(process, MODEL, log)
        server.wait_ready()
        yield server
        if profiles is not None:
            profiles.mkdir(parents=True, exist_ok=True)
            _write_profile(process, profiles / f"{case.name.replace(', ', '-')}.prof")


def _write_profile(process: subprocess.Popen[bytes], file: Path) -> None:
    """Have the server write what it has spent since its start."""
    assert process.stdin is not None
    file.unlink(missing_ok=True)
    process.stdin.write(f"{file.absolute()}\n".encode())
    process.stdin.flush()
    while not file.exists():
        time.sleep(0.02)


@contextmanager
def held(server: ServerProcess, *, is_late: bool) -> Iterator[None]:
    """Keep the server's only thread busy, and where the case is `late` its queue filled."""
    if not is_late:
        with socket.create_connection(_address(server.rest)) as client:
            body = json.dumps({"signature_name": "slow", "inputs": [FOR_EVER]}).encode()
            client.sendall(_rest_request(server, body, FOR_EVER))
            _wait_running(server)
            yield
        return
    url = f"http://{server.rest}/v1/models/{MODEL}:predict"
    patient = Target.of_http("patient", url, _rest_body(SMALL), timeout=FOR_EVER)
    window = Window(seconds=FOR_EVER, warm_up=0.0, timeout=FOR_EVER)
    with LoadProcesses(1) as runner:
        sender = threading.Thread(
            target=runner.run, args=(patient, ClosedLoop(13), window), daemon=True
        )
        sender.start()
        _wait_running(server)
        time.sleep(10 * _DELAY)  # until the server has learned what a call takes
        yield


def _wait_running(server: ServerProcess) -> None:
    """Wait until a call runs."""
    while b"mlserve_requests_running 1.0" not in _metrics(server):
        time.sleep(0.02)


def _metrics(server: ServerProcess) -> bytes:
    with socket.create_connection(_address(server.rest)) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        parts = []
        while part := client.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def _idle_cost(server: ServerProcess, seconds: float) -> float:
    """Return the CPU seconds a second of a server that serves its patient callers only."""
    before = _cpu(server)
    time.sleep(seconds)
    return (_cpu(server) - before) / seconds


def _cpu(server: ServerProcess) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


Sent = tuple[int, int, float, float]
"""Refused calls, answered calls, the server's CPU seconds, and the seconds that it took."""


def _send_load(server: ServerProcess, case: Case, seconds: float, rate: float) -> Sent:
    """Send calls at random moments over connections that stay open."""
    timeout = _DELAY if case.is_late else 5.0
    url = f"http://{server.rest}/v1/models/{MODEL}:predict"
    if case.transport == "rest":
        target = Target.of_http(case.name, url, _rest_body(case.image), timeout=timeout)
    else:
        connection = Connection(Endpoint.parse(server.grpc, "grpc"))
        calls = [Call(PREDICT, _grpc_body(case.image), {})]
        target = Target.of_calls(case.name, connection, calls, timeout)
    window = Window(seconds=seconds, warm_up=0.5, timeout=timeout)
    before, began = _cpu(server), time.monotonic()
    tally = run_load(target, OpenLoop(rate, Arrivals()), window)
    cpu, took = _cpu(server) - before, time.monotonic() - began
    part = (seconds + window.warm_up) / seconds  # those of the warm-up are not counted
    refused = sum(tally.refused.values()) + tally.count("deadline_exceeded")
    return round(refused * part), round(tally.in_time * part), cpu, took


def _send_new(server: ServerProcess, case: Case, seconds: float, rate: float) -> Sent:
    """Send each call over a connection of its own, one after the other."""
    request = _rest_request(server, _rest_body(case.image), 5.0)
    address = _address(server.rest)
    return _counted(server, seconds, rate, lambda: _ask_once(address, request))


def _ask_once(address: tuple[str, int], request: bytes) -> bool:
    with socket.create_connection(address) as client:
        client.sendall(request)
        return b" 429 " in client.recv(2**16)[:20]


def _send_grpcio(server: ServerProcess, case: Case, seconds: float, rate: float) -> Sent:
    """Send calls through gRPC's own client, one after the other."""
    request = _grpc_body(case.image)
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary(PREDICT)

        def ask() -> bool:
            try:
                call(request, timeout=5.0)
            except grpc.RpcError as error:
                code: object = error.code()  # type: ignore[attr-defined]
                return code is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False

        return _counted(server, seconds, rate, ask)


def _counted(server: ServerProcess, seconds: float, rate: float, ask: Callable[[], bool]) -> Sent:
    """Ask at an even beat, and count."""
    before, began = _cpu(server), time.monotonic()
    refused = answered = 0
    while (now := time.monotonic()) < began + seconds:
        if ask():
            refused += 1
        else:
            answered += 1
        time.sleep(max(0.0, began + (refused + answered) / rate - now))
    return refused, answered, _cpu(server) - before, time.monotonic() - began


_SENDERS: dict[str, Callable[[ServerProcess, Case, float, float], Sent]] = {
    "load": _send_load,
    "new": _send_new,
    "grpcio": _send_grpcio,
}


def _rest_body(size: int) -> bytes:
    return json.dumps({"inputs": ["x" * size]}).encode()


def _rest_request(server: ServerProcess, body: bytes, timeout: float) -> bytes:
    head = (
        f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nHost: {server.rest}\r\n"
        "User-Agent: refusals/1\r\nAccept: */*\r\nContent-Type: application/json\r\n"
        f"X-Request-Timeout-Ms: {timeout * 1000:.0f}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _grpc_body(size: int) -> bytes:
    request = PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["image"].dtype = 7
    request.inputs["image"].tensor_shape.dim.add().size = 1
    request.inputs["image"].string_val.append(b"x" * size)
    return request.SerializeToString()


def _address(endpoint: str) -> tuple[str, int]:
    host, port = endpoint.rsplit(":", 1)
    return host, int(port)


if __name__ == "__main__":
    main()

"""What hurts a server over time, in numbers: bad images, clients that vanish or stall, and stops.

ONNX Runtime with efficientnet_lite0 (random weights), two threads. 10,000 corrupt images, 100
clients killed in mid-request, 200 idle and 50 dripping connections: memory within 10 % of before,
the next good request answered, nothing in the log but what was meant. 20 stops under load: not one
accepted request lost (`tests.harness.load` says what that means). And the attacks of
`attacks.py`, each with its peak of memory and the longest wait of a health check. About a quarter
of an hour.

    python benchmarks/soak.py [--images 10000] [--kills 100] [--idle 200] [--drips 50] [--drains 20]
        [--no-attacks]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import psutil
from attacks import outcomes
from served_model import BACKEND, IMAGE, MODEL, exported

from mlserve.artifact import Artifact
from mlserve.testing.processes import ServerProcess, launched, wait_until
from mlserve.testing.questions import as_base64, predict_method, request_of
from tests.harness.load import Load

MOST_GROWTH = 1.10
WARM_UP = 200
WITHIN = 5.0
_KILLED_CLIENT = """
import socket, sys
host, port = sys.argv[1].rsplit(":", 1)
connection = socket.create_connection((host, int(port)))
connection.sendall(sys.stdin.buffer.read())
print("sent", flush=True)
connection.recv(1)
"""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    measured: str
    target: str
    is_met: bool


def corrupted(image: bytes, count: int) -> Iterator[bytes]:
    """Yield `count` corrupted copies of the image: cut, altered, or only its header."""
    chance = random.Random(0)
    for number in range(count):
        data = bytearray(image[: chance.randrange(len(image))] if number % 2 else image)
        for _ in range(chance.randrange(1, 30)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        yield bytes(data)


def ask_about_corrupt_images(server: ServerProcess, image: bytes, count: int) -> str:
    """Require an answer, or an error that blames the client. Raises AssertionError."""
    with grpc.insecure_channel(server.grpc) as channel, ThreadPoolExecutor(4) as threads:
        predict = predict_method(channel)

        def ask(data: bytes) -> str:
            try:
                predict(request_of(MODEL, data), timeout=30)
            except grpc.RpcError as error:
                return error.code().name
            return "OK"

        codes = list(threads.map(ask, corrupted(image, count)))
    counts = {code: codes.count(code) for code in sorted(set(codes))}
    assert set(counts) <= {"OK", "INVALID_ARGUMENT"}, counts
    return ", ".join(f"{n} {code}" for code, n in counts.items())


def kill_clients(server: ServerProcess, image: bytes, count: int) -> str:
    """Kill that many clients, each when its request has been sent."""
    body = json.dumps({"inputs": [as_base64(image)]}).encode()
    head = f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
    for _ in range(count):
        with subprocess.Popen(
            [sys.executable, "-S", "-c", _KILLED_CLIENT, server.rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(f"{head}\r\n\r\n".encode() + body)
            client.stdin.close()
            client.stdout.readline()
            client.kill()
    return f"{count} killed"


def hold_connections(server: ServerProcess, image: bytes, idle: int, drips: int) -> str:
    """Send requests while many connections send nothing, or a byte now and then."""
    with ExitStack() as held:
        for number in range(idle):
            held.enter_context(_connect(server.grpc if number % 2 else server.rest))
        dripping = [held.enter_context(_connect(server.rest)) for _ in range(drips)]
        for byte in b"POST /v1":
            for connection in dripping:
                connection.sendall(bytes([byte]))
        started = time.monotonic()
        _ask(server, image)
        return f"{(time.monotonic() - started) * 1000:.0f} ms meanwhile"


def drain(artifact: Artifact, image: bytes) -> tuple[int, int, list[str]]:
    """Stop a server under load; return the requests answered and refused, and those lost."""
    with launched(BACKEND, artifact, "--threads", "2") as server:
        server.wait_ready(artifact.version)
        load = Load(server.grpc, server.rest, MODEL, image=image)
        load.start()
        try:
            wait_until(lambda: load.answered >= 20)
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(30)
        finally:
            load.stop()
        lost = load.lost if code == 0 else [*load.lost, f"exit code {code}"]
        return load.answered, load.refused, lost


def _attacked() -> Iterator[Row]:
    for outcome in outcomes():
        yield Row(outcome.name, str(outcome), "2x, 100 ms", outcome.is_met)


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def _ask(server: ServerProcess, image: bytes) -> None:
    for protocol in ("grpc", "rest"):
        with server.client(protocol) as client:
            assert client.predict(image, timeout=WITHIN).label


def _resident(server: ServerProcess) -> float:
    """Return the resident memory in MB."""
    return float(psutil.Process(server.process.pid).memory_info().rss) / 2**20


def _row(server: ServerProcess, image: bytes, what: str, trial: Callable[[], str]) -> Row:
    before, said = _resident(server), len(server.log())
    outcome = trial()
    _ask(server, image)
    after = _resident(server)
    noise = re.findall(r"^.*(?:ERROR|Traceback).*$", server.log()[said:], re.MULTILINE)
    measured = f"{before:.0f} -> {after:.0f} MB; {outcome}"
    if noise:
        measured += f"; log: {noise[0]}"
    return Row(what, measured, "RSS +10 %", after <= before * MOST_GROWTH and not noise)


def _endured(artifact: Artifact, image: bytes, options: argparse.Namespace) -> Iterator[Row]:
    with launched(BACKEND, artifact, "--threads", "2") as server:
        server.wait_ready(artifact.version)
        ask_about_corrupt_images(server, image, WARM_UP)
        kill_clients(server, image, 2)
        trials: dict[str, Callable[[], str]] = {
            f"{options.images} corrupt images": lambda: ask_about_corrupt_images(
                server, image, options.images
            ),
            f"{options.kills} clients killed": lambda: kill_clients(server, image, options.kills),
            f"{options.idle} idle, {options.drips} dripping": lambda: hold_connections(
                server, image, options.idle, options.drips
            ),
        }
        for what, trial in trials.items():
            yield _row(server, image, what, trial)


def _drained(artifact: Artifact, image: bytes, count: int) -> Row:
    ends = [drain(artifact, image) for _ in range(count)]
    lost = [what for _, _, losses in ends for what in losses]
    answered, refused = sum(end[0] for end in ends), sum(end[1] for end in ends)
    measured = f"{len(lost)} lost of {answered} accepted; {refused} refused"
    return Row(f"{count} stops under load", ": ".join((measured, *lost[:1])), "0 lost", not lost)


def main() -> None:
    """Print the table; exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    numbers = {"images": 10_000, "kills": 100, "idle": 200, "drips": 50, "drains": 20}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--no-attacks", action="store_true", help="leave the attacks out")
    options = parser.parse_args()
    image = IMAGE.read_bytes()
    with tempfile.TemporaryDirectory(prefix="mlserve-soak-") as home:
        artifact = exported(home)
        rows = [*_endured(artifact, image, options), _drained(artifact, image, options.drains)]
    rows += () if options.no_attacks else _attacked()
    for row in rows:
        verdict = "ok" if row.is_met else "MISSED"
        print(f"{row.what:<40} {row.target:<10} {verdict:<7} {row.measured}")
    sys.exit(0 if all(row.is_met for row in rows) else 1)


if __name__ == "__main__":
    main()

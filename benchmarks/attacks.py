"""What callers who mean harm send over REST: how much memory it costs, and how long health waits.

A server of the echo backend (`tests/echo`), two threads, default limits. Each attack comes from a
process of its own, while another asks both ports for their health.

    python benchmarks/attacks.py [NAME ...] [--list]
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from mlserve.artifact import Artifact
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.testing.processes import ServerProcess, launched

Attack = Callable[[str], None]
ATTACKS: dict[str, Attack] = {}
"""What to send to a server at `host:port` that serves the echo backend's model `m`."""
MOST_WAIT = 0.1
"""Seconds that a health check may take meanwhile."""
_MODEL = "m"
_TFS, _OIP = f"/v1/models/{_MODEL}:predict", f"/v2/models/{_MODEL}/infer"
_MB = 2**20
_AT_ONCE = 4
_PATIENCE = 60.0


def attack(function: Attack) -> Attack:
    """Registers the attack by its function's name."""
    ATTACKS[function.__name__] = function
    return function


@attack
def nothing(_address: str) -> None:
    """No attack: how long health waits on this machine as it is."""
    time.sleep(5)


@attack
def gzip_of_numbers(address: str) -> None:
    """8 MB of `1,1,1`, more rows than a batch may have, and for an input of any shape."""
    ones = b"1," * (4 * _MB) + b"1"
    default = b'{"instances": [' + ones + b"]}"
    _at_once(address, _TFS, [default, _identity("float32", b"[" + ones + b"]")], is_gzip=True)


@attack
def gzip_of_empty_lists(address: str) -> None:
    """16 MB of `[],[]`."""
    lists = b"[" + b"[]," * (16 * _MB // 3) + b"[]]"
    bodies = [b'{"instances": ' + lists + b"}", _identity("float32", lists)]
    _at_once(address, _TFS, bodies, is_gzip=True)


@attack
def gzip_of_strings(address: str) -> None:
    """60 MB of the same short string."""
    strings = b"[" + b'"abc",' * (10 * _MB) + b'"abc"]'
    _at_once(address, _TFS, [_identity("bytes", strings)], is_gzip=True)


@attack
def gzip_of_objects(address: str) -> None:
    """30 MB of rows `{}` and 30 MB of rows with a name."""
    rows = (b'{"instances": [' + row * (30 * _MB // len(row)) + b"{}]}" for row in _ROWS)
    _at_once(address, _TFS, list(rows), is_gzip=True)


_ROWS = b"{},", b'{"x":1},', b'{"x":[]},'


@attack
def gzip_of_names(address: str) -> None:
    """An object of 4 million names, as the inputs and as a row."""
    names = b"{" + b",".join(b'"%d":1' % n for n in range(4 * _MB)) + b"}"
    bodies = [b'{"inputs": ' + names + b"}", b'{"instances": [' + names + b"]}"]
    _at_once(address, _TFS, bodies, is_gzip=True)


@attack
def gzip_of_a_signature_name(address: str) -> None:
    """60 kB that are a name of 60 MB."""
    _at_once(
        address,
        _TFS,
        [b'{"signature_name": "' + b"n" * (60 * _MB) + b'", "inputs": [1]}'],
        is_gzip=True,
    )


@attack
def gzip_of_escapes(address: str) -> None:
    """A string of 60 MB of escapes, and one that makes all of it four bytes a character."""
    bodies = [
        _identity("bytes", b'["' + text * (60 * _MB // len(text)) + b'"]') for text in _ESCAPES
    ]
    _at_once(address, _TFS, bodies, is_gzip=True)


_ESCAPES = rb"\n", rb"\ud83d\ude00", "a😀".encode() + b"a" * 1000, b"\\\\"


@attack
def gzip_of_blanks(address: str) -> None:
    """60 MB of blanks, before, between and behind."""
    blanks = b" " * (60 * _MB)
    bodies = [
        blanks + b'{"inputs": [1]}',
        b'{"inputs":' + blanks + b"[1]}",
        b'{"inputs":[1]}' + blanks,
    ]
    _at_once(address, _TFS, bodies, is_gzip=True)


@attack
def gzip_of_digits(address: str) -> None:
    """One number of 60 MB, with a fraction and without."""
    bodies = [
        _identity("float32", b"[" + d + b"1" * (60 * _MB) + b"]") for d in (b"0.", b"1", b"1e")
    ]
    _at_once(address, _TFS, bodies, is_gzip=True)


@attack
def gzip_members(address: str) -> None:
    """4 MB of empty gzip members, and of 4,000 members that hold something."""
    empty = gzip.compress(b"", 1, mtime=0)
    full = gzip.compress(b"1," * 8000, 9, mtime=0)
    bodies = [empty * (4 * _MB // len(empty)), full * 4000]
    _at_once(address, _TFS, bodies, headers={"Content-Encoding": "gzip"})


@attack
def json_of_floats(address: str) -> None:
    """15 MiB of numbers, flat and in lists of three."""
    flat = b"[" + b"0.12345678," * (15 * _MB // 11) + b"1.0]"
    nested = b"[" + b"[0.1,0.2,0.3]," * (15 * _MB // 14) + b"[1.0,2.0,3.0]]"
    bodies = [_identity("float32", flat), _identity("float32", nested)]
    _at_once(address, _TFS, bodies)


@attack
def oip_json_of_numbers(address: str) -> None:
    """15 MiB of numbers in the Open Inference Protocol."""
    count = 5 * _MB
    data = b"[" + b"10," * (count - 1) + b"10]"
    head = {"signature": "identity_int32"}
    text = json.dumps({"parameters": head}).encode()[:-1] + (
        b', "inputs": [{"name": "x", "datatype": "INT32", "shape": [%d], "data": %b}]}'
        % (count, data)
    )
    _at_once(address, _OIP, [text])


@attack
def oip_binary_of_empty_strings(address: str) -> None:
    """60 MB that are 15 million strings without a character."""
    count = 15 * _MB
    head = json.dumps(
        {
            "parameters": {"signature": "identity_bytes", "binary_data_output": True},
            "inputs": [
                {
                    "name": "x",
                    "datatype": "BYTES",
                    "shape": [count],
                    "parameters": {"binary_data_size": 4 * count},
                }
            ],
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    _at_once(address, _OIP, [head + bytes(4 * count)], headers=headers)


@attack
def base64_of_60_mb(address: str) -> None:
    """One long base64 text, as an object and as a string that begins as a JPEG does."""
    text = base64.b64encode(b"\xff\xd8\xff\xe0" + b"\0" * (44 * _MB))
    bodies = [_identity("bytes", b'[{"b64": "%b"}]' % text), b'{"inputs": ["%b"]}' % text]
    _at_once(address, _TFS, bodies)


@attack
def broken_json(address: str) -> None:
    """60 MB that end early, or go wrong at the end."""
    begun = b"1.5," * (15 * _MB)
    bodies = [b'{"inputs": [' + begun + end for end in (b"", b",1]}", b'"', b"\\]}")]
    _at_once(address, _TFS, bodies, is_gzip=True)


@attack
def large_answers(address: str) -> None:
    """Eight times 1024 rows of 1000 numbers, which come back."""
    row = b"[" + b"0.12345," * 999 + b"1.0]"
    rows = b"[" + b",".join([row] * 1024) + b"]"
    _at_once(address, _TFS, [_identity("float32", rows)] * 2)


@attack
def forms(address: str) -> None:
    """A form of 60 MB in 1,000 files, one with a field a million times, and one file."""
    part = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
    file = part % (b"image", b'; filename="f"') + b"f" * 60_000 + b"\r\n"
    field = part % (b"signature_name", b"") + b"x\r\n"
    end = b"--b--\r\n"
    bodies = [file * 1000 + end, field * 800_000 + file + end]
    _at_once(address, _TFS, bodies, headers={"Content-Type": "multipart/form-data; boundary=b"})


@attack
def uploads_without_an_end(address: str) -> None:
    """24 bodies of 59 MB and 20 of 30 MB that lack a byte, held for five seconds."""
    _hold(address, [59 * 10**6] * 24 + [30 * 10**6] * 20, seconds=5)


@attack
def uploads_that_drip(address: str) -> None:
    """20 bodies of 30 MB, then a byte of each every half second."""
    _hold(address, [30 * 10**6] * 20, seconds=5, drip=0.5)


@attack
def uploads_that_nobody_reads(address: str) -> None:
    """60 MB to health, to metadata, to a model that is not there, and to a path that is not."""
    paths = [
        "/v2/health/live",
        "/v2",
        "/v1/models/m",
        "/v1/models/none:predict",
        "/x",
        "/v2/repository/index",
    ]
    for path in paths:
        for method in ("GET", "POST"):
            _at_once(address, path, [b" " * (30 * _MB)], method=method)


def _identity(dtype: str, value: bytes) -> bytes:
    return b'{"signature_name": "identity_%b", "inputs": %b}' % (dtype.encode(), value)


def _at_once(
    address: str,
    path: str,
    bodies: Sequence[bytes],
    *,
    is_gzip: bool = False,
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> None:
    """Sends each of the bodies four times, in all four at a time, and reads the answers."""
    headers = dict(headers or {})
    if is_gzip:
        bodies = [gzip.compress(body, 6, mtime=0) for body in bodies]
        headers["Content-Encoding"] = "gzip"
    requests = [_request(method, path, len(body), headers) + body for body in bodies] * _AT_ONCE
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for status in threads.map(lambda request: _ask(address, request), requests):
            print(status, end=" ", flush=True)


def _request(method: str, path: str, length: int, headers: dict[str, str]) -> bytes:
    sent = {"Host": "x", "Connection": "close", "Content-Length": str(length), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def _ask(address: str, request: bytes) -> str:
    """The status and the first words of the answer."""
    heard = bytearray()
    with _connect(address) as connection:
        with suppress(OSError):  # the server may answer and close before it has all
            connection.sendall(request)
        with suppress(OSError):
            while part := connection.recv(_MB):
                heard += part
    head, _, body = bytes(heard).partition(b"\r\n\r\n")
    error = re.search(rb'"error": "([^"]{0,60})', body[:200])
    return f"{head[9:12].decode()}{' ' + repr(error[1].decode()) if error else ''}"


def _hold(address: str, sizes: Sequence[int], *, seconds: float, drip: float | None = None) -> None:
    """Sends bodies of that many bytes but for some at the end, and holds the connections."""
    head = {"X-Request-Timeout-Ms": "600000"}
    with ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        held = [stack.enter_context(_connect(address)) for _ in sizes]

        def send(connection: socket.socket, size: int) -> None:
            with suppress(OSError):
                connection.sendall(_request("POST", _TFS, size, head))
                for sent in range(0, size - 100, _MB):
                    connection.sendall(b" " * min(_MB, size - 100 - sent))

        list(threads.map(send, held, sizes))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(drip or seconds)
            for connection in held if drip else ():
                with suppress(OSError):
                    connection.sendall(b" ")


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=_PATIENCE)


def _watch(address: str) -> None:
    """Asks for health until its input ends; prints the longest wait in seconds."""
    rest, over_grpc = address.split(",")
    longest = [0.0, 0.0]
    with grpc.insecure_channel(over_grpc) as channel, ThreadPoolExecutor(3) as threads:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        asks: list[Callable[[], object]] = [
            lambda: _ask(rest, request),
            lambda: check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE),
        ]
        end = threads.submit(sys.stdin.read)

        def ask(number: int) -> None:
            while not end.done():
                began = time.monotonic()
                asks[number]()
                longest[number] = max(longest[number], time.monotonic() - began)
                time.sleep(0.005)

        list(threads.map(ask, range(2)))
    print(*longest)


def peak_memory(pid: int) -> int:
    """The most memory that the process has held, in bytes (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def measure(server: ServerProcess, name: str) -> tuple[int, float, float, str]:
    """The peak of the server's memory in bytes, the longest waits on REST and gRPC, the answers."""
    pid = server.process.pid
    _forget_peak(pid)
    watch = subprocess.Popen(
        [sys.executable, __file__, "--watch", f"{server.rest},{server.grpc}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    argv = [sys.executable, __file__, "--send", server.rest, name]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
    waits, _ = watch.communicate("")
    assert server.process.poll() is None, server.log()[-2000:]
    over_rest, over_grpc = map(float, waits.split())
    return peak_memory(pid), over_rest, over_grpc, done.stdout + done.stderr[-2000:]


def main() -> None:
    """Prints a row for each attack; ends with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print what there is, and stop")
    parser.add_argument("--verbose", action="store_true", help="print the answers too")
    parser.add_argument("--send", metavar="HOST:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--watch", metavar="REST,GRPC", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.names or list(ATTACKS)
    if options.list:
        print("\n".join(f"{name:<30} {ATTACKS[name].__doc__}" for name in names))
    elif options.watch:
        _watch(options.watch)
    elif options.send:
        for name in names:
            ATTACKS[name](options.send)
    else:
        sys.exit(0 if _all_held(names, is_verbose=options.verbose) else 1)


def _all_held(names: Sequence[str], *, is_verbose: bool) -> bool:
    bound, is_held = 2 * DEFAULT_SETTINGS.body_memory, True
    for name in names:
        with tempfile.TemporaryDirectory(prefix="mlserve-attacks-") as folder:
            version = Path(folder) / _MODEL / "1"
            version.mkdir(parents=True)
            (version / "echo.json").write_text("{}")
            artifact = Artifact.open(version.parent, _MODEL, 1)
            with launched("echo", artifact, "--threads", "2") as server:
                server.wait_ready(1)
                peak, over_rest, over_grpc, told = measure(server, name)
        is_met = peak <= bound and max(over_rest, over_grpc) <= MOST_WAIT
        is_held = is_held and is_met
        waits = f"REST {over_rest * 1000:.0f} ms, gRPC {over_grpc * 1000:.0f} ms"
        print(
            f"{name:<30} {'ok' if is_met else 'MISSED':<7} {peak / _MB:.0f} MB, {waits}", flush=True
        )
        if is_verbose:
            print(f"    {told}", flush=True)
    return is_held


if __name__ == "__main__":
    main()

"""Hostile REST requests: small ones that are disproportionately expensive for a naive server.

`ATTACKS` has them by name, each a function of the address `host:port`. They query the model `m` of
the echo backend (`tests/echo`), whose signatures `identity_*` take a tensor of any shape.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

Attack = Callable[[str], None]
ATTACKS: dict[str, Attack] = {}
"""Attacks on a server at `host:port` that serves the echo backend's model `m`."""
_MODEL = "m"
_TFS, _OIP = f"/v1/models/{_MODEL}:predict", f"/v2/models/{_MODEL}/infer"
_MB = 2**20
_AT_ONCE = 4
_PATIENCE = 60.0


def attack(function: Attack) -> Attack:
    """Register the attack by its function's name."""
    ATTACKS[function.__name__] = function
    return function


@attack
def gzip_of_numbers(address: str) -> None:
    """8 MB of `1,1,1`: more rows than a batch may have, and for an input of any shape."""
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
    """An object with 4 million names, as the inputs and as a row."""
    names = b"{" + b",".join(b'"%d":1' % n for n in range(4 * _MB)) + b"}"
    bodies = [b'{"inputs": ' + names + b"}", b'{"instances": [' + names + b"]}"]
    _at_once(address, _TFS, bodies, is_gzip=True)


@attack
def gzip_of_a_signature_name(address: str) -> None:
    """60 kB that unpack to a name of 60 MB."""
    _at_once(
        address,
        _TFS,
        [b'{"signature_name": "' + b"n" * (60 * _MB) + b'", "inputs": [1]}'],
        is_gzip=True,
    )


@attack
def gzip_of_escapes(address: str) -> None:
    """A string of 60 MB of escapes, and one that an emoji makes four bytes per character."""
    bodies = [
        _identity("bytes", b'["' + text * (60 * _MB // len(text)) + b'"]') for text in _ESCAPES
    ]
    _at_once(address, _TFS, bodies, is_gzip=True)


_ESCAPES = rb"\n", rb"\ud83d\ude00", "a😀".encode() + b"a" * 1000, b"\\\\"


@attack
def gzip_of_blanks(address: str) -> None:
    """60 MB of white space, before, between and after."""
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
    """4 MB of empty gzip members, and 4,000 members that hold something."""
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
    """60 MB that encode 15 million empty strings."""
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
    """One long base64 text, as an object and as a string that begins like a JPEG."""
    text = base64.b64encode(b"\xff\xd8\xff\xe0" + b"\0" * (44 * _MB))
    bodies = [_identity("bytes", b'[{"b64": "%b"}]' % text), b'{"inputs": ["%b"]}' % text]
    _at_once(address, _TFS, bodies)


@attack
def broken_json(address: str) -> None:
    """60 MB that end early, or become invalid at the end."""
    begun = b"1.5," * (15 * _MB)
    bodies = [b'{"inputs": [' + begun + end for end in (b"", b",1]}", b'"', b"\\]}")]
    _at_once(address, _TFS, bodies, is_gzip=True)


@attack
def large_answers(address: str) -> None:
    """Eight times 1024 rows of 1000 numbers, which are echoed."""
    row = b"[" + b"0.12345," * 999 + b"1.0]"
    rows = b"[" + b",".join([row] * 1024) + b"]"
    _at_once(address, _TFS, [_identity("float32", rows)] * 2)


@attack
def forms(address: str) -> None:
    """A 60 MB form of 1,000 files, and one of 800,000 equal fields and a file."""
    part = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
    file = part % (b"image", b'; filename="f"') + b"f" * 60_000 + b"\r\n"
    field = part % (b"signature_name", b"") + b"x\r\n"
    end = b"--b--\r\n"
    bodies = [file * 1000 + end, field * 800_000 + file + end]
    _at_once(address, _TFS, bodies, headers={"Content-Type": "multipart/form-data; boundary=b"})


@attack
def uploads_without_an_end(address: str) -> None:
    """24 bodies of 59 MB and 20 of 30 MB, each 100 bytes short, held for five seconds."""
    _hold(address, [59 * 10**6] * 24 + [30 * 10**6] * 20, seconds=5)


@attack
def uploads_that_drip(address: str) -> None:
    """20 bodies of 30 MB, then a byte of each every half second."""
    _hold(address, [30 * 10**6] * 20, seconds=5, drip=0.5)


@attack
def uploads_that_nobody_reads(address: str) -> None:
    """60 MB to health, to metadata, to a missing model, and to an unknown path."""
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
    """Send each body four times, on four connections at once, and read the answers."""
    headers = dict(headers or {})
    if is_gzip:
        bodies = [gzip.compress(body, 6, mtime=0) for body in bodies]
        headers["Content-Encoding"] = "gzip"
    requests = [_request(method, path, len(body), headers) + body for body in bodies] * _AT_ONCE
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for status in threads.map(lambda request: ask(address, request), requests):
            print(status, end=" ", flush=True)


def _request(method: str, path: str, length: int, headers: dict[str, str]) -> bytes:
    sent = {"Host": "x", "Connection": "close", "Content-Length": str(length), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def ask(address: str, request: bytes) -> str:
    """Return the status and the first words of the answer."""
    heard = bytearray()
    with _connect(address) as connection:
        with suppress(OSError):  # the server may answer and close before it has read everything
            connection.sendall(request)
        with suppress(OSError):
            while part := connection.recv(_MB):
                heard += part
    head, _, body = bytes(heard).partition(b"\r\n\r\n")
    error = re.search(rb'"error": "([^"]{0,60})', body[:200])
    return f"{head[9:12].decode()}{' ' + repr(error[1].decode()) if error else ''}"


def _hold(address: str, sizes: Sequence[int], *, seconds: float, drip: float | None = None) -> None:
    """Send bodies of those sizes but for the last bytes, and hold the connections."""
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

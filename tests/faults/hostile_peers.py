"""Servers whose answers are made to harm the client, on raw sockets and on gRPC's own server."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from tests.harness.faulty import HTTP2_SETTINGS, Line, Peer

MANY = 30_000_000
"""So many bytes of items: as Python's or protobuf's objects they would take gigabytes."""
_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def _endless(first: bytes, again: bytes) -> Peer:
    """A peer that sends `again` for ever, in pieces of some 64 KiB."""

    def talk(line: Line) -> None:
        line.await_bytes()
        line.send(first)
        line.flood(again * max(1, 2**16 // len(again)))

    return talk


def _answers(body: bytes, status: str = "200 OK") -> Peer:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def talk(line: Line) -> None:
        line.await_request()
        line.send(head + body)

    return talk


def _filled(before: bytes, item: bytes, after: bytes) -> bytes:
    return before + item * (MANY // len(item)) + after


REST: dict[str, Callable[[], Peer]] = {
    "an endless body": lambda: _endless(
        _JSON + b"Transfer-Encoding: chunked\r\n\r\n", b"ffff\r\n" + b"1" * 0xFFFF + b"\r\n"
    ),
    "an endless body in chunks of a byte": lambda: _endless(
        _JSON + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n1\r\n"
    ),
    "a chunk whose head is endless": lambda: _endless(
        _JSON + b"Transfer-Encoding: chunked\r\n\r\n", b"1;"
    ),
    "endless header lines": lambda: _endless(_JSON, b"X-More: 1\r\n"),
    "one endless header": lambda: _endless(_JSON + b"X-More: ", b"x"),
    "endless trailers": lambda: _endless(
        _JSON + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-More: 1\r\n"
    ),
    "endless interim answers": lambda: _endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
}
"""What a REST server sends without end, by what it is."""

SHAPED: dict[str, Callable[[], Peer]] = {
    "a million outputs": lambda: _answers(_filled(b'{"outputs": {', b'"a":[],', b'"b":[]}}')),
    "millions of empty lists": lambda: _answers(_filled(b'{"outputs": [', b"[],", b"[]]}")),
    "millions of empty objects": lambda: _answers(_filled(b'{"outputs": [', b"{},", b"{}]}")),
    "millions of numbers": lambda: _answers(_filled(b'{"outputs": [', b"1,", b"1]}")),
    "millions of levels": lambda: _answers(_filled(b'{"outputs": ', b"[", b"")),
    "levels of objects": lambda: _answers(_filled(b"", b'{"a":', b"1")),
    "an error of megabytes": lambda: _answers(
        _filled(b'{"error": "', b"signature ", b'"}'), "400 Bad Request"
    ),
    "an error of a million lines": lambda: _answers(
        _filled(b"", b"\n", b""), "500 Internal Server Error"
    ),
    "an error that is a wide object": lambda: _answers(
        _filled(b'{"error": [', b"[],", b"[]]}"), "500 Internal Server Error"
    ),
}
"""What a REST server answers, by what it is."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


_HEADERS, _CONTINUATION, _PING = 1, 9, 6
_INTERIM = _frame(_HEADERS, 4, 1, b"\x08\x03102")
"""A whole block of headers, `:status: 102` (RFC 7541: a name of the static table, a literal)."""

FLOODS: dict[str, Peer] = {
    "PING frames": _endless(HTTP2_SETTINGS, _frame(_PING, 0, 0, b"8 bytes.")),
    "SETTINGS frames": _endless(HTTP2_SETTINGS, HTTP2_SETTINGS),
    "empty DATA frames": _endless(
        HTTP2_SETTINGS + _frame(_HEADERS, 4, 1, b"\x88"), _frame(0, 0, 1, b"")
    ),
    "headers without an end": _endless(
        HTTP2_SETTINGS + _frame(_HEADERS, 0, 1, b"\x88"), _frame(_CONTINUATION, 0, 1, b"\x08" * 99)
    ),
    "interim answers": _endless(HTTP2_SETTINGS, _INTERIM),
}
"""What a server of HTTP/2 sends without end once a call has begun."""

_EMPTIES = {"tfs": b"\x0a\x00", "oip": b"\x2a\x00"}
"""An output in its fewest bytes: of PredictResponse and of ModelInferResponse."""

GRPC: dict[str, Callable[[str, grpc.ServicerContext], bytes]] = {
    "millions of empty outputs": lambda api, _: _EMPTIES[api] * 6_000_000,
    "an answer above the limit": lambda _, _context: bytes(80_000_000),
    "a message of status that is long": lambda _, context: context.abort(
        grpc.StatusCode.INTERNAL, "signature " * 400
    ),
    "metadata of megabytes": lambda _, context: _with_metadata(context),
}
"""What a gRPC server answers, by what it is."""


def _with_metadata(context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata([(f"x-{number}", "v" * 1000) for number in range(3000)])
    return b""


class _Everything(grpc.GenericRpcHandler):
    """Answers whatever is asked in the same way."""

    def __init__(self, answer: Callable[[bytes, grpc.ServicerContext], bytes]) -> None:
        self._answer = answer

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)


@contextmanager
def grpc_server(answer: Callable[[bytes, grpc.ServicerContext], bytes]) -> Iterator[str]:
    """The address of a gRPC server that gives that answer to every call."""
    options = [("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(2), options=options)
    server.add_generic_rpc_handlers((_Everything(answer),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()

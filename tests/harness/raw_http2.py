"""An HTTP/2 client that sends any frames, valid or not, and records what it receives."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, _, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4

Fields = Sequence[tuple[str, str]]


@dataclass
class Heard:
    """What was received on one stream, headers and trailers merged."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    has_ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """Return the gRPC status; -1 without one."""
        return int(self.headers.get("grpc-status", "-1"))

    @property
    def message(self) -> str:
        """Return the gRPC status message."""
        return unquote(self.headers.get("grpc-message", ""))


class RawHttp2:
    """One connection, for use in a `with` block."""

    def __init__(self, address: str, *, says_hello: bool = True, timeout: float = 20) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._rest = b""
        self.streams: dict[int, Heard] = {}
        self.goaways: list[tuple[int, int, str]] = []
        """The last stream, the code and the text of each GOAWAY."""
        self.pings: list[tuple[int, bytes]] = []
        self.windows: list[tuple[int, int]] = []
        self.first_window = 65535
        """Bytes that the server takes of each stream before it grants more."""
        self.settings_acks = 0
        self.is_closed = False
        if says_hello:
            self.say(PREFACE + frame(SETTINGS))

    def __enter__(self) -> RawHttp2:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, data: bytes) -> None:
        """Send bytes; whether the server has hung up shows on the next read."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.is_closed = True

    def call(self, stream: int, path: str, more: Fields = (), *, data: bytes | None = None) -> None:
        """Send the headers of a call, and unless `data` is None, the data and the end of stream."""
        flags = END_HEADERS
        self.say(frame(HEADERS, flags, stream, self.block(path, more)))
        if data is not None:
            self.say(frame(DATA, END_STREAM, stream, data))

    def block(self, path: str, more: Fields = ()) -> bytes:
        """Return the header block of a call; fields of `more` replace those of the same name."""
        given = dict(more)
        usual = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "x",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        kept = [(name, value) for name, value in usual.items() if name not in given]
        pseudo = [item for item in (*kept, *more) if item[0].startswith(":")]
        other = [item for item in (*kept, *more) if not item[0].startswith(":")]
        encoded: bytes = self.encoder.encode([*pseudo, *other])
        return encoded

    def upload(self, stream: int, path: str, size: int, *, lacking: int = 0) -> None:
        """Send a call with a message of `size` bytes, except for the last `lacking` ones."""
        self.call(stream, path)
        whole = struct.pack(">BI", 0, size) + bytes(size)
        self.send_body(stream, whole[: len(whole) - lacking], ends=not lacking)

    def send_body(self, stream: int, body: bytes, *, ends: bool = True) -> None:
        """Send the body as the stream's window allows, unless the server ends the call."""
        heard = self.streams.setdefault(stream, Heard())
        at = 0
        while at < len(body) and not (heard.has_ended or heard.reset is not None):
            granted = sum(more for to, more in self.windows if to == stream)
            part = body[at : min(at + 2**14, self.first_window + granted)]
            if not part:
                self._listen_for_room(heard)
                if self.is_closed:
                    return
                continue
            at += len(part)
            is_last = ends and at == len(body)
            self.say(frame(DATA, END_STREAM if is_last else 0, stream, part))

    def listen(self, until: Callable[[], bool]) -> None:
        """Read until the condition holds, or the server has hung up."""
        while not until() and not self.is_closed:
            try:
                data = self.socket.recv(2**16)
            except ConnectionResetError:
                data = b""
            self.is_closed = self.is_closed or not data
            self._take(data)

    def answer(self, stream: int) -> Heard:
        """Return what was received on that stream once it has ended."""
        heard = self.streams.setdefault(stream, Heard())
        self.listen(lambda: heard.has_ended or heard.reset is not None)
        return heard

    def end(self) -> tuple[int, str]:
        """Return the code and text of the last GOAWAY, once the server has hung up."""
        self.is_closed = False
        self.listen(lambda: False)
        return self.goaways[-1][1:] if self.goaways else (-1, "")

    def _listen_for_room(self, heard: Heard) -> None:
        seen = len(self.windows)
        self.listen(lambda: len(self.windows) > seen or heard.has_ended)

    def _take(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 9:
            size = int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < 9 + size:
                return
            kind, flags, stream = struct.unpack_from(">BBI", self._rest, 3)
            payload, self._rest = self._rest[9 : 9 + size], self._rest[9 + size :]
            self._note(kind, flags, stream, payload)

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        heard = self.streams.setdefault(stream, Heard()) if stream else Heard()
        if kind == HEADERS:
            heard.headers |= {
                str(name): str(value) for name, value in self._decoder.decode(payload)
            }
        elif kind == DATA:
            heard.data += payload
        elif kind == RESET:
            heard.reset = struct.unpack(">I", payload)[0]
        elif kind == GOAWAY:
            last, code = struct.unpack_from(">II", payload)
            self.goaways.append((last, code, payload[8:].decode()))
        elif kind == PING:
            self.pings.append((flags, payload))
        elif kind == WINDOW:
            self.windows.append((stream, struct.unpack(">I", payload)[0]))
        elif kind == SETTINGS and flags & ACK:
            self.settings_acks += 1
        elif kind == SETTINGS:
            self.first_window = dict(struct.iter_unpack(">HI", payload)).get(4, 65535)
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            heard.has_ended = True


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(data: bytes, *, flag: int = 0) -> bytes:
    """Return a gRPC message with its prefix."""
    return struct.pack(">BI", flag, len(data)) + data

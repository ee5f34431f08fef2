"""What strangers send to the gRPC port to wear it out: it hangs up, and serves others."""

from __future__ import annotations

import gzip
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.serving_pb2 import GetModelStatusRequest
from tests.harness import raw_http2
from tests.harness.raw_http import everything_from
from tests.harness.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PRIORITY,
    RESET,
    WINDOW,
    RawHttp2,
    frame,
    message,
)
from tests.harness.server import serving

pytestmark = pytest.mark.server

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
WATCH = "/grpc.health.v1.Health/Watch"
ASK = message(GetModelStatusRequest(model_spec={"name": "m"}).SerializeToString())
ENHANCE_YOUR_CALM, REFUSED_STREAM = 11, 7
FLAGS = ("--header-timeout=1", "--max-request-bytes=5000000", "--max-body-memory=12000000")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serving(tmp_path_factory.mktemp("floods"), *FLAGS) as server:
        yield server


@pytest.fixture
def raw(server: Any) -> Iterator[Callable[..., RawHttp2]]:
    """Connects a raw client to the server, which answers others afterwards as before."""
    with ExitStack() as clients:
        yield lambda **how: clients.enter_context(RawHttp2(server.grpc, **how))
    with RawHttp2(server.grpc) as client:
        client.call(1, STATUS, data=ASK)
        assert client.answer(1).status == 0
    assert "Traceback" not in server.log()
    assert " ERROR " not in server.log()


def flood(client: RawHttp2, part: Callable[[int], bytes], rounds: int = 100) -> tuple[int, str]:
    """What the connection ends with, when the parts of all numbers are sent, 1,000 at a time."""
    for number in range(rounds):
        client.say(b"".join(part(1000 * number + index) for index in range(1000)))
        if client.is_closed:
            break
    return client.end()


def body_bytes(server: Any) -> float:
    """What the server counts of all bodies now."""
    shown = httpx.get(f"http://{server.rest}/metrics").text.splitlines()
    [line] = [line for line in shown if line.startswith("mlserve_body_bytes ")]
    return float(line.split()[1])


def sized(value: bytes) -> bytes:
    """A short string as HPACK has it."""
    return bytes((len(value),)) + value


def test_rapid_resets(raw: Any) -> None:
    client = raw()
    client.encoder.header_table_size = 0

    def part(number: int) -> bytes:
        block = client.block(STATUS)
        stream = 2 * number + 1
        return frame(HEADERS, END_HEADERS, stream, block) + frame(RESET, 0, stream, bytes(4))

    assert flood(client, part, 20)[0] == ENHANCE_YOUR_CALM


def test_refusals_are_cheap_and_none_too_many(raw: Any) -> None:
    """A client that is told to come back, as the queue is full, may be told so again and again."""
    client = raw()
    block = client.block("/no/such")
    for number in range(10_000):
        client.say(frame(HEADERS, END_HEADERS | 1, 2 * number + 1, block))
    assert client.answer(19_999).status == 12


def test_calls_by_the_thousand_let_others_have_their_turn(raw: Any) -> None:
    """15 bytes a call: what is read from a connection at once holds 17,000 of them."""
    busy, other = raw(), raw()
    block = busy.block("/no/such")
    busy.say(frame(HEADERS, END_HEADERS | 1, 1, block))
    assert busy.answer(1).status == 12
    block = busy.block("/no/such")
    streams = range(3, 34_003, 2)
    flood = b"".join(frame(HEADERS, END_HEADERS | 1, stream, block) for stream in streams)
    busy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(flood))
    busy.say(flood)
    other.call(1, STATUS, data=ASK)
    assert other.answer(1).status == 0
    busy.socket.setblocking(False)
    answered = 0
    with suppress(BlockingIOError):
        while part := busy.socket.recv(2**20):
            answered += len(part)
    assert answered < 15_000 * 60, "nearly all of them were answered first"
    busy.socket.setblocking(True)


def test_refusals_that_are_not_read(raw: Any) -> None:
    client = raw()
    client.encoder.header_table_size = 0
    block = client.block("/no/such")
    for number in range(200):
        streams = range(2000 * number + 1, 2000 * number + 2001, 2)
        client.say(b"".join(frame(HEADERS, END_HEADERS | 1, stream, block) for stream in streams))
    assert len(everything_from(client.socket)) < 30_000_000


@pytest.mark.parametrize(
    "part",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(PING, 1, 0, bytes(8)),
        frame(raw_http2.SETTINGS),
        frame(raw_http2.SETTINGS, 1),
        frame(raw_http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 70000) * 32),
        frame(WINDOW, 0, 0, struct.pack(">I", 1)),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(99, 0, 0),
        frame(99, 0, 0, bytes(1000)),
        frame(7, 0, 0, bytes(8)),
    ],
    ids=["ping", "pong", "settings", "acks", "windows", "wider", "priority", "?", "??", "goaway"],
)
def test_frames_that_ask_for_nothing(raw: Any, part: bytes) -> None:
    assert flood(raw(), lambda _: part)[0] == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "part",
    [
        frame(DATA, 0, 1),
        frame(DATA, 0x8, 1, b"\0"),
        frame(DATA, 0x8, 1, b"\x20" + bytes(32)),
        frame(WINDOW, 0, 1, struct.pack(">I", 1)),
    ],
    ids=["empty", "padded", "padding", "wider"],
)
def test_frames_of_a_call_that_ask_for_nothing(raw: Any, part: bytes) -> None:
    client = raw()
    client.call(1, STATUS)
    client.say(frame(DATA, 0, 1, ASK[:6]))
    code, _ = flood(client, lambda _: part)
    assert code in (ENHANCE_YOUR_CALM, 3)  # the padding may also fill the stream's window first


def test_a_message_in_frames_of_a_byte(raw: Any) -> None:
    client = raw()
    client.call(1, PREDICT)
    client.say(frame(DATA, 0, 1, struct.pack(">BI", 0, 1_000_000)))
    assert flood(client, lambda _: frame(DATA, 0, 1, b"x"))[0] == ENHANCE_YOUR_CALM


def test_empty_messages_of_a_stream(raw: Any) -> None:
    client = raw()
    client.call(1, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    client.say(frame(DATA, 0, 1, bytes(5) * 3000))
    assert client.answer(1).status == 8


@pytest.mark.parametrize("part", [b"", b"x" * 1000])
def test_headers_without_an_end(raw: Any, part: bytes) -> None:
    client = raw()
    client.say(frame(HEADERS, 0, 1, client.block(STATUS)[:3]))
    assert flood(client, lambda _: frame(CONTINUATION, 0, 1, part))[0] == ENHANCE_YOUR_CALM


def test_an_hpack_bomb(raw: Any) -> None:
    client = raw()
    entry = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000  # a: 4,000 bytes, into the table
    client.say(frame(HEADERS, 0, 1, entry))
    client.say(frame(CONTINUATION, END_HEADERS, 1, b"\xbe" * 12_000))
    assert client.end()[0] == ENHANCE_YOUR_CALM


def test_more_calls_than_a_connection_may_have(raw: Any) -> None:
    client = raw()
    for number in range(1025):
        client.call(2 * number + 1, STATUS)
    assert client.answer(2049).reset == REFUSED_STREAM
    client.say(frame(DATA, 1, 1, ASK))
    assert client.answer(1).status == 0
    client.call(2051, STATUS, data=ASK)
    assert client.answer(2051).status == 0


def test_watches_that_nobody_reads(raw: Any) -> None:
    client = raw(says_hello=False)
    hello = frame(raw_http2.SETTINGS, payload=struct.pack(">HI", 4, 0))
    client.say(raw_http2.PREFACE + hello)
    for number in range(500):
        client.call(2 * number + 1, WATCH, data=message(b""))
    client.call(2001, STATUS, data=ASK)
    client.say(frame(WINDOW, 0, 2001, struct.pack(">I", 1000)))
    assert client.answer(2001).status == 0


@pytest.mark.parametrize("said", [b"", raw_http2.PREFACE[:9], raw_http2.PREFACE])
def test_a_greeting_that_does_not_end(raw: Any, said: bytes) -> None:
    client = raw(says_hello=False)
    client.say(said)
    assert client.end() == (0, "the client took too long (--header-timeout)")


def test_headers_that_do_not_go_on(raw: Any) -> None:
    client = raw()
    client.say(frame(HEADERS, 0, 1, client.block(STATUS)[:3]))
    assert client.end() == (0, "the client took too long (--header-timeout)")


def test_open_calls_are_counted(raw: Any, server: Any) -> None:
    """A header of 4 KB in HPACK's table makes a call of 16 KB out of four bytes."""
    client = raw()
    own = ((b"te", b"trailers"), (b"content-type", b"application/grpc"))
    usual = b"\x83\x86\x04" + sized(STATUS.encode())  # POST, http, and literals for no table
    usual += b"".join(b"\0" + sized(name) + sized(value) for name, value in own)
    entry = b"\x40\x01a\x7f\xbd\x1d" + b"x" * 3900  # a: 3,900 bytes, into the table
    client.say(frame(HEADERS, END_HEADERS, 1, usual + entry))
    for number in range(1, 500):
        client.say(frame(HEADERS, END_HEADERS, 2 * number + 1, usual + b"\xbe" * 4))
    wait_until(lambda: body_bytes(server) > 9_000_000)
    client.socket.close()
    wait_until(lambda: body_bytes(server) == 0)


def test_a_cancelled_call_that_is_being_unpacked_leaves_nothing(
    raw: Any, server: Any, request_of: Any
) -> None:
    """The thread goes on after the call has ended, and what it counts has to be given back."""
    values = np.random.default_rng(1).integers(0, 2, 600_000).astype(np.float64)
    request = request_of("identity_float64", x=(values, DType.FLOAT64))
    packed = gzip.compress(request.SerializeToString(), 1)
    client = raw()
    for number in range(30):
        stream = 2 * number + 1
        client.call(stream, PREDICT, [("grpc-encoding", "gzip")])
        client.send_body(stream, message(packed, flag=1))
        time.sleep(number / 1000)  # it is in the midst of it sometime
        client.say(frame(RESET, 0, stream, struct.pack(">I", 8)))
    wait_until(lambda: body_bytes(server) == 0)


def test_answers_that_are_read_a_byte_at_a_time_have_stalled(raw: Any, request_of: Any) -> None:
    """Those that found no room, too: the memory would hold any number of them."""
    request = request_of("identity_float64", x=(np.zeros(250_000), DType.FLOAT64))
    body = message(request.SerializeToString())
    client = raw(says_hello=False)
    hello = frame(raw_http2.SETTINGS, payload=struct.pack(">HI", 4, 0))
    client.say(raw_http2.PREFACE + hello + frame(WINDOW, 0, 0, struct.pack(">I", 2**30)))
    streams = range(1, 41, 2)
    for stream in streams:
        for earlier in range(1, stream, 2):
            client.say(frame(WINDOW, 0, earlier, struct.pack(">I", 1)))
        client.call(stream, PREDICT)
        client.send_body(stream, body)
        heard = client.streams[stream]
        client.listen(lambda heard=heard: bool(heard.headers))

    def held() -> int:
        time.sleep(0.2)  # more often, and the server would call it a flood
        for stream in streams:
            client.say(frame(WINDOW, 0, stream, struct.pack(">I", 1)))
        seen = len(client.pings)
        client.say(frame(PING, 0, 0, bytes(8)))
        client.listen(lambda: len(client.pings) > seen)
        answers = (client.streams[stream] for stream in streams)
        return sum(heard.reset is None and heard.status == -1 for heard in answers)

    wait_until(lambda: held() <= 6)
    assert not client.is_closed


def test_answers_that_are_not_read_give_way(
    raw: Any, server: Any, predict_on: Any, request_of: Any
) -> None:
    """The bound on the memory of bodies holds for them too."""
    values = np.zeros(250_000, np.float64), DType.FLOAT64
    request = request_of("identity_float64", x=values)
    client = raw(says_hello=False)
    hello = frame(raw_http2.SETTINGS, payload=struct.pack(">HI", 4, 0))
    client.say(raw_http2.PREFACE + hello)
    body = message(request.SerializeToString())
    for stream in (1, 3):
        client.call(stream, PREDICT)
        client.send_body(stream, body)
        heard = client.streams[stream]
        client.listen(lambda heard=heard: bool(heard.headers))  # the rest waits for a window
        assert heard.status == -1
    wait_until(lambda: predict_on(server, request).exception() is None)
    client.listen(lambda: any(heard.reset == 11 for heard in client.streams.values()))
    assert not client.is_closed

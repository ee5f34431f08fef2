"""A client that leaves while its call waits frees the place at once, however it leaves.

The server's only thread is held by a call that lasts longer than all of this module. So nothing
that waits is ever started, and the counter of those that left the queue tells that they did.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from mlserve.server.tfs.tensor_proto import from_array
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.serving_pb2 import PredictRequest
from tests.harness.raw_http import everything_from, is_good
from tests.harness.raw_http2 import GOAWAY, RESET, RawHttp2, frame, message
from tests.harness.server import MODEL, EchoServer, serving

pytestmark = pytest.mark.server

PREDICT = "/tensorflow.serving.PredictionService/Predict"
FOR_EVER = 600
ONE_THREAD = "--threads=1", "--drain-timeout=0.1"  # the call that holds it is not awaited
CANCEL = struct.pack(">I", 8)
ENDLESS = [("grpc-timeout", f"{FOR_EVER}S")]


def post(body: bytes, *, length: int | None = None) -> bytes:
    """A request with that body, of which a part may be missing."""
    size = len(body) if length is None else length
    head = (
        f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nHost: x\r\n"
        f"X-Request-Timeout-Ms: {FOR_EVER}000\r\nContent-Length: {size}\r\n\r\n"
    )
    return head.encode() + body


ASK = post(b'{"inputs": ["x"]}')
HOLD = post(json.dumps({"signature_name": "slow", "inputs": [FOR_EVER]}).encode())
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ssl.SSLContext]:
    """The certificate of a server, its key, and what a client needs to trust it."""
    folder = tmp_path_factory.mktemp("tls")
    authority, trusting = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trusting)
    leaf = authority.issue_cert("127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    return cert, key, trusting


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    folder = tmp_path_factory.mktemp("leaving")
    with (
        serving(folder, *ONE_THREAD, f"--rest-socket={folder}/rest.sock") as server,
        held(server),
    ):
        yield server


class held:  # noqa: N801 - reads as what it is: a `with` block in which the thread is held
    """The server's only thread is taken by a call that does not end."""

    def __init__(self, server: EchoServer, trusting: ssl.SSLContext | None = None) -> None:
        self._server, self._trusting = server, trusting

    def __enter__(self) -> None:
        self._client = connected(self._server.rest, self._trusting)
        self._client.sendall(HOLD)
        wait_until(lambda: number(self._server, "mlserve_requests_running", self._trusting) == 1)

    def __exit__(self, *_: object) -> None:
        self._client.close()


@pytest.fixture
def connect(server: EchoServer) -> Iterator[Callable[[], socket.socket]]:
    """Opens a connection to the REST port, which is closed at the end if the test has not."""
    with ExitStack() as clients:
        yield lambda: clients.enter_context(connected(server.rest))


@pytest.fixture
def leaving(server: EchoServer) -> Iterator[Callable[..., None]]:
    """Lets calls wait, then something happen: `leaving(send, leave, calls=1)`.

    Of the calls that `send` has made, that many have to leave the queue after `leave`.
    """
    yield lambda send, leave, calls=1: left(server, send, leave, calls)
    assert number(server, "mlserve_requests_running") == 1


def left(
    server: EchoServer,
    send: Callable[[], object],
    leave: Callable[[], object],
    calls: int = 1,
    trusting: ssl.SSLContext | None = None,
) -> None:
    before = number(server, GONE, trusting)
    send()
    wait_until(lambda: number(server, "mlserve_requests_waiting", trusting) == calls)
    leave()
    wait_until(lambda: number(server, GONE, trusting) == before + calls)
    assert number(server, "mlserve_requests_waiting", trusting) == 0


GONE = 'mlserve_refused_total{reason="gone"}'


def number(server: EchoServer, name: str, trusting: ssl.SSLContext | None = None) -> float:
    """The value of a metric."""
    page = metrics(server, trusting)
    found = re.search(rf"^{re.escape(name)} (\S+)\r?$", page, re.MULTILINE)
    assert found, page
    return float(found[1])


def cancelled(server: EchoServer) -> float:
    """How many requests have ended without an answer."""
    of_all = r'^mlserve_requests_total\{[^}]*code="cancelled"[^}]*\} (\S+)\r?$'
    return sum(map(float, re.findall(of_all, metrics(server), re.MULTILINE)))


def metrics(server: EchoServer, trusting: ssl.SSLContext | None = None) -> str:
    with connected(server.rest, trusting) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return everything_from(client).decode()


def connected(address: str, trusting: ssl.SSLContext | None = None) -> socket.socket:
    host, port = address.rsplit(":", 1)
    client = socket.create_connection((host, int(port)), timeout=20)
    return client if trusting is None else trusting.wrap_socket(client, server_hostname=host)


def break_off(client: socket.socket) -> None:
    """Close with a reset, as the end of a process does that has not read everything."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_close(client: socket.socket) -> None:
    """Send no more; a proxy that passes on bytes does it when its own client has hung up."""
    client.shutdown(socket.SHUT_WR)


def close(client: socket.socket) -> None:
    client.close()


WAYS = pytest.mark.parametrize("leave", [close, half_close, break_off])
Leave = Callable[[socket.socket], None]
Connect = Callable[[], socket.socket]


@WAYS
def test_a_connection_of_one_request(connect: Connect, leaving: Any, leave: Leave) -> None:
    client = connect()
    leaving(lambda: client.sendall(ASK), lambda: leave(client))


@WAYS
def test_a_connection_that_was_kept(connect: Connect, leaving: Any, leave: Leave) -> None:
    client = connect()
    client.sendall(LIVE)
    assert is_good(client)
    leaving(lambda: client.sendall(ASK), lambda: leave(client))


@WAYS
@pytest.mark.parametrize("ahead", [LIVE, ASK, ASK * 5, post(b"x", length=20_000)])
def test_requests_that_are_sent_ahead(
    connect: Connect, leaving: Any, leave: Leave, ahead: bytes
) -> None:
    """Nothing is read meanwhile, so the end of the connection is behind data."""
    client = connect()

    def send_more_and_leave() -> None:
        client.sendall(b"x" * 10_000)
        leave(client)

    leaving(lambda: client.sendall(ASK + ahead), send_more_and_leave)


def test_a_request_ahead_whose_client_has_left_is_never_begun(
    server: EchoServer, connect: Connect, leaving: Any
) -> None:
    client = connect()
    before = cancelled(server)
    leaving(lambda: client.sendall(ASK * 9), lambda: close(client))
    wait_until(lambda: cancelled(server) > before)
    assert cancelled(server) == before + 1


def test_a_body_that_took_several_reads(connect: Connect, leaving: Any) -> None:
    client = connect()
    body = json.dumps({"inputs": ["x" * 2_000_000]}).encode()
    leaving(lambda: client.sendall(post(body)), lambda: close(client))


def test_a_unix_socket(server: EchoServer, leaving: Any) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.log_path.with_name("rest.sock")))
        leaving(lambda: client.sendall(ASK + ASK), lambda: close(client))


def test_many_at_once(connect: Connect, leaving: Any) -> None:
    clients = [connect() for _ in range(20)]

    def send() -> None:
        for client in clients:
            client.sendall(ASK)

    def leave() -> None:
        for client in clients:
            client.close()

    leaving(send, leave, calls=20)


def test_over_tls(tmp_path: Path, files: tuple[Path, Path, ssl.SSLContext]) -> None:
    cert, key, trusting = files
    flags = *ONE_THREAD, f"--tls-cert={cert}", f"--tls-key={key}"
    with serving(tmp_path, *flags, wait=EchoServer.has_loaded) as server, held(server, trusting):
        for ahead in (b"", ASK):
            with connected(server.rest, trusting) as client:
                send = partial(client.sendall, ASK + ahead)
                left(server, send, client.close, trusting=trusting)


# gRPC


@pytest.fixture
def raw(server: EchoServer) -> Iterator[Callable[[], RawHttp2]]:
    with ExitStack() as clients:
        yield lambda: clients.enter_context(RawHttp2(server.grpc))


def question() -> bytes:
    request = PredictRequest()
    request.model_spec.name = MODEL
    image = from_array(np.array([b"x"], dtype=object), DType.BYTES)
    request.inputs["image"].CopyFrom(image)
    return request.SerializeToString()


def ask(client: RawHttp2, *streams: int) -> None:
    for stream in streams:
        client.call(stream, PREDICT, ENDLESS, data=message(question()))


@WAYS
def test_a_grpc_connection_that_ends(
    raw: Callable[[], RawHttp2], leaving: Any, leave: Leave
) -> None:
    client = raw()
    leaving(lambda: ask(client, 1, 3, 5), lambda: leave(client.socket), calls=3)


def test_a_grpc_call_that_is_reset(
    raw: Callable[[], RawHttp2], server: EchoServer, leaving: Any
) -> None:
    client = raw()
    leaving(lambda: ask(client, 1), lambda: client.say(frame(RESET, 0, 1, CANCEL)))
    ask(client, 3, 5, 7)
    wait_until(lambda: number(server, "mlserve_requests_waiting") == 3)
    client.say(frame(RESET, 0, 5, CANCEL))
    wait_until(lambda: number(server, "mlserve_requests_waiting") == 2)
    client.say(frame(RESET, 0, 3, CANCEL) + frame(RESET, 0, 7, CANCEL))
    wait_until(lambda: number(server, "mlserve_requests_waiting") == 0)


def test_a_client_that_will_begin_no_more_calls_still_waits_for_those_it_has(
    raw: Callable[[], RawHttp2], server: EchoServer, leaving: Any
) -> None:
    client = raw()
    ask(client, 1)
    wait_until(lambda: number(server, "mlserve_requests_waiting") == 1)
    client.say(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)))
    client.call(3, "/grpc.health.v1.Health/Check", data=message(b""))
    assert client.answer(3).status == 0  # it has been read, so the GOAWAY before it has, too
    assert number(server, "mlserve_requests_waiting") == 1
    leaving(lambda: None, client.socket.close)


def test_a_client_of_grpc_that_cancels(server: EchoServer, leaving: Any) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        method = channel.unary_unary(PREDICT)
        calls: list[Any] = []
        send = lambda: calls.append(method.future(question(), timeout=FOR_EVER))  # noqa: E731
        leaving(send, lambda: [call.cancel() for call in calls])


def test_a_channel_of_grpc_that_is_closed(server: EchoServer, leaving: Any) -> None:
    channel = grpc.insecure_channel(server.grpc)
    method = channel.unary_unary(PREDICT)
    calls: list[Any] = []
    leaving(lambda: calls.append(method.future(question(), timeout=FOR_EVER)), channel.close)

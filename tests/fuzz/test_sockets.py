"""A real server is told nonsense on both ports, and answers the next good request."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.artifact import Artifact
from mlserve.testing.processes import ServerProcess, launched
from mlserve.testing.questions import request_of

pytestmark = pytest.mark.server

PROFILE = settings.get_profile("fuzz-sockets")
PHOTO = b"\xff\xd8\xff a photo"
BODY = json.dumps({"inputs": ["x"]}).encode()
REQUESTS = [
    b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    + BODY,
    b"GET /v2/models/m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    (
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'5\r\n{"inp\r\n0\r\n\r\n'
    ),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
]
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAMES = [
    HTTP2 + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\1\4\0\0\0\1\x82",
    HTTP2 + b"\0\0\6\4\0\0\0\0\0\0\4\xff\xff\xff\xff" + b"\0\0\4\3\0\0\0\0\1\0\0\0\0",
    HTTP2 + b"\0\0\x08\6\0\0\0\0\0abcdefgh" + b"\0\0\4\x08\0\0\0\0\0\x7f\xff\xff\xff",
]
METHODS = (
    "/tensorflow.serving.PredictionService/Predict",
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/tensorflow.serving.ModelService/GetModelStatus",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/Nope",
)
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    version: Path = tmp_path_factory.mktemp("fuzzed") / "m" / "1"
    version.mkdir(parents=True)
    (version / "echo.json").write_text("{}")
    with launched("echo", Artifact.open(version.parent, "m", 1), "--threads", "1") as server:
        server.wait_ready()
        yield server


def run(check: Callable[[Any], None], values: st.SearchStrategy[Any]) -> None:
    settings(PROFILE)(given(values)(check))()


def say(address: str, data: bytes) -> bytes:
    """What the server says to that before it hangs up, or falls silent for 50 ms."""
    host, _, port = address.rpartition(":")
    heard = b""
    with socket.create_connection((host, int(port)), timeout=5) as connection, suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.05)
        while part := connection.recv(65536):
            heard += part
    return heard


def answers(server: ServerProcess) -> None:
    """Both ports answer, and nothing went wrong that the log would tell."""
    assert server.process.poll() is None, server.log()
    for protocol in ("grpc", "rest"):
        with server.client(protocol) as client:
            assert client.predict(PHOTO, timeout=20).label == "sorrel"
    assert "Traceback" not in server.log(), server.log()
    assert " ERROR " not in server.log(), server.log()


def test_nonsense_at_the_rest_port(server: ServerProcess, mutations: Any) -> None:
    def check(data: bytes) -> None:
        heard = say(server.rest, data)
        assert not heard or heard.startswith(b"HTTP/1.1 "), heard
        assert not heard.startswith(b"HTTP/1.1 500"), heard

    run(check, mutations(REQUESTS) | st.binary(max_size=200))
    answers(server)


def test_nonsense_at_the_grpc_port(server: ServerProcess, mutations: Any) -> None:
    def check(data: bytes) -> None:
        say(server.grpc, data)

    run(check, mutations(FRAMES) | st.binary(max_size=200))
    answers(server)


def test_nonsense_in_a_call(server: ServerProcess, mutations: Any) -> None:
    message = request_of("m", PHOTO).SerializeToString()
    with grpc.insecure_channel(server.grpc) as channel:

        def check(call: tuple[str, bytes]) -> None:
            method, data = call
            try:
                channel.unary_unary(method)(data, timeout=10)
            except grpc.RpcError as error:
                if error.code().name not in REFUSALS:
                    raise

        run(check, st.tuples(st.sampled_from(METHODS), mutations([message]) | st.binary()))
    answers(server)

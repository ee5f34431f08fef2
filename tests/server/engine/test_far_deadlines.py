"""Times that no clock can hold: a caller's, over every protocol, and those of options."""

from __future__ import annotations

import math
import socket
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve.client import Client
from mlserve.client.endpoint import Api
from mlserve.deadline import MOST_SECONDS, Deadline
from mlserve.errors import UsageError
from mlserve.settings import ServerSettings
from mlserve.tensors import DType

FAR = (1e9, 7e9)
"""Seconds; from about 7.4e9 on Python's gRPC client overflows before it sends anything."""
IMAGE = np.array([b"x"], object), DType.BYTES


@pytest.mark.parametrize("timeout", [1e300, 1.1e9, math.inf, math.nan, 0.0, -1.0])
def test_a_timeout_that_no_clock_holds_is_named(timeout: float) -> None:
    with pytest.raises(UsageError) as refused:
        Deadline.after(timeout)
    assert refused.value.message.endswith(f"not {timeout:g}")
    assert refused.value.hint


def test_the_longest_timeout_can_be_waited_for() -> None:
    assert Deadline.after(MOST_SECONDS).remaining() > MOST_SECONDS - 60


@pytest.mark.parametrize(
    "name", ["default_timeout", "drain_timeout", "header_timeout", "max_batch_delay"]
)
def test_a_setting_that_no_clock_holds_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=r"--[a-z-]+ must be a number of seconds from 0 to 1e\+09"):
        ServerSettings(**{name: 1e300})  # type: ignore[arg-type]


@pytest.mark.server
@pytest.mark.parametrize("api", ["tfs", "oip"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_longest_timeout_of_a_client_gets_an_answer(
    server: Any, protocol: str, api: Api
) -> None:
    endpoint = server.grpc if protocol == "grpc" else f"http://{server.rest}"
    with Client(endpoint, model="m", api=api) as client:
        assert client.predict(b"x", timeout=MOST_SECONDS).label == "sorrel"


@pytest.mark.server
@pytest.mark.parametrize("header", ["X-Request-Timeout-Ms", "x-envoy-expected-rq-timeout-ms"])
@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer"])
def test_a_header_of_15_digits_is_as_good_as_none(
    http: httpx.Client, server: Any, header: str, path: str
) -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}
    body = {"inputs": ["x"]} if "v1" in path else {"inputs": [tensor]}
    answer = http.post(path, json=body, headers={header: "9" * 15})
    assert answer.status_code == 200, answer.text
    refused = http.post(path, json=body, headers={header: "9" * 10_000})
    assert refused.status_code == 400
    assert "at most 15 digits" in refused.json()["error"]
    assert len(refused.text) < 300
    assert "CRITICAL" not in server.log()


@pytest.mark.server
@pytest.mark.parametrize("timeout", FAR)
def test_a_far_deadline_over_grpc_gets_an_answer(
    server: Any, predict_on: Any, request_of: Any, timeout: float
) -> None:
    answer = predict_on(server, request_of(image=IMAGE), timeout=timeout).result(20)
    assert answer.outputs["output_0"].string_val == [b"sorrel"]
    assert "CRITICAL" not in server.log()


@pytest.mark.server
@pytest.mark.parametrize("timeout", [b"99999999H", b"99999999M"])
def test_the_largest_deadline_that_grpc_can_write_gets_an_answer(
    server: Any, request_of: Any, timeout: bytes
) -> None:
    """Other clients send it as it is; Python's cannot, so this one speaks HTTP/2 itself."""
    message = request_of(image=IMAGE).SerializeToString()
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/tensorflow.serving.PredictionService/Predict",
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"grpc-timeout": timeout,
    }
    literals = [bytes([0, len(k)]) + k + bytes([len(v)]) + v for k, v in headers.items()]
    body = b"\0" + len(message).to_bytes(4, "big") + message
    host, _, port = server.grpc.rpartition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        client.sendall(frame(HEADERS, END_HEADERS, 1, b"".join(literals)))
        client.sendall(frame(DATA, END_STREAM, 1, body))
        while b"grpc-status" not in received:
            received += client.recv(4096)
    assert b"sorrel" in received


DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    length = len(payload).to_bytes(3, "big")
    return length + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.server
def test_limits_that_no_channel_argument_holds(start: Any, model: Any) -> None:
    model.put(1)
    flags = ("--max-request-bytes", "--max-connections")
    server = start(*(f"{flag}={2**40}" for flag in flags), "--header-timeout=1e9")
    assert server.answers()


@pytest.mark.server
@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v1/models/m%3Apredict", "/v1/models/m:predict"),
        ("/v1/models/m%3aclassify", "/v1/models/m:classify"),
        ("/v2/models/m%2Finfer", "/v2/models/m/infer"),
    ],
)
def test_an_escaped_colon_or_slash_is_told(http: httpx.Client, path: str, right: str) -> None:
    answer = http.post(path, json={"inputs": ["x"]})
    assert (answer.status_code, answer.json()["error"].endswith(f"ask POST {right}")) == (404, True)
    assert http.post("/v1/models/m", json={}).status_code == 405

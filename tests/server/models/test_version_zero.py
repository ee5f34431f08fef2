"""Version 0: a version as any other, and what OpenVINO's clients send for the latest one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http

from mlserve.client import Client
from mlserve.errors import NotFound
from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.server
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
APIS = pytest.mark.parametrize("api", ["tfs", "oip"])

# Its messages have the names of TensorFlow's, so it gets a process of its own.
_OVMS = """
import sys
import ovmsclient
grpc_address, rest_address, version = sys.argv[1:]
version = int(version)
clients = ovmsclient.make_grpc_client(grpc_address), ovmsclient.make_http_client(rest_address)
for client in clients:
    print(client.predict({"image": [b"x"]}, "m", version).astype(str))
    print(sorted(client.get_model_status("m", version)))
    print("DT_STRING" in str(client.get_model_metadata("m", version)))
"""


@pytest.fixture
def zero_and_one(model: Any, start: Callable[..., Any]) -> Any:
    """A server of version 0, labelled zero, and of version 1, labelled one."""
    model.put(0, label="zero")
    model.put(1, label="one")
    server = start("--all-versions")
    wait_until(lambda: server.state(0) == server.state(1) == "AVAILABLE")
    return server


def connect(server: Any, protocol: str, api: Any, version: int | None) -> Client:
    endpoint = server.grpc if protocol == "grpc" else f"http://{server.rest}"
    return Client(endpoint, model="m", version=version, api=api)


def ovms(server: Any, version: int) -> list[str]:
    argv = [sys.executable, "-c", _OVMS, server.grpc, server.rest, str(version)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@APIS
@PROTOCOLS
def test_version_0_is_a_version(zero_and_one: Any, protocol: str, api: str) -> None:
    for version, label in ((0, "zero"), (1, "one"), (None, "one")):
        with connect(zero_and_one, protocol, api, version) as client:
            answer = client.predict(b"x", timeout=20)
            assert (answer.label, answer.version) == (label, 1 if version is None else version)
            if version is not None:
                assert client.metadata(timeout=20).version == version
                [status] = client.status(timeout=20)
                assert (status.version, status.state) == (version, "AVAILABLE")


def test_a_server_of_version_0_alone_serves_it_as_the_latest(model: Any, start: Any) -> None:
    model.put(0, label="zero")
    server = start("--version", "0")
    assert server.state(0) == "AVAILABLE"
    for path in (
        "v1/models/m/versions/0",
        "v2/models/m/versions/0",
        "v2/models/m/versions/0/ready",
    ):
        assert httpx.get(f"http://{server.rest}/{path}").status_code == 200
    for path in ("/v1/models/m:predict", "/v1/models/m/versions/0:predict"):
        assert server.post({"inputs": ["x"]}, path).json() == {"outputs": ["zero"]}


def test_ovmsclient_gets_version_0_where_there_is_one(zero_and_one: Any) -> None:
    pytest.importorskip("ovmsclient", exc_type=ImportError)
    assert ovms(zero_and_one, 0) == ["['zero']", "[0]", "True"] * 2
    assert ovms(zero_and_one, 1) == ["['one']", "[1]", "True"] * 2


def test_ovmsclient_gets_the_latest_version_for_0_where_there_is_none(
    model: Any, start: Any
) -> None:
    pytest.importorskip("ovmsclient", exc_type=ImportError)
    model.put(3)
    model.put(7, label="seven")
    server = start("--all-versions")
    wait_until(lambda: server.state(3) == server.state(7) == "AVAILABLE")
    assert ovms(server, 0) == ["['seven']", "[3, 7]", "True"] * 2


@APIS
@PROTOCOLS
def test_our_own_client_does_not_take_another_version_for_version_0(
    server: Any, protocol: str, api: str
) -> None:
    with connect(server, protocol, api, 0) as client:
        with pytest.raises(NotFound, match=r"version 0|versions? '?0|Specific\(m, 0\)"):
            client.predict(b"x", timeout=20)
        with pytest.raises(NotFound, match=r"version 0|versions? '?0|Specific\(m, 0\)"):
            client.metadata(timeout=20)


def test_the_open_inference_protocol_knows_no_0_for_the_latest(server: Any) -> None:
    triton = over_http.InferenceServerClient(server.rest)
    assert not triton.is_model_ready("m", "0")
    triton.close()
    with over_grpc.InferenceServerClient(server.grpc) as client:
        assert not client.is_model_ready("m", "0")
        assert not client.is_model_ready("other")
        assert not client.is_model_ready("m", "nine")
        assert client.is_model_ready("m", "7")

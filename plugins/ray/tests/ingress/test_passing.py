"""What passes through the ingress unchanged, before real servers, and what it says itself."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import trustme

from mlserve.client import Client
from mlserve.client.endpoint import Tls
from mlserve.errors import AccessDenied, InputTooLarge, Unavailable
from mlserve.settings import ServerSettings
from mlserve.testing.processes import wait_until
from mlserve.testing.questions import predict_method, request_of
from tests.harness.echo import PHOTO
from tests.harness.raw_http import response_from
from tests.harness.replica import Replica
from tests.harness.server import EchoServers, running

pytestmark = pytest.mark.server
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
APIS = pytest.mark.parametrize("api", ["tfs", "oip"])
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def real(front: Any, pair: Any) -> Any:
    front.use(*pair)
    return front


@APIS
@PROTOCOLS
def test_a_client_sees_one_server(real: Any, protocol: str, api: Any) -> None:
    with Client(real.endpoint(protocol), model="m", api=api) as client:
        answer = client.predict(PHOTO, timeout=20)
        assert (answer.label, answer.version) == ("sorrel", 1)
        assert answer.request_id
        assert answer.timings is not None
        assert client.metadata(timeout=20).served_by


def test_headers_pass_in_both_directions(real: Any) -> None:
    headers = {"X-Request-Id": "mine", "traceparent": TRACE}
    answer = httpx.post(
        f"{real.rest}/v1/models/m:predict", json={"inputs": ["x"]}, headers=headers, timeout=20
    )
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["traceparent"].startswith(TRACE[:35])
    assert answer.headers["x-mlserve-served-by"].startswith("echo; ")
    assert "run;dur=" in answer.headers["server-timing"]
    strange = [name for name in answer.headers if "envoy" in name or "verdict" in name]
    assert not strange
    assert "server" not in answer.headers


def test_metadata_passes_in_both_directions(real: Any) -> None:
    metadata = (("x-request-id", "mine"), ("traceparent", TRACE))
    _, call = predict_method(real.channel).with_call(
        request_of("m", PHOTO), timeout=20, metadata=metadata
    )
    heard = dict((*call.initial_metadata(), *call.trailing_metadata()))
    assert heard["x-request-id"] == "mine"
    assert heard["traceparent"].startswith(TRACE[:35])
    assert heard["mlserve-served-by"].startswith("echo; ")
    assert not [name for name in heard if "envoy" in name or "verdict" in name]


@PROTOCOLS
def test_a_large_request_and_its_answer_pass(real: Any, protocol: str) -> None:
    with Client(real.endpoint(protocol), model="m", api="oip") as client:
        array = np.frombuffer(os.urandom(16_000_000), dtype=np.uint8)
        answer = client.infer({"x": array}, signature="identity_uint8", timeout=30)
        assert (answer["y"] == array).all()


def test_one_that_is_too_large_is_the_servers_to_refuse(start: Any, servers: EchoServers) -> None:
    small = servers("--max-request-bytes", "2000")
    front = start(settings=ServerSettings(max_request_bytes=2000))
    front.use(small)
    for protocol in ("rest", "grpc"):
        with (
            Client(front.endpoint(protocol), model="m", api="tfs") as client,
            pytest.raises(InputTooLarge, match="2000"),
        ):
            client.predict(PHOTO + bytes(200_000), timeout=20)


def test_an_expected_100_is_the_servers_to_give(real: Any) -> None:
    body = json.dumps({"inputs": [{"b64": base64.b64encode(PHOTO).decode()}]}).encode()
    host, _, port = real.rest.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        head = f"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        asked_for = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.recv(len(asked_for)) == asked_for
        client.sendall(body)
        assert response_from(client).startswith(b"HTTP/1.1 200 ")


@PROTOCOLS
def test_a_token_is_checked_by_the_server(
    start: Any, servers: EchoServers, stack: ExitStack, tmp_path: Path, protocol: str
) -> None:
    token = tmp_path / "token"
    token.write_text("secret-of-the-servers")
    token.chmod(0o600)
    log = tmp_path / "log"
    server = stack.enter_context(running(servers.model, log, "--token-file", str(token)))
    wait_until(server.has_loaded)
    front = start(settings=ServerSettings(token_file=token))
    front.use(server)
    with Client(front.endpoint(protocol), model="m", token="secret-of-the-servers") as client:
        assert client.predict(PHOTO, timeout=20).label == "sorrel"
    with (
        Client(front.endpoint(protocol), model="m", api="tfs", token="wrong") as client,
        pytest.raises(AccessDenied),
    ):
        client.predict(PHOTO, timeout=20)


def test_tls_and_the_certificates_of_clients(start: Any, pair: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    files = {}
    for name in ("server", "client"):
        leaf = authority.issue_cert("localhost" if name == "server" else "client.example")
        leaf.private_key_and_cert_chain_pem.write_to_path(files.setdefault(name, tmp_path / name))
    authority.cert_pem.write_to_path(ca := tmp_path / "ca")
    front = start(
        settings=ServerSettings(tls_cert=files["server"], tls_key=files["server"], tls_client_ca=ca)
    )
    front.use(*pair)
    own = Tls(ca=ca, cert=files["client"], key=files["client"])
    listen = front.ingress.listen
    for endpoint in (f"localhost:{listen.grpc_port}", f"https://localhost:{listen.rest_port}"):
        with Client(endpoint, model="m", tls=own) as client:
            assert client.predict(PHOTO, timeout=20).label == "sorrel"
    context = ssl.create_default_context(cafile=str(ca))
    with pytest.raises((httpx.HTTPError, ssl.SSLError)):
        httpx.get(f"https://localhost:{listen.rest_port}/v2", verify=context, timeout=20)


def test_the_fronts_own_pages(front: Any, tmp_path: Path) -> None:
    with Replica() as page:
        front.ingress.set_local(page.rest_port)
        wait_until(lambda: front.get("/metrics").status_code == 200)
        assert front.get("/mlserve/replicas").status_code == 200
        assert len(page.asked) >= 2


@PROTOCOLS
def test_without_a_replica_it_says_so_at_once(front: Any, protocol: str) -> None:
    answer = front.ask(protocol, timeout=20)
    assert answer.code == "UNAVAILABLE"
    assert "no replica of the model is ready" in answer.text
    with (
        Client(front.endpoint(protocol), model="m", api="tfs") as client,
        pytest.raises(Unavailable, match="no replica of the model is ready"),
    ):
        client.predict(PHOTO, timeout=0.5)


def test_models_are_not_controlled_through_it(real: Any) -> None:
    answer = httpx.post(f"{real.rest}/v2/repository/models/m/unload", timeout=20)
    assert answer.status_code == 403
    assert "mlserve models use" in answer.json()["error"]
    unload = real.channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelUnload")
    with pytest.raises(grpc.RpcError) as caught:
        unload(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

"""TLS on both ports, with and without certificates of the clients."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import trustme

from mlserve.launch.docker.dockerfile import HEALTHCHECK
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from tests.harness.server import serving

pytestmark = pytest.mark.server

PREDICT = "/v1/models/m:predict"
GOOD = {"inputs": ["x"]}


class Files:
    """The certificates of the tests: an authority, a server's, a client's and a stranger's."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.server = self.authority.issue_cert("127.0.0.1", "localhost")
        self.client = self.authority.issue_cert("client.example")
        self.stranger = trustme.CA().issue_cert("client.example")
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        for blob in self.server.cert_chain_pems:
            blob.write_to_path(self.cert, append=True)
        self.server.private_key_pem.write_to_path(self.key)
        self.flags = f"--tls-cert={self.cert}", f"--tls-key={self.key}"

    def context(self, leaf: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if leaf is not None:
            leaf.configure_cert(context)
        return context

    def credentials(self, leaf: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
        root = self.authority.cert_pem.bytes()
        if leaf is None:
            return grpc.ssl_channel_credentials(root)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        return grpc.ssl_channel_credentials(root, leaf.private_key_pem.bytes(), chain)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Any]:
    folder, flags = tmp_path_factory.mktemp("tls"), (*files.flags, "--header-timeout=1")
    with serving(folder, *flags, wait=ready_for(files.context())) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Any]:
    """A server that wants a certificate of its clients."""
    folder, flags = tmp_path_factory.mktemp("mutual"), (*files.flags, f"--tls-client-ca={files.ca}")
    with serving(folder, *flags, wait=ready_for(files.context(files.client))) as server:
        yield server


@pytest.fixture
def image(request_of: Any) -> bytes:
    request = request_of(image=(np.array([b"x"], dtype=object), DType.BYTES))
    data: bytes = request.SerializeToString()
    return data


def ready_for(context: ssl.SSLContext) -> Callable[[Any], bool]:
    def is_ready(server: Any) -> bool:
        assert server.process.poll() is None, server.log()
        url = f"https://{server.rest}/v2/health/ready"
        return bool(httpx.get(url, verify=context).status_code == 200)

    return is_ready


def post(server: Any, context: ssl.SSLContext) -> httpx.Response:
    return httpx.post(f"https://{server.rest}{PREDICT}", json=GOOD, verify=context, timeout=20)


def predict(server: Any, credentials: grpc.ChannelCredentials, data: bytes) -> bytes:
    with grpc.secure_channel(server.grpc, credentials) as channel:
        method = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        answer: bytes = method(data, timeout=10)
        return answer


def check_health(server: Any) -> subprocess.CompletedProcess[str]:
    """The health check of the images, as an engine runs it."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(HEALTHCHECK)],
        env={"REST_API_PORT": server.rest.rpartition(":")[2]},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def is_well(server: Any) -> bool:
    """Whether the log has nothing of failed handshakes."""
    assert [line for line in server.log().splitlines() if " INFO " not in line] == []
    return True


def test_both_ports(server: Any, files: Files, image: bytes) -> None:
    assert post(server, files.context()).json() == {"outputs": ["sorrel"]}
    assert b"sorrel" in predict(server, files.credentials(), image)
    assert is_well(server)


def test_the_health_check_of_the_images(server: Any, mutual: Any) -> None:
    """It follows the server to TLS; it has no certificate for one that wants it."""
    assert check_health(server).returncode == 0, check_health(server).stderr
    assert check_health(mutual).returncode == 1


def test_a_client_that_does_not_trust_it(server: Any, files: Files, image: bytes) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        post(server, ssl.create_default_context())
    with pytest.raises(grpc.RpcError) as refused:
        predict(server, grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes()), image)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert is_well(server)


def test_a_client_without_tls(server: Any, files: Files, image: bytes) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"http://{server.rest}{PREDICT}", json=GOOD, timeout=20)
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(image, timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert post(server, files.context()).status_code == 200
    assert is_well(server)


@pytest.mark.parametrize("port", ["rest", "grpc"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(server: Any, files: Files, port: str, version: ssl.TLSVersion) -> None:
    context = files.context()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with connection(getattr(server, port)) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname="127.0.0.1")
    assert is_well(server)


@pytest.mark.parametrize("port", ["rest", "grpc"])
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_handshake_that_does_not_end(
    server: Any, files: Files, image: bytes, port: str, said: bytes
) -> None:
    """It ends with the time of a request's head."""
    with connection(getattr(server, port)) as raw:
        raw.sendall(said)
        while read(raw):
            pass
    assert post(server, files.context()).status_code == 200
    assert b"sorrel" in predict(server, files.credentials(), image)
    assert is_well(server)


def test_handshakes_that_are_broken_off(server: Any, files: Files) -> None:
    for port in (server.rest, server.grpc):
        for _ in range(20):
            with connection(port) as raw:
                raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert post(server, files.context()).status_code == 200
    assert is_well(server)


def test_handshakes_count_as_connections(model: Any, launch: Any, files: Files) -> None:
    """As many as --max-connections may be under way; those that last give way to the next."""
    model.put(7)
    server = launch(*files.flags, "--max-connections=8", "--header-timeout=30")
    server.wait_listening()
    wait_until(lambda: ready_for(files.context())(server))
    process, port = psutil.Process(server.process.pid), int(server.rest.rpartition(":")[2])

    def held() -> int:
        found = process.net_connections(kind="tcp")
        return sum(c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in found)

    with ExitStack() as stack:
        for _ in range(60):
            raw = stack.enter_context(connection(server.rest))
            raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        most = 0
        for _ in range(5):
            assert post(server, files.context()).status_code == 200
            most = max(most, held())
        assert 0 < most <= 8 + 1, "the handshakes and the one that is answered"
    assert is_well(server)


@pytest.mark.parametrize("offered", [[], ["http/1.1"], ["h2", "http/1.1"]])
def test_the_grpc_port_speaks_http2_only(server: Any, files: Files, offered: list[str]) -> None:
    """Who has not agreed on it in the handshake is hung up on, as by gRPC's own servers."""
    context = files.context()
    if offered:
        context.set_alpn_protocols(offered)
    with (
        connection(server.grpc) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as client,
    ):
        assert client.selected_alpn_protocol() == ("h2" if "h2" in offered else None)
        heard = client.recv(9)
        assert bool(heard) == ("h2" in offered)
    assert is_well(server)


def test_a_client_that_does_not_offer_http2_holds_nothing(server: Any, files: Files) -> None:
    """It has no place among the connections, so that nothing else bounds their number."""
    process = psutil.Process(server.process.pid)
    before = process.num_fds()
    with ExitStack() as stack:
        for _ in range(30):
            raw = stack.enter_context(connection(server.grpc))
            stack.enter_context(files.context().wrap_socket(raw, server_hostname="127.0.0.1"))
        wait_until(lambda: process.num_fds() <= before + 2)


class TestMutual:
    def test_a_client_of_the_authority(self, mutual: Any, files: Files, image: bytes) -> None:
        assert post(mutual, files.context(files.client)).status_code == 200
        assert b"sorrel" in predict(mutual, files.credentials(files.client), image)

    @pytest.mark.parametrize("name", ["", "stranger"])
    def test_any_other(self, mutual: Any, files: Files, image: bytes, name: str) -> None:
        leaf = files.stranger if name else None
        with pytest.raises(httpx.TransportError):
            post(mutual, files.context(leaf))
        with pytest.raises(grpc.RpcError) as refused:
            predict(mutual, files.credentials(leaf), image)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert post(mutual, files.context(files.client)).status_code == 200
        assert is_well(mutual)


def test_files_that_do_not_fit_end_the_start(
    model: Any, launch: Any, files: Files, tmp_path: Path
) -> None:
    model.put(7)
    other = tmp_path / "other.pem"
    files.client.private_key_pem.write_to_path(other)
    server = launch(f"--tls-cert={files.cert}", f"--tls-key={other}")
    assert server.exit_code() == 2
    assert "key values mismatch" in server.log()
    assert "Traceback" not in server.log()


def connection(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read(raw: socket.socket) -> bytes:
    try:
        return raw.recv(65536)
    except ConnectionResetError:
        return b""

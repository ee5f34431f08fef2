"""TLS through the tunnel of an HTTP proxy with a password, to a host that only the proxy knows."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from mlserve.client import Client, Retries, Tls
from mlserve.errors import Unavailable

pytestmark = pytest.mark.slow

PROTOCOLS = pytest.mark.parametrize(("protocol", "scheme"), [("grpc", "grpcs"), ("rest", "https")])
HOST = "line7.invalid"
BASIC = b"Basic bWU6cEBzcw=="


def _may_pass(client: socket.socket) -> bool:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    return head.startswith(f"CONNECT {HOST}:".encode()) and BASIC.lower() in head.lower()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def tunnel() -> Iterator[Callable[[str], str]]:
    """`tunnel(address)` is a proxy that leads there, whatever host it is asked for."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended: list[socket.socket] = [listener]
    threads: list[threading.Thread] = []

    def begin(work: Callable[..., None], *arguments: Any) -> None:
        threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        threads[-1].start()

    def open_tunnel(client: socket.socket, address: str) -> None:
        if not _may_pass(client):
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            client.close()
            return
        host, _, port = address.rpartition(":")
        server = socket.create_connection((host, int(port)))
        ended.extend([client, server])
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        begin(_pour, client, server)
        _pour(server, client)

    def accept(address: str) -> None:
        with suppress(OSError):
            while True:
                begin(open_tunnel, listener.accept()[0], address)

    def lead(address: str) -> str:
        begin(accept, address)
        return "{}:{}".format(*listener.getsockname())

    yield lead
    for one in ended:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
    for thread in threads:
        thread.join(10)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an authority's certificate, and one of a server that has the name HOST."""
    folder, issuer = tmp_path_factory.mktemp("tls"), trustme.CA()
    issuer.cert_pem.write_to_path(folder / "ca.pem")
    issued = issuer.issue_cert(HOST)
    issued.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def secure(start_echo: Any, authority: Path) -> Any:
    return start_echo(f"--tls-cert={authority / 'cert.pem'}", f"--tls-key={authority / 'key.pem'}")


@PROTOCOLS
def test_tls_goes_through_the_tunnel_of_a_proxy_to_the_server_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
    secure: Any,
    authority: Path,
    tunnel: Any,
    protocol: str,
    scheme: str,
) -> None:
    proxy = tunnel(secure.endpoint(protocol).removeprefix("https://"))
    monkeypatch.setenv("https_proxy", f"http://me:p%40ss@{proxy}")
    with Client(f"{scheme}://{HOST}:8500", tls=Tls(ca=authority / "ca.pem")) as client:
        assert client.predict(b"\xff\xd8\xff", timeout=20).label == "sorrel"


@PROTOCOLS
def test_a_proxy_that_wants_a_password_is_named(
    monkeypatch: pytest.MonkeyPatch, authority: Path, tunnel: Any, protocol: str, scheme: str
) -> None:
    proxy = tunnel("127.0.0.1:1")
    monkeypatch.setenv("https_proxy", proxy)
    tls, once = Tls(ca=authority / "ca.pem"), Retries(max_attempts=1)
    with (
        Client(f"{scheme}://{HOST}:8500", tls=tls, retries=once) as client,
        pytest.raises(Unavailable, match="407") as caught,
    ):
        client.predict(b"\xff\xd8\xff", timeout=20)

    assert caught.value.message.startswith(f"the proxy at {proxy} (https_proxy) cannot connect")

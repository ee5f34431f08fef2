"""Which proxy a call goes through, read from the environment; what proxies say of their own."""

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
from mlserve.client.endpoint import Endpoint
from mlserve.client.proxies import proxy_to
from mlserve.client.refusals import refusal
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, InferenceFailed, Overloaded, Unavailable, UsageError

HOST = Endpoint.parse("http://models.example.com:8501")


@pytest.mark.parametrize(
    ("endpoint", "variables", "found"),
    [
        ("http://a:1", {"http_proxy": "http://p:3128"}, "p:3128 http_proxy"),
        ("a:1", {"http_proxy": "p:3128"}, "p:3128 http_proxy"),
        ("a:1", {"HTTP_PROXY": "p"}, "p:80 HTTP_PROXY"),
        ("a:1", {"http_proxy": "", "HTTP_PROXY": "p"}, None),
        ("a:1", {"https_proxy": "p:1"}, None),
        ("grpcs://a:1", {"https_proxy": "p:1", "http_proxy": "q:1"}, "p:1 https_proxy"),
        ("https://a:1", {"all_proxy": "p:1"}, "p:1 all_proxy"),
        ("https://a:1", {"https_proxy": "[::1]:1"}, "[::1]:1 https_proxy"),
        ("127.0.0.1:1", {"http_proxy": "p:1"}, None),
        ("http://localhost:1", {"http_proxy": "p:1"}, None),
        ("http://[::1]:1", {"http_proxy": "p:1"}, None),
    ],
)
def test_the_proxy_is_the_one_of_the_scheme(
    endpoint: str, variables: dict[str, str], found: str | None
) -> None:
    proxy = proxy_to(Endpoint.parse(endpoint), variables)
    assert (None if proxy is None else f"{proxy.address} {proxy.variable}") == found


@pytest.mark.parametrize("scheme", ["", "http://"])
@pytest.mark.parametrize(
    ("host", "no_proxy", "is_direct"),
    [
        ("models.example.com:8500", "*", True),
        ("models.example.com:8500", "example.com", True),
        ("models.example.com:8500", ".example.com", True),
        ("models.example.com:8500", "*.example.com", True),
        ("models.example.com:8500", "other, MODELS.example.COM", True),
        ("models.example.com:8500", "example.com:8500", True),
        ("models.example.com:8500", "example.com:1", False),
        ("models.example.com:8500", "ample.com", False),
        ("models.example.com:8500", "10.0.0.0/8", False),
        ("models.example.com:8500", "", False),
        ("10.1.2.3:8500", "10.0.0.0/8", True),
        ("10.1.2.3:8500", "10.1.2.3", True),
        ("10.1.2.3:8500", "10.1.2.3:8500 x", True),
        ("10.1.2.3:8500", "10.1.2.3:1", False),
        ("10.1.2.3:8500", "192.168.0.0/16", False),
        ("[2001:db8::7]:8500", "2001:db8::/32", True),
        ("[2001:db8::7]:8500", "[2001:db8::7]:8500", True),
    ],
)
def test_no_proxy(scheme: str, host: str, no_proxy: str, *, is_direct: bool) -> None:
    variables = {"http_proxy": "p:1", "no_proxy": no_proxy}
    assert (proxy_to(Endpoint.parse(scheme + host), variables) is None) == is_direct


@pytest.mark.parametrize(
    ("endpoint", "proxy", "why"),
    [
        ("http://a:1", "socks5://me:secret@p:1", "only HTTP proxies"),
        ("a:1", "https://p:1", "only without TLS"),
        ("a:1", "http://", "has no host"),
        ("a:1", "http://me:secret@p:port", "not a valid address"),
    ],
)
def test_a_proxy_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, proxy: str, why: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UsageError, match=why) as caught:
        Client(endpoint)
    assert "http_proxy" in caught.value.message
    assert "secret" not in caught.value.message


def test_credentials_go_to_the_proxy_and_into_no_message() -> None:
    proxy = proxy_to(HOST, {"http_proxy": "http://me:p%40ss@p:1"})
    assert proxy is not None
    assert proxy.headers == {"Proxy-Authorization": "Basic bWU6cEBzcw=="}
    assert "p@ss" not in f"{proxy} {proxy.url}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        # nginx, over gRPC: its own HTML page with status 504, 502, 503
        ("Received http2 header with status: 504", DeadlineExceeded),
        ("Received http2 header with status: 502", Unavailable),
        ("HTTP 504 <html> <head><title>504 Gateway Time-out</title></head>", DeadlineExceeded),
        ("HTTP 502 <html> <head><title>502 Bad Gateway</title></head>", Unavailable),
        ("upstream request timeout", DeadlineExceeded),
        ("no healthy upstream", Unavailable),
        (
            "upstream connect error. reset reason: overflow",
            Overloaded,
        ),
    ],
)
def test_what_a_proxy_says_of_its_own_accord(text: str, error: type[Exception]) -> None:
    found = refusal(Unavailable, text, HOST, Deadline.after(60), sender="nginx/1.22.1")
    assert type(found) is error
    assert found.message.startswith(f"a proxy in front of {HOST} (nginx/1.22.1) ")


def test_a_traceback_is_cut_down_to_its_exception() -> None:
    lines = "".join(f'  File "/app/{n}.py", line {n}, in f\n    g({n})\n' for n in range(500))
    text = f"HTTP 500 \nTraceback (most recent call last):\n{lines}KeyError: 'image'\n"
    found = refusal(InferenceFailed, text, HOST, Deadline.after(60))
    assert found.message == f"the server at {HOST} failed: HTTP 500 KeyError: 'image'"


# TLS through the tunnel of an HTTP proxy with a password, to a host that only the proxy knows.

PROTOCOLS = pytest.mark.parametrize(("protocol", "scheme"), [("grpc", "grpcs"), ("rest", "https")])
PROXIED = "line7.invalid"
BASIC = b"Basic bWU6cEBzcw=="


def _may_pass(client: socket.socket) -> bool:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    return head.startswith(f"CONNECT {PROXIED}:".encode()) and BASIC.lower() in head.lower()


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
    """The folder of an authority's certificate, and one of a server that has the name PROXIED."""
    folder, issuer = tmp_path_factory.mktemp("tls"), trustme.CA()
    issuer.cert_pem.write_to_path(folder / "ca.pem")
    issued = issuer.issue_cert(PROXIED)
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
    with Client(f"{scheme}://{PROXIED}:8500", tls=Tls(ca=authority / "ca.pem")) as client:
        assert client.predict(b"\xff\xd8\xff", timeout=20).label == "sorrel"


@PROTOCOLS
def test_a_proxy_that_wants_a_password_is_named(
    monkeypatch: pytest.MonkeyPatch, authority: Path, tunnel: Any, protocol: str, scheme: str
) -> None:
    proxy = tunnel("127.0.0.1:1")
    monkeypatch.setenv("https_proxy", proxy)
    tls, once = Tls(ca=authority / "ca.pem"), Retries(max_attempts=1)
    with (
        Client(f"{scheme}://{PROXIED}:8500", tls=tls, retries=once) as client,
        pytest.raises(Unavailable, match="407") as caught,
    ):
        client.predict(b"\xff\xd8\xff", timeout=20)

    assert caught.value.message.startswith(f"the proxy at {proxy} (https_proxy) cannot connect")

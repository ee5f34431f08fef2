"""What is at the other end of a connection that fails: told from its words, or from its bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme

from mlserve.client import Client, Retries, Tls, forks
from mlserve.errors import AccessDenied, MlserveError, NotFound, Unavailable, UsageError

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


def _refusal(endpoint: str, **options: Any) -> MlserveError:
    with (
        Client(endpoint, model="inception_v3", **options) as client,
        pytest.raises(MlserveError) as caught,
    ):
        client.predict(b"fine", timeout=20)
    assert caught.value.details["attempts"] == 1
    return caught.value


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, one of a client, one of a stranger, and the authority."""
    folder = tmp_path_factory.mktemp("pki")
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, signer in (("127.0.0.1", authority), ("me", authority), ("stranger", other)):
        issued = signer.issue_cert(name)
        issued.private_key_pem.write_to_path(str(folder / f"{name}_key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    return folder


def _server_flags(folder: Path) -> list[str]:
    return [
        f"--tls-cert={folder / '127.0.0.1.pem'}",
        f"--tls-key={folder / '127.0.0.1_key.pem'}",
    ]


@pytest.fixture(scope="module")
def secure(start_echo: Any, folder: Path) -> Any:
    return start_echo(*_server_flags(folder))


@pytest.fixture(scope="module")
def mutual(start_echo: Any, folder: Path) -> Any:
    return start_echo(*_server_flags(folder), f"--tls-client-ca={folder / 'ca.pem'}")


def test_rest_at_the_grpc_port(echo: Any) -> None:
    error = _refusal(f"http://{echo.grpc}")

    assert type(error) is UsageError
    assert error.message == (
        f"http://{echo.grpc} is a gRPC port: it speaks HTTP/2, and REST needs HTTP/1.1"
    )
    assert f"ask grpc://{echo.grpc}" in str(error.hint)


@contextmanager
def _proxy_without_a_server() -> Iterator[str]:
    """The address of a port that speaks HTTP/1 and HTTP/2, and closes on every real request."""
    answers = {b"PRI": bytes.fromhex("000000040000000000"), b"OPT": b"HTTP/1.1 405 no\r\n\r\n"}

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.sendall(answers.get(connection.recv(4096)[:3], b""))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=serve, daemon=True).start()
        host, port = listener.getsockname()
        yield f"{host}:{port}"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_proxy_that_speaks_both_and_has_no_server_may_be_asked_again() -> None:
    with _proxy_without_a_server() as address:
        client = Client(f"http://{address}", model="m", retries=Retries(max_attempts=2))
        with client, pytest.raises(Unavailable) as caught:
            client.predict(b"fine", timeout=20)

    assert caught.value.details["attempts"] == 2


@pytest.mark.parametrize("is_forked", [False, True])
def test_grpc_at_the_rest_port(
    echo: Any, monkeypatch: pytest.MonkeyPatch, *, is_forked: bool
) -> None:
    monkeypatch.setattr(forks, "_has_inherited_grpc", is_forked)
    address = echo.rest
    error = _refusal(address)

    assert type(error) is UsageError
    assert error.message == (f"{address} is a REST port: it speaks HTTP/1.1, and gRPC needs HTTP/2")
    assert f"ask http://{address}" in str(error.hint)


def test_the_other_port_of_a_server_that_speaks_tls(secure: Any, folder: Path) -> None:
    tls = Tls(ca=folder / "ca.pem")
    rest = secure.rest

    at_rest = _refusal(f"grpcs://{rest}", tls=tls)
    at_grpc = _refusal(f"https://{secure.grpc}", tls=tls)

    assert "is a REST port" in at_rest.message
    assert f"ask https://{rest}" in str(at_rest.hint)
    assert "is a gRPC port" in at_grpc.message
    assert f"ask grpcs://{secure.grpc}" in str(at_grpc.hint)


@PROTOCOLS
@pytest.mark.parametrize("is_forked", [False, True])
def test_a_server_that_asks_for_a_certificate(
    mutual: Any, folder: Path, protocol: str, monkeypatch: pytest.MonkeyPatch, *, is_forked: bool
) -> None:
    monkeypatch.setattr(forks, "_has_inherited_grpc", is_forked)
    endpoint = f"grpcs://{mutual.grpc}" if protocol == "grpc" else mutual.endpoint("rest")
    error = _refusal(endpoint, tls=Tls(ca=folder / "ca.pem"))

    assert type(error) is AccessDenied
    assert "requires a client certificate, and none was given" in error.message
    assert "tls=Tls(cert=..., key=...)" in str(error.hint)


@PROTOCOLS
def test_a_server_that_does_not_accept_the_certificate(
    mutual: Any, folder: Path, protocol: str
) -> None:
    endpoint = f"grpcs://{mutual.grpc}" if protocol == "grpc" else mutual.endpoint("rest")
    tls = Tls(folder / "ca.pem", folder / "stranger.pem", folder / "stranger_key.pem")
    error = _refusal(endpoint, tls=tls)

    assert type(error) is AccessDenied
    assert "does not accept the certificate of this client" in error.message


def test_the_flag_is_named_on_the_command_line(
    mutual: Any, folder: Path, photo: Path, cli: Any
) -> None:
    command = ("predict", photo, "--tls-ca", folder / "ca.pem", "--timeout", "20")
    done = cli(*command, "--endpoint", mutual.endpoint("rest"), "--model", "inception_v3")

    assert done.returncode == 2
    assert "hint: give one that it trusts with --tls-cert FILE and --tls-key FILE" in done.stderr


@pytest.mark.parametrize("is_forked", [False, True])
@pytest.mark.parametrize("scheme", ["grpc", "grpcs", "http", "https"])
def test_a_host_that_does_not_exist(
    scheme: str, monkeypatch: pytest.MonkeyPatch, *, is_forked: bool
) -> None:
    monkeypatch.setattr(forks, "_has_inherited_grpc", is_forked)
    with pytest.raises(socket.gaierror) as unknown:
        socket.getaddrinfo("no-such-host.invalid", 8500)
    if unknown.value.errno == socket.EAI_AGAIN:
        pytest.skip("no name service answers here")
    error = _refusal(f"{scheme}://no-such-host.invalid:8500")

    assert type(error) is NotFound
    assert error.message.startswith("the host no-such-host.invalid cannot be found")
    assert error.hint

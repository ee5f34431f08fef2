"""Tokens and TLS from the client's side of real servers: what is wrong is named with its option."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from mlserve.client import Client, Tls
from mlserve.errors import AccessDenied, MlserveError, Unavailable, UsageError

pytestmark = pytest.mark.server

TOKEN = "s3cret"
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@dataclass(frozen=True)
class Files:
    """What a server and its clients have on disk. `elsewhere` is a certificate of another host."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    @property
    def token(self) -> Path:
        return self.folder / "token"

    def tls(self, **changes: Any) -> Tls:
        return Tls(**({"ca": self.ca} | changes))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of one authority, and the token's."""
    folder = tmp_path_factory.mktemp("pki")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, host in (("server", "127.0.0.1"), ("elsewhere", "line7.example"), ("me", "client")):
        issued = authority.issue_cert(host)
        issued.private_key_pem.write_to_path(str(folder / f"{name}_key.pem"))
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        (folder / f"{name}.pem").write_bytes(chain)
    old = authority.issue_cert(
        "127.0.0.1",
        not_before=datetime(2020, 1, 1, tzinfo=UTC),
        not_after=datetime(2021, 1, 1, tzinfo=UTC),
    )
    old.private_key_and_cert_chain_pem.write_to_path(str(folder / "old.pem"))
    (folder / "token").write_text(f"{TOKEN}\n")
    return Files(folder)


@pytest.fixture(scope="module")
def secure(start_echo: Any, files: Files) -> Any:
    """A server with a token, behind TLS."""
    tls = (f"--tls-cert={files.server}", f"--tls-key={files.server_key}")
    return start_echo(f"--token-file={files.token}", *tls)


@pytest.fixture(scope="module")
def mutual(start_echo: Any, files: Files) -> Any:
    """A server that asks its clients for a certificate, and shows one for another host."""
    tls = (f"--tls-cert={files.elsewhere}", f"--tls-key={files.elsewhere_key}")
    return start_echo(*tls, f"--tls-client-ca={files.ca}")


@pytest.fixture(scope="module")
def outdated(start_echo: Any, files: Files) -> Any:
    """A server whose certificate has expired."""
    return start_echo(f"--tls-cert={files.old}", f"--tls-key={files.old}")


@pytest.fixture(scope="module")
def misnamed(start_echo: Any, files: Files) -> Any:
    """A server with a certificate for another host."""
    return start_echo(f"--tls-cert={files.elsewhere}", f"--tls-key={files.elsewhere_key}")


def _endpoint(server: Any, protocol: str) -> str:
    return f"grpcs://{server.grpc}" if protocol == "grpc" else server.endpoint("rest")


def _refusal(endpoint: str, **options: Any) -> MlserveError:
    with Client(endpoint, **options) as client, pytest.raises(MlserveError) as caught:
        client.predict(b"fine", timeout=20)
    return caught.value


@PROTOCOLS
def test_the_right_token_over_tls(secure: Any, files: Files, protocol: str) -> None:
    endpoint = _endpoint(secure, protocol)
    with Client(endpoint, token=TOKEN, tls=files.tls()) as client:
        found = client.predict(b"fine", timeout=20)

        assert (found.label, found.endpoint) == ("sorrel", endpoint)
        assert client.status(timeout=20)[0].is_available
        assert client.metadata(timeout=20).signatures


@PROTOCOLS
@pytest.mark.parametrize("token", [None, "wrong"])
def test_another_token(secure: Any, files: Files, protocol: str, token: str | None) -> None:
    error = _refusal(_endpoint(secure, protocol), token=token, tls=files.tls())

    assert isinstance(error, AccessDenied)
    assert "denied access" in error.message
    assert "token=..." in str(error.hint)
    assert error.details["attempts"] == 1


@PROTOCOLS
def test_an_authority_that_is_not_known(secure: Any, protocol: str) -> None:
    error = _refusal(_endpoint(secure, protocol), token=TOKEN)

    assert type(error) is UsageError
    assert "is not trusted" in error.message
    assert "tls=Tls(ca=FILE)" in str(error.hint)
    assert error.details["attempts"] == 1


@PROTOCOLS
def test_the_certificate_itself_can_be_trusted(secure: Any, files: Files, protocol: str) -> None:
    endpoint = _endpoint(secure, protocol)
    with Client(endpoint, token=TOKEN, tls=files.tls(ca=files.server)) as client:
        assert client.predict(b"fine", timeout=20).label == "sorrel"


@PROTOCOLS
def test_plain_words_to_a_tls_port(secure: Any, protocol: str) -> None:
    endpoint = secure.grpc if protocol == "grpc" else f"http://{secure.rest}"
    error = _refusal(endpoint, token=TOKEN)

    assert isinstance(error, Unavailable)
    assert _endpoint(secure, protocol) in str(error.hint)


@PROTOCOLS
def test_tls_to_a_plain_port(echo: Any, files: Files, protocol: str) -> None:
    endpoint = echo.endpoint(protocol).replace("http://", "")
    error = _refusal(endpoint, protocol=protocol, tls=files.tls())

    assert type(error) is UsageError
    assert "does not speak TLS" in error.message


@PROTOCOLS
def test_both_sides_show_a_certificate(mutual: Any, files: Files, protocol: str) -> None:
    tls = files.tls(cert=files.me, key=files.me_key, server_name="line7.example")
    with Client(_endpoint(mutual, protocol), tls=tls) as client:
        assert client.predict(b"fine", timeout=20).label == "sorrel"


@PROTOCOLS
def test_a_certificate_for_another_host(mutual: Any, files: Files, protocol: str) -> None:
    tls = files.tls(cert=files.me, key=files.me_key)
    error = _refusal(_endpoint(mutual, protocol), tls=tls)

    assert type(error) is UsageError
    assert "is for another host" in error.message


@PROTOCOLS
@pytest.mark.parametrize("command", ["predict", "status", "metadata", "compare"])
@pytest.mark.parametrize(
    ("which", "told", "hint"),
    [
        ("outdated", "is out of date", "renew the server's certificate"),
        ("misnamed", "is for another host", "ask the server by a name that is in its certificate"),
    ],
)
def test_a_command_says_what_is_wrong_with_the_certificate(
    request: pytest.FixtureRequest,
    cli: Any,
    files: Files,
    photo: Path,
    protocol: str,
    command: str,
    which: str,
    told: str,
    hint: str,
) -> None:
    endpoint = _endpoint(request.getfixturevalue(which), protocol)
    # `compare` has no option for the authority: it trusts whom the system trusts.
    env = {"SSL_CERT_FILE": str(files.ca), "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(files.ca)}
    words = {"predict": [photo, "--endpoint", endpoint], "compare": [endpoint, endpoint, photo]}
    outcome = cli(command, *words.get(command, ["--endpoint", endpoint]), env=env)
    assert outcome.returncode == 2, outcome.stderr
    error, *_, last = outcome.stderr.splitlines()
    assert error.startswith("error: the certificate of the server at ")
    assert told in error
    assert last.startswith(f"hint: {hint}")
    assert "Traceback" not in outcome.stderr


@PROTOCOLS
def test_a_client_without_the_certificate_that_is_asked_for(
    mutual: Any, files: Files, protocol: str
) -> None:
    tls = files.tls(server_name="line7.example")
    error = _refusal(_endpoint(mutual, protocol), tls=tls)

    assert isinstance(error, AccessDenied | Unavailable)
    assert "tls=Tls(cert=..., key=...)" in str(error.hint)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("wrong", ["ca", "cert"])
def test_files_that_are_none(tmp_path: Path, files: Files, protocol: Any, wrong: str) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for path in (junk, tmp_path / "missing.pem"):
        changes = {"ca": path} if wrong == "ca" else {"cert": path, "key": files.me_key}
        error = _refusal("127.0.0.1:1", protocol=protocol, tls=files.tls(**changes))

        assert type(error) is UsageError
        assert str(path) in error.message


@PROTOCOLS
def test_the_options_of_the_commands(
    cli: Any, secure: Any, files: Files, photo: Path, protocol: str
) -> None:
    target = ["--endpoint", _endpoint(secure, protocol), "--timeout", 20]
    options = [*target, "--token-file", files.token, "--tls-ca", files.ca]
    variables = {"MLSERVE_TOKEN": TOKEN, "MLSERVE_TLS_CA": str(files.ca)}
    assert cli("predict", photo, *options).stdout == "sorrel\n"
    assert cli("metadata", *options).returncode == 0
    assert cli("status", *target, env=variables).returncode == 0

    denied = cli("predict", photo, *target, "--tls-ca", files.ca)
    assert denied.returncode == 2
    assert "--token-file FILE" in denied.stderr


def test_a_token_in_the_clear_is_warned_of(cli: Any, files: Files, photo: Path) -> None:
    target = ["--endpoint", "no-such-host.invalid:8500", "--timeout", 2]
    outcome = cli("predict", photo, *target, "--token-file", files.token)

    first = outcome.stderr.splitlines()[0]
    assert first.startswith("warning: the token is sent to no-such-host.invalid:8500 unencrypted")
    assert "grpcs://no-such-host.invalid:8500" in first
    assert TOKEN not in outcome.stderr

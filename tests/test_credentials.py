"""The files that say who may ask, checked before a server starts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from mlserve.credentials import (
    check_files,
    names_in_certificate,
    other_readers,
    read_token,
    tokens_of,
)
from mlserve.errors import UsageError
from mlserve.launch.access import name_to_expect
from mlserve.settings import ServerSettings

LOCKED_KEY = (
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    "MC0wHAYJKoZIhvcNAQUNMA8wDQYJKoZIhvcNAQUMMAAEDXNlY3JldHNlY3JldA==\n"
    "-----END ENCRYPTED PRIVATE KEY-----\n"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    authority = trustme.CA()
    server, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    blobs = {
        "ca": authority.cert_pem,
        "cert": server.cert_chain_pems[0],
        "key": server.private_key_pem,
        "other": other.private_key_pem,
    }
    for name, blob in blobs.items():
        blob.write_to_path(folder / name)
    (folder / "text").write_text("no PEM at all")
    (folder / "locked").write_text(LOCKED_KEY)
    return {name: folder / name for name in (*blobs, "text", "locked", "absent")}


@pytest.mark.parametrize("content", [b"c0ffee", b"c0ffee\n", b"\n c0ffee\r\n"])
def test_a_token_is_read_without_white_space_around_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    assert read_token(tmp_path / "token") == b"c0ffee"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"two words", "visible ASCII"),
        (b"\xff\xfe", "visible ASCII"),
        (b"x" * 5000, "at most 4096"),
    ],
)
def test_no_token(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        check_files(ServerSettings(token_file=path))
    assert f"{path} (--token-file)" in refused.value.message
    assert why in refused.value.message
    assert "openssl rand" in str(refused.value.hint)


def test_a_client_sends_the_first_of_several(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# mine first\nops = c0ffee\nbatch = 5f0c2a\n")
    assert read_token(path) == b"c0ffee"


def test_a_server_takes_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("ops = c0ffee\nbatch = 5f0c2a\n")
    settings = ServerSettings(token_file=path, max_share="batch=0.3")
    check_files(settings)
    assert [token.name for token in tokens_of(settings)] == ["ops", "batch"]
    assert tokens_of(ServerSettings()) == ()


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("batch = c0ffee\nweb = 5f0c2a", "did you mean batch? its tokens are batch, web"),
        ("c0ffee", "name it: NAME = TOKEN"),
        ("batsh=c0ffee", "name it: NAME = TOKEN"),  # one word is one token
    ],
)
def test_a_share_of_a_token_that_is_not_there(tmp_path: Path, content: str, hint: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(UsageError) as refused:
        check_files(ServerSettings(token_file=path, max_share="batsh=0.3"))
    assert refused.value.message == (
        f"--max-share has a share for batsh, and {path} (--token-file) has no token of that name"
    )
    assert refused.value.hint == hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\(--token-file\) cannot be read: No such file"):
        check_files(ServerSettings(token_file=tmp_path / "token"))
    with pytest.raises(UsageError, match=r"\(--token-file\) cannot be read: Is a directory"):
        check_files(ServerSettings(token_file=tmp_path))


def test_who_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch()
    path.chmod(0o600)
    assert other_readers(path) is None
    path.chmod(0o640)
    assert other_readers(path) == "every user in its group"
    path.chmod(0o644)
    assert other_readers(path) == "every user of this machine"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"tls_cert": "cert"}, "--tls-cert needs --tls-key"),
        ({"tls_key": "key"}, "--tls-key needs --tls-cert"),
        ({"tls_client_ca": "ca"}, "--tls-client-ca needs --tls-cert"),
        ({"tls_cert": "cert", "tls_key": "other"}, "key values mismatch"),
        ({"tls_cert": "cert", "tls_key": "text"}, "are not a certificate and its key"),
        ({"tls_cert": "text", "tls_key": "key"}, "are not a certificate and its key"),
        ({"tls_cert": "cert", "tls_key": "locked"}, "are not a certificate and its key"),
        ({"tls_cert": "cert", "tls_key": "absent"}, "(--tls-key) cannot be read"),
        ({"tls_cert": "absent", "tls_key": "key"}, "(--tls-cert) cannot be read"),
        (
            {"tls_cert": "cert", "tls_key": "key", "tls_client_ca": "absent"},
            "(--tls-client-ca) cannot be read",
        ),
        (
            {"tls_cert": "cert", "tls_key": "key", "tls_client_ca": "text"},
            "(--tls-client-ca) holds no certificate",
        ),
    ],
)
def test_files_of_tls_that_do_not_fit(
    files: dict[str, Path], given: dict[str, str], why: str
) -> None:
    paths: dict[str, Any] = {name: files[file] for name, file in given.items()}
    with pytest.raises(UsageError) as refused:
        check_files(ServerSettings(**paths))
    assert why in refused.value.message


def test_files_of_tls_that_fit(files: dict[str, Path]) -> None:
    check_files(
        ServerSettings(tls_cert=files["cert"], tls_key=files["key"], tls_client_ca=files["ca"])
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_not_exposed(host: str) -> None:
    assert list(ServerSettings().exposure(host)) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "box.example"])
def test_any_other_address_is(host: str, files: dict[str, Path]) -> None:
    (risk,) = ServerSettings().exposure(host)
    assert "--token-file" in risk
    token = Path("token")
    (risk,) = ServerSettings(token_file=token).exposure(host)
    assert "unencrypted" in risk
    tls: dict[str, Any] = {"tls_cert": files["cert"], "tls_key": files["key"]}
    assert "--token-file" in next(ServerSettings(**tls).exposure(host))
    assert list(ServerSettings(**tls, token_file=token).exposure(host)) == []
    assert list(ServerSettings(**tls, tls_client_ca=files["ca"]).exposure(host)) == []


def certificate(tmp_path: Path, *names: str, **how: Any) -> ServerSettings:
    """Settings with a certificate for these names, without that of its authority."""
    issued = trustme.CA().issue_cert(*names, **how)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    return ServerSettings(tls_cert=cert, tls_key=key)


def test_the_names_in_a_certificate_are_read(tmp_path: Path) -> None:
    settings = certificate(tmp_path, "*.line7.example", "127.0.0.1")

    assert names_in_certificate(settings) == ["*.line7.example", "127.0.0.1"]
    assert name_to_expect(settings, "127.0.0.1") is None
    assert name_to_expect(settings, "::1") == "mlserve.line7.example"


def test_a_certificate_that_has_expired_names_nobody(tmp_path: Path) -> None:
    """Whoever asks that server is told that it has expired."""
    settings = certificate(tmp_path, "line7.example", not_after=datetime(2020, 1, 1, tzinfo=UTC))

    assert names_in_certificate(settings) == []
    assert name_to_expect(settings, "127.0.0.1") is None

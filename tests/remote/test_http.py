"""Files over HTTP: fetched whole or not at all, whatever the server does."""

from __future__ import annotations

import gzip
import socket
import ssl
from hashlib import sha256
from pathlib import Path

import pytest
import trustme

from mlserve import paths
from mlserve.errors import AccessDenied, ExportError, MlserveError, NotFound
from mlserve.remote import http, upstream
from tests.harness.file_server import FileServer, serving_files
from tests.harness.ports import free_ports
from tests.remote.conftest import Get

DATA = bytes(range(256)) * 40
HEX = sha256(DATA).hexdigest()
ETAG = '"one"'


def kept() -> list[Path]:
    """Return the files of all copies in the cache."""
    return [path for path in paths.cache_dir().glob("remote/*/*/content/*") if path.is_file()]


def test_a_file_keeps_its_name_and_says_where_it_is_from(site: FileServer, get: Get) -> None:
    url = site.put("/models/m.onnx", DATA, etag=ETAG)
    found = get(url)
    assert found.copy.path.name == "m.onnx"
    assert found.copy.path.read_bytes() == DATA
    assert found.to_json() == {
        "url": url,
        "resolved": url,
        "revision": f"ETag {ETAG}",
        "sha256": HEX,
        "fetched": found.copy.fetched,
        "unchecked": "",
    }


def test_a_download_that_breaks_off_goes_on_where_it_was(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", DATA, etag=ETAG, breaks=[1000, 2000])
    assert get(url).copy.digest == HEX
    ranges = [headers.get("range") for _, headers in site.requests]
    assert ranges == [None, "bytes=1000-", "bytes=3000-"]
    assert site.last["if-range"] == ETAG


def test_one_that_cannot_go_on_starts_again(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", DATA, etag=ETAG, breaks=[1000], takes_ranges=False)
    assert get(url).copy.path.read_bytes() == DATA
    url = site.put("/weak.onnx", DATA, etag='W/"weak"', breaks=[1000])
    assert get(url).copy.path.read_bytes() == DATA
    assert "range" not in site.last


def test_one_that_stays_broken_is_gone_on_with_by_the_next_export(
    site: FileServer, get: Get
) -> None:
    url = site.put("/m.onnx", DATA, etag=ETAG, breaks=[1000, 0, 0, 0, 0])
    with pytest.raises(ExportError, match=r"cannot be fetched: .* after 1000 bytes"):
        get(url)
    assert [path.name for path in kept()] == ["m.onnx.part"]
    site.files["/m.onnx"].breaks.clear()
    assert get(url).copy.path.read_bytes() == DATA
    assert site.last["range"] == "bytes=1000-"


def test_one_that_changes_on_the_way_is_the_new_one_as_a_whole(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", DATA, etag=ETAG, breaks=[1000, 0, 0, 0, 0])
    with pytest.raises(ExportError):
        get(url)
    site.put("/m.onnx", b"new" * 900, etag='"two"')
    assert get(url).copy.path.read_bytes() == b"new" * 900


def test_a_rest_under_another_name_is_not_taken_for_the_file(site: FileServer, get: Get) -> None:
    named = {"Content-Disposition": 'attachment; filename="one.onnx"'}
    url = site.put("/get?id=1", DATA, etag=ETAG, headers=named, breaks=[1000, 0, 0, 0, 0])
    with pytest.raises(ExportError):
        get(url)
    named["Content-Disposition"] = 'attachment; filename="two.onnx"'
    site.put("/get?id=1", DATA, etag=ETAG, headers=named)
    assert get(url).copy.digest == HEX


def test_a_file_without_an_end_is_refused(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", DATA, has_length=False)
    with pytest.raises(ExportError, match="does not say how long the file is"):
        get(url)
    assert not kept()


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, NotFound, "HTTP 404 Not Found"),
        (403, AccessDenied, "HTTP 403 Forbidden"),
        (401, AccessDenied, "HTTP 401 Unauthorized"),
        (400, ExportError, "HTTP 400 Bad Request"),
        (503, upstream.Unreachable, "HTTP 503 Service Unavailable"),
        (304, ExportError, "HTTP 304 Not Modified"),  # of what was never fetched
    ],
)
def test_a_refusal_is_told_without_the_secrets_of_the_address(
    site: FileServer, get: Get, status: int, kind: type[MlserveError], said: str
) -> None:
    site.put("/m.onnx?sig=secret", status=status)
    url = site.url.replace("//", "//me:secret@") + "/m.onnx?sig=secret"
    with pytest.raises(kind) as raised:
        get(url)
    assert raised.value.message == f"{site.url}/m.onnx?sig=... cannot be fetched: {said}"
    assert "secret" not in f"{raised.value.message}{raised.value.hint}"
    assert site.last["authorization"].startswith("Basic ")


def test_no_secret_is_kept(site: FileServer, get: Get) -> None:
    site.put("/m.onnx?sig=secret", DATA)
    get(site.url.replace("//", "//me:secret@") + "/m.onnx?sig=secret")
    texts = [path.read_bytes() for path in paths.cache_dir().rglob("*") if path.is_file()]
    assert texts
    assert not any(b"secret" in text for text in texts)


def test_nobody_there(get: Get) -> None:
    (port,) = free_ports(1)
    with pytest.raises(upstream.Unreachable, match=r"cannot be fetched: .*refused"):
        get(f"http://127.0.0.1:{port}/m.onnx")


def test_a_server_that_is_silent(
    site: FileServer, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SILENT_SECONDS", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(upstream.Unreachable, match=r"was silent for 0.1 s after 0 bytes"),
    ):
        get(f"http://127.0.0.1:{mute.getsockname()[1]}/m.onnx")


def test_a_redirect_is_followed_and_noted(site: FileServer, get: Get, arrived: list[str]) -> None:
    target = site.put("/cdn/v2.onnx", DATA, etag=ETAG)
    url = site.put("/latest", status=302, headers={"Location": "/cdn/v2.onnx"})
    found = get(url)
    assert (found.copy.resolved, found.copy.path.name) == (target, "v2.onnx")
    get(url)
    assert len(arrived) == 1


def test_a_redirect_leads_to_no_file_of_this_machine(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", status=302, headers={"Location": "file:///etc/passwd"})
    with pytest.raises(ExportError, match=r"redirects to file://.*/etc/passwd, and only http"):
        get(url)


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_host_that_cannot_be_one(site: FileServer, get: Get, host: str) -> None:
    with pytest.raises(ExportError, match=f"'{host}' is not a valid name of a host"):
        get(f"http://{host}/m.onnx")
    url = site.put("/m.onnx", status=302, headers={"Location": f"http://{host}/m.onnx"})
    with pytest.raises(ExportError, match=f"'{host}' is not a valid name of a host"):
        get(url)


def test_a_body_that_is_not_compressed_as_it_says(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", DATA, etag=ETAG, headers={"Content-Encoding": "gzip"})
    with pytest.raises(upstream.Unreachable, match="cannot be fetched: Error -3"):
        get(url)
    assert not kept()[1:]


def test_a_compressed_body_that_breaks_off_starts_again(site: FileServer, get: Get) -> None:
    packed = gzip.compress(DATA * 9)
    headers = {"Content-Encoding": "gzip"}
    url = site.put("/m.onnx", packed, etag=ETAG, headers=headers, breaks=[len(packed) // 2])
    assert get(url).copy.path.read_bytes() == DATA * 9
    assert "range" not in site.last


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_a_mark_that_cannot_be_sent_back_is_none(
    site: FileServer, get: Get, name: str, arrived: list[str]
) -> None:
    url = site.put("/m.onnx", DATA, headers={name: '"caf\u00e9"'})
    get(url)
    get(url)
    assert len(arrived) == 2


def test_redirects_without_end(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", status=302, headers={"Location": "/m.onnx"})
    with pytest.raises(ExportError, match="more than 10 redirects"):
        get(url)


def test_no_redirect_leads_out_of_tls(
    site: FileServer, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    plain = site.put("/m.onnx", DATA)
    with serving_files(context) as safe:
        assert get(safe.put("/whole.onnx", DATA)).copy.digest == HEX
        url = safe.put("/m.onnx", status=302, headers={"Location": plain})
        with pytest.raises(ExportError) as raised:
            get(url)
    assert raised.value.message == f"{url} redirects to {plain}, which is not encrypted"
    assert not site.requests


def test_a_certificate_that_is_not_trusted(get: Get) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with (
        serving_files(context) as safe,
        pytest.raises(upstream.Unreachable, match="certificate verify failed"),
    ):
        get(safe.put("/m.onnx", DATA))


@pytest.mark.parametrize("given", ["../../m.onnx", "/etc/m.onnx", "..\\m.onnx"])
def test_a_name_from_the_server_cannot_leave_the_folder(
    site: FileServer, get: Get, given: str, tmp_path: Path
) -> None:
    disposition = {"Content-Disposition": f'attachment; filename="{given}"'}
    url = site.put("/download?id=3", DATA, headers=disposition)
    with pytest.raises(ExportError, match="which would lie outside its folder"):
        get(url)
    assert not list(tmp_path.rglob("*m.onnx*"))


def test_a_name_with_control_characters_is_refused(site: FileServer, get: Get) -> None:
    with pytest.raises(ExportError, match=r"which has characters that cannot be printed"):
        get(site.put("/a%0a%1b%5b31mb.onnx", DATA))


def test_the_server_s_name_says_what_kind_of_file_it_is(site: FileServer, get: Get) -> None:
    disposition = {"Content-Disposition": 'attachment; filename="m.onnx"'}
    assert get(site.put("/get?id=1", DATA, headers=disposition)).copy.path.name == "m.onnx"
    assert get(site.put("/a/..%2f..%2fm.onnx", DATA)).copy.path.name == "m.onnx"


def test_credentials_come_from_netrc_and_go_to_no_other_host(
    site: FileServer, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password pw\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    site.put("/m.onnx", DATA)
    away = site.url.replace("127.0.0.1", "localhost") + "/m.onnx"
    get(site.put("/from", status=302, headers={"Location": away}))
    (_, first), (_, second) = site.requests
    assert "authorization" in first
    assert "authorization" not in second

"""The pages for people over HTTP: what goes with them, and what they leave as it was."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.server.message import Headers
from mlserve.server.page import documents
from mlserve.server.page.paths import PeoplePages
from tests.harness.echo import EchoModel
from tests.harness.server import EchoServer

PAGES = ("/", "/docs")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_run_what_is_in_it_and_load_nothing(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    allowed = {
        name: set(values.split())
        for name, _, values in (
            part.strip().partition(" ")
            for part in answer.headers["content-security-policy"].split(";")
        )
    }
    none = {"'none'"}
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert allowed[name] == none
    assert allowed["connect-src"] == {"'self'"}
    for tag in ("style", "script"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert inside
        digests = {f"'sha256-{b64encode(sha256(t.encode()).digest()).decode()}'" for t in inside}
        assert allowed[f"{tag}-src"] == digests
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    assert not any(name.startswith("access-control") for name in answer.headers)
    # Nothing from elsewhere, no inline handlers or styles, and no part that was not put in.
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', answer.text)
    assert not re.findall(r"<[^>]+\s(?:on\w+|style)=", answer.text.split("<script>")[0])
    assert not re.findall(r"<link rel=.stylesheet|<script src", answer.text)


@pytest.mark.parametrize("path", PAGES)
def test_heads_and_methods(http: httpx.Client, path: str) -> None:
    got, head = http.get(path), http.head(path)
    assert head.status_code == 200
    assert head.content == b""
    assert int(head.headers["content-length"]) == len(got.content)
    assert head.headers["content-security-policy"] == got.headers["content-security-policy"]
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        refused = http.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert http.get(path, params={"model": "m"}).content == got.content


@pytest.mark.parametrize("path", ["/docs/", "/page", "/page.html", "/style.css", "/index.html"])
def test_no_other_path_is_a_page(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("Malformed request: GET /")


def test_it_can_be_left_out(start: Any, model: EchoModel) -> None:
    model.put(1)
    server: EchoServer = start("--page=false")
    for path in PAGES:
        answer = httpx.get(f"http://{server.rest}{path}")
        assert answer.status_code == 404, path
    document = httpx.get(f"http://{server.rest}/openapi.json").json()
    assert not set(PAGES) & document["paths"].keys()
    assert "/metrics" in document["paths"]


def test_the_token_is_for_what_it_asks(launch: Any, model: EchoModel, tmp_path: Path) -> None:
    model.put(1)
    token = tmp_path / "token"
    token.write_text("a-token-of-this-test")
    token.chmod(0o600)
    server = launch(f"--token-file={token}")
    server.wait_listening()
    for path in PAGES:
        assert httpx.get(f"http://{server.rest}{path}").status_code == 200
    for path in ("/v2", "/metrics", "/openapi.json", "/v1/models/m"):
        refused = httpx.get(f"http://{server.rest}{path}")
        assert refused.status_code == 401, path
        assert "Authorization: Bearer" in refused.headers["x-mlserve-hint"]


def test_a_mounted_server_sends_to_the_slash() -> None:
    pages = PeoplePages()
    operation = pages.match("")
    assert operation is not None
    asked: Any = type("Asked", (), {"method": "GET", "path": "/a/ml", "headers": Headers()})()
    coroutine: Any = operation.respond(asked)
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert ended.value.value.status == 308
    assert ended.value.value.headers["location"] == "./ml/"


def test_nothing_is_read_until_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    documents.document.cache_clear()
    monkeypatch.setattr(Path, "read_text", None)
    assert PeoplePages().match("/") is not None
    assert PeoplePages().match("/v2") is None
    assert documents.document.cache_info().currsize == 0


def test_a_hint_goes_with_an_error(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/models/m:predict", content=b"odd", headers={"content-type": "image/png"}
    )
    assert answer.status_code == 415
    assert answer.json() == {"error": "this image is odd"}
    assert answer.headers["x-mlserve-hint"] == "send another one"
    other = http.post("/v1/models/m:predict", content=b"bad", headers={"content-type": "image/png"})
    assert "x-mlserve-hint" not in other.headers

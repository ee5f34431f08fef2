"""The parts of the client that do no I/O: addresses, traces, TLS failures, the token."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from mlserve.client import AsyncClient, Client, Retries, Tls
from mlserve.client.call import CallIds, Trace
from mlserve.client.endpoint import Connection, ConnectionOptions, Endpoint
from mlserve.client.refusals import refusal
from mlserve.client.tls import handshake_failure
from mlserve.deadline import Deadline
from mlserve.errors import AccessDenied, DeadlineExceeded, UsageError

PARENT = f"00-{'1' * 32}-{'2' * 16}-00"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "http://host:8501/v1/models/m:predict",
            "it names the path of a model",
            'give http://host:8501 and model="m"',
        ),
        (
            "http://host/prefix/v2/models/m/versions/2/infer",
            "it names the path of a model",
            'give http://host/prefix and model="m"',
        ),
        ("http:/host:8501", "two slashes must follow http:", "give host:port for gRPC or"),
    ],
)
def test_an_address_with_too_much_or_too_little_is_told_the_way_on(
    text: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Client(text)
    assert caught.value.message == f"{text!r} is not an endpoint: {message}"
    assert (caught.value.hint or "").startswith(hint)


def test_a_host_may_be_called_like_a_protocol() -> None:
    assert str(Client("grpc:8500").endpoint) == "grpc:8500"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_help_shows_every_option_of_a_connection(kind: type) -> None:
    shown = inspect.signature(kind).parameters
    options = get_type_hints(ConnectionOptions)

    assert list(shown) == ["endpoint", "protocol", *options]
    assert {field.name for field in fields(Connection)} == {"endpoint", *options}
    assert all(shown[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(shown)[1:])
    assert shown["retries"].default == Retries()


def test_an_option_that_no_client_has() -> None:
    with pytest.raises(TypeError, match="modle"):
        Client("127.0.0.1:1", modle="m")  # type: ignore[call-arg]


def test_a_trace_is_followed_into_new_spans() -> None:
    ids = CallIds(Trace.following(PARENT))
    first, second = ids.headers(), ids.headers()

    assert re.fullmatch(f"00-{'1' * 32}-[0-9a-f]{{16}}-00", first["traceparent"])
    assert first["traceparent"] != second["traceparent"]
    assert first["x-request-id"] == second["x-request-id"] == ids.request_id


def test_the_trace_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT)
    assert Trace.following(None).id == "1" * 32
    monkeypatch.setenv("TRACEPARENT", "garbage")
    assert re.fullmatch("[0-9a-f]{32}", Trace.following(None).id)


@pytest.mark.parametrize(
    "text", ["", "x", PARENT[:-1], f"00-{'0' * 32}-{'2' * 16}-00", PARENT.replace("00-", "ff-", 1)]
)
def test_what_is_no_traceparent(text: str) -> None:
    with pytest.raises(UsageError, match="is not a traceparent"):
        Client("127.0.0.1:1", traceparent=text)


@pytest.mark.parametrize(
    ("text", "protocol", "shown"),
    [
        ("host:1", None, "grpcs://host:1"),
        ("host:1", "rest", "https://host:1"),
        ("grpcs://host:1", None, "grpcs://host:1"),
        ("https://host", None, "https://host:443"),
    ],
)
def test_tls_files_make_an_endpoint_speak_tls(text: str, protocol: Any, shown: str) -> None:
    endpoint = Client(text, protocol=protocol, tls=Tls()).endpoint

    assert (str(endpoint), endpoint.is_secure) == (shown, True)


def test_tls_files_for_an_endpoint_that_does_not_speak_it() -> None:
    with pytest.raises(UsageError, match="with TLS files it must be https://"):
        Client("http://host:1", tls=Tls())


def test_a_certificate_without_its_key(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match="needs its key"):
        Tls(cert=tmp_path / "cert.pem")


@pytest.mark.parametrize("token", ["", "two words", "naïve", "line\n"])
def test_a_token_that_no_header_can_carry(token: str) -> None:
    with pytest.raises(UsageError, match="the token is empty or has characters"):
        Client("127.0.0.1:1", token=token)


def test_a_token_in_the_clear_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"the token is sent to 10\.0\.0\.1:1 unencrypted"):
        Client("10.0.0.1:1", token="secret")
    Client("127.0.0.1:1", token="secret")
    Client("grpcs://10.0.0.1:1", token="secret")


def test_whose_limit_ended_a_call() -> None:
    """mlserve's own server got the client's deadline; any other limit is the server's."""
    endpoint, deadline = Endpoint.parse("host:1"), Deadline.after(5)
    ours = refusal(DeadlineExceeded, "no answer within 4.9 s: it needs 6", endpoint, deadline)
    theirs = refusal(DeadlineExceeded, "Timed out", endpoint, deadline)

    assert ours.message == (
        "no answer within 5 s: the server at host:1 got what was left of it, and says: "
        "no answer within 4.9 s: it needs 6"
    )
    assert "with timeout" in str(ours.hint)
    assert "a limit of the server, not timeout" in str(theirs.hint)


@pytest.mark.parametrize(
    ("why", "message", "hint"),
    [
        ("OPENSSL_internal:WRONG_VERSION_NUMBER", "does not speak TLS", "grpc://host:1"),
        ("Hostname Verification Check failed.", "is for another host", "by a name"),
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "out of date", "renew"),
        ("CERTIFICATE_VERIFY_FAILED: self signed", "is not trusted", "tls=Tls(ca=FILE)"),
    ],
)
def test_failed_handshakes(why: str, message: str, hint: str) -> None:
    error = handshake_failure(Endpoint.parse("grpcs://host:1"), why)

    assert isinstance(error, UsageError)
    assert message in error.message
    assert why in error.message
    assert hint in str(error.hint)


def test_a_server_that_asks_for_a_certificate() -> None:
    why = "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required"
    error = handshake_failure(Endpoint.parse("https://host:1"), why)

    assert isinstance(error, AccessDenied)
    assert "tls=Tls(cert=..., key=...)" in str(error.hint)
    assert handshake_failure(Endpoint.parse("http://host:1"), why) is None

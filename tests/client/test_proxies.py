"""Which proxy a call goes through, read from the environment; what proxies say of their own."""

from __future__ import annotations

import pytest

from mlserve.client import Client
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

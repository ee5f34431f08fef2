"""Headers and answers as both ports of REST see them."""

from __future__ import annotations

import pickle

import pytest

from mlserve.server.message import Headers, Response, address_of


def test_headers() -> None:
    headers = Headers([(b"accept", b"a"), (b"x", b"1"), (b"accept", b"\xe4")])
    assert headers.get("accept") == "a"
    assert headers.all("accept") == ["a", "\u00e4"]
    assert (headers.find("y"), headers.get("y"), headers.get("y", "z")) == (None, "", "z")
    assert "x" in headers
    assert "y" not in headers
    assert headers.all("y") == []
    assert Headers.of({"Content-Type": "t"}).get("content-type") == "t"
    assert pickle.loads(pickle.dumps(headers)).all("accept") == ["a", "\u00e4"]


def test_an_answer_says_how_long_it_is_and_whether_it_is_the_last() -> None:
    assert Response(b"abc").headers == {"content-length": "3"}
    assert not Response().closes
    last = Response(b"{}", 413, {"connection": "close"}, "application/json")
    assert last.closes
    assert last.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.0.0.7", 4711), "10.0.0.7"),
        (["10.0.0.7", 4711], "10.0.0.7"),
        (("::1", 4711, 0, 0), "::1"),
        (("::ffff:10.0.0.7", 4711, 0, 0), "10.0.0.7"),
        ("", ""),  # a UNIX socket
        (None, ""),
        ((), ""),
        ((None, None), ""),
    ],
)
def test_the_address_of_a_peer(peer: object, address: str) -> None:
    assert address_of(peer) == address

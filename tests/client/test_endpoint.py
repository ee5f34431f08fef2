"""The address of a server on a UNIX socket; for others see `test_client`."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.client.endpoint import Endpoint
from mlserve.errors import UsageError


@pytest.mark.parametrize(
    ("text", "protocol", "shown"),
    [
        ("unix:/run/m.sock", None, "unix:/run/m.sock"),
        ("unix:///run/m.sock", "grpc", "unix:/run/m.sock"),
        ("unix:/run/m.sock", "rest", "http+unix:/run/m.sock"),
        ("http+unix:/run/m.sock", None, "http+unix:/run/m.sock"),
        ("http+unix:///run/m.sock", "rest", "http+unix:/run/m.sock"),
    ],
)
def test_a_unix_socket(text: str, protocol: Any, shown: str) -> None:
    endpoint = Endpoint.parse(text, protocol)
    assert (str(endpoint), endpoint.socket) == (shown, "/run/m.sock")
    assert endpoint.is_loopback
    assert not endpoint.is_secure


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        ("unix:", {}, "it has no path"),
        ("unix://run/m.sock", {}, "three slashes"),
        ("http+unix:/m", {"protocol": "grpc"}, "it does not fit the protocol grpc"),
        ("unix:/m", {"is_secure": True}, "no TLS"),
        ("unix:/" + 107 * "m", {}, "at most 107 bytes"),
    ],
)
def test_what_is_not_a_unix_socket(text: str, options: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Endpoint.parse(text, **options)

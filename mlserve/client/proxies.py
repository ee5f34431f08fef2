"""Which proxy a call goes through: the environment's variables, read alike for gRPC and REST.

An endpoint with TLS takes `https_proxy`, one without takes `http_proxy`, and either `all_proxy`
where its own is not set. Each is looked up in lower case first; one that is set and empty is no
proxy. `no_proxy` lists what is asked directly, with commas or spaces between: `*`, host names with
all that is below them (`.example.com` and `*.example.com` are the same), addresses, networks
(`10.0.0.0/8`), each with a port (`:8500`) or without. This machine is always asked directly.

httpx and gRPC read these variables too, each in its own way and neither of them all, so they are
told the outcome.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from mlserve.client.endpoint import Endpoint
from mlserve.errors import UsageError

_PORTS = {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^]]+)\]|(?P<host>[^:]*))(?::(?P<port>\d+))?")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, and the variable that names it. `credentials` are `user:password`."""

    scheme: str
    address: str
    variable: str
    credentials: str = ""

    @property
    def url(self) -> str:
        """The proxy's own address, without credentials."""
        return f"{self.scheme}://{self.address}"

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy wants to be told of who is asking."""
        if not self.credentials:
            return {}
        basic = base64.b64encode(self.credentials.encode()).decode("ascii")
        return {"Proxy-Authorization": f"Basic {basic}"}

    def __str__(self) -> str:
        return f"the proxy at {self.address} ({self.variable})"


def proxy_to(endpoint: Endpoint, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy that calls to the endpoint go through; None when they go straight there.

    Raises UsageError for a proxy that cannot be used.
    """
    if endpoint.is_loopback:
        return None
    own = "https_proxy" if endpoint.is_secure else "http_proxy"
    variable, text = next(
        filter(None, (_found(name, environ) for name in (own, "all_proxy"))), _UNSET
    )
    _, direct = _found("no_proxy", environ) or _UNSET
    if not text or any(_covers(entry, endpoint) for entry in re.split(r"[\s,]+", direct) if entry):
        return None
    return _parsed(text, variable, endpoint)


_UNSET = ("", "")


def _found(name: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    for variable in (name, name.upper()):
        if variable in environ:
            return variable, environ[variable].strip()
    return None


def _covers(entry: str, endpoint: Endpoint) -> bool:
    """Whether an entry of `no_proxy` is about the endpoint."""
    if entry == "*":
        return True
    host = endpoint.host.lower().rstrip(".")
    network = _in_network(host, entry)
    if network is not None:
        return network
    found = _HOST_AND_PORT.fullmatch(entry.lower())
    if found is None or (found["port"] and int(found["port"]) != endpoint.port):
        return False
    if found["ipv6"]:
        return bool(_in_network(host, found["ipv6"]))
    name = found["host"].removeprefix("*").strip(".")
    return _in_network(host, name) or host == name or (bool(name) and host.endswith(f".{name}"))


def _in_network(host: str, entry: str) -> bool | None:
    """Whether the host is an address in that network (or that address); None if it is neither."""
    from ipaddress import ip_address, ip_network

    try:
        network = ip_network(entry, strict=False)
    except ValueError:
        return None
    try:
        return ip_address(host) in network
    except ValueError:
        return False  # a name, which is not resolved for this


def _parsed(text: str, variable: str, endpoint: Endpoint) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _unusable(text, variable, "it is not a valid address") from error
    if not host:
        raise _unusable(text, variable, "it names no host")
    if parts.scheme not in _PORTS:
        raise _unusable(text, variable, "only HTTP proxies can be used")
    if parts.scheme == "https" and endpoint.protocol == "grpc":
        raise _unusable(text, variable, "gRPC reaches a proxy without TLS only")
    shown = f"[{host}]" if ":" in host else host
    credentials = (
        f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    )
    return Proxy(parts.scheme, f"{shown}:{port or _PORTS[parts.scheme]}", variable, credentials)


def _unusable(text: str, variable: str, why: str) -> UsageError:
    scheme, slashes, rest = text.rpartition("://")
    shown = scheme + slashes + rest.rpartition("@")[2]  # without its credentials
    return UsageError(
        f"the proxy {shown!r} of {variable} cannot be used: {why}",
        hint=f"set {variable} to http://HOST:PORT, or list the server in no_proxy",
    )

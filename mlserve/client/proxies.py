"""HTTP proxies: which one a call goes through, and errors that proxies send instead of a server.

The environment variables are interpreted alike for gRPC and REST.

An endpoint with TLS uses `https_proxy`, one without uses `http_proxy`, and either falls back to
`all_proxy`. Lower-case names take precedence; a variable that is set but empty means no proxy.
`no_proxy` lists what is asked directly, separated by commas or spaces: `*`, host names with all
their subdomains (`.example.com` and `*.example.com` are the same), addresses, networks
(`10.0.0.0/8`), each with a port (`:8500`) or without. This machine is always asked directly.

gRPC reads these variables too, differently and not completely, so it is given the result.

Proxies in front of a server are recognised by their messages: Envoy's (`upstream request timeout`),
those of nginx, HAProxy and cloud load balancers (`504 Gateway Time-out`), and gRPC's own for an
answer that is not gRPC.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from mlserve import errors
from mlserve.client.endpoint import Endpoint
from mlserve.deadline import Deadline, in_words
from mlserve.errors import UsageError

_PORTS = {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^]]+)\]|(?P<host>[^:]*))(?::(?P<port>\d+))?")
_UNSET = ("", "")
_GATEWAY_TIMEOUT = 504
_GAVE_UP = re.compile(
    r"upstream request timeout|http2 header with status: 504|gateway time-?out", re.IGNORECASE
)
_FULL = re.compile(r"reset reason: overflow|http2 header with status: 429", re.IGNORECASE)
_NOTHING_BEHIND = re.compile(
    r"upstream connect error|no healthy upstream|http2 header with status: 50[23]|bad gateway"
    r"|service temporarily unavailable|no server is available to handle|no available server",
    re.IGNORECASE,
)
_SEE_PROXY = (
    "check that {variable} names the right proxy, or list {host} in no_proxy to ask it directly"
)


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
        """Return the headers with the credentials, for a proxy that requires them."""
        if not self.credentials:
            return {}
        basic = base64.b64encode(self.credentials.encode()).decode("ascii")
        return {"Proxy-Authorization": f"Basic {basic}"}

    def __str__(self) -> str:
        return f"the proxy at {self.address} ({self.variable})"


def proxy_to(endpoint: Endpoint, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy for calls to the endpoint; None if they go directly.

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


def _found(name: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    for variable in (name, name.upper()):
        if variable in environ:
            return variable, environ[variable].strip()
    return None


def _covers(entry: str, endpoint: Endpoint) -> bool:
    """Return whether an entry of `no_proxy` applies to the endpoint."""
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
    """Return whether the host is in that network (or is that address); None if neither applies."""
    from ipaddress import ip_address, ip_network

    try:
        network = ip_network(entry, strict=False)
    except ValueError:
        return None
    try:
        return ip_address(host) in network
    except ValueError:
        return False  # a host name, which is not resolved here


def _parsed(text: str, variable: str, endpoint: Endpoint) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _unusable(text, variable, "it is not a valid address") from error
    if not host:
        raise _unusable(text, variable, "it has no host")
    if parts.scheme not in _PORTS:
        raise _unusable(text, variable, "only HTTP proxies can be used")
    if parts.scheme == "https" and endpoint.protocol == "grpc":
        raise _unusable(text, variable, "gRPC can use a proxy only without TLS")
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


def no_proxy_answers(why: str, proxy: Proxy, endpoint: Endpoint) -> errors.Unavailable:
    """Return the error for a configured proxy that cannot be reached."""
    return errors.Unavailable(
        f"{proxy}, on the way to {endpoint}, does not answer ({why})",
        hint=_SEE_PROXY.format(variable=proxy.variable, host=endpoint.host),
    )


def refused_by_proxy(why: str, proxy: Proxy, endpoint: Endpoint) -> errors.Unavailable:
    """Return the error for a configured proxy that refuses a tunnel to the server."""
    return errors.Unavailable(
        f"{proxy} cannot connect to {endpoint}: {why}",
        hint=_SEE_PROXY.format(variable=proxy.variable, host=endpoint.host),
    )


def of_this_proxy(
    status: int, text: str, proxy: Proxy, endpoint: Endpoint, deadline: Deadline
) -> errors.MlserveError:
    """Return the error for an answer that a configured proxy gives instead of the server."""
    if status == _GATEWAY_TIMEOUT:
        return gave_up(text, f"{proxy}, on the way to {endpoint},", endpoint, deadline)
    return refused_by_proxy(text, proxy, endpoint)


def of_a_proxy(
    text: str, name: str, endpoint: Endpoint, deadline: Deadline
) -> errors.MlserveError | None:
    """Return the error for a proxy's own message; None if it is not recognised.

    `name` is what the answer says of its sender, or empty.
    """
    proxy = f"a proxy in front of {endpoint}" + (f" ({name})" if name else "")
    if _GAVE_UP.search(text):
        return gave_up(text, proxy, endpoint, deadline)
    if _FULL.search(text):
        return errors.Overloaded(
            f"{proxy} has no room for the request: {text}",
            hint="try again later, with fewer requests at once, or raise the proxy's limit",
        )
    return no_way_through(text, proxy) if _NOTHING_BEHIND.search(text) else None


def gave_up(
    text: str, proxy: str, endpoint: Endpoint, deadline: Deadline
) -> errors.DeadlineExceeded:
    """Return the error for a proxy whose own timeout ended before the caller's."""
    left = deadline.remaining()
    if left <= 0:
        return deadline.exceeded(f"waiting for the answer of {endpoint}")
    return errors.DeadlineExceeded(
        f"{proxy} gave up {in_words(left)} before the deadline of "
        f"{in_words(deadline.timeout)}: {text}",
        hint="this is a limit of the proxy, not {timeout}: raise it there (Envoy: the route's "
        "timeout; nginx: grpc_read_timeout, proxy_read_timeout)",
    )


def no_way_through(text: str, proxy: str) -> errors.Unavailable:
    """Return the error for a proxy that cannot forward a request."""
    return errors.Unavailable(
        f"{proxy} gets no answer from the server behind it: {text}",
        hint="see whether that server runs and whether the proxy can reach it; the proxy's log "
        "says more",
    )

"""What a proxy in front of a server says of its own accord, over gRPC and over REST.

The words are those of Envoy (`upstream request timeout`), of nginx, HAProxy and the cloud's load
balancers (`504 Gateway Time-out`), and gRPC's for an answer that is not gRPC.
"""

from __future__ import annotations

import re

from mlserve import errors
from mlserve.client.endpoint import Endpoint
from mlserve.client.proxies import Proxy
from mlserve.deadline import Deadline, in_words

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


def of_a_proxy(
    text: str, name: str, endpoint: Endpoint, deadline: Deadline
) -> errors.MlserveError | None:
    """The error for a proxy's own words; None when they are not known as such.

    `name` is what the answer says of who sent it, or empty.
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
    """The error for a proxy that did not wait as long as the caller would have."""
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
    """The error for a proxy that cannot pass a request on."""
    return errors.Unavailable(
        f"{proxy} gets no answer from the server behind it: {text}",
        hint="see whether that server runs and whether the proxy can reach it; the proxy's log "
        "says more",
    )


_SEE_PROXY = (
    "see that {variable} names the right proxy, or list {host} in no_proxy to ask it directly"
)


def no_proxy_answers(why: str, proxy: Proxy, endpoint: Endpoint) -> errors.Unavailable:
    """The error for a proxy of the environment to which there is no connection."""
    return errors.Unavailable(
        f"{proxy}, on the way to {endpoint}, does not answer ({why})",
        hint=_SEE_PROXY.format(variable=proxy.variable, host=endpoint.host),
    )


def refused_by_proxy(why: str, proxy: Proxy, endpoint: Endpoint) -> errors.Unavailable:
    """The error for a proxy of the environment that opens no way to the server."""
    return errors.Unavailable(
        f"{proxy} opens no connection to {endpoint}: {why}",
        hint=_SEE_PROXY.format(variable=proxy.variable, host=endpoint.host),
    )


def of_this_proxy(
    status: int, text: str, proxy: Proxy, endpoint: Endpoint, deadline: Deadline
) -> errors.MlserveError:
    """The error for an answer that a proxy of the environment gives in the server's place."""
    if status == _GATEWAY_TIMEOUT:
        return gave_up(text, f"{proxy}, on the way to {endpoint},", endpoint, deadline)
    return refused_by_proxy(text, proxy, endpoint)
